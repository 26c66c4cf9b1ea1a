// Functions of one element and their derivatives.
//
// One thread an element. The function is an argument: the branch is the same for the whole grid, and the
// kernels wait for memory anyway. Bytes an element: 8 forward, 12 backward; 1 to 30 FLOPs.
#include "common.cuh"

// In the order of `Unary` in src/cpu/unary.rs.
enum { NEG, EXP, LOG, SQRT, TANH, SIGMOID, RELU, GELU, GELU_TANH, SILU };

__device__ __forceinline__ float sigmoid(float x) {
    // The smaller exponential, so that nothing overflows.
    float e = expf(-fabsf(x));
    return (x >= 0.f ? 1.f : e) / (1.f + e);
}
constexpr float SQRT_HALF = 0.70710678118654752f, ROOT_2_PI = 0.79788456080286536f, DENSITY = 0.39894228040143268f;

__device__ __forceinline__ float apply(int op, float x) {
    switch (op) {
    case NEG: return -x;
    case EXP: return expf(x);
    case LOG: return logf(x);
    case SQRT: return sqrtf(x);
    case TANH: return tanhf(x);
    case SIGMOID: return sigmoid(x);
    case RELU: return x > 0.f || x != x ? x : 0.f;
    case GELU: return x * (0.5f * erfcf(-x * SQRT_HALF));
    // ½ (1 + tanh u) = σ(2u), which loses nothing where tanh is near −1.
    case GELU_TANH: return x * sigmoid(2.f * ROOT_2_PI * (x + 0.044715f * x * x * x));
    default: return x * sigmoid(x);
    }
}
// f' from what the function kept: x, or y for exp, sqrt, tanh, sigmoid (and nothing for neg).
__device__ __forceinline__ float slope(int op, float kept) {
    switch (op) {
    case NEG: return -1.f;
    case EXP: return kept;
    case LOG: return 1.f / kept;
    case SQRT: return 0.5f / kept;
    case TANH: return 1.f - kept * kept;
    case SIGMOID: return kept * (1.f - kept);
    case RELU: return kept > 0.f ? 1.f : 0.f;
    case GELU: return 0.5f * erfcf(-kept * SQRT_HALF) + kept * DENSITY * expf(-0.5f * kept * kept);
    case GELU_TANH: {
        float s = sigmoid(2.f * ROOT_2_PI * (kept + 0.044715f * kept * kept * kept));
        return s + kept * s * (1.f - s) * 2.f * ROOT_2_PI * (1.f + 0.134145f * kept * kept);
    }
    default: {
        float s = sigmoid(kept);
        return s * (1.f + kept * (1.f - s));
    }
    }
}

extern "C" __global__ void unary_forward(int op, float* y, const float* x, u64 n) {
    HL_EACH(i, n) y[i] = apply(op, x[i]);
}
HL_KERNEL(unary_forward)

extern "C" __global__ void unary_backward(int op, float* dx, const float* dy, const float* kept, u64 n) {
    HL_EACH(i, n) {
        float d = dy[i];
        // A closed relu gives 0 even for an infinite gradient.
        dx[i] = op == RELU ? (kept[i] > 0.f ? d : 0.f) : d * slope(op, kept[i]);
    }
}
HL_KERNEL(unary_backward)

extern "C" __global__ void unary_add_scalar(float* y, const float* x, float c, u64 n) {
    HL_EACH(i, n) y[i] = x[i] + c;
}
HL_KERNEL(unary_add_scalar)

extern "C" __global__ void unary_scale(float* y, const float* x, float c, u64 n) {
    HL_EACH(i, n) y[i] = x[i] * c;
}
HL_KERNEL(unary_scale)

extern "C" __global__ void unary_powf(float* y, const float* x, float exponent, u64 n) {
    HL_EACH(i, n) y[i] = powf(x[i], exponent);
}
HL_KERNEL(unary_powf)

extern "C" __global__ void unary_powf_backward(float* dx, const float* dy, const float* x, float exponent, u64 n) {
    // With an exponent of 0 the slope is 0, also where x to the power −1 is infinite.
    HL_EACH(i, n) dx[i] = exponent == 0.f ? 0.f : dy[i] * exponent * powf(x[i], exponent - 1.f);
}
HL_KERNEL(unary_powf_backward)
