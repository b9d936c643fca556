// Modules, launches and tensor maps of the virtual GPU. Cubins are real: names, parameters, launch bounds, clusters and
// static shared memory are read from them, and a launch that breaks them fails as it would on the real one. What a kernel
// then does is told by its name: see toy().
#include "fake.h"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>
#include <unistd.h>

using namespace fake;

CUresult fake_cuda_issue(CUstream stream, double ns, std::function<void()> operation);

namespace {

constexpr int PER_BLOCK = 232448, PORTABLE = 48 * 1024, RESERVED = 1024;

struct Param { unsigned offset, size; };
struct Module;
struct Function {
    std::string name;
    Module* module = nullptr;
    int static_shared = 0, dynamic_limit = PORTABLE;
    unsigned max_threads = 1024, cluster[3] = {0, 0, 0};
    bool wide = false;
    std::map<unsigned, Param> params;
};
struct Module { std::map<std::string, std::unique_ptr<Function>> functions; };

std::set<Module*> modules;
std::set<Function*> functions;

template <class T> T read(const char* p) { T v; memcpy(&v, p, sizeof v); return v; }

void records(Function& f, const char* at, const char* end) {  // .nv.info.<kernel>: what cuobjdump -elf calls EIATTR
    while (at + 4 <= end) {
        const unsigned form = read<uint8_t>(at), what = read<uint8_t>(at + 1), value = read<uint16_t>(at + 2);
        at += 4;
        if (form != 4) continue;
        if (what == 0x05 || what == 0x10) f.max_threads = read<uint32_t>(at) * read<uint32_t>(at + 4) * read<uint32_t>(at + 8);
        if (what == 0x17) f.params[read<uint16_t>(at + 4)] = {read<uint16_t>(at + 6), read<uint32_t>(at + 8) >> 18};
        if (what == 0x3d) for (int i = 0; i < 3; ++i) f.cluster[i] = read<uint32_t>(at + 4 * i);
        at += value;
    }
}

bool load(Module& module, const char* image) {
    if (memcmp(image, "\x7f" "ELF\2\1", 6) || read<uint16_t>(image + 18) != 190) return false;
    const char* table = image + read<uint64_t>(image + 40);
    const unsigned count = read<uint16_t>(image + 60);
    const char* names = image + read<uint64_t>(table + 64 * read<uint16_t>(image + 62) + 24);
    const unsigned flags = read<uint32_t>(image + 48), cc = (image[8] >= 8 ? flags >> 8 : flags) & 255;
    if (cc != 90) return false;  // what this GPU is
    for (int pass = 0; pass < 2; ++pass)
        for (unsigned i = 0; i < count; ++i) {
            const char* section = table + 64 * i;
            const std::string name = names + read<uint32_t>(section);
            const char* body = image + read<uint64_t>(section + 24);
            const uint64_t size = read<uint64_t>(section + 32);
            if (!pass && !name.compare(0, 9, ".nv.info.")) {
                auto& f = module.functions[name.substr(9)];
                f.reset(new Function);
                f->name = name.substr(9);
                f->module = &module;
                records(*f, body, body + size);
            } else if (pass && !name.compare(0, 11, ".nv.shared.") && module.functions.count(name.substr(11)))
                module.functions[name.substr(11)]->static_shared = size > RESERVED ? int(size) - RESERVED : 0;
        }
    return true;
}

struct Toy { unsigned long long a, b, c; int m, n, k, lda, ldb, ldc; };

void toy(const std::string& name, const Toy& p, unsigned threads, unsigned rows) {
    const float *a = reinterpret_cast<float*>(p.a), *b = reinterpret_cast<float*>(p.b);
    float* c = reinterpret_cast<float*>(p.c);
    if (has(name, "hang")) for (;;) pause();
    if (has(name, "crash")) raise(SIGSEGV);
    if (has(name, "illegal")) { lost = CUDA_ERROR_ILLEGAL_ADDRESS; return; }
    if (has(name, "trap")) { lost = CUDA_ERROR_LAUNCH_FAILED; return; }
    const bool partial = has(name, "partial"), wrong = has(name, "wrong"), race = has(name, "race");
    std::vector<float> sums(p.n);
    for (long i = 0; i < p.m; ++i) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (long k = 0; k < p.k; ++k)
            for (long j = 0; j < p.n; ++j) sums[j] += a[i * p.lda + k] * b[k * p.ldb + j];
        for (long j = 0; j < p.n - partial; ++j) {
            float sum = sums[j];
            if (wrong && i == p.m - 1) sum += 0.1f;
            if (race && i == 1) sum += float(noise()) * 1e-6f;
            c[i * p.ldc + j] = sum;
        }
    }
    if (has(name, "guard")) c[long(p.m - 1) * p.ldc + p.n + 1] = 7;
    double ns = 20000.0 / rows + 40.0 * (threads > 64 ? threads - 64 : 64 - threads) + 2e-6 * p.m * p.n * p.k;
    if (has(name, "slower")) ns *= 1.02;
    if (has(name, "unstable")) ns *= 1 + 20 * noise() * noise() * noise();
    clock_ns += ns * (1 + 0.004 * noise());
}

