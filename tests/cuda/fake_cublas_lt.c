/* SPDX-License-Identifier: Apache-2.0
 * A libcublasLt that multiplies on the host, in double, at once: beside the fake driver it lets cuda_compare run to its
 * end where there is no GPU. Each multiplication has two algorithms, and refuses the second when it is called. With
 * W4A16_FAKE_CUBLAS=wrong one output of fp32 is a little too large. */
#include "../../bench/cublas_lt.h"

#include "core/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INVALID_VALUE = 7 }; /* CUBLAS_STATUS_INVALID_VALUE */

#define PROTOTYPE(name, result, arguments) __attribute__((visibility("default"))) result cublasLt##name arguments;
LT_FUNCTIONS(PROTOTYPE)

typedef struct layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
} layout;

static int live;

static int make(void **object, size_t bytes) {
    *object = calloc(1, bytes);
    if (!*object) abort();
    live++;
    return LT_STATUS_SUCCESS;
}

static int drop(void *object) {
    if (!object) return INVALID_VALUE;
    free(object);
    live--;
    return LT_STATUS_SUCCESS;
}

__attribute__((destructor)) static void report_leaks(void) {
    if (!live) return;
    fprintf(stderr, "fake cuBLASLt: %d objects were not given back\n", live);
    _exit(98);
}

size_t cublasLtGetVersion(void) {
    return 130000;
}
const char *cublasLtGetStatusString(int status) {
    return status == LT_STATUS_NOT_SUPPORTED ? "not supported" : "an error of the fake cuBLASLt";
}
int cublasLtCreate(void **handle) {
    return make(handle, 1);
}
int cublasLtDestroy(void *handle) {
    return drop(handle);
}
/* A description is whether the first operand is transposed. */
int cublasLtMatmulDescCreate(void **description, int compute_type, int scale_type) {
    if (compute_type != LT_COMPUTE_32F || scale_type != LT_REAL_32F) return INVALID_VALUE;
    return make(description, sizeof(int));
}
int cublasLtMatmulDescDestroy(void *description) {
    return drop(description);
}
int cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t bytes) {
    if (attribute != LT_DESCRIPTION_TRANSPOSE_A || bytes != sizeof(int)) return INVALID_VALUE;
    memcpy(description, value, bytes);
    return LT_STATUS_SUCCESS;
}
int cublasLtMatrixLayoutCreate(void **made, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (!rows || !columns || stride < (int64_t)rows) return INVALID_VALUE;
    layout content = {type, rows, columns, stride};
    make(made, sizeof content);
    memcpy(*made, &content, sizeof content);
    return LT_STATUS_SUCCESS;
}
int cublasLtMatrixLayoutDestroy(void *made) {
    return drop(made);
}
int cublasLtMatmulPreferenceCreate(void **preference) {
    return make(preference, sizeof(size_t));
}
int cublasLtMatmulPreferenceDestroy(void *preference) {
    return drop(preference);
}
int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t bytes) {
    if (attribute != LT_PREFERENCE_MAX_WORKSPACE_BYTES || bytes != sizeof(size_t)) return INVALID_VALUE;
    memcpy(preference, value, bytes);
    return LT_STATUS_SUCCESS;
}

/** W as [n, k] after the transposition, A' as [k, m], C' as [n, m]. */
static int fits(const void *description, const layout *w, const layout *a, const layout *c) {
    int transposed = *(const int *)description;
    return (transposed ? w->columns : w->rows) == c->rows && (transposed ? w->rows : w->columns) == a->rows &&
           a->columns == c->columns;
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                   void *preference, int wanted, lt_heuristic *results, int *found) {
    if (!handle || c != d || !preference || !fits(description, a, b, d)) return INVALID_VALUE;
    for (*found = 0; *found < 2 && *found < wanted; ++*found) {
        results[*found] = (lt_heuristic){.state = LT_STATUS_SUCCESS, .workspace_bytes = *(size_t *)preference};
        results[*found].algorithm.data[0] = (uint64_t)*found;
    }
    return LT_STATUS_SUCCESS;
}

static w4a16_dtype dtype_of(const layout *of) {
    return of->type == LT_REAL_32F ? W4A16_FP32 : of->type == LT_REAL_16BF ? W4A16_BF16 : W4A16_FP16;
}

int cublasLtMatmul(void *handle, void *description, const void *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const lt_algorithm *algorithm, void *workspace, size_t workspace_bytes, CUstream stream) {
    const layout *w = a_layout, *x = b_layout, *y = d_layout;
    const char *mode = getenv("W4A16_FAKE_CUBLAS");
    if (!handle || !stream || c != d || c_layout != d_layout || !workspace || !workspace_bytes ||
        *(const float *)alpha != 1 || *(const float *)beta != 0 || !fits(description, w, x, y))
        return INVALID_VALUE;
    if (algorithm->data[0]) return LT_STATUS_NOT_SUPPORTED;
    int64_t row_step = *(int *)description ? w->stride : 1, column_step = *(int *)description ? 1 : w->stride;
    for (int64_t column = 0; column < (int64_t)y->columns; column++)
        for (int64_t row = 0; row < (int64_t)y->rows; row++) {
            double sum = 0;
            for (int64_t i = 0; i < (int64_t)x->rows; i++)
                sum += (double)w4_load_float(a, dtype_of(w), (size_t)(row * row_step + i * column_step)) *
                       (double)w4_load_float(b, dtype_of(x), (size_t)(column * x->stride + i));
            if (mode && !strcmp(mode, "wrong") && y->type == LT_REAL_32F && !row) sum = sum * 1.1 + 0.1;
            w4_store_double(d, dtype_of(y), (size_t)(column * y->stride + row), sum);
        }
    return LT_STATUS_SUCCESS;
}
