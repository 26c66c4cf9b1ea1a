// The cell of an LSTM; the formulae are in src/cpu/lstm.rs. The products are gemm.cu's.
//
// One thread for each element of h, with its four gates. Bytes an element of h: 60 forward, 72 backward.
#include "common.cuh"

__device__ __forceinline__ float gate(float x) {
    float e = expf(-fabsf(x));
    return (x >= 0.f ? 1.f : e) / (1.f + e);
}

// z [b, 4h] holds W h.
extern "C" __global__ void lstm_cell(float* y, float* c, float* gates, const float* z, const float* gx, const float* bias,
                                     const float* c_before, u64 h, u64 n) {
    HL_EACH(i, n) {
        u64 at = i / h * 4 * h + i % h;
        float s[4];
        for (int k = 0; k < 4; k++) s[k] = gx[at + k * h] + (z[at + k * h] + (bias ? bias[k * h + i % h] : 0.f));
        float in = gate(s[0]), forget = gate(s[1]), fresh = tanhf(s[2]), out = gate(s[3]);
        float state = fmaf(in, fresh, forget * c_before[i]);
        c[i] = state, y[i] = out * tanhf(state);
        gates[at] = in, gates[at + h] = forget, gates[at + 2 * h] = fresh, gates[at + 3 * h] = out;
    }
}
HL_KERNEL(lstm_cell)

// dz of a step from dh = dy + carry and dc; dc becomes that of the step before. dy may be null.
extern "C" __global__ void lstm_cell_backward(float* dz, float* dc, const float* dy, const float* carry, const float* c,
                                              const float* c_before, const float* gates, u64 h, u64 n) {
    HL_EACH(i, n) {
        u64 at = i / h * 4 * h + i % h;
        float in = gates[at], forget = gates[at + h], fresh = gates[at + 2 * h], out = gates[at + 3 * h];
        float dh = carry[i] + (dy ? dy[i] : 0.f), t = tanhf(c[i]);
        float d = dc[i] + dh * out * (1.f - t * t);
        dz[at] = d * fresh * in * (1.f - in);
        dz[at + h] = d * c_before[i] * forget * (1.f - forget);
        dz[at + 2 * h] = d * in * (1.f - fresh * fresh);
        dz[at + 3 * h] = dh * t * out * (1.f - out);
        dc[i] = d * forget;
    }
}
HL_KERNEL(lstm_cell_backward)
