// Attention on tensor cores: the passes of attention.cu with factors in bf16 and sums in f32 (Dao 2023, the
// shapes of FlashAttention-2).
//
// A block of 4 warps has 64 rows, a warp 16 of them; the other side comes 64 at a time. A product of rows with
// columns leaves the sums of a row in four lanes, just where the next product wants its factor: the scores
// become the left factor of P V without leaving their registers.
//
//     forward    S = Q Kᵀ        P = e^(s S − m)        O = α O + P V
//     queries    S = Q Kᵀ        dP = dO Vᵀ             dS = P ∘ (dP − δ)        dQ += dS K
//     keys       Sᵀ = K Qᵀ       dV += Pᵀ dO            dPᵀ = V dOᵀ              dK += dSᵀ Q
//
// Tiles lie in shared memory as rows [64][D + 8] where they are multiplied along D, and turned, [D][72], where
// along the 64; the padding puts the eight rows that a warp reads at once into different banks.
// FLOPs: 4 Tq Tk D a head forward, 14 backward, half of that where causal. Shared memory at D = 128: 52 KB forward,
// 86 KB for dQ, 104 KB for dK and dV.
#include "attention.cuh"
#include "mma.cuh"

constexpr int ROWS = 64, TURNED = ROWS + 8, THREADS = 128;

// Rows first .. first + 64 of a head, D = 16 N wide, zeros beyond: as rows, turned, or both.
template <int N> __device__ __forceinline__ void
load(unsigned short* rows, unsigned short* turned, const float* from, const Strides& s, u64 b, u64 h, u64 first, u64 count, u64 d) {
    constexpr int D = 16 * N;
    from += b * s.batch + h * s.head;
    for (int e = threadIdx.x; e < ROWS * D; e += THREADS) {
        int r = e / D, c = e % D;
        unsigned short v = bits(first + r < count && (u64)c < d ? from[(first + r) * s.row + c] : 0.f);
        if (rows) rows[r * (D + 8) + c] = v;
        if (turned) turned[c * TURNED + r] = v;
    }
}
// s[n] = Σ_d left[warp's rows] · right[8 n ..] for C blocks of eight, both tiles of rows.
template <int N, int C> __device__ __forceinline__ void
scores(float (&s)[C][4], const unsigned short* left, const unsigned short* right) {
    constexpr int PITCH = 16 * N + 8;
    int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3;
    left += ((threadIdx.x >> 5) * 16 + g) * PITCH + q * 2, right += g * PITCH + q * 2;
#pragma unroll
    for (int n = 0; n < C; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
#pragma unroll
    for (int k = 0; k < N; k++) {
        u32 a[4] = {*(const u32*)(left + k * 16), *(const u32*)(left + 8 * PITCH + k * 16),
                    *(const u32*)(left + k * 16 + 8), *(const u32*)(left + 8 * PITCH + k * 16 + 8)};
#pragma unroll
        for (int n = 0; n < C; n++) {
            const unsigned short* at = right + n * 8 * PITCH + k * 16;
            u32 v[2] = {*(const u32*)at, *(const u32*)(at + 8)};
            mma_m16n8k16(s[n], a, v);
        }
    }
}
// out[n] += Σ_j p[.., j] · tile[j][8 n ..], the tile turned.
template <int N, int C> __device__ __forceinline__ void
accumulate(float (&out)[2 * N][4], const float (&p)[C][4], const unsigned short* turned) {
    int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3;
    turned += g * TURNED + q * 2;
#pragma unroll
    for (int k = 0; k < C / 2; k++) {
        u32 a[4] = {pair(p[2 * k][0], p[2 * k][1]), pair(p[2 * k][2], p[2 * k][3]),
                    pair(p[2 * k + 1][0], p[2 * k + 1][1]), pair(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < 2 * N; n++) {
            const unsigned short* at = turned + n * 8 * TURNED + k * 16;
            u32 v[2] = {*(const u32*)at, *(const u32*)(at + 8)};
            mma_m16n8k16(out[n], a, v);
        }
    }
}
// Row of element e of a warp's sums, and column of element e of its n-th block.
__device__ __forceinline__ int row_of(int first, int e) { return first + (threadIdx.x >> 5) * 16 + (threadIdx.x & 31) / 4 + e / 2 * 8; }
__device__ __forceinline__ int col_of(int first, int n, int e) { return first + n * 8 + (threadIdx.x & 3) * 2 + e % 2; }

// As sees of attention.cuh, in the 32 bits that positions have.
__device__ __forceinline__ bool sees(const Attention& a, const u32* padding, u64 b, int i, int j) {
    int tq = (int)a.tq, tk = (int)a.tk;
    return i < tq && j < tk && (!a.causal || j <= i + (tk - tq)) && !(padding && padding[b * a.tk + j]);
}

// Writes the sums of a block's rows, row i scaled by scale[i's half].
template <int N> __device__ __forceinline__ void
store(float* to, const Strides& s, u64 b, u64 h, u64 first, u64 count, u64 d, const float (&out)[2 * N][4], const float (&scale)[2]) {
    to += b * s.batch + h * s.head;
#pragma unroll
    for (int n = 0; n < 2 * N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = row_of((int)first, e), c = col_of(0, n, e);
            if (row < (int)count && c < (int)d) to[row * s.row + c] = out[n][e] * scale[e / 2];
        }
}
// Over the four lanes that share a row.
__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(FULL, v, 1));
    return fmaxf(v, __shfl_xor_sync(FULL, v, 2));
}
__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(FULL, v, 1);
    return v + __shfl_xor_sync(FULL, v, 2);
}

