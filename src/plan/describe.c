/* SPDX-License-Identifier: Apache-2.0
 * How a choice came about: the candidates in order, and why the others are none. */
#include "plan/plan.h"

#include "core/memory.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double time_of(const w4_candidate *candidate) {
    return candidate->measured > 0 ? candidate->measured : candidate->predicted;
}

static int by_prediction(const void *left, const void *right) {
    const w4_candidate *a = left, *b = right;
    if (a->feasible != b->feasible) return a->feasible ? -1 : 1;
    if (a->rough != b->rough) return a->rough ? 1 : -1;
    if (a->predicted != b->predicted) return a->predicted < b->predicted ? -1 : 1;
    return (a->config > b->config) - (a->config < b->config);
}

/** What was measured comes before what is only predicted: it was among the fastest. */
static int by_time(const void *left, const void *right) {
    const w4_candidate *a = left, *b = right;
    if (a->feasible && b->feasible) {
        bool a_measured = a->measured > 0, b_measured = b->measured > 0;
        if (a_measured != b_measured) return a_measured ? -1 : 1;
        if (!a_measured && a->rough != b->rough) return a->rough ? 1 : -1;
        if (time_of(a) != time_of(b)) return time_of(a) < time_of(b) ? -1 : 1;
    }
    return by_prediction(left, right);
}

/** Note the times of the list's point for this problem. */
static void add_measured(const w4_tuned *tuned, const w4_problem *problem, w4a16_choice_source source,
                         w4_candidate *candidates) {
    const w4_tuned_point *point = w4_tuned_find(tuned, problem);
    for (int i = 0; point && i < point->count; i++) {
        w4_candidate *candidate = &candidates[point->results[i].config];
        if (!candidate->feasible) continue;
        candidate->measured = point->results[i].seconds;
        candidate->source = source;
    }
}

w4a16_status w4_plan_candidates(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                                const w4_problem *problem, w4_candidate **candidates, size_t *count) {
    size_t total = backend->config_count(device);
    void *memory;
    W4_TRY(w4_allocate(total * sizeof(w4_candidate), "the list of configs", &memory));
    w4_candidate *list = memory;
    for (size_t i = 0; i < total; i++) {
        w4_config config;
        backend->config_get(device, i, &config);
        list[i] = (w4_candidate){.config = i, .name = config.name, .source = W4A16_CHOICE_COST_MODEL};
        list[i].feasible = !backend->config_check(device, i, problem, list[i].reason, sizeof list[i].reason);
        if (!list[i].feasible) continue;
        list[i].reason[0] = 0;
        list[i].predicted = backend->config_cost(device, i, problem);
        list[i].rough = w4_plan_rough(backend, device, i);
    }
    if (!(problem->flags & W4A16_PLAN_COST_MODEL)) {
        /* One source for all of them, as for a choice: times of different days do not compare. */
        bool tuned = w4_tuned_find(measured->cache, problem) != NULL;
        add_measured(tuned ? measured->cache : measured->table, problem,
                     tuned ? W4A16_CHOICE_CACHE : W4A16_CHOICE_TABLE, list);
    }
    qsort(list, total, sizeof *list, by_prediction);
    for (size_t i = 0; i < total && list[i].feasible; i++) list[i].rank = (int)i + 1;
    qsort(list, total, sizeof *list, by_time);
    *candidates = list;
    *count = total;
    return W4A16_OK;
}

/** A caller's buffer, and how long the text would be. */
typedef struct writer {
    char *text;
    size_t capacity, length;
} writer;

