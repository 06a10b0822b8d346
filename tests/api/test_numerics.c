/* SPDX-License-Identifier: Apache-2.0
 * The hard corners of the multiplication: Inf and NaN, overflow, tiny and huge magnitudes, outliers, and rows whose
 * bits may not depend on the batch around them. */
#include "support.h"

static const char *const sets[] = {"reference", "avx2", "avx512"};

/** Run every config of every instruction set on the same problem; `check` judges each result. */
static void run_all(const test_weight *arrays, const test_activations *a, w4a16_dtype c_dtype,
                    void (*check)(const test_output *c, const test_activations *a, const test_weight *weight,
                                  const char *what)) {
    int64_t n = arrays->canonical.n;
    for (size_t set = 0; set < COUNT(sets); set++) {
        w4a16_context *context = test_context(sets[set], 0);
        if (!context) continue;
        w4a16_weight *weight = NULL;
        CHECK(w4a16_weight_create(context, &arrays->canonical, &weight));
        const char *names[TEST_MAX_CONFIGS];
        size_t count = test_configs(context, arrays, a->m, a->dtype, c_dtype, 0, names);
        for (size_t i = 0; i < count; i++) {
            w4a16_plan *plan = test_plan(weight, a->m, a->dtype, c_dtype, names[i]);
            test_output c;
            test_output_make(&c, c_dtype, a->m, n, n);
            test_gemm(plan, a, &c);
            check(&c, a, arrays, names[i]);
            test_output_free(&c);
            w4a16_plan_destroy(plan);
        }
        w4a16_weight_destroy(weight);
        w4a16_context_destroy(context);
    }
}

/** Where IEEE arithmetic gives NaN or an infinity, in whatever order the sum is taken, C must have it; finite rows keep
 * their accuracy. */
static void check_ieee(const test_output *c, const test_activations *a, const test_weight *weight, const char *what) {
    int64_t n = c->n;
    double *product = test_allocate((size_t)(c->m * n) * sizeof *product);
    test_multiply(a, weight, 1, NULL, product);
    for (int64_t row = 0; row < c->m; row++)
        for (int64_t i = 0; i < n; i++) {
            double expected = product[row * n + i], got = test_output_value(c, row, i);
            int right = isnan(expected) ? isnan(got)
                        : isinf(expected)
                            ? got == expected
                            : fabs(got - expected) <=
                                  oracle_half_unit(test_format(c->dtype), fmax(fabs(expected), fabs(got))) + 1e-4;
            if (!right) fail_msg("%s: C[%d, %d] is %g, not %g", what, (int)row, (int)i, got, expected);
        }
    free(product);
}

static void infinities_and_nan_follow_ieee(void **state) {
    (void)state;
    static const w4a16_dtype dtypes[] = {W4A16_FP16, W4A16_BF16};
    for (int kind = 0; kind < 12; kind++) {
        uint64_t seed = (uint64_t)kind;
        test_weight arrays;
        test_weight_make(&arrays, &seed, 37, 300, kind % 2 ? 32 : -1, W4A16_FP16, (w4a16_zero_kind)(kind % 3),
                         kind / 6 ? TEST_K_ORDER : 0);
        test_activations a;
        test_activations_make(&a, &seed, dtypes[kind / 3 % 2], 17, 300, 301, 0);
        test_activations_set(&a, 1, 5, INFINITY);
        test_activations_set(&a, 3, 299, -INFINITY);
        test_activations_set(&a, 4, 0, NAN);
        test_activations_set(&a, 8, 100, INFINITY);
        test_activations_set(&a, 8, 200, -INFINITY);
        test_activations_set(&a, 16, 31, INFINITY);
        test_activations_set(&a, 16, 32, INFINITY);
        run_all(&arrays, &a, W4A16_FP16, check_ieee);
        run_all(&arrays, &a, W4A16_BF16, check_ieee);
        test_activations_free(&a);
        test_weight_free(&arrays);
    }
}

/** A weight of exactly 0 times an infinity is NaN, times NaN is NaN. */
static void zero_weights_do_not_hide_infinities(void **state) {
    (void)state;
    uint64_t seed = 9;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 16, 64, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    memset(arrays.codes, 0x88, test_weight_code_bytes(&arrays));
    memset(arrays.values, 0, 16 * 64 * sizeof(double));
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, 4, 64, 64, 0);
    test_activations_set(&a, 2, 63, INFINITY);
    run_all(&arrays, &a, W4A16_FP16, check_ieee);
    test_activations_free(&a);
    test_weight_free(&arrays);
}

