// AdamW, one pass over parameter, gradient and moments; the formulae are in src/cpu/adamw.rs.
//
// One thread an element. Bytes an element: 28; about 15 FLOPs.
#include "common.cuh"

struct AdamW {
    float keep, rate, root, beta1, beta2, eps, grad_scale;
    u32 zero_grad;
};
__device__ __forceinline__ float flush(float x) { return fabsf(x) < 1.17549435e-38f ? 0.f : x; }

extern "C" __global__ void adamw_update(float* p, float* g, float* m, float* v, AdamW o, const AdamW* changing, u64 n) {
    if (changing) o = *changing; // recorded: the numbers of this step
    HL_EACH(i, n) {
        float d = g[i] * o.grad_scale;
        float a = flush(fmaf(1.f - o.beta1, d - m[i], m[i]));
        float b = flush(fmaf(o.beta2, v[i], (1.f - o.beta2) * d * d));
        m[i] = a, v[i] = b;
        p[i] = o.keep * p[i] - o.rate * a / fmaf(sqrtf(b), o.root, o.eps);
        if (o.zero_grad) g[i] = 0.f;
    }
}
HL_KERNEL(adamw_update)
