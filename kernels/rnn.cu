// The cell of a simple recurrence: the pass over a step's sums. The products are gemm.cu's.
//
// One thread an element of h. Bytes an element: 12 forward, 16 backward.
#include "common.cuh"

// z holds W h (written over by h): h = φ(gx + (z + bias)).
extern "C" __global__ void rnn_cell(float* z, const float* gx, const float* bias, u64 h, int relu, u64 n) {
    HL_EACH(i, n) {
        float v = gx[i] + (z[i] + (bias ? bias[i % h] : 0.f));
        z[i] = relu ? (v > 0.f || v != v ? v : 0.f) : tanhf(v);
    }
}
HL_KERNEL(rnn_cell)

// dz = (dy + carry) φ′; dy may be null.
extern "C" __global__ void rnn_cell_backward(float* dz, const float* dy, const float* carry, const float* y, int relu, u64 n) {
    HL_EACH(i, n) {
        float d = carry[i] + (dy ? dy[i] : 0.f), v = y[i];
        dz[i] = relu ? (v > 0.f ? d : 0.f) : d * (1.f - v * v);
    }
}
HL_KERNEL(rnn_cell_backward)
