/* SPDX-License-Identifier: Apache-2.0
 * Caches in memory: kept in order, matched with a device, merged into a file under its lock. */
#include "tune/cache.h"

#include "core/file.h"
#include "core/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void w4_cache_clear(w4a16_cache *cache) {
    free(cache->entries);
    *cache = (w4a16_cache){.entries = NULL};
}

w4a16_status w4_cache_add(w4a16_cache *cache, const w4_cache_entry *entry) {
    if (cache->count == cache->capacity) {
        size_t capacity = cache->capacity ? cache->capacity * 2 : 64;
        void *grown = reallocarray(cache->entries, capacity, sizeof *entry);
        if (!grown) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: a cache of %zu results", capacity);
        cache->entries = grown;
        cache->capacity = capacity;
    }
    cache->entries[cache->count++] = *entry;
    return W4A16_OK;
}

static int compare_identities(const w4_identity *a, const w4_identity *b) {
    int order = strcmp(a->device, b->device);
    if (!order) order = strcmp(a->code, b->code);
    if (!order) order = (a->processors > b->processors) - (a->processors < b->processors);
    if (!order) order = (a->memory_mhz > b->memory_mhz) - (a->memory_mhz < b->memory_mhz);
    return order ? order : strcmp(a->fingerprint, b->fingerprint);
}

static int compare_keys(const w4_cache_entry *a, const w4_cache_entry *b) {
    int order = compare_identities(&a->identity, &b->identity);
    return order ? order : w4_tuned_compare(&a->problem, &b->problem);
}

/** The newest of those with the same key first, and of equally old ones the faster; dates sort as texts. */
static int compare_entries(const void *left, const void *right) {
    const w4_cache_entry *a = left, *b = right;
    int order = compare_keys(a, b);
    if (!order) order = strcmp(b->date, a->date);
    if (order) return order;
    return (a->results[0].microseconds > b->results[0].microseconds) -
           (a->results[0].microseconds < b->results[0].microseconds);
}

void w4_cache_sort(w4a16_cache *cache) {
    if (!cache->count) return;
    qsort(cache->entries, cache->count, sizeof *cache->entries, compare_entries);
    size_t kept = 1;
    for (size_t i = 1; i < cache->count; i++)
        if (compare_keys(&cache->entries[i], &cache->entries[kept - 1])) cache->entries[kept++] = cache->entries[i];
    cache->count = kept;
}

w4a16_status w4_cache_read(const char *path, w4a16_cache *cache) {
    w4_mapping mapping;
    W4_TRY(w4_map_file(path, &mapping));
    w4a16_status status = w4_cache_parse(mapping.data, mapping.size, path, cache);
    w4_unmap_file(&mapping);
    return status;
}

static w4a16_status write_file(const char *path, const w4a16_cache *cache) {
    char *text;
    W4_TRY(w4_cache_print(cache, &text));
    w4a16_status status = w4_write_file(path, true, text, strlen(text));
    free(text);
    return status;
}

w4a16_status w4_cache_update(const char *path, const w4a16_cache *more) {
    w4a16_cache all = {.entries = NULL};
    int lock;
    W4_TRY(w4_lock_file(path, &lock));
    w4a16_status status = w4_path_exists(path) ? w4_cache_read(path, &all) : W4A16_OK;
    for (size_t i = 0; !status && i < more->count; i++) status = w4_cache_add(&all, &more->entries[i]);
    if (!status) {
        w4_cache_sort(&all);
        status = write_file(path, &all);
    }
    w4_cache_clear(&all);
    w4_unlock_file(lock);
    return status;
}

void w4_identity_clean(w4_identity *identity) {
    for (unsigned char *text = (unsigned char *)identity->device; *text; text++)
        if (*text < 0x20 || *text >= 0x7f) *text = '?';
}

