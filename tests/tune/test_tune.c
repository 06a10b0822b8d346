/* SPDX-License-Identifier: Apache-2.0
 * Tuning on a device whose cost model does not know all of its configs: the CPU, told so. */
#include "tune/tune.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { M = 8, MOST = 128 };

static const w4_backend *const cpu = &w4_cpu_backend;
static size_t hopeless; /* the config whose estimate is too long */
static int timed[MOST];

/** The cost model knows the reference alone. */
static bool is_rough(const w4_device *device, size_t index) {
    w4_config config;
    cpu->config_get(device, index, &config);
    return strcmp(config.name, "cpu_reference") != 0;
}

static double estimate(const w4_device *device, size_t index, const w4_problem *problem) {
    return index == hopeless ? 1 : cpu->config_cost(device, index, problem);
}

static int note(const w4a16_measure_progress *progress, void *user) {
    const w4_device *device = user;
    for (size_t i = 0; progress->config && i < cpu->config_count(device); i++) {
        w4_config config;
        cpu->config_get(device, i, &config);
        timed[i] += strcmp(config.name, progress->config) == 0;
    }
    return 0;
}

static void configs_without_a_fitted_cost_are_tried(void **state) {
    (void)state;
    const w4a16_context_options context_options = {.struct_size = sizeof context_options, .threads = 1};
    w4_backend backend = *cpu;
    w4_device *device;
    w4_profile_pool *pool;
    backend.config_rough = is_rough;
    backend.config_cost = estimate;
    assert_int_equal(backend.device_open(0, &context_options, &device), W4A16_OK);
    assert_true(backend.config_count(device) <= MOST);
    w4a16_problem asked = {.struct_size = sizeof asked,
                           .m = M,
                           .n = 256,
                           .k = 256,
                           .group_size = 128,
                           .a_dtype = W4A16_FP16,
                           .c_dtype = W4A16_FP16,
                           .scale_dtype = W4A16_FP16};
    w4_problem problem;
    assert_int_equal(w4_problem_resolve(&asked, &problem), W4A16_OK);
    const w4_plan_measured nothing = {NULL, NULL};

    /* The reference comes first, though all others are estimated to take less. */
    w4_plan_segment choice;
    w4_candidate *candidates;
    size_t count, feasible = 0;
    hopeless = SIZE_MAX;
    assert_int_equal(w4_plan_choose_one(&backend, device, &nothing, &problem, &choice), W4A16_OK);
    assert_false(is_rough(device, choice.config));
    assert_int_equal(w4_plan_candidates(&backend, device, &nothing, &problem, &candidates, &count), W4A16_OK);
    assert_int_equal(candidates[0].config, choice.config);
    while (feasible < count && candidates[feasible].feasible) feasible++;
    for (size_t i = 1; i < feasible; i++) {
        assert_true(candidates[i].rough && candidates[i].rank == (int)i + 1);
        assert_true(candidates[i].predicted < candidates[0].predicted);
    }
    hopeless = candidates[feasible - 1].config;
    bool alone = feasible < 3;
    free(candidates);

    if (!alone) { /* a CPU with fast kernels */
        const int64_t m[] = {M};
        w4a16_tune_options options = {.struct_size = sizeof options,
                                      .problems = &asked,
                                      .problem_count = 1,
                                      .m = m,
                                      .m_count = 1,
                                      .progress = note,
                                      .user = device};
        w4_identity identity;
        backend.identify(device, &identity);
        assert_int_equal(w4_profile_pool_create(&backend, device, &pool), W4A16_OK);
        w4_tune_job job = {
            .pool = pool, .identity = &identity, .measured = nothing, .options = &options, .problems = &problem};
        w4_tuned_point *points;
        w4a16_tune_result result;
        assert_int_equal(w4_tune(&job, &points, &count, &result), W4A16_OK);
        assert_int_equal(count, 1);
        assert_true(is_rough(device, points[0].results[0].config)); /* and it was found to be faster */
        for (size_t i = 0; i < backend.config_count(device); i++) {
            char reason[160];
            if (backend.config_check(device, i, &problem, reason, sizeof reason)) continue;
            bool near = estimate(device, i, &problem) < 1.2 * points[0].results[0].seconds;
            if (near || i == hopeless) assert_int_equal(timed[i] > 0, near);
        }
        free(points);
        w4_profile_pool_destroy(pool);
    }
    backend.device_close(device);
    if (alone) skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_without_a_fitted_cost_are_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
