// cuBLAS and cuBLASLt for the virtual GPU: float32 only, computed by loops. Compiled against NVIDIA's headers, so argument
// orders, structures and attribute numbers are the real ones. Of three algorithms the second is the fastest; the third fails.
#define __CUDA_FP16_H__  // cublas_api.h needs only the names of these types, and their headers need all of CUDA C++
#define __CUDA_BF16_H__
#define __CUDA_FP8_H__
struct __half;
struct __nv_bfloat16;

#include <cuda.h>
#include <cublasLt.h>
#include <cublas_v2.h>

#include <cstring>
#include <functional>

CUresult fake_cuda_issue(CUstream stream, double ns, std::function<void()> operation);

namespace {
struct Layout { cudaDataType_t type; uint64_t rows, cols; int64_t ld; int32_t batch = 1; int64_t stride = 0; };
struct Desc { int32_t ta = 0, tb = 0, epilogue = CUBLASLT_EPILOGUE_DEFAULT; const float* bias = nullptr; };
struct Handle { CUstream stream = nullptr; };

void gemm(int ta, int tb, long m, long n, long k, float alpha, const float* a, long lda, const float* b, long ldb, float beta,
          const float* c, long ldc, float* d, long ldd, int epilogue, const float* bias) {
    for (long j = 0; j < n; ++j)
        for (long i = 0; i < m; ++i) {
            float sum = 0;
            for (long p = 0; p < k; ++p) sum += (ta ? a[i * lda + p] : a[p * lda + i]) * (tb ? b[p * ldb + j] : b[j * ldb + p]);
            sum = alpha * sum + (beta != 0 ? beta * c[j * ldc + i] : 0);
            if (epilogue & CUBLASLT_EPILOGUE_BIAS) sum += bias[i];
            if (epilogue & CUBLASLT_EPILOGUE_RELU) sum = sum > 0 ? sum : 0;
            d[j * ldd + i] = sum;
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
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc);
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
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) { *p = reinterpret_cast<cublasLtMatmulPreference_t>(new uint64_t(0)); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { delete reinterpret_cast<uint64_t*>(p); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void* v, size_t n) {
    if (a != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return CUBLAS_STATUS_INVALID_VALUE;
    return put(*reinterpret_cast<uint64_t*>(p), v, n);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t o, cublasLtMatmulPreference_t p, int count,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
    const Desc& desc = *reinterpret_cast<Desc*>(d);
    const Layout &x = *reinterpret_cast<Layout*>(a), &y = *reinterpret_cast<Layout*>(b), &z = *reinterpret_cast<Layout*>(o);
    const bool fits = (desc.ta ? x.cols : x.rows) == z.rows && (desc.tb ? y.rows : y.cols) == z.cols && (desc.ta ? x.rows : x.cols) == (desc.tb ? y.cols : y.rows);
    if (!fits || count < 3 || *reinterpret_cast<uint64_t*>(p) != (32 << 20) || x.type != CUDA_R_32F || !c) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < 3; ++i) { memset(&results[i], 0, sizeof results[i]); results[i].algo.data[0] = uint64_t(100 + i); }
    *returned = 3;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void* alpha, const void* a, cublasLtMatrixLayout_t al, const void* b,
                              cublasLtMatrixLayout_t bl, const void* beta, const void* c, cublasLtMatrixLayout_t cl, void* o, cublasLtMatrixLayout_t ol,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t size, cudaStream_t stream) {
    const Desc desc = *reinterpret_cast<Desc*>(d);
    const Layout x = *reinterpret_cast<Layout*>(al), y = *reinterpret_cast<Layout*>(bl), w = *reinterpret_cast<Layout*>(cl), z = *reinterpret_cast<Layout*>(ol);
    if (algo->data[0] == 102 || !workspace || size != (32 << 20)) return CUBLAS_STATUS_EXECUTION_FAILED;
    const float p = *static_cast<const float*>(alpha), q = *static_cast<const float*>(beta);
    return cublasStatus_t(fake_cuda_issue(reinterpret_cast<CUstream>(stream), algo->data[0] == 101 ? 3000 : 5000, [=] {
        for (int i = 0; i < z.batch; ++i)
            gemm(desc.ta, desc.tb, long(z.rows), long(z.cols), long(desc.ta ? x.rows : x.cols), p, static_cast<const float*>(a) + i * x.stride, x.ld,
                 static_cast<const float*>(b) + i * y.stride, y.ld, q, static_cast<const float*>(c) + i * w.stride, w.ld,
                 static_cast<float*>(o) + i * z.stride, z.ld, desc.epilogue, desc.bias);
    }));
}
}
