// Dropout by counting: the mask of src/cpu/dropout.rs, bit for bit.
//
// Elements go in groups of 64, which share sixteen blocks of random numbers: word w of block j decides on
// element 16 w + j of the group. So a thread makes one block and serves four elements.
// Bytes an element: 8; about 25 integer operations.
#include "common.cuh"

extern "C" __global__ void dropout_forward(float* y, const float* x, u32 below, float scale, Random random, u64 n, u64 blocks) {
    const Stream stream = random.now();
    HL_EACH(block, blocks) {
        u32 words[4];
        philox(stream, block, words);
        for (int w = 0; w < 4; w++) {
            u64 i = block / 16 * 64 + w * 16 + block % 16;
            if (i < n) y[i] = words[w] < below ? 0.f : x[i] * scale;
        }
    }
}
HL_KERNEL(dropout_forward)
