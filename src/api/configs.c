/* SPDX-License-Identifier: Apache-2.0
 * Listing, profiling and measuring. */
#include "api/objects.h"

#include <math.h>

void w4a16_problem_init(w4a16_problem *problem) {
    if (problem)
        *problem = (w4a16_problem){.struct_size = sizeof *problem,
                                   .group_size = 128,
                                   .a_dtype = W4A16_FP16,
                                   .c_dtype = W4A16_FP16,
                                   .scale_dtype = W4A16_FP16};
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
        w4a16_config_info *info = &configs[i];
        *info = (w4a16_config_info){
            .name = config.name, .tile_m = config.tile_m, .tile_n = config.tile_n, .tile_k = config.tile_k};
        info->feasible =
            backend->config_check(context->device, i, &resolved, info->reason, sizeof info->reason) == W4A16_OK;
        if (info->feasible) info->reason[0] = 0;
        if (info->feasible && problem) info->predicted_seconds = backend->config_cost(context->device, i, &resolved);
    }
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

w4a16_status w4a16_profile(w4a16_context *context, const w4a16_problem *problem, const char *config, double min_seconds,
                           w4a16_profile_result *result) {
    if (!context) return w4_fail_null("context");
    if (!result) return w4_fail_null("result");
    if (!(min_seconds >= 0 && min_seconds <= 3600))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "min_seconds is %g; it must be 0 to 3600", min_seconds);
    w4_problem resolved;
    W4_TRY(w4_problem_resolve(problem, &resolved));
    w4_plan_choice choice;
    W4_TRY(w4_plan_choose(context->backend, context->device, &resolved, resolved.m, resolved.m, config, &choice));
    return w4_profile_run(context->pool, &resolved, choice.segments[0].config, min_seconds, result);
}
