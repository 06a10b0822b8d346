/* SPDX-License-Identifier: Apache-2.0
 * The multiplication: check the call's own arguments, hand over to the backend. */
#include "api/objects.h"
#include "core/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

/** Bytes from the first element to the end of the last row; false on overflow. */
static bool span_bytes(int64_t rows, int64_t columns, int64_t stride, uint64_t *bytes) {
    uint64_t elements;
    return w4_multiply((uint64_t)rows - 1, (uint64_t)stride, &elements) &&
           !__builtin_add_overflow(elements, (uint64_t)columns, &elements) && w4_multiply(elements, 2, bytes);
}

static w4a16_status check_arguments(const w4a16_plan *plan, const void *a, int64_t lda, const void *c, int64_t ldc,
                                    int64_t m) {
    if (!plan) return w4_fail_null("plan");
    if (!a) return w4_fail_null("a");
    if (!c) return w4_fail_null("c");
    const w4_problem *problem = &plan->problem;
    if (m < plan->m_min || m > problem->m)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "m is %" PRId64 "; this plan serves %" PRId64 " to %" PRId64
                       " (options.m_min and m_max of w4a16_plan_create)",
                       m, plan->m_min, problem->m);
    if (lda < problem->k)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "lda is %" PRId64 "; it must be at least k = %" PRId64, lda,
                       problem->k);
    if (ldc < problem->n)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "ldc is %" PRId64 "; it must be at least n = %" PRId64, ldc,
                       problem->n);
    if ((uintptr_t)a % 2)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "a is %p; it must be aligned to its 2-byte elements", a);
    if ((uintptr_t)c % 2)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "c is %p; it must be aligned to its 2-byte elements", c);
    uint64_t a_bytes, c_bytes;
    if (!span_bytes(m, problem->k, lda, &a_bytes))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "lda is %" PRId64 "; m rows of it overflow the address space",
                       lda);
    if (!span_bytes(m, problem->n, ldc, &c_bytes))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "ldc is %" PRId64 "; m rows of it overflow the address space",
                       ldc);
    if ((uintptr_t)a < (uintptr_t)c + c_bytes && (uintptr_t)c < (uintptr_t)a + a_bytes)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "c (%p) overlaps a (%p); they must be apart", c, a);
    return W4A16_OK;
}

static w4_run make_run(const w4a16_plan *plan, const void *a, int64_t lda, void *c, int64_t ldc, int64_t m) {
    const w4_plan_segment *segment = w4_plan_segment_for(&plan->choice, m);
    w4_run run = {
        .weight = plan->weight->device_weight,
        .config = segment->config,
        .problem = plan->problem,
        .a = a,
        .lda = lda,
        .c = c,
        .ldc = ldc,
        .m = m,
        .alpha = plan->alpha,
        .bias = plan->bias,
        .bias_dtype = plan->bias_dtype,
    };
    run.problem.m = segment->m_last; /* what this config's workspace was sized for */
    return run;
}

w4a16_status w4a16_gemm(const w4a16_plan *plan, const void *a, int64_t lda, void *c, int64_t ldc, int64_t m,
                        void *workspace, size_t workspace_bytes, void *stream) {
    W4_TRY(check_arguments(plan, a, lda, c, ldc, m));
    if (plan->choice.workspace_bytes) {
        if (!workspace)
            return w4_fail(W4A16_ERROR_WORKSPACE, "workspace is NULL; this plan needs %zu bytes",
                           plan->choice.workspace_bytes);
        if (workspace_bytes < plan->choice.workspace_bytes)
            return w4_fail(W4A16_ERROR_WORKSPACE, "workspace_bytes is %zu; this plan needs %zu", workspace_bytes,
                           plan->choice.workspace_bytes);
        if ((uintptr_t)workspace % W4_WORKSPACE_ALIGNMENT)
            return w4_fail(W4A16_ERROR_WORKSPACE, "workspace is %p; it must be aligned to %d bytes", workspace,
                           W4_WORKSPACE_ALIGNMENT);
    }
    w4_run run = make_run(plan, a, lda, c, ldc, m);
    run.workspace = workspace;
    run.stream = stream;
    const w4a16_context *context = plan->weight->context;
    return context->backend->run(context->device, &run);
}

w4a16_status w4a16_gemm_host(const w4a16_plan *plan, const void *a, int64_t lda, void *c, int64_t ldc, int64_t m) {
    W4_TRY(check_arguments(plan, a, lda, c, ldc, m));
    w4_run run = make_run(plan, a, lda, c, ldc, m);
    const w4a16_context *context = plan->weight->context;
    if (context->backend->run_host) return context->backend->run_host(context->device, &run);
    W4_TRY(w4_allocate_aligned(plan->choice.workspace_bytes, W4_WORKSPACE_ALIGNMENT, "a workspace", &run.workspace));
    w4a16_status status = context->backend->run(context->device, &run);
    free(run.workspace);
    return status;
}
