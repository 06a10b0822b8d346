/* SPDX-License-Identifier: Apache-2.0
 * Enumerating devices, the configs' list, the profiler and the measured limits: sane, complete, consistent. */
#include "support.h"

static void devices_are_listed(void **state) {
    (void)state;
    w4a16_device_info info = {.struct_size = sizeof info};
    int cpus = 0, automatic = 0, count = 0;
    for (; w4a16_device_query(count, &info) == W4A16_OK; count++) {
        assert_int_equal(info.struct_size, sizeof info);
        assert_true(info.id[0] && info.name[0] && info.architecture[0] && info.reason[0]);
        assert_true(memchr(info.name, 0, sizeof info.name) && memchr(info.reason, 0, sizeof info.reason));
        if (strcmp(info.id, "cpu") == 0) {
            cpus++;
            assert_int_equal(info.usable, 1);
        }
        automatic += info.automatic;
        if (info.automatic) assert_int_equal(info.usable, 1);
        /* A context opened by its id is on that device. */
        w4a16_context_options options;
        w4a16_context_options_init(&options);
        options.device = info.id;
        w4a16_context *context = NULL;
        w4a16_status status = w4a16_context_create(&options, &context);
        assert_int_equal(status, info.usable ? W4A16_OK : W4A16_ERROR_UNSUPPORTED);
        if (status) continue;
        w4a16_device_info opened = {.struct_size = sizeof opened};
        CHECK(w4a16_context_device(context, &opened));
        assert_string_equal(opened.id, info.id);
        assert_string_equal(opened.name, info.name);
        assert_string_equal(opened.architecture, info.architecture);
        w4a16_context_destroy(context);
    }
    assert_true(count >= 1);
    assert_int_equal(cpus, 1);
    assert_int_equal(automatic, 1);
}

static void auto_is_the_automatic_device(void **state) {
    (void)state;
    static const char *const names[] = {NULL, "auto"};
    for (int i = 0; i < 3; i++) {
        w4a16_context_options options;
        w4a16_context_options_init(&options);
        if (i < 2) options.device = names[i];
        w4a16_context *context = NULL;
        CHECK(w4a16_context_create(i < 2 ? &options : NULL, &context));
        w4a16_device_info info = {.struct_size = sizeof info};
        CHECK(w4a16_context_device(context, &info));
        assert_int_equal(info.automatic, 1);
        w4a16_context_destroy(context);
    }
}

static void configs_are_listed_once_and_in_order(void **state) {
    (void)state;
    w4a16_context *context = test_context(NULL, 0);
    w4a16_config_info first[TEST_MAX_CONFIGS], second[TEST_MAX_CONFIGS];
    size_t count, again;
    CHECK(w4a16_config_list(context, NULL, first, TEST_MAX_CONFIGS, &count));
    w4a16_problem problem;
    w4a16_problem_init(&problem);
    problem.m = 3;
    problem.n = 77;
    problem.k = 1001;
    CHECK(w4a16_config_list(context, &problem, second, TEST_MAX_CONFIGS, &again));
    assert_int_equal(count, again);
    int reference = 0;
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(first[i].name, second[i].name);
        assert_true(first[i].tile_m > 0 && first[i].tile_n > 0 && first[i].tile_k > 0);
        reference += strcmp(first[i].name, "cpu_reference") == 0;
        for (size_t j = 0; j < i; j++) assert_string_not_equal(first[i].name, first[j].name);
        assert_true(second[i].feasible ? second[i].predicted_seconds > 0 : second[i].predicted_seconds == 0);
        assert_int_equal(second[i].reason[0] == 0, second[i].feasible);
    }
    assert_int_equal(reference, 1);
    w4a16_context_destroy(context);
}

