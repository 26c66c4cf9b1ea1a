// Attention: O = softmax(s Q Kᵀ + mask) V for each batch and head, memory linear in T.
//
// Forward. A block of 8 warps has 32 queries and goes over the keys 32 at a time, with the running softmax of
// src/cpu/attention. A warp has four queries; its lanes are the keys of the tile for the scores, and
// the elements of a head for the output:
//
//     s = q · K[lane]        m' = max(m, s)    p = e^(s − m')      O = α O + Σ_j p_j V[j]     (p_j from lane j)
//
// Backward, without atomics: first δ = Σ dO ∘ O a row; then a block for 32 keys goes over the queries and
// makes dK and dV, and a block for 32 queries goes over the keys and makes dQ. With P = e^(s − lse):
//
//     dV = Pᵀ dO       dP = dO Vᵀ       dS = P ∘ (dP − δ)       dQ = s dS K       dK = s dSᵀ Q
//
// Shared memory: three or four tiles of 32 × D. FLOPs: 4 Tq Tk D a head forward and 14 backward, half of that
// where causal; bytes: (Tq + 2 Tk Tq / 32) D · 4 a head, mostly from the cache.
#include "attention.cuh"

constexpr int TILE = 32;

// Rows first .. first + 32 of a head to shared memory, zeros beyond the end; a row takes `pitch` floats.
__device__ __forceinline__ void load_tile(float* tile, const float* from, const Strides& s, u64 b, u64 h, u64 first,
                                          u64 rows, u64 d, int pitch) {
    from += b * s.batch + h * s.head;
    for (u64 e = threadIdx.x; e < TILE * d; e += blockDim.x) {
        u64 r = e / d, c = e % d;
        tile[r * pitch + c] = first + r < rows ? from[(first + r) * s.row + c] : 0.f;
    }
}
__device__ __forceinline__ float dot(const float* a, const float* b, u64 d) {
    float sum = 0.f;
    for (u64 i = 0; i < d; i++) sum = fmaf(a[i], b[i], sum);
    return sum;
}

