// Functions of two elements with broadcasting.
//
// One thread an element of the result, written in order; the inputs are found by their strides (0 along a
// broadcast axis). Bytes an element: 12 forward, up to 20 backward; 1 to 40 FLOPs.
#include "common.cuh"

// In the order of `Binary` in src/cpu/binary.rs.
enum { ADD, SUB, MUL, DIV, POW };

extern "C" __global__ void binary_forward(int op, float* y, const float* a, const float* b, Walk walk, u64 n) {
    HL_EACH(i, n) {
        u64 at[2];
        locate(walk, i, at);
        float u = a[at[0]], v = b[at[1]];
        y[i] = op == ADD ? u + v : op == SUB ? u - v : op == MUL ? u * v : op == DIV ? u / v : powf(u, v);
    }
}
HL_KERNEL(binary_forward)

// Gradients of the broadcast shape; da or db may be null.
extern "C" __global__ void binary_backward(int op, float* da, float* db, const float* dy, const float* a, const float* b,
                                           Walk walk, u64 n) {
    HL_EACH(i, n) {
        u64 at[2];
        locate(walk, i, at);
        float u = a[at[0]], v = b[at[1]], d = dy[i], left, right;
        switch (op) {
        case ADD: left = d, right = d; break;
        case SUB: left = d, right = -d; break;
        case MUL: left = d * v, right = d * u; break;
        case DIV: left = d / v, right = -d * u / (v * v); break;
        default:
            left = v == 0.f ? 0.f : d * v * powf(u, v - 1.f);
            // 0 to a power v >= 0 stays what it is when v moves.
            right = u == 0.f && v >= 0.f ? 0.f : d * powf(u, v) * logf(u);
        }
        if (da) da[i] = left;
        if (db) db[i] = right;
    }
}
HL_KERNEL(binary_backward)

extern "C" __global__ void binary_add_assign(float* y, const float* x, u64 n) {
    HL_EACH(i, n) y[i] += x[i];
}
HL_KERNEL(binary_add_assign)

extern "C" __global__ void binary_select(float* y, const u32* cond, const float* a, const float* b, Walk walk, u64 n) {
    HL_EACH(i, n) {
        u64 at[3];
        locate(walk, i, at);
        y[i] = cond[at[0]] ? a[at[1]] : b[at[2]];
    }
}
HL_KERNEL(binary_select)
