// cuBLAS and cuBLASLt for the virtual GPU, computed by loops: float32, and in cublasLt float8_e4m3 with every scale mode and
// int8. Compiled against NVIDIA's headers, so argument orders, structures and attribute numbers are the real ones. Scale
// layouts are those of the cuBLAS documentation ("Scaling factors layouts"). Of three algorithms the second is the
// fastest; the third fails. Pointers less aligned than the heuristic was told fail.
#define __CUDA_FP16_H__  // cublas_api.h needs only the names of these types, and their headers need all of CUDA C++
#define __CUDA_BF16_H__
#define __CUDA_FP8_H__
struct __half;
struct __nv_bfloat16;

#include <cuda.h>
#include <cublasLt.h>
#include <cublas_v2.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

CUresult fake_cuda_issue(CUstream stream, double ns, std::function<void()> operation);

namespace {
struct Layout { cudaDataType_t type; uint64_t rows, cols; int64_t ld; int32_t batch = 1; int64_t stride = 0; };
struct Desc {
    int32_t ta = 0, tb = 0, epilogue = CUBLASLT_EPILOGUE_DEFAULT, mode_a = 0, mode_b = 0;
    const float *bias = nullptr, *scale_a = nullptr, *scale_b = nullptr;
    int8_t fast = 0;
    bool integer = false;
};
struct Handle { CUstream stream = nullptr; };
struct Preference { uint64_t workspace = 0; uint32_t reductions = 7, alignment[4] = {256, 256, 256, 256}; };

struct E4m3 {
    float values[256];
    E4m3() {
        for (int bits = 0; bits < 256; ++bits) {
            const int exponent = bits >> 3 & 15, mantissa = bits & 7;
            const float size = exponent ? std::ldexp(8.0f + mantissa, exponent - 10) : std::ldexp(float(mantissa), -9);
            values[bits] = bits & 128 ? -size : size;
        }
    }
} const e4m3;
float number(const void* p, cudaDataType_t type, long i) {
    if (type == CUDA_R_32F) return static_cast<const float*>(p)[i];
    return type == CUDA_R_8I ? float(static_cast<const int8_t*>(p)[i]) : e4m3.values[static_cast<const uint8_t*>(p)[i]];
}
void store(void* p, cudaDataType_t type, long i, float value) {
    if (type == CUDA_R_32I) { static_cast<int32_t*>(p)[i] = int32_t(value); return; }
    if (type == CUDA_R_32F) { static_cast<float*>(p)[i] = value; return; }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    static_cast<uint16_t*>(p)[i] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // bfloat16
}
float factor(const float* scale, int mode, long line, long lines, long step, long steps) {
    if (!scale) return 1;
    if (mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F) return scale[line];
    if (mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F) return scale[step / 128 * lines + line];
    if (mode == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F) return scale[line / 128 * ((steps + 127) / 128 + 3 & ~3L) + step / 128];
    return *scale;
}
long bytes(cudaDataType_t type) { return type == CUDA_R_32F || type == CUDA_R_32I ? 4 : type == CUDA_R_16BF ? 2 : 1; }

void gemm(int ta, int tb, long m, long n, long k, float alpha, const float* a, long lda, const float* b, long ldb, float beta,
          const float* c, long ldc, float* d, long ldd, int epilogue, const float* bias) {
    std::vector<float> sums(m);
    for (long j = 0; j < n; ++j) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (long p = 0; p < k; ++p) {
            const float factor = tb ? b[p * ldb + j] : b[j * ldb + p];
            if (ta) for (long i = 0; i < m; ++i) sums[i] += a[i * lda + p] * factor;
            else for (long i = 0; i < m; ++i) sums[i] += a[p * lda + i] * factor;
        }
        for (long i = 0; i < m; ++i) {
            float sum = alpha * sums[i] + (beta != 0 ? beta * c[j * ldc + i] : 0);
            if (epilogue & CUBLASLT_EPILOGUE_BIAS) sum += bias[i];
            if (epilogue & CUBLASLT_EPILOGUE_RELU) sum = sum > 0 ? sum : 0;
            d[j * ldd + i] = sum;
        }
    }
}
template <class T> cublasStatus_t put(T& target, const void* value, size_t size) {
    if (size != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&target, value, size);
    return CUBLAS_STATUS_SUCCESS;
}
}  // namespace

