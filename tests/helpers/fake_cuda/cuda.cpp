// A CUDA driver for machines without a GPU: memory is the host's, kernels are a few C++ functions (modules.cpp), time is a
// virtual clock. It is compiled against NVIDIA's own cuda.h, so structures and signatures are the real ones, and it is as
// strict as the real one: work runs only when waited for, handles must live, addresses must lie in live allocations, a
// context must be current in the thread, and what a capture forbids fails and spoils the capture.
#include "fake.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <set>

namespace fake {

std::recursive_mutex mutex;
CUresult lost = CUDA_SUCCESS;
double clock_ns = 1e6;

namespace {

struct Event { bool recorded = false, done = false; double time = 0; Stream* stream = nullptr; };
struct Graph { std::vector<Operation> operations; };

bool initialised = false;
unsigned long long streams_made = 0, random_state = 1;
size_t allocated = 0;
Stream default_stream;
std::set<Stream*> streams;
std::set<Event*> events;
std::set<Graph*> graphs, executables;
std::map<CUdeviceptr, size_t> blocks;
std::map<int, int> retained;
thread_local std::vector<CUcontext> contexts;
thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
thread_local Stream thread_stream;

size_t memory() { const char* text = getenv("FAKE_CUDA_MEMORY"); return text ? strtoull(text, nullptr, 10) : size_t(8) << 30; }
int devices() { const char* text = getenv("FAKE_CUDA_COUNT"); return text ? atoi(text) : 1; }
CUcontext current() { return contexts.empty() ? nullptr : contexts.back(); }
bool known(CUcontext c) { return retained[int(reinterpret_cast<size_t>(c)) - 1] > 0; }

Stream* find(CUstream s) {
    if (!s || s == CU_STREAM_LEGACY) return &default_stream;
    if (s == CU_STREAM_PER_THREAD) return &thread_stream;
    Stream* stream = reinterpret_cast<Stream*>(s);
    return streams.count(stream) ? stream : nullptr;
}
void drain(Stream& stream) {
    while (!stream.queue.empty()) {
        Operation operation = stream.queue.front();
        stream.queue.pop_front();
        if (!lost) operation();
    }
}
bool forbidden() {  // and spoils the capture
    bool found = false;
    for (Stream* s : streams) {
        if (!s->capturing || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED || s->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        const bool own = s->owner == std::this_thread::get_id();
        if (own || (s->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL)) s->invalid = found = true;
    }
    return found;
}

}  // namespace

CUresult usable() { return !initialised ? CUDA_ERROR_NOT_INITIALIZED : !current() ? CUDA_ERROR_INVALID_CONTEXT : lost; }
CUresult uncaptured() {
    FAKE_TRY(usable());
    return forbidden() ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}
CUresult issue(CUstream s, Operation operation) {
    FAKE_TRY(usable());
    Stream* stream = find(s);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capturing) stream->queue.push_back(operation);
    else if (stream->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else stream->captured.push_back(operation);
    return CUDA_SUCCESS;
}
void drain_all() {
    drain(default_stream);
    drain(thread_stream);
    for (Stream* s : streams) drain(*s);
}
bool readable(CUdeviceptr address, size_t bytes) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) return false;
    --after;
    return address - after->first <= after->second && bytes <= after->second - (address - after->first);
}
double noise() {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return double(random_state >> 40) / double(1 << 24);
}
void log_line(const std::string& text) {
    if (const char* path = getenv("FAKE_CUDA_LOG")) {
        if (FILE* file = fopen(path, "a")) { fprintf(file, "%s\n", text.c_str()); fclose(file); }
    }
}

}  // namespace fake

using namespace fake;

CUresult fake_cuda_issue(CUstream stream, double ns, std::function<void()> operation) {
    FAKE_CALL;
    return issue(stream, [=] { operation(); clock_ns += ns * (1 + 0.004 * noise()); });
}