static void put(writer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(writer *out, const char *format, ...) {
    bool room = out->length < out->capacity;
    va_list arguments;
    va_start(arguments, format);
    int length =
        vsnprintf(room ? out->text + out->length : NULL, room ? out->capacity - out->length : 0, format, arguments);
    va_end(arguments);
    if (length > 0) out->length += (size_t)length;
}

static const char *const sources[] = {
    [W4A16_CHOICE_NAME] = "asked for by name",
    [W4A16_CHOICE_CACHE] = "tuned: the cache",
    [W4A16_CHOICE_TABLE] = "measured: the table shipped for this GPU",
    [W4A16_CHOICE_COST_MODEL] = "the cost model: no measured time for this problem",
};

/** "cpu_avx512_m1n16_t2, 2 threads" on a CPU, else the name alone. */
static void put_config(writer *out, const w4_backend *backend, const w4_device *device, size_t index) {
    w4_config config;
    int threads = w4_plan_threads(backend, device, index);
    backend->config_get(device, index, &config);
    put(out, "%s", config.name);
    if (threads) put(out, ", %d thread%s", threads, threads == 1 ? "" : "s");
}

static void put_candidate(writer *out, const w4_candidate *candidate, size_t chosen) {
    put(out, "  %c %3d  %-34s", candidate->config == chosen ? '*' : ' ', candidate->rank, candidate->name);
    if (candidate->measured > 0)
        put(out, " %10.2f us %s,", candidate->measured * 1e6,
            candidate->source == W4A16_CHOICE_CACHE ? "tuned" : "shipped");
    put(out, " %10.2f us %s\n", candidate->predicted * 1e6,
        candidate->rough ? "estimated: no cost was fitted yet" : "predicted");
}

/** Those that cannot run, together where they have the same reason. */
static void put_refused(writer *out, const w4_candidate *candidates, size_t count) {
    for (size_t i = 0; i < count; i++) {
        bool said = candidates[i].feasible;
        for (size_t j = 0; j < i && !said; j++)
            said = !candidates[j].feasible && strcmp(candidates[j].reason, candidates[i].reason) == 0;
        if (said) continue;
        put(out, "  cannot run: %s:", candidates[i].reason);
        for (size_t j = i; j < count; j++)
            if (!candidates[j].feasible && strcmp(candidates[j].reason, candidates[i].reason) == 0)
                put(out, "%s %s", j == i ? "" : ",", candidates[j].name);
        put(out, "\n");
    }
}

static void put_problem(writer *out, const w4_problem *problem) {
    static const char *const zeros[] = {"symmetric", "integer zero points", "floating zero points"};
    put(out, "N %" PRId64 " K %" PRId64 ", ", problem->n, problem->k);
    if (problem->group_size < problem->k)
        put(out, "groups of %" PRId64, problem->group_size);
    else
        put(out, "one group per row");
    put(out, ", %s, %s scales%s; %s to %s%s%s\n", zeros[problem->zero_kind], w4a16_dtype_name(problem->scale_dtype),
        problem->uneven_scales ? " far apart" : "", w4a16_dtype_name(problem->a_dtype),
        w4a16_dtype_name(problem->c_dtype), problem->flags & W4A16_PLAN_BATCH_INVARIANT ? ", batch-invariant" : "",
        problem->flags & W4A16_PLAN_NO_OVERLAP ? ", no overlap of calls" : "");
}

w4a16_status w4_plan_describe(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                              const w4_problem *problem, int64_t m_min, const w4_plan_choice *choice, char *text,
                              size_t capacity, size_t *length) {
    writer out = {text, capacity, 0};
    w4_problem at = *problem;
    if (capacity) text[0] = 0;
    put_problem(&out, problem);
    for (size_t i = 0; i < choice->count; i++) {
        const w4_plan_segment *segment = &choice->segments[i];
        w4_candidate *candidates;
        size_t count;
        at.m = segment->m_last;
        W4_TRY(w4_plan_candidates(backend, device, measured, &at, &candidates, &count));
        const char *source = segment->source == W4A16_CHOICE_COST_MODEL && problem->flags & W4A16_PLAN_COST_MODEL
                                 ? "the cost model alone, as asked"
                                 : sources[segment->source];
        put(&out, "\nM %" PRId64 "..%" PRId64 ": ", i ? choice->segments[i - 1].m_last + 1 : m_min, segment->m_last);
        put_config(&out, backend, device, segment->config);
        put(&out, " (%s); candidates at M = %" PRId64 ", with their rank by the cost model:\n", source,
            segment->m_last);
        for (size_t j = 0; j < count && candidates[j].feasible; j++)
            put_candidate(&out, &candidates[j], segment->config);
        put_refused(&out, candidates, count);
        free(candidates);
    }
    *length = out.length;
    return W4A16_OK;
}
