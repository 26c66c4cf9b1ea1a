// Picking elements by index along the middle axis of [outer, n, inner], and the way back.
//
// Forward: one thread an element. The sums of the way back have one thread for each (outer, inner) that
// goes through the indices in order: no atomics, the order of src/cpu/index.rs.
// Bytes an element: 8 forward, 12 backward; one FLOP backward.
#include "common.cuh"

template <class E> __device__ __forceinline__ void
select(E* y, const E* x, const u32* ids, u64 n, u64 m, u64 inner, u64 numel, u32* fault) {
    HL_EACH(i, numel) {
        u32 id = ids[i / inner % m];
        if (id >= n) report(fault, id), id = 0;
        y[i] = x[(i / (m * inner) * n + id) * inner + i % inner];
    }
}
template <class E> __device__ __forceinline__ void
gather(E* y, const E* x, const u32* ids, u64 n, u64 m, u64 inner, u64 numel, u32* fault) {
    HL_EACH(i, numel) {
        u32 id = ids[i];
        if (id >= n) report(fault, id), id = 0;
        y[i] = x[(i / (m * inner) * n + id) * inner + i % inner];
    }
}
#define FORWARD(size, E)                                                                           \
    extern "C" __global__ void index_select_##size(E* y, const E* x, const u32* ids, u64 n, u64 m, u64 inner, u64 numel, u32* fault) { \
        select(y, x, ids, n, m, inner, numel, fault);                                              \
    }                                                                                              \
    extern "C" __global__ void index_gather_##size(E* y, const E* x, const u32* ids, u64 n, u64 m, u64 inner, u64 numel, u32* fault) { \
        gather(y, x, ids, n, m, inner, numel, fault);                                              \
    }                                                                                              \
    HL_KERNEL(index_select_##size)                                                                 \
    HL_KERNEL(index_gather_##size)
FORWARD(2, unsigned short)
FORWARD(4, u32)
FORWARD(8, u64)
#undef FORWARD

// dx[o, ids[j], i] += dy[o, j, i], j in order. One thread for each (o, i).
extern "C" __global__ void index_add(float* dx, const float* dy, const u32* ids, u64 n, u64 m, u64 inner, u64 columns) {
    HL_EACH(c, columns) {
        u64 o = c / inner, i = c % inner;
        for (u64 j = 0; j < m; j++)
            if (ids[j] < n) dx[(o * n + ids[j]) * inner + i] += dy[(o * m + j) * inner + i];
    }
}
HL_KERNEL(index_add)

// y[o, ids[o, j, i], i] += src[o, j, i], j in order.
extern "C" __global__ void index_scatter_add(float* y, const float* src, const u32* ids, u64 n, u64 m, u64 inner,
                                             u64 columns, u32* fault) {
    HL_EACH(c, columns) {
        u64 o = c / inner, i = c % inner;
        for (u64 j = 0; j < m; j++) {
            u64 at = (o * m + j) * inner + i;
            u32 id = ids[at];
            if (id < n) y[(o * n + id) * inner + i] += src[at];
            else report(fault, id);
        }
    }
}
HL_KERNEL(index_scatter_add)
