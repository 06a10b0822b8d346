/* SPDX-License-Identifier: Apache-2.0
 * Choosing configs: the feasible set, the cost model's prediction, the best. */
#include "plan/plan.h"

#include "core/half.h"
#include "core/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

w4a16_status w4_problem_resolve(const w4a16_problem *problem, w4_problem *resolved) {
    if (!problem) return w4_fail_null("problem");
    W4_TRY(w4_check_struct("problem", "w4a16_problem_init", problem->struct_size, sizeof *problem));
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"m", problem->m}, {"n", problem->n}, {"k", problem->k}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > INT64_C(1) << 30)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.%s is %" PRId64 "; it must be 1 to %" PRId64,
                           sizes[i].name, sizes[i].value, INT64_C(1) << 30);
    if (problem->group_size != -1 && (problem->group_size < 32 || problem->group_size % 32 != 0))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "problem.group_size is %" PRId64 "; it must be a multiple of 32, or -1 for one group per row",
                       problem->group_size);
    if (!w4_is_activation_dtype(problem->a_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.a_dtype is %s; it must be fp16 or bf16",
                       w4a16_dtype_name(problem->a_dtype));
    if (!w4_is_activation_dtype(problem->c_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.c_dtype is %s; it must be fp16 or bf16",
                       w4a16_dtype_name(problem->c_dtype));
    if (!w4_is_scale_dtype(problem->scale_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.scale_dtype is %s; it must be fp16, bf16 or fp32",
                       w4a16_dtype_name(problem->scale_dtype));
    if (problem->zero_kind != W4A16_ZERO_SYMMETRIC && problem->zero_kind != W4A16_ZERO_INTEGER &&
        problem->zero_kind != W4A16_ZERO_FLOAT)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.zero_kind is %d; it must be one of w4a16_zero_kind",
                       (int)problem->zero_kind);
    if (problem->flags & ~W4_PLAN_FLAGS)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.flags is 0x%" PRIx32 "; only W4A16_PLAN_... bits exist",
                       problem->flags);
    *resolved = (w4_problem){
        .m = problem->m,
        .n = problem->n,
        .k = problem->k,
        .group_size = problem->group_size == -1 ? problem->k : w4_minimum(problem->group_size, problem->k),
        .a_dtype = problem->a_dtype,
        .c_dtype = problem->c_dtype,
        .scale_dtype = problem->scale_dtype,
        .zero_kind = problem->zero_kind,
        .flags = problem->flags,
    };
    return W4A16_OK;
}

w4a16_status w4_plan_find_config(const w4_backend *backend, const w4_device *device, const char *name, size_t *index) {
    char names[512] = ""; /* as many as fit */
    size_t used = 0, count = backend->config_count(device);
    bool all = true;
    for (size_t i = 0; i < count; i++) {
        w4_config config;
        backend->config_get(device, i, &config);
        if (strcmp(config.name, name) == 0) {
            *index = i;
            return W4A16_OK;
        }
        all = all && used + strlen(config.name) + sizeof ", " <= sizeof names;
        if (all) used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", config.name);
    }
    return w4_fail(W4A16_ERROR_NOT_FOUND,
                   "no config is named '%s' on this device; w4a16_config_list lists its %zu: %s%s", name, count, names,
                   all ? "" : ", ...");
}

/** The feasible config with the least predicted time at problem->m. */
static w4a16_status choose_one(const w4_backend *backend, const w4_device *device, const w4_problem *problem,
                               w4_plan_segment *segment) {
    size_t count = backend->config_count(device);
    char reason[160] = "the device has no configs";
    int found = 0;
    for (size_t i = 0; i < count; i++) {
        if (backend->config_check(device, i, problem, reason, sizeof reason)) continue;
        double seconds = backend->config_cost(device, i, problem);
        if (!found || seconds < segment->seconds) *segment = (w4_plan_segment){problem->m, i, seconds};
        found = 1;
    }
    if (!found)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "no config can run this problem; the last one said: %s", reason);
    return W4A16_OK;
}

/** The next M at which to look: powers of two and three times powers of two, then m_max. */
static int64_t next_bucket(int64_t m, int64_t m_max) {
    int64_t power = 1;
    while (power * 2 <= m) power *= 2;
    int64_t next = power >= 2 && m < power / 2 * 3 ? power / 2 * 3 : power * 2;
    return w4_minimum(next, m_max);
}

static void explain(const w4_backend *backend, const w4_device *device, int64_t m_min, w4_plan_choice *choice) {
    size_t used = 0;
    int length = snprintf(choice->reason, sizeof choice->reason, "least predicted time: ");
    used += (size_t)length;
    for (size_t i = 0; i < choice->count; i++) {
        w4_config config;
        backend->config_get(device, choice->segments[i].config, &config);
        int64_t first = i ? choice->segments[i - 1].m_last + 1 : m_min;
        length = snprintf(choice->reason + used, sizeof choice->reason - used, "%sM %" PRId64 "..%" PRId64 " %s",
                          i ? "; " : "", first, choice->segments[i].m_last, config.name);
        if (length < 0 || used + (size_t)length >= sizeof choice->reason) break;
        used += (size_t)length;
    }
}

w4a16_status w4_plan_choose(const w4_backend *backend, const w4_device *device, const w4_problem *problem,
                            int64_t m_min, int64_t m_max, const char *name, w4_plan_choice *choice) {
    w4_plan_choice result = {.count = 0};
    w4_problem at = *problem;
    if (name) {
        w4_plan_segment segment = {.m_last = m_max};
        W4_TRY(w4_plan_find_config(backend, device, name, &segment.config));
        char reason[160] = "";
        at.m = m_max;
        if (backend->config_check(device, segment.config, &at, reason, sizeof reason))
            return w4_fail(W4A16_ERROR_UNSUPPORTED, "config '%s' cannot run this problem: %s", name, reason);
        segment.seconds = backend->config_cost(device, segment.config, &at);
        result.segments[result.count++] = segment;
        snprintf(result.reason, sizeof result.reason, "asked for by name");
    } else {
        for (int64_t m = m_min;; m = next_bucket(m, m_max)) {
            w4_plan_segment segment = {0};
            at.m = m;
            W4_TRY(choose_one(backend, device, &at, &segment));
            if (result.count && result.segments[result.count - 1].config == segment.config)
                result.segments[result.count - 1] = segment;
            else if (result.count < W4_PLAN_MAX_SEGMENTS)
                result.segments[result.count++] = segment;
            else
                result.segments[result.count - 1].m_last = m;
            if (m == m_max) break;
        }
        explain(backend, device, m_min, &result);
    }
    for (size_t i = 0; i < result.count; i++) {
        at.m = result.segments[i].m_last;
        size_t bytes = backend->workspace_size(device, result.segments[i].config, &at);
        if (bytes > result.workspace_bytes) result.workspace_bytes = bytes;
        if (backend->prepare) W4_TRY(backend->prepare(device, result.segments[i].config, &at));
    }
    *choice = result;
    return W4A16_OK;
}

const w4_plan_segment *w4_plan_segment_for(const w4_plan_choice *choice, int64_t m) {
    size_t i = 0;
    while (i + 1 < choice->count && m > choice->segments[i].m_last) i++;
    return &choice->segments[i];
}
