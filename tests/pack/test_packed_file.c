/* SPDX-License-Identifier: Apache-2.0
 * The packed file: golden files load to the stated arrays and are written again byte for byte; damage is refused.
 * `pack_file --write FOLDER` writes the golden files. */
#include "core/file.h"
#include "pack/packed_file.h"

#include "golden.h"
#include "seal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { HEADER = SEAL_HEADER };

static const char *golden_path(const golden_case *golden) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/pack/golden/%s.w4a16", W4A16_TESTS_DIR, golden->name);
    return path;
}

static void assert_same_matrix(const w4_matrix *a, const w4_matrix *b) {
    size_t entries = (size_t)(a->n * a->groups);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->k, b->k);
    assert_int_equal(a->group_size, b->group_size);
    assert_int_equal(a->groups, b->groups);
    assert_int_equal(a->scale_dtype, b->scale_dtype);
    assert_int_equal(a->zero_kind, b->zero_kind);
    assert_memory_equal(a->codes, b->codes, (size_t)(a->n * w4_matrix_row_bytes(a)));
    assert_memory_equal(a->scales, b->scales, entries * w4a16_dtype_size(a->scale_dtype));
    if (a->zero_kind) assert_memory_equal(a->zeros, b->zeros, entries * w4_zero_size(a->zero_kind));
    assert_int_equal(!a->k_order, !b->k_order);
    if (a->k_order) assert_memory_equal(a->k_order, b->k_order, (size_t)a->k * 4);
}

static void load(const char *path, w4_matrix *matrix) {
    w4_mapping mapping;
    w4_packed_view view;
    if (w4_map_file(path, &mapping) || w4_packed_view_open(mapping.data, mapping.size, path, &view) ||
        w4_packed_view_unpack(&view, true, matrix))
        fail_msg("%s", w4a16_last_error());
    w4_unmap_file(&mapping);
}

static void golden_files_load(void **state) {
    (void)state;
    for (int i = 0; i < GOLDEN_CASES; i++) {
        w4_matrix expected, loaded;
        assert_int_equal(golden_matrix(&golden_cases[i], &expected), W4A16_OK);
        load(golden_path(&golden_cases[i]), &loaded);
        assert_same_matrix(&loaded, &expected);
        w4_matrix_free(&expected);
        w4_matrix_free(&loaded);
    }
}

/** Also proves that padding and reserved bytes do not depend on what memory held. */
static void golden_files_are_written_the_same(void **state) {
    (void)state;
    char path[] = "/tmp/w4a16-pack-XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    for (int i = 0; i < GOLDEN_CASES; i++) {
        w4_matrix matrix;
        w4_mapping golden, written;
        assert_int_equal(golden_matrix(&golden_cases[i], &matrix), W4A16_OK);
        assert_int_equal(w4_packed_file_save(&matrix, path, 0), W4A16_ERROR_EXISTS);
        assert_int_equal(w4_packed_file_save(&matrix, path, 1), W4A16_OK);
        assert_int_equal(w4_map_file(golden_path(&golden_cases[i]), &golden), W4A16_OK);
        assert_int_equal(w4_map_file(path, &written), W4A16_OK);
        assert_int_equal(golden.size, written.size);
        assert_memory_equal(golden.data, written.data, golden.size);
        w4_unmap_file(&golden);
        w4_unmap_file(&written);
        w4_matrix_free(&matrix);
    }
    unlink(path);
}

/** A golden file on the heap at its exact size, so that ASan sees a read past its end. */
static uint8_t *copy_of(const golden_case *golden, size_t *size) {
    w4_mapping mapping;
    assert_int_equal(w4_map_file(golden_path(golden), &mapping), W4A16_OK);
    uint8_t *copy = malloc((size_t)mapping.size);
    memcpy(copy, mapping.data, (size_t)mapping.size);
    *size = (size_t)mapping.size;
    w4_unmap_file(&mapping);
    return copy;
}

