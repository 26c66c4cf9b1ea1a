// Table lookup and its gradient.
//
// Forward: one thread an element. Backward: dw (all 0 before) gets each row of dy added to the row of its
// token, in the order of the tokens and without atomics. A block a token: it looks whether the
// token has occurred before; if so it is done, and if not it goes through the rest of the ids and adds every row of this
// token. The ids are read n²/2 times in all, from the cache: 65,536 tokens take 2·10⁹ comparisons.
// Bytes an element: 8 forward, 4 backward plus 4 for each row of dw that is hit; one FLOP.
#include "common.cuh"

template <class E> __device__ __forceinline__ void
lookup(E* y, const E* w, const u32* ids, u64 width, u64 vocab, u64 n, u32* fault) {
    HL_EACH(i, n) {
        u32 id = ids[i / width];
        if (id >= vocab) report(fault, id), id = 0;
        y[i] = w[id * width + i % width];
    }
}
#define FORWARD(size, E)                                                                           \
    extern "C" __global__ void embedding_forward_##size(E* y, const E* w, const u32* ids, u64 width, u64 vocab, u64 n, u32* fault) { \
        lookup(y, w, ids, width, vocab, n, fault);                                                 \
    }                                                                                              \
    HL_KERNEL(embedding_forward_##size)
FORWARD(2, unsigned short)
FORWARD(4, u32)
FORWARD(8, u64)
#undef FORWARD

// Grid: tokens; a block of 256.
extern "C" __global__ void embedding_backward(float* dw, const float* dy, const u32* ids, u64 tokens, u64 vocab, u64 width) {
    __shared__ u32 found[8];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u64 token = blockIdx.x;
    u32 id = ids[token];
    if (id >= vocab) return; // forward has reported it; the whole block
    float earlier = 0.f;
    for (u64 j = threadIdx.x; j < token; j += blockDim.x)
        if (ids[j] == id) { earlier = 1.f; break; }
    if (block_sum(earlier) > 0.f) return; // the block of its first occurrence does the work
    for (u64 c0 = 0; c0 < width; c0 += blockDim.x) {
        u64 column = c0 + threadIdx.x;
        float sum = column < width ? dw[id * width + column] : 0.f;
        for (u64 j0 = token; j0 < tokens; j0 += blockDim.x) {
            u64 j = j0 + threadIdx.x;
            u32 mask = __ballot_sync(FULL, j < tokens && ids[j] == id);
            if (lane == 0) found[warp] = mask;
            __syncthreads();
            for (int w = 0; w < 8; w++)
                for (u32 rest = found[w]; rest; rest &= rest - 1) {
                    u64 row = j0 + w * 32 + (__ffs((int)rest) - 1);
                    if (column < width) sum += dy[row * width + column];
                }
            __syncthreads();
        }
        if (column < width) dw[id * width + column] = sum;
    }
}
HL_KERNEL(embedding_backward)
