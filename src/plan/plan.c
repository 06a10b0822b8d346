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
    if (problem->uneven_scales != 0 && problem->uneven_scales != 1)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "problem.uneven_scales is %d; it must be 0 or 1",
                       problem->uneven_scales);
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
        .uneven_scales = problem->uneven_scales == 1,
    };
    return W4A16_OK;
}

w4a16_status w4_plan_find_config(const w4_backend *backend, const w4_device *device, const char *name, size_t *index) {
    char names[512] = ""; /* as many as fit */
    size_t used = 0, count = backend->config_count(device);
    bool all = true;
    if (w4_find_config(backend, device, name, index)) return W4A16_OK;
    for (size_t i = 0; i < count; i++) {
        w4_config config;
        backend->config_get(device, i, &config);
        all = all && used + strlen(config.name) + sizeof ", " <= sizeof names;
        if (all) used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", config.name);
    }
    return w4_fail(W4A16_ERROR_NOT_FOUND,
                   "no config is named '%s' on this device; w4a16_config_list lists its %zu: %s%s", name, count, names,
                   all ? "" : ", ...");
}

bool w4_plan_rough(const w4_backend *backend, const w4_device *device, size_t config) {
    return backend->config_rough && backend->config_rough(device, config);
}

int w4_plan_threads(const w4_backend *backend, const w4_device *device, size_t config) {
    return backend->config_threads ? backend->config_threads(device, config) : 0;
}

/** The fastest config of a measured point that can run this problem, too: fewer tokens may be more than it takes. */
static bool choose_measured(const w4_backend *backend, const w4_device *device, const w4_tuned *tuned,
                            const w4_problem *problem, w4a16_choice_source source, w4_plan_segment *segment) {
    const w4_tuned_point *point = w4_tuned_find(tuned, problem);
    char reason[160];
    for (int i = 0; point && i < point->count; i++) {
        const w4_tuned_result *result = &point->results[i];
        if (backend->config_check(device, result->config, problem, reason, sizeof reason)) continue;
        *segment = (w4_plan_segment){problem->m, result->config, source, result->seconds};
        return true;
    }
    return false;
}

w4a16_status w4_plan_choose_one(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                                const w4_problem *problem, w4_plan_segment *segment) {
    if (!(problem->flags & W4A16_PLAN_COST_MODEL) &&
        (choose_measured(backend, device, measured->cache, problem, W4A16_CHOICE_CACHE, segment) ||
         choose_measured(backend, device, measured->table, problem, W4A16_CHOICE_TABLE, segment)))
        return W4A16_OK;
    size_t count = backend->config_count(device);
    char reason[160] = "the device has no configs";
    bool found = false, found_rough = false;
    for (size_t i = 0; i < count; i++) {
        bool rough = w4_plan_rough(backend, device, i);
        if (found && rough && !found_rough) continue; /* it comes after what was found */
        if (backend->config_check(device, i, problem, reason, sizeof reason)) continue;
        double seconds = backend->config_cost(device, i, problem);
        if (!found || rough != found_rough || seconds < segment->seconds) {
            *segment = (w4_plan_segment){problem->m, i, W4A16_CHOICE_COST_MODEL, seconds};
            found_rough = rough;
        }
        found = true;
    }
    if (!found)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "no config can run this problem; the last one said: %s", reason);
    return W4A16_OK;
}

/** The next M at which to look: the end of a bucket, an M that was measured, or m_max. */
static int64_t next_m(const w4_plan_measured *measured, const w4_problem *at, int64_t m_max, size_t segments) {
    int64_t next = w4_minimum(w4_bucket_end(at->m + 1), m_max);
    if (at->flags & W4A16_PLAN_COST_MODEL || segments >= W4_PLAN_MAX_SEGMENTS - W4_PLAN_MAX_BUCKETS) return next;
    next = w4_minimum(next, w4_tuned_next(measured->cache, at));
    return w4_minimum(next, w4_tuned_next(measured->table, at));
}

/** A line for w4a16_plan_info, with as many segments as fit. */
static void explain(const w4_backend *backend, const w4_device *device, int64_t m_min, w4_plan_choice *choice) {
    static const char *const sources[] = {[W4A16_CHOICE_CACHE] = "tuned",
                                          [W4A16_CHOICE_TABLE] = "shipped table",
                                          [W4A16_CHOICE_COST_MODEL] = "least predicted time"};
    static const char more[] = "; ...";
    size_t used = 0;
    for (size_t i = 0; i < choice->count; i++) {
        const w4_plan_segment *segment = &choice->segments[i];
        w4_config config;
        char text[160];
        backend->config_get(device, segment->config, &config);
        bool same = i && segment->source == choice->segments[i - 1].source;
        int64_t first = i ? choice->segments[i - 1].m_last + 1 : m_min;
        int length =
            snprintf(text, sizeof text, "%s%s%sM %" PRId64 "..%" PRId64 " %s", i ? "; " : "",
                     same ? "" : sources[segment->source], same ? "" : ": ", first, segment->m_last, config.name);
        bool last = i + 1 == choice->count;
        if (used + (size_t)length + (last ? 1 : sizeof more) > sizeof choice->reason) {
            memcpy(choice->reason + used, more, sizeof more);
            return;
        }
        memcpy(choice->reason + used, text, (size_t)length + 1);
        used += (size_t)length;
    }
}

static w4a16_status choose_named(const w4_backend *backend, const w4_device *device, const w4_problem *problem,
                                 const char *name, w4_plan_choice *choice) {
    w4_plan_segment segment = {.m_last = problem->m, .source = W4A16_CHOICE_NAME};
    W4_TRY(w4_plan_find_config(backend, device, name, &segment.config));
    char reason[160] = "";
    if (backend->config_check(device, segment.config, problem, reason, sizeof reason))
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "config '%s' cannot run this problem: %s", name, reason);
    segment.seconds = backend->config_cost(device, segment.config, problem);
    choice->segments[choice->count++] = segment;
    snprintf(choice->reason, sizeof choice->reason, "asked for by name");
    return W4A16_OK;
}

static w4a16_status choose_all(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                               const w4_problem *problem, int64_t m_min, int64_t m_max, w4_plan_choice *choice) {
    w4_problem at = *problem;
    for (at.m = m_min;; at.m = next_m(measured, &at, m_max, choice->count)) {
        w4_plan_segment segment = {0};
        W4_TRY(w4_plan_choose_one(backend, device, measured, &at, &segment));
        w4_plan_segment *last = choice->count ? &choice->segments[choice->count - 1] : NULL;
        if (last && last->config == segment.config && last->source == segment.source)
            *last = segment;
        else
            choice->segments[choice->count++] = segment;
        if (at.m == m_max) break;
    }
    explain(backend, device, m_min, choice);
    return W4A16_OK;
}

w4a16_status w4_plan_choose(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                            const w4_problem *problem, int64_t m_min, int64_t m_max, const char *name,
                            w4_plan_choice *choice) {
    w4_plan_choice result = {.count = 0};
    w4_problem at = *problem;
    at.m = m_max;
    if (name)
        W4_TRY(choose_named(backend, device, &at, name, &result));
    else
        W4_TRY(choose_all(backend, device, measured, problem, m_min, m_max, &result));
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
