/* SPDX-License-Identifier: Apache-2.0
 * The fast kernels give the same bits: in every config and instruction set, for every M, at every place in the batch,
 * with any number of threads. What fixed point cannot hold is the reference's bits. */
#include "cpu_case.h"

#include "core/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const LEVELS[] = {"avx2", "avx512"};

typedef struct bits_test {
    cpu_case made;
    uint16_t *c, *expected, *reference;
    w4_device_weight *weight;
    w4_device *packer;
} bits_test;

static void open_test(bits_test *test, const cpu_shape *shape, uint64_t seed) {
    size_t bytes = (size_t)(shape->m * shape->n) * sizeof(uint16_t);
    cpu_case_make(shape, seed, &test->made);
    test->c = malloc(bytes);
    test->expected = malloc(bytes);
    test->reference = malloc(bytes);
    assert_true(test->c && test->expected && test->reference);
    test->packer = cpu_open("reference", 1);
    test->weight = NULL;
}

/** After the case's data is final. */
static void pack(bits_test *test) {
    assert_int_equal(w4_cpu_backend.weight_upload(test->packer, &test->made.matrix, &test->weight), W4A16_OK);
    cpu_case_run(test->packer, test->weight, 0, &test->made, 0, test->made.shape.m, test->reference);
}

static void close_test(bits_test *test) {
    w4_cpu_backend.weight_free(test->weight);
    w4_cpu_backend.device_close(test->packer);
    cpu_case_free(&test->made);
    free(test->c);
    free(test->expected);
    free(test->reference);
}

static void compare(const bits_test *test, const uint16_t *c, const uint16_t *right, int64_t first, int64_t count,
                    const char *config) {
    int64_t n = test->made.shape.n;
    for (int64_t i = 0; i < count * n; i++)
        if (c[i] != right[first * n + i])
            fail_msg("%s, %s: rows %d + %d: element [%d, %d] is 0x%04x, 0x%04x is right", config,
                     cpu_case_text(&test->made), (int)first, (int)count, (int)(i / n), (int)(i % n), c[i],
                     right[first * n + i]);
}

/** Call check(test, device, config, name) for every fast config of every level that this CPU has. */
static void for_each_fast(bits_test *test, int threads,
                          void (*check)(bits_test *test, w4_device *device, size_t config, const char *name)) {
    for (size_t level = 0; level < sizeof LEVELS / sizeof *LEVELS; level++) {
        w4_device *device = cpu_open(LEVELS[level], threads);
        if (!device) continue;
        for (size_t i = 0; i < w4_cpu_backend.config_count(device); i++) {
            w4_config config;
            w4_cpu_backend.config_get(device, i, &config);
            if (strncmp(config.name + 4, LEVELS[level], strlen(LEVELS[level])) != 0) continue;
            if (cpu_feasible(device, i, &test->made)) check(test, device, i, config.name);
        }
        w4_cpu_backend.device_close(device);
    }
}

static bool have_expected;

static void check_same(bits_test *test, w4_device *device, size_t config, const char *name) {
    const cpu_shape *shape = &test->made.shape;
    cpu_case_run(device, test->weight, config, &test->made, 0, shape->m, test->c);
    if (!have_expected) memcpy(test->expected, test->c, (size_t)(shape->m * shape->n) * sizeof(uint16_t));
    have_expected = true;
    compare(test, test->c, test->expected, 0, shape->m, name);
}

static void check_parts(bits_test *test, w4_device *device, size_t config, const char *name) {
    static const int64_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 31};
    int64_t first = 0;
    for (size_t i = 0; first < test->made.shape.m; i++) {
        int64_t count = counts[i % 15], left = test->made.shape.m - first;
        if (count > left) count = left;
        cpu_case_run(device, test->weight, config, &test->made, first, count, test->c);
        compare(test, test->c, test->expected, first, count, name);
        first += count;
    }
}

