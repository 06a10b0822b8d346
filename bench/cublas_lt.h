/* SPDX-License-Identifier: Apache-2.0
 * Dense GEMMs by cuBLASLt, opened at run time: C[M,N] = A[M,K] * W, for the comparison with our own. The prototypes and
 * values are those of cublasLt.h, cublas_api.h and library_types.h (CUDA 12 and 13), as far as they are needed here, so
 * that the program can be built where these headers are not installed; where they are, cublas_lt.c compares. */
#ifndef W4A16_BENCH_CUBLAS_LT_H
#define W4A16_BENCH_CUBLAS_LT_H

#include "w4a16.h"

#include <cuda.h>
#include <stdbool.h>

enum {
    LT_STATUS_SUCCESS = 0,                 /* CUBLAS_STATUS_SUCCESS */
    LT_STATUS_NOT_SUPPORTED = 15,          /* CUBLAS_STATUS_NOT_SUPPORTED */
    LT_REAL_32F = 0,                       /* CUDA_R_32F */
    LT_REAL_16F = 2,                       /* CUDA_R_16F */
    LT_REAL_16BF = 14,                     /* CUDA_R_16BF */
    LT_COMPUTE_32F = 68,                   /* CUBLAS_COMPUTE_32F */
    LT_OPERATION_N = 0,                    /* CUBLAS_OP_N */
    LT_OPERATION_T = 1,                    /* CUBLAS_OP_T */
    LT_DESCRIPTION_TRANSPOSE_A = 3,        /* CUBLASLT_MATMUL_DESC_TRANSA */
    LT_PREFERENCE_MAX_WORKSPACE_BYTES = 1, /* CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES */
};

typedef struct lt_algorithm { /* cublasLtMatmulAlgo_t */
    uint64_t data[8];
} lt_algorithm;

typedef struct lt_heuristic { /* cublasLtMatmulHeuristicResult_t */
    lt_algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
} lt_heuristic;

/* Handles and descriptions are pointers to something opaque, cudaStream_t is CUstream, enumerations are int.
 * FUNCTION(name without "cublasLt", result, arguments) */
#define LT_FUNCTIONS(FUNCTION)                                                                                         \
    FUNCTION(GetVersion, size_t, (void))                                                                               \
    FUNCTION(GetStatusString, const char *, (int status))                                                              \
    FUNCTION(Create, int, (void **handle))                                                                             \
    FUNCTION(Destroy, int, (void *handle))                                                                             \
    FUNCTION(MatmulDescCreate, int, (void **description, int compute_type, int scale_type))                            \
    FUNCTION(MatmulDescDestroy, int, (void *description))                                                              \
    FUNCTION(MatmulDescSetAttribute, int, (void *description, int attribute, const void *value, size_t bytes))         \
    FUNCTION(MatrixLayoutCreate, int, (void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride))      \
    FUNCTION(MatrixLayoutDestroy, int, (void *layout))                                                                 \
    FUNCTION(MatmulPreferenceCreate, int, (void **preference))                                                         \
    FUNCTION(MatmulPreferenceDestroy, int, (void *preference))                                                         \
    FUNCTION(MatmulPreferenceSetAttribute, int, (void *preference, int attribute, const void *value, size_t bytes))    \
    FUNCTION(MatmulAlgoGetHeuristic, int,                                                                              \
             (void *handle, void *description, void *a, void *b, void *c, void *d, void *preference, int wanted,       \
              lt_heuristic *results, int *found))                                                                      \
    FUNCTION(Matmul, int,                                                                                              \
             (void *handle, void *description, const void *alpha, const void *a, void *a_layout, const void *b,        \
              void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,                \
              const lt_algorithm *algorithm, void *workspace, size_t workspace_bytes, CUstream stream))

typedef struct lt_library {
    void *library, *handle;
    char path[512]; /* of the file that was opened */
#define LT_FIELD(name, result, arguments) result(*name) arguments;
    LT_FUNCTIONS(LT_FIELD)
#undef LT_FIELD
} lt_library;

/** Open cuBLASLt. @param path a file, a folder that holds it, or NULL: the loader's usual places, then the toolkit's.
 * @return false: `reason` says in one line what was looked for. */
bool lt_open(const char *path, lt_library *lt, char *reason, size_t reason_size);

/** Make the handle; the GPU's context must be current, here and in every later call. */
w4a16_status lt_begin(lt_library *lt);
/** Give the handle back, if there is one. The library stays loaded: it has work to do when the process ends. */
void lt_end(lt_library *lt);

/** How W lies in memory, row by row. */
typedef enum lt_weight_layout { LT_WEIGHT_NK = 0, LT_WEIGHT_KN = 1 } lt_weight_layout;

/** A multiplication of one shape, without its data. */
typedef struct lt_product {
    void *description, *w, *a, *c;
} lt_product;

/** @param dtype of A and W, fp16 or bf16. @param c_dtype of C: as dtype, or fp32 */
w4a16_status lt_product_create(const lt_library *lt, lt_weight_layout layout, int64_t m, int64_t n, int64_t k,
                               w4a16_dtype dtype, w4a16_dtype c_dtype, lt_product *product);
void lt_product_destroy(const lt_library *lt, lt_product *product);

/** The heuristics' first `capacity` algorithms, the one they think best first; at least one, or an error. */
w4a16_status lt_product_algorithms(const lt_library *lt, const lt_product *product, size_t workspace_bytes,
                                   int capacity, lt_algorithm *algorithms, int *count);

/** C = A * W on `stream`; all arrays on the device. */
w4a16_status lt_product_run(const lt_library *lt, const lt_product *product, const lt_algorithm *algorithm,
                            CUdeviceptr w, CUdeviceptr a, CUdeviceptr c, CUdeviceptr workspace, size_t workspace_bytes,
                            CUstream stream);

#endif
