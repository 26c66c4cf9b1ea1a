// What both generations of attention share: sizes, strides, masks, dropout.
#pragma once
#include "common.cuh"

struct Strides { u64 batch, head, row; };
struct Attention {
    u64 batch, heads, tq, tk, d;
    Strides q, k, v, o, d_o, dq, dk, dv;
    float scale, kept; // kept = 1/(1−p), 0 for p = 1
    u32 causal, dropout, below;
    u32 unused;
    Random random;
};

// Whether query i of batch b sees key j.
__device__ __forceinline__ bool sees(const Attention& a, const u32* padding, u64 b, u64 i, u64 j) {
    return i < a.tq && j < a.tk && (!a.causal || j <= i + (a.tk - a.tq)) && !(padding && padding[b * a.tk + j]);
}
// The factor that dropout puts on the probability of key j for row `row` of all batches and heads.
__device__ __forceinline__ float factor(const Attention& a, u64 row, u64 j) {
    if (!a.dropout) return 1.f;
    u32 words[4];
    philox(a.random.now(), row * ((a.tk + 63) / 64 * 16) + j / 64 * 16 + j % 16, words);
    u32 w = j % 64 / 16; // chosen without an index, so that the words stay in registers
    u32 word = w == 0 ? words[0] : w == 1 ? words[1] : w == 2 ? words[2] : words[3];
    return word >= a.below ? a.kept : 0.f;
}
