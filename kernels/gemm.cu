// C = A B (+ C) (+ bias), f32, each matrix under any strides; a batch, or pieces of k, along the grid's z.
//
// A block computes a tile of C in steps of k: columns of A and rows of B go to shared memory, then each
// thread adds products of its rows and columns. A tile is loaded along the axis that lies dense in memory,
// so NN, NT and TN are all coalesced.
//
// - gemm_64 and gemm_128 multiply in f32: 4 × 4 or 8 × 8 elements of C a thread, one chain of multiply-adds
//   an element in the order of k. 8 T bytes for each k and tile of T, for 2 T² FLOPs.
// - gemm_mma rounds A and B to bf16 on the way into shared memory and multiplies on tensor cores, sums in f32:
//   tiles of 128 × 128, a warp has 64 × 32 of it. The next tile is on its way to registers while the
//   present one is multiplied.
//
// Products with few tiles and a long k (gradients of weights) are cut along k: with piece > 0 block z takes
// the columns z · piece .. of A, and the partial products, one after the other in C, are added by
// reduce_sum_columns. The cut depends on the shape alone: the same bits at every run.
#include "mma.cuh"

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

extern "C" __global__ void __launch_bounds__(256)
gemm_mma(float* c, u64 c_batch, u64 ldc, Matrix a, Matrix b, u64 m, u64 n, u64 k, u64 piece, int accumulate,
         const float* bias) {
    constexpr int T = 128, K = 32, EACH = T * K / 256;
    // 20 words a row: the eight rows that a warp reads at once start in different banks.
    constexpr int PITCH = K + 8;
    __shared__ __align__(16) unsigned short left[T * PITCH], right[T * PITCH]; // bits of bf16
    u64 row0 = blockIdx.y * (u64)T, col0 = blockIdx.x * (u64)T, first, last;
    const float* pa = a.data + blockIdx.z * a.batch;
    const float* pb = b.data + blockIdx.z * b.batch;
    c += blockIdx.z * c_batch;
    range(k, piece, first, last);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    int warp_row = warp / 4 * 64, warp_col = warp % 4 * 32;
    float sum[4][4][4] = {}, next_a[EACH], next_b[EACH];
    // A thread's elements of a tile: from (i, kk) on, in steps along i where k is dense, else along k.
    struct Part {
        const float* from;
        u64 step, limit; // in memory; and how many of them are inside
        int at, stride;  // in shared memory
    };
    auto part = [&](const float* from, u64 across, u64 along, u64 i0, u64 size) {
        bool dense = along == 1;
        int i = dense ? threadIdx.x / K : threadIdx.x % T, kk = dense ? threadIdx.x % K : threadIdx.x / T;
        Part p = {from + (i0 + i) * across + kk * along, dense ? 256 / K * across : 256 / T * along, 0, i * PITCH + kk,
                  dense ? 256 / K * PITCH : 256 / T};
        if (i0 + i < size) p.limit = dense ? (size - i0 - i + 256 / K - 1) / (256 / K) : EACH;
        return p;
    };
    const Part part_a = part(pa, a.row, a.col, row0, m), part_b = part(pb, b.col, b.row, col0, n);
    auto load = [&](float (&next)[EACH], const Part& p, u64 along, u64 k0) {
        bool dense = along == 1;
        const float* from = p.from + k0 * along;
        u64 kk = dense ? threadIdx.x % K : threadIdx.x / T;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            bool in = (u64)e < p.limit && k0 + kk + (dense ? 0 : 256 / T * e) < last;
            next[e] = in ? *from : 0.f;
            from += p.step;
        }
    };
    auto fetch = [&](u64 k0) {
        load(next_a, part_a, a.col, k0);
        load(next_b, part_b, b.row, k0);
    };
    auto bits = [](float x) {
        bf16 rounded = __float2bfloat16(x);
        return *(const unsigned short*)&rounded;
    };
    fetch(first);
    for (u64 k0 = first; k0 < last; k0 += K) {
        __syncthreads(); // the tile before has been multiplied
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            left[part_a.at + e * part_a.stride] = bits(next_a[e]);
            right[part_b.at + e * part_b.stride] = bits(next_b[e]);
        }
        __syncthreads();
        if (k0 + K < last) fetch(k0 + K);
#pragma unroll
        for (int kk = 0; kk < K; kk += 16) {
            u32 u[4][4], v[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned short* at = left + (warp_row + i * 16 + g) * PITCH + kk + q * 2;
                u[i][0] = *(const u32*)at, u[i][1] = *(const u32*)(at + 8 * PITCH);
                u[i][2] = *(const u32*)(at + 8), u[i][3] = *(const u32*)(at + 8 * PITCH + 8);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const unsigned short* at = right + (warp_col + j * 8 + g) * PITCH + kk + q * 2;
                v[j][0] = *(const u32*)at, v[j][1] = *(const u32*)(at + 8);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma_m16n8k16(sum[i][j], u[i], v[j]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                u64 row = row0 + warp_row + i * 16 + g + e / 2 * 8, col = col0 + warp_col + j * 8 + q * 2 + e % 2;
                if (row < m && col < n) finish(c + row * ldc + col, sum[i][j][e], accumulate, bias, col);
            }
}
HL_KERNEL(gemm_mma)
