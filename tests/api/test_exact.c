/* SPDX-License-Identifier: Apache-2.0
 * Problems whose every sum is exact: whole-number activations, power-of-two scales. All configs of all instruction sets
 * must give the bits that integer arithmetic gives, whatever their order of summation. */
#include "support.h"

typedef struct exact_case {
    int64_t n, k, group_size;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int flags;
} exact_case;

static const exact_case cases[] = {
    {1, 1, -1, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0},
    {1, 2, 32, W4A16_BF16, W4A16_ZERO_INTEGER, 0},
    {3, 31, 32, W4A16_FP32, W4A16_ZERO_FLOAT, 0},
    {8, 32, 32, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_K_ORDER},
    {17, 33, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0},
    {17, 33, -1, W4A16_BF16, W4A16_ZERO_FLOAT, TEST_K_ORDER},
    {31, 95, 32, W4A16_FP16, W4A16_ZERO_INTEGER, 0},
    {64, 64, 64, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0},
    {65, 96, 96, W4A16_BF16, W4A16_ZERO_INTEGER, 0},
    {40, 200, 96, W4A16_FP32, W4A16_ZERO_INTEGER, TEST_K_ORDER},
    {130, 257, 128, W4A16_FP16, W4A16_ZERO_FLOAT, 0},
    {16, 512, 256, W4A16_FP32, W4A16_ZERO_SYMMETRIC, TEST_K_ORDER},
    {200, 1000, 160, W4A16_FP16, W4A16_ZERO_INTEGER, 0},
    {33, 2560, 128, W4A16_BF16, W4A16_ZERO_SYMMETRIC, 0},
    {48, 2560, -1, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_K_ORDER},
    {47, 1001, 32, W4A16_FP32, W4A16_ZERO_FLOAT, TEST_K_ORDER},
};

static const int64_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 33, 64, 100};

/** The same sums in integers. Weights are multiples of 1/16, alpha of 1/2, bias of 1/4: the result in units of 1/32 is
 * a whole number that a double holds. */
static double exact_result(const test_activations *a, const test_weight *weight, int64_t row, int64_t column,
                           float alpha, double bias) {
    int64_t sum = 0, n = weight->canonical.n, k = weight->canonical.k;
    for (int64_t j = 0; j < k; j++)
        sum += (int64_t)a->values[row * k + j] * (int64_t)(weight->values[j * n + column] * 16);
    return (double)(sum * (int64_t)(alpha * 2) + (int64_t)(bias * 32)) / 32;
}

