/* SPDX-License-Identifier: Apache-2.0
 * Timing every config of one problem. */
#include "tune/profile.h"

#include "core/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Whether a config's name holds one of the texts, which commas separate. */
static bool holds_one(const char *name, const char *texts) {
    while (*texts) {
        size_t length = strcspn(texts, ",");
        for (const char *at = name; length && *at; at++)
            if (strncmp(at, texts, length) == 0) return true;
        texts += length + (texts[length] == ',');
    }
    return false;
}

static int by_speed(const void *left, const void *right) {
    const w4a16_profile_result *a = left, *b = right;
    if (!a->failure[0] != !b->failure[0]) return a->failure[0] ? 1 : -1;
    if (a->seconds != b->seconds) return a->seconds < b->seconds ? -1 : 1;
    return a->rank - b->rank;
}

/** The candidates to time, moved to the front: the choice first. @return how many */
static size_t pick(w4_candidate *candidates, size_t count, size_t chosen, const char *only) {
    size_t picked = 0;
    for (size_t i = 0; i < count; i++) {
        if (!candidates[i].feasible) continue;
        if (candidates[i].config != chosen && only && !holds_one(candidates[i].name, only)) continue;
        w4_candidate candidate = candidates[i];
        size_t place = candidate.config == chosen ? 0 : picked;
        memmove(candidates + place + 1, candidates + place, (i - place) * sizeof *candidates);
        candidates[place] = candidate;
        picked++;
    }
    return picked;
}

w4a16_status w4_profile_all(w4_profile_pool *pool, const w4_plan_measured *measured, const w4a16_problem *asked,
                            const w4_problem *problem, const char *only, double min_seconds,
                            w4a16_measure_callback callback, void *user, w4a16_profile_result **results,
                            size_t *count) {
    const w4_backend *backend = w4_profile_pool_backend(pool);
    const w4_device *device = w4_profile_pool_device(pool);
    w4_plan_segment choice;
    w4_candidate *candidates;
    size_t total;
    void *memory;
    W4_TRY(w4_plan_choose_one(backend, device, measured, problem, &choice));
    W4_TRY(w4_plan_candidates(backend, device, measured, problem, &candidates, &total));
    w4a16_status status = w4_allocate(total * sizeof(w4a16_profile_result), "the results", &memory);
    if (status) {
        free(candidates);
        return status;
    }
    w4a16_profile_result *list = memory;
    total = pick(candidates, total, choice.config, only);
    w4a16_measure_progress progress = {.problem = asked, .chosen = candidates[0].name, .total = 1};
    for (size_t i = 0; !status && i < total; i++) {
        const w4_candidate *candidate = &candidates[i];
        w4a16_profile_result *result = &list[i];
        *result = (w4a16_profile_result){.config = candidate->name};
        status = w4_profile_run(pool, problem, candidate->config, (w4_profile_effort){min_seconds, 0}, result);
        if (status && status != W4A16_ERROR_CANCELLED && status != W4A16_ERROR_DEVICE) {
            snprintf(result->failure, sizeof result->failure, "%s", w4a16_last_error());
            status = W4A16_OK;
        }
        result->predicted_seconds = candidate->predicted;
        result->rank = candidate->rank;
        result->chosen = candidate->config == choice.config;
        progress.config = result->config;
        progress.seconds = result->seconds;
        progress.failure = result->failure;
        if (result->chosen) progress.chosen_seconds = result->seconds;
        if (result->seconds > 0 && (!progress.best || result->seconds < progress.best_seconds)) {
            progress.best = result->config;
            progress.best_seconds = result->seconds;
        }
        progress.done = (double)(i + 1) / (double)total;
        if (!status && callback && callback(&progress, user))
            status = w4_fail(W4A16_ERROR_CANCELLED, "the progress callback asked to stop");
    }
    free(candidates);
    if (status) {
        free(list);
        return status;
    }
    qsort(list, total, sizeof *list, by_speed);
    *results = list;
    *count = total;
    return W4A16_OK;
}