// Grid: (batch · heads, tiles of queries); 256 threads; shared memory 3 · 32 · (d + 1) floats.
// N is the number of elements of a head that a lane has.
template <int N> __device__ __forceinline__ void
forward(float* o, float* lse, const float* q, const float* k, const float* v, const u32* padding, const Attention& a) {
    HL_DYNAMIC_SHARED(float, tiles);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, pitch = (int)a.d + 1;
    float *qs = tiles, *ks = qs + TILE * pitch, *vs = ks + TILE * pitch;
    u64 b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, i0 = blockIdx.y * (u64)TILE;
    float most[4], sum[4], acc[4][N];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        most[r] = -INFINITY, sum[r] = 0.f;
#pragma unroll
        for (int c = 0; c < N; c++) acc[r][c] = 0.f;
    }
    load_tile(qs, q, a.q, b, h, i0, a.tq, a.d, pitch);
    u64 end = a.causal ? min(a.tk, i0 + TILE + (a.tk - a.tq)) : a.tk;
    for (u64 j0 = 0; j0 < end; j0 += TILE) {
        __syncthreads();
        load_tile(ks, k, a.k, b, h, j0, a.tk, a.d, pitch);
        load_tile(vs, v, a.v, b, h, j0, a.tk, a.d, pitch);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 4; r++) {
            u64 i = i0 + warp * 4 + r, j = j0 + lane;
            bool seen = sees(a, padding, b, i, j);
            float s = seen ? dot(qs + (warp * 4 + r) * pitch, ks + lane * pitch, a.d) * a.scale : -INFINITY;
            float top = fmaxf(most[r], warp_max(s));
            // Nothing seen so far: keep everything at 0 rather than compute inf − inf.
            float shrink = top == -INFINITY ? 1.f : expf(most[r] - top), p = seen ? expf(s - top) : 0.f;
            sum[r] = sum[r] * shrink + warp_sum(p);
            most[r] = top;
            if (seen) p *= factor(a, blockIdx.x * a.tq + i, j);
#pragma unroll
            for (int c = 0; c < N; c++) acc[r][c] *= shrink;
            for (int l = 0; l < TILE; l++) {
                float share = __shfl_sync(FULL, p, l);
                if (share == 0.f) continue; // nobody's value, NaN or not, is multiplied by 0
#pragma unroll
                for (int c = 0; c < N; c++)
                    if (lane + 32 * c < (int)a.d) acc[r][c] = fmaf(share, vs[l * pitch + lane + 32 * c], acc[r][c]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        u64 i = i0 + warp * 4 + r;
        if (i >= a.tq) continue;
        float scale = sum[r] > 0.f || sum[r] != sum[r] ? 1.f / sum[r] : 0.f;
#pragma unroll
        for (int c = 0; c < N; c++)
            if (lane + 32 * c < (int)a.d) o[b * a.o.batch + h * a.o.head + i * a.o.row + lane + 32 * c] = acc[r][c] * scale;
        if (lane == 0) lse[blockIdx.x * a.tq + i] = most[r] + logf(sum[r]);
    }
}

// δ: one warp a row. Grid: rows / 8.
extern "C" __global__ void attention_delta(float* delta, const float* d_o, const float* o, Attention a) {
    u64 row = blockIdx.x * 8ull + (threadIdx.x >> 5);
    int lane = threadIdx.x & 31;
    if (row >= a.batch * a.heads * a.tq) return; // a whole warp
    u64 i = row % a.tq, h = row / a.tq % a.heads, b = row / a.tq / a.heads;
    d_o += b * a.d_o.batch + h * a.d_o.head + i * a.d_o.row, o += b * a.o.batch + h * a.o.head + i * a.o.row;
    float sum = 0.f;
    for (u64 c = lane; c < a.d; c += 32) sum += d_o[c] * o[c];
    sum = warp_sum(sum);
    if (lane == 0) delta[row] = sum;
}
HL_KERNEL(attention_delta)

// dK and dV of 32 keys; a warp has four keys, its lanes are the queries of the tile.
// Grid: (batch · heads, tiles of keys); 256 threads; shared memory 4 · 32 · (d + 1) floats.
template <int N> __device__ __forceinline__ void
backward_keys(float* dk, float* dv, const float* d_o, const float* lse, const float* delta, const float* q, const float* k,
              const float* v, const u32* padding, const Attention& a) {
    HL_DYNAMIC_SHARED(float, tiles);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, pitch = (int)a.d + 1;
    float *ks = tiles, *vs = ks + TILE * pitch, *qs = vs + TILE * pitch, *ds = qs + TILE * pitch;
    u64 b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, j0 = blockIdx.y * (u64)TILE;
    float acc_k[4][N], acc_v[4][N];
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < N; c++) acc_k[r][c] = acc_v[r][c] = 0.f;
    load_tile(ks, k, a.k, b, h, j0, a.tk, a.d, pitch);
    load_tile(vs, v, a.v, b, h, j0, a.tk, a.d, pitch);
    // Causal: earlier queries do not see these keys.
    u64 ahead = a.tk - a.tq, first = a.causal && j0 > ahead ? (j0 - ahead) / TILE * TILE : 0;
    for (u64 i0 = first; i0 < a.tq; i0 += TILE) {
        __syncthreads();
        load_tile(qs, q, a.q, b, h, i0, a.tq, a.d, pitch);
        load_tile(ds, d_o, a.d_o, b, h, i0, a.tq, a.d, pitch);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 4; r++) {
            u64 i = i0 + lane, j = j0 + warp * 4 + r, row = blockIdx.x * a.tq + i;
            float p = 0.f, kept = 0.f, slope = 0.f;
            if (sees(a, padding, b, i, j)) {
                p = expf(dot(qs + lane * pitch, ks + (warp * 4 + r) * pitch, a.d) * a.scale - lse[row]);
                float f = factor(a, row, j);
                kept = p * f;
                slope = p * (dot(ds + lane * pitch, vs + (warp * 4 + r) * pitch, a.d) * f - delta[row]) * a.scale;
            }
            for (int l = 0; l < TILE; l++) {
                float share = __shfl_sync(FULL, kept, l), turn = __shfl_sync(FULL, slope, l);
                if (share == 0.f && turn == 0.f) continue;
#pragma unroll
                for (int c = 0; c < N; c++)
                    if (lane + 32 * c < (int)a.d) {
                        acc_v[r][c] = fmaf(share, ds[l * pitch + lane + 32 * c], acc_v[r][c]);
                        acc_k[r][c] = fmaf(turn, qs[l * pitch + lane + 32 * c], acc_k[r][c]);
                    }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        u64 j = j0 + warp * 4 + r;
        if (j >= a.tk) continue;
#pragma unroll
        for (int c = 0; c < N; c++)
            if (lane + 32 * c < (int)a.d) {
                dk[b * a.dk.batch + h * a.dk.head + j * a.dk.row + lane + 32 * c] = acc_k[r][c];
                dv[b * a.dv.batch + h * a.dv.head + j * a.dv.row + lane + 32 * c] = acc_v[r][c];
            }
    }
}

// dQ of 32 queries; a warp has four of them, its lanes are the keys of the tile.
// Grid: (batch · heads, tiles of queries); 256 threads; shared memory 4 · 32 · (d + 1) floats.
template <int N> __device__ __forceinline__ void
backward_queries(float* dq, const float* d_o, const float* lse, const float* delta, const float* q, const float* k,
                 const float* v, const u32* padding, const Attention& a) {
    HL_DYNAMIC_SHARED(float, tiles);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, pitch = (int)a.d + 1;
    float *qs = tiles, *ds = qs + TILE * pitch, *ks = ds + TILE * pitch, *vs = ks + TILE * pitch;
    u64 b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, i0 = blockIdx.y * (u64)TILE;
    float acc[4][N];
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < N; c++) acc[r][c] = 0.f;
    load_tile(qs, q, a.q, b, h, i0, a.tq, a.d, pitch);
    load_tile(ds, d_o, a.d_o, b, h, i0, a.tq, a.d, pitch);
    u64 end = a.causal ? min(a.tk, i0 + TILE + (a.tk - a.tq)) : a.tk;
    for (u64 j0 = 0; j0 < end; j0 += TILE) {
        __syncthreads();
        load_tile(ks, k, a.k, b, h, j0, a.tk, a.d, pitch);
        load_tile(vs, v, a.v, b, h, j0, a.tk, a.d, pitch);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 4; r++) {
            u64 i = i0 + warp * 4 + r, j = j0 + lane, row = blockIdx.x * a.tq + i;
            float slope = 0.f;
            if (sees(a, padding, b, i, j)) {
                float p = expf(dot(qs + (warp * 4 + r) * pitch, ks + lane * pitch, a.d) * a.scale - lse[row]);
                slope = p * (dot(ds + (warp * 4 + r) * pitch, vs + lane * pitch, a.d) * factor(a, row, j) - delta[row]) * a.scale;
            }
            for (int l = 0; l < TILE; l++) {
                float turn = __shfl_sync(FULL, slope, l);
                if (turn == 0.f) continue;
#pragma unroll
                for (int c = 0; c < N; c++)
                    if (lane + 32 * c < (int)a.d) acc[r][c] = fmaf(turn, ks[l * pitch + lane + 32 * c], acc[r][c]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        u64 i = i0 + warp * 4 + r;
        if (i >= a.tq) continue;
#pragma unroll
        for (int c = 0; c < N; c++)
            if (lane + 32 * c < (int)a.d) dq[b * a.dq.batch + h * a.dq.head + i * a.dq.row + lane + 32 * c] = acc[r][c];
    }
}

// One kernel for each size of head: up to 32 N.
#define SIZE(n, N)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                              \
    attention_forward_##n(float* o, float* lse, const float* q, const float* k, const float* v,    \
                          const u32* padding, Attention a) {                                       \
        forward<N>(o, lse, q, k, v, padding, a);                                                   \
    }                                                                                              \
    HL_KERNEL(attention_forward_##n)                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                              \
    attention_backward_keys_##n(float* dk, float* dv, const float* d_o, const float* lse, const float* delta, \
                                const float* q, const float* k, const float* v, const u32* padding, Attention a) { \
        backward_keys<N>(dk, dv, d_o, lse, delta, q, k, v, padding, a);                            \
    }                                                                                              \
    HL_KERNEL(attention_backward_keys_##n)                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                              \
    attention_backward_queries_##n(float* dq, const float* d_o, const float* lse, const float* delta, \
                                   const float* q, const float* k, const float* v, const u32* padding, Attention a) { \
        backward_queries<N>(dq, d_o, lse, delta, q, k, v, padding, a);                             \
    }                                                                                              \
    HL_KERNEL(attention_backward_queries_##n)
SIZE(32, 1)
SIZE(64, 2)
SIZE(128, 4)
SIZE(256, 8)
#undef SIZE