static void run_case(const w4a16_context *context, const w4a16_weight *weight, const test_weight *arrays, uint64_t seed,
                     int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype, const char *set) {
    static const float alphas[] = {1, 0.5f, -2, 3};
    static const w4a16_dtype bias_dtypes[] = {W4A16_DTYPE_NONE, W4A16_FP16, W4A16_BF16, W4A16_FP32};
    int64_t n = arrays->canonical.n, k = arrays->canonical.k;
    test_activations a;
    test_activations_make(&a, &seed, a_dtype, m, k, k + (int64_t)oracle_below(&seed, 9), TEST_EXACT);
    float alpha = alphas[oracle_below(&seed, 4)];
    /* Drawn as: none, or one of the dtypes (DTYPE_NONE with a bias means C's). */
    int has_bias = oracle_below(&seed, 4) != 0;
    w4a16_dtype bias_dtype = bias_dtypes[oracle_below(&seed, 4)];
    w4a16_dtype bias_stored = bias_dtype == W4A16_DTYPE_NONE ? c_dtype : bias_dtype;
    double *bias = test_allocate((size_t)n * sizeof *bias), *wanted = test_allocate((size_t)(m * n) * sizeof *wanted);
    void *bias_data = test_allocate((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) {
        bias[i] = has_bias ? ((double)oracle_below(&seed, 129) - 64) / 4 : 0;
        if (bias_stored == W4A16_FP32)
            ((float *)bias_data)[i] = (float)bias[i];
        else
            ((uint16_t *)bias_data)[i] = oracle_encode(test_format(bias_stored), bias[i]);
    }
    for (int64_t row = 0; row < m; row++)
        for (int64_t i = 0; i < n; i++) wanted[row * n + i] = exact_result(&a, arrays, row, i, alpha, bias[i]);
    const char *names[TEST_MAX_CONFIGS];
    size_t count = test_configs(context, arrays, m, a_dtype, c_dtype, 0, names);
    for (size_t config = 0; config <= count; config++) {
        w4a16_plan_options options;
        w4a16_plan_options_init(&options);
        options.m_max = m;
        options.a_dtype = a_dtype;
        options.c_dtype = c_dtype;
        options.alpha = alpha;
        options.bias = has_bias ? bias_data : NULL;
        options.bias_dtype = bias_dtype;
        options.config = config < count ? names[config] : NULL;
        w4a16_plan *plan = NULL;
        CHECK(w4a16_plan_create(weight, &options, &plan));
        test_output c;
        test_output_make(&c, c_dtype, m, n, n + (int64_t)oracle_below(&seed, 5));
        test_gemm(plan, &a, &c);
        for (int64_t row = 0; row < m; row++)
            for (int64_t i = 0; i < n; i++) {
                uint16_t expected = oracle_encode(test_format(c_dtype), wanted[row * n + i]);
                if (c.data[row * c.ldc + i] != expected)
                    fail_msg("%s, %s: m %d n %d k %d g %d: C[%d, %d] is 0x%04x, not 0x%04x (%g)", set,
                             config < count ? names[config] : "the library's choice", (int)m, (int)n, (int)k,
                             (int)arrays->canonical.group_size, (int)row, (int)i, c.data[row * c.ldc + i], expected,
                             wanted[row * n + i]);
            }
        test_output_free(&c);
        w4a16_plan_destroy(plan);
    }
    free(bias);
    free(bias_data);
    free(wanted);
    test_activations_free(&a);
}

static void run_instruction_set(const char *set, int threads) {
    const char *label = set ? set : "the best set";
    static const w4a16_dtype halves[] = {W4A16_FP16, W4A16_BF16};
    w4a16_context *context = test_context(set, threads);
    if (!context) skip();
    for (size_t i = 0; i < COUNT(cases); i++) {
        const exact_case *shape = &cases[i];
        uint64_t seed = i;
        test_weight arrays;
        test_weight_make(&arrays, &seed, shape->n, shape->k, shape->group_size, shape->scale_dtype, shape->zero_kind,
                         shape->flags | TEST_EXACT);
        w4a16_weight *weight = NULL;
        CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
        for (size_t j = 0; j < COUNT(row_counts); j++)
            run_case(context, weight, &arrays, seed + j, row_counts[j], halves[(i + j) % 2], halves[(i + j) / 2 % 2],
                     label);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
    }
    w4a16_context_destroy(context);
}

static void reference_is_exact(void **state) {
    (void)state;
    run_instruction_set("reference", 0);
}
static void avx2_is_exact(void **state) {
    (void)state;
    run_instruction_set("avx2", 0);
}
static void avx512_is_exact(void **state) {
    (void)state;
    run_instruction_set("avx512", 0);
}
static void the_number_of_threads_changes_nothing(void **state) {
    (void)state;
    run_instruction_set(NULL, 1);
    run_instruction_set(NULL, 3);
    run_instruction_set(NULL, 32);
}

/** Limiting the instruction set must take configs away, not leave the same ones. */
static void a_limited_context_offers_fewer_configs(void **state) {
    (void)state;
    uint64_t seed = 1;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 16, 64, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    const char *names[TEST_MAX_CONFIGS];
    w4a16_context *context = test_context("reference", 0);
    assert_int_equal(test_configs(context, &arrays, 1, W4A16_FP16, W4A16_FP16, 0, names), 1);
    assert_string_equal(names[0], "cpu_reference");
    w4a16_context_destroy(context);
    context = test_context("avx2", 0);
    if (context) {
        size_t count = test_configs(context, &arrays, 1, W4A16_FP16, W4A16_FP16, 0, names);
        assert_true(count > 1);
        for (size_t i = 0; i < count; i++) assert_null(strstr(names[i], "avx512"));
    }
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_is_exact),
        cmocka_unit_test(avx2_is_exact),
        cmocka_unit_test(avx512_is_exact),
        cmocka_unit_test(the_number_of_threads_changes_nothing),
        cmocka_unit_test(a_limited_context_offers_fewer_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
