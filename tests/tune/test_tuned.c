/* SPDX-License-Identifier: Apache-2.0
 * Lists of measured times and what plans make of them, on a backend of three configs whose costs are known. */
#include "plan/plan.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- A backend: "quick" predicted best, "slow" next, "small" takes at most 20 tokens and is predicted last --------
 */

enum { QUICK, SLOW, SMALL, CONFIGS, SMALL_LIMIT = 20 };
static const char *const names[] = {"quick", "slow", "small"};

static size_t config_count(const w4_device *device) {
    (void)device;
    return CONFIGS;
}
static void config_get(const w4_device *device, size_t index, w4_config *config) {
    (void)device;
    *config = (w4_config){names[index], 1, 1, 1};
}
static w4a16_status config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                 size_t size) {
    (void)device;
    bool refused = index == SMALL && problem->m > SMALL_LIMIT;
    snprintf(reason, size, "%s", refused ? "takes at most 20 tokens" : "");
    return refused ? W4A16_ERROR_UNSUPPORTED : W4A16_OK;
}
static double config_cost(const w4_device *device, size_t index, const w4_problem *problem) {
    (void)device;
    return 1e-6 * (double)(index + 1) * (double)problem->m;
}
static size_t workspace_size(const w4_device *device, size_t index, const w4_problem *problem) {
    (void)device;
    return index == SMALL ? 0 : (size_t)problem->m;
}
static const w4_shipped_row shipped_rows[] = {
    {64, 64, -1, W4A16_FP16, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 8, "slow", 2},
    {64, 64, -1, W4A16_FP16, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 16, "a config of another version", 2},
};
static const w4_shipped_table shipped = {"a test", shipped_rows, sizeof shipped_rows / sizeof *shipped_rows};
static const w4_shipped_table *table_of(const w4_device *device) {
    (void)device;
    return &shipped;
}
static const w4_backend backend = {.name = "test",
                                   .config_count = config_count,
                                   .config_get = config_get,
                                   .config_check = config_check,
                                   .config_cost = config_cost,
                                   .workspace_size = workspace_size,
                                   .table = table_of};

static const w4_problem problem = {
    .n = 64, .k = 64, .group_size = 64, .a_dtype = W4A16_FP16, .c_dtype = W4A16_FP16, .scale_dtype = W4A16_FP16};

static w4_problem at(int64_t m) {
    w4_problem result = problem;
    result.m = m;
    return result;
}

static w4_tuned_point point(int64_t m, size_t config, double seconds) {
    return (w4_tuned_point){.problem = at(m), .results = {{config, seconds}}, .count = 1};
}

static w4_tuned *list(const w4_tuned_point *points, size_t count) {
    w4_tuned *tuned = NULL;
    assert_int_equal(w4_tuned_create(points, count, &tuned), W4A16_OK);
    return tuned;
}

/* ---- Tests ----------------------------------------------------------------------------------------------------- */

static void buckets_end_at_powers_and_thrice(void **state) {
    (void)state;
    int64_t expected[64], count = 0;
    for (int64_t power = 1; power <= INT64_C(1) << 30; power *= 2) {
        if (power >= 4) expected[count++] = power / 4 * 3;
        expected[count++] = power;
    }
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(w4_bucket_end(expected[i]), expected[i]);
        if (i) assert_int_equal(w4_bucket_end(expected[i - 1] + 1), expected[i]);
    }
    assert_true(count <= W4_PLAN_MAX_BUCKETS);
}