static void check_accuracy(const test_output *c, const test_activations *a, const test_weight *weight,
                           const char *what) {
    double *product = test_allocate((size_t)(c->m * c->n) * sizeof *product);
    test_multiply(a, weight, 1, NULL, product);
    test_check_product(c, a, weight, 1, product, what);
    free(product);
}

/** fp16's largest values overflow to infinity where bf16 still holds them. */
static void check_overflow(const test_output *c, const test_activations *a, const test_weight *weight,
                           const char *what) {
    double *product = test_allocate((size_t)(c->m * c->n) * sizeof *product);
    test_multiply(a, weight, 1, NULL, product);
    int overflows = 0;
    for (int64_t i = 0; i < c->m * c->n; i++) {
        double got = test_output_value(c, i / c->n, i % c->n);
        if (fabs(product[i]) > 66000) {
            overflows++;
            if (!isinf(got) || signbit(got) != signbit(product[i]))
                fail_msg("%s: %g became %g, not an infinity", what, product[i], got);
        } else if (fabs(product[i]) < 65000 && !(fabs(got - product[i]) <= 1e-3 * fabs(product[i]) + 20)) {
            fail_msg("%s: %g became %g", what, product[i], got);
        }
    }
    assert_true(overflows > 10);
    free(product);
}

static void overflow_gives_infinity(void **state) {
    (void)state;
    uint64_t seed = 4;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 33, 128, 32, W4A16_FP32, W4A16_ZERO_INTEGER, TEST_EXACT);
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, 9, 128, 128, 0);
    for (int64_t row = 0; row < 9; row++)
        for (int64_t j = 0; j < 128; j++) test_activations_set(&a, row, j, 2000 * a.values[row * 128 + j]);
    run_all(&arrays, &a, W4A16_FP16, check_overflow);
    test_activations_free(&a);
    test_weight_free(&arrays);
}

/** Activations and scales at both ends of what their formats hold. */
static void extreme_magnitudes_keep_their_accuracy(void **state) {
    (void)state;
    static const struct {
        w4a16_dtype a_dtype, scale_dtype;
        double a_factor, scale_factor;
    } cases[] = {
        {W4A16_FP16, W4A16_FP16, 1e-6, 1000},  {W4A16_FP16, W4A16_FP16, 3e4, 1e-3},
        {W4A16_FP16, W4A16_FP32, 1, 1e-3},     {W4A16_BF16, W4A16_BF16, 1e-30, 1e30},
        {W4A16_BF16, W4A16_BF16, 1e30, 1e-30}, {W4A16_BF16, W4A16_FP32, 1e-36, 1e36},
        {W4A16_BF16, W4A16_FP32, 1e-39, 1e38}, {W4A16_FP16, W4A16_FP32, 1e-7, 1e7},
        {W4A16_BF16, W4A16_FP32, 1e15, 1e-15},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t seed = i;
        test_weight arrays;
        test_weight_make(&arrays, &seed, 35, 160, 32, cases[i].scale_dtype, W4A16_ZERO_SYMMETRIC, 0);
        for (int64_t index = 0; index < 35 * arrays.groups; index++) {
            double scale = (0.1 + 0.05 * oracle_unit(&seed)) * cases[i].scale_factor;
            if (cases[i].scale_dtype == W4A16_FP32) {
                ((float *)arrays.scales)[index] = (float)scale;
                scale = (double)(float)scale;
            } else {
                oracle_format format = test_format(cases[i].scale_dtype);
                ((uint16_t *)arrays.scales)[index] = oracle_encode(format, scale);
                scale = oracle_decode(format, oracle_encode(format, scale));
            }
            int64_t row = index / arrays.groups, group = index % arrays.groups;
            for (int64_t j = group * 32; j < group * 32 + 32; j++) {
                int byte = arrays.codes[row * 80 + j / 2];
                arrays.values[j * 35 + row] = ((j % 2 ? byte / 16 : byte % 16) - 8) * scale;
            }
        }
        for (int64_t row = 0; row < 35; row++) {
            double squares = 0;
            for (int64_t j = 0; j < 160; j++) squares += 4 * arrays.values[j * 35 + row] * arrays.values[j * 35 + row];
            arrays.norms[row] = sqrt(squares);
        }
        test_activations a;
        test_activations_make(&a, &seed, cases[i].a_dtype, 11, 160, 160, 0);
        for (int64_t row = 0; row < 11; row++)
            for (int64_t j = 0; j < 160; j++)
                test_activations_set(&a, row, j, cases[i].a_factor * 0.5 * a.values[row * 160 + j]);
        run_all(&arrays, &a, W4A16_BF16, check_accuracy);
        test_activations_free(&a);
        test_weight_free(&arrays);
    }
}

