/* SPDX-License-Identifier: Apache-2.0
 * The tuner. At each point (a problem and a number of tokens) configs are timed in the order of the cost model, first
 * shortly, and those near the best once more for longer; the rest is left out when even the cost model's mistakes so
 * far could not bring it near the best. Those that came out close are then timed in turn: clocks and neighbours change
 * with time, and a figure of now does not compare with one of a minute ago. */
#include "tune/tune.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double SHORT_SECONDS = 0.02, LONG_SECONDS = 0.2; /* of a config's first and second timing */
static const double NEAR = 1.1;     /* a first time up to this many times the best is worth a second */
static const double FAR = 3;        /* a first run over this many times the best ends a config at once */
static const double HOPELESS = 1.3; /* as is one whose prediction, corrected, is over this many times the best */
static const double ROUGH = 1.5;    /* without a fitted cost: one whose estimate is over this many times the best */
enum { LEAST_TIMED = 4 };           /* before that nothing is hopeless: one prediction may be far off */

static const double CLOSE = 1.05, PLAY_OFF_SECONDS = 0.1;
enum { FINALISTS = 4, ROUNDS = 2 };

typedef struct tuner {
    const w4_tune_job *job;
    const w4_backend *backend;
    const w4_device *device;
    const int64_t *m;
    size_t m_count;
    w4_tuned_point *points; /* all found so far */
    size_t count, saved;    /* of points; of those that the cache file has */
    int *timed;             /* configs timed at each point */
    double started, done_work, total_work;
    w4a16_tune_result *result;
} tuner;

/** The numbers of tokens: the caller's, or the ends of the buckets that m_min..m_max touches, the last one cut. */
static w4a16_status choose_m(tuner *self) {
    const w4a16_tune_options *options = self->job->options;
    void *memory;
    if (options->m) {
        self->m = options->m;
        self->m_count = options->m_count;
        return W4A16_OK;
    }
    W4_TRY(w4_allocate(W4_PLAN_MAX_BUCKETS * sizeof(int64_t), "the numbers of tokens", &memory));
    int64_t *list = memory;
    for (int64_t m = w4_bucket_end(options->m_min);; m = w4_bucket_end(m + 1)) {
        list[self->m_count++] = w4_minimum(m, options->m_max);
        if (m >= options->m_max) break;
    }
    self->m = list;
    return W4A16_OK;
}

/** A problem at the place'th number of tokens. The caller's flag to pass over measured times is about the choice. */
static w4_problem point_problem(const tuner *self, size_t problem, size_t place) {
    w4_problem result = self->job->problems[problem];
    result.m = self->m[place];
    result.flags &= ~(uint32_t)W4A16_PLAN_COST_MODEL;
    return result;
}

static bool is_known(const tuner *self, const w4_problem *problem) {
    if (self->job->options->again) return false;
    const w4_tuned_point *point = w4_tuned_find(self->job->measured.cache, problem);
    return point && point->problem.m == problem->m;
}

/** About how long a point takes beside others: seconds of a config's check and timing. */
static double work_of(const tuner *self, const w4_problem *problem) {
    w4_plan_segment choice;
    w4_problem predicted = *problem;
    predicted.flags |= W4A16_PLAN_COST_MODEL;
    w4_saved_error before;
    w4_error_save(&before);
    bool possible = !w4_plan_choose_one(self->backend, self->device, &self->job->measured, &predicted, &choice);
    w4_error_restore(&before);
    return 0.1 + 2e-9 * (double)problem->m * (double)(problem->n + problem->k) + (possible ? 15 * choice.seconds : 0);
}

/** Put a time among a point's fastest. */
static void note(w4_tuned_point *point, size_t config, double seconds) {
    int place = point->count;
    while (place > 0 && point->results[place - 1].seconds > seconds) place--;
    if (place == W4_TUNED_KEPT) return;
    if (point->count < W4_TUNED_KEPT) point->count++;
    memmove(&point->results[place + 1], &point->results[place],
            (size_t)(point->count - 1 - place) * sizeof *point->results);
    point->results[place] = (w4_tuned_result){config, seconds};
}

/** Shortly, and once more where that was near the best. The second time counts: it is the median of more runs. */
static w4a16_status time_config(tuner *self, const w4_problem *problem, size_t config, double best,
                                w4a16_profile_result *result) {
    /* Without a best so far nothing is too slow, but a config that takes long is still not run ten times. */
    w4_profile_effort effort = {SHORT_SECONDS, best > 0 ? FAR * best : HUGE_VAL};
    W4_TRY(w4_profile_run(self->job->pool, problem, config, effort, result));
    bool long_enough = result->seconds * result->runs > LONG_SECONDS;
    if (long_enough || (best > 0 && result->seconds > NEAR * best)) return W4A16_OK;
    effort.min_seconds = LONG_SECONDS;
    return w4_profile_run(self->job->pool, problem, config, effort, result);
}

