/* SPDX-License-Identifier: Apache-2.0
 * Timing a config: checked first, then timed with weights that no cache holds. */
#ifndef W4_TUNE_PROFILE_H
#define W4_TUNE_PROFILE_H

#include "plan/plan.h"

/** Random weights of one shape, packed often enough to overflow every cache, and the activations, outputs and exact
 * results of the last problem; kept between calls because making them takes longer than timing them. Thread-safe. */
typedef struct w4_profile_pool w4_profile_pool;

w4a16_status w4_profile_pool_create(const w4_backend *backend, w4_device *device, w4_profile_pool **pool);
void w4_profile_pool_destroy(w4_profile_pool *pool);
/** Give the memory back until the next run. */
void w4_profile_pool_drop(w4_profile_pool *pool);

/** How long a config is timed. */
typedef struct w4_profile_effort {
    double min_seconds; /* and at least ten runs, where these do not take very long */
    double give_up;     /* a run over this many seconds is the only one; 0: none is */
} w4_profile_effort;

/** Check and time config `config` of the device on `problem`. INTERNAL: its result is wrong. */
w4a16_status w4_profile_run(w4_profile_pool *pool, const w4_problem *problem, size_t config, w4_profile_effort effort,
                            w4a16_profile_result *result);

/** Check and time every feasible config, the choice of a plan and those whose names hold one of the texts `only`
 * (separated by commas; NULL: all): the fastest first, then those that failed. *results is on the heap. */
w4a16_status w4_profile_all(w4_profile_pool *pool, const w4_plan_measured *measured, const w4a16_problem *asked,
                            const w4_problem *problem, const char *only, double min_seconds,
                            w4a16_measure_callback callback, void *user, w4a16_profile_result **results, size_t *count);

/** The device that the pool measures on. */
const w4_backend *w4_profile_pool_backend(const w4_profile_pool *pool);
const w4_device *w4_profile_pool_device(const w4_profile_pool *pool);

#endif