/** Trained models have single activations thousands of times their neighbours. */
static void outliers_among_the_activations(void **state) {
    (void)state;
    static const double factors[] = {100, 1000, 10000};
    for (size_t i = 0; i < COUNT(factors); i++) {
        uint64_t seed = i;
        test_weight arrays;
        test_weight_make(&arrays, &seed, 48, 512, 128, W4A16_FP16, W4A16_ZERO_INTEGER, 0);
        test_activations a;
        test_activations_make(&a, &seed, W4A16_FP16, 16, 512, 512, 0);
        for (int64_t row = 0; row < 16; row++) test_activations_set(&a, row, row * 7, factors[i]);
        run_all(&arrays, &a, W4A16_FP16, check_accuracy);
        test_activations_free(&a);
        test_weight_free(&arrays);
    }
}

/** The same where the weights at the outliers happen to be 0, so that what remains is the other activations' share: a
 * kernel that spends its precision on the outliers shows. */
static void outliers_that_meet_zero_weights(void **state) {
    (void)state;
    static const double factors[] = {10, 30, 100, 316, 1000, 10000, 60000};
    for (size_t i = 0; i < COUNT(factors); i++) {
        uint64_t seed = i;
        test_weight arrays;
        test_weight_make(&arrays, &seed, 48, 512, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
        for (int64_t row = 0; row < 48; row++)
            for (int64_t j = 0; j < 512; j += 64) {
                arrays.codes[row * 256 + j / 2] = (uint8_t)((arrays.codes[row * 256 + j / 2] & 0xf0) | 8);
                arrays.values[j * 48 + row] = 0;
            }
        test_activations a;
        test_activations_make(&a, &seed, W4A16_FP16, 16, 512, 512, 0);
        for (int64_t row = 0; row < 16; row++)
            for (int64_t j = 0; j < 512; j += 64) test_activations_set(&a, row, j, row % 2 ? factors[i] : -factors[i]);
        run_all(&arrays, &a, W4A16_FP16, check_accuracy);
        test_activations_free(&a);
        test_weight_free(&arrays);
    }
}

enum { BATCH = 256 };

/** Row `first + r` of the whole batch, computed in a call of m rows, has the bits it has in the batch of 256. */
static void check_positions(const w4a16_plan *plan, const test_activations *a, const test_output *whole,
                            const char *what) {
    static const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 16, 17, 64, 100, 256};
    size_t bytes;
    void *workspace = test_workspace(plan, &bytes);
    w4a16_plan_info info = {.struct_size = sizeof info};
    CHECK(w4a16_plan_query(plan, &info));
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int64_t first = 0; first + sizes[i] <= BATCH; first += sizes[i] < 16 ? 53 : 31) {
            test_output c;
            test_output_make(&c, whole->dtype, sizes[i], whole->n, whole->n);
            if (bytes) memset(workspace, 0xff, bytes);
            CHECK(w4a16_gemm(plan, a->data + first * a->lda, a->lda, c.data, c.ldc, sizes[i], workspace, bytes, NULL));
            test_output_check_guards(&c);
            if (memcmp(c.data, whole->data + first * whole->ldc, (size_t)(sizes[i] * c.n) * 2) != 0)
                fail_msg("%s: rows from %d in a batch of %d differ from the batch of %d", what, (int)first,
                         (int)sizes[i], BATCH);
            test_output_free(&c);
        }
    free(workspace);
}

static void batch_invariance(int64_t n, int64_t k, int64_t group_size, w4a16_dtype dtype, w4a16_zero_kind zeros,
                             const char *set) {
    w4a16_context *context = test_context(set, 0);
    if (!context) return;
    uint64_t seed = 12;
    test_weight arrays;
    test_weight_make(&arrays, &seed, n, k, group_size, W4A16_FP16, zeros, zeros ? TEST_K_ORDER : 0);
    w4a16_weight *weight = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    test_activations a;
    test_activations_make(&a, &seed, dtype, BATCH, k, k + 3, 0);
    /* A row that needs special treatment must not change its neighbours' bits. */
    test_activations_set(&a, 54, k / 2, INFINITY);
    test_activations_set(&a, 107, 0, NAN);
    const char *names[TEST_MAX_CONFIGS];
    size_t count = test_configs(context, &arrays, BATCH, dtype, dtype, W4A16_PLAN_BATCH_INVARIANT, names);
    names[count++] = NULL;
    for (size_t i = 0; i < count; i++) {
        w4a16_plan_options options;
        w4a16_plan_options_init(&options);
        options.m_max = BATCH;
        options.a_dtype = dtype;
        options.flags = W4A16_PLAN_BATCH_INVARIANT;
        options.config = names[i];
        w4a16_plan *plan = NULL;
        CHECK(w4a16_plan_create(weight, &options, &plan));
        test_output whole;
        test_output_make(&whole, dtype, BATCH, n, n);
        test_gemm(plan, &a, &whole);
        check_positions(plan, &a, &whole, names[i] ? names[i] : "(chosen)");
        w4a16_plan_destroy(plan);
        /* Engines make one plan per range of M: the bits must not depend on which one serves a row. */
        static const int64_t limits[] = {1, 4, 16, 64, 255};
        for (size_t j = 0; j < COUNT(limits); j++) {
            options.m_max = limits[j];
            CHECK(w4a16_plan_create(weight, &options, &plan));
            test_activations part = a;
            part.m = limits[j];
            test_output c;
            test_output_make(&c, dtype, limits[j], n, n);
            test_gemm(plan, &part, &c);
            if (memcmp(c.data, whole.data, (size_t)(limits[j] * n) * 2) != 0)
                fail_msg("%s: a plan for M up to %d differs from one up to %d", names[i] ? names[i] : "(chosen)",
                         (int)limits[j], BATCH);
            test_output_free(&c);
            w4a16_plan_destroy(plan);
        }
        test_output_free(&whole);
    }
    test_activations_free(&a);
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
    w4a16_context_destroy(context);
}