extern "C" {
CUresult cuInit(unsigned flags) {
    FAKE_CALL;
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (getenv("FAKE_CUDA_NONE") || !getenv("GPU_TUNE_LIBCUDA")) return CUDA_ERROR_NO_DEVICE;  // in no test that did not ask for it
    initialised = true;
    return CUDA_SUCCESS;
}
CUresult cuGetProcAddress_v2(const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* found) {
    Dl_info self;
    dladdr(reinterpret_cast<void*>(&cuInit), &self);
    void* const library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    const std::string stem = name, renamed = stem == "cuGraphInstantiate" ? "cuGraphInstantiateWithFlags" : stem;  // since 12.0
    *function = nullptr;
    for (const char* suffix : {"_v2", ""})  // the newest one that there is
        if (!*function) *function = dlsym(library, (renamed + suffix).c_str());
    dlclose(library);
    if (found) *found = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuDriverGetVersion(int* v) { const char* text = getenv("FAKE_CUDA_VERSION"); *v = text ? atoi(text) : 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* n) { *n = devices(); return initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }
CUresult cuDeviceGet(CUdevice* d, int i) { *d = i; return i < 0 || i >= devices() ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int n, CUdevice) { snprintf(name, size_t(n), "NVIDIA H200"); return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* n, CUdevice) { *n = size_t(143156) << 20; return CUDA_SUCCESS; }  // less than the box says
CUresult cuDeviceGetPCIBusId(char* s, int n, CUdevice) { snprintf(s, size_t(n), "0000:00:00.0"); return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* v, CUdevice_attribute a, CUdevice) {
    switch (a) {
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 132; break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *v = 1 << 20; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *v = 2048; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *v = 233472; break;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: *v = 65536; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = 232448; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: *v = 32; break;
        case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: *v = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *v = 1024; break;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *v = 1980000; break;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *v = 3201000; break;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *v = 6016; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = 9; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = 0; break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult e, const char** s) {
#define NAMED(name) case name: *s = #name; return CUDA_SUCCESS;
    switch (e) {
        NAMED(CUDA_ERROR_INVALID_VALUE) NAMED(CUDA_ERROR_OUT_OF_MEMORY) NAMED(CUDA_ERROR_NOT_INITIALIZED) NAMED(CUDA_ERROR_NO_DEVICE)
        NAMED(CUDA_ERROR_INVALID_DEVICE) NAMED(CUDA_ERROR_INVALID_IMAGE) NAMED(CUDA_ERROR_INVALID_CONTEXT) NAMED(CUDA_ERROR_NO_BINARY_FOR_GPU)
        NAMED(CUDA_ERROR_INVALID_HANDLE) NAMED(CUDA_ERROR_NOT_FOUND) NAMED(CUDA_ERROR_NOT_READY) NAMED(CUDA_ERROR_ILLEGAL_ADDRESS)
        NAMED(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES) NAMED(CUDA_ERROR_ILLEGAL_INSTRUCTION) NAMED(CUDA_ERROR_LAUNCH_FAILED)
        NAMED(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) NAMED(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) NAMED(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
        NAMED(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD) NAMED(CUDA_ERROR_INVALID_CLUSTER_SIZE) NAMED(CUDA_ERROR_DEVICE_UNAVAILABLE)
        default: *s = nullptr; return CUDA_ERROR_INVALID_VALUE;
    }
}

// --- contexts -----------------------------------------------------------------------------------------------------------
CUresult cuCtxGetCurrent(CUcontext* c) { FAKE_CALL; *c = current(); return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice d) {
    FAKE_CALL;
    if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (d < 0 || d >= devices()) return CUDA_ERROR_INVALID_DEVICE;
    if (getenv("FAKE_CUDA_BUSY")) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    ++retained[d];
    *c = reinterpret_cast<CUcontext>(size_t(d) + 1);
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* d) { FAKE_CALL; if (!current()) return CUDA_ERROR_INVALID_CONTEXT; *d = CUdevice(size_t(current()) - 1); return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) {
    FAKE_CALL;
    if (c && !known(c)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!contexts.empty()) contexts.pop_back();
    if (c) contexts.push_back(c);
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent_v2(CUcontext c) {
    FAKE_CALL;
    if (!c || !known(c)) return CUDA_ERROR_INVALID_CONTEXT;
    contexts.push_back(c);
    return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent_v2(CUcontext* c) {
    FAKE_CALL;
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    *c = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() { FAKE_CALL; FAKE_TRY(uncaptured()); drain_all(); return lost; }

// --- memory -------------------------------------------------------------------------------------------------------------
CUresult cuMemAlloc_v2(CUdeviceptr* p, size_t n) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    if (!n) return CUDA_ERROR_INVALID_VALUE;
    if (allocated + n > memory()) return CUDA_ERROR_OUT_OF_MEMORY;
    void* block = aligned_alloc(256, (n + 255) / 256 * 256);
    memset(block, 0xCD, n < 65536 ? n : 65536);  // fresh memory holds anything
    allocated += n;
    *p = reinterpret_cast<CUdeviceptr>(block);
    blocks[*p] = n;
    return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr p) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    auto found = blocks.find(p);
    if (found == blocks.end()) return CUDA_ERROR_INVALID_VALUE;
    drain_all();
    allocated -= found->second;
    blocks.erase(found);
    free(reinterpret_cast<void*>(p));
    return lost;
}
CUresult cuMemGetInfo_v2(size_t* left, size_t* total) { FAKE_CALL; FAKE_TRY(usable()); *total = memory(); *left = memory() - allocated; return CUDA_SUCCESS; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void* s, size_t n) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    if (!readable(d, n)) return CUDA_ERROR_INVALID_VALUE;
    if (n > 65536) { drain(default_stream); memcpy(reinterpret_cast<void*>(d), s, n); return lost; }
    const std::string staged(static_cast<const char*>(s), n);  // small copies return before the bytes have arrived
    return issue(nullptr, [=] { memcpy(reinterpret_cast<void*>(d), staged.data(), n); });
}
CUresult cuMemcpyDtoH_v2(void* d, CUdeviceptr s, size_t n) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    if (!readable(s, n)) return CUDA_ERROR_INVALID_VALUE;
    drain(default_stream);
    memcpy(d, reinterpret_cast<void*>(s), n);
    return lost;
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t n) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    if (!readable(s, n) || !readable(d, n)) return CUDA_ERROR_INVALID_VALUE;
    return issue(nullptr, [=] { memcpy(reinterpret_cast<void*>(d), reinterpret_cast<void*>(s), n); });
}
CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) {
    FAKE_CALL;
    if (!readable(p, n)) return CUDA_ERROR_INVALID_VALUE;
    return issue(s, [=] { memset(reinterpret_cast<void*>(p), v, n); clock_ns += 1500 + n * 2.5e-4; });
}
CUresult cuPointerGetAttribute(void* v, CUpointer_attribute a, CUdeviceptr p) {
    FAKE_CALL;
    if (a != CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL || !readable(p, 1)) return CUDA_ERROR_INVALID_VALUE;
    *static_cast<int*>(v) = 0;
    return CUDA_SUCCESS;
}

// --- streams and events -------------------------------------------------------------------------------------------------
CUresult cuStreamCreate(CUstream* s, unsigned flags) {
    FAKE_CALL;
    FAKE_TRY(usable());
    if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    Stream* made = new Stream;
    made->id = ++streams_made + 2;
    streams.insert(made);
    *s = reinterpret_cast<CUstream>(made);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream s) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Stream* stream = reinterpret_cast<Stream*>(s);
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    drain(*stream);
    streams.erase(stream);
    delete stream;
    return CUDA_SUCCESS;
}
CUresult cuStreamGetId(CUstream s, unsigned long long* id) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Stream* stream = find(s);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *id = stream == &default_stream ? 1 : stream == &thread_stream ? std::hash<std::thread::id>()(std::this_thread::get_id()) : stream->id;
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream s) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Stream* stream = find(s);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capturing) { stream->invalid = true; return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; }
    drain(*stream);
    return lost;
}
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus* status) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Stream* stream = find(s);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *status = !stream->capturing ? CU_STREAM_CAPTURE_STATUS_NONE : stream->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) { FAKE_CALL; std::swap(*mode, thread_mode); return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent* e, unsigned flags) {
    FAKE_CALL;
    FAKE_TRY(usable());
    if (flags != CU_EVENT_DEFAULT && flags != CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_VALUE;
    Event* made = new Event;
    events.insert(made);
    *e = reinterpret_cast<CUevent>(made);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent e) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Event* event = reinterpret_cast<Event*>(e);
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    events.erase(event);  // the memory stays: what is queued may still set it
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent e, CUstream s) {
    FAKE_CALL;
    Event* event = reinterpret_cast<Event*>(e);
    Stream* stream = find(s);
    if (!stream || !events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    FAKE_TRY(issue(s, [=] { event->time = clock_ns; event->done = true; }));
    event->recorded = true;
    event->done = false;
    event->stream = stream;
    return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned flags) {
    FAKE_CALL;
    Event* event = reinterpret_cast<Event*>(e);
    if (!events.count(event) || flags) return CUDA_ERROR_INVALID_VALUE;
    Stream* other = event->recorded && !event->done ? event->stream : nullptr;
    return issue(s, [=] { if (other && (other == &default_stream || streams.count(other))) drain(*other); });
}
CUresult cuEventSynchronize(CUevent e) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Event* event = reinterpret_cast<Event*>(e);
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->recorded && !event->done) drain(*event->stream);
    return lost;
}
CUresult cuEventElapsedTime(float* ms, CUevent a, CUevent b) {
    FAKE_CALL;
    FAKE_TRY(usable());
    for (CUevent e : {a, b}) {
        Event* event = reinterpret_cast<Event*>(e);
        if (!events.count(event) || !event->recorded) return CUDA_ERROR_INVALID_HANDLE;
        if (!event->done) return CUDA_ERROR_NOT_READY;
    }
    *ms = float((reinterpret_cast<Event*>(b)->time - reinterpret_cast<Event*>(a)->time) * 1e-6);
    return lost;
}

