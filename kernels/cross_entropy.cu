// Cross-entropy of rows of logits and class ids; the formulae are in src/cpu/cross_entropy.rs.
//
// A block of 256 a row. Forward reads the row twice (the second time from the cache) and keeps one number,
// lse; backward reads it once and writes the gradient, over the logits where dx == x.
// Bytes an element: 4 forward, 8 backward; about 4 FLOPs and an exponential each.
#include "common.cuh"

extern "C" __global__ void cross_entropy_forward(float* losses, float* counted, float* lse, const float* x, const u32* t,
                                                 u64 classes, u32 ignore, float smoothing, const float* weights,
                                                 u32* fault) {
    u64 row = blockIdx.x;
    u32 target = t[row];
    if (target == ignore || target >= classes) {
        if (threadIdx.x == 0) {
            losses[row] = counted[row] = lse[row] = 0.f;
            if (target != ignore) report(fault, target);
        }
        return; // the whole block
    }
    x += row * classes;
    float most = -INFINITY, sum = 0.f, below = 0.f, total = 0.f;
    for (u64 i = threadIdx.x; i < classes; i += blockDim.x) most = fmaxf(most, x[i]);
    most = block_max(most);
    for (u64 i = threadIdx.x; i < classes; i += blockDim.x) {
        float d = x[i] - most, w = weights ? weights[i] : 1.f;
        sum += expf(d);
        if (smoothing != 0.f) below += w * -d, total += w;
    }
    sum = block_sum(sum);
    if (smoothing != 0.f) below = block_sum(below), total = block_sum(total);
    if (threadIdx.x == 0) {
        float log_sum = logf(sum), w = weights ? weights[target] : 1.f;
        float loss = (1.f - smoothing) * w * ((most - x[target]) + log_sum);
        if (smoothing != 0.f) loss += smoothing / classes * (below + total * log_sum);
        losses[row] = loss, counted[row] = w, lse[row] = most + log_sum;
    }
}
HL_KERNEL(cross_entropy_forward)

extern "C" __global__ void cross_entropy_backward(float* dx, const float* lse, const float* x, const u32* t, u64 classes,
                                                  const float* scale, u32 ignore, float smoothing, const float* weights) {
    u64 row = blockIdx.x;
    u32 target = t[row];
    x += row * classes, dx += row * classes;
    bool counts = target != ignore && target < classes;
    float total = 0.f, g = counts ? scale[row] : 0.f, base = lse[row], share = smoothing / classes;
    if (!counts) {
        for (u64 i = threadIdx.x; i < classes; i += blockDim.x) dx[i] = 0.f;
        return; // the whole block
    }
    if (smoothing != 0.f && weights) {
        for (u64 i = threadIdx.x; i < classes; i += blockDim.x) total += weights[i];
        total = block_sum(total);
    } else {
        total = (float)classes;
    }
    float own = (1.f - smoothing) * (weights ? weights[target] : 1.f);
    float all = own + (smoothing != 0.f ? share * total : 0.f);
    for (u64 i = threadIdx.x; i < classes; i += blockDim.x) {
        float w = (i == target ? own : 0.f) + (smoothing != 0.f ? share * (weights ? weights[i] : 1.f) : 0.f);
        dx[i] = g * (expf(x[i] - base) * all - w);
    }
}
HL_KERNEL(cross_entropy_backward)
