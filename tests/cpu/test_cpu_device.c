/* SPDX-License-Identifier: Apache-2.0
 * Opening the CPU: instruction sets as limits, errors that say what would be right, configs with reasons. */
#include "backend/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const w4_problem PROBLEM = {64, 256,  512, 128, W4A16_FP16, W4A16_FP16, W4A16_FP16, W4A16_ZERO_SYMMETRIC,
                                   0,  false};

static void test_query(void **state) {
    w4a16_device_info info = {.struct_size = sizeof info};
    (void)state;
    assert_int_equal(w4_cpu_backend.device_count(), 1);
    w4_cpu_backend.device_query(0, &info);
    assert_string_equal(info.id, "cpu");
    assert_int_equal(info.usable, 1);
    assert_true(info.name[0] && info.architecture[0] && info.reason[0]);
    assert_null(strchr(info.name, '\n'));
}

static void test_options(void **state) {
    w4a16_context_options options = {.struct_size = sizeof options};
    w4_device *device = NULL;
    (void)state;
    options.cpu_instruction_set = "sse9";
    assert_int_equal(w4_cpu_backend.device_open(0, &options, &device), W4A16_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(w4a16_last_error(), "sse9"));
    options.cpu_instruction_set = NULL;
    options.threads = -3;
    assert_int_equal(w4_cpu_backend.device_open(0, &options, &device), W4A16_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(w4a16_last_error(), "-3"));
    assert_int_equal(w4_cpu_backend.device_open(1, NULL, &device), W4A16_ERROR_NOT_FOUND);
    assert_null(device);
    assert_int_equal(w4_cpu_backend.device_open(0, NULL, &device), W4A16_OK);
    w4_cpu_backend.device_close(device);
    w4_cpu_backend.device_close(NULL);
}

/** Whether the name belongs to an instruction set ("cpu_avx2_..."). */
static bool is_of(const char *name, const char *level) {
    return strncmp(name, "cpu_", 4) == 0 && strncmp(name + 4, level, strlen(level)) == 0;
}

static void test_limits(void **state) {
    static const char *const levels[] = {"reference", "avx2", "avx512"};
    bool lacking = false;
    (void)state;
    for (size_t l = 0; l < 3; l++) {
        w4a16_context_options options = {.struct_size = sizeof options, .cpu_instruction_set = levels[l]};
        w4_device *device = NULL;
        w4a16_status status = w4_cpu_backend.device_open(0, &options, &device);
        if (status == W4A16_ERROR_UNSUPPORTED) {
            print_message("this CPU: %s\n", w4a16_last_error());
            assert_non_null(strstr(w4a16_last_error(), levels[l]));
            lacking = true;
            continue;
        }
        assert_int_equal(status, W4A16_OK);
        assert_false(lacking); /* each set includes those before it */
        size_t count = w4_cpu_backend.config_count(device);
        for (size_t i = 0; i < count; i++) {
            w4_config config;
            char reason[160];
            w4_cpu_backend.config_get(device, i, &config);
            bool expected = false;
            for (size_t lower = 0; lower <= l; lower++) expected |= is_of(config.name, levels[lower]);
            status = w4_cpu_backend.config_check(device, i, &PROBLEM, reason, sizeof reason);
            assert_int_equal(status, expected ? W4A16_OK : W4A16_ERROR_UNSUPPORTED);
            assert_int_equal(!reason[0], expected);
            if (expected) assert_true(w4_cpu_backend.config_cost(device, i, &PROBLEM) > 0);
        }
        w4_cpu_backend.device_close(device);
    }
}

static w4_device *open_threads(int threads) {
    w4a16_context_options options = {.struct_size = sizeof options, .threads = threads};
    w4_device *device = NULL;
    assert_int_equal(w4_cpu_backend.device_open(0, &options, &device), W4A16_OK);
    return device;
}

/** A context's configs take 1, 2, 4, ... of its threads, or all: each kernel with each number, under a name of its own;
 * no more than the context has. */
