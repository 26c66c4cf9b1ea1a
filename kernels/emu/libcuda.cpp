// A stand-in for the NVIDIA driver: the functions of libcuda that src/cuda calls, on the emulator.
//
// Built with the kernels as libcuda.so and named by HANDLOOM_LIBCUDA, it lets the production path of the
// program run without a GPU: allocator, copies, launches, argument order and every kernel's numbers.
// Fresh memory holds 0xFF, a NaN, so that reading what was never written shows.
//
//     g++ -std=c++17 -O2 -fPIC -shared -DHL_EMU -o libcuda.so kernels/emu/libcuda.cpp
#include "../attention.cuh"
#include "../mma.cuh"
namespace adamw {
#include "../adamw.cu"
}
namespace attention {
#include "../attention.cu"
}
namespace attention_mma {
#include "../attention_mma.cu"
}
namespace bce_with_logits {
#include "../bce_with_logits.cu"
}
namespace binary {
#include "../binary.cu"
}
namespace cross_entropy {
#include "../cross_entropy.cu"
}
namespace dropout {
#include "../dropout.cu"
}
namespace embedding {
#include "../embedding.cu"
}
namespace gemm {
#include "../gemm.cu"
}
namespace gru {
#include "../gru.cu"
}
namespace index_ {
#include "../index.cu"
}
namespace layer_norm {
#include "../layer_norm.cu"
}
namespace lstm {
#include "../lstm.cu"
}
namespace norm {
#include "../norm.cu"
}
namespace reduce {
#include "../reduce.cu"
}
namespace rms_norm {
#include "../rms_norm.cu"
}
namespace rnn {
#include "../rnn.cu"
}
namespace sgd {
#include "../sgd.cu"
}
namespace softmax {
#include "../softmax.cu"
}
namespace strided {
#include "../strided.cu"
}
namespace unary {
#include "../unary.cu"
}
#undef threadIdx

typedef int Result;
typedef unsigned long long Pointer;
static int setting(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

extern "C" {
Result cuInit(unsigned) { return 0; }
Result cuDriverGetVersion(int* version) { *version = 13000; return 0; }
Result cuDeviceGetCount(int* count) { *count = setting("EMU_DEVICES", 1); return 0; }
Result cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
Result cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "emulated GPU"); return 0; }
Result cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = size_t(4) << 30; return 0; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 75: *value = setting("EMU_CAPABILITY", 90) / 10; break; // compute capability, major
    case 76: *value = setting("EMU_CAPABILITY", 90) % 10; break; // and minor
    case 16: *value = 4; break;                                  // multiprocessors
    case 97: *value = 227 * 1024; break;                         // shared memory of a block, opted in
    default: *value = 0;
    }
    return 0;
}
Result cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)1; return 0; }
Result cuCtxSetCurrent(void*) { return 0; }
Result cuMemGetInfo_v2(size_t* free, size_t* total) { *free = *total = size_t(4) << 30; return 0; }
Result cuStreamCreate(void** stream, unsigned) { *stream = (void*)2; return 0; }
Result cuStreamSynchronize(void*) { return 0; } // everything is done when its call returns
Result cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
    void* memory = aligned_alloc(512, (bytes + 511) / 512 * 512);
    if (!memory) return 2;
    memset(memory, 0xff, bytes);
    *pointer = (Pointer)memory;
    return 0;
}
Result cuMemFree_v2(Pointer pointer) { free((void*)pointer); return 0; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void*) {
    memcpy((void*)to, from, bytes);
    return 0;
}
Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void*) {
    memcpy(to, (void*)from, bytes);
    return 0;
}
Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void*) {
    memset((void*)to, value, bytes);
    return 0;
}
Result cuModuleLoadData(void** module, const void*) { *module = (void*)4; return 0; }
Result cuModuleGetFunction(void** function, void*, const char* name) {
    auto found = emu::kernels().find(name);
    if (found == emu::kernels().end()) return 500;
    *function = &found->second;
    return 0;
}
Result cuFuncSetAttribute(void*, int, int) { return 0; }
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void*, void** arguments, void**) {
    // The limits of a real device.
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || shared > 227 * 1024) return 1;
    emu::launch({gx, gy, gz}, {bx, by, bz}, shared, [=] { (*(emu::Call*)function)(arguments); });
    return 0;
}
Result cuGetErrorString(Result code, const char** text) {
    *text = code == 2 ? "out of memory" : code == 500 ? "named symbol not found" : "invalid argument";
    return 0;
}
Result cuGetErrorName(Result, const char** text) { *text = "EMULATED"; return 0; }
}
