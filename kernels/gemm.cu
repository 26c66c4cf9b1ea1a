// C = A B (+ C) (+ bias), f32, each matrix under any strides; a batch along the grid's z.
//
// A block computes a tile of C, a thread a small square of it, in steps of 16 of k:
//
//     k: 16 columns of A and 16 rows of B go to shared memory, then each thread adds the outer products of
//        its rows and columns: TM + TN values read for TM · TN multiply-adds
//
// Tiles are 128 × 128 (8 × 8 a thread) where C is large, else 64 × 64 (4 × 4). A tile is loaded along the
// axis that lies dense in memory, so NN, NT and TN are all coalesced. One chain of multiply-adds an
// element, in the order of k: the bits do not depend on the grid.
// Bytes for each k and tile of T: 8 T, for 2 T² FLOPs.
#include "common.cuh"

struct Matrix {
    const float* data;
    u64 row, col; // strides
    u64 batch;    // from one matrix of the batch to the next
};

template <int T, int R> __device__ __forceinline__ void
gemm_tile(float* c, u64 c_batch, u64 ldc, const Matrix& a, const Matrix& b, u64 m, u64 n, u64 k, int accumulate,
          const float* bias) {
    constexpr int K = 16, THREADS = (T / R) * (T / R); // 256
    // One column more than needed: neighbours in k fall into different banks.
    __shared__ float left[K][T + 1], right[K][T + 1];
    u64 row0 = blockIdx.y * (u64)T, col0 = blockIdx.x * (u64)T;
    const float* pa = a.data + blockIdx.z * a.batch;
    const float* pb = b.data + blockIdx.z * b.batch;
    c += blockIdx.z * c_batch;
    int tr = threadIdx.x / (T / R), tc = threadIdx.x % (T / R);
    float sum[R][R];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) sum[i][j] = 0.f;
    for (u64 k0 = 0; k0 < k; k0 += K) {
        for (int e = threadIdx.x; e < K * T; e += THREADS) {
            int ki = a.col == 1 ? e % K : e / T, i = a.col == 1 ? e / K : e % T;
            bool in = k0 + ki < k && row0 + i < m;
            left[ki][i] = in ? pa[(row0 + i) * a.row + (k0 + ki) * a.col] : 0.f;
            int kj = b.row == 1 ? e % K : e / T, j = b.row == 1 ? e / K : e % T;
            in = k0 + kj < k && col0 + j < n;
            right[kj][j] = in ? pb[(k0 + kj) * b.row + (col0 + j) * b.col] : 0.f;
        }
        __syncthreads();
        int last = (int)min((u64)K, k - k0);
        for (int ki = 0; ki < last; ki++) {
            float u[R], v[R];
            for (int i = 0; i < R; i++) u[i] = left[ki][tr + i * (T / R)];
            for (int j = 0; j < R; j++) v[j] = right[ki][tc + j * (T / R)];
            for (int i = 0; i < R; i++)
                for (int j = 0; j < R; j++) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) {
            u64 row = row0 + tr + i * (T / R), col = col0 + tc + j * (T / R);
            if (row >= m || col >= n) continue;
            float v = accumulate ? c[row * ldc + col] + sum[i][j] : sum[i][j];
            c[row * ldc + col] = bias ? v + bias[col] : v;
        }
}

extern "C" __global__ void __launch_bounds__(256)
gemm_64(float* c, u64 c_batch, u64 ldc, Matrix a, Matrix b, u64 m, u64 n, u64 k, int accumulate, const float* bias) {
    gemm_tile<64, 4>(c, c_batch, ldc, a, b, m, n, k, accumulate, bias);
}
HL_KERNEL(gemm_64)

extern "C" __global__ void __launch_bounds__(256)
gemm_128(float* c, u64 c_batch, u64 ldc, Matrix a, Matrix b, u64 m, u64 n, u64 k, int accumulate, const float* bias) {
    gemm_tile<128, 8>(c, c_batch, ldc, a, b, m, n, k, accumulate, bias);
}
HL_KERNEL(gemm_128)
