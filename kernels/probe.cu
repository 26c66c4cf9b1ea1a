// The primitives of common.cuh and mma.cuh one at a time, on numbers whose results are known without them.
//
// Whoever wrote a kernel and its emulator may have misread the same page. tests/cuda/probe.rs computes what each primitive
// must give from its definition, and kernels/gpu.sh asks a real device first of all. One warp each; a few words.
#include "mma.cuh"

// out[i] = x[i] rounded to bf16.
extern "C" __global__ void probe_bits(u32* out, const float* x, u64 n) {
    HL_EACH(i, n) out[i] = bits(x[i]);
}
HL_KERNEL(probe_bits)

// out[4 i ..]: block i of a stream of random numbers.
extern "C" __global__ void probe_philox(u32* out, Random random, u64 n) {
    HL_EACH(i, n) {
        u32 words[4];
        philox(random.now(), i, words);
        for (int w = 0; w < 4; w++) out[4 * i + w] = words[w];
    }
}
HL_KERNEL(probe_philox)

// d = a b of one mma, each lane's words as they lie in registers: a [32][4], b [32][2], d [32][4].
extern "C" __global__ void probe_mma(float* d, const u32* a, const u32* b) {
    u32 u[4], v[2], lane = threadIdx.x;
    for (int i = 0; i < 4; i++) u[i] = a[4 * lane + i];
    for (int i = 0; i < 2; i++) v[i] = b[2 * lane + i];
    float sum[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    mma_m16n8k16(sum, u, v);
    for (int i = 0; i < 4; i++) d[4 * lane + i] = sum[i];
}
HL_KERNEL(probe_mma)

// Row r of x [64][8] (16 bits an element) to shared memory by copy_async, rows from 48 on as zeros; then matrices of
// the rows 0 .. 32 as they are and of 32 .. 64 turned. out [2][32][4].
extern "C" __global__ void probe_matrices(u32* out, const u32* x) {
    __shared__ __align__(16) unsigned short rows[64 * 8];
    u32 lane = threadIdx.x, plain[4], turned[4];
    copy_async(rows + lane * 8, x + lane * 4, true);
    copies_committed();
    copy_async(rows + (lane + 32) * 8, x + (lane + 32) * 4, lane + 32 < 48);
    copies_committed();
    copies_arrived<1>();
    __syncthreads();
    load_matrices(plain, rows + lane * 8);
    copies_arrived<0>();
    __syncthreads();
    load_matrices_turned(turned, rows + (lane + 32) * 8);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = plain[i], out[128 + 4 * lane + i] = turned[i];
}
HL_KERNEL(probe_matrices)

// Sums and largest values over a block of 256, [2][256].
extern "C" __global__ void probe_sums(float* out, const float* x) {
    out[threadIdx.x] = block_sum(x[threadIdx.x]);
    out[256 + threadIdx.x] = block_max(x[threadIdx.x]);
}
HL_KERNEL(probe_sums)
