// Tensor cores and what feeds them: the one place with inline assembly, and its twin for the emulator.
//
// copy_async starts to copy 16 bytes from global to shared memory (or to write 16 zeros); copies_committed ends a
// group of copies, copies_arrived<N> waits until all groups of this thread but the last N are there. A barrier
// then shows them to the other threads. The emulator copies as late as it may, and fills the place with NaN until then.
//
// load_matrices (ldmatrix) reads four 8 × 8 matrices of 16-bit elements from shared memory. Lane l gives the address
// of row l % 8 of matrix l / 8, 16 bytes, and gets of each matrix elements 2q and 2q + 1 of row g, with g = l / 4 and
// q = l % 4; turned, of column g.
//
// mma.sync m16n8k16 multiplies a 16 × 16 matrix A with a 16 × 8 matrix B, both bf16, and adds to 16 × 8 sums
// in f32, one warp together. Lane l has, with g = l / 4 and q = l % 4:
//
//     a[0], a[1]   A[g][2q..], A[g + 8][2q..]         (two neighbours of a row in one word)
//     a[2], a[3]   A[g][2q + 8..], A[g + 8][2q + 8..]
//     b[0], b[1]   B[2q..][g], B[2q + 8..][g]
//     d[0..2]      D[g][2q], D[g][2q + 1]
//     d[2..4]      D[g + 8][2q], D[g + 8][2q + 1]
#pragma once
#include "common.cuh"

// Two numbers as bf16 in one word.
__device__ __forceinline__ unsigned short bits(float x) {
    bf16 rounded = __float2bfloat16(x);
    return *(const unsigned short*)&rounded;
}
__device__ __forceinline__ u32 pair(float low, float high) { return bits(low) | (u32)bits(high) << 16; }

#ifndef HL_EMU
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy_async(void* to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_committed() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int N> __device__ __forceinline__ void copies_arrived() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}
__device__ __forceinline__ void load_matrices(u32 (&d)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrices_turned(u32 (&d)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
static inline void copy_async(void* to, const void* from, bool inside) {
    memset(to, 0xff, 16);
    emu::block->current->started.push_back({to, inside ? from : nullptr});
}
static inline void copies_committed() {
    emu::Fiber& fiber = *emu::block->current;
    fiber.committed.push_back(std::move(fiber.started));
    fiber.started.clear();
}
template <int N> static inline void copies_arrived() {
    emu::Fiber& fiber = *emu::block->current;
    while (fiber.committed.size() > N) {
        for (const emu::Copy& copy : fiber.committed.front()) {
            if (copy.from) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        fiber.committed.pop_front();
    }
}
// All lanes show their rows; `element` picks what a lane gets.
template <class F> static inline void load_rows(u32 (&d)[4], const void* row, F element) {
    using namespace emu;
    Warp& warp = block->warps[block->current->warp];
    unsigned phase = warp.phase, lane = block->current->lane;
    if ((uintptr_t)row % 16) abort();
    memcpy(warp.slot[phase][lane], row, 16);
    yield(WARP);
    for (int i = 0; i < 4; i++) {
        auto at = [&](unsigned r, unsigned c) { return u32(((const unsigned short*)warp.slot[phase][i * 8 + r])[c]); };
        d[i] = element(at, lane / 4, lane % 4 * 2);
    }
}
static inline void load_matrices(u32 (&d)[4], const void* row) {
    load_rows(d, row, [](auto at, unsigned g, unsigned q) { return at(g, q) | at(g, q + 1) << 16; });
}
static inline void load_matrices_turned(u32 (&d)[4], const void* row) {
    load_rows(d, row, [](auto at, unsigned g, unsigned q) { return at(q, g) | at(q + 1, g) << 16; });
}
static inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    using namespace emu;
    struct Words { u32 a[4], b[2]; } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    Warp& warp = block->warps[block->current->warp];
    unsigned phase = warp.phase, lane = block->current->lane;
    memcpy(warp.slot[phase][lane], &mine, sizeof mine);
    yield(WARP);
    auto value = [](u32 word, int upper) { return __bfloat162float({uint16_t(upper ? word >> 16 : word)}); };
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = d[i];
        for (unsigned k = 0; k < 16; k++) {
            const Words* left = (const Words*)warp.slot[phase][row % 8 * 4 + k % 8 / 2];
            const Words* right = (const Words*)warp.slot[phase][column * 4 + k % 8 / 2];
            sum += value(left->a[row / 8 + k / 8 * 2], k % 2) * value(right->b[k / 8], k % 2);
        }
        d[i] = sum;
    }
}
#endif
