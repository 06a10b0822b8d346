/* SPDX-License-Identifier: Apache-2.0
 * Tuned results: of a context, and in cache files. */
#include "api/objects.h"
#include "core/memory.h"
#include "tune/tune.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

w4_tuned *w4_context_cache(const w4a16_context *context) {
    /* A lock is a write; the handle is const to the caller, not to us. */
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&context->cache_lock;
    pthread_mutex_lock(lock);
    w4_tuned *cache = w4_tuned_retain(context->cache);
    pthread_mutex_unlock(lock);
    return cache;
}

/** Old points, then new ones: of two alike the last one counts. */
static w4a16_status join(const w4_tuned *old, const w4_tuned_point *points, size_t count, w4_tuned **joined) {
    size_t old_count = w4_tuned_count(old);
    void *memory;
    W4_TRY(w4_allocate((old_count + count) * sizeof *points, "measured times", &memory));
    w4_tuned_point *all = memory;
    if (old_count) memcpy(all, w4_tuned_points(old), old_count * sizeof *all);
    if (count) memcpy(all + old_count, points, count * sizeof *all);
    w4a16_status status = w4_tuned_create(all, old_count + count, joined);
    free(all);
    return status;
}

w4a16_status w4_context_add_cache(w4a16_context *context, const w4_tuned_point *points, size_t count,
                                  const char *text) {
    w4_tuned *joined;
    pthread_mutex_lock(&context->cache_lock);
    w4a16_status status = join(context->cache, points, count, &joined);
    if (!status) {
        w4_tuned_release(context->cache);
        context->cache = joined;
        snprintf(context->cache_text, sizeof context->cache_text, "%s", text);
    }
    pthread_mutex_unlock(&context->cache_lock);
    return status;
}

w4a16_status w4a16_context_load_cache(w4a16_context *context, const char *path) {
    if (!context) return w4_fail_null("context");
    if (!path) return w4_fail_null("path");
    w4a16_cache cache = {.entries = NULL};
    w4_tuned_point *points;
    size_t count;
    W4_TRY(w4_cache_read(path, &cache));
    w4a16_status status =
        w4_cache_select(&cache, path, context->backend, context->device, &context->identity, &points, &count);
    w4_cache_clear(&cache);
    if (status) return status;
    status = w4_context_add_cache(context, points, count, path);
    free(points);
    return status;
}

void w4_context_read_environment(w4a16_context *context) {
    const char *path = getenv("W4A16_CACHE");
    if (!path || !*path) return;
    w4_saved_error before;
    w4_error_save(&before);
    w4a16_status status = w4a16_context_load_cache(context, path);
    if (!status) return;
    snprintf(context->cache_text, sizeof context->cache_text, "W4A16_CACHE not used: %.220s", w4a16_last_error());
    /* A cache that is yet to be made is nothing to warn of. */
    w4_log(status == W4A16_ERROR_NOT_FOUND ? W4A16_LOG_INFO : W4A16_LOG_WARNING, "%s: W4A16_CACHE not used: %s",
           context->information.id, w4a16_last_error());
    w4_error_restore(&before);
}

w4a16_status w4a16_context_tuning(const w4a16_context *context, w4a16_tuning_info *info) {
    if (!context) return w4_fail_null("context");
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    const w4_shipped_table *table = context->backend->table ? context->backend->table(context->device) : NULL;
    w4a16_tuning_info found = {.struct_size = sizeof found, .table_points = w4_tuned_count(context->table)};
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&context->cache_lock;
    pthread_mutex_lock(lock);
    found.cache_points = w4_tuned_count(context->cache);
    snprintf(found.cache, sizeof found.cache, "%s", context->cache_text);
    pthread_mutex_unlock(lock);
    snprintf(found.table, sizeof found.table, "%s", table ? table->name : "");
    snprintf(found.fingerprint, sizeof found.fingerprint, "%s", context->identity.fingerprint);
    *info = found;
    return W4A16_OK;
}

/* ---- Tuning -------------------------------------------------------------------------------------------------- */

void w4a16_tune_options_init(w4a16_tune_options *options) {
    if (options) *options = (w4a16_tune_options){.struct_size = sizeof *options, .m_min = 1, .m_max = 8192};
}

static w4a16_status check_m(const w4a16_tune_options *options) {
    if (!options->m) {
        if (options->m_min < 1 || options->m_min > W4_PLAN_LARGEST_M)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.m_min is %" PRId64 "; it must be 1 to %" PRId64,
                           options->m_min, W4_PLAN_LARGEST_M);
        if (options->m_max < options->m_min || options->m_max > W4_PLAN_LARGEST_M)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                           "options.m_max is %" PRId64 "; it must be options.m_min (%" PRId64 ") to %" PRId64,
                           options->m_max, options->m_min, W4_PLAN_LARGEST_M);
        return W4A16_OK;
    }
    if (!options->m_count)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.m_count is 0; give one or more, or NULL for options.m");
    for (size_t i = 0; i < options->m_count; i++)
        if (options->m[i] < 1 || options->m[i] > W4_PLAN_LARGEST_M)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.m[%zu] is %" PRId64 "; it must be 1 to %" PRId64, i,
                           options->m[i], W4_PLAN_LARGEST_M);
    return W4A16_OK;
}

