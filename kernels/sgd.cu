// Stochastic gradient descent with momentum; the formulae are in src/cpu/sgd.rs.
//
// One thread an element. Bytes an element: 12, 20 with momentum; about 6 FLOPs.
#include "common.cuh"

struct Sgd {
    float lr, momentum, fresh, weight_decay, grad_scale;
    u32 nesterov, first, zero_grad;
};

// `buffer` is null where there is no momentum.
extern "C" __global__ void sgd_update(float* p, float* g, float* buffer, Sgd o, const Sgd* changing, u64 n) {
    if (changing) o = *changing; // recorded: the numbers of this step
    HL_EACH(i, n) {
        float d = g[i] * o.grad_scale + o.weight_decay * p[i], step = d;
        if (buffer) {
            float b = o.first ? d : o.momentum * buffer[i] + o.fresh * d;
            buffer[i] = b;
            step = o.nesterov ? d + o.momentum * b : b;
        }
        p[i] -= o.lr * step;
        if (o.zero_grad) g[i] = 0.f;
    }
}
HL_KERNEL(sgd_update)
