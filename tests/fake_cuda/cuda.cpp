// A CUDA driver for machines without a GPU: memory is the host's, "kernels" are the few C++ functions below, time is a
// virtual clock. It is compiled against NVIDIA's own cuda.h, so structures and signatures are the real ones, and the
// faults are real as well: it hangs, crashes and loses its context when a kernel's name says so.
#include <cuda.h>

#undef cuEventElapsedTime  // newer headers rename it; drivers keep the old name, which gpu_tune calls

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

using Operation = std::function<void()>;
struct Stream { bool capturing = false; std::vector<Operation> captured; };
struct Function { std::string name; int shared_limit = 48 * 1024; bool wide = false; };
struct Graph { std::vector<Operation> operations; };

Stream default_stream;
CUresult lost = CUDA_SUCCESS;
double clock_ns = 1e6;
size_t allocated = 0;
CUcontext current = nullptr;
std::vector<CUcontext> pushed;
int captures = 0;
CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
unsigned long long random_state = 1;

double noise() {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return double(random_state >> 40) / double(1 << 24);
}
size_t memory() { const char* text = getenv("FAKE_CUDA_MEMORY"); return text ? strtoull(text, nullptr, 10) : size_t(8) << 30; }
Stream& of(CUstream s) { return s ? *reinterpret_cast<Stream*>(s) : default_stream; }
CUresult issue(CUstream s, Operation operation) {
    if (lost) return lost;
    Stream& stream = of(s);
    if (stream.capturing) stream.captured.push_back(operation);
    else operation();
    return CUDA_SUCCESS;
}
void log_line(const std::string& text) {
    if (const char* path = getenv("FAKE_CUDA_LOG")) {
        if (FILE* file = fopen(path, "a")) { fprintf(file, "%s\n", text.c_str()); fclose(file); }
    }
}
bool has(const std::string& name, const char* word) { return name.find(word) != std::string::npos; }

struct Toy { unsigned long long a, b, c; int m, n, k, lda, ldb, ldc; };

void toy(const std::string& name, const Toy& p, unsigned threads, unsigned rows) {
    const float *a = reinterpret_cast<float*>(p.a), *b = reinterpret_cast<float*>(p.b);
    float* c = reinterpret_cast<float*>(p.c);
    if (has(name, "hang")) for (;;) pause();
    if (has(name, "crash")) raise(SIGSEGV);
    if (has(name, "illegal")) { lost = CUDA_ERROR_ILLEGAL_ADDRESS; return; }
    if (has(name, "trap")) { lost = CUDA_ERROR_LAUNCH_FAILED; return; }
    for (long i = 0; i < p.m; ++i)
        for (long j = 0; j < p.n; ++j) {
            if (has(name, "partial") && j == p.n - 1) continue;
            float sum = 0;
            for (long k = 0; k < p.k; ++k) sum += a[i * p.lda + k] * b[k * p.ldb + j];
            if (has(name, "wrong") && i == p.m - 1) sum += 0.1f;
            if (has(name, "race") && i == 1) sum += float(noise()) * 1e-6f;
            c[i * p.ldc + j] = sum;
        }
    if (has(name, "guard")) c[long(p.m - 1) * p.ldc + p.n + 1] = 7;
    double ns = 20000.0 / rows + 40.0 * (threads > 64 ? threads - 64 : 64 - threads) + 2e-6 * p.m * p.n * p.k;
    if (has(name, "slower")) ns *= 1.02;
    if (has(name, "unstable")) ns *= 1 + 20 * noise() * noise() * noise();
    clock_ns += ns * (1 + 0.004 * noise());
}

}  // namespace

CUresult fake_cuda_issue(CUstream stream, double ns, std::function<void()> operation) {
    return issue(stream, [=] { operation(); clock_ns += ns * (1 + 0.004 * noise()); });
}

