/* SPDX-License-Identifier: Apache-2.0
 * The cache file: what is written is read, damage is refused with a text, processes that write at once lose nothing. */
#include "tune/cache.h"

#include "core/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/w4a16-cache-XXXXXX");
    snprintf(path, sizeof path, "%s/c.json", mkdtemp(folder) ? folder : "");
    return folder[0] ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static w4_cache_entry entry(int64_t n, int64_t m, const char *config, double microseconds, const char *date) {
    w4_cache_entry result = {
        .identity = {.device = "Test \"GPU\" \\ 1",
                     .code = "sm_90a",
                     .processors = 132,
                     .memory_mhz = 3200,
                     .fingerprint = "0123456789abcdef"},
        .problem = {.m = m,
                    .n = n,
                    .k = 4096,
                    .group_size = 128,
                    .a_dtype = W4A16_FP16,
                    .c_dtype = W4A16_FP16,
                    .scale_dtype = W4A16_FP16},
        .count = 2,
        .timed = 7,
    };
    snprintf(result.results[0].config, sizeof result.results[0].config, "%s", config);
    snprintf(result.results[1].config, sizeof result.results[1].config, "another");
    result.results[0].microseconds = microseconds;
    result.results[1].microseconds = microseconds * 2;
    snprintf(result.date, sizeof result.date, "%s", date);
    return result;
}

static void add(w4a16_cache *cache, w4_cache_entry what) {
    assert_int_equal(w4_cache_add(cache, &what), W4A16_OK);
}

static const char EARLY[] = "2026-11-20T10:00:00Z", LATE[] = "2026-11-21T10:00:00Z";

/** All kinds of keys, three devices. */
static w4a16_cache many(void) {
    w4a16_cache cache = {.entries = NULL};
    for (int i = 0; i < 96; i++) {
        w4_cache_entry next = entry(64 + i % 3, 1 + i % 5, "a_config", 1.5 + i, LATE);
        next.problem.zero_kind = (w4a16_zero_kind)(i % 3);
        next.problem.uneven_scales = i % 4 == 3;
        next.problem.flags = (uint32_t)(i / 8 % 4);
        next.problem.a_dtype = i % 7 ? W4A16_FP16 : W4A16_BF16;
        next.problem.scale_dtype = i % 6 ? W4A16_FP16 : W4A16_FP32;
        next.problem.group_size = i % 5 ? 128 : 4096;
        next.identity.processors = 132 + i % 2;
        if (i % 11 == 0) next.identity.device[0] = 'X';
        add(&cache, next);
    }
    w4_cache_sort(&cache);
    return cache;
}

static void assert_same(const w4a16_cache *a, const w4a16_cache *b) {
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const w4_cache_entry *x = &a->entries[i], *y = &b->entries[i];
        assert_string_equal(x->identity.device, y->identity.device);
        assert_string_equal(x->identity.code, y->identity.code);
        assert_string_equal(x->identity.fingerprint, y->identity.fingerprint);
        assert_int_equal(x->identity.processors, y->identity.processors);
        assert_int_equal(x->identity.memory_mhz, y->identity.memory_mhz);
        assert_int_equal(w4_tuned_compare(&x->problem, &y->problem), 0);
        assert_string_equal(x->date, y->date);
        assert_int_equal(x->timed, y->timed);
        assert_int_equal(x->count, y->count);
        for (int j = 0; j < x->count; j++) {
            assert_string_equal(x->results[j].config, y->results[j].config);
            assert_true(x->results[j].microseconds == y->results[j].microseconds);
        }
    }
}

static void what_is_written_is_read(void **state) {
    (void)state;
    w4a16_cache cache = many(), read = {.entries = NULL}, empty = {.entries = NULL};
    char *text, *again;
    assert_int_equal(w4_cache_print(&cache, &text), W4A16_OK);
    assert_int_equal(w4_cache_parse(text, strlen(text), "text", &read), W4A16_OK);
    assert_same(&cache, &read);
    assert_int_equal(w4_cache_print(&read, &again), W4A16_OK);
    assert_string_equal(text, again); /* sorted: the same content is the same text */
    free(again);
    free(text);
    w4_cache_clear(&read);
    w4_cache_clear(&cache);
    assert_int_equal(w4_cache_print(&empty, &text), W4A16_OK);
    assert_int_equal(w4_cache_parse(text, strlen(text), "text", &read), W4A16_OK);
    assert_int_equal(read.count, 0);
    free(text);
    w4_cache_clear(&read);
}

