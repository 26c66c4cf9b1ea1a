// Binary cross-entropy on logits, element by element; the formulae are in src/cpu/bce_with_logits.rs.
//
// One thread an element. Bytes: 12 forward, 16 backward; about 12 FLOPs.
#include "common.cuh"

extern "C" __global__ void bce_with_logits_forward(float* losses, const float* x, const float* t, const float* weight, u64 numel, u64 cols) {
    HL_EACH(i, numel) {
        float v = x[i], y = t[i], q = weight ? weight[i % cols] : 1.f, both = (q - 1.f) * y + 1.f;
        losses[i] = (1.f - y) * fmaxf(v, 0.f) + q * y * fmaxf(-v, 0.f) + both * log1pf(expf(-fabsf(v)));
    }
}
HL_KERNEL(bce_with_logits_forward)

extern "C" __global__ void bce_with_logits_backward(float* dx, const float* g, const float* x, const float* t, const float* weight,
                                        u64 numel, u64 cols) {
    HL_EACH(i, numel) {
        float v = x[i], y = t[i], q = weight ? weight[i % cols] : 1.f;
        float e = expf(-fabsf(v)), s = (v >= 0.f ? 1.f : e) / (1.f + e);
        dx[i] = g[i] * (s * ((q - 1.f) * y + 1.f) - q * y);
    }
}
HL_KERNEL(bce_with_logits_backward)
