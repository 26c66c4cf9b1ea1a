// Sums and maxima over the middle axis of [outer, n, inner].
//
// Sums in one or two launches, so that there are blocks enough: the first cuts n into `splits` pieces and
// leaves [outer, splits, inner] partial sums, the second is the same kernel over those. Within a piece the
// tree is fixed by the shape: the same bits at every run.
// Bytes: 4 an element; one FLOP an element.
#include "common.cuh"

// inner = 1. Grid: (outer, splits), a block of 256 sums one piece of a row.
extern "C" __global__ void reduce_sum_rows(float* y, const float* x, u64 n, u64 piece) {
    const float* row = x + blockIdx.x * n;
    u64 first = blockIdx.y * piece, last = min(n, first + piece);
    float sum = 0.f;
    for (u64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += row[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) y[blockIdx.x * (u64)gridDim.y + blockIdx.y] = sum;
}
HL_KERNEL(reduce_sum_rows)

// inner > 1. Grid: (inner / 32, splits, outer), a block of 32 × 8: thread (c, r) sums rows r, r + 8, … of
// column c, then the eight sums are added in order.
extern "C" __global__ void reduce_sum_columns(float* y, const float* x, u64 n, u64 inner, u64 piece) {
    __shared__ float parts[8][32];
    u64 column = blockIdx.x * 32ull + threadIdx.x;
    u64 first = blockIdx.y * piece, last = min(n, first + piece);
    float sum = 0.f;
    if (column < inner)
        for (u64 i = first + threadIdx.y; i < last; i += 8) sum += x[(blockIdx.z * n + i) * inner + column];
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < inner) {
        for (int r = 1; r < 8; r++) sum += parts[r][threadIdx.x];
        y[(blockIdx.z * (u64)gridDim.y + blockIdx.y) * inner + column] = sum;
    }
}
HL_KERNEL(reduce_sum_columns)

// Whether (v, i) comes before (best, j): a NaN before all, then the larger, then the first.
__device__ __forceinline__ bool before(float v, u32 i, float best, u32 j) {
    bool nan = v != v, other = best != best;
    if (nan || other) return nan && (!other || i < j);
    return v > best || (v == best && i < j);
}
// A warp for each of outer × inner results. Grid: results / 8, a block of 8 warps.
extern "C" __global__ void reduce_max(float* y, u32* indices, const float* x, u64 outer, u64 n, u64 inner) {
    u64 result = blockIdx.x * 8ull + (threadIdx.x >> 5);
    int lane = threadIdx.x & 31;
    if (result >= outer * inner) return; // a whole warp
    const float* from = x + (result / inner) * n * inner + result % inner;
    float best = -INFINITY;
    u32 at = 0xffffffffu;
    for (u64 i = lane; i < n; i += 32) {
        float v = from[i * inner];
        if (at == 0xffffffffu || before(v, (u32)i, best, at)) best = v, at = (u32)i;
    }
    for (int o = 16; o > 0; o >>= 1) {
        float v = __shfl_xor_sync(FULL, best, o);
        u32 i = __shfl_xor_sync(FULL, at, o);
        if (i != 0xffffffffu && (at == 0xffffffffu || before(v, i, best, at))) best = v, at = i;
    }
    if (lane == 0) {
        y[result] = best;
        if (indices) indices[result] = at;
    }
}
HL_KERNEL(reduce_max)

extern "C" __global__ void reduce_max_backward(float* dx, const float* dy, const u32* indices, u64 n, u64 inner, u64 numel) {
    HL_EACH(i, numel) {
        u64 j = i / inner % n, result = i / (n * inner) * inner + i % inner;
        dx[i] = indices[result] == j ? dy[result] : 0.f;
    }
}
HL_KERNEL(reduce_max_backward)

extern "C" __global__ void reduce_sum_backward(float* dx, const float* dy, u64 n, u64 inner, u64 numel) {
    HL_EACH(i, numel) dx[i] = dy[i / (n * inner) * inner + i % inner];
}
HL_KERNEL(reduce_sum_backward)