static void the_newer_of_two_stays(void **state) {
    (void)state;
    w4a16_cache cache = {.entries = NULL};
    add(&cache, entry(64, 8, "newer", 20, LATE));
    add(&cache, entry(64, 8, "older", 10, EARLY));
    add(&cache, entry(64, 4, "slower", 11, LATE));
    add(&cache, entry(64, 4, "faster", 10, LATE));
    w4_cache_sort(&cache);
    assert_int_equal(cache.count, 2);
    assert_string_equal(cache.entries[0].results[0].config, "faster");
    assert_string_equal(cache.entries[1].results[0].config, "newer");
    w4_cache_clear(&cache);
}

/** A text with one part replaced. */
static char *replaced(const char *text, const char *old, const char *new) {
    const char *place = strstr(text, old);
    assert_non_null(place);
    char *result = malloc(strlen(text) + strlen(new) + 1);
    assert_non_null(result);
    sprintf(result, "%.*s%s%s", (int)(place - text), text, new, place + strlen(old));
    return result;
}

static void refuse(const char *text, size_t size, const char *says) {
    w4a16_cache before = {.count = 77}, cache = before;
    w4a16_status status = w4_cache_parse(text, size, "the file", &cache);
    if (status != W4A16_ERROR_FORMAT || !strstr(w4a16_last_error(), says))
        fail_msg("status %d, '%s' is not in: %s\n%s", (int)status, says, w4a16_last_error(), text);
    assert_non_null(strstr(w4a16_last_error(), "the file"));
    assert_memory_equal(&cache, &before, sizeof cache);
}

static void damage_is_refused(void **state) {
    (void)state;
    w4a16_cache cache = {.entries = NULL};
    char *text;
    add(&cache, entry(64, 8, "sm90_a", 20, LATE));
    assert_int_equal(w4_cache_print(&cache, &text), W4A16_OK);
    w4_cache_clear(&cache);
    static const struct {
        const char *old, *new, *says;
    } damages[] = {
        {"\"w4a16 cache\"", "\"w4a16\"", "'format' must be 'w4a16 cache'"},
        {"\"w4a16 cache\"", "7", "'format'"},
        {"\"version\": 1", "\"version\": 2", "a cache of version 2; this library reads version 1"},
        {"\"version\": 1", "\"version\": \"1\"", "'version' a whole number"},
        {"\"devices\": [", "\"devices\": 1, \"other\": [", "'devices' must be a list"},
        {"\"Test \\\"GPU\\\" \\\\ 1\"", "\"\"", "'device' must be 1 to 127 characters"},
        {"\"Test \\\"GPU\\\" \\\\ 1\"", "\"a\\u0000b\"", "bad JSON"},
        {"\"Test \\\"GPU\\\" \\\\ 1\"", "\"a\\nb\"", "'device' must be"},
        {"\"sm_90a\"", "\"a name of more than fifteen characters\"", "'code' must be 1 to 15"},
        {"\"sm_90a\"", "null", "'code' must be"},
        {"\"processors\": 132", "\"processors\": 0", "'processors' must be a whole number from 1"},
        {"\"processors\": 132", "\"processors\": 1e3", "'processors' must be a whole number"},
        {"\"processors\": 132", "\"processors\": 99999999999999999999", "JSON"},
        {"\"memory_mhz\": 3200", "\"memory_mhz\": -1", "'memory_mhz'"},
        {"\"0123456789abcdef\"", "\"0123456789abcdef0\"", "'library' must be 1 to 16"},
        {"\"problems\"", "\"problem\"", "devices[0]: 'problems' must be a list"},
        {"\"n\": 64", "\"n\": 0", "devices[0].problems[0]: 'n' must be"},
        {"\"k\": 4096", "\"k\": 4096.0", "'k' must be"},
        {"\"group_size\": 128", "\"group_size\": 33", "'group_size' must be a multiple of 32, or -1"},
        {"\"group_size\": 128", "\"group_size\": -2", "'group_size' must be"},
        {"\"symmetric\"", "\"none\"", "'zero_points' must be one of 'symmetric' 'integer' 'float'"},
        {"\"even\"", "\"odd\"", "'scales' must be one of 'even' 'uneven'"},
        {"\"dtype\": \"fp16\"", "\"dtype\": \"fp32\"", "'dtype' must be one of 'fp16' 'bf16'"},
        {"\"output_dtype\": \"fp16\"", "\"output_dtype\": 3", "'output_dtype' must be"},
        {"\"scale_dtype\": \"fp16\"", "\"scale_dtype\": \"fp64\"", "'scale_dtype' must be"},
        {"\"flags\": []", "\"flags\": [\"fast\"]", "'flags' must be a list of"},
        {"\"flags\": []", "\"flags\": [null]", "'flags' must be"},
        {"\"m\": 8", "\"m\": 0", "devices[0].problems[0].points[0]: 'm' must be"},
        {"\"m\": 8", "\"m\": 8, \"m\": 9", "JSON"},
        {"\"timed\": 7", "\"timed\": 0", "'timed' must be"},
        {"\"2026-11-21T10:00:00Z\"", "\"2026-11-21 10:00:00\"", "'date' must be a time such as"},
        {"\"2026-11-21T10:00:00Z\"", "\"2026-11-21T10:0:000Z\"", "'date'"},
        {"[[\"sm90_a\", 20.0], [\"another\", 40.0]]", "[]", "'configs' must be a list of 1 to 8"},
        {"[[\"sm90_a\", 20.0], [\"another\", 40.0]]", "{}", "'configs' must be a list"},
        {"20.0]", "-20.0]", "'configs' must be"},
        {"20.0]", "\"20\"]", "'configs' must be"},
        {"20.0]", "50.0]", "the fastest first"},
        {"20.0]", "20.0, 1]", "'configs' must be"},
        {"\"sm90_a\"", "\"\"", "'configs' must be"},
        {"\"sm90_a\"", "8", "'configs' must be"},
        {"[\"sm90_a\", 20.0], ", "\"x\", ", "'configs' must be"},
    };
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        char *bad = replaced(text, damages[i].old, damages[i].new);
        refuse(bad, strlen(bad), damages[i].says);
        free(bad);
    }
    size_t whole = strlen(text); /* the last byte is a line end */
    for (size_t size = 0; size + 1 < whole; size++) refuse(text, size, "bad JSON");
    refuse("[]", 2, "is no cache");
    free(text);
}