extern "C" {
cublasStatus_t cublasCreate_v2(cublasHandle_t* h) { *h = reinterpret_cast<cublasHandle_t>(new Handle); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t h) { delete reinterpret_cast<Handle*>(h); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t s) { reinterpret_cast<Handle*>(h)->stream = reinterpret_cast<CUstream>(s); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t mode) { return mode == CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void* p, size_t n) { return p && n ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE; }
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void* alpha,
                                          const void* a, cudaDataType at, int lda, long long sa, const void* b, cudaDataType bt, int ldb,
                                          long long sb, const void* beta, void* c, cudaDataType ct, int ldc, long long sc, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algo) {
    if (at != CUDA_R_32F || bt != CUDA_R_32F || ct != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F || algo != CUBLAS_GEMM_DEFAULT) return CUBLAS_STATUS_NOT_SUPPORTED;
    const float x = *static_cast<const float*>(alpha), y = *static_cast<const float*>(beta);
    return cublasStatus_t(fake_cuda_issue(reinterpret_cast<Handle*>(h)->stream, 4000, [=] {
        for (int i = 0; i < batch; ++i)
            gemm(ta, tb, m, n, k, x, static_cast<const float*>(a) + i * sa, lda, static_cast<const float*>(b) + i * sb, ldb, y,
                 static_cast<float*>(c) + i * sc, ldc, static_cast<float*>(c) + i * sc, ldc, CUBLASLT_EPILOGUE_DEFAULT, nullptr);
    }));
}
cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType at, int lda, const void* b, cudaDataType bt, int ldb, const void* beta, void* c, cudaDataType ct,
                            int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algo) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, at, lda, 0, b, bt, ldb, 0, beta, c, ct, ldc, 0, 1, compute, algo);
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) { *h = reinterpret_cast<cublasLtHandle_t>(new Handle); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) { delete reinterpret_cast<Handle*>(h); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t compute, cudaDataType_t scale) {
    const bool integer = compute == CUBLAS_COMPUTE_32I && scale == CUDA_R_32I;
    if (!integer && (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc);
    reinterpret_cast<Desc*>(*d)->integer = integer;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { delete reinterpret_cast<Desc*>(d); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void* v, size_t n) {
    Desc& desc = *reinterpret_cast<Desc*>(d);
    int32_t type;
    switch (a) {
        case CUBLASLT_MATMUL_DESC_TRANSA: return put(desc.ta, v, n);
        case CUBLASLT_MATMUL_DESC_TRANSB: return put(desc.tb, v, n);
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return put(desc.epilogue, v, n);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return put(desc.bias, v, n);
        case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: return put(desc.scale_a, v, n);
        case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: return put(desc.scale_b, v, n);
        case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: return put(desc.mode_a, v, n);
        case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: return put(desc.mode_b, v, n);
        case CUBLASLT_MATMUL_DESC_FAST_ACCUM: return put(desc.fast, v, n);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return put(type, v, n) || type != CUDA_R_32F ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
        default: return CUBLAS_STATUS_INVALID_VALUE;
    }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType_t t, uint64_t rows, uint64_t cols, int64_t ld) {
    if (uint64_t(ld) < rows) return CUBLAS_STATUS_INVALID_VALUE;
    *l = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{t, rows, cols, ld});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { delete reinterpret_cast<Layout*>(l); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void* v, size_t n) {
    Layout& layout = *reinterpret_cast<Layout*>(l);
    if (a == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return put(layout.batch, v, n);
    if (a == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) return put(layout.stride, v, n);
    return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) { *p = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { delete reinterpret_cast<Preference*>(p); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void* v, size_t n) {
    Preference& preference = *reinterpret_cast<Preference*>(p);
    if (a == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return put(preference.workspace, v, n);
    if (a == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return put(preference.reductions, v, n);
    const int matrix = int(a) - int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
    return matrix >= 0 && matrix < 4 ? put(preference.alignment[matrix], v, n) : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t o, cublasLtMatmulPreference_t p, int count,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
    const Desc& desc = *reinterpret_cast<Desc*>(d);
    const Layout &x = *reinterpret_cast<Layout*>(a), &y = *reinterpret_cast<Layout*>(b), &z = *reinterpret_cast<Layout*>(o);
    const bool fits = (desc.ta ? x.cols : x.rows) == z.rows && (desc.tb ? y.rows : y.cols) == z.cols && (desc.ta ? x.rows : x.cols) == (desc.tb ? y.cols : y.rows);
    const Preference& preference = *reinterpret_cast<Preference*>(p);
    const bool quarter = x.type == CUDA_R_8F_E4M3 || x.type == CUDA_R_8I;  // only row by row, as on the real one
    const bool types = x.type == y.type && (x.type == CUDA_R_32F || (quarter && desc.ta && !desc.tb)) && desc.integer == (x.type == CUDA_R_8I);
    const bool vectors = (desc.mode_a || desc.mode_b) && !(desc.scale_a && desc.scale_b);
    const bool blocks = desc.mode_a == CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F && desc.mode_b == desc.mode_a;
    if (!fits || count < 3 || preference.workspace != (32 << 20) || !types || vectors || blocks || !c) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool narrow = z.type != CUDA_R_32F && z.type != CUDA_R_32I;
    if (narrow && preference.reductions & 5) return CUBLAS_STATUS_NOT_SUPPORTED;  // would add parts of sums in the output's type
    for (int i = 0; i < 3; ++i) {
        memset(&results[i], 0, sizeof results[i]);
        results[i].algo.data[0] = uint64_t(100 + i);
        for (int matrix = 0; matrix < 4; ++matrix) results[i].algo.data[1 + matrix] = preference.alignment[matrix];
    }
    *returned = 3;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void* alpha, const void* a, cublasLtMatrixLayout_t al, const void* b,
                              cublasLtMatrixLayout_t bl, const void* beta, const void* c, cublasLtMatrixLayout_t cl, void* o, cublasLtMatrixLayout_t ol,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t size, cudaStream_t stream) {
    const Desc desc = *reinterpret_cast<Desc*>(d);
    const Layout x = *reinterpret_cast<Layout*>(al), y = *reinterpret_cast<Layout*>(bl), w = *reinterpret_cast<Layout*>(cl), z = *reinterpret_cast<Layout*>(ol);
    if (algo->data[0] == 102 || !workspace || size != (32 << 20)) return CUBLAS_STATUS_EXECUTION_FAILED;
    const void* pointers[] = {a, b, c, o};
    for (int i = 0; i < 4; ++i)
        if (reinterpret_cast<uintptr_t>(pointers[i]) % algo->data[1 + i]) return CUBLAS_STATUS_EXECUTION_FAILED;
    const float p = desc.integer ? float(*static_cast<const int*>(alpha)) : *static_cast<const float*>(alpha);
    const float q = desc.integer ? float(*static_cast<const int*>(beta)) : *static_cast<const float*>(beta);
    return cublasStatus_t(fake_cuda_issue(reinterpret_cast<CUstream>(stream), algo->data[0] == 101 ? 3000 : 5000, [=] {
        const long m = long(z.rows), n = long(z.cols), k = long(desc.ta ? x.rows : x.cols);
        for (int batch = 0; batch < z.batch; ++batch) {
            const char *first = static_cast<const char*>(a) + batch * x.stride * bytes(x.type), *second = static_cast<const char*>(b) + batch * y.stride * bytes(y.type);
            char* out = static_cast<char*>(o) + batch * z.stride * bytes(z.type);
            const char* old = static_cast<const char*>(c) + batch * w.stride * bytes(w.type);
            const bool plain = x.type == CUDA_R_32F && z.type == CUDA_R_32F && !desc.scale_a && !desc.scale_b;
            if (plain) {  // the same sums, faster: most of what tests time
                gemm(desc.ta, desc.tb, m, n, k, p, reinterpret_cast<const float*>(first), x.ld, reinterpret_cast<const float*>(second), y.ld, q,
                     reinterpret_cast<const float*>(old), w.ld, reinterpret_cast<float*>(out), z.ld, desc.epilogue, desc.bias);
                continue;
            }
            for (long j = 0; j < n; ++j)
                for (long i = 0; i < m; ++i) {
                    float sum = 0;
                    for (long t = 0; t < k; ++t)
                        sum += number(first, x.type, desc.ta ? i * x.ld + t : t * x.ld + i) * factor(desc.scale_a, desc.mode_a, i, m, t, k) *
                               number(second, y.type, desc.tb ? t * y.ld + j : j * y.ld + t) * factor(desc.scale_b, desc.mode_b, j, n, t, k);
                    sum = p * sum + (q != 0 ? q * number(old, w.type, j * w.ld + i) : 0);
                    if (desc.epilogue & CUBLASLT_EPILOGUE_BIAS) sum += desc.bias[i];
                    if (desc.epilogue & CUBLASLT_EPILOGUE_RELU) sum = sum > 0 ? sum : 0;
                    store(out, z.type, j * z.ld + i, sum);
                }
        }
    }));
}
}