/** Against a search through the list from end to end. */
static void points_are_found(void **state) {
    (void)state;
    w4_tuned_point points[40];
    size_t count = 0;
    const int64_t ms[] = {333, 1, 8, 17, 6, 24, 1000};
    for (int variant = 0; variant < 4; variant++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
            points[count] = point(ms[i], QUICK, 1e-6 * (double)count);
            if (variant == 1) points[count].problem.zero_kind = W4A16_ZERO_INTEGER;
            if (variant == 2) points[count].problem.n = 63;
            if (variant == 3) points[count].problem.flags = W4A16_PLAN_BATCH_INVARIANT;
            count++;
        }
    points[count++] = point(17, SLOW, 5); /* the later one of two counts */
    w4_tuned *tuned = list(points, count);
    assert_int_equal(w4_tuned_count(tuned), count - 1);
    for (int variant = 0; variant < 6; variant++)
        for (int64_t m = 1; m < 1100; m++) {
            w4_problem asked = at(m);
            if (variant == 1) asked.zero_kind = W4A16_ZERO_INTEGER;
            if (variant == 2) asked.n = 63;
            if (variant == 3) asked.flags = W4A16_PLAN_BATCH_INVARIANT | W4A16_PLAN_COST_MODEL; /* only the choice's */
            if (variant == 4) asked.uneven_scales = true;
            if (variant == 5) asked.a_dtype = W4A16_BF16;
            const w4_tuned_point *found = w4_tuned_find(tuned, &asked);
            int64_t best = INT64_MAX, next = INT64_MAX;
            for (size_t i = 0; i < sizeof ms / sizeof *ms && variant < 4; i++) {
                if (ms[i] >= m && ms[i] < best && ms[i] <= w4_bucket_end(m)) best = ms[i];
                if (ms[i] > m && ms[i] < next) next = ms[i];
            }
            assert_int_equal(found ? found->problem.m : INT64_MAX, best);
            assert_int_equal(w4_tuned_next(tuned, &asked), next);
            if (found && variant == 0 && best == 17) assert_int_equal(found->results[0].config, SLOW);
        }
    w4_tuned_release(tuned);
    w4_problem any = at(1);
    assert_null(w4_tuned_find(NULL, &any));
    assert_true(w4_tuned_next(NULL, &any) == INT64_MAX);
    assert_int_equal(w4_tuned_count(NULL), 0);
    w4_tuned_release(NULL);
}

static size_t choice_at(const w4_plan_choice *choice, int64_t m, w4a16_choice_source *source) {
    const w4_plan_segment *segment = w4_plan_segment_for(choice, m);
    *source = segment->source;
    return segment->config;
}

/** Cache before table before cost model; each within its bucket; infeasible winners make way for the next. */
static void plans_ask_in_order(void **state) {
    (void)state;
    w4_tuned_point tuned[] = {
        {.problem = at(24), .results = {{SMALL, 1e-6}, {SLOW, 2e-6}}, .count = 2}, /* SMALL only to 20 */
        point(17, SMALL, 1e-6),
        point(333, SLOW, 1e-6),
    };
    w4_tuned *cache = list(tuned, 3), *table;
    assert_int_equal(w4_tuned_from_table(&backend, NULL, &table), W4A16_OK);
    assert_int_equal(w4_tuned_count(table), 1); /* not the one of another version */
    w4_plan_measured measured = {cache, table};
    const struct {
        int64_t m;
        size_t config;
        w4a16_choice_source source;
    } expected[] = {
        {1, QUICK, W4A16_CHOICE_COST_MODEL},   {6, QUICK, W4A16_CHOICE_COST_MODEL},
        {7, SLOW, W4A16_CHOICE_TABLE},         {8, SLOW, W4A16_CHOICE_TABLE},
        {9, QUICK, W4A16_CHOICE_COST_MODEL},   {16, QUICK, W4A16_CHOICE_COST_MODEL},
        {17, SMALL, W4A16_CHOICE_CACHE},       {18, SLOW, W4A16_CHOICE_CACHE},
        {24, SLOW, W4A16_CHOICE_CACHE},        {25, QUICK, W4A16_CHOICE_COST_MODEL},
        {257, SLOW, W4A16_CHOICE_CACHE},       {333, SLOW, W4A16_CHOICE_CACHE},
        {334, QUICK, W4A16_CHOICE_COST_MODEL}, {8192, QUICK, W4A16_CHOICE_COST_MODEL},
    };
    w4_plan_choice choice;
    w4a16_choice_source source;
    assert_int_equal(w4_plan_choose(&backend, NULL, &measured, &problem, 1, 8192, NULL, &choice), W4A16_OK);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(choice_at(&choice, expected[i].m, &source), expected[i].config);
        assert_int_equal(source, expected[i].source);
    }
    /* Every segment's config takes its last M, and the workspace serves all. */
    for (size_t i = 0; i < choice.count; i++) {
        char reason[160];
        w4_problem last = at(choice.segments[i].m_last);
        assert_int_equal(config_check(NULL, choice.segments[i].config, &last, reason, sizeof reason), W4A16_OK);
        assert_true(choice.workspace_bytes >= workspace_size(NULL, choice.segments[i].config, &last));
    }
    assert_non_null(strstr(choice.reason, "tuned: M 17..17 small"));
    /* One M alone: at 20 the winner of 24 still takes it. */
    assert_int_equal(w4_plan_choose(&backend, NULL, &measured, &problem, 20, 20, NULL, &choice), W4A16_OK);
    assert_int_equal(choice.segments[0].config, SMALL);
    assert_true(choice.segments[0].seconds == 1e-6);
    /* The flag passes over both. */
    w4_problem alone = problem;
    alone.flags = W4A16_PLAN_COST_MODEL;
    assert_int_equal(w4_plan_choose(&backend, NULL, &measured, &alone, 1, 8192, NULL, &choice), W4A16_OK);
    assert_int_equal(choice.count, 1);
    assert_int_equal(choice.segments[0].source, W4A16_CHOICE_COST_MODEL);
    w4_tuned_release(cache);
    w4_tuned_release(table);
}