/** A damaged file is never overwritten, and neither is what cannot be one. */
static void bad_files_stay(void **state) {
    (void)state;
    w4a16_cache more = many(), cache = {.entries = NULL};
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"format\": \"w4a16 cac", file);
    fclose(file);
    assert_int_equal(w4_cache_update(path, &more), W4A16_ERROR_FORMAT);
    w4_mapping mapping;
    assert_int_equal(w4_map_file(path, &mapping), W4A16_OK);
    assert_int_equal(mapping.size, 21);
    w4_unmap_file(&mapping);
    char wrong[128];
    snprintf(wrong, sizeof wrong, "%s/none/c.json", folder);
    assert_int_equal(w4_cache_update(wrong, &more), W4A16_ERROR_NOT_FOUND);
    assert_non_null(strstr(w4a16_last_error(), "none/c.json.lock"));
    assert_int_not_equal(w4_cache_update(folder, &more), W4A16_OK);
    assert_int_equal(w4_cache_read(wrong, &cache), W4A16_ERROR_NOT_FOUND);
    w4_cache_clear(&more);
}

/** Two processes and a reader: every update of either is there in the end, and no read ever sees half a file. */
static void concurrent_writers_lose_nothing(void **state) {
    (void)state;
    enum { WRITERS = 2, ROUNDS = 40 };
    pid_t writers[WRITERS];
    for (int writer = 0; writer < WRITERS; writer++) {
        writers[writer] = fork();
        assert_true(writers[writer] >= 0);
        if (writers[writer]) continue;
        for (int round = 0; round < ROUNDS; round++) {
            w4a16_cache one = {.entries = NULL};
            w4_cache_entry next = entry(1000 + writer, 1 + round, "a_config", 10, LATE);
            if (w4_cache_add(&one, &next) || w4_cache_update(path, &one)) _exit(1);
            w4_cache_clear(&one);
        }
        _exit(0);
    }
    int running = WRITERS, reads = 0;
    size_t seen = 0;
    while (running) {
        w4a16_cache cache = {.entries = NULL};
        w4a16_status status = w4_cache_read(path, &cache);
        if (status && (status != W4A16_ERROR_NOT_FOUND || seen)) fail_msg("read: %s", w4a16_last_error());
        if (!status) assert_true(cache.count >= seen); /* never fewer than before */
        if (!status) seen = cache.count;
        w4_cache_clear(&cache);
        reads++;
        int result;
        if (waitpid(-1, &result, WNOHANG) > 0) {
            assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
            running--;
        }
    }
    assert_true(reads > 2);
    w4a16_cache cache;
    assert_int_equal(w4_cache_read(path, &cache), W4A16_OK);
    assert_int_equal(cache.count, WRITERS * ROUNDS);
    w4_cache_clear(&cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(the_newer_of_two_stays),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test_setup_teardown(bad_files_stay, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(concurrent_writers_lose_nothing, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