/** Candidates in the order of timing: what a plan takes now, then by prediction. */
static void order_candidates(w4_candidate *candidates, size_t count, size_t chosen) {
    for (size_t i = 1; i < count && candidates[i].feasible; i++) {
        w4_candidate candidate = candidates[i];
        size_t place = i;
        while (place > 0 && candidates[place - 1].config != chosen &&
               (candidate.config == chosen || candidates[place - 1].rank > candidate.rank)) {
            candidates[place] = candidates[place - 1];
            place--;
        }
        candidates[place] = candidate;
    }
}

/** Note a wrong result: it is never chosen and never stored. */
static void note_failure(tuner *self, w4a16_measure_progress *progress) {
    if (!self->result->configs_failed++)
        snprintf(self->result->failure, sizeof self->result->failure, "%s", w4a16_last_error());
    progress->failure = w4a16_last_error();
}

static void show_best(const tuner *self, const w4_tuned_point *point, w4a16_measure_progress *progress) {
    w4_config best;
    self->backend->config_get(self->device, point->results[0].config, &best);
    progress->best = best.name;
    progress->best_seconds = point->results[0].seconds;
}

static w4a16_status report(const tuner *self, const w4a16_measure_progress *progress) {
    const w4a16_tune_options *options = self->job->options;
    if (!options->progress || !options->progress(progress, options->user)) return W4A16_OK;
    return w4_fail(W4A16_ERROR_CANCELLED, "tuning was cancelled; what was measured is kept");
}

/** Time the candidates until the rest are hopeless or, with one time at least, `deadline` has come. */
static w4a16_status time_candidates(tuner *self, const w4_problem *problem, const w4_candidate *candidates,
                                    size_t count, double deadline, w4a16_measure_progress *progress,
                                    w4_tuned_point *point, int *timed) {
    double correction = HUGE_VAL; /* the most that the cost model has predicted too much so far, as a factor */
    double work = work_of(self, problem);
    for (size_t i = 0; i < count && candidates[i].feasible; i++) {
        const w4_candidate *candidate = &candidates[i];
        double best = point->count ? point->results[0].seconds : 0;
        if (best > 0 && w4_clock_now() > deadline) break;
        if (candidate->rough ? best > 0 && candidate->predicted > ROUGH * best
                             : *timed >= LEAST_TIMED && candidate->predicted * correction > HOPELESS * best)
            continue;
        w4a16_profile_result result = {.seconds = 0};
        w4a16_status status = time_config(self, problem, candidate->config, best, &result);
        progress->config = candidate->name;
        progress->seconds = status ? 0 : result.seconds;
        progress->failure = "";
        if (status == W4A16_ERROR_INTERNAL)
            note_failure(self, progress);
        else if (status)
            return status;
        if (!status) {
            note(point, candidate->config, result.seconds);
            if (!candidate->rough) correction = fmin(correction, result.seconds / candidate->predicted);
            self->result->configs_timed++;
            ++*timed;
            if (candidate->name == progress->chosen) progress->chosen_seconds = result.seconds;
            show_best(self, point, progress);
        }
        progress->done = self->done_work + work * (double)i / (double)(i + 1);
        W4_TRY(report(self, progress));
    }
    return W4A16_OK;
}

/** Time the fastest configs and the one that was chosen before in turn, ROUNDS times; the least time of each counts.
 * *before_seconds: the time of the one from before, 0 where it has none. */
static w4a16_status play_off(const tuner *self, const w4_problem *problem, size_t before, double *before_seconds,
                             w4_tuned_point *point) {
    w4_tuned_result finalists[FINALISTS];
    int count = 0;
    if (*before_seconds > 0) finalists[count++] = (w4_tuned_result){before, HUGE_VAL};
    for (int i = 0; i < point->count && count < FINALISTS; i++) {
        bool close = point->results[i].seconds <= CLOSE * point->results[0].seconds;
        if (close && point->results[i].config != before)
            finalists[count++] = (w4_tuned_result){point->results[i].config, HUGE_VAL};
    }
    if (count < 2) return W4A16_OK;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++) {
            w4a16_profile_result result;
            W4_TRY(w4_profile_run(self->job->pool, problem, finalists[i].config,
                                  (w4_profile_effort){PLAY_OFF_SECONDS, HUGE_VAL}, &result));
            finalists[i].seconds = fmin(finalists[i].seconds, result.seconds);
        }
    w4_tuned_point sorted = {.problem = point->problem};
    for (int i = 0; i < count; i++) note(&sorted, finalists[i].config, finalists[i].seconds);
    for (int i = 0; i < point->count; i++) {
        bool again = false;
        for (int j = 0; j < count; j++) again = again || finalists[j].config == point->results[i].config;
        /* A time of before does not win over those of now. */
        if (!again) note(&sorted, point->results[i].config, fmax(point->results[i].seconds, sorted.results[0].seconds));
    }
    if (*before_seconds > 0) *before_seconds = finalists[0].seconds;
    *point = sorted;
    return W4A16_OK;
}

