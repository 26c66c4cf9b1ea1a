// A stand-in for the NVIDIA driver: the functions of libcuda that src/cuda calls, on the emulator.
//
// Built with the kernels as libcuda.so and named by HANDLOOM_LIBCUDA, it lets the production path of the
// program run without a GPU: allocator, copies, launches, argument order and every kernel's numbers.
// Fresh memory holds 0xFF, a NaN, so that reading what was never written shows.
//
// A stream does its work as late as it may: when somebody waits for it, or for an event in it. So a copy that nobody has
// waited for has not happened, and shows. While a stream is captured its work goes to the graph; what a real
// driver refuses meanwhile (memory, waiting, loading) is refused, and spoils the capture as it does there.
//
//     g++ -std=c++17 -O2 -fPIC -shared -DHL_EMU -o libcuda.so kernels/emu/libcuda.cpp
#include <deque>
#include <memory>
#include <mutex>
#include <set>
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
namespace gemm_bf16 {
#include "../gemm_bf16.cu"
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
namespace probe {
#include "../probe.cu"
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

enum { REFUSED = 900, SPOILED = 901 }; // while a stream is captured; the capture itself
using Work = std::function<void()>;
struct Graph { std::vector<Work> work; };
struct Queue {
    std::deque<Work> waiting;
    size_t done = 0, asked = 0; // pieces of work
    Graph* capture = nullptr;
    bool spoiled = false;
};
struct Event { Queue* stream = nullptr; size_t until = 0; };
static std::recursive_mutex one_at_a_time;
static std::vector<Queue*> streams;
static std::set<const void*> pinned;
#define ALONE std::lock_guard<std::recursive_mutex> alone(one_at_a_time)

// Does the work of a stream up to its piece `until`.
static void run(Queue* stream, size_t until) {
    while (stream->done < until && !stream->waiting.empty()) {
        Work work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        stream->done++;
        work();
    }
}
static void run_all() {
    for (Queue* stream : streams) run(stream, stream->asked);
}
static Result ask(void* handle, Work work) {
    Queue* stream = (Queue*)handle;
    if (stream->capture) stream->capture->work.push_back(std::move(work));
    else stream->waiting.push_back(std::move(work)), stream->asked++;
    return 0;
}
// Whether some stream is captured; then the capture is spoiled.
static bool capturing() {
    bool any = false;
    for (Queue* stream : streams)
        if (stream->capture) any = stream->spoiled = true;
    return any;
}

template <class T> static Result repeat(Pointer to, T value, size_t count, void* stream) {
    ALONE;
    return ask(stream, [=] { std::fill_n((T*)to, count, value); });
}

extern "C" {
Result cuInit(unsigned) { return 0; }
Result cuDriverGetVersion(int* version) { *version = 13000; return 0; }
Result cuDeviceGetCount(int* count) { *count = setting("EMU_DEVICES", 1); return 0; }
Result cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
Result cuDeviceGetName(char* name, int length, int) {
    const char* other = getenv("EMU_NAME");
    snprintf(name, length, "%s", other ? other : "emulated GPU");
    return 0;
}
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
Result cuStreamCreate(void** stream, unsigned) {
    ALONE;
    streams.push_back(new Queue);
    *stream = streams.back();
    return 0;
}
Result cuStreamSynchronize(void* handle) {
    ALONE;
    Queue* stream = (Queue*)handle;
    if (capturing()) return REFUSED;
    run(stream, stream->asked);
    return 0;
}
Result cuStreamBeginCapture_v2(void* handle, int) {
    ALONE;
    Queue* stream = (Queue*)handle;
    if (stream->capture) return 1;
    stream->capture = new Graph, stream->spoiled = false;
    return 0;
}
Result cuStreamEndCapture(void* handle, void** graph) {
    ALONE;
    Queue* stream = (Queue*)handle;
    if (!stream->capture) return 1;
    *graph = stream->spoiled ? nullptr : stream->capture;
    if (stream->spoiled) delete stream->capture;
    stream->capture = nullptr;
    return stream->spoiled ? SPOILED : 0;
}
Result cuGraphInstantiateWithFlags(void** ready, void* graph, unsigned long long) {
    if (!graph) return 1;
    *ready = new Graph(*(Graph*)graph);
    return 0;
}
Result cuGraphLaunch(void* ready, void* stream) {
    ALONE;
    for (const Work& work : ((Graph*)ready)->work) ask(stream, work);
    return 0;
}
Result cuGraphDestroy(void* graph) { delete (Graph*)graph; return 0; }
Result cuGraphExecDestroy(void* ready) { delete (Graph*)ready; return 0; }
Result cuEventCreate(void** event, unsigned) { *event = new Event; return 0; }
Result cuEventRecord(void* event, void* stream) {
    ALONE;
    *(Event*)event = {(Queue*)stream, ((Queue*)stream)->asked};
    return 0;
}
Result cuStreamWaitEvent(void* stream, void* event, unsigned) {
    ALONE;
    Event mark = *(Event*)event;
    return mark.stream ? ask(stream, [mark] { run(mark.stream, mark.until); }) : 0;
}
Result cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
    ALONE;
    if (capturing()) return REFUSED;
    void* memory = aligned_alloc(512, (bytes + 511) / 512 * 512);
    if (!memory) return 2;
    memset(memory, 0xff, bytes);
    *pointer = (Pointer)memory;
    return 0;
}
Result cuMemFree_v2(Pointer pointer) {
    ALONE;
    if (capturing()) return REFUSED;
    run_all();
    free((void*)pointer);
    return 0;
}
Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    ALONE;
    if (capturing()) return REFUSED;
    *pointer = malloc(bytes);
    pinned.insert(*pointer);
    return *pointer ? 0 : 2;
}
Result cuMemFreeHost(void* pointer) {
    ALONE;
    run_all();
    pinned.erase(pointer);
    free(pointer);
    return 0;
}
Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    ALONE;
    // Pinned memory, and memory in a graph, is read when the copy is done; other memory at once.
    if (pinned.count(from) || ((Queue*)stream)->capture) return ask(stream, [=] { memcpy((void*)to, from, bytes); });
    auto data = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + bytes);
    return ask(stream, [=] { memcpy((void*)to, data->data(), bytes); });
}
Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    ALONE;
    return ask(stream, [=] { memcpy(to, (void*)from, bytes); });
}
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    ALONE;
    return ask(stream, [=] { memmove((void*)to, (void*)from, bytes); });
}
Result cuMemsetD8Async(Pointer to, unsigned char value, size_t n, void* stream) { return repeat(to, value, n, stream); }
Result cuMemsetD16Async(Pointer to, unsigned short value, size_t n, void* stream) { return repeat(to, value, n, stream); }
Result cuMemsetD32Async(Pointer to, unsigned value, size_t n, void* stream) { return repeat(to, value, n, stream); }
Result cuModuleLoadData(void** module, const void*) {
    ALONE;
    if (capturing()) return REFUSED;
    *module = (void*)4;
    return 0;
}
Result cuModuleGetFunction(void** function, void*, const char* name) {
    auto found = emu::kernels().find(name);
    if (found == emu::kernels().end()) return 500;
    *function = &found->second;
    return 0;
}
Result cuFuncSetAttribute(void*, int, int) { return 0; }
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** arguments, void**) {
    ALONE;
    // The limits of a real device.
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || shared > 227 * 1024) return 1;
    Work thread = (*(emu::Call*)function)(arguments);
    return ask(stream, [=] { emu::launch({gx, gy, gz}, {bx, by, bz}, shared, thread); });
}
Result cuGetErrorString(Result code, const char** text) {
    *text = code == 2         ? "out of memory"
            : code == 500     ? "named symbol not found"
            : code == REFUSED ? "operation not permitted when stream is capturing"
            : code == SPOILED ? "operation failed due to a previous error during capture"
                              : "invalid argument";
    return 0;
}
Result cuGetErrorName(Result, const char** text) { *text = "EMULATED"; return 0; }
}