static w4a16_status parse(const uint8_t *data, size_t size) {
    w4_packed_view view;
    w4_matrix matrix, lines;
    memset(&matrix, 0xa5, sizeof matrix);
    w4_matrix untouched = matrix;
    w4a16_status status = w4_packed_view_open(data, size, "damaged.w4a16", &view);
    if (!status) {
        status = w4_packed_view_unpack(&view, true, &matrix);
        /* Without the codes it finds the same. */
        assert_int_equal(w4_packed_view_unpack(&view, false, &lines), status);
        if (!status) {
            assert_null(lines.codes);
            lines.codes = matrix.codes;
            assert_same_matrix(&lines, &matrix);
            lines.codes = NULL;
            w4_matrix_free(&lines);
        }
    }
    if (status) {
        assert_memory_equal(&matrix, &untouched, sizeof matrix);
        assert_int_equal(strncmp(w4a16_last_error(), "damaged.w4a16: ", 15), 0);
    } else {
        w4_matrix_free(&matrix);
    }
    return status;
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    size_t size;
    uint8_t *whole = copy_of(&golden_cases[1], &size);
    for (size_t length = 0; length < size; length++) {
        uint8_t *part = malloc(length ? length : 1);
        memcpy(part, whole, length);
        assert_int_equal(parse(length ? part : NULL, length), W4A16_ERROR_FORMAT);
        free(part);
    }
    uint8_t *longer = calloc(1, size + 1);
    memcpy(longer, whole, size);
    assert_int_equal(parse(longer, size + 1), W4A16_ERROR_FORMAT);
    free(longer);
    free(whole);
}

static void every_flipped_bit_is_refused(void **state) {
    (void)state;
    for (int i = 1; i < GOLDEN_CASES; i += 2) {
        size_t size;
        uint8_t *data = copy_of(&golden_cases[i], &size);
        assert_int_equal(parse(data, size), W4A16_OK);
        /* All of the header; after it a stride that visits every bit position and both ends. */
        for (size_t bit = 0; bit < size * 8; bit += bit < HEADER * 8 ? 1 : 37) {
            data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            w4a16_status status = parse(data, size);
            if (status != W4A16_ERROR_FORMAT && !(status == W4A16_ERROR_UNSUPPORTED && bit / 8 >= 8 && bit / 8 < 12))
                fail_msg("bit %zu of byte %zu flipped gives status %d", bit % 8, bit / 8, (int)status);
            data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_int_equal(parse(data, size), W4A16_OK);
        free(data);
    }
}

/** Fields that lie, under a checksum that is right. */
static void lying_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        int at, bytes;
    } fields[] = {{8, 4}, {12, 4}, {16, 8}, {24, 8}, {32, 8}, {40, 4}, {44, 4}, {48, 4}, {56, 8}, {64, 8}};
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      3,
                                      4,
                                      5,
                                      31,
                                      33,
                                      64,
                                      96,
                                      97,
                                      255,
                                      1000,
                                      1u << 20,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      UINT64_C(1) << 32,
                                      UINT64_C(1) << 62,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX};
    for (int i = 0; i < GOLDEN_CASES; i++) {
        size_t size;
        uint8_t *data = copy_of(&golden_cases[i], &size);
        uint8_t *original = malloc(size);
        memcpy(original, data, size);
        size_t order_bytes = golden_cases[i].has_order ? (size_t)golden_cases[i].k * 4 : 0;
        seal(data, size, order_bytes);
        assert_memory_equal(data, original, size); /* this test's checksum is the file's */
        for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
            for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
                memcpy(data, original, size);
                seal_store(data, fields[f].at, values[v], fields[f].bytes);
                if (memcmp(data, original, size) == 0) continue;
                seal(data, size, order_bytes);
                w4a16_status status = parse(data, size);
                /* n may grow or shrink inside the last strip: then every size still fits, and the file is simply
                 * another weight. The same for k inside the last block where it has no k_order, for a group size that
                 * gives the same lines, and for fp16 read as bf16. */
                int harmless = status == W4A16_OK &&
                               (fields[f].at == 16 || fields[f].at == 24 || fields[f].at == 32 || fields[f].at == 40);
                if (!harmless && status != W4A16_ERROR_FORMAT &&
                    !(fields[f].at == 8 && status == W4A16_ERROR_UNSUPPORTED))
                    fail_msg("%s: field at %d set to %llx gives status %d", golden_cases[i].name, fields[f].at,
                             (unsigned long long)values[v], (int)status);
            }
        free(original);
        free(data);
    }
}

