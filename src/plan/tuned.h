/* SPDX-License-Identifier: Apache-2.0
 * Measured times: for a problem and a number of tokens, the fastest configs. They come from a cache file, or from the
 * table that is shipped for a GPU. */
#ifndef W4_PLAN_TUNED_H
#define W4_PLAN_TUNED_H

#include "backend/backend.h"

enum { W4_TUNED_KEPT = 8 }; /* configs of a point */

typedef struct w4_tuned_result {
    size_t config;
    double seconds;
} w4_tuned_result;

/** What was measured at one M. It serves that M and those below it down to the start of its bucket. */
typedef struct w4_tuned_point {
    w4_problem problem;                     /* m is the one measured */
    w4_tuned_result results[W4_TUNED_KEPT]; /* the fastest first */
    int count;                              /* of results, at least 1 */
} w4_tuned_point;

/** Points in the order of w4_tuned_compare, no two alike. Immutable; counted, so that plans may share one. */
typedef struct w4_tuned w4_tuned;

/** Whether the device has a config of this name; *index: which, else how many it has. */
bool w4_find_config(const w4_backend *backend, const w4_device *device, const char *name, size_t *index);

/** Copies the points, in any order; of several for the same problem and M the last one counts. */
w4a16_status w4_tuned_create(const w4_tuned_point *points, size_t count, w4_tuned **tuned);

/** The rows of the table that the backend ships for the device, less those of configs that it no longer has; *tuned is
 * NULL where it ships none. */
w4a16_status w4_tuned_from_table(const w4_backend *backend, const w4_device *device, w4_tuned **tuned);

/** NULL is an empty list to all of these. */
w4_tuned *w4_tuned_retain(w4_tuned *tuned);
void w4_tuned_release(w4_tuned *tuned);
size_t w4_tuned_count(const w4_tuned *tuned);
const w4_tuned_point *w4_tuned_points(const w4_tuned *tuned);

/** The point that serves problem->m, or NULL. */
const w4_tuned_point *w4_tuned_find(const w4_tuned *tuned, const w4_problem *problem);

/** The least M above problem->m that was measured for this problem; INT64_MAX where there is none. */
int64_t w4_tuned_next(const w4_tuned *tuned, const w4_problem *problem);

/** By everything that times depend on, M last. */
int w4_tuned_compare(const w4_problem *a, const w4_problem *b);

/** Numbers of tokens fall into buckets, each served by what is known of its last M: 1, 2, 3, 4, 6, 8, 12, ... (powers
 * of two and three times powers of two). The end of m's bucket. */
int64_t w4_bucket_end(int64_t m);

#endif
