/* SPDX-License-Identifier: Apache-2.0
 * Tuning: the fastest config of each problem and number of tokens, by measurement. */
#ifndef W4_TUNE_TUNE_H
#define W4_TUNE_TUNE_H

#include "tune/cache.h"
#include "tune/profile.h"

/** What to measure, on what, and where results go. */
typedef struct w4_tune_job {
    w4_profile_pool *pool;
    const w4_identity *identity;
    w4_plan_measured measured;         /* what plans know already */
    const w4a16_tune_options *options; /* checked */
    const w4_problem *problems;        /* options->problems resolved */
} w4_tune_job;

/** Measure. *points (on the heap) receives what was found, also where the call fails or is cancelled; so does the cache
 * file. */
w4a16_status w4_tune(const w4_tune_job *job, w4_tuned_point **points, size_t *count, w4a16_tune_result *result);

#endif