static void rows_do_not_depend_on_the_batch(void **state) {
    (void)state;
    for (size_t set = 0; set < COUNT(sets); set++) {
        batch_invariance(72, 417, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, sets[set]);
        batch_invariance(33, 1000, 32, W4A16_BF16, W4A16_ZERO_INTEGER, sets[set]);
        batch_invariance(20, 300, -1, W4A16_FP16, W4A16_ZERO_FLOAT, sets[set]);
    }
}

/** Without the flag, too, the same call twice gives the same bits, whatever the number of threads. */
static void results_are_deterministic(void **state) {
    (void)state;
    uint64_t seed = 3;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 300, 1500, 128, W4A16_FP16, W4A16_ZERO_INTEGER, 0);
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, 37, 1500, 1500, 0);
    test_output first;
    test_output_make(&first, W4A16_FP16, 37, 300, 300);
    for (int threads = 1; threads <= 7; threads += 2) {
        w4a16_context *context = test_context(NULL, threads);
        w4a16_weight *weight = NULL;
        CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
        w4a16_plan *plan = test_plan(weight, 37, W4A16_FP16, W4A16_FP16, NULL);
        for (int round = 0; round < 5; round++) {
            test_output c;
            test_output_make(&c, W4A16_FP16, 37, 300, 300);
            test_gemm(plan, &a, threads == 1 && round == 0 ? &first : &c);
            if (threads > 1 || round > 0) assert_memory_equal(c.data, first.data, 37 * 300 * 2);
            test_output_free(&c);
        }
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(weight);
        w4a16_context_destroy(context);
    }
    test_output_free(&first);
    test_activations_free(&a);
    test_weight_free(&arrays);
}

/** More rows than any kernel takes at once, with rows that need special treatment at the seams. */
static void many_rows(void **state) {
    (void)state;
    static const int64_t counts[] = {515, 516, 517, 1032, 1033, 1500};
    for (size_t i = 0; i < COUNT(counts); i++) {
        uint64_t seed = i;
        test_weight arrays;
        test_weight_make(&arrays, &seed, 37, 160, 32, W4A16_FP16, W4A16_ZERO_INTEGER, i % 2 ? TEST_K_ORDER : 0);
        test_activations a;
        test_activations_make(&a, &seed, W4A16_FP16, counts[i], 160, 163, 0);
        run_all(&arrays, &a, W4A16_FP16, check_accuracy);
        test_activations_set(&a, 0, 3, INFINITY);
        test_activations_set(&a, counts[i] / 2, 3, NAN);
        test_activations_set(&a, counts[i] / 2 + 1, 3, -INFINITY);
        test_activations_set(&a, counts[i] - 1, 3, INFINITY);
        run_all(&arrays, &a, W4A16_FP16, check_ieee);
        test_activations_free(&a);
        test_weight_free(&arrays);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(infinities_and_nan_follow_ieee),
        cmocka_unit_test(zero_weights_do_not_hide_infinities),
        cmocka_unit_test(overflow_gives_infinity),
        cmocka_unit_test(extreme_magnitudes_keep_their_accuracy),
        cmocka_unit_test(outliers_among_the_activations),
        cmocka_unit_test(outliers_that_meet_zero_weights),
        cmocka_unit_test(rows_do_not_depend_on_the_batch),
        cmocka_unit_test(results_are_deterministic),
        cmocka_unit_test(many_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