// Grid: (batch · heads, tiles of queries).
template <int N> __device__ __forceinline__ void
forward(float* o, float* lse, const float* q, const float* k, const float* v, const u32* padding, const Attention& a) {
    HL_DYNAMIC_SHARED(unsigned short, tiles);
    constexpr int PITCH = 16 * N + 8;
    unsigned short *ks = tiles, *vs = ks + ROWS * PITCH;
    unsigned short* qs = vs + 16 * N * TURNED;
    u64 b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, i0 = blockIdx.y * (u64)ROWS;
    float acc[2 * N][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
    load<N>(qs, nullptr, q, a.q, b, h, i0, a.tq, a.d);
    u64 end = a.causal ? min(a.tk, i0 + ROWS + (a.tk - a.tq)) : a.tk;
    for (u64 j0 = 0; j0 < end; j0 += ROWS) {
        __syncthreads();
        load<N>(ks, nullptr, k, a.k, b, h, j0, a.tk, a.d);
        load<N>(nullptr, vs, v, a.v, b, h, j0, a.tk, a.d);
        __syncthreads();
        float s[8][4], top[2] = {most[0], most[1]};
        scores<N>(s, qs, ks);
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                bool seen = sees(a, padding, b, row_of((int)i0, e), col_of((int)j0, n, e));
                s[n][e] = seen ? s[n][e] * a.scale : -INFINITY;
                top[e / 2] = fmaxf(top[e / 2], s[n][e]);
            }
        float part[2] = {0.f, 0.f}, shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = quad_max(top[r]);
            shrink[r] = top[r] == -INFINITY ? 1.f : expf(most[r] - top[r]);
            most[r] = top[r];
        }
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float p = s[n][e] == -INFINITY ? 0.f : expf(s[n][e] - most[e / 2]);
                part[e / 2] += p;
                if (a.dropout) p *= factor(a, blockIdx.x * a.tq + row_of((int)i0, e), col_of((int)j0, n, e));
                s[n][e] = p;
            }
#pragma unroll
        for (int r = 0; r < 2; r++) sum[r] = sum[r] * shrink[r] + quad_sum(part[r]);
#pragma unroll
        for (int n = 0; n < 2 * N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[n][e] *= shrink[e / 2];
        accumulate<N>(acc, s, vs);
    }
    float scale[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        scale[r] = sum[r] > 0.f || sum[r] != sum[r] ? 1.f / sum[r] : 0.f;
        int row = row_of((int)i0, 2 * r);
        if (row < (int)a.tq && (threadIdx.x & 3) == 0) lse[blockIdx.x * a.tq + row] = most[r] + logf(sum[r]);
    }
    store<N>(o, a.o, b, h, i0, a.tq, a.d, acc, scale);
}

// P and dS of scores, in place of S and dP; `keys` where the rows are the keys.
template <int C> __device__ __forceinline__ void
slopes(float (&s)[C][4], float (&dp)[C][4], const float* lse, const float* delta, const u32* padding,
       const Attention& a, u64 b, u64 row0, u64 col0, bool keys) {
    lse += blockIdx.x * a.tq, delta += blockIdx.x * a.tq;
#pragma unroll
    for (int n = 0; n < C; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = row_of((int)row0, e), col = col_of((int)col0, n, e), i = keys ? col : row, j = keys ? row : col;
            float p = 0.f, slope = 0.f;
            if (sees(a, padding, b, i, j)) {
                float f = a.dropout ? factor(a, blockIdx.x * a.tq + i, j) : 1.f;
                p = expf(s[n][e] * a.scale - lse[i]);
                slope = p * (dp[n][e] * f - delta[i]) * a.scale;
                p *= f;
            }
            s[n][e] = p, dp[n][e] = slope;
        }
}

