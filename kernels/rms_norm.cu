// Root-mean-square normalisation over rows.
//
//     r = 1/√(mean(x²) + ε)        y = x r w
//     dx = r (dy w − x r² mean(dy w x))        dw = Σ dy x r
//
// The shapes of the launches are those of layer_norm.cu.
// Bytes an element: 8 forward, 12 for dx and 8 for dw; about 5 FLOPs.
#include "common.cuh"

extern "C" __global__ void rms_norm_forward(float* y, float* rstd, const float* x, const float* w, u64 cols, float eps) {
    u64 row = blockIdx.x;
    x += row * cols, y += row * cols;
    float square = 0.f;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) square += x[i] * x[i];
    float r = 1.f / sqrtf(block_sum(square) / cols + eps);
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) y[i] = x[i] * r * (w ? w[i] : 1.f);
    if (threadIdx.x == 0) rstd[row] = r;
}
HL_KERNEL(rms_norm_forward)

extern "C" __global__ void rms_norm_backward(float* dx, const float* dy, const float* x, const float* w, const float* rstd,
                                             u64 cols) {
    u64 row = blockIdx.x;
    x += row * cols, dy += row * cols, dx += row * cols;
    float r = rstd[row], dot = 0.f;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) dot += dy[i] * (w ? w[i] : 1.f) * x[i];
    dot = block_sum(dot) / cols * r * r;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) dx[i] = r * (dy[i] * (w ? w[i] : 1.f) - x[i] * dot);
}
HL_KERNEL(rms_norm_backward)

// Partial sums [gridDim.y, cols] of dw over pieces of `piece` rows.
extern "C" __global__ void rms_norm_backward_parameters(float* dw, const float* dy, const float* x, const float* rstd,
                                                        u64 rows, u64 cols, u64 piece) {
    __shared__ float parts[8][32];
    u64 column = blockIdx.x * 32ull + threadIdx.x;
    u64 first = blockIdx.y * piece, last = min(rows, first + piece);
    float sum = 0.f;
    if (column < cols)
        for (u64 i = first + threadIdx.y; i < last; i += 8) sum += dy[i * cols + column] * x[i * cols + column] * rstd[i];
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < cols) {
        for (int r = 1; r < 8; r++) sum += parts[r][threadIdx.x];
        dw[blockIdx.y * cols + column] = sum;
    }
}
HL_KERNEL(rms_norm_backward_parameters)