/** A thousand measured M make no more segments than there is room for, and the plan still serves its range. */
static void many_points_fit(void **state) {
    (void)state;
    enum { MANY = 3000 };
    w4_tuned_point *points = calloc(MANY, sizeof *points);
    assert_non_null(points);
    for (int i = 0; i < MANY; i++) points[i] = point(i + 1, (size_t)i % 2, 1e-6);
    w4_tuned *cache = list(points, MANY);
    w4_plan_measured measured = {cache, NULL};
    w4_plan_choice choice;
    assert_int_equal(w4_plan_choose(&backend, NULL, &measured, &problem, 1, INT64_C(1) << 30, NULL, &choice), W4A16_OK);
    assert_in_range(choice.count, 64, W4_PLAN_MAX_SEGMENTS);
    assert_true(choice.segments[choice.count - 1].m_last == INT64_C(1) << 30);
    for (size_t i = 1; i < choice.count; i++) assert_true(choice.segments[i].m_last > choice.segments[i - 1].m_last);
    assert_true(strlen(choice.reason) < sizeof choice.reason);
    assert_non_null(strstr(choice.reason, "; ..."));
    w4_tuned_release(cache);
    free(points);
}

/** The text, whatever room there is for it. */
static void choices_are_described(void **state) {
    (void)state;
    w4_tuned_point tuned[] = {{.problem = at(24), .results = {{SLOW, 3e-6}, {QUICK, 4e-6}}, .count = 2}};
    w4_tuned *cache = list(tuned, 1);
    w4_plan_measured measured = {cache, NULL};
    w4_plan_choice choice;
    char whole[4096], part[64];
    size_t length, again;
    assert_int_equal(w4_plan_choose(&backend, NULL, &measured, &problem, 24, 30, NULL, &choice), W4A16_OK);
    assert_int_equal(w4_plan_describe(&backend, NULL, &measured, &problem, 24, &choice, whole, sizeof whole, &length),
                     W4A16_OK);
    assert_int_equal(strlen(whole), length);
    const char *tuned_part = strstr(whole, "M 24..24: slow (tuned: the cache)");
    const char *model_part = strstr(whole, "M 25..30: quick (the cost model");
    assert_non_null(tuned_part);
    assert_non_null(model_part);
    const char *slow = strstr(tuned_part, "*   2  slow"), *quick = strstr(tuned_part, "    1  quick");
    assert_true(slow && quick && slow < quick && quick < model_part); /* by time, with the model's rank */
    assert_non_null(strstr(slow, "3.00 us tuned,"));
    assert_non_null(strstr(slow, "48.00 us predicted"));
    assert_non_null(strstr(whole, "cannot run: takes at most 20 tokens: small\n"));
    for (size_t capacity = 0; capacity < sizeof part; capacity++) {
        memset(part, 'x', sizeof part);
        assert_int_equal(w4_plan_describe(&backend, NULL, &measured, &problem, 24, &choice, capacity ? part : NULL,
                                          capacity, &again),
                         W4A16_OK);
        assert_int_equal(again, length);
        if (capacity) assert_int_equal(strlen(part), capacity - 1);
        if (capacity) assert_memory_equal(part, whole, capacity - 1);
        for (size_t i = capacity; i < sizeof part; i++) assert_int_equal(part[i], 'x');
    }
    w4_tuned_release(cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_end_at_powers_and_thrice),
        cmocka_unit_test(points_are_found),
        cmocka_unit_test(plans_ask_in_order),
        cmocka_unit_test(many_points_fit),
        cmocka_unit_test(choices_are_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
