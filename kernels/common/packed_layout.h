/* SPDX-License-Identifier: Apache-2.0
 * The packed weight layout: where each 4-bit code, scale and zero point of W[n,k] stands. Shared by host code and
 * kernels; plain C that nvcc also compiles.
 *
 * Block: 64 rows (n) x 64 columns (k) in 2048 bytes. Lane t of 128 owns bytes 16t..16t+15, one 128-bit load; its word j
 * (0..3) is the k16 step j. With r = 16*(t/32) + (t%32)/4 and c = 16*j + 2*(t%4), the word's nibbles (nibble i = bits
 * 4i..4i+3) are
 *
 *     nibble 0 (r, c)     4 (r, c+1)      -> register a0 of the m16k16 fragment
 *            1 (r+8, c)   5 (r+8, c+1)    -> a1
 *            2 (r, c+8)   6 (r, c+9)      -> a2
 *            3 (r+8, c+8) 7 (r+8, c+9)    -> a3
 *
 * so that a warp's registers after dequantising are the left operand of mma.sync.m16n8k16 and, four warps together, of
 * wgmma.m64nTk16.
 *
 * Chunk: up to 4 blocks along k (64 rows x 256 columns; the last chunk of a strip holds the blocks that are left),
 * followed by `lines` lines of 64 scales and then `lines` lines of 64 zero points, one value a row. Line i belongs to
 * group first_group + i, where first_group = 256 * chunk / group_size; lines past the last group of the chunk are
 * padding. A chunk is one contiguous run, so that one bulk copy fetches all that a step of a kernel needs.
 *
 * Strip: 64 rows, its chunks in order of k. A matrix is its strips in order of n. Padding (rows >= n, columns >= k)
 * holds code 8, scale 1, zero point 8. */
#ifndef W4_PACKED_LAYOUT_H
#define W4_PACKED_LAYOUT_H

#include <stdint.h>

#ifdef __CUDACC__
#define W4_SHARED_FUNCTION static inline __host__ __device__
#else
#define W4_SHARED_FUNCTION static inline
#endif

enum {
    W4_BLOCK_ROWS = 64,
    W4_BLOCK_COLUMNS = 64,
    W4_BLOCK_BYTES = 2048,
    W4_CHUNK_BLOCKS = 4,
    W4_CHUNK_COLUMNS = 256,
    W4_PACKED_PADDING = 2048, /* bytes behind a packed matrix on a GPU that kernels may read, and make nothing of */
    W4_PADDING_UNITS = 512,   /* rows of a tile that may lie beyond the last strip */
    W4_PADDING_CODE = 8
};

/** Place of a code inside its block: byte 0..2047, and whether it is the byte's high nibble. */
typedef struct w4_nibble_place {
    int32_t byte;
    int32_t high;
} w4_nibble_place;

/** row 0..63, column 0..63 of the block. */
W4_SHARED_FUNCTION w4_nibble_place w4_block_place(int32_t row, int32_t column) {
    int32_t lane = row % 8 * 4 + column % 8 / 2;
    int32_t thread = row / 16 * 32 + lane;
    int32_t nibble = row % 16 / 8 + column % 16 / 8 * 2 + column % 2 * 4;
    w4_nibble_place place = {16 * thread + 4 * (column / 16) + nibble / 2, nibble % 2};
    return place;
}

/** Sizes of a packed matrix, in bytes unless said otherwise. */
typedef struct w4_packed_layout {
    int64_t strips;       /* ceil(n / 64) */
    int64_t blocks;       /* per strip: ceil(k / 64) */
    int64_t chunks;       /* per strip: ceil(blocks / 4) */
    int64_t lines;        /* scale lines per chunk */
    int64_t scale_size;   /* of one scale: 2 or 4 */
    int64_t zero_size;    /* of one zero point: 0, 1 or 4 */
    int64_t chunk_stride; /* a full chunk: 8192 + lines * 64 * (scale_size + zero_size) */
    int64_t strip_stride; /* all chunks of a strip */
    int64_t bytes;        /* all strips */
} w4_packed_layout;

