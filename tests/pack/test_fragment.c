/* SPDX-License-Identifier: Apache-2.0
 * The packed layout: the places of the codes in a block against the operand fragment's definition written out here,
 * the regions of a packed matrix, and canonical -> packed -> canonical. */
#include "pack/fragment.h"

#include "api/number_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct place {
    int row, column;
} place;

/** Which (row, column) of a 64 x 64 block nibble `nibble` of word `word` of lane `thread` holds: the table of the
 * m16n8k16 left operand, four warps stacked along the rows. */
static place owner(int thread, int word, int nibble) {
    static const place in_fragment[8] = {{0, 0}, {8, 0}, {0, 8}, {8, 8}, {0, 1}, {8, 1}, {0, 9}, {8, 9}};
    int warp = thread / 32, lane = thread % 32;
    place result = {16 * warp + lane / 4 + in_fragment[nibble].row,
                    16 * word + 2 * (lane % 4) + in_fragment[nibble].column};
    return result;
}

static void a_block_is_a_bijection_and_agrees_with_the_table(void **state) {
    (void)state;
    unsigned char seen[W4_BLOCK_BYTES * 2] = {0};
    for (int row = 0; row < 64; row++)
        for (int column = 0; column < 64; column++) {
            w4_nibble_place at = w4_block_place(row, column);
            assert_in_range(at.byte, 0, W4_BLOCK_BYTES - 1);
            assert_in_range(at.high, 0, 1);
            assert_int_equal(seen[at.byte * 2 + at.high]++, 0);
        }
    for (int thread = 0; thread < 128; thread++)
        for (int word = 0; word < 4; word++)
            for (int nibble = 0; nibble < 8; nibble++) {
                place element = owner(thread, word, nibble);
                w4_nibble_place at = w4_block_place(element.row, element.column);
                assert_int_equal(at.byte, 16 * thread + 4 * word + nibble / 2);
                assert_int_equal(at.high, nibble % 2);
            }
}

static const int64_t rows[] = {1, 8, 63, 64, 65, 130};
static const int64_t columns[] = {1, 2, 31, 33, 64, 65, 200, 255, 256, 257, 520, 1000};
static const int64_t group_sizes[] = {-1, 32, 64, 96, 128, 160, 224, 256, 288, 512, 4096};
static const w4a16_dtype scale_dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void fill_random(w4_matrix *matrix, uint64_t *seed) {
    for (int64_t row = 0; row < matrix->n; row++)
        for (int64_t column = 0; column < matrix->k; column++)
            matrix->codes[row * w4_matrix_row_bytes(matrix) + column / 2] |=
                (uint8_t)(oracle_below(seed, 16) << (column % 2 ? 4 : 0));
    size_t entries = (size_t)(matrix->n * matrix->groups);
    for (size_t i = 0; i < entries * w4a16_dtype_size(matrix->scale_dtype); i++)
        ((uint8_t *)matrix->scales)[i] = (uint8_t)oracle_random(seed);
    for (size_t i = 0; i < entries * w4_zero_size(matrix->zero_kind); i++)
        ((uint8_t *)matrix->zeros)[i] = (uint8_t)oracle_random(seed);
}

static void claim(unsigned char *bytes, int64_t total, int64_t offset, int64_t size) {
    assert_true(offset >= 0 && offset + size <= total);
    for (int64_t i = offset; i < offset + size; i++) assert_int_equal(bytes[i]++, 0);
}

