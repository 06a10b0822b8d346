/* SPDX-License-Identifier: Apache-2.0
 * Listing, profiling and measuring. */
#include "api/objects.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void w4a16_problem_init(w4a16_problem *problem) {
    if (problem)
        *problem = (w4a16_problem){.struct_size = sizeof *problem,
                                   .group_size = 128,
                                   .a_dtype = W4A16_FP16,
                                   .c_dtype = W4A16_FP16,
                                   .scale_dtype = W4A16_FP16};
}

/** Fill in what depends on the problem. */
static w4a16_status ask(const w4a16_context *context, const w4_problem *problem, w4a16_config_info *configs,
                        size_t capacity) {
    w4_tuned *cache = w4_context_cache(context);
    w4_plan_measured measured = {cache, context->table};
    w4_candidate *candidates = NULL;
    w4_plan_segment choice;
    size_t count = 0;
    w4a16_status status =
        w4_plan_candidates(context->backend, context->device, &measured, problem, &candidates, &count);
    w4_saved_error before;
    w4_error_save(&before); /* there may be none to choose */
    bool any = !status && !w4_plan_choose_one(context->backend, context->device, &measured, problem, &choice);
    if (!status) w4_error_restore(&before);
    for (size_t i = 0; i < count; i++) {
        const w4_candidate *candidate = &candidates[i];
        if (candidate->config >= capacity) continue;
        w4a16_config_info *info = &configs[candidate->config];
        info->feasible = candidate->feasible;
        info->predicted_seconds = candidate->predicted;
        info->rank = candidate->rank;
        info->rough = candidate->rough;
        info->measured_seconds = candidate->measured;
        info->source = candidate->source;
        info->chosen = any && candidate->config == choice.config;
        memcpy(info->reason, candidate->reason, sizeof info->reason);
    }
    free(candidates);
    w4_tuned_release(cache);
    return status;
}

w4a16_status w4a16_config_list(const w4a16_context *context, const w4a16_problem *problem, w4a16_config_info *configs,
                               size_t capacity, size_t *count) {
    if (!context) return w4_fail_null("context");
    if (!count) return w4_fail_null("count");
    if (!configs && capacity) return w4_fail_null("configs");
    /* Without a problem the question is what this machine can run at all: ask with one that every config takes. */
    w4a16_problem any;
    w4a16_problem_init(&any);
    any.m = 1;
    any.n = any.k = 128;
    w4_problem resolved;
    W4_TRY(w4_problem_resolve(problem ? problem : &any, &resolved));
    const w4_backend *backend = context->backend;
    size_t total = backend->config_count(context->device);
    for (size_t i = 0; i < total && i < capacity; i++) {
        w4_config config;
        backend->config_get(context->device, i, &config);
        configs[i] = (w4a16_config_info){.name = config.name,
                                         .tile_m = config.tile_m,
                                         .tile_n = config.tile_n,
                                         .tile_k = config.tile_k,
                                         .threads = w4_plan_threads(backend, context->device, i),
                                         .source = W4A16_CHOICE_COST_MODEL};
        if (problem) continue;
        configs[i].feasible = backend->config_check(context->device, i, &resolved, configs[i].reason,
                                                    sizeof configs[i].reason) == W4A16_OK;
        if (configs[i].feasible) configs[i].reason[0] = 0;
    }
    if (problem && capacity) W4_TRY(ask(context, &resolved, configs, capacity));
    *count = total;
    return W4A16_OK;
}

w4a16_status w4a16_measure_ceilings(const w4a16_context *context, w4a16_ceilings *ceilings) {
    if (!context) return w4_fail_null("context");
    if (!ceilings) return w4_fail_null("ceilings");
    W4_TRY(w4_check_struct("ceilings", NULL, ceilings->struct_size, sizeof *ceilings));
    w4a16_ceilings result = {.struct_size = sizeof result};
    W4_TRY(context->backend->measure_ceilings(context->device, &result));
    *ceilings = result;
    return W4A16_OK;
}

static w4a16_status check_seconds(double min_seconds) {
    if (min_seconds >= 0 && min_seconds <= 3600) return W4A16_OK;
    return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "min_seconds is %g; it must be 0 to 3600", min_seconds);
}

w4a16_status w4a16_profile(w4a16_context *context, const w4a16_problem *problem, const char *config, double min_seconds,
                           w4a16_profile_result *result) {
    if (!context) return w4_fail_null("context");
    if (!result) return w4_fail_null("result");
    W4_TRY(check_seconds(min_seconds));
    w4_problem resolved;
    W4_TRY(w4_problem_resolve(problem, &resolved));
    w4_tuned *cache = w4_context_cache(context);
    w4_plan_measured measured = {cache, context->table};
    w4_plan_choice asked;
    w4_plan_segment own;
    w4_candidate *candidates = NULL;
    size_t count = 0;
    w4a16_profile_result found;
    w4a16_status status =
        w4_plan_choose(context->backend, context->device, &measured, &resolved, resolved.m, resolved.m, config, &asked);
    if (!status) status = w4_plan_choose_one(context->backend, context->device, &measured, &resolved, &own);
    if (!status)
        status = w4_plan_candidates(context->backend, context->device, &measured, &resolved, &candidates, &count);
    w4_tuned_release(cache);
    size_t index = status ? 0 : asked.segments[0].config;
    if (!status) status = w4_profile_run(context->pool, &resolved, index, (w4_profile_effort){min_seconds, 0}, &found);
    for (size_t i = 0; !status && i < count; i++) {
        if (candidates[i].config != index) continue;
        found.predicted_seconds = candidates[i].predicted;
        found.rank = candidates[i].rank;
        found.chosen = own.config == index;
    }
    free(candidates);
    if (!status) *result = found;
    return status;
}

w4a16_status w4a16_profile_all(w4a16_context *context, const w4a16_problem *problem, const char *only,
                               double min_seconds, w4a16_measure_callback callback, void *user,
                               w4a16_profile_result *results, size_t capacity, size_t *count) {
    if (!context) return w4_fail_null("context");
    if (!count) return w4_fail_null("count");
    if (!results && capacity) return w4_fail_null("results");
    W4_TRY(check_seconds(min_seconds));
    w4_problem resolved;
    W4_TRY(w4_problem_resolve(problem, &resolved));
    w4_tuned *cache = w4_context_cache(context);
    w4_plan_measured measured = {cache, context->table};
    w4a16_profile_result *list = NULL;
    size_t found = 0;
    w4a16_status status =
        w4_profile_all(context->pool, &measured, problem, &resolved, only, min_seconds, callback, user, &list, &found);
    w4_tuned_release(cache);
    if (status) return status;
    for (size_t i = 0; i < found && i < capacity; i++) results[i] = list[i];
    free(list);
    *count = found;
    return W4A16_OK;
}