static void test_threads(void **state) {
    static const int threads[] = {1, 2, 3, 4, 5, 16, 64, 65, 1000}, numbers[] = {1, 2, 3, 3, 4, 5, 7, 8, 8};
    (void)state;
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        w4_device *device = open_threads(threads[t]);
        size_t count = w4_cpu_backend.config_count(device), kernels = 0;
        for (size_t i = 0; i < count; i++) {
            w4_config config, other;
            w4_cpu_backend.config_get(device, i, &config);
            int taken = w4_cpu_backend.config_threads(device, i);
            const char *suffix = strstr(config.name, "_t");
            assert_int_equal(taken, suffix ? atoi(suffix + 2) : threads[t]);
            assert_true(suffix ? taken < threads[t] && (taken & (taken - 1)) == 0 : taken == threads[t]);
            kernels += !suffix;
            for (size_t j = 0; j < i; j++) {
                w4_cpu_backend.config_get(device, j, &other);
                assert_string_not_equal(config.name, other.name);
            }
        }
        assert_int_equal(count, 1 + (kernels - 1) * (size_t)numbers[t]); /* the reference takes all */
        w4_cpu_backend.device_close(device);
    }
}

/** Threads of the config that the cost model takes. */
static int predicted_threads(const w4_device *device, int64_t m, int64_t n, int64_t k) {
    w4_problem problem = PROBLEM;
    double least = 1e9;
    int threads = 0;
    problem.m = m;
    problem.n = n;
    problem.k = k;
    for (size_t i = 0; i < w4_cpu_backend.config_count(device); i++) {
        char reason[160];
        if (w4_cpu_backend.config_check(device, i, &problem, reason, sizeof reason)) continue;
        double cost = w4_cpu_backend.config_cost(device, i, &problem);
        if (cost < least) threads = w4_cpu_backend.config_threads(device, i);
        if (cost < least) least = cost;
    }
    return threads;
}

/** Waking threads costs more than a small problem takes, and less than a large one gains. */
static void test_predicted_threads(void **state) {
    w4a16_device_info info = {.struct_size = sizeof info};
    (void)state;
    w4_cpu_backend.device_query(0, &info);
    if (!strstr(info.architecture, "avx2")) skip(); /* the reference always takes all */
    for (int threads = 2; threads <= 16; threads *= 2) {
        w4_device *device = open_threads(threads);
        int before = 0;
        assert_int_equal(predicted_threads(device, 1, 64, 64), 1);
        assert_int_equal(predicted_threads(device, 64, 4096, 4096), threads);
        for (int64_t size = 64; size <= 4096; size *= 2) { /* more work, more threads */
            int taken = predicted_threads(device, 8, size, size);
            assert_true(taken >= before);
            before = taken;
        }
        w4_cpu_backend.device_close(device);
    }
}

/** The workspace never shrinks with M, and does not grow with it for ever. */
static void test_workspace(void **state) {
    w4_device *device = NULL;
    (void)state;
    assert_int_equal(w4_cpu_backend.device_open(0, NULL, &device), W4A16_OK);
    for (size_t i = 0; i < w4_cpu_backend.config_count(device); i++) {
        w4_problem problem = PROBLEM;
        size_t before = 0;
        for (problem.m = 1; problem.m <= 1100; problem.m++) {
            size_t bytes = w4_cpu_backend.workspace_size(device, i, &problem);
            assert_true(bytes >= before);
            before = bytes;
        }
        problem.m = 1 << 20;
        assert_int_equal(w4_cpu_backend.workspace_size(device, i, &problem), before);
    }
    w4_cpu_backend.device_close(device);
}

static void test_ceilings(void **state) {
    w4_device *device = NULL;
    w4a16_ceilings ceilings = {.struct_size = sizeof ceilings};
    (void)state;
    assert_int_equal(w4_cpu_backend.device_open(0, NULL, &device), W4A16_OK);
    assert_int_equal(w4_cpu_backend.measure_ceilings(device, &ceilings), W4A16_OK);
    print_message("read %.1f GB/s, multiply-add %.1f GFLOP/s\n", ceilings.read_bytes_per_second * 1e-9,
                  ceilings.flop_per_second * 1e-9);
    assert_true(ceilings.read_bytes_per_second > 1e8 && ceilings.read_bytes_per_second < 1e14);
    assert_true(ceilings.flop_per_second > 1e8 && ceilings.flop_per_second < 1e16);
    w4_cpu_backend.device_close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_query),    cmocka_unit_test(test_options),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_threads),  cmocka_unit_test(test_workspace), cmocka_unit_test(test_predicted_threads),
        cmocka_unit_test(test_ceilings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