static void test_same_bits(void **state) {
    static const cpu_shape shapes[] = {
        {140, 90, 1000, 128, W4A16_FP16, W4A16_FP16, W4A16_FP16, 0, false, true, 1, false},
        {140, 33, 777, 32, W4A16_BF16, W4A16_BF16, W4A16_BF16, 1, true, false, 0.7f, false},
        {140, 70, 640, 64, W4A16_FP16, W4A16_BF16, W4A16_FP32, 2, false, true, 1, false},
        {140, 16, 1100, -1, W4A16_BF16, W4A16_FP16, W4A16_FP16, 2, false, false, 1, false},
        {530, 20, 96, 96, W4A16_FP16, W4A16_FP16, W4A16_FP16, 0, false, false, 1, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bits_test test;
        open_test(&test, &shapes[i], i);
        pack(&test);
        have_expected = false;
        for (int threads = 1; threads <= 5; threads += 2) for_each_fast(&test, threads, check_same);
        if (have_expected) for_each_fast(&test, 2, check_parts);
        close_test(&test);
    }
}

static void check_reference(bits_test *test, w4_device *device, size_t config, const char *name) {
    cpu_case_run(device, test->weight, config, &test->made, 0, test->made.shape.m, test->c);
    compare(test, test->c, test->reference, 0, test->made.shape.m, name);
}

/** Rows 1, 4, 5 and the last hold Inf and NaN: they are the reference's, and their neighbours do not change. */
static void check_special_rows(bits_test *test, w4_device *device, size_t config, const char *name) {
    int64_t m = test->made.shape.m, n = test->made.shape.n;
    cpu_case_run(device, test->weight, config, &test->made, 0, m, test->c);
    for (int64_t row = 0; row < m; row++) {
        bool special = row == 1 || row == 4 || row == 5 || row == m - 1;
        const uint16_t *right = special ? test->reference : test->expected;
        compare(test, test->c + row * n, right, row, 1, name);
    }
}

static void test_not_finite(void **state) {
    static const cpu_shape shape = {21, 50, 300, 64, W4A16_FP16, W4A16_FP16, W4A16_FP16, 1, false, true, 1, false};
    bits_test test;
    (void)state;
    open_test(&test, &shape, 3);
    pack(&test);
    have_expected = false;
    for_each_fast(&test, 2, check_same);
    uint16_t *a = test.made.a;
    int64_t lda = test.made.lda;
    a[lda + 7] = 0x7c00;                          /* infinity */
    a[4 * lda + 299] = 0x7e00;                    /* NaN */
    a[5 * lda] = 0xfc00, a[5 * lda + 1] = 0x7c00; /* both infinities */
    a[20 * lda + 128] = 0x7c01;                   /* a signalling NaN */
    cpu_case_run(test.packer, test.weight, 0, &test.made, 0, shape.m, test.reference);
    assert_true(isnan(w4_fp16_to_float(test.reference[4 * shape.n])));
    if (have_expected) for_each_fast(&test, 2, check_special_rows);
    close_test(&test);
}

/** Activations in bf16 that no 16-bit fixed point with safe float scales can hold: each row is the reference's. */
static void test_extreme_activations(void **state) {
    static const cpu_shape shape = {8, 40, 200, 32, W4A16_BF16, W4A16_BF16, W4A16_FP32, 2, false, false, 1, false};
    static const double factors[] = {0x1p127, 0x1p100, 0x1p42, 0x1p-63, 0x1p-100, 0x1p-120, 0x1p-126, 0x1p-130};
    bits_test test;
    (void)state;
    open_test(&test, &shape, 4);
    for (int64_t row = 0; row < shape.m; row++)
        for (int64_t k = 0; k < shape.k; k++) {
            uint16_t *a = &test.made.a[row * test.made.lda + k];
            double value = w4_bf16_to_float(*a) < 0 ? -1.5 : 1;
            *a = w4_double_to_bf16(value * factors[row]);
        }
    pack(&test);
    for_each_fast(&test, 2, check_reference);
    close_test(&test);
}

/** Scales and float zeros out of range send the whole weight to the reference. */
static void test_extreme_weights(void **state) {
    static const cpu_shape shape = {7, 40, 200, 32, W4A16_BF16, W4A16_BF16, W4A16_FP32, 2, false, false, 1, false};
    static const float scales[] = {0x1p127f, 0x1p60f, 0x1p-70f, 0x1p-126f, 0x1p-149f};
    static const float zeros[] = {0x1p120f, 0x1p20f, 0x1p-30f, -0x1p-140f};
    (void)state;
    for (size_t i = 0; i < 9; i++) {
        bits_test test;
        open_test(&test, &shape, i);
        if (i < 5)
            ((float *)test.made.matrix.scales)[11 * test.made.matrix.groups + 3] = scales[i];
        else
            ((float *)test.made.matrix.zeros)[17 * test.made.matrix.groups + 1] = zeros[i - 5];
        pack(&test);
        for_each_fast(&test, 2, check_reference);
        close_test(&test);
    }
}

/** At the edges of the range that the fast kernels do take, with results from tiny to beyond bf16: the sums are exact,
 * so that even here the bits are the reference's. */
static void test_range_edges(void **state) {
    static const cpu_shape shape = {12, 40, 256, 128, W4A16_BF16, W4A16_BF16, W4A16_FP32, 1, false, false, 1, true};
    static const int scales[] = {-60, 40}, activations[] = {-57, 37};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        bits_test test;
        open_test(&test, &shape, i);
        for (int64_t j = 0; j < shape.n * test.made.matrix.groups; j++)
            ((float *)test.made.matrix.scales)[j] = ldexpf(1, scales[i & 1]);
        for (int64_t j = 0; j < (shape.m - 1) * test.made.lda + shape.k; j++)
            test.made.a[j] = w4_double_to_bf16(ldexp(w4_bf16_to_float(test.made.a[j]), activations[i >> 1]));
        pack(&test);
        for_each_fast(&test, 2, check_reference);
        close_test(&test);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),           cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_extreme_activations), cmocka_unit_test(test_extreme_weights),
        cmocka_unit_test(test_range_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