static w4a16_status measure_point(tuner *self, size_t which, const w4_problem *problem, double deadline) {
    const w4_plan_measured *measured = &self->job->measured;
    w4a16_problem asked = self->job->options->problems[which];
    w4_tuned_point point = {.problem = *problem};
    w4_plan_segment before;
    w4_config chosen;
    w4_candidate *candidates;
    size_t count;
    int timed = 0;
    asked.m = problem->m;
    W4_TRY(w4_plan_choose_one(self->backend, self->device, measured, problem, &before));
    self->backend->config_get(self->device, before.config, &chosen);
    W4_TRY(w4_plan_candidates(self->backend, self->device, measured, problem, &candidates, &count));
    order_candidates(candidates, count, before.config);
    w4a16_measure_progress progress = {
        .problem = &asked, .failure = "", .chosen = chosen.name, .done = self->done_work, .total = self->total_work};
    w4a16_status status = time_candidates(self, problem, candidates, count, deadline, &progress, &point, &timed);
    free(candidates);
    if (!status && point.count && w4_clock_now() < deadline) {
        status = play_off(self, problem, before.config, &progress.chosen_seconds, &point);
        show_best(self, &point, &progress);
    }
    /* A point that was cut short by an error or a cancellation says nothing about the best. */
    if (status || !point.count) return status;
    self->points[self->count] = point;
    self->timed[self->count++] = timed;
    self->result->measured++;
    progress.config = NULL;
    progress.seconds = 0;
    progress.done = self->done_work + work_of(self, problem);
    return report(self, &progress);
}

/** Bring what the cache file does not have into it. */
static w4a16_status save(tuner *self) {
    const char *path = self->job->options->cache;
    w4a16_cache more = {.entries = NULL};
    w4a16_status status = W4A16_OK;
    if (!path || self->saved == self->count) return W4A16_OK;
    for (size_t i = self->saved; !status && i < self->count; i++) {
        w4_cache_entry entry =
            w4_cache_entry_make(self->backend, self->device, self->job->identity, &self->points[i], self->timed[i]);
        status = w4_cache_add(&more, &entry);
    }
    if (!status) status = w4_cache_update(path, &more);
    if (!status) self->saved = self->count;
    w4_cache_clear(&more);
    return status;
}

/** All numbers of tokens of one problem: its weights are made once. `left`: points that are still to be measured. */
static w4a16_status tune_problem(tuner *self, size_t which, size_t *left) {
    double budget = self->job->options->budget_seconds;
    for (size_t place = 0; place < self->m_count; place++) {
        w4_problem problem = point_problem(self, which, place);
        if (is_known(self, &problem)) continue;
        double remaining = budget > 0 ? self->started + budget - w4_clock_now() : HUGE_VAL;
        if (remaining <= 0) return W4A16_OK; /* w4_tune counts what is left */
        W4_TRY(measure_point(self, which, &problem, w4_clock_now() + remaining / (double)*left));
        self->done_work += work_of(self, &problem);
        --*left;
    }
    return W4A16_OK;
}

static w4a16_status tune_all(tuner *self) {
    size_t problems = self->job->options->problem_count, left = 0;
    for (size_t i = 0; i < problems; i++)
        for (size_t place = 0; place < self->m_count; place++) {
            w4_problem problem = point_problem(self, i, place);
            if (is_known(self, &problem)) {
                self->result->known++;
                continue;
            }
            self->total_work += work_of(self, &problem);
            left++;
        }
    w4a16_status status = W4A16_OK;
    for (size_t i = 0; !status && i < problems; i++) {
        status = tune_problem(self, i, &left);
        if (!status) status = save(self);
    }
    self->result->left = left;
    return status;
}

w4a16_status w4_tune(const w4_tune_job *job, w4_tuned_point **points, size_t *count, w4a16_tune_result *result) {
    tuner self = {.job = job,
                  .backend = w4_profile_pool_backend(job->pool),
                  .device = w4_profile_pool_device(job->pool),
                  .started = w4_clock_now(),
                  .result = result};
    void *memory = NULL;
    *points = NULL;
    *count = 0;
    *result = (w4a16_tune_result){.struct_size = sizeof *result};
    if (job->options->cache) { /* a path that will not do must not cost a measurement */
        int lock;
        W4_TRY(w4_lock_file(job->options->cache, &lock));
        w4_unlock_file(lock);
    }
    w4a16_status status = choose_m(&self);
    result->points = job->options->problem_count * self.m_count;
    if (!status) status = w4_allocate(result->points * sizeof *self.points, "measured times", &memory);
    self.points = memory;
    memory = NULL;
    if (!status) status = w4_allocate(result->points * sizeof *self.timed, "measured times", &memory);
    self.timed = memory;
    if (!status) {
        status = tune_all(&self);
        if (status) { /* keep what there is; the first error is the one to report */
            w4_saved_error first;
            w4_error_save(&first);
            (void)save(&self);
            w4_error_restore(&first);
        }
    }
    if (!job->options->m) free((void *)(uintptr_t)self.m);
    free(self.timed);
    *points = self.points;
    *count = self.count;
    return status;
}
