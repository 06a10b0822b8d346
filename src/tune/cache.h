/* SPDX-License-Identifier: Apache-2.0
 * The cache file: measured times of one or more devices, as JSON (docs/choosing.md has the form). */
#ifndef W4_TUNE_CACHE_H
#define W4_TUNE_CACHE_H

#include "plan/tuned.h"

enum { W4_CACHE_NAME_SIZE = 64, W4_CACHE_DATE_SIZE = 24 };

typedef struct w4_cache_result {
    char config[W4_CACHE_NAME_SIZE];
    double microseconds;
} w4_cache_result;

/** What was measured of one problem, at one M, on one device. */
typedef struct w4_cache_entry {
    w4_identity identity;
    w4_problem problem;
    w4_cache_result results[W4_TUNED_KEPT]; /* the fastest first */
    int count, timed;                       /* of results; of all configs that were timed */
    char date[W4_CACHE_DATE_SIZE];          /* "2026-11-21T16:05:00Z" */
} w4_cache_entry;

/** All zeros: an empty one. */
struct w4a16_cache {
    w4_cache_entry *entries;
    size_t count, capacity;
};

void w4_cache_clear(w4a16_cache *cache);
w4a16_status w4_cache_add(w4a16_cache *cache, const w4_cache_entry *entry);
/** Bring entries into the order of files; of several for the same device, problem and M the newest stays. */
void w4_cache_sort(w4a16_cache *cache);

/** `source` stands for the text in error texts. The result is sorted. */
w4a16_status w4_cache_parse(const void *text, uint64_t size, const char *source, w4a16_cache *cache);
w4a16_status w4_cache_read(const char *path, w4a16_cache *cache);
/** The text of a sorted cache, on the heap. Parsing it gives the same cache. */
w4a16_status w4_cache_print(const w4a16_cache *cache, char **text);

/** Merge `more` into the file, which need not be there yet, under its lock. */
w4a16_status w4_cache_update(const char *path, const w4a16_cache *more);

/** Only characters that JSON and terminals take: identities are compared with what was written. */
void w4_identity_clean(w4_identity *identity);

/** This device's points, on the heap. UNSUPPORTED where there are none: the text says whose there are. */
w4a16_status w4_cache_select(const w4a16_cache *cache, const char *source, const w4_backend *backend,
                             const w4_device *device, const w4_identity *identity, w4_tuned_point **points,
                             size_t *count);

/** The entry of a point measured now. */
w4_cache_entry w4_cache_entry_make(const w4_backend *backend, const w4_device *device, const w4_identity *identity,
                                   const w4_tuned_point *point, int timed);

#endif