/** Content that no weight may have, under a checksum that is right. */
static void bad_content_is_refused(void **state) {
    (void)state;
    size_t size;
    uint8_t *data = copy_of(&golden_cases[1], &size); /* n 5, k 33, g 32: one block, 8 lines of bf16, 8 of uint8 */
    size_t scales = HEADER + 2048, zeros = scales + 8 * 64 * 2;
    static const uint16_t bad_scales[] = {0x0000, 0x8000, 0x7f80, 0xff80, 0x7fc0};
    for (size_t i = 0; i < 5; i++) {
        uint8_t low = data[scales], high = data[scales + 1];
        seal_store(data, (int)scales, bad_scales[i], 2);
        seal(data, size, 0);
        assert_int_equal(parse(data, size), W4A16_ERROR_FORMAT);
        data[scales] = low, data[scales + 1] = high;
    }
    uint8_t zero = data[zeros];
    data[zeros] = 17;
    seal(data, size, 0);
    assert_int_equal(parse(data, size), W4A16_ERROR_FORMAT);
    data[zeros] = zero;
    seal(data, size, 0);
    assert_int_equal(parse(data, size), W4A16_OK);
    free(data);

    data = copy_of(&golden_cases[3], &size);
    size_t order_bytes = 300 * 4, order = size - order_bytes;
    static const uint64_t bad_columns[] = {300, 0xffffffff, 0x80000000, 10 /* a second time */};
    for (size_t i = 0; i < 4; i++) {
        seal_store(data, (int)order, bad_columns[i], 4);
        seal(data, size, order_bytes);
        assert_int_equal(parse(data, size), W4A16_ERROR_FORMAT);
        if (!strstr(w4a16_last_error(), "k_order")) fail_msg("no k_order in: %s", w4a16_last_error());
    }
    free(data);
}

static void random_damage_never_crashes(void **state) {
    (void)state;
    uint64_t seed = 99;
    for (int i = 0; i < GOLDEN_CASES; i++) {
        size_t size;
        uint8_t *original = copy_of(&golden_cases[i], &size), *data = malloc(size);
        for (int round = 0; round < 500; round++) {
            memcpy(data, original, size);
            for (int edit = 0; edit < 4; edit++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                size_t at = (size_t)(seed >> 33) % (edit < 3 ? 80 : size);
                data[at] = (uint8_t)(seed >> 24);
            }
            seal_store(data, 8, 1, 4);
            if (round & 1) seal(data, size, golden_cases[i].has_order ? (size_t)golden_cases[i].k * 4 : 0);
            (void)parse(data, size);
        }
        free(data);
        free(original);
    }
}

static int write_golden(const char *folder) {
    for (int i = 0; i < GOLDEN_CASES; i++) {
        w4_matrix matrix;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s.w4a16", folder, golden_cases[i].name);
        if (golden_matrix(&golden_cases[i], &matrix) || w4_packed_file_save(&matrix, path, 0)) {
            fprintf(stderr, "%s\n", w4a16_last_error());
            return 1;
        }
        w4_matrix_free(&matrix);
    }
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_files_load),           cmocka_unit_test(golden_files_are_written_the_same),
        cmocka_unit_test(every_truncation_is_refused), cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(lying_headers_are_refused),   cmocka_unit_test(bad_content_is_refused),
        cmocka_unit_test(random_damage_never_crashes),
    };
    if (argc == 3 && strcmp(argv[1], "--write") == 0) return write_golden(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
