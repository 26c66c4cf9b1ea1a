// The cell of a GRU; the formulae are in src/cpu/gru.rs. The products are gemm.cu's.
//
// One thread for each element of h, with its three gates. Bytes an element of h: 52 forward, 60 backward.
#include "common.cuh"

__device__ __forceinline__ float open(float x) {
    float e = expf(-fabsf(x));
    return (x >= 0.f ? 1.f : e) / (1.f + e);
}

// a [b, 3h] holds W h; gates [b, 4h] become r, z, n, a_n.
extern "C" __global__ void gru_cell(float* y, float* gates, const float* a, const float* gx, const float* bias,
                                    const float* before, u64 h, u64 n) {
    HL_EACH(i, n) {
        u64 j = i % h, at = i / h * 3 * h + j, to = i / h * 4 * h + j;
        float s[3];
        for (int k = 0; k < 3; k++) s[k] = a[at + k * h] + (bias ? bias[k * h + j] : 0.f);
        float r = open(gx[at] + s[0]), z = open(gx[at + h] + s[1]), fresh = tanhf(fmaf(r, s[2], gx[at + 2 * h]));
        y[i] = fmaf(before[i] - fresh, z, fresh);
        gates[to] = r, gates[to + h] = z, gates[to + 2 * h] = fresh, gates[to + 3 * h] = s[2];
    }
}
HL_KERNEL(gru_cell)

// dgx and da [b, 3h] of a step from dh = dy + carry; carry becomes dh z, to which da W is added. dy may be null.
extern "C" __global__ void gru_cell_backward(float* dgx, float* da, float* carry, const float* dy, const float* gates,
                                             const float* before, u64 h, u64 n) {
    HL_EACH(i, n) {
        u64 j = i % h, at = i / h * 3 * h + j, from = i / h * 4 * h + j;
        float r = gates[from], z = gates[from + h], fresh = gates[from + 2 * h], a_n = gates[from + 3 * h];
        float dh = carry[i] + (dy ? dy[i] : 0.f);
        float dn = dh * (1.f - z) * (1.f - fresh * fresh);
        float dz = dh * (before[i] - fresh) * z * (1.f - z), dr = dn * a_n * r * (1.f - r);
        dgx[at] = da[at] = dr, dgx[at + h] = da[at + h] = dz, dgx[at + 2 * h] = dn, da[at + 2 * h] = dn * r;
        carry[i] = dh * z;
    }
}
HL_KERNEL(gru_cell_backward)