// Grid: (batch · heads, tiles of keys).
template <int N> __device__ __forceinline__ void
backward_keys(float* dk, float* dv, const float* d_o, const float* lse, const float* delta, const float* q, const float* k,
              const float* v, const u32* padding, const Attention& a) {
    HL_DYNAMIC_SHARED(unsigned short, tiles);
    constexpr int PITCH = 16 * N + 8, TILE = ROWS * PITCH, TURN = 16 * N * TURNED;
    unsigned short *ks = tiles, *vs = ks + TILE, *qs = vs + TILE, *ds = qs + TILE, *qt = ds + TILE, *dt = qt + TURN;
    u64 b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, j0 = blockIdx.y * (u64)ROWS;
    float acc_k[2 * N][4] = {}, acc_v[2 * N][4] = {};
    load<N>(ks, nullptr, k, a.k, b, h, j0, a.tk, a.d);
    load<N>(vs, nullptr, v, a.v, b, h, j0, a.tk, a.d);
    u64 ahead = a.tk - a.tq, first = a.causal && j0 > ahead ? (j0 - ahead) / ROWS * ROWS : 0;
    for (u64 i0 = first; i0 < a.tq; i0 += ROWS) {
        __syncthreads();
        load<N>(qs, qt, q, a.q, b, h, i0, a.tq, a.d);
        load<N>(ds, dt, d_o, a.d_o, b, h, i0, a.tq, a.d);
        __syncthreads();
        // With heads of 128 the sums alone take 128 registers: the queries come 32 at a time then.
        constexpr int C = N == 8 ? 4 : 8;
#pragma unroll 1
        for (int c = 0; c < 8; c += C) {
            float s[C][4], dp[C][4];
            scores<N>(s, ks, qs + c * 8 * PITCH);
            scores<N>(dp, vs, ds + c * 8 * PITCH);
            slopes(s, dp, lse, delta, padding, a, b, j0, i0 + c * 8, true);
            accumulate<N>(acc_v, s, dt + c * 8);
            accumulate<N>(acc_k, dp, qt + c * 8);
        }
    }
    const float one[2] = {1.f, 1.f};
    store<N>(dk, a.dk, b, h, j0, a.tk, a.d, acc_k, one);
    store<N>(dv, a.dv, b, h, j0, a.tk, a.d, acc_v, one);
}

// Grid: (batch · heads, tiles of queries).
template <int N> __device__ __forceinline__ void
backward_queries(float* dq, const float* d_o, const float* lse, const float* delta, const float* q, const float* k,
                 const float* v, const u32* padding, const Attention& a) {
    HL_DYNAMIC_SHARED(unsigned short, tiles);
    constexpr int PITCH = 16 * N + 8, TILE = ROWS * PITCH;
    unsigned short *qs = tiles, *ds = qs + TILE, *ks = ds + TILE, *vs = ks + TILE, *kt = vs + TILE;
    u64 b = blockIdx.x / a.heads, h = blockIdx.x % a.heads, i0 = blockIdx.y * (u64)ROWS;
    float acc[2 * N][4] = {};
    load<N>(qs, nullptr, q, a.q, b, h, i0, a.tq, a.d);
    load<N>(ds, nullptr, d_o, a.d_o, b, h, i0, a.tq, a.d);
    u64 end = a.causal ? min(a.tk, i0 + ROWS + (a.tk - a.tq)) : a.tk;
    for (u64 j0 = 0; j0 < end; j0 += ROWS) {
        __syncthreads();
        load<N>(ks, kt, k, a.k, b, h, j0, a.tk, a.d);
        load<N>(vs, nullptr, v, a.v, b, h, j0, a.tk, a.d);
        __syncthreads();
        float s[8][4], dp[8][4];
        scores<N>(s, qs, ks);
        scores<N>(dp, ds, vs);
        slopes(s, dp, lse, delta, padding, a, b, i0, j0, false);
        accumulate<N>(acc, dp, kt);
    }
    const float one[2] = {1.f, 1.f};
    store<N>(dq, a.dq, b, h, i0, a.tq, a.d, acc, one);
}

// One kernel for each size of head: up to 16 N.
#define SIZE(n, N)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
    attention_mma_forward_##n(float* o, float* lse, const float* q, const float* k, const float* v, \
                              const u32* padding, Attention a) {                                   \
        forward<N>(o, lse, q, k, v, padding, a);                                                   \
    }                                                                                              \
    HL_KERNEL(attention_mma_forward_##n)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
    attention_mma_backward_keys_##n(float* dk, float* dv, const float* d_o, const float* lse, const float* delta, \
                                    const float* q, const float* k, const float* v, const u32* padding, Attention a) { \
        backward_keys<N>(dk, dv, d_o, lse, delta, q, k, v, padding, a);                            \
    }                                                                                              \
    HL_KERNEL(attention_mma_backward_keys_##n)                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
    attention_mma_backward_queries_##n(float* dq, const float* d_o, const float* lse, const float* delta, \
                                       const float* q, const float* k, const float* v, const u32* padding, Attention a) { \
        backward_queries<N>(dq, d_o, lse, delta, q, k, v, padding, a);                             \
    }                                                                                              \
    HL_KERNEL(attention_mma_backward_queries_##n)
SIZE(32, 2)
SIZE(64, 4)
SIZE(128, 8)
#undef SIZE
