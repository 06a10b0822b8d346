/* SPDX-License-Identifier: Apache-2.0
 * Packing word by word: what the packing kernel is told, and what each 32-bit word of the packed layout holds. The
 * kernel gives each word to a thread; a plain loop over the words gives the same bytes. */
#ifndef W4_PACK_PARAMS_H
#define W4_PACK_PARAMS_H

#include "packed_layout.h"

/** Arguments of the packing kernel: one block of threads a chunk, in the order in which the chunks stand in `packed`.
 * The arrays may stand at any address. */
typedef struct w4_pack_params {
    uint32_t *packed;      /* layout.bytes bytes */
    const uint8_t *codes;  /* [n, ceil(k/2)], element 2i in the low nibble of byte i */
    const uint8_t *scales; /* [n, groups] of layout.scale_size bytes */
    const uint8_t *zeros;  /* [n, groups] of layout.zero_size bytes; not read where that is 0 */
    w4_packed_layout layout;
    int64_t n, k, group_size, groups;
    uint32_t scale_padding, zero_padding; /* the bytes of a scale of 1 and of a zero point of 8 */
} w4_pack_params;

/** A chunk to pack. Every word of the packed matrix belongs to one chunk. */
typedef struct w4_pack_chunk {
    uint32_t *packed;
    int64_t first_row, first_column, first_group;
    int32_t groups;                         /* that its columns touch: lines past them are padding */
    int32_t code_words, scale_words, words; /* `words` in all, code words first, zero points last */
} w4_pack_chunk;

/** index: 0 to strips * chunks - 1. */
W4_SHARED_FUNCTION w4_pack_chunk w4_pack_chunk_at(const w4_pack_params *params, int64_t index) {
    const w4_packed_layout *layout = &params->layout;
    int64_t strip = index / layout->chunks, number = index % layout->chunks;
    int64_t start = w4_packed_block_offset(layout, strip, number * W4_CHUNK_BLOCKS);
    int64_t scales = w4_packed_scale_offset(layout, strip, number);
    int64_t zeros = w4_packed_zero_offset(layout, strip, number);
    int64_t end = zeros + layout->lines * W4_BLOCK_ROWS * layout->zero_size;
    int64_t last_column = (number + 1) * W4_CHUNK_COLUMNS < params->k ? (number + 1) * W4_CHUNK_COLUMNS : params->k;
    w4_pack_chunk chunk;
    chunk.packed = params->packed ? params->packed + start / 4 : 0; /* none where only the places are asked for */
    chunk.first_row = strip * W4_BLOCK_ROWS;
    chunk.first_column = number * W4_CHUNK_COLUMNS;
    chunk.first_group = w4_packed_first_group(params->group_size, number);
    chunk.groups = (int32_t)((last_column - 1) / params->group_size - chunk.first_group + 1);
    chunk.code_words = (int32_t)((scales - start) / 4);
    chunk.scale_words = (int32_t)((zeros - scales) / 4);
    chunk.words = (int32_t)((end - start) / 4);
    return chunk;
}

/** Word `word` of a chunk's blocks: word % 4 of the lane that owns it, as packed_layout.h has them. Columns 2i and
 * 2i + 1 share a byte on both sides, as a low and a high nibble there and as nibbles p and p + 4 here. */
W4_SHARED_FUNCTION uint32_t w4_pack_code_word(const w4_pack_params *params, const w4_pack_chunk *chunk, int32_t word) {
    const int32_t block_words = W4_BLOCK_BYTES / 4;
    int32_t block = word / block_words, lane = word % block_words / 4, step = word % 4;
    int64_t first_row = chunk->first_row + lane / 32 * 16 + lane % 32 / 4;
    int64_t first_column = chunk->first_column + block * W4_BLOCK_COLUMNS + step * 16 + lane % 4 * 2;
    int64_t row_bytes = (params->k + 1) / 2;
    uint32_t result = 0;
    for (int32_t pair = 0; pair < 4; pair++) {
        int64_t row = first_row + pair % 2 * 8, column = first_column + pair / 2 * 8;
        uint32_t low = W4_PADDING_CODE, high = W4_PADDING_CODE;
        if (row < params->n && column < params->k) {
            uint32_t byte = params->codes[row * row_bytes + column / 2];
            low = byte & 15;
            if (column + 1 < params->k) high = byte >> 4;
        }
        result |= low << 4 * pair | high << (4 * pair + 16);
    }
    return result;
}

/** Word `word` of a chunk's lines of scales or zero points: `size` bytes a value, from array [n, groups]. */
W4_SHARED_FUNCTION uint32_t w4_pack_line_word(const w4_pack_params *params, const w4_pack_chunk *chunk,
                                              const uint8_t *array, int32_t size, uint32_t padding, int32_t word) {
    uint32_t result = 0;
    for (int32_t i = 0; i < 4; i++) {
        int32_t value = (4 * word + i) / size, byte = (4 * word + i) % size, line = value / W4_BLOCK_ROWS;
        int64_t row = chunk->first_row + value % W4_BLOCK_ROWS;
        uint32_t bits = padding >> 8 * byte & 255;
        if (row < params->n && line < chunk->groups)
            bits = array[(row * params->groups + chunk->first_group + line) * size + byte];
        result |= bits << 8 * i;
    }
    return result;
}

/** What chunk->packed[word] must hold; word: 0 to chunk->words - 1. */
W4_SHARED_FUNCTION uint32_t w4_pack_word(const w4_pack_params *params, const w4_pack_chunk *chunk, int32_t word) {
    if (word < chunk->code_words) return w4_pack_code_word(params, chunk, word);
    word -= chunk->code_words;
    if (word < chunk->scale_words)
        return w4_pack_line_word(params, chunk, params->scales, (int32_t)params->layout.scale_size,
                                 params->scale_padding, word);
    return w4_pack_line_word(params, chunk, params->zeros, (int32_t)params->layout.zero_size, params->zero_padding,
                             word - chunk->scale_words);
}

#endif
