/* SPDX-License-Identifier: Apache-2.0
 * Plans: the checked arguments of many multiplications, and the configs that will run them. */
#include "api/objects.h"
#include "core/half.h"
#include "core/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
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
    w4a16_dtype c_dtype = options->c_dtype == W4A16_DTYPE_NONE ? options->a_dtype : options->c_dtype;
    w4_problem resolved;
    W4_TRY(w4_weight_problem(weight, options->m_max, options->a_dtype, c_dtype, options->flags, &resolved));
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4a16_plan), "a plan", &memory));
    w4a16_plan *result = memory;
    result->problem = resolved;
    result->m_min = options->m_min;
    result->alpha = options->alpha;
    result->bias = options->bias;
    result->bias_dtype = options->bias_dtype == W4A16_DTYPE_NONE ? c_dtype : options->bias_dtype;
    const w4a16_context *context = weight->context;
    result->cache = w4_context_cache(context);
    w4_plan_measured measured = {result->cache, context->table};
    w4a16_status status = w4_plan_choose(context->backend, context->device, &measured, &resolved, options->m_min,
                                         options->m_max, options->config, &result->choice);
    if (status) {
        w4_tuned_release(result->cache);
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
    w4_tuned_release(plan->cache);
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
        .threads = w4_plan_threads(context->backend, context->device, last->config),
        .workspace_bytes = plan->choice.workspace_bytes,
        .workspace_alignment = W4_WORKSPACE_ALIGNMENT,
        .predicted_seconds = last->seconds,
    };
    /* Who asked for a cache should see that it was not used. */
    w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
    W4_TRY(w4a16_context_tuning(context, &tuning));
    bool refused = !plan->cache && tuning.cache[0] && last->source != W4A16_CHOICE_NAME;
    snprintf(info->reason, sizeof info->reason, "%s%.*s", refused ? "W4A16_CACHE not used (see describe); " : "",
             (int)(sizeof info->reason - 48), plan->choice.reason);
    return W4A16_OK;
}

/** The choice's own text, after a line on what the context knows. */
static w4a16_status describe(const w4a16_context *context, const w4_tuned *cache, const w4_problem *problem,
                             int64_t m_min, const w4_plan_choice *choice, char *text, size_t capacity, size_t *length) {
    if (!text && capacity) return w4_fail_null("text");
    if (!length) return w4_fail_null("length");
    w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
    W4_TRY(w4a16_context_tuning(context, &tuning));
    int head = snprintf(text, capacity, "%s (%s); cache: %zu points%s%s; table: %s\n", context->information.id,
                        context->identity.device, w4_tuned_count(cache), tuning.cache[0] ? ", " : "", tuning.cache,
                        tuning.table[0] ? tuning.table : "none for this device");
    size_t used = head > 0 ? (size_t)head : 0, rest = used < capacity ? capacity - used : 0, more;
    w4_plan_measured measured = {cache, context->table};
    W4_TRY(w4_plan_describe(context->backend, context->device, &measured, problem, m_min, choice,
                            rest ? text + used : NULL, rest, &more));
    *length = used + more;
    return W4A16_OK;
}

w4a16_status w4a16_plan_describe(const w4a16_plan *plan, char *text, size_t capacity, size_t *length) {
    if (!plan) return w4_fail_null("plan");
    return describe(plan->weight->context, plan->cache, &plan->problem, plan->m_min, &plan->choice, text, capacity,
                    length);
}

w4a16_status w4a16_problem_describe(const w4a16_context *context, const w4a16_problem *problem, char *text,
                                    size_t capacity, size_t *length) {
    if (!context) return w4_fail_null("context");
    w4_problem resolved;
    W4_TRY(w4_problem_resolve(problem, &resolved));
    w4_tuned *cache = w4_context_cache(context);
    w4_plan_measured measured = {cache, context->table};
    w4_plan_choice choice = {.count = 1};
    w4a16_status status =
        w4_plan_choose_one(context->backend, context->device, &measured, &resolved, &choice.segments[0]);
    if (!status) status = describe(context, cache, &resolved, resolved.m, &choice, text, capacity, length);
    w4_tuned_release(cache);
    return status;
}