bool is_probe(const Function& f) {  // (pointer, int32, float, uint64, tensor map)
    auto map = f.params.find(4);
    return f.params.size() == 5 && map->second.size == sizeof(CUtensorMap) && has(f.name, "probe");
}
std::string probed(const Function& f, const std::vector<char>& arguments) {  // what a probe was passed
    if (!is_probe(f)) return "";
    const char* p = arguments.data();
    auto at = [&](unsigned i) { return p + f.params.at(i).offset; };
    char line[256];
    snprintf(line, sizeof line, " args %llu %d %g %llu map", read<unsigned long long>(p), read<int>(at(1)), double(read<float>(at(2))),
             read<unsigned long long>(at(3)));
    std::string text = line;
    for (int i = 0; i < 16; ++i) text += " " + std::to_string(read<unsigned long long>(at(4) + 8 * i));
    return text;
}

CUresult checked(const CUlaunchConfig& c, const Function& f, void** params, unsigned* cluster, int* pdl) {
    if (c.numAttrs && !c.attrs) return CUDA_ERROR_INVALID_VALUE;
    bool given = false;
    for (unsigned i = 0; i < c.numAttrs; ++i) {
        const CUlaunchAttribute& a = c.attrs[i];
        if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
            cluster[0] = a.value.clusterDim.x; cluster[1] = a.value.clusterDim.y; cluster[2] = a.value.clusterDim.z;
            given = true;
        } else if (a.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) *pdl = a.value.programmaticStreamSerializationAllowed;
        else return CUDA_ERROR_INVALID_VALUE;
    }
    for (int i = 0; i < 3 && f.cluster[0]; ++i) {
        if (given && cluster[i] != f.cluster[i]) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        cluster[i] = f.cluster[i];
    }
    const unsigned grid[] = {c.gridDimX, c.gridDimY, c.gridDimZ}, block[] = {c.blockDimX, c.blockDimY, c.blockDimZ};
    for (int i = 0; i < 3; ++i)
        if (!grid[i] || !block[i] || !cluster[i] || grid[i] > (i ? 65535u : 2147483647u) || block[i] > (i < 2 ? 1024u : 64u) || grid[i] % cluster[i])
            return CUDA_ERROR_INVALID_VALUE;
    const unsigned threads = block[0] * block[1] * block[2], size = cluster[0] * cluster[1] * cluster[2];
    if (threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (threads > f.max_threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    if (size > 16 || (size > 8 && !f.wide)) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    const int limit = f.dynamic_limit > PORTABLE ? f.dynamic_limit : PORTABLE - f.static_shared;
    if (int(c.sharedMemBytes) > limit || int(c.sharedMemBytes) + f.static_shared > PER_BLOCK) return CUDA_ERROR_INVALID_VALUE;
    if (!f.params.empty() && !params) return CUDA_ERROR_INVALID_VALUE;
    for (auto& p : f.params)  // a tensor map is copied from where it lies: it must lie right
        if (p.second.size == sizeof(CUtensorMap) && reinterpret_cast<size_t>(params[p.first]) % 64) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

std::vector<char> block_of(const Function& f, void** params) {
    std::vector<char> block;
    for (auto& p : f.params) {
        if (block.size() < p.second.offset + p.second.size) block.resize(p.second.offset + p.second.size);
        memcpy(block.data() + p.second.offset, params[p.first], p.second.size);
    }
    return block;
}

}  // namespace

extern "C" {
CUresult cuModuleLoadData(CUmodule* m, const void* image) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    std::unique_ptr<Module> made(new Module);
    if (!load(*made, static_cast<const char*>(image))) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    for (auto& f : made->functions) functions.insert(f.second.get());
    modules.insert(made.get());
    *m = reinterpret_cast<CUmodule>(made.release());
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule m) {
    FAKE_CALL;
    FAKE_TRY(uncaptured());
    Module* module = reinterpret_cast<Module*>(m);
    if (!modules.erase(module)) return CUDA_ERROR_INVALID_HANDLE;
    drain_all();
    for (auto& f : module->functions) functions.erase(f.second.get());
    delete module;
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* f, CUmodule m, const char* name) {
    FAKE_CALL;
    FAKE_TRY(usable());
    Module* module = reinterpret_cast<Module*>(m);
    if (!modules.count(module)) return CUDA_ERROR_INVALID_HANDLE;
    auto found = module->functions.find(name);
    if (found == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
    *f = reinterpret_cast<CUfunction>(found->second.get());
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* v, CUfunction_attribute a, CUfunction f) {
    FAKE_CALL;
    if (!functions.count(reinterpret_cast<Function*>(f))) return CUDA_ERROR_INVALID_HANDLE;
    *v = 32;
    return a == CU_FUNC_ATTRIBUTE_NUM_REGS ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuFuncLoad(CUfunction f) { FAKE_CALL; return functions.count(reinterpret_cast<Function*>(f)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    FAKE_CALL;
    if (!functions.count(reinterpret_cast<Function*>(f))) return CUDA_ERROR_INVALID_HANDLE;
    Function& function = *reinterpret_cast<Function*>(f);
    if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (v < 0 || v + function.static_shared > PER_BLOCK) return CUDA_ERROR_INVALID_VALUE;
        function.dynamic_limit = v;  // set, not raised
    } else if (a == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) function.wide = v;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction handle, void** params, void** extra) {
    FAKE_CALL;
    FAKE_TRY(usable());
    if (!config || extra) return CUDA_ERROR_INVALID_VALUE;
    Function* f = reinterpret_cast<Function*>(handle);
    if (!functions.count(f)) return CUDA_ERROR_INVALID_HANDLE;
    unsigned cluster[3] = {1, 1, 1};
    int pdl = 0;
    FAKE_TRY(checked(*config, *f, params, cluster, &pdl));
    const std::vector<char> arguments = block_of(*f, params);
    if (logged()) {
        char line[512];
        snprintf(line, sizeof line, "%s grid %u %u %u block %u %u %u shared %u cluster %u %u %u pdl %d stream %d", f->name.c_str(),
                 config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX, config->blockDimY, config->blockDimZ,
                 config->sharedMemBytes, cluster[0], cluster[1], cluster[2], pdl, config->hStream != nullptr);
        log_line(line + probed(*f, arguments));
    }
    if (is_probe(*f)) return issue(config->hStream, [] {});
    const unsigned numbers = config->gridDimX * config->blockDimX;
    if (f->name == "known_good") return issue(config->hStream, [=] {  // what the GPU worker tells a healthy GPU by
        unsigned* out = reinterpret_cast<unsigned*>(read<unsigned long long>(arguments.data() + f->params[0].offset));
        for (unsigned i = 0; i < numbers; ++i) out[i] = getenv("FAKE_CUDA_SICK") ? 7u : i * 2654435761u + 1u;
    });
    const bool computes = !f->name.compare(0, 3, "toy");  // the others take time and do nothing: the emulator runs such
    const unsigned threads = config->blockDimX, rows_of = config->gridDimY;
    return issue(config->hStream, [=] {
        if (!functions.count(f)) { lost = CUDA_ERROR_ILLEGAL_INSTRUCTION; return; }  // its module was unloaded
        if (!computes) { clock_ns += 2000; return; }
        Toy p{};
        unsigned long long* pointers[] = {&p.a, &p.b, &p.c};
        int* sizes[] = {&p.m, &p.n, &p.k, &p.lda, &p.ldb, &p.ldc};
        for (unsigned i = 0; i < 3; ++i) *pointers[i] = read<unsigned long long>(arguments.data() + f->params[i].offset);
        for (unsigned i = 0; i < 6; ++i) *sizes[i] = read<int>(arguments.data() + f->params[3 + i].offset);
        const bool fits = readable(p.a, 4 * (size_t(p.m - 1) * p.lda + p.k)) && readable(p.b, 4 * (size_t(p.k - 1) * p.ldb + p.n)) &&
                          readable(p.c, 4 * (size_t(p.m - 1) * p.ldc + p.n));
        if (!fits) { lost = CUDA_ERROR_ILLEGAL_ADDRESS; return; }
        toy(f->name, p, threads, (unsigned(p.m) + rows_of - 1) / rows_of);
    });
}

// --- tensor maps: the rules that cuda.h states ---------------------------------------------------------------------------
static int bytes_of(CUtensorMapDataType type) {
    switch (type) {
        case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
        case CU_TENSOR_MAP_DATA_TYPE_UINT16: case CU_TENSOR_MAP_DATA_TYPE_FLOAT16: case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
        case CU_TENSOR_MAP_DATA_TYPE_UINT64: case CU_TENSOR_MAP_DATA_TYPE_INT64: case CU_TENSOR_MAP_DATA_TYPE_FLOAT64: return 8;
        case CU_TENSOR_MAP_DATA_TYPE_UINT32: case CU_TENSOR_MAP_DATA_TYPE_INT32: case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ: case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32: case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ: return 4;
        default: return 0;
    }
}
static bool legal(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims, const cuuint64_t* strides,
                  const cuuint32_t* steps, cuuint64_t inner, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapFloatOOBfill fill) {
    const int size = bytes_of(type);
    if (!size || reinterpret_cast<size_t>(map) % 64 || reinterpret_cast<size_t>(base) % 16 || !rank || rank > 5 || interleave) return false;
    for (cuuint32_t i = 0; i < rank; ++i)
        if (!dims[i] || dims[i] > (1ull << 31) || !steps[i] || steps[i] > 8) return false;
    for (cuuint32_t i = 0; i + 1 < rank; ++i)
        if (strides[i] % 16 || strides[i] >= (1ull << 40) || strides[i] < dims[0] * cuuint64_t(size)) return false;
    const cuuint64_t span = swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? ~0ull : 16ull << int(swizzle);
    if (swizzle > CU_TENSOR_MAP_SWIZZLE_128B || inner * size % 16 || inner * size > span) return false;
    return !fill || (type >= CU_TENSOR_MAP_DATA_TYPE_FLOAT16 && type <= CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ);
}
static void noted(CUtensorMap* map, int kind, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                  const cuuint64_t* strides, const cuuint32_t* steps, cuuint32_t first, cuuint32_t second, CUtensorMapSwizzle swizzle,
                  CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    memset(map, 0, sizeof *map);
    cuuint64_t* out = map->opaque;
    out[0] = cuuint64_t(kind); out[1] = cuuint64_t(type); out[2] = rank; out[3] = reinterpret_cast<size_t>(base);
    out[4] = dims[0]; out[5] = rank > 1 ? dims[1] : 0; out[6] = rank > 1 ? strides[0] : 0; out[7] = rank > 2 ? strides[1] : 0;
    out[8] = steps[0]; out[9] = first; out[10] = second; out[11] = swizzle; out[12] = promotion; out[13] = fill;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                                const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    if (!legal(map, type, rank, base, dims, strides, steps, box[0], interleave, swizzle, fill)) return CUDA_ERROR_INVALID_VALUE;
    for (cuuint32_t i = 0; i < rank; ++i)
        if (!box[i] || box[i] > 256) return CUDA_ERROR_INVALID_VALUE;
    noted(map, 1, type, rank, base, dims, strides, steps, box[0], rank > 1 ? box[1] : 0, swizzle, promotion, fill);
    return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeIm2col(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                                 const cuuint64_t* strides, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t pixels,
                                 const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                 CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    if (rank < 3 || !legal(map, type, rank, base, dims, strides, steps, channels, interleave, swizzle, fill)) return CUDA_ERROR_INVALID_VALUE;
    if (!channels || channels > 256 || !pixels || pixels > 1024) return CUDA_ERROR_INVALID_VALUE;
    const int reach = rank == 3 ? 32768 : rank == 4 ? 128 : 16;
    for (cuuint32_t i = 0; i + 2 < rank; ++i)  // corners go like the dimensions: W first
        if (lower[i] < -reach || lower[i] >= reach || upper[i] < -reach || upper[i] >= reach || long(dims[i + 1]) + upper[i] - lower[i] <= 0) return CUDA_ERROR_INVALID_VALUE;
    noted(map, 2, type, rank, base, dims, strides, steps, channels, pixels, swizzle, promotion, fill);
    map->opaque[14] = cuuint64_t(unsigned(lower[0]));
    map->opaque[15] = cuuint64_t(unsigned(upper[0]));
    return CUDA_SUCCESS;
}
}
