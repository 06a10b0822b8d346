/* SPDX-License-Identifier: Apache-2.0
 * Ragged random problems against fp64: every shape of the lists below, other properties drawn at random, every config.
 * Outputs are NaN before, activations' padding is NaN, workspaces are full of ones. */
#include "support.h"

static const int64_t m_values[] = {1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 100, 333};
static const int64_t n_values[] = {1, 8, 17, 200, 1000};
static const int64_t k_values[] = {1, 2, 31, 32, 33, 96, 200, 1000, 2560};
static const int64_t group_sizes[] = {32, 64, 96, 128, 256, -1};
static const w4a16_dtype scale_dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
static const w4a16_dtype halves[] = {W4A16_FP16, W4A16_BF16};

static void run_shape(w4a16_context *context, uint64_t *seed, int64_t m, int64_t n, int64_t k) {
    int64_t group_size = group_sizes[oracle_below(seed, 6)];
    w4a16_dtype scale_dtype = scale_dtypes[oracle_below(seed, 3)];
    w4a16_zero_kind zero_kind = (w4a16_zero_kind)oracle_below(seed, 3);
    int has_order = oracle_below(seed, 4) == 0, has_bias = oracle_below(seed, 2) == 0;
    w4a16_dtype a_dtype = halves[oracle_below(seed, 2)], c_dtype = halves[oracle_below(seed, 2)];
    float alpha = oracle_below(seed, 2) ? 1.0f : (float)(1 + 0.5 * oracle_unit(seed));
    test_weight arrays;
    test_weight_make(&arrays, seed, n, k, group_size, scale_dtype, zero_kind, has_order ? TEST_K_ORDER : 0);
    w4a16_weight *weight = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    test_activations a;
    test_activations_make(&a, seed, a_dtype, m, k, k + (int64_t)oracle_below(seed, 33), 0);
    double *bias = test_allocate((size_t)n * sizeof *bias), *product = test_allocate((size_t)(m * n) * sizeof *product);
    float *bias_data = test_allocate((size_t)n * sizeof *bias_data);
    for (int64_t i = 0; i < n; i++) bias[i] = (double)(bias_data[i] = (float)(0.1 * oracle_unit(seed)));
    test_multiply(&a, &arrays, (double)alpha, has_bias ? bias : NULL, product);
    const char *names[TEST_MAX_CONFIGS];
    size_t count = test_configs(context, &arrays, m, a_dtype, c_dtype, 0, names);
    names[count++] = NULL;
    for (size_t i = 0; i < count; i++) {
        w4a16_plan_options options;
        w4a16_plan_options_init(&options);
        options.m_max = m;
        options.a_dtype = a_dtype;
        options.c_dtype = c_dtype;
        options.alpha = alpha;
        options.bias = has_bias ? bias_data : NULL;
        options.bias_dtype = W4A16_FP32;
        options.config = names[i];
        w4a16_plan *plan = NULL;
        CHECK(w4a16_plan_create(weight, &options, &plan));
        test_output c;
        test_output_make(&c, c_dtype, m, n, n + (int64_t)oracle_below(seed, 17));
        if (i % 2 == 0) {
            test_gemm(plan, &a, &c);
        } else {
            CHECK(w4a16_gemm_host(plan, a.data, a.lda, c.data, c.ldc, m));
            test_output_check_guards(&c);
        }
        char what[256];
        snprintf(what, sizeof what, "%s m %d n %d k %d g %d %s scales, zeros %d, order %d, %s -> %s, alpha %g, bias %d",
                 names[i] ? names[i] : "(chosen)", (int)m, (int)n, (int)k, (int)group_size,
                 w4a16_dtype_name(scale_dtype), (int)zero_kind, has_order, w4a16_dtype_name(a_dtype),
                 w4a16_dtype_name(c_dtype), (double)alpha, has_bias);
        test_check_product(&c, &a, &arrays, (double)alpha, product, what);
        test_output_free(&c);
        w4a16_plan_destroy(plan);
    }
    free(bias);
    free(bias_data);
    free(product);
    test_activations_free(&a);
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
}

static void ragged_shapes_match_fp64(void **state) {
    (void)state;
    uint64_t seed = 2024;
    w4a16_context *context = test_context(NULL, 0);
    for (size_t m = 0; m < COUNT(m_values); m++)
        for (size_t n = 0; n < COUNT(n_values); n++)
            for (size_t k = 0; k < COUNT(k_values); k++)
                run_shape(context, &seed, m_values[m], n_values[n], k_values[k]);
    w4a16_context_destroy(context);
}

/** Each combination of group size, zero kind, scale dtype and k_order at one awkward shape, on each instruction set. */
static void every_kind_of_weight_matches_fp64(void **state) {
    (void)state;
    static const char *const sets[] = {"reference", "avx2", "avx512"};
    static const int64_t rows[] = {1, 5, 19};
    for (size_t set = 0; set < COUNT(sets); set++) {
        w4a16_context *context = test_context(sets[set], 0);
        uint64_t seed = 77;
        for (int kind = 0; context && kind < 6 * 3 * 3 * 2 * 3; kind++) {
            test_weight arrays;
            test_weight_make(&arrays, &seed, 49, 417, group_sizes[kind % 6], scale_dtypes[kind / 6 % 3],
                             (w4a16_zero_kind)(kind / 18 % 3), kind / 54 % 2 ? TEST_K_ORDER : 0);
            int64_t m = rows[kind / 108];
            w4a16_weight *weight = NULL;
            CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
            test_activations a;
            test_activations_make(&a, &seed, halves[kind % 2], m, 417, 420, 0);
            double *product = test_allocate((size_t)(m * 49) * sizeof *product);
            test_multiply(&a, &arrays, 1, NULL, product);
            const char *names[TEST_MAX_CONFIGS];
            size_t count = test_configs(context, &arrays, m, a.dtype, W4A16_FP16, 0, names);
            for (size_t i = 0; i < count; i++) {
                w4a16_plan *plan = test_plan(weight, m, a.dtype, W4A16_FP16, names[i]);
                test_output c;
                test_output_make(&c, W4A16_FP16, m, 49, 50);
                test_gemm(plan, &a, &c);
                char what[128];
                snprintf(what, sizeof what, "%s, %s, kind %d", sets[set], names[i], kind);
                test_check_product(&c, &a, &arrays, 1, product, what);
                test_output_free(&c);
                w4a16_plan_destroy(plan);
            }
            free(product);
            test_activations_free(&a);
            w4a16_weight_destroy(weight);
            test_weight_free(&arrays);
        }
        w4a16_context_destroy(context);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ragged_shapes_match_fp64),
        cmocka_unit_test(every_kind_of_weight_matches_fp64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
