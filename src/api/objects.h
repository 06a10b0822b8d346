/* SPDX-License-Identifier: Apache-2.0
 * What the public handles point to. Each object counts its references; a child holds one of its parent, so that
 * handles may be destroyed in any order. */
#ifndef W4_API_OBJECTS_H
#define W4_API_OBJECTS_H

#include "backend/backend.h"
#include "plan/plan.h"
#include "tune/cache.h"
#include "tune/profile.h"

#include <pthread.h>
#include <stdatomic.h>

struct w4a16_context {
    atomic_int references;
    const w4_backend *backend;
    int index; /* of the backend's devices */
    w4_device *device;
    w4a16_device_info information; /* but `automatic`, which takes asking all backends */
    w4_profile_pool *pool;
    w4_identity identity;
    w4_tuned *table;            /* shipped for this device, or NULL */
    pthread_mutex_t cache_lock; /* of the two below; a list that somebody retained never changes */
    w4_tuned *cache;
    char cache_text[256]; /* where it came from, or why W4A16_CACHE was not used */
};

struct w4a16_weight {
    atomic_int references;
    w4a16_context *context;
    w4_device_weight *device_weight;
    w4a16_weight_info information;
};

struct w4a16_plan {
    w4a16_weight *weight;
    w4_problem problem; /* m is m_max */
    int64_t m_min;
    float alpha;
    const void *bias;
    w4a16_dtype bias_dtype;
    w4_tuned *cache; /* what it was chosen with */
    w4_plan_choice choice;
};

static inline void w4_context_retain(w4a16_context *context) {
    atomic_fetch_add(&context->references, 1);
}
static inline void w4_weight_retain(w4a16_weight *weight) {
    atomic_fetch_add(&weight->references, 1);
}

/** The context's tuned results as they are now; to be given back with w4_tuned_release. */
w4_tuned *w4_context_cache(const w4a16_context *context);

/** Add tuned results to the context's, in place of those for the same problem and M. `text`: where they come from. */
w4a16_status w4_context_add_cache(w4a16_context *context, const w4_tuned_point *points, size_t count, const char *text);

/** Read the file that W4A16_CACHE names; where it will not do, keep the reason. */
void w4_context_read_environment(w4a16_context *context);

/** What multiplying this weight is, resolved; m: the most tokens. */
w4a16_status w4_weight_problem(const w4a16_weight *weight, int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                               uint32_t flags, w4_problem *resolved);

/** Upload a validated matrix; the matrix stays the caller's. */
w4a16_status w4_weight_from_matrix(w4a16_context *context, const w4_matrix *matrix, w4a16_weight **weight);

#endif