/** "NVIDIA H200 (sm_90a, 132 processors, 3200 MHz memory), library 0123456789abcdef" */
static void print_identity(const w4_identity *identity, char *text, size_t size) {
    char memory[32] = "";
    if (identity->memory_mhz) snprintf(memory, sizeof memory, ", %d MHz memory", (int)identity->memory_mhz);
    snprintf(text, size, "%s (%s, %d %s%s), library %s", identity->device, identity->code, (int)identity->processors,
             identity->memory_mhz        ? "processors"
             : identity->processors == 1 ? "thread"
                                         : "threads",
             memory, identity->fingerprint);
}

/** The results' configs by their index. */
static w4a16_status resolve(const w4_cache_entry *entry, const char *source, const w4_backend *backend,
                            const w4_device *device, w4_tuned_point *point) {
    *point = (w4_tuned_point){.problem = entry->problem, .count = entry->count};
    for (int i = 0; i < entry->count; i++) {
        size_t index;
        /* The fingerprint promised that there is one. */
        if (!w4_find_config(backend, device, entry->results[i].config, &index))
            return w4_fail(W4A16_ERROR_FORMAT,
                           "%s: this library has no config '%s'; the file was made or changed by hand", source,
                           entry->results[i].config);
        point->results[i] = (w4_tuned_result){index, entry->results[i].microseconds * 1e-6};
    }
    return W4A16_OK;
}

static w4a16_status fail_foreign(const w4a16_cache *cache, const char *source, const w4_identity *identity) {
    char theirs[256], ours[256];
    size_t devices = 0, nearest = 0;
    for (size_t i = 0; i < cache->count; i++) {
        if (i && compare_identities(&cache->entries[i].identity, &cache->entries[i - 1].identity) == 0) continue;
        devices++;
        if (strcmp(cache->entries[i].identity.device, identity->device) == 0) nearest = i;
    }
    print_identity(identity, ours, sizeof ours);
    if (!devices)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: holds no results; tune for this device, %s", source, ours);
    print_identity(&cache->entries[nearest].identity, theirs, sizeof theirs);
    return w4_fail(W4A16_ERROR_UNSUPPORTED,
                   "%s: holds nothing for this device, %s; it is of %s%s; tune again on this device", source, ours,
                   theirs, devices > 1 ? " and others" : "");
}

w4a16_status w4_cache_select(const w4a16_cache *cache, const char *source, const w4_backend *backend,
                             const w4_device *device, const w4_identity *identity, w4_tuned_point **points,
                             size_t *count) {
    void *memory;
    size_t found = 0;
    W4_TRY(w4_allocate(cache->count * sizeof **points, "measured times", &memory));
    w4_tuned_point *list = memory;
    w4a16_status status = W4A16_OK;
    for (size_t i = 0; !status && i < cache->count; i++)
        if (compare_identities(&cache->entries[i].identity, identity) == 0)
            status = resolve(&cache->entries[i], source, backend, device, &list[found++]);
    if (!status && !found) status = fail_foreign(cache, source, identity);
    if (status) {
        free(list);
        return status;
    }
    *points = list;
    *count = found;
    return W4A16_OK;
}

w4_cache_entry w4_cache_entry_make(const w4_backend *backend, const w4_device *device, const w4_identity *identity,
                                   const w4_tuned_point *point, int timed) {
    w4_cache_entry entry = {.identity = *identity, .problem = point->problem, .count = point->count, .timed = timed};
    entry.problem.flags &= ~(uint32_t)W4A16_PLAN_COST_MODEL;
    for (int i = 0; i < point->count; i++) {
        w4_config config;
        backend->config_get(device, point->results[i].config, &config);
        snprintf(entry.results[i].config, sizeof entry.results[i].config, "%s", config.name);
        entry.results[i].microseconds = point->results[i].seconds * 1e6;
    }
    time_t now = time(NULL);
    struct tm parts;
    if (!gmtime_r(&now, &parts) || !strftime(entry.date, sizeof entry.date, "%Y-%m-%dT%H:%M:%SZ", &parts))
        snprintf(entry.date, sizeof entry.date, "1970-01-01T00:00:00Z");
    return entry;
}
