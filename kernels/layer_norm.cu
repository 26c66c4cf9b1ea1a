// Layer normalisation over rows.
//
//     x̂ = (x − μ) r        y = x̂ w + b
//     dx = r (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)),  dx̂ = dy w        dw = Σ dy x̂        db = Σ dy
//
// Forward and dx: a block of 256 a row, three passes of which two hit the cache. dw and db: a grid over
// columns and pieces of the rows leaves partial sums, which reduce_sum_columns adds up.
// Bytes an element: 8 forward, 12 for dx and 8 for dw and db; about 8 FLOPs.
#include "common.cuh"

extern "C" __global__ void layer_norm_forward(float* y, float* mean, float* rstd, const float* x, const float* w,
                                              const float* b, u64 cols, float eps) {
    u64 row = blockIdx.x;
    x += row * cols, y += row * cols;
    float sum = 0.f, square = 0.f;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) sum += x[i];
    float mu = block_sum(sum) / cols;
    // A second pass: the variance of numbers far from 0 loses nothing.
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) square += (x[i] - mu) * (x[i] - mu);
    float r = 1.f / sqrtf(block_sum(square) / cols + eps);
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x)
        y[i] = (x[i] - mu) * r * (w ? w[i] : 1.f) + (b ? b[i] : 0.f);
    if (threadIdx.x == 0) mean[row] = mu, rstd[row] = r;
}
HL_KERNEL(layer_norm_forward)

extern "C" __global__ void layer_norm_backward(float* dx, const float* dy, const float* x, const float* w, const float* mean,
                                               const float* rstd, u64 cols) {
    u64 row = blockIdx.x;
    x += row * cols, dy += row * cols, dx += row * cols;
    float mu = mean[row], r = rstd[row], sum = 0.f, dot = 0.f;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x) {
        float d = dy[i] * (w ? w[i] : 1.f);
        sum += d, dot += d * ((x[i] - mu) * r);
    }
    sum = block_sum(sum) / cols, dot = block_sum(dot) / cols;
    for (u64 i = threadIdx.x; i < cols; i += blockDim.x)
        dx[i] = r * (dy[i] * (w ? w[i] : 1.f) - sum - (x[i] - mu) * r * dot);
}
HL_KERNEL(layer_norm_backward)

// Partial sums [gridDim.y, cols] of dw and db (either may be null) over pieces of `piece` rows; a block of
// 32 columns × 8 rows, as in reduce_sum_columns.
extern "C" __global__ void layer_norm_backward_parameters(float* dw, float* db, const float* dy, const float* x,
                                                          const float* mean, const float* rstd, u64 rows, u64 cols, u64 piece) {
    __shared__ float dws[8][32], dbs[8][32];
    u64 column = blockIdx.x * 32ull + threadIdx.x;
    u64 first = blockIdx.y * piece, last = min(rows, first + piece);
    float scaled = 0.f, sum = 0.f;
    if (column < cols)
        for (u64 i = first + threadIdx.y; i < last; i += 8) {
            float d = dy[i * cols + column];
            scaled += d * ((x[i * cols + column] - mean[i]) * rstd[i]), sum += d;
        }
    dws[threadIdx.y][threadIdx.x] = scaled, dbs[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < cols) {
        for (int r = 1; r < 8; r++) scaled += dws[r][threadIdx.x], sum += dbs[r][threadIdx.x];
        if (dw) dw[blockIdx.y * cols + column] = scaled;
        if (db) db[blockIdx.y * cols + column] = sum;
    }
}
HL_KERNEL(layer_norm_backward_parameters)