/** Blocks, scale lines and zero lines cover every byte of the packed form exactly once. */
static void the_regions_tile_the_packed_bytes(void **state) {
    (void)state;
    for (size_t n = 0; n < COUNT(rows); n++)
        for (size_t k = 0; k < COUNT(columns); k++)
            for (size_t g = 0; g < COUNT(group_sizes); g++) {
                int64_t group_size = group_sizes[g] == -1 || group_sizes[g] > columns[k] ? columns[k] : group_sizes[g];
                int64_t scale_size = g % 2 ? 2 : 4, zero_size = (int64_t[]){0, 1, 4}[k % 3];
                w4_packed_layout layout = w4_packed_layout_make(rows[n], columns[k], group_size, scale_size, zero_size);
                unsigned char *bytes = calloc(1, (size_t)layout.bytes);
                for (int64_t strip = 0; strip < layout.strips; strip++) {
                    for (int64_t block = 0; block < layout.blocks; block++)
                        claim(bytes, layout.bytes, w4_packed_block_offset(&layout, strip, block), 2048);
                    for (int64_t chunk = 0; chunk < layout.chunks; chunk++) {
                        claim(bytes, layout.bytes, w4_packed_scale_offset(&layout, strip, chunk),
                              layout.lines * 64 * scale_size);
                        if (zero_size)
                            claim(bytes, layout.bytes, w4_packed_zero_offset(&layout, strip, chunk),
                                  layout.lines * 64 * zero_size);
                        /* Bulk copies want multiples of 16 bytes, 128-bit loads too. */
                        assert_int_equal(w4_packed_scale_offset(&layout, strip, chunk) % 16, 0);
                        /* The lines reach every group that the chunk's columns touch. */
                        int64_t last = (chunk + 1) * 256 < columns[k] ? (chunk + 1) * 256 : columns[k];
                        int64_t first_group = w4_packed_first_group(group_size, chunk);
                        assert_int_equal(first_group, chunk * 256 / group_size);
                        assert_true((last - 1) / group_size - first_group < layout.lines);
                    }
                }
                for (int64_t i = 0; i < layout.bytes; i++) assert_int_equal(bytes[i], 1);
                free(bytes);
            }
}

/** Where the packed form must hold element (row, column), from the layout's description, not its functions. */
static int code_in(const uint8_t *packed, const w4_packed_layout *layout, int64_t k, int64_t row, int64_t column) {
    int64_t blocks = (k + 63) / 64, line_bytes = layout->lines * 64 * (layout->scale_size + layout->zero_size);
    int64_t strip_bytes = blocks * 2048 + (blocks + 3) / 4 * line_bytes;
    const uint8_t *block = packed + row / 64 * strip_bytes + column / 64 * 2048 + column / 256 * line_bytes;
    for (int nibble = 0; nibble < 8; nibble++) {
        int thread = (int)(row % 64 / 16 * 32 + row % 8 * 4 + column % 8 / 2), word = (int)(column % 64 / 16);
        place element = owner(thread, word, nibble);
        if (element.row == row % 64 && element.column == column % 64)
            return block[16 * thread + 4 * word + nibble / 2] >> (nibble % 2 * 4) & 15;
    }
    return -1;
}

static void ragged_matrices_survive_the_round_trip(void **state) {
    (void)state;
    uint64_t seed = 11;
    for (size_t n = 0; n < COUNT(rows); n++)
        for (size_t k = 0; k < COUNT(columns); k++)
            for (size_t g = 0; g < COUNT(group_sizes); g++) {
                w4_matrix matrix, back;
                w4a16_zero_kind zeros = (w4a16_zero_kind)oracle_below(&seed, 3);
                w4a16_dtype scales = scale_dtypes[oracle_below(&seed, 3)];
                assert_int_equal(w4_matrix_create(rows[n], columns[k], group_sizes[g], scales, zeros, 0, &matrix), 0);
                assert_int_equal(w4_matrix_create(rows[n], columns[k], group_sizes[g], scales, zeros, 0, &back), 0);
                fill_random(&matrix, &seed);
                w4_packed_layout layout = w4_fragment_layout(&matrix);
                uint8_t *packed = malloc((size_t)layout.bytes); /* exact, so that ASan sees an overrun */
                memset(packed, 0xa5, (size_t)layout.bytes);
                w4_fragment_pack(&matrix, &layout, packed);
                for (int64_t row = 0; row < matrix.n; row++)
                    for (int64_t column = 0; column < matrix.k; column++)
                        assert_int_equal(code_in(packed, &layout, matrix.k, row, column),
                                         w4_matrix_code(&matrix, row, column));
                /* Unpacking into arrays full of rubbish must not let the rubbish through. */
                size_t entries = (size_t)(matrix.n * matrix.groups);
                memset(back.codes, 0xff, (size_t)(matrix.n * w4_matrix_row_bytes(&matrix)));
                memset(back.scales, 0xff, entries * w4a16_dtype_size(scales));
                if (back.zeros) memset(back.zeros, 0xff, entries * w4_zero_size(zeros));
                w4_fragment_unpack(packed, &layout, &back);
                assert_memory_equal(back.codes, matrix.codes, (size_t)(matrix.n * w4_matrix_row_bytes(&matrix)));
                assert_memory_equal(back.scales, matrix.scales, entries * w4a16_dtype_size(scales));
                if (zeros) assert_memory_equal(back.zeros, matrix.zeros, entries * w4_zero_size(zeros));
                free(packed);
                w4_matrix_free(&matrix);
                w4_matrix_free(&back);
            }
}

