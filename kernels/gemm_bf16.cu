// C = A B (+ C) (+ bias) on tensor cores: A and B rounded to bf16, sums and C in f32; a batch, or pieces of k,
// along the grid's z.
//
// First each operand is converted once and stored (gemm_bf16_pack): rows of 16 bytes, filled up with zeros, dense
// along the axis that is dense in f32. So a weight or an activation is read as it lies, whether it is used as it is
// or transposed; there is a kernel for each pair of layouts (n: rows of the matrix are dense, t: columns are):
//
//     nt   y  = x Wᵀ      A dense along k, B along k
//     nn   dx = dy W      A dense along k, B along n
//     tn   dW = dyᵀ x     A dense along m, B along n
//
// A block of 8 warps computes 128 × 128 of C, a warp 64 × 32, in steps of 32 of k. Four tiles are underway: cp.async
// brings the third next while this one is multiplied. In shared memory the 16-byte pieces of a row are
// exchanged (piece ^ row), so that the eight rows an ldmatrix reads lie in different banks; ldmatrix.trans turns
// the tiles whose rows are not along k.
//
// Products with few tiles and a long k (gradients of weights) are cut along k as in gemm.cu; reduce_sum_columns adds
// the parts in their order. Shared memory: 64 KB. Bytes from memory for each k and tile: 512, for 32768 FLOPs.
#include "mma.cuh"

constexpr int T = 128, K = 32, STAGES = 4, PIECES = T * K / 8; // pieces of 8 elements, 16 bytes

// A packed matrix: `outer` rows of `pitch` elements, of which the kernel reads [outer][inner].
struct Packed {
    const bf16* data;
    u64 outer, pitch, batch;
};

// One thread for 8 elements. Bytes an element: 4 read, 2 written. `outer_stride`, `inner_stride`: of x.
extern "C" __global__ void gemm_bf16_pack(bf16* out, const float* x, u64 outer, u64 inner, u64 pitch, u64 outer_stride,
                                          u64 inner_stride, u64 batch_stride, u64 count) {
    u64 row_pieces = pitch / 8, n = count * outer * row_pieces;
    HL_EACH(i, n) {
        u64 row = i / row_pieces, first = i % row_pieces * 8;
        const float* from = x + row / outer * batch_stride + row % outer * outer_stride + first * inner_stride;
        u32 words[4];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            float low = first + 2 * w < inner ? from[2 * w * inner_stride] : 0.f;
            float high = first + 2 * w + 1 < inner ? from[(2 * w + 1) * inner_stride] : 0.f;
            words[w] = pair(low, high);
        }
        *(uint4*)(out + i * 8) = {words[0], words[1], words[2], words[3]};
    }
}
HL_KERNEL(gemm_bf16_pack)

// Where piece `piece` of row `row` of a tile lies, in elements. Rows of a tile along k have 4 pieces, others 16.
template <bool ALONG_K> __device__ __forceinline__ int place(int row, int piece) {
    return ALONG_K ? row * K + (piece ^ (row >> 1 & 3)) * 8 : row * T + (piece ^ (row & 7)) * 8;
}

// Starts to copy the tile at `first` of the free axis and `k0` of k; what lies outside becomes 0.
template <bool ALONG_K> __device__ __forceinline__ void fetch(bf16* tile, const Packed& x, u64 first, u64 k0) {
#pragma unroll
    for (int i = 0; i < PIECES / 256; i++) {
        int e = threadIdx.x + i * 256, row = ALONG_K ? e / 4 : e / 16, piece = ALONG_K ? e % 4 : e % 16;
        u64 outer = (ALONG_K ? first : k0) + row, inner = (ALONG_K ? k0 : first) + piece * 8;
        bool inside = outer < x.outer && inner < x.pitch;
        copy_async(tile + place<ALONG_K>(row, piece), inside ? x.data + outer * x.pitch + inner : x.data, inside);
    }
}

template <bool A_ALONG_K, bool B_ALONG_K> __device__ __forceinline__ void
multiply(float* c, u64 c_batch, u64 ldc, Packed a, Packed b, u64 m, u64 n, u64 k, u64 piece, int accumulate, const float* bias) {
    HL_DYNAMIC_SHARED(bf16, tiles);
    u64 row0 = blockIdx.y * (u64)T, col0 = blockIdx.x * (u64)T;
    u64 first = piece ? blockIdx.z * piece : 0, last = piece ? min(k, first + piece) : k;
    a.data += blockIdx.z * a.batch, b.data += blockIdx.z * b.batch, c += blockIdx.z * c_batch;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int warp_row = warp / 4 * 64, warp_col = warp % 4 * 32;
    float sum[4][4][4] = {};
    int steps = (int)((last - first + K - 1) / K);
    auto left = [&](int step) { return tiles + step % STAGES * 2 * T * K; };
    auto start = [&](int step) {
        if (step < steps) {
            fetch<A_ALONG_K>(left(step), a, row0, first + step * (u64)K);
            fetch<B_ALONG_K>(left(step) + T * K, b, col0, first + step * (u64)K);
        }
        copies_committed();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) start(step);
    for (int step = 0; step < steps; step++) {
        copies_arrived<STAGES - 2>();
        __syncthreads(); // this tile is there for all, and the one before has been multiplied by all
        start(step + STAGES - 1);
        const bf16 *as = left(step), *bs = as + T * K;
#pragma unroll
        for (int kk = 0; kk < K; kk += 16) {
            u32 u[4][4], v[4][2];
            // Lane l shows row l % 8 of the 8 × 8 matrix l / 8 of four.
            int r = lane & 7, low = lane >> 3 & 1, high = lane >> 4;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = warp_row + i * 16;
                if (A_ALONG_K) load_matrices(u[i], as + place<true>(row + r + low * 8, kk / 8 + high));
                else load_matrices_turned(u[i], as + place<false>(kk + r + high * 8, row / 8 + low));
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int col = warp_col + j * 16;
                u32 two[4];
                if (B_ALONG_K) load_matrices(two, bs + place<true>(col + r + high * 8, kk / 8 + low));
                else load_matrices_turned(two, bs + place<false>(kk + r + low * 8, col / 8 + high));
                v[2 * j][0] = two[0], v[2 * j][1] = two[1], v[2 * j + 1][0] = two[2], v[2 * j + 1][1] = two[3];
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
                u64 row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8, col = col0 + warp_col + j * 8 + lane % 4 * 2 + e % 2;
                if (row >= m || col >= n) continue;
                float* to = c + row * ldc + col;
                float value = accumulate ? *to + sum[i][j][e] : sum[i][j][e];
                *to = bias ? value + bias[col] : value;
            }
}

// Grid: tiles of columns, tiles of rows, batch or pieces of k; 256 threads; shared memory 64 KB.
#define LAYOUT(name, A_ALONG_K, B_ALONG_K)                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                              \
    name(float* c, u64 c_batch, u64 ldc, Packed a, Packed b, u64 m, u64 n, u64 k, u64 piece, int accumulate, \
         const float* bias) {                                                                      \
        multiply<A_ALONG_K, B_ALONG_K>(c, c_batch, ldc, a, b, m, n, k, piece, accumulate, bias);   \
    }                                                                                              \
    HL_KERNEL(name)
LAYOUT(gemm_bf16_nn, true, false)
LAYOUT(gemm_bf16_nt, true, true)
LAYOUT(gemm_bf16_tn, false, false)
LAYOUT(gemm_bf16_tt, false, true)
#undef LAYOUT
