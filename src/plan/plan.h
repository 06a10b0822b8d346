/* SPDX-License-Identifier: Apache-2.0
 * From a problem and a range of M to configs: which are feasible, which is best for which M. */
#ifndef W4_PLAN_H
#define W4_PLAN_H

#include "backend/backend.h"
#include "plan/tuned.h"

/** The largest M (and N, and K) of a problem. */
#define W4_PLAN_LARGEST_M (INT64_C(1) << 30)

/** All flags of plans and problems that exist. */
#define W4_PLAN_FLAGS                                                                                                  \
    ((uint32_t)W4A16_PLAN_BATCH_INVARIANT | (uint32_t)W4A16_PLAN_NO_OVERLAP | (uint32_t)W4A16_PLAN_COST_MODEL)

/** Where a plan looks before it asks the cost model, in this order; each may be NULL. Problems with
 * W4A16_PLAN_COST_MODEL pass over both. */
typedef struct w4_plan_measured {
    const w4_tuned *cache, *table;
} w4_plan_measured;

/** One config serves all M up to m_last (and above the segment before). */
typedef struct w4_plan_segment {
    int64_t m_last;
    size_t config;
    w4a16_choice_source source;
    double seconds; /* measured or predicted, at m_last or the end of its bucket */
} w4_plan_segment;

enum {
    /* A range has at most this many ends of buckets. */
    W4_PLAN_MAX_BUCKETS = 64,
    /* The rest is for other M that were measured. */
    W4_PLAN_MAX_SEGMENTS = 128
};

typedef struct w4_plan_choice {
    w4_plan_segment segments[W4_PLAN_MAX_SEGMENTS]; /* ascending m_last; the last one is the plan's m_max */
    size_t count;
    size_t workspace_bytes; /* enough for every M of the range */
    char reason[256];
} w4_plan_choice;

/** Check a problem as the public header states it and resolve group_size -1. */
w4a16_status w4_problem_resolve(const w4a16_problem *problem, w4_problem *resolved);

/** Choose configs for `problem` (whose m is ignored) over m_min..m_max. `name`: NULL, or the config to use for all. */
w4a16_status w4_plan_choose(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                            const w4_problem *problem, int64_t m_min, int64_t m_max, const char *name,
                            w4_plan_choice *choice);

/** The choice for problem->m alone; loads nothing. */
w4a16_status w4_plan_choose_one(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                                const w4_problem *problem, w4_plan_segment *segment);

/** A config that can run a problem or not. */
typedef struct w4_candidate {
    size_t config;
    const char *name;
    bool feasible;
    bool rough;                 /* `predicted` is a rough estimate: no cost was fitted to this config */
    int rank;                   /* by the cost model, from 1, the rough ones last; 0 where not feasible */
    double predicted, measured; /* seconds; 0: not feasible, not measured */
    w4a16_choice_source source; /* of `measured` */
    char reason[160];           /* why not feasible */
} w4_candidate;

/** Whether the cost model's figure for a config is a rough estimate. */
bool w4_plan_rough(const w4_backend *backend, const w4_device *device, size_t config);

/** CPU threads that a call of a config takes at most; 0 on a GPU. */
int w4_plan_threads(const w4_backend *backend, const w4_device *device, size_t config);

/** All configs for problem->m on the heap: the feasible ones by time, measured before predicted, then the others. */
w4a16_status w4_plan_candidates(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                                const w4_problem *problem, w4_candidate **candidates, size_t *count);

/** How each segment of a choice came about, one candidate a line. Writes what fits in `capacity` bytes with the final
 * zero; *length receives the whole text's, without it. */
w4a16_status w4_plan_describe(const w4_backend *backend, const w4_device *device, const w4_plan_measured *measured,
                              const w4_problem *problem, int64_t m_min, const w4_plan_choice *choice, char *text,
                              size_t capacity, size_t *length);

/** The segment that serves m (within the plan's range). */
const w4_plan_segment *w4_plan_segment_for(const w4_plan_choice *choice, int64_t m);

/** Find a config by name; NOT_FOUND lists the names. */
w4a16_status w4_plan_find_config(const w4_backend *backend, const w4_device *device, const char *name, size_t *index);

#endif