// --- graphs -------------------------------------------------------------------------------------------------------------
CUresult cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode mode) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Stream* stream = find(s);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream == &default_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = true;
    stream->invalid = false;
    stream->mode = mode;
    stream->owner = std::this_thread::get_id();
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream s, CUgraph* g) {
    FAKE_CALL;
    *g = nullptr;
    Stream* stream = find(s);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream->mode != CU_STREAM_CAPTURE_MODE_RELAXED && stream->owner != std::this_thread::get_id()) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    stream->capturing = false;
    std::vector<Operation> captured;
    captured.swap(stream->captured);
    if (stream->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    Graph* made = new Graph{captured};
    graphs.insert(made);
    *g = reinterpret_cast<CUgraph>(made);
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* e, CUgraph g, unsigned long long flags) {
    FAKE_CALL;
    FAKE_TRY(usable());
    if (!graphs.count(reinterpret_cast<Graph*>(g)) || flags) return CUDA_ERROR_INVALID_VALUE;
    Graph* made = new Graph(*reinterpret_cast<Graph*>(g));
    executables.insert(made);
    *e = reinterpret_cast<CUgraphExec>(made);
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph g) {
    FAKE_CALL;
    if (!graphs.erase(reinterpret_cast<Graph*>(g))) return CUDA_ERROR_INVALID_VALUE;
    delete reinterpret_cast<Graph*>(g);
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec e) {
    FAKE_CALL;
    if (!executables.erase(reinterpret_cast<Graph*>(e))) return CUDA_ERROR_INVALID_VALUE;
    delete reinterpret_cast<Graph*>(e);
    return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec e, CUstream s) {
    FAKE_CALL;
    if (!executables.count(reinterpret_cast<Graph*>(e))) return CUDA_ERROR_INVALID_VALUE;
    const std::vector<Operation> operations = reinterpret_cast<Graph*>(e)->operations;
    return issue(s, [=] { for (auto& operation : operations) if (!lost) operation(); });
}
}