static w4a16_status resolve_problems(const w4a16_tune_options *options, w4_problem **problems) {
    void *memory;
    if (!options->problems) return w4_fail_null("options.problems");
    if (!options->problem_count)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.problem_count is 0; give one problem or more");
    W4_TRY(w4_allocate(options->problem_count * sizeof **problems, "the problems", &memory));
    *problems = memory;
    for (size_t i = 0; i < options->problem_count; i++) {
        w4a16_problem problem = options->problems[i];
        problem.m = 1;
        w4a16_status status = w4_problem_resolve(&problem, &(*problems)[i]);
        if (!status) continue;
        free(memory);
        return w4_fail_context(status, "options.problems[%zu]: ", i);
    }
    return W4A16_OK;
}

/** What the file has already is known. A file that is not there yet, or has other devices' results, will do. */
static w4a16_status load_known(w4a16_context *context, const char *path) {
    if (!path) return W4A16_OK;
    w4_saved_error before;
    w4_error_save(&before);
    w4a16_status status = w4a16_context_load_cache(context, path);
    if (status != W4A16_ERROR_NOT_FOUND && status != W4A16_ERROR_UNSUPPORTED) return status;
    w4_error_restore(&before);
    return W4A16_OK;
}

w4a16_status w4a16_tune(w4a16_context *context, const w4a16_tune_options *options, w4a16_tune_result *result) {
    if (!context) return w4_fail_null("context");
    if (!options) return w4_fail_null("options");
    if (!result) return w4_fail_null("result");
    W4_TRY(w4_check_struct("options", "w4a16_tune_options_init", options->struct_size, sizeof *options));
    W4_TRY(w4_check_struct("result", NULL, result->struct_size, sizeof *result));
    if (!(options->budget_seconds >= 0 && options->budget_seconds <= 1e9))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.budget_seconds is %g; it must be 0 (none) to 1e9",
                       options->budget_seconds);
    W4_TRY(check_m(options));
    w4_problem *problems = NULL;
    W4_TRY(resolve_problems(options, &problems));
    w4a16_status status = load_known(context, options->cache);
    if (status) {
        free(problems);
        return status;
    }
    w4_tuned *cache = w4_context_cache(context);
    w4_tune_job job = {.pool = context->pool,
                       .identity = &context->identity,
                       .measured = {cache, context->table},
                       .options = options,
                       .problems = problems};
    w4_tuned_point *points;
    size_t count;
    w4a16_tune_result found;
    status = w4_tune(&job, &points, &count, &found);
    w4_profile_pool_drop(context->pool); /* the device's memory is the engine's */
    /* Also after a failure: what was measured holds. */
    w4a16_status added =
        count ? w4_context_add_cache(context, points, count, options->cache ? options->cache : "tuned by this process")
              : W4A16_OK;
    if (!status) status = added;
    free(points);
    w4_tuned_release(cache);
    free(problems);
    if (!status) *result = found;
    return status;
}

/* ---- Cache files --------------------------------------------------------------------------------------------- */

w4a16_status w4a16_cache_open(const char *path, w4a16_cache **cache) {
    if (!path) return w4_fail_null("path");
    if (!cache) return w4_fail_null("cache");
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4a16_cache), "a cache", &memory));
    w4a16_cache *result = memory;
    w4a16_status status = w4_cache_read(path, result);
    if (status)
        free(result);
    else
        *cache = result;
    return status;
}

void w4a16_cache_close(w4a16_cache *cache) {
    if (!cache) return;
    w4_cache_clear(cache);
    free(cache);
}

size_t w4a16_cache_count(const w4a16_cache *cache) {
    return cache ? cache->count : 0;
}

w4a16_status w4a16_cache_get(const w4a16_cache *cache, size_t index, w4a16_cache_entry *entry) {
    if (!cache) return w4_fail_null("cache");
    if (!entry) return w4_fail_null("entry");
    W4_TRY(w4_check_struct("entry", NULL, entry->struct_size, sizeof *entry));
    if (index >= cache->count)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "index is %zu; this cache holds %zu results", index, cache->count);
    const w4_cache_entry *found = &cache->entries[index];
    const w4_problem *problem = &found->problem;
    *entry = (w4a16_cache_entry){
        .struct_size = sizeof *entry,
        .device = found->identity.device,
        .code = found->identity.code,
        .processors = found->identity.processors,
        .memory_mhz = found->identity.memory_mhz,
        .fingerprint = found->identity.fingerprint,
        .problem = {.struct_size = sizeof entry->problem,
                    .m = problem->m,
                    .n = problem->n,
                    .k = problem->k,
                    .group_size = problem->group_size < problem->k ? problem->group_size : -1,
                    .a_dtype = problem->a_dtype,
                    .c_dtype = problem->c_dtype,
                    .scale_dtype = problem->scale_dtype,
                    .zero_kind = problem->zero_kind,
                    .uneven_scales = problem->uneven_scales,
                    .flags = problem->flags},
        .config = found->results[0].config,
        .seconds = found->results[0].microseconds * 1e-6,
        .timed = found->timed,
        .date = found->date,
    };
    return W4A16_OK;
}

w4a16_status w4a16_cache_merge(const char *path, const char *source) {
    if (!path) return w4_fail_null("path");
    if (!source) return w4_fail_null("source");
    w4a16_cache more = {.entries = NULL};
    W4_TRY(w4_cache_read(source, &more));
    w4a16_status status = w4_cache_update(path, &more);
    w4_cache_clear(&more);
    return status;
}
