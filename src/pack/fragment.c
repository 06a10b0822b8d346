/* SPDX-License-Identifier: Apache-2.0
 * Canonical form <-> the packed layout, one strip of 64 rows at a time. */
#include "pack/fragment.h"

#include "core/half.h"
#include "core/memory.h"

#include <string.h>

w4_packed_layout w4_fragment_layout(const w4_matrix *matrix) {
    return w4_packed_layout_make(matrix->n, matrix->k, matrix->group_size,
                                 (int64_t)w4a16_dtype_size(matrix->scale_dtype),
                                 (int64_t)w4_zero_size(matrix->zero_kind));
}

/** The bytes of a scale of 1 and of a zero point of 8 in this matrix's types. */
static void padding_values(const w4_matrix *matrix, uint32_t *scale, uint32_t *zero) {
    float eight = W4_PADDING_CODE;
    *scale = 0;
    *zero = W4_PADDING_CODE;
    w4_store_double(scale, matrix->scale_dtype, 0, 1.0);
    if (matrix->zero_kind == W4A16_ZERO_FLOAT) memcpy(zero, &eight, sizeof eight);
}

static void pack_block(const w4_matrix *matrix, int64_t first_row, int64_t first_column, uint8_t *block) {
    memset(block, W4_PADDING_CODE | W4_PADDING_CODE << 4, W4_BLOCK_BYTES);
    int32_t rows = (int32_t)w4_minimum(W4_BLOCK_ROWS, matrix->n - first_row);
    int32_t columns = (int32_t)w4_minimum(W4_BLOCK_COLUMNS, matrix->k - first_column);
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t column = 0; column < columns; column++) {
            w4_nibble_place place = w4_block_place(row, column);
            int code = w4_matrix_code(matrix, first_row + row, first_column + column);
            int kept = place.high ? block[place.byte] & 0x0f : block[place.byte] & 0xf0;
            block[place.byte] = (uint8_t)(kept | (place.high ? code << 4 : code));
        }
    }
}

static void unpack_block(const uint8_t *block, int64_t first_row, int64_t first_column, w4_matrix *matrix) {
    int32_t rows = (int32_t)w4_minimum(W4_BLOCK_ROWS, matrix->n - first_row);
    int32_t columns = (int32_t)w4_minimum(W4_BLOCK_COLUMNS, matrix->k - first_column);
    for (int32_t row = 0; row < rows; row++) {
        uint8_t *codes = matrix->codes + (first_row + row) * w4_matrix_row_bytes(matrix) + first_column / 2;
        for (int32_t column = 0; column < columns; column++) {
            w4_nibble_place place = w4_block_place(row, column);
            int code = place.high ? block[place.byte] >> 4 : block[place.byte] & 15;
            codes[column / 2] = (uint8_t)(column & 1 ? codes[column / 2] | code << 4 : code);
        }
    }
}

/** Copy one value a row and line between an array [n, groups] and the lines of a chunk. `padding` fills what belongs to
 * no row or group when packing; NULL means unpacking. */
static void move_lines(uint8_t *array, size_t value_size, uint8_t *lines, const w4_matrix *matrix,
                       const w4_packed_layout *layout, int64_t first_row, int64_t chunk, const void *padding) {
    int64_t first_group = w4_packed_first_group(matrix->group_size, chunk);
    int64_t end = w4_minimum(matrix->k, (chunk + 1) * W4_CHUNK_COLUMNS);
    int64_t last_group = (end - 1) / matrix->group_size;
    for (int64_t line = 0; line < layout->lines; line++) {
        for (int64_t row = 0; row < W4_BLOCK_ROWS; row++) {
            uint8_t *packed = lines + (size_t)(line * W4_BLOCK_ROWS + row) * value_size;
            int64_t group = first_group + line;
            int inside = first_row + row < matrix->n && group <= last_group;
            uint8_t *value = array + (inside ? (size_t)((first_row + row) * matrix->groups + group) * value_size : 0);
            if (padding)
                memcpy(packed, inside ? (const void *)value : padding, value_size);
            else if (inside)
                memcpy(value, packed, value_size);
        }
    }
}

static void pack_strip(const w4_matrix *matrix, const w4_packed_layout *layout, int64_t strip, uint8_t *packed) {
    uint32_t scale, zero;
    padding_values(matrix, &scale, &zero);
    int64_t first_row = strip * W4_BLOCK_ROWS;
    for (int64_t block = 0; block < layout->blocks; block++)
        pack_block(matrix, first_row, block * W4_BLOCK_COLUMNS, packed + w4_packed_block_offset(layout, strip, block));
    for (int64_t chunk = 0; chunk < layout->chunks; chunk++) {
        move_lines(matrix->scales, (size_t)layout->scale_size, packed + w4_packed_scale_offset(layout, strip, chunk),
                   matrix, layout, first_row, chunk, &scale);
        if (layout->zero_size)
            move_lines(matrix->zeros, (size_t)layout->zero_size, packed + w4_packed_zero_offset(layout, strip, chunk),
                       matrix, layout, first_row, chunk, &zero);
    }
}

