// Sums of squares in f64, for the norm of the gradient.
//
// Two launches: `blocks` partial sums, then one block over those. Bytes: 4 an element; two FLOPs.
#include "common.cuh"

extern "C" __global__ void norm_squares(double* parts, const float* x, u64 n) {
    double sum = 0.0;
    HL_EACH(i, n) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
HL_KERNEL(norm_squares)

extern "C" __global__ void norm_total(double* total, const double* parts, u64 n) {
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
HL_KERNEL(norm_total)