W4_SHARED_FUNCTION w4_packed_layout w4_packed_layout_make(int64_t n, int64_t k, int64_t group_size, int64_t scale_size,
                                                          int64_t zero_size) {
    w4_packed_layout layout;
    int64_t line_bytes;
    layout.strips = (n + W4_BLOCK_ROWS - 1) / W4_BLOCK_ROWS;
    layout.blocks = (k + W4_BLOCK_COLUMNS - 1) / W4_BLOCK_COLUMNS;
    layout.chunks = (layout.blocks + W4_CHUNK_BLOCKS - 1) / W4_CHUNK_BLOCKS;
    /* The most groups that any 256 columns can touch: a group size that divides 256 (or that 256 divides, or that
     * spans the row) has its borders on chunk borders; any other may straddle one more. */
    if (group_size >= k || group_size % W4_CHUNK_COLUMNS == 0)
        layout.lines = 1;
    else if (W4_CHUNK_COLUMNS % group_size == 0)
        layout.lines = W4_CHUNK_COLUMNS / group_size;
    else
        layout.lines = (W4_CHUNK_COLUMNS - 2) / group_size + 2;
    layout.scale_size = scale_size;
    layout.zero_size = zero_size;
    line_bytes = layout.lines * W4_BLOCK_ROWS * (scale_size + zero_size);
    layout.chunk_stride = (int64_t)W4_CHUNK_BLOCKS * W4_BLOCK_BYTES + line_bytes;
    layout.strip_stride = layout.blocks * W4_BLOCK_BYTES + layout.chunks * line_bytes;
    layout.bytes = layout.strips * layout.strip_stride;
    return layout;
}

/** Offset of the code block at (strip, block). */
W4_SHARED_FUNCTION int64_t w4_packed_block_offset(const w4_packed_layout *layout, int64_t strip, int64_t block) {
    return strip * layout->strip_stride + block / W4_CHUNK_BLOCKS * layout->chunk_stride +
           block % W4_CHUNK_BLOCKS * W4_BLOCK_BYTES;
}

/** Offset of the first scale line of (strip, chunk). */
W4_SHARED_FUNCTION int64_t w4_packed_scale_offset(const w4_packed_layout *layout, int64_t strip, int64_t chunk) {
    int64_t left = layout->blocks - chunk * W4_CHUNK_BLOCKS;
    int64_t blocks = left < W4_CHUNK_BLOCKS ? left : W4_CHUNK_BLOCKS;
    return strip * layout->strip_stride + chunk * layout->chunk_stride + blocks * W4_BLOCK_BYTES;
}

/** Offset of the first zero line of (strip, chunk); meaningless where zero_size is 0. */
W4_SHARED_FUNCTION int64_t w4_packed_zero_offset(const w4_packed_layout *layout, int64_t strip, int64_t chunk) {
    return w4_packed_scale_offset(layout, strip, chunk) + layout->lines * W4_BLOCK_ROWS * layout->scale_size;
}

/** What a stage of `tile_k` columns holds of a strip in shared memory: codes, then `lines` scale lines, then as many
 * zero lines, in bytes. */
W4_SHARED_FUNCTION int32_t w4_slot_bytes(const w4_packed_layout *layout, int32_t tile_k, int32_t lines) {
    return (int32_t)(tile_k / W4_BLOCK_COLUMNS * W4_BLOCK_BYTES +
                     lines * W4_BLOCK_ROWS * (layout->scale_size + layout->zero_size));
}

/** The group that line 0 of a chunk belongs to. */
W4_SHARED_FUNCTION int64_t w4_packed_first_group(int64_t group_size, int64_t chunk) {
    return chunk * W4_CHUNK_COLUMNS / group_size;
}

#endif