void w4_fragment_pack(const w4_matrix *matrix, const w4_packed_layout *layout, uint8_t *packed) {
#pragma omp parallel for schedule(static) if (layout->strips > 16)
    for (int64_t strip = 0; strip < layout->strips; strip++) pack_strip(matrix, layout, strip, packed);
}

static void unpack_strip(uint8_t *packed, const w4_packed_layout *layout, int64_t strip, w4_matrix *matrix) {
    int64_t first_row = strip * W4_BLOCK_ROWS;
    for (int64_t block = 0; matrix->codes && block < layout->blocks; block++)
        unpack_block(packed + w4_packed_block_offset(layout, strip, block), first_row, block * W4_BLOCK_COLUMNS,
                     matrix);
    for (int64_t chunk = 0; chunk < layout->chunks; chunk++) {
        move_lines(matrix->scales, (size_t)layout->scale_size, packed + w4_packed_scale_offset(layout, strip, chunk),
                   matrix, layout, first_row, chunk, NULL);
        if (layout->zero_size && matrix->zeros)
            move_lines(matrix->zeros, (size_t)layout->zero_size, packed + w4_packed_zero_offset(layout, strip, chunk),
                       matrix, layout, first_row, chunk, NULL);
    }
}

void w4_fragment_unpack(const uint8_t *packed, const w4_packed_layout *layout, w4_matrix *matrix) {
    /* move_lines serves both directions; unpacking only reads through this pointer. */
    uint8_t *source = (uint8_t *)(uintptr_t)packed;
#pragma omp parallel for schedule(static) if (layout->strips > 16)
    for (int64_t strip = 0; strip < layout->strips; strip++) unpack_strip(source, layout, strip, matrix);
}

/** Whether the codes of a block's rows >= rows and columns >= columns are padding. */
static bool is_block_padded(const uint8_t *block, int64_t rows, int64_t columns) {
    for (int32_t row = 0; row < W4_BLOCK_ROWS; row++) {
        for (int32_t column = row < rows ? (int32_t)w4_minimum(columns, W4_BLOCK_COLUMNS) : 0;
             column < W4_BLOCK_COLUMNS; column++) {
            w4_nibble_place place = w4_block_place(row, column);
            if ((place.high ? block[place.byte] >> 4 : block[place.byte] & 15) != W4_PADDING_CODE) return false;
        }
    }
    return true;
}

/** One chunk: the words of its lines must be those that packing would write. */
static bool is_chunk_padded(const uint8_t *packed, const w4_pack_params *params, int64_t index) {
    const w4_packed_layout *layout = &params->layout;
    int64_t strip = index / layout->chunks, number = index % layout->chunks;
    w4_pack_chunk chunk = w4_pack_chunk_at(params, index);
    for (int64_t block = number * W4_CHUNK_BLOCKS; block < w4_minimum((number + 1) * W4_CHUNK_BLOCKS, layout->blocks);
         block++)
        if (!is_block_padded(packed + w4_packed_block_offset(layout, strip, block), params->n - chunk.first_row,
                             params->k - block * W4_BLOCK_COLUMNS))
            return false;
    const uint8_t *words = packed + w4_packed_block_offset(layout, strip, number * W4_CHUNK_BLOCKS);
    for (int32_t word = chunk.code_words; word < chunk.words; word++) {
        uint32_t expected = w4_pack_word(params, &chunk, word);
        if (memcmp(words + 4 * (size_t)word, &expected, 4) != 0) return false;
    }
    return true;
}

bool w4_fragment_is_padded(const uint8_t *packed, const w4_packed_layout *layout, const w4_matrix *matrix) {
    w4_pack_params params = w4_fragment_pack_params(matrix);
    bool padded = true;
#pragma omp parallel for schedule(static) reduction(&& : padded) if (layout->strips > 16)
    for (int64_t index = 0; index < layout->strips * layout->chunks; index++)
        padded = padded && is_chunk_padded(packed, &params, index);
    return padded;
}

w4_pack_params w4_fragment_pack_params(const w4_matrix *matrix) {
    w4_pack_params params = {
        .codes = matrix->codes,
        .scales = matrix->scales,
        .zeros = matrix->zeros,
        .layout = w4_fragment_layout(matrix),
        .n = matrix->n,
        .k = matrix->k,
        .group_size = matrix->group_size,
        .groups = matrix->groups,
    };
    padding_values(matrix, &params.scale_padding, &params.zero_padding);
    return params;
}
