// What every kernel file shares: types, loops over elements, sums over a block, random numbers.
//
// Rules for all kernels:
// - every kernel is extern "C", is named after its file and listed with HL_KERNEL, so that the emulated
//   driver finds it by name;
// - no float atomics: sums are trees of fixed shape, the same bits at every run;
// - no inline assembly outside mma.cuh; no launches from here, no CUB, no cooperative groups;
// - all 32 lanes take part in every warp primitive;
// - an index that is out of range is never followed: the kernel reports it by `report`.
#pragma once
#ifdef HL_EMU
#include "emu/cuda_emu.h"
#include "emu/registry.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#define HL_KERNEL(name)
#define HL_DYNAMIC_SHARED(T, name) extern __shared__ __align__(16) unsigned char hl_dynamic[]; T* name = (T*)hl_dynamic
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;
typedef __half f16;

constexpr u32 FULL = 0xffffffffu;

// All i below n, over the whole grid.
#define HL_EACH(i, n) \
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)

// ---- strides ------------------------------------------------------------------------------------

// A row-major walk over `shape` beside up to three tensors with strides of their own, in elements.
struct Walk {
    u64 rank;
    u64 shape[8];
    u64 stride[3][8];
};
// Where element i of the walk lies in each of the first N tensors.
template <int N> __device__ __forceinline__ void locate(const Walk& walk, u64 i, u64 (&at)[N]) {
    for (int t = 0; t < N; t++) at[t] = 0;
    for (int axis = (int)walk.rank - 1; axis >= 0; axis--) {
        u64 rest = i / walk.shape[axis], index = i - rest * walk.shape[axis];
        for (int t = 0; t < N; t++) at[t] += index * walk.stride[t][axis];
        i = rest;
    }
}

// ---- sums ---------------------------------------------------------------------------------------

template <class T> __device__ __forceinline__ T warp_sum(T v) {
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, o));
    return v;
}
// The sum over a block of whole warps, in all its threads. Begins and ends with a barrier's worth of safety:
// it may be called twice in a row.
template <class T> __device__ __forceinline__ T block_sum(T v) {
    __shared__ T parts[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    v = warp_sum(lane < warps ? parts[lane] : T(0));
    __syncthreads();
    return v;
}
__device__ __forceinline__ float block_max(float v) {
    __shared__ float parts[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_max(v);
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    v = warp_max(lane < warps ? parts[lane] : -INFINITY);
    __syncthreads();
    return v;
}

// ---- errors -------------------------------------------------------------------------------------

// Tells the host that id `id` is not below `bound`. The largest one is kept; atomics on whole numbers do
// not depend on their order.
__device__ __forceinline__ void report(u32* fault, u32 id) { atomicMax(fault, id + 1 == 0 ? id : id + 1); }

// ---- conversions --------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }
__device__ __forceinline__ void from_float(float x, float& y) { y = x; }
__device__ __forceinline__ void from_float(float x, bf16& y) { y = __float2bfloat16(x); }
__device__ __forceinline__ void from_float(float x, f16& y) { y = __float2half(x); }

// ---- random numbers -----------------------------------------------------------------------------

// Philox4x32-10, the numbers of src/cpu/philox.rs to the bit. The stream (key and upper half of the
// counter) is derived from (seed, stream, step) on the host.
struct Stream {
    u32 key[2];
    u32 high[2];
};
// A stream, and where a launch that was recorded finds the one of its step instead.
struct Random {
    Stream stream;
    const Stream* changing;
    __device__ __forceinline__ Stream now() const { return changing ? *changing : stream; }
};
__device__ __forceinline__ void philox(const Stream& s, u64 block, u32 (&out)[4]) {
    u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = s.high[0], c3 = s.high[1], k0 = s.key[0], k1 = s.key[1];
    for (int round = 0; round < 10; round++) {
        u32 ah = __umulhi(c0, 0xD2511F53u), al = c0 * 0xD2511F53u;
        u32 bh = __umulhi(c2, 0xCD9E8D57u), bl = c2 * 0xCD9E8D57u;
        u32 n0 = bh ^ c1 ^ k0, n2 = ah ^ c3 ^ k1;
        c0 = n0, c1 = bl, c2 = n2, c3 = al;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}
