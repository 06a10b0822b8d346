/* SPDX-License-Identifier: Apache-2.0
 * Plans: the checked arguments of many multiplications, and the configs that will run them. */
#include "api/objects.h"
#include "core/half.h"
#include "core/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void w4a16_plan_options_init(w4a16_plan_options *options) {
    if (options)
        *options = (w4a16_plan_options){
            .struct_size = sizeof *options, .m_min = 1, .m_max = 1, .a_dtype = W4A16_FP16, .alpha = 1.0f};
}

static w4a16_status check_options(const w4a16_plan_options *options) {
    W4_TRY(w4_check_struct("options", "w4a16_plan_options_init", options->struct_size, sizeof *options));
    if (options->m_min < 1)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.m_min is %" PRId64 "; it must be at least 1",
                       options->m_min);
    if (options->m_max < options->m_min)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "options.m_max is %" PRId64 "; it must be at least options.m_min = %" PRId64, options->m_max,
                       options->m_min);
    if (options->m_max > W4_PLAN_LARGEST_M)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.m_max is %" PRId64 "; it must be at most %" PRId64,
                       options->m_max, W4_PLAN_LARGEST_M);
    if (options->flags & ~W4_PLAN_FLAGS)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.flags is 0x%" PRIx32 "; only W4A16_PLAN_... bits exist",
                       options->flags);
    if (!isfinite(options->alpha))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.alpha is %g; it must be finite", (double)options->alpha);
    if (!w4_is_activation_dtype(options->a_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.a_dtype is %s; it must be fp16 or bf16",
                       w4a16_dtype_name(options->a_dtype));
    if (options->c_dtype != W4A16_DTYPE_NONE && !w4_is_activation_dtype(options->c_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.c_dtype is %s; it must be fp16, bf16 or none",
                       w4a16_dtype_name(options->c_dtype));
    if (options->bias_dtype != W4A16_DTYPE_NONE && !w4_is_scale_dtype(options->bias_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.bias_dtype is %s; it must be fp16, bf16, fp32 or none",
                       w4a16_dtype_name(options->bias_dtype));
    return W4A16_OK;
}

w4a16_status w4a16_plan_create(const w4a16_weight *weight, const w4a16_plan_options *options, w4a16_plan **plan) {
    if (!weight) return w4_fail_null("weight");
    if (!plan) return w4_fail_null("plan");
    w4a16_plan_options defaults;
    w4a16_plan_options_init(&defaults);
    if (!options) options = &defaults;
    W4_TRY(check_options(options));
    const w4a16_weight_info *information = &weight->information;
    w4a16_dtype c_dtype = options->c_dtype == W4A16_DTYPE_NONE ? options->a_dtype : options->c_dtype;
    w4a16_problem problem = {
        .struct_size = sizeof problem,
        .m = options->m_max,
        .n = information->n,
        .k = information->k,
        .group_size = information->groups == 1 ? -1 : information->group_size,
        .a_dtype = options->a_dtype,
        .c_dtype = c_dtype,
        .scale_dtype = information->scale_dtype,
        .zero_kind = information->zero_kind,
        .flags = options->flags,
    };
    w4_problem resolved;
    W4_TRY(w4_problem_resolve(&problem, &resolved));
    resolved.uneven_scales = weight->uneven_scales;
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4a16_plan), "a plan", &memory));
    w4a16_plan *result = memory;
    result->problem = resolved;
    result->m_min = options->m_min;
    result->alpha = options->alpha;
    result->bias = options->bias;
    result->bias_dtype = options->bias_dtype == W4A16_DTYPE_NONE ? c_dtype : options->bias_dtype;
    const w4a16_context *context = weight->context;
    w4a16_status status = w4_plan_choose(context->backend, context->device, &resolved, options->m_min, options->m_max,
                                         options->config, &result->choice);
    if (status) {
        free(result);
        return status;
    }
    /* A plan only ever reads the weight, but counting is a write: the handle is const to the caller, not to us. */
    result->weight = (w4a16_weight *)(uintptr_t)weight;
    w4_weight_retain(result->weight);
    *plan = result;
    return W4A16_OK;
}

void w4a16_plan_destroy(w4a16_plan *plan) {
    if (!plan) return;
    w4a16_weight_destroy(plan->weight);
    free(plan);
}

w4a16_status w4a16_plan_query(const w4a16_plan *plan, w4a16_plan_info *info) {
    if (!plan) return w4_fail_null("plan");
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    const w4a16_context *context = plan->weight->context;
    const w4_plan_segment *last = &plan->choice.segments[plan->choice.count - 1];
    w4_config config;
    context->backend->config_get(context->device, last->config, &config);
    *info = (w4a16_plan_info){
        .struct_size = sizeof *info,
        .config = config.name,
        .workspace_bytes = plan->choice.workspace_bytes,
        .workspace_alignment = W4_WORKSPACE_ALIGNMENT,
        .predicted_seconds = last->seconds,
    };
    snprintf(info->reason, sizeof info->reason, "%s", plan->choice.reason);
    return W4A16_OK;
}
