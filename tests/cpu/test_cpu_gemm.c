/* SPDX-License-Identifier: Apache-2.0
 * Every CPU config against fp64: exactly where all sums are exact, else within a bound for each element and 2e-3 in
 * the Frobenius norm. */
#include "cpu_case.h"

#include "core/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const LEVELS[] = {"reference", "avx2", "avx512"};

static void check_exact(const cpu_case *made, const double *expected, const uint16_t *c, const char *config) {
    w4a16_dtype dtype = made->shape.c_dtype;
    for (int64_t i = 0; i < made->shape.m * made->shape.n; i++) {
        uint16_t right = dtype == W4A16_BF16 ? w4_double_to_bf16(expected[i]) : w4_double_to_fp16(expected[i]);
        if (c[i] != right)
            fail_msg("%s, %s: element [%d, %d] is 0x%04x, the reference has 0x%04x", config, cpu_case_text(made),
                     (int)(i / made->shape.n), (int)(i % made->shape.n), c[i], right);
    }
}

static void check_close(const cpu_case *made, const double *expected, const double *bound, const uint16_t *c,
                        const char *config, bool is_reference) {
    double error = 0, norm = 0, unit = made->shape.c_dtype == W4A16_BF16 ? 0x1p-8 : 0x1p-11;
    for (int64_t i = 0; i < made->shape.m * made->shape.n; i++) {
        double difference = fabs(w4_load_float(c, made->shape.c_dtype, (size_t)i) - expected[i]);
        double allowed = fabs(expected[i]) * unit * 1.001 + 0x1p-24 + (is_reference ? 0 : bound[i] * 1.01);
        if (!(difference <= allowed))
            fail_msg("%s, %s: element [%d, %d] is off by %g where %g is allowed", config, cpu_case_text(made),
                     (int)(i / made->shape.n), (int)(i % made->shape.n), difference, allowed);
        error += difference * difference;
        norm += expected[i] * expected[i];
    }
    /* bf16 results alone are off by up to 2^-9 of each element. */
    double limit = made->shape.c_dtype == W4A16_BF16 ? 4e-3 : 2e-3;
    if (!(sqrt(error) <= limit * sqrt(norm)) && norm > 0)
        fail_msg("%s, %s: relative error %g", config, cpu_case_text(made), sqrt(error / norm));
}

static void run_case(w4_device *device, const cpu_shape *shape, uint64_t seed) {
    cpu_case made;
    w4_device_weight *weight;
    size_t elements = (size_t)(shape->m * shape->n);
    double *expected = malloc(elements * sizeof *expected), *bound = malloc(elements * sizeof *bound);
    uint16_t *c = malloc(elements * sizeof *c);
    assert_true(expected && bound && c);
    cpu_case_make(shape, seed, &made);
    cpu_case_oracle(&made, expected, bound);
    assert_int_equal(w4_cpu_backend.weight_upload(device, &made.matrix, &weight), W4A16_OK);
    for (size_t i = 0; i < w4_cpu_backend.config_count(device); i++) {
        w4_config config;
        w4_cpu_backend.config_get(device, i, &config);
        if (!cpu_feasible(device, i, &made)) continue;
        cpu_case_run(device, weight, i, &made, 0, shape->m, c);
        if (shape->exact)
            check_exact(&made, expected, c, config.name);
        else
            check_close(&made, expected, bound, c, config.name, strcmp(config.name, "cpu_reference") == 0);
    }
    w4_cpu_backend.weight_free(weight);
    cpu_case_free(&made);
    free(expected);
    free(bound);
    free(c);
}

/** Random shapes that are multiples of nothing, with every element type and kind of zero. */
static cpu_shape random_shape(uint64_t *state, bool exact) {
    static const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 11, 13, 16, 25, 40}, ns[] = {1, 7, 16, 17, 33, 50, 200};
    static const int64_t ks[] = {1, 5, 31, 33, 64, 77, 160, 300, 513, 1000}, groups[] = {32, 64, 96, 128, 160, 256, -1};
    static const float alphas[] = {1, 0.5f, -2};
    cpu_shape shape = {
        .m = ms[cpu_random(state) % 12],
        .n = ns[cpu_random(state) % 7],
        .k = ks[cpu_random(state) % 10],
        .group_size = groups[cpu_random(state) % 7],
        .a_dtype = cpu_random(state) & 1 ? W4A16_BF16 : W4A16_FP16,
        .c_dtype = cpu_random(state) & 1 ? W4A16_BF16 : W4A16_FP16,
        .scale_dtype = (w4a16_dtype)(W4A16_FP16 + (int)(cpu_random(state) % 3)),
        .zero_kind = (w4a16_zero_kind)(cpu_random(state) % 3),
        .order = cpu_random(state) % 4 == 0,
        .bias = cpu_random(state) & 1,
        .alpha = alphas[cpu_random(state) % 3],
        .exact = exact,
    };
    return shape;
}

static void run_level(const char *level) {
    static const cpu_shape large[] = {
        {9, 64, 4096, 128, W4A16_FP16, W4A16_FP16, W4A16_FP16, 0, false, false, 1, false},
        {2, 48, 4128, 96, W4A16_BF16, W4A16_FP16, W4A16_BF16, 1, true, true, 1, false},
        {70, 100, 4096, -1, W4A16_BF16, W4A16_BF16, W4A16_FP32, 2, false, true, 0.25f, false},
        {600, 40, 192, 64, W4A16_FP16, W4A16_FP16, W4A16_FP16, 1, false, true, 1, false}, /* more rows than a chunk */
    };
    w4_device *device = cpu_open(level, 2);
    if (!device) return;
    uint64_t state = 1;
    for (int i = 0; i < 60; i++) {
        cpu_shape shape = random_shape(&state, false);
        run_case(device, &shape, (uint64_t)i);
        shape = random_shape(&state, true);
        run_case(device, &shape, (uint64_t)i);
    }
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        cpu_shape shape = large[i];
        run_case(device, &shape, i);
        shape.exact = true;
        run_case(device, &shape, i);
    }
    w4_cpu_backend.device_close(device);
}

static void test_reference(void **state) {
    (void)state;
    run_level(LEVELS[0]);
}

static void test_avx2(void **state) {
    (void)state;
    run_level(LEVELS[1]);
}

static void test_avx512(void **state) {
    (void)state;
    run_level(LEVELS[2]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_avx2),
        cmocka_unit_test(test_avx512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
