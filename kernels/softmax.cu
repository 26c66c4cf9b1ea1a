// Softmax and its logarithm over rows.
//
// A block of 256 a row, three passes: maximum, sum, result; the row stays in the cache between them.
// Bytes an element: 4 read from memory (12 from the cache), 4 written; about 5 FLOPs and an exponential.
#include "common.cuh"

template <bool LOG> __device__ __forceinline__ void softmax_row(float* y, const float* x, u64 cols) {
    x += blockIdx.x * cols, y += blockIdx.x * cols;
    float most = -INFINITY, sum = 0.f;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) most = fmaxf(most, x[i]);
    most = block_max(most);
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) sum += expf(x[i] - most);
    sum = block_sum(sum);
    float log_sum = logf(sum), scale = 1.f / sum;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x)
        y[i] = LOG ? (x[i] - most) - log_sum : expf(x[i] - most) * scale;
}
// softmax: dx = y (dy − Σ dy y); log_softmax: dx = dy − e^y Σ dy
template <bool LOG> __device__ __forceinline__ void softmax_row_backward(float* dx, const float* dy, const float* y, u64 cols) {
    dx += blockIdx.x * cols, dy += blockIdx.x * cols, y += blockIdx.x * cols;
    float sum = 0.f;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) sum += LOG ? dy[i] : dy[i] * y[i];
    sum = block_sum(sum);
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x)
        dx[i] = LOG ? dy[i] - expf(y[i]) * sum : y[i] * (dy[i] - sum);
}

extern "C" __global__ void softmax_forward(float* y, const float* x, u64 cols) { softmax_row<false>(y, x, cols); }
HL_KERNEL(softmax_forward)
extern "C" __global__ void softmax_log_forward(float* y, const float* x, u64 cols) { softmax_row<true>(y, x, cols); }
HL_KERNEL(softmax_log_forward)
extern "C" __global__ void softmax_backward(float* dx, const float* dy, const float* y, u64 cols) {
    softmax_row_backward<false>(dx, dy, y, cols);
}
HL_KERNEL(softmax_backward)
extern "C" __global__ void softmax_log_backward(float* dx, const float* dy, const float* y, u64 cols) {
    softmax_row_backward<true>(dx, dy, y, cols);
}
HL_KERNEL(softmax_log_backward)