/** Kernels read padding too: it must be the stated values, not what the memory held. */
static void padding_is_code_8_scale_1_zero_8(void **state) {
    (void)state;
    w4_matrix matrix;
    assert_int_equal(w4_matrix_create(3, 70, 32, W4A16_FP32, W4A16_ZERO_FLOAT, 0, &matrix), 0);
    memset(matrix.codes, 0x33, (size_t)(3 * w4_matrix_row_bytes(&matrix)));
    for (int i = 0; i < 9; i++) ((float *)matrix.scales)[i] = ((float *)matrix.zeros)[i] = 5;
    w4_packed_layout layout = w4_fragment_layout(&matrix);
    uint8_t *packed = malloc((size_t)layout.bytes);
    memset(packed, 0xa5, (size_t)layout.bytes);
    w4_fragment_pack(&matrix, &layout, packed);
    for (int row = 0; row < 64; row++)
        for (int column = 0; column < 128; column++) {
            int expected = row < 3 && column < 70 ? 3 : 8;
            w4_nibble_place at = w4_block_place(row, column % 64);
            int byte = packed[w4_packed_block_offset(&layout, 0, column / 64) + at.byte];
            assert_int_equal(at.high ? byte >> 4 : byte & 15, expected);
        }
    const float *scales = (const float *)(packed + w4_packed_scale_offset(&layout, 0, 0));
    const float *zeros = (const float *)(packed + w4_packed_zero_offset(&layout, 0, 0));
    for (int line = 0; line < layout.lines; line++)
        for (int row = 0; row < 64; row++) {
            int inside = row < 3 && line < 3;
            assert_true(scales[line * 64 + row] == (inside ? 5 : 1));
            assert_true(zeros[line * 64 + row] == (inside ? 5 : 8));
        }
    free(packed);
    w4_matrix_free(&matrix);
}

/** Bytes may go to a kernel as they are if packing what they hold gives them back. Every byte is damaged in turn: in
 * padding that must be found, elsewhere it is another weight. */
static void damaged_padding_is_found(void **state) {
    (void)state;
    static const struct {
        int64_t n, k, group_size;
    } shapes[] = {{3, 70, 32}, {65, 97, -1}, {64, 64, 32}, {5, 300, 96}, {7, 513, 256}};
    uint64_t seed = 12;
    for (int i = 0; i < 3 * (int)COUNT(shapes); i++) {
        w4_matrix matrix, lines;
        w4a16_dtype scales = scale_dtypes[i % 3];
        w4a16_zero_kind zeros = (w4a16_zero_kind)((i + i / 3) % 3);
        int64_t n = shapes[i / 3].n, k = shapes[i / 3].k, group_size = shapes[i / 3].group_size;
        assert_int_equal(w4_matrix_create(n, k, group_size, scales, zeros, 0, &matrix), 0);
        assert_int_equal(w4_matrix_describe(n, k, group_size, scales, zeros, &lines), 0);
        assert_int_equal(w4_matrix_allocate(&lines, false, false), 0);
        fill_random(&matrix, &seed);
        w4_packed_layout layout = w4_fragment_layout(&matrix);
        uint8_t *packed = malloc((size_t)layout.bytes), *again = malloc((size_t)layout.bytes);
        w4_fragment_pack(&matrix, &layout, packed);
        int found = 0, step = 1 + (int)(layout.bytes / 500);
        for (int64_t at = 0; at < layout.bytes; at += step) {
            uint8_t bit = (uint8_t)(1 << oracle_below(&seed, 8));
            for (int round = 0; round < 2; round++) {
                packed[at] ^= bit; /* damaged, then whole again */
                w4_fragment_unpack(packed, &layout, &matrix);
                w4_fragment_pack(&matrix, &layout, again);
                bool same = memcmp(packed, again, (size_t)layout.bytes) == 0;
                assert_true(same || round == 0);
                w4_fragment_unpack(packed, &layout, &lines);
                assert_null(lines.codes);
                assert_int_equal(w4_fragment_is_padded(packed, &layout, &lines), same);
                found += !same;
            }
        }
        assert_true(found > 0);
        free(packed);
        free(again);
        w4_matrix_free(&matrix);
        w4_matrix_free(&lines);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_is_a_bijection_and_agrees_with_the_table),
        cmocka_unit_test(the_regions_tile_the_packed_bytes),
        cmocka_unit_test(ragged_matrices_survive_the_round_trip),
        cmocka_unit_test(padding_is_code_8_scale_1_zero_8),
        cmocka_unit_test(damaged_padding_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
