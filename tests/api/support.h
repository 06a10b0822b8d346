/* SPDX-License-Identifier: Apache-2.0
 * What the API tests share: weights with known values, activations, the product in fp64, poisoned outputs. Written
 * against w4a16.h alone; decoding is by the header's words, not by the library. */
#ifndef W4A16_TESTS_API_SUPPORT_H
#define W4A16_TESTS_API_SUPPORT_H

#include "number_oracle.h"
#include "w4a16.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/** Fail with the library's text unless `call` returns W4A16_OK. */
#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        w4a16_status check_status = (call);                                                                            \
        if (check_status != W4A16_OK)                                                                                  \
            fail_msg("%s: %s: %s", #call, w4a16_status_text(check_status), w4a16_last_error());                        \
    } while (0)

/** Fail unless `call` returns `expected` and the error text contains `text`. */
#define REFUSED(call, expected, text)                                                                                  \
    do {                                                                                                               \
        w4a16_status refused_status = (call);                                                                          \
        if (refused_status != (expected))                                                                              \
            fail_msg("%s: status %d, not %d; last error: %s", #call, (int)refused_status, (int)(expected),             \
                     w4a16_last_error());                                                                              \
        if (!strstr(w4a16_last_error(), text)) fail_msg("%s: '%s' is not in: %s", #call, text, w4a16_last_error());    \
    } while (0)

void *test_allocate(size_t bytes);

/** A canonical weight and what its elements are worth. */
typedef struct test_weight {
    w4a16_canonical canonical; /* points to the arrays below */
    uint8_t *codes;
    void *scales, *zeros;
    int32_t *k_order;
    int64_t groups;
    double *values; /* [k, n], transposed and in the order of A's columns: what C = A * values uses */
    double *norms;  /* [n]: Euclidean norm of (|q| + |z|) |s|, which bounds rounding errors */
} test_weight;

enum { TEST_K_ORDER = 1, TEST_EXACT = 2, TEST_NO_VALUES = 4, TEST_SPREAD = 8, TEST_FAR = 16 };

/** Random codes and k_order. Scales: random of either sign, or with TEST_EXACT powers of two from 1/8 to 1; then float
 * zeros are multiples of 1/2. With TEST_SPREAD a row's scales are up to 96 apart, as far as kernels count in one unit;
 * with TEST_FAR up to 2^18. With TEST_NO_VALUES `values` and `norms`, 8 bytes an element, stay NULL. */
void test_weight_make(test_weight *weight, uint64_t *seed, int64_t n, int64_t k, int64_t group_size,
                      w4a16_dtype scale_dtype, w4a16_zero_kind zero_kind, int flags);
void test_weight_free(test_weight *weight);
size_t test_weight_code_bytes(const test_weight *weight);
size_t test_weight_scale_bytes(const test_weight *weight);
size_t test_weight_zero_bytes(const test_weight *weight);

oracle_format test_format(w4a16_dtype dtype);

/** A[m, k] with stride lda; NaN between k and lda. */
typedef struct test_activations {
    w4a16_dtype dtype;
    int64_t m, k, lda;
    uint16_t *data;
    double *values; /* [m, k] */
} test_activations;

/** Roughly normal values, or with TEST_EXACT whole numbers from -8 to 8. */
void test_activations_make(test_activations *a, uint64_t *seed, w4a16_dtype dtype, int64_t m, int64_t k, int64_t lda,
                           int flags);
/** Set one element, as rounded to the dtype. */
void test_activations_set(test_activations *a, int64_t row, int64_t column, double value);
void test_activations_free(test_activations *a);

/** C[m, n] with stride ldc, full of NaN, between guards. */
typedef struct test_output {
    w4a16_dtype dtype;
    int64_t m, n, ldc;
    uint16_t *memory;
    uint16_t *data;
} test_output;

void test_output_make(test_output *c, w4a16_dtype dtype, int64_t m, int64_t n, int64_t ldc);
/** Guards and the gaps between n and ldc still hold what test_output_make put there. */
void test_output_check_guards(const test_output *c);
/** Nothing at all was written. */
void test_output_check_untouched(const test_output *c);
double test_output_value(const test_output *c, int64_t row, int64_t column);
void test_output_free(test_output *c);

/** product[m, n] = alpha * A * W^T + bias in double; bias may be NULL. */
void test_multiply(const test_activations *a, const test_weight *weight, double alpha, const double *bias,
                   double *product);

/** Each element of C is within half a unit of its format, plus 2^-14 of the norms' product. `what` names the case in
 * messages. */
void test_check_elements(const test_output *c, const test_activations *a, const test_weight *weight, double alpha,
                         const double *product, const char *what);

/** And where there are at least 64 elements, the relative Frobenius error is below 2e-3, or below what the rounding of
 * the fp64 result costs and a tenth more, if that is larger. */
void test_check_product(const test_output *c, const test_activations *a, const test_weight *weight, double alpha,
                        const double *product, const char *what);

/** A context on the CPU with at most this instruction set (NULL: the best) and so many threads; NULL, with the reason
 * printed, where the processor lacks it. */
w4a16_context *test_context(const char *instruction_set, int threads);

/** Plan for a weight. m range 1..m_max; NULL config: the library's choice. */
w4a16_plan *test_plan(const w4a16_weight *weight, int64_t m_max, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                      const char *config);

/** A workspace as the plan asks, filled with 0xff; free with free(). */
void *test_workspace(const w4a16_plan *plan, size_t *bytes);

/** Run with a poisoned workspace. */
void test_gemm(const w4a16_plan *plan, const test_activations *a, test_output *c);

/** The problem of multiplying m rows by this weight. */
w4a16_problem test_problem(const w4a16_canonical *weight, int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                           uint32_t flags);

/** Names of the configs that can run on `context` for this weight; returns how many. */
enum { TEST_MAX_CONFIGS = 256 };
size_t test_configs(const w4a16_context *context, const test_weight *weight, int64_t m, w4a16_dtype a_dtype,
                    w4a16_dtype c_dtype, uint32_t flags, const char *names[TEST_MAX_CONFIGS]);

/** A fresh folder under the system's temporary one, and its removal with all content. */
void test_make_folder(char folder[64]);
void test_remove_folder(const char *folder);

#endif
