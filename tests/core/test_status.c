/* SPDX-License-Identifier: Apache-2.0
 * Status texts, the thread's last error, the log callback, element types, allocation. */
#include "core/memory.h"
#include "core/status.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Under AddressSanitizer, too, an allocation that cannot be had is NULL, as malloc promises. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}

static void every_status_has_its_own_text(void **state) {
    (void)state;
    for (int a = 0; a <= W4A16_ERROR_INTERNAL; a++) {
        assert_true(strlen(w4a16_status_text((w4a16_status)a)) > 3);
        for (int b = 0; b < a; b++)
            assert_string_not_equal(w4a16_status_text((w4a16_status)a), w4a16_status_text((w4a16_status)b));
    }
    static const int unknown[] = {-1, 12, 1000, 0x7fffffff};
    for (size_t i = 0; i < 4; i++) assert_non_null(w4a16_status_text((w4a16_status)unknown[i]));
}

static void the_version_is_the_headers(void **state) {
    (void)state;
    char expected[64];
    snprintf(expected, sizeof expected, "%d.%d.%d", W4A16_VERSION_MAJOR, W4A16_VERSION_MINOR, W4A16_VERSION_PATCH);
    assert_string_equal(w4a16_version(), expected);
}

static void dtypes_have_names_and_sizes(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 2, 2, 4, 8, 1, 1, 2, 4, 8, 2, 4, 8, 1, 1, 1};
    for (int i = 0; i < 16; i++) {
        assert_int_equal(w4a16_dtype_size((w4a16_dtype)i), sizes[i]);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(w4a16_dtype_name((w4a16_dtype)i), w4a16_dtype_name((w4a16_dtype)j));
    }
    static const int unknown[] = {-1, 16, 999, (int)0x80000000};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(w4a16_dtype_size((w4a16_dtype)unknown[i]), 0);
        assert_string_equal(w4a16_dtype_name((w4a16_dtype)unknown[i]), "none");
    }
}

static void fail_keeps_the_text(void **state) {
    (void)state;
    assert_int_equal(w4_fail(W4A16_ERROR_FORMAT, "n is %d; it must be %s", -3, "positive"), W4A16_ERROR_FORMAT);
    assert_string_equal(w4a16_last_error(), "n is -3; it must be positive");
    assert_int_equal(w4_fail_context(W4A16_ERROR_IO, "file '%s': ", "x"), W4A16_ERROR_IO);
    assert_string_equal(w4a16_last_error(), "file 'x': n is -3; it must be positive");
    /* The old text may be an argument of the new one. */
    w4_fail(W4A16_ERROR_IO, "again: %s", w4a16_last_error());
    assert_string_equal(w4a16_last_error(), "again: file 'x': n is -3; it must be positive");
}

static void long_texts_are_cut_not_overrun(void **state) {
    (void)state;
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = 0;
    w4_fail(W4A16_ERROR_IO, "%s", text);
    size_t length = strlen(w4a16_last_error());
    assert_true(length > 200 && length < 100000);
    w4_fail_context(W4A16_ERROR_IO, "prefix %s", text);
    assert_int_equal(strncmp(w4a16_last_error(), "prefix xxx", 10), 0);
    w4_fail_context(W4A16_ERROR_IO, "short: ");
    assert_int_equal(strncmp(w4a16_last_error(), "short: prefix xxx", 17), 0);
    free(text);
}

/** A file may be called anything; the error stays one printable line all the same. */
static void texts_stay_one_line(void **state) {
    (void)state;
    w4_fail(W4A16_ERROR_NOT_FOUND, "%s: not there", "evil\nname\r\x1b[31m\x01");
    for (const char *c = w4a16_last_error(); *c; c++) assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
    w4_fail(W4A16_ERROR_NOT_FOUND, "%s", "Gewichtsübersicht");
    assert_string_equal(w4a16_last_error(), "Gewichtsübersicht"); /* UTF-8 stays */
}

enum { THREADS = 8, ROUNDS = 2000 };

static void *fail_in_thread(void *argument) {
    int id = *(int *)argument;
    if (*w4a16_last_error()) return "a new thread starts with a text";
    for (int i = 0; i < ROUNDS; i++) {
        char expected[64];
        w4_fail(W4A16_ERROR_IO, "round %d", i);
        w4_fail_context(W4A16_ERROR_IO, "thread %d: ", id);
        snprintf(expected, sizeof expected, "thread %d: round %d", id, i);
        if (strcmp(w4a16_last_error(), expected) != 0) return "another thread's text";
    }
    return NULL;
}

