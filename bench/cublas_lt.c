/* SPDX-License-Identifier: Apache-2.0
 * Dense GEMMs by cuBLASLt. The library stores matrices column by column, so that our row-major C[M,N] = A[M,K] * W^T is
 * its C'[N,M] = W A'[K,M], with W transposed where it lies as [N,K]. */
#include "cublas_lt.h"

#include "core/status.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#if defined(__has_include)
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), "not the value of " #theirs)
SAME(LT_STATUS_SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(LT_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(LT_REAL_32F, CUDA_R_32F);
SAME(LT_REAL_16F, CUDA_R_16F);
SAME(LT_REAL_16BF, CUDA_R_16BF);
SAME(LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(LT_OPERATION_N, CUBLAS_OP_N);
SAME(LT_OPERATION_T, CUBLAS_OP_T);
SAME(LT_DESCRIPTION_TRANSPOSE_A, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_PREFERENCE_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(sizeof(lt_algorithm), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(lt_heuristic), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(lt_heuristic, workspace_bytes), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(lt_heuristic, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
#endif
#endif

static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
static const char toolkit[] = "/usr/local/cuda/lib64";

enum { NAMES = sizeof names / sizeof *names };

/** Open the first of `names` in `folder` (NULL: where the loader looks). */
static void *open_in(const char *folder, char *path, size_t path_size) {
    void *library = NULL;
    for (int i = 0; !library && i < NAMES; i++) {
        snprintf(path, path_size, "%s%s%s", folder ? folder : "", folder ? "/" : "", names[i]);
        library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    }
    return library;
}

static bool resolve_all(lt_library *lt, char *reason, size_t reason_size) {
    void *address;
#define RESOLVE(name, result, arguments)                                                                               \
    address = dlsym(lt->library, "cublasLt" #name);                                                                    \
    if (!address) {                                                                                                    \
        snprintf(reason, reason_size, "%s has no function cublasLt" #name, lt->path);                                  \
        return false;                                                                                                  \
    }                                                                                                                  \
    memcpy(&lt->name, &address, sizeof address);
    LT_FUNCTIONS(RESOLVE)
#undef RESOLVE
    return true;
}

bool lt_open(const char *path, lt_library *lt, char *reason, size_t reason_size) {
    struct stat file;
    *lt = (lt_library){0};
    if (!path) {
        lt->library = open_in(NULL, lt->path, sizeof lt->path);
        if (!lt->library) lt->library = open_in(toolkit, lt->path, sizeof lt->path);
        if (!lt->library)
            snprintf(reason, reason_size,
                     "libcublasLt not found: no %s, %s or %s where the loader looks or in %s; say where it is with "
                     "--cublas PATH (with PyTorch: nvidia/cu13/lib or nvidia/cublas/lib below site-packages)",
                     names[0], names[1], names[2], toolkit);
    } else if (stat(path, &file) == 0 && S_ISDIR(file.st_mode)) {
        lt->library = open_in(path, lt->path, sizeof lt->path);
        if (!lt->library)
            snprintf(reason, reason_size, "libcublasLt not found: --cublas %s holds no %s, %s or %s that can be loaded",
                     path, names[0], names[1], names[2]);
    } else {
        snprintf(lt->path, sizeof lt->path, "%s", path);
        lt->library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
        if (!lt->library) snprintf(reason, reason_size, "libcublasLt not found: --cublas %s: %s", path, dlerror());
    }
    if (!lt->library) return false;
    return resolve_all(lt, reason, reason_size);
}

static w4a16_status check(const lt_library *lt, int result, const char *call) {
    if (result == LT_STATUS_SUCCESS) return W4A16_OK;
    return w4_fail(result == LT_STATUS_NOT_SUPPORTED ? W4A16_ERROR_UNSUPPORTED : W4A16_ERROR_DEVICE,
                   "cublasLt%s: %s (status %d)", call, lt->GetStatusString(result), result);
}

#define CALL(function, ...) check(lt, lt->function(__VA_ARGS__), #function)

w4a16_status lt_begin(lt_library *lt) {
    return CALL(Create, &lt->handle);
}

void lt_end(lt_library *lt) {
    if (lt->handle) (void)lt->Destroy(lt->handle);
    lt->handle = NULL;
}

static int real_type(w4a16_dtype dtype) {
    return dtype == W4A16_FP32 ? LT_REAL_32F : dtype == W4A16_BF16 ? LT_REAL_16BF : LT_REAL_16F;
}

static w4a16_status describe(const lt_library *lt, lt_weight_layout layout, int64_t m, int64_t n, int64_t k,
                             w4a16_dtype dtype, w4a16_dtype c_dtype, lt_product *product) {
    int transpose = layout == LT_WEIGHT_NK ? LT_OPERATION_T : LT_OPERATION_N;
    int64_t w_rows = layout == LT_WEIGHT_NK ? k : n, w_columns = layout == LT_WEIGHT_NK ? n : k;
    W4_TRY(CALL(MatmulDescCreate, &product->description, LT_COMPUTE_32F, LT_REAL_32F));
    W4_TRY(
        CALL(MatmulDescSetAttribute, product->description, LT_DESCRIPTION_TRANSPOSE_A, &transpose, sizeof transpose));
    W4_TRY(CALL(MatrixLayoutCreate, &product->w, real_type(dtype), (uint64_t)w_rows, (uint64_t)w_columns, w_rows));
    W4_TRY(CALL(MatrixLayoutCreate, &product->a, real_type(dtype), (uint64_t)k, (uint64_t)m, k));
    return CALL(MatrixLayoutCreate, &product->c, real_type(c_dtype), (uint64_t)n, (uint64_t)m, n);
}

w4a16_status lt_product_create(const lt_library *lt, lt_weight_layout layout, int64_t m, int64_t n, int64_t k,
                               w4a16_dtype dtype, w4a16_dtype c_dtype, lt_product *product) {
    *product = (lt_product){0};
    w4a16_status status = describe(lt, layout, m, n, k, dtype, c_dtype, product);
    if (status) lt_product_destroy(lt, product);
    return status;
}

void lt_product_destroy(const lt_library *lt, lt_product *product) {
    if (product->description) (void)lt->MatmulDescDestroy(product->description);
    if (product->w) (void)lt->MatrixLayoutDestroy(product->w);
    if (product->a) (void)lt->MatrixLayoutDestroy(product->a);
    if (product->c) (void)lt->MatrixLayoutDestroy(product->c);
    *product = (lt_product){0};
}

w4a16_status lt_product_algorithms(const lt_library *lt, const lt_product *product, size_t workspace_bytes,
                                   int capacity, lt_algorithm *algorithms, int *count) {
    enum { MOST = 32 };
    lt_heuristic results[MOST];
    void *preference = NULL;
    int found = 0, good = 0;
    W4_TRY(CALL(MatmulPreferenceCreate, &preference));
    w4a16_status status = CALL(MatmulPreferenceSetAttribute, preference, LT_PREFERENCE_MAX_WORKSPACE_BYTES,
                               &workspace_bytes, sizeof workspace_bytes);
    if (!status)
        status = CALL(MatmulAlgoGetHeuristic, lt->handle, product->description, product->w, product->a, product->c,
                      product->c, preference, capacity < MOST ? capacity : MOST, results, &found);
    (void)lt->MatmulPreferenceDestroy(preference);
    if (status) return status;
    for (int i = 0; i < found; i++)
        if (results[i].state == LT_STATUS_SUCCESS) algorithms[good++] = results[i].algorithm;
    if (!good)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "cublasLtMatmulAlgoGetHeuristic: no algorithm for this multiplication");
    *count = good;
    return W4A16_OK;
}

w4a16_status lt_product_run(const lt_library *lt, const lt_product *product, const lt_algorithm *algorithm,
                            CUdeviceptr w, CUdeviceptr a, CUdeviceptr c, CUdeviceptr workspace, size_t workspace_bytes,
                            CUstream stream) {
    static const float one = 1, zero = 0;
    void *result = (void *)(uintptr_t)c;
    return CALL(Matmul, lt->handle, product->description, &one, (const void *)(uintptr_t)w, product->w,
                (const void *)(uintptr_t)a, product->a, &zero, result, product->c, result, product->c, algorithm,
                (void *)(uintptr_t)workspace, workspace_bytes, stream);
}
