// Tensor cores: the one place with inline assembly, and its twin for the emulator.
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

#ifndef HL_EMU
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
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
