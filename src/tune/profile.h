/* SPDX-License-Identifier: Apache-2.0
 * Timing a config: checked first, then timed with weights that no cache holds. */
#ifndef W4_TUNE_PROFILE_H
#define W4_TUNE_PROFILE_H

#include "backend/backend.h"

/** Random weights of one shape, packed often enough to overflow every cache; kept between calls because making them
 * takes longer than timing them. Thread-safe. */
typedef struct w4_profile_pool w4_profile_pool;

w4a16_status w4_profile_pool_create(const w4_backend *backend, w4_device *device, w4_profile_pool **pool);
void w4_profile_pool_destroy(w4_profile_pool *pool);

/** Check and time config `config` of the device on `problem`, for at least `min_seconds` and ten runs. */
w4a16_status w4_profile_run(w4_profile_pool *pool, const w4_problem *problem, size_t config, double min_seconds,
                            w4a16_profile_result *result);

#endif
