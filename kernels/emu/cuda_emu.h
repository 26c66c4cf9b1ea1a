// The part of CUDA that kernels/*.cu use, for a host C++ compiler: one fiber for each thread of a block.
//
// A block's threads are fibers on stacks of their own. A fiber runs until it meets a barrier
// (__syncthreads, or a warp primitive, which is a barrier of its warp), then the scheduler goes on with the
// next one. Every order of threads between two barriers is legal on a GPU, so a kernel must give the same
// result under all of them: EMU_ORDER=0 runs threads upwards, 1 downwards, 2 in an order that is shuffled
// anew between barriers. A missing barrier shows as a wrong result under one of the three, a divergent one
// stops with "deadlock".
//
// Blocks run one after the other. What this cannot show: the memory model between blocks, bank conflicts,
// occupancy and speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <vector>
#include <sys/mman.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

// bfloat16: the upper half of an f32, rounded to nearest even.
struct __nv_bfloat16 { uint16_t bits; };
static inline float __bfloat162float(__nv_bfloat16 b) {
    uint32_t u = uint32_t(b.bits) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline __nv_bfloat16 __float2bfloat16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return {uint16_t(0x7fff)};
    return {uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
// IEEE half, by the compiler's own type.
struct __half { _Float16 value; };
static inline float __half2float(__half h) { return float(h.value); }
static inline __half __float2half(float f) { return {_Float16(f)}; }

namespace emu {
// Saves the callee's registers and the stack pointer, and takes up those of another fiber.
extern "C" void emu_switch(void** save, void* load);
#if defined(__x86_64__)
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    " push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n ret\n");
#else
#error "the fiber switch is written for x86-64"
#endif

enum State { RUN, BARRIER, WARP, DONE };
struct Copy { void* to; const void* from; }; // 16 bytes, zeros where `from` is null
struct Fiber {
    void* sp;
    State state;
    uint3 tid;
    unsigned lane, warp;
    char* stack;
    std::vector<Copy> started;
    std::deque<std::vector<Copy>> committed;
};
struct Warp { alignas(16) unsigned char slot[2][32][64]; unsigned phase = 0; };
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    void* scheduler = nullptr;
    Fiber* current = nullptr;
    std::function<void()>* body = nullptr;
    std::mt19937 random;
    int order = 0;
    std::vector<char> dynamic;
};
inline thread_local Block* block = nullptr;
inline thread_local uint3 block_index, block_size, grid_size;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK = 512 * 1024; // frames are larger
#else
constexpr size_t STACK = 64 * 1024;
#endif

inline void yield(State state) {
    block->current->state = state;
    emu_switch(&block->current->sp, block->scheduler);
}
inline void enter() {
    (*block->body)();
    yield(DONE);
    abort();
}
inline void run_block(Block& b, unsigned threads) {
    block = &b;
    unsigned warps = (threads + 31) / 32;
    b.warps.assign(warps, Warp());
    while (b.fibers.size() < threads) {
        Fiber fiber{};
        fiber.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        b.fibers.push_back(fiber);
    }
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = b.fibers[i];
        fiber.lane = i & 31, fiber.warp = i >> 5, fiber.state = RUN;
        fiber.started.clear(), fiber.committed.clear();
        fiber.tid = {i % block_size.x, (i / block_size.x) % block_size.y, i / (block_size.x * block_size.y)};
        void** sp = (void**)(fiber.stack + STACK - 64);
        *--sp = nullptr;
        *--sp = (void*)enter;
        sp -= 6;
        memset(sp, 0, 48);
        fiber.sp = sp;
        order[i] = b.order == 1 ? threads - 1 - i : i;
    }
    unsigned done = 0;
    while (done < threads) {
        if (b.order == 2) std::shuffle(order.begin(), order.end(), b.random);
        bool progress = false;
        for (unsigned i : order) {
            Fiber& fiber = b.fibers[i];
            if (fiber.state != RUN) continue;
            progress = true;
            b.current = &fiber;
            emu_switch(&b.scheduler, fiber.sp);
            if (fiber.state == DONE) done++;
        }
        // A warp goes on when all its living threads wait for it; a block likewise.
        unsigned waiting = 0;
        for (unsigned w = 0; w < warps; w++) {
            unsigned first = w * 32, last = std::min(threads, first + 32), at = 0, alive = 0;
            for (unsigned i = first; i < last; i++) {
                at += b.fibers[i].state == WARP;
                alive += b.fibers[i].state != DONE;
                waiting += b.fibers[i].state == BARRIER;
            }
            if (at == 0 || at != alive) continue;
            for (unsigned i = first; i < last; i++)
                if (b.fibers[i].state == WARP) b.fibers[i].state = RUN;
            b.warps[w].phase ^= 1;
            progress = true;
        }
        if (waiting > 0 && waiting == threads - done) {
            for (unsigned i = 0; i < threads; i++)
                if (b.fibers[i].state == BARRIER) b.fibers[i].state = RUN;
            progress = true;
        }
        if (!progress) {
            fprintf(stderr, "emulated GPU: deadlock, threads of a block wait at different barriers\n");
            abort();
        }
    }
}
inline void launch(dim3 grid, dim3 threads, unsigned shared, std::function<void()> body) {
    static thread_local Block b;
    const char* order = getenv("EMU_ORDER");
    b.order = order ? atoi(order) : 0;
    b.body = &body;
    // Shared memory holds NaN to begin with.
    grid_size = {grid.x, grid.y, grid.z}, block_size = {threads.x, threads.y, threads.z};
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                b.dynamic.assign(shared + 16, char(0xff));
                block_index = {x, y, z};
                run_block(b, threads.x * threads.y * threads.z);
            }
}
// Every lane shows `value` and gets that of lane `from`.
template <class T> T exchange(T value, unsigned from) {
    static_assert(sizeof(T) <= 64);
    Warp& warp = block->warps[block->current->warp];
    unsigned phase = warp.phase;
    memcpy(warp.slot[phase][block->current->lane], &value, sizeof(T));
    yield(WARP);
    memcpy(&value, block->warps[block->current->warp].slot[phase][from & 31], sizeof(T));
    return value;
}
}  // namespace emu

#define threadIdx (emu::block->current->tid)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)
#define HL_DYNAMIC_SHARED(T, name) T* name = (T*)(((uintptr_t)emu::block->dynamic.data() + 15) & ~(uintptr_t)15)

static inline void __syncthreads() { emu::yield(emu::BARRIER); }
static inline void __syncwarp(unsigned = ~0u) { emu::yield(emu::WARP); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return emu::exchange(v, emu::block->current->lane ^ mask); }
template <class T> T __shfl_sync(unsigned, T v, int from) { return emu::exchange(v, from); }
static inline unsigned __ballot_sync(unsigned, bool yes) {
    using namespace emu;
    Warp& warp = block->warps[block->current->warp];
    unsigned phase = warp.phase, mine = yes, all = 0;
    memcpy(warp.slot[phase][block->current->lane], &mine, 4);
    yield(WARP);
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned index = block->current->warp * 32 + lane, one = 0;
        if (index >= block_size.x * block_size.y * block_size.z) break;
        memcpy(&one, block->warps[block->current->warp].slot[phase][lane], 4);
        all |= (one & 1) << lane;
    }
    return all;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
static inline unsigned atomicMax(unsigned* p, unsigned v) { unsigned old = *p; *p = std::max(old, v); return old; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
