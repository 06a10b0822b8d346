/* SPDX-License-Identifier: Apache-2.0
 * Lists of measured times: sorted once, then searched. */
#include "plan/tuned.h"

#include "core/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/** Flags that say how a config is chosen, and nothing about its time. */
static const uint32_t FLAGS_OF_CHOICE = W4A16_PLAN_COST_MODEL;

struct w4_tuned {
    atomic_int references;
    size_t count;
    w4_tuned_point points[];
};

int64_t w4_bucket_end(int64_t m) {
    int64_t power = 1;
    while (power < m) power *= 2;
    return power >= 4 && m <= power / 4 * 3 ? power / 4 * 3 : power;
}

int w4_tuned_compare(const w4_problem *a, const w4_problem *b) {
    const int64_t fields[][2] = {
        {a->n, b->n},
        {a->k, b->k},
        {a->group_size, b->group_size},
        {a->zero_kind, b->zero_kind},
        {a->uneven_scales, b->uneven_scales},
        {a->a_dtype, b->a_dtype},
        {a->c_dtype, b->c_dtype},
        {a->scale_dtype, b->scale_dtype},
        {a->flags & ~FLAGS_OF_CHOICE, b->flags & ~FLAGS_OF_CHOICE},
        {a->m, b->m},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i][0] != fields[i][1]) return fields[i][0] < fields[i][1] ? -1 : 1;
    return 0;
}

static int compare_places(const void *left, const void *right) {
    const w4_tuned_point *a = *(const w4_tuned_point *const *)left, *b = *(const w4_tuned_point *const *)right;
    int order = w4_tuned_compare(&a->problem, &b->problem);
    return order ? order : (a > b) - (a < b); /* equal ones, of one array, must not change places */
}

w4a16_status w4_tuned_create(const w4_tuned_point *points, size_t count, w4_tuned **tuned) {
    void *memory, *places;
    W4_TRY(w4_allocate(sizeof(w4_tuned) + count * sizeof *points, "measured times", &memory));
    w4a16_status status = w4_allocate(count * sizeof points, "measured times", &places);
    if (status) {
        free(memory);
        return status;
    }
    w4_tuned *result = memory;
    const w4_tuned_point **order = places;
    atomic_init(&result->references, 1);
    for (size_t i = 0; i < count; i++) order[i] = &points[i];
    qsort(order, count, sizeof *order, compare_places);
    for (size_t i = 0; i < count; i++) {
        if (result->count && !w4_tuned_compare(&result->points[result->count - 1].problem, &order[i]->problem))
            result->count--;
        result->points[result->count++] = *order[i];
    }
    free(places);
    *tuned = result;
    return W4A16_OK;
}

bool w4_find_config(const w4_backend *backend, const w4_device *device, const char *name, size_t *index) {
    size_t count = backend->config_count(device);
    for (*index = 0; *index < count; ++*index) {
        w4_config config;
        backend->config_get(device, *index, &config);
        if (strcmp(config.name, name) == 0) return true;
    }
    return false;
}

w4a16_status w4_tuned_from_table(const w4_backend *backend, const w4_device *device, w4_tuned **tuned) {
    const w4_shipped_table *table = backend->table ? backend->table(device) : NULL;
    void *memory;
    *tuned = NULL;
    if (!table) return W4A16_OK;
    W4_TRY(w4_allocate(table->count * sizeof(w4_tuned_point), "the table of times", &memory));
    w4_tuned_point *points = memory;
    size_t count = 0;
    for (size_t i = 0; i < table->count; i++) {
        const w4_shipped_row *row = &table->rows[i];
        w4_tuned_point *point = &points[count];
        *point = (w4_tuned_point){
            .problem = {.m = row->m,
                        .n = row->n,
                        .k = row->k,
                        .group_size = row->group_size == -1 ? row->k : w4_minimum(row->group_size, row->k),
                        .a_dtype = row->dtype,
                        .c_dtype = row->dtype,
                        .scale_dtype = row->scale_dtype,
                        .zero_kind = row->zero_kind},
            .results = {{.seconds = row->microseconds * 1e-6}},
            .count = 1,
        };
        count += w4_find_config(backend, device, row->config, &point->results[0].config);
    }
    w4a16_status status = w4_tuned_create(points, count, tuned);
    free(points);
    return status;
}

w4_tuned *w4_tuned_retain(w4_tuned *tuned) {
    if (tuned) atomic_fetch_add(&tuned->references, 1);
    return tuned;
}

void w4_tuned_release(w4_tuned *tuned) {
    if (tuned && atomic_fetch_sub(&tuned->references, 1) == 1) free(tuned);
}

size_t w4_tuned_count(const w4_tuned *tuned) {
    return tuned ? tuned->count : 0;
}

const w4_tuned_point *w4_tuned_points(const w4_tuned *tuned) {
    return tuned ? tuned->points : NULL;
}

/** The first point that is not before (problem, m) in the list. */
static const w4_tuned_point *lower_bound(const w4_tuned *tuned, const w4_problem *problem, int64_t m) {
    w4_problem key = *problem;
    key.m = m;
    size_t low = 0, high = w4_tuned_count(tuned);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w4_tuned_compare(&tuned->points[middle].problem, &key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == w4_tuned_count(tuned)) return NULL;
    key.m = tuned->points[low].problem.m;
    return w4_tuned_compare(&tuned->points[low].problem, &key) == 0 ? &tuned->points[low] : NULL;
}

const w4_tuned_point *w4_tuned_find(const w4_tuned *tuned, const w4_problem *problem) {
    const w4_tuned_point *point = lower_bound(tuned, problem, problem->m);
    return point && point->problem.m <= w4_bucket_end(problem->m) ? point : NULL;
}

int64_t w4_tuned_next(const w4_tuned *tuned, const w4_problem *problem) {
    const w4_tuned_point *point = lower_bound(tuned, problem, problem->m + 1);
    return point ? point->problem.m : INT64_MAX;
}