extern "C" {
CUresult cuInit(unsigned) { return getenv("FAKE_CUDA_NONE") ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* v) { *v = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* n) { const char* t = getenv("FAKE_CUDA_COUNT"); *n = t ? atoi(t) : 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* d, int i) { *d = i; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int n, CUdevice) { snprintf(name, size_t(n), "NVIDIA H200"); return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* n, CUdevice) { *n = size_t(141) << 30; return CUDA_SUCCESS; }
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
    *s = e == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : e == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
         : e == CUDA_ERROR_LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_INVALID_VALUE";
    return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* c) { *c = current; return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice d) { *c = reinterpret_cast<CUcontext>(size_t(d) + 1); return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) { current = c; return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* d) { if (!current) return CUDA_ERROR_INVALID_CONTEXT; *d = int(reinterpret_cast<size_t>(current)) - 1; return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent_v2(CUcontext c) { pushed.push_back(current); current = c; return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent_v2(CUcontext* c) { if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT; *c = current; current = pushed.back(); pushed.pop_back(); return CUDA_SUCCESS; }
CUresult cuPointerGetAttribute(void* v, CUpointer_attribute a, CUdeviceptr) { if (a != CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) return CUDA_ERROR_INVALID_VALUE; *static_cast<int*>(v) = 0; return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus* status) { *status = of(s).capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE; return CUDA_SUCCESS; }
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) { std::swap(*mode, capture_mode); return CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return lost; }
CUresult cuMemAlloc_v2(CUdeviceptr* p, size_t n) {
    if (lost) return lost;
    if (captures && capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (allocated + n > memory()) return CUDA_ERROR_OUT_OF_MEMORY;
    size_t* block = static_cast<size_t*>(aligned_alloc(256, (n + 256 + 255) / 256 * 256));
    block[0] = n;
    allocated += n;
    *p = reinterpret_cast<CUdeviceptr>(block) + 256;
    return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr p) {
    size_t* block = reinterpret_cast<size_t*>(p - 256);
    allocated -= block[0];
    free(block);
    return CUDA_SUCCESS;
}
CUresult cuMemGetInfo_v2(size_t* left, size_t* total) { *total = memory(); *left = memory() - allocated; return CUDA_SUCCESS; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void* s, size_t n) { if (lost) return lost; memcpy(reinterpret_cast<void*>(d), s, n); return CUDA_SUCCESS; }
CUresult cuMemcpyDtoH_v2(void* d, CUdeviceptr s, size_t n) { if (lost) return lost; memcpy(d, reinterpret_cast<void*>(s), n); return CUDA_SUCCESS; }
CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t n) { memcpy(reinterpret_cast<void*>(d), reinterpret_cast<void*>(s), n); return lost; }
CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) {
    return issue(s, [=] { memset(reinterpret_cast<void*>(p), v, n); clock_ns += 1500 + n * 2.5e-4; });
}
CUresult cuStreamCreate(CUstream* s, unsigned flags) { if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE; *s = reinterpret_cast<CUstream>(new Stream); return CUDA_SUCCESS; }
CUresult cuStreamDestroy_v2(CUstream s) { delete reinterpret_cast<Stream*>(s); return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream s) { return of(s).capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : lost; }
CUresult cuEventCreate(CUevent* e, unsigned) { *e = reinterpret_cast<CUevent>(new double(0)); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent e, CUstream s) { return issue(s, [=] { *reinterpret_cast<double*>(e) = clock_ns; }); }
CUresult cuEventSynchronize(CUevent) { return lost; }
CUresult cuEventElapsedTime(float* ms, CUevent a, CUevent b) {
    *ms = float((*reinterpret_cast<double*>(b) - *reinterpret_cast<double*>(a)) * 1e-6);
    return lost;
}
CUresult cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode mode) {
    if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL || of(s).capturing) return CUDA_ERROR_INVALID_VALUE;
    of(s).capturing = true;
    ++captures;
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream s, CUgraph* g) {
    Stream& stream = of(s);
    if (!stream.capturing) return CUDA_ERROR_INVALID_VALUE;
    stream.capturing = false;
    --captures;
    *g = reinterpret_cast<CUgraph>(new Graph{stream.captured});
    stream.captured.clear();
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* e, CUgraph g, unsigned long long) {
    *e = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph*>(g)));
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph g) { delete reinterpret_cast<Graph*>(g); return CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec e) { delete reinterpret_cast<Graph*>(e); return CUDA_SUCCESS; }
CUresult cuGraphLaunch(CUgraphExec e, CUstream s) {
    return issue(s, [=] { for (auto& operation : reinterpret_cast<Graph*>(e)->operations) operation(); });
}
CUresult cuModuleLoadData(CUmodule* m, const void* image) {
    if (lost) return lost;
    if (memcmp(image, "\x7f" "ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;
    *m = reinterpret_cast<CUmodule>(new int(1));
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule m) { delete reinterpret_cast<int*>(m); return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* f, CUmodule, const char* name) {
    if (has(name, "absent")) return CUDA_ERROR_NOT_FOUND;
    *f = reinterpret_cast<CUfunction>(new Function{name});
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* v, CUfunction_attribute a, CUfunction) { *v = 32; return a == CU_FUNC_ATTRIBUTE_NUM_REGS ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    Function& function = *reinterpret_cast<Function*>(f);
    if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (v > 232448) return CUDA_ERROR_INVALID_VALUE;
        function.shared_limit = v > function.shared_limit ? v : function.shared_limit;
    } else if (a == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) function.wide = v;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** params, void** extra) {
    if (lost) return lost;
    const Function& function = *reinterpret_cast<Function*>(f);
    unsigned cluster[3] = {1, 1, 1};
    int pdl = 0;
    for (unsigned i = 0; i < config->numAttrs; ++i) {
        const CUlaunchAttribute& a = config->attrs[i];
        if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) { cluster[0] = a.value.clusterDim.x; cluster[1] = a.value.clusterDim.y; cluster[2] = a.value.clusterDim.z; }
        else if (a.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) pdl = a.value.programmaticStreamSerializationAllowed;
        else return CUDA_ERROR_INVALID_VALUE;
    }
    if (extra || int(config->sharedMemBytes) > function.shared_limit) return CUDA_ERROR_INVALID_VALUE;
    if (cluster[0] * cluster[1] * cluster[2] > 8 && !function.wide) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    char line[512];
    snprintf(line, sizeof line, "%s grid %u %u %u block %u %u %u shared %u cluster %u %u %u pdl %d stream %d", function.name.c_str(),
             config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX, config->blockDimY, config->blockDimZ,
             config->sharedMemBytes, cluster[0], cluster[1], cluster[2], pdl, config->hStream != nullptr);
    std::string text = line;
    if (has(function.name, "probe")) {  // (pointer, int32, float, uint64, tensor map)
        CUtensorMap map;
        memcpy(&map, params[4], sizeof map);
        snprintf(line, sizeof line, " args %llu %d %g %llu map", *static_cast<unsigned long long*>(params[0]), *static_cast<int*>(params[1]),
                 double(*static_cast<float*>(params[2])), *static_cast<unsigned long long*>(params[3]));
        text += line;
        for (int i = 0; i < 16; ++i) text += " " + std::to_string(map.opaque[i]);
        text += reinterpret_cast<size_t>(params[4]) % 64 ? " misaligned" : " aligned";
        log_line(text);
        return CUDA_SUCCESS;
    }
    log_line(text);
    if (has(function.name, "finish")) { clock_ns += 2000; return CUDA_SUCCESS; }  // the elementwise kernel: the emulator runs it, not this
    Toy p{};
    unsigned long long* pointers[] = {&p.a, &p.b, &p.c};
    int* sizes[] = {&p.m, &p.n, &p.k, &p.lda, &p.ldb, &p.ldc};
    for (int i = 0; i < 3; ++i) *pointers[i] = *static_cast<unsigned long long*>(params[i]);
    for (int i = 0; i < 6; ++i) *sizes[i] = *static_cast<int*>(params[3 + i]);
    const std::string name = function.name;
    const unsigned threads = config->blockDimX, rows = (unsigned(p.m) + config->gridDimY - 1) / config->gridDimY;
    return issue(config->hStream, [=] { toy(name, p, threads, rows); });
}
static CUresult encoded(CUtensorMap* map, int kind, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                        const cuuint64_t* strides, const cuuint32_t* steps, const void* more, CUtensorMapInterleave interleave,
                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    if (reinterpret_cast<size_t>(base) % 16 || interleave) return CUDA_ERROR_INVALID_VALUE;
    memset(map, 0, sizeof *map);
    cuuint64_t* out = map->opaque;
    out[0] = cuuint64_t(kind); out[1] = cuuint64_t(type); out[2] = rank; out[3] = reinterpret_cast<size_t>(base);
    out[4] = dims[0]; out[5] = dims[1]; out[6] = strides[0]; out[7] = rank > 2 ? strides[1] : 0; out[8] = steps[0];
    const int* numbers = static_cast<const int*>(more);
    out[9] = cuuint64_t(numbers[0]); out[10] = cuuint64_t(numbers[1]);
    out[11] = swizzle; out[12] = promotion; out[13] = fill;
    return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                                const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    return encoded(map, 1, type, rank, base, dims, strides, steps, box, interleave, swizzle, promotion, fill);
}
CUresult cuTensorMapEncodeIm2col(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                                 const cuuint64_t* strides, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t pixels,
                                 const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                 CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    const int numbers[] = {int(channels), int(pixels)};
    CUresult result = encoded(map, 2, type, rank, base, dims, strides, steps, numbers, interleave, swizzle, promotion, fill);
    if (!result) { map->opaque[14] = cuuint64_t(unsigned(lower[0])); map->opaque[15] = cuuint64_t(unsigned(upper[0])); }
    return result;
}
}