static void last_error_belongs_to_the_thread(void **state) {
    (void)state;
    w4_fail(W4A16_ERROR_IO, "main");
    pthread_t threads[THREADS];
    int ids[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, fail_in_thread, &ids[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        if (complaint) fail_msg("%s", (const char *)complaint);
    }
    assert_string_equal(w4a16_last_error(), "main");
}

typedef struct log_record {
    int calls, inside, overlapping, malformed;
} log_record;

/* The counters are plain on purpose: "one call at a time" is what keeps them right. */
static void count_line(w4a16_log_level level, const char *message, void *user) {
    log_record *record = user;
    if (record->inside++) record->overlapping++;
    int thread, line;
    if (level != W4A16_LOG_WARNING || sscanf(message, "thread %d line %d", &thread, &line) != 2 ||
        strchr(message, '\n'))
        record->malformed++;
    record->calls++;
    record->inside--;
}

static void *log_in_thread(void *argument) {
    for (int i = 0; i < ROUNDS; i++) w4_log(W4A16_LOG_WARNING, "thread %d line %d", *(int *)argument, i);
    return NULL;
}

static void log_lines_come_one_at_a_time(void **state) {
    (void)state;
    log_record record = {0, 0, 0, 0};
    w4a16_set_log_callback(count_line, &record);
    pthread_t threads[THREADS];
    int ids[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, log_in_thread, &ids[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(record.calls, THREADS * ROUNDS);
    assert_int_equal(record.overlapping, 0);
    assert_int_equal(record.malformed, 0);
    w4a16_set_log_callback(NULL, NULL);
    w4_log(W4A16_LOG_WARNING, "nobody hears this");
    assert_int_equal(record.calls, THREADS * ROUNDS);
}

static void *switch_callback(void *argument) {
    for (int i = 0; i < ROUNDS; i++) w4a16_set_log_callback(i & 1 ? count_line : NULL, argument);
    return NULL;
}

static void the_callback_may_change_meanwhile(void **state) {
    (void)state;
    log_record record = {0, 0, 0, 0};
    pthread_t logger, switcher;
    int id = 1;
    pthread_create(&logger, NULL, log_in_thread, &id);
    pthread_create(&switcher, NULL, switch_callback, &record);
    pthread_join(logger, NULL);
    pthread_join(switcher, NULL);
    w4a16_set_log_callback(NULL, NULL);
    assert_true(record.calls <= ROUNDS);
    assert_int_equal(record.malformed + record.overlapping, 0);
}

static void products_that_overflow_are_seen(void **state) {
    (void)state;
    uint64_t product = 0;
    assert_true(w4_multiply(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &product));
    assert_true(product == 0xffffffff00000000u);
    assert_false(w4_multiply(UINT64_C(1) << 32, UINT64_C(1) << 32, &product));
    assert_false(w4_multiply(UINT64_MAX, 2, &product));
    assert_true(w4_multiply(UINT64_MAX, 1, &product) && product == UINT64_MAX);
    assert_true(w4_multiply(0, UINT64_MAX, &product) && product == 0);
    assert_int_equal(w4_ceil_divide(INT64_MAX, 2), INT64_MAX / 2 + 1);
    assert_int_equal(w4_ceil_divide(64, 64), 1);
    assert_int_equal(w4_ceil_divide(65, 64), 2);
    assert_int_equal(w4_round_up(1, 64), 64);
    assert_int_equal(w4_round_up(128, 64), 128);
}

static void allocations_are_aligned_and_zeroed(void **state) {
    (void)state;
    for (uint64_t bytes = 0; bytes < 300; bytes += 7) {
        void *memory = NULL;
        assert_int_equal(w4_allocate(bytes, "a test", &memory), W4A16_OK);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        for (uint64_t i = 0; i < bytes; i++) assert_int_equal(((unsigned char *)memory)[i], 0);
        memset(memory, 0xff, bytes);
        free(memory);
    }
}

static void impossible_allocations_say_so(void **state) {
    (void)state;
    static const uint64_t sizes[] = {UINT64_MAX,      UINT64_MAX - 62,   UINT64_MAX - 63,
                                     UINT64_MAX - 64, (uint64_t)1 << 63, (uint64_t)1 << 62};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *memory = &memory;
        assert_int_equal(w4_allocate(sizes[i], "the moon", &memory), W4A16_ERROR_OUT_OF_MEMORY);
        assert_ptr_equal(memory, &memory);
        assert_non_null(strstr(w4a16_last_error(), "the moon"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_own_text),      cmocka_unit_test(the_version_is_the_headers),
        cmocka_unit_test(dtypes_have_names_and_sizes),        cmocka_unit_test(fail_keeps_the_text),
        cmocka_unit_test(long_texts_are_cut_not_overrun),     cmocka_unit_test(texts_stay_one_line),
        cmocka_unit_test(last_error_belongs_to_the_thread),   cmocka_unit_test(log_lines_come_one_at_a_time),
        cmocka_unit_test(the_callback_may_change_meanwhile),  cmocka_unit_test(products_that_overflow_are_seen),
        cmocka_unit_test(allocations_are_aligned_and_zeroed), cmocka_unit_test(impossible_allocations_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
