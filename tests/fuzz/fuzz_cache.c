/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a cache file: refused with a text, or a sorted cache that is written and read back the same. */
#include "tune/cache.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entry(const w4_cache_entry *entry) {
    const w4_problem *problem = &entry->problem;
    if (entry->count < 1 || entry->count > W4_TUNED_KEPT || entry->timed < 1) abort();
    if (problem->m < 1 || problem->n < 1 || problem->k < 1) abort();
    if (problem->group_size < 1 || problem->group_size > problem->k) abort();
    if (!strlen(entry->identity.device) || !strlen(entry->identity.fingerprint)) abort();
    for (int i = 0; i < entry->count; i++) {
        if (!(entry->results[i].microseconds > 0) || !strlen(entry->results[i].config)) abort();
        if (i && entry->results[i].microseconds < entry->results[i - 1].microseconds) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    w4a16_cache cache, again;
    char *text, *second;
    if (w4_cache_parse(data, size, "input", &cache)) {
        if (!strstr(w4a16_last_error(), "input") || strchr(w4a16_last_error(), '\n')) abort();
        return 0;
    }
    for (size_t i = 0; i < cache.count; i++) check_entry(&cache.entries[i]);
    /* Six digits of a time are kept: what was written once stays as it is. */
    if (w4_cache_print(&cache, &text) || w4_cache_parse(text, strlen(text), "input", &again)) abort();
    if (again.count != cache.count || w4_cache_print(&again, &second) || strcmp(text, second) != 0) abort();
    free(text);
    free(second);
    w4_cache_clear(&cache);
    w4_cache_clear(&again);
    return 0;
}
