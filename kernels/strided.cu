// Copies between layouts, and conversions of type.
//
// One thread an element, the grid walks on in strides. Copies move bytes and do not care what they mean,
// so there is one kernel for each element size. Bytes: an element read and one written; no FLOPs.
// The contiguous side is always addressed in order, so its accesses are coalesced.
#include "common.cuh"

template <class E> __device__ __forceinline__ void gather(E* out, const E* src, const Walk& walk, u64 n) {
    HL_EACH(i, n) {
        u64 at[1];
        locate(walk, i, at);
        out[i] = src[at[0]];
    }
}
template <class E> __device__ __forceinline__ void put(E* dst, const E* src, const Walk& walk, u64 n) {
    HL_EACH(i, n) {
        u64 at[1];
        locate(walk, i, at);
        dst[at[0]] = src[i];
    }
}

#define COPIES(size, E)                                                                            \
    extern "C" __global__ void strided_copy_##size(E* out, const E* src, Walk walk, u64 n) {       \
        gather(out, src, walk, n);                                                                 \
    }                                                                                              \
    extern "C" __global__ void strided_scatter_##size(E* dst, const E* src, Walk walk, u64 n) {    \
        put(dst, src, walk, n);                                                                    \
    }                                                                                              \
    HL_KERNEL(strided_copy_##size)                                                                 \
    HL_KERNEL(strided_scatter_##size)
COPIES(2, unsigned short)
COPIES(4, u32)
COPIES(8, u64)

// Through f32, which holds every value of the 16-bit types; ids beyond 2^24 stay exact because u32 to u32
// is a copy.
#define CAST(a, A, b, B)                                                                           \
    extern "C" __global__ void strided_cast_##a##_##b(B* out, const A* src, u64 n) {               \
        HL_EACH(i, n) from_float(to_float(src[i]), out[i]);                                        \
    }                                                                                              \
    HL_KERNEL(strided_cast_##a##_##b)
CAST(f32, float, bf16, bf16)
CAST(f32, float, f16, f16)
CAST(bf16, bf16, f32, float)
CAST(bf16, bf16, f16, f16)
CAST(f16, f16, f32, float)
CAST(f16, f16, bf16, bf16)

// Rust's `as`: towards zero, held at both ends, NaN to 0.
__device__ __forceinline__ u32 to_id(float x) {
    if (!(x > 0.f)) return 0;
    return x >= 4294967296.f ? 0xffffffffu : (u32)x;
}
#define CAST_IDS(a, A)                                                                             \
    extern "C" __global__ void strided_cast_##a##_u32(u32* out, const A* src, u64 n) {             \
        HL_EACH(i, n) out[i] = to_id(to_float(src[i]));                                            \
    }                                                                                              \
    extern "C" __global__ void strided_cast_u32_##a(A* out, const u32* src, u64 n) {               \
        HL_EACH(i, n) from_float((float)src[i], out[i]);                                           \
    }                                                                                              \
    HL_KERNEL(strided_cast_##a##_u32)                                                              \
    HL_KERNEL(strided_cast_u32_##a)
CAST_IDS(f32, float)
CAST_IDS(bf16, bf16)
CAST_IDS(f16, f16)