/** A plan's config is a feasible one, its workspace no smaller for a larger range. */
static void plans_choose_feasible_configs(void **state) {
    (void)state;
    w4a16_context *context = test_context(NULL, 0);
    uint64_t seed = 1;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 200, 600, 64, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    w4a16_weight *weight = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    size_t workspace = 0;
    for (int64_t m = 1; m <= 5000; m = m * 3 / 2 + 1) {
        w4a16_plan *plan = test_plan(weight, m, W4A16_FP16, W4A16_DTYPE_NONE, NULL);
        w4a16_plan_info info = {.struct_size = sizeof info};
        CHECK(w4a16_plan_query(plan, &info));
        const char *names[TEST_MAX_CONFIGS];
        size_t count = test_configs(context, &arrays, m, W4A16_FP16, W4A16_FP16, 0, names), found = 0;
        for (size_t i = 0; i < count; i++) found += strcmp(names[i], info.config) == 0;
        assert_int_equal(found, 1);
        assert_true(info.workspace_bytes >= workspace);
        workspace = info.workspace_bytes;
        w4a16_plan_destroy(plan);
    }
    /* The largest M there is must not wrap around into a small workspace. */
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count;
    CHECK(w4a16_config_list(context, NULL, infos, TEST_MAX_CONFIGS, &count));
    for (size_t i = 0; i <= count; i++) {
        if (i < count && !infos[i].feasible) continue;
        const char *config = i < count ? infos[i].name : NULL;
        size_t sizes[2];
        for (int j = 0; j < 2; j++) {
            w4a16_plan *plan = test_plan(weight, j ? INT64_C(1) << 30 : 4096, W4A16_FP16, W4A16_DTYPE_NONE, config);
            w4a16_plan_info info = {.struct_size = sizeof info};
            CHECK(w4a16_plan_query(plan, &info));
            sizes[j] = info.workspace_bytes;
            w4a16_plan_destroy(plan);
        }
        assert_true(sizes[1] >= sizes[0]);
    }
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
    w4a16_context_destroy(context);
}

static void profiles_are_checked_and_timed(void **state) {
    (void)state;
    static const struct {
        int64_t m, n, k, group_size;
        w4a16_dtype a_dtype, c_dtype;
        w4a16_zero_kind zero_kind;
    } problems[] = {
        {1, 256, 512, 128, W4A16_FP16, W4A16_FP16, W4A16_ZERO_SYMMETRIC},
        {17, 100, 300, 32, W4A16_BF16, W4A16_BF16, W4A16_ZERO_INTEGER},
        {5, 33, 70, -1, W4A16_FP16, W4A16_BF16, W4A16_ZERO_FLOAT},
        /* So few outputs that the rounding of C to bf16 is what there is of an error. */
        {1, 1, 1, -1, W4A16_BF16, W4A16_BF16, W4A16_ZERO_SYMMETRIC},
        {1, 1, 32, 32, W4A16_BF16, W4A16_BF16, W4A16_ZERO_SYMMETRIC},
        {1, 3, 64, 32, W4A16_BF16, W4A16_BF16, W4A16_ZERO_INTEGER},
        {2, 4, 96, 32, W4A16_BF16, W4A16_BF16, W4A16_ZERO_FLOAT},
        {1, 2, 33, -1, W4A16_FP16, W4A16_BF16, W4A16_ZERO_SYMMETRIC},
    };
    w4a16_context *context = test_context(NULL, 0);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    for (size_t i = 0; i < COUNT(problems); i++) {
        w4a16_problem problem;
        w4a16_problem_init(&problem);
        problem.m = problems[i].m;
        problem.n = problems[i].n;
        problem.k = problems[i].k;
        problem.group_size = problems[i].group_size;
        problem.a_dtype = problems[i].a_dtype;
        problem.c_dtype = problems[i].c_dtype;
        problem.zero_kind = problems[i].zero_kind;
        size_t count;
        CHECK(w4a16_config_list(context, &problem, infos, TEST_MAX_CONFIGS, &count));
        for (size_t j = 0; j <= count; j++) {
            if (j < count && !infos[j].feasible) continue;
            w4a16_profile_result result = {.config = NULL};
            CHECK(w4a16_profile(context, &problem, j < count ? infos[j].name : NULL, 0.001, &result));
            if (j < count) assert_string_equal(result.config, infos[j].name);
            assert_true(result.seconds > 0 && result.seconds < 10);
            assert_true(result.relative_error >= 0 && result.relative_error < 4e-3);
            if (problems[i].c_dtype == W4A16_FP16) assert_true(result.relative_error < 2e-3);
            assert_true(result.runs >= 1);
        }
    }
    w4a16_context_destroy(context);
}

static void ceilings_are_plausible(void **state) {
    (void)state;
    w4a16_context *context = test_context(NULL, 0);
    w4a16_ceilings ceilings = {.struct_size = sizeof ceilings};
    CHECK(w4a16_measure_ceilings(context, &ceilings));
    /* From a slow emulator to the fastest machine of some years on. */
    assert_true(ceilings.read_bytes_per_second > 1e7 && ceilings.read_bytes_per_second < 1e14);
    assert_true(ceilings.flop_per_second > 1e7 && ceilings.flop_per_second < 1e16);
    assert_int_equal(ceilings.struct_size, sizeof ceilings);
    w4a16_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_are_listed),
        cmocka_unit_test(auto_is_the_automatic_device),
        cmocka_unit_test(configs_are_listed_once_and_in_order),
        cmocka_unit_test(plans_choose_feasible_configs),
        cmocka_unit_test(profiles_are_checked_and_timed),
        cmocka_unit_test(ceilings_are_plausible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
