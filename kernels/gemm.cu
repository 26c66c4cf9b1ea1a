// C = A B (+ C) (+ bias), f32, each matrix under any strides; a batch, or pieces of k, along the grid's z.
//
// A block computes a tile of C in steps of k: columns of A and rows of B go to shared memory, then each
// thread adds products of its rows and columns. A tile is loaded along the axis that lies dense in memory,
// so NN, NT and TN are all coalesced.
//
// A thread has 4 × 4 (gemm_64) or 8 × 8 (gemm_128) elements of C, one chain of multiply-adds an element in the order
// of k. 8 T bytes for each k and tile of T × T, for 2 T² FLOPs. Tensor cores: gemm_bf16.cu.
//
// Products with few tiles and a long k (gradients of weights) are cut along k: with piece > 0 block z takes
// the columns z · piece .. of A, and the partial products, one after the other in C, are added by
// reduce_sum_columns. The cut depends on the shape alone: the same bits at every run.
#include "common.cuh"

struct Matrix {
    const float* data;
    u64 row, col; // strides
    u64 batch;    // from one matrix of the batch to the next
};

// The part of k that this block sums.
__device__ __forceinline__ void range(u64 k, u64 piece, u64& first, u64& last) {
    first = piece ? blockIdx.z * piece : 0;
    last = piece ? min(k, first + piece) : k;
}
__device__ __forceinline__ void finish(float* c, float sum, int accumulate, const float* bias, u64 col) {
    float v = accumulate ? *c + sum : sum;
    *c = bias ? v + bias[col] : v;
}

template <int T, int R> __device__ __forceinline__ void
gemm_tile(float* c, u64 c_batch, u64 ldc, const Matrix& a, const Matrix& b, u64 m, u64 n, u64 k, u64 piece,
          int accumulate, const float* bias) {
    constexpr int K = 16, THREADS = (T / R) * (T / R); // 256
    // One column more than needed: neighbours in k fall into different banks.
    __shared__ float left[K][T + 1], right[K][T + 1];
    u64 row0 = blockIdx.y * (u64)T, col0 = blockIdx.x * (u64)T;
    const float* pa = a.data + blockIdx.z * a.batch;
    const float* pb = b.data + blockIdx.z * b.batch;
    c += blockIdx.z * c_batch;
    int tr = threadIdx.x / (T / R), tc = threadIdx.x % (T / R);
    float sum[R][R] = {};
    u64 first, last;
    range(k, piece, first, last);
    for (u64 k0 = first; k0 < last; k0 += K) {
        for (int e = threadIdx.x; e < K * T; e += THREADS) {
            int ki = a.col == 1 ? e % K : e / T, i = a.col == 1 ? e / K : e % T;
            bool in = k0 + ki < last && row0 + i < m;
            left[ki][i] = in ? pa[(row0 + i) * a.row + (k0 + ki) * a.col] : 0.f;
            int kj = b.row == 1 ? e % K : e / T, j = b.row == 1 ? e / K : e % T;
            in = k0 + kj < last && col0 + j < n;
            right[kj][j] = in ? pb[(k0 + kj) * b.row + (col0 + j) * b.col] : 0.f;
        }
        __syncthreads();
        // Beyond the end of k there are zeros: adding them changes nothing.
#pragma unroll
        for (int ki = 0; ki < K; ki++) {
            float u[R], v[R];
#pragma unroll
            for (int i = 0; i < R; i++) u[i] = left[ki][tr + i * (T / R)];
#pragma unroll
            for (int j = 0; j < R; j++) v[j] = right[ki][tc + j * (T / R)];
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < R; j++) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < R; j++) {
            u64 row = row0 + tr + i * (T / R), col = col0 + tc + j * (T / R);
            if (row >= m || col >= n) continue;
            finish(c + row * ldc + col, sum[i][j], accumulate, bias, col);
        }
}

extern "C" __global__ void __launch_bounds__(256)
gemm_64(float* c, u64 c_batch, u64 ldc, Matrix a, Matrix b, u64 m, u64 n, u64 k, u64 piece, int accumulate,
        const float* bias) {
    gemm_tile<64, 4>(c, c_batch, ldc, a, b, m, n, k, piece, accumulate, bias);
}
HL_KERNEL(gemm_64)

extern "C" __global__ void __launch_bounds__(256)
gemm_128(float* c, u64 c_batch, u64 ldc, Matrix a, Matrix b, u64 m, u64 n, u64 k, u64 piece, int accumulate,
        const float* bias) {
    gemm_tile<128, 8>(c, c_batch, ldc, a, b, m, n, k, piece, accumulate, bias);
}
HL_KERNEL(gemm_128)
