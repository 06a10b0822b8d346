/* SPDX-License-Identifier: Apache-2.0
 * The fake driver's kernels. */
#include "fake_cuda.h"

#include "core/half.h"

#include <stdatomic.h>
#include <stdlib.h>

static double read_zero(const w4_gemm_params *params, const uint8_t *zeros, int64_t index) {
    if (params->zero_kind == W4_PARAM_ZERO_INTEGER) return zeros[index];
    return params->zero_kind == W4_PARAM_ZERO_FLOAT ? (double)w4_load_float(zeros, W4A16_FP32, (size_t)index) : 8;
}

/** W[n, k] as a double, out of the packed layout. */
static double read_weight(const w4_gemm_params *params, int64_t n, int64_t k) {
    const w4_packed_layout *layout = &params->layout;
    int64_t strip = n / W4_BLOCK_ROWS, row = n % W4_BLOCK_ROWS, chunk = k / W4_CHUNK_COLUMNS;
    w4_nibble_place place = w4_block_place((int32_t)row, (int32_t)(k % W4_BLOCK_COLUMNS));
    uint8_t byte = params->packed[w4_packed_block_offset(layout, strip, k / W4_BLOCK_COLUMNS) + place.byte];
    int64_t line = k / params->group_size - w4_packed_first_group(params->group_size, chunk);
    int64_t index = line * W4_BLOCK_ROWS + row;
    const uint8_t *scales = params->packed + w4_packed_scale_offset(layout, strip, chunk);
    const uint8_t *zeros = params->packed + w4_packed_zero_offset(layout, strip, chunk);
    double scale = (double)w4_load_float(scales, (w4a16_dtype)params->scale_dtype, (size_t)index);
    return ((place.high ? byte >> 4 : byte & 15) - read_zero(params, zeros, index)) * scale;
}

/** What kernels for groups of some sizes go by: where in a chunk a group begins, and after how many stages. tile_k: the
 * columns of a stage, as the tile's stages have it. */
static int groups_are_found(const w4_sm80_gemm_params *params) {
    const w4_gemm_params *gemm = &params->gemm;
    int64_t g = gemm->group_size, k = gemm->k, tile_k = 64, stage = 0;
    while (tile_k < 256 && (k + tile_k - 1) / tile_k != params->schedule.stages) tile_k *= 2;
    for (int64_t block = 0; block * 64 < k; block++) {
        int begins = block == 0 || (g < k && block * 64 % g == 0);
        if (block * 64 % tile_k) { /* inside a stage */
            if (begins != ((block * 64 % tile_k / 64 & ((1 << params->line_shift) - 1)) == 0)) return 0;
        } else if (begins != (stage++ % params->group_stages == 0)) {
            return 0;
        }
        int64_t line = g >= k ? 0 : block * 64 / g - block / 4 * 256 / g;
        if (line != block % 4 >> params->line_shift) return 0;
    }
    return params->lines >= (tile_k / 64 + (1 << params->line_shift) - 1) >> params->line_shift;
}

int fake_sm90_is_sound(const w4_sm90_gemm_params *params, const fake_map *activations, const fake_map *results) {
    const w4_gemm_params *gemm = &params->gemm;
    /* What arrives in a stage: 1, 2 or 4 blocks of 64 columns, or one whose tokens two CTAs share out. */
    int64_t copied = (int64_t)activations->box_rows * 128, copies = copied ? params->a_bytes / copied : 0;
    if (copies * copied != params->a_bytes || (copies != 1 && copies != 2 && copies != 4)) return 0;
    /* A copy of several blocks leaves no gaps between them: it must have all tokens of a tile, whose number is a
     * multiple of 16. Another has but one block. */
    if (params->whole_blocks ? activations->box_rows % 16 != 0 : activations->box_blocks != 1) return 0;
    if (params->whole_blocks && copies % activations->box_blocks) return 0;
    if (!params->store_whole) return 1;
    if (gemm->n % 8) return 0; /* the copy engine would write past n */
    return results->address == gemm->c && results->columns == (uint64_t)gemm->n && results->rows == (uint64_t)gemm->m &&
           results->stride == (uint64_t)gemm->ldc * 2 && results->is_bf16 == (gemm->c_dtype == W4_PARAM_BF16);
}

int fake_sm80_is_sound(const w4_sm80_gemm_params *params, int any_group, unsigned grid, unsigned threads,
                       unsigned shared_bytes) {
    const w4_gemm_params *gemm = &params->gemm;
    const w4_schedule *schedule = &params->schedule;
    int64_t g = gemm->group_size, k = gemm->k;
    if ((uintptr_t)params->a % 16 || params->lda % 8 || params->lda < k) return 0;
    if (params->ring < 2 || params->ring > W4_SM80_MOST_STAGES || params->stage_bytes % W4_SM80_ALIGNMENT) return 0;
    if ((int64_t)params->ring * params->stage_bytes + W4_SM80_FIXED_BYTES > (int64_t)shared_bytes) return 0;
    if (grid != (unsigned)schedule->workers || threads % 32 || !schedule->stages) return 0;
    if (schedule->split_tiles && (!params->partials || !params->flags || !params->ticket)) return 0;
    if (params->store_whole && ((uintptr_t)gemm->c % 16 || gemm->ldc % 8)) return 0;
    if (!any_group) return groups_are_found(params);
    /* The group of each 32 columns, as the kernel finds it; where one ends within 64, the kernel must know. */
    for (int64_t span = 0; span * 32 < k; span++) {
        if (w4_sm80_group(params->divider, (int32_t)span) != (g >= k ? 0 : span * 32 / g)) return 0;
        if (span % 2 && !params->halves && (span * 32) / g != (span - 1) * 32 / g) return 0;
    }
    return 1;
}

int fake_decode_is_sound(const w4_decode_params *params, unsigned grid, unsigned threads, unsigned shared_bytes) {
    const w4_gemm_params *gemm = &params->gemm;
    int64_t g = gemm->group_size, k = gemm->k, span = params->span, groups = 128 / span;
    int64_t sizes = gemm->layout.scale_size + gemm->layout.zero_size;
    if ((uintptr_t)params->a % 16 || params->lda % 8 || params->lda < k) return 0;
    if (grid > (unsigned)params->slices || threads % 64 || params->slot_bytes % 16) return 0;
    if (params->slices != (gemm->n + 15) / 16 || params->line_pieces % (groups * sizes)) return 0;
    if ((int64_t)params->share * grid + params->one_more != params->slices || params->one_more >= (int32_t)grid)
        return 0;
    for (int index = 0; index < 32; index++)
        if (index * params->pieces_reciprocal >> 16 != index / sizes) return 0;
    /* A slot: for each 16 rows 1024 bytes of codes, and for each group at least the scales and zero points. */
    int64_t slices = params->line_pieces / (groups * sizes);
    if (params->slot_bytes < slices * (1024 + groups * 16 * sizes) + 2 * 128 * gemm->m) return 0;
    if ((int64_t)(threads / 32) * (1024 + 2 * params->slot_bytes) > (int64_t)shared_bytes) return 0;
    /* Where a line of a chunk begins, if all chunks are alike. */
    for (int64_t first = 0; first < 256 && first < k && (g >= k || g % 256 == 0 || 256 % g == 0); first += span)
        if (first >> params->line_shift != (g >= k ? 0 : first / g)) return 0;
    int steady = g >= k || g % 256 == 0 || 256 % g == 0;
    if ((params->line_pieces > 32 || !steady) && !params->slow_lines) return 0;
    for (int64_t first = 0; first < k; first += span) {
        int64_t last = (first + span < k ? first + span : k) - 1;
        if (first / g != last / g) return 0;
    }
    return 1;
}

#ifdef W4A16_EMULATE
#define W4_SM80_KERNEL(name, ...)                                                                                      \
    int w4_emulate_##name(const char *entry, unsigned grid, unsigned threads, int late, const void *params);
#define W4_SM80_ANY_GROUP W4_SM80_KERNEL
#define W4_SM80_DECODE W4_SM80_KERNEL
#include "sm80/kernels.def"
#undef W4_SM80_KERNEL

void fake_emulate(const char *entry, unsigned grid, unsigned threads, const void *params) {
    static atomic_uint launches;
    int late = (int)(launches++ % 2);
#define W4_SM80_KERNEL(name, ...)                                                                                      \
    if (w4_emulate_##name(entry, grid, threads, late, params)) return;
#include "sm80/kernels.def"
    abort();
}
#undef W4_SM80_KERNEL
#undef W4_SM80_ANY_GROUP
#undef W4_SM80_DECODE
#endif

void fake_gemm(const w4_gemm_params *params, const fake_map *map) {
    double *w = malloc((size_t)params->k * sizeof *w);
    if (!w || map->columns != (uint64_t)params->k || map->rows != (uint64_t)params->m) abort();
    w4a16_dtype dtype = map->is_bf16 ? W4A16_BF16 : W4A16_FP16;
    for (int64_t n = 0; n < params->n; n++) {
        double bias =
            params->bias ? (double)w4_load_float(params->bias, (w4a16_dtype)params->bias_dtype, (size_t)n) : 0;
        for (int64_t k = 0; k < params->k; k++) w[k] = read_weight(params, n, k);
        for (int64_t m = 0; m < params->m; m++) {
            const char *a = (const char *)map->address + (uint64_t)m * map->stride;
            double sum = 0;
            for (int64_t k = 0; k < params->k; k++) sum += w[k] * (double)w4_load_float(a, dtype, (size_t)k);
            w4_store_double(params->c, (w4a16_dtype)params->c_dtype, (size_t)(m * params->ldc + n),
                            (double)params->alpha * sum + bias);
        }
    }
    free(w);
}

void fake_gather(const w4_gather_params *params) {
    for (int64_t m = 0; m < params->m; m++)
        for (int64_t j = 0; j < params->lda_out; j++)
            params->out[m * params->lda_out + j] =
                j >= params->k ? 0 : params->a[m * params->lda + (params->k_order ? params->k_order[j] : j)];
}

/** The kernel's own words, from the header that it includes; last word first, for no order may matter. */
void fake_pack(const w4_pack_params *params) {
    for (int64_t index = params->layout.strips * params->layout.chunks; index-- > 0;) {
        w4_pack_chunk chunk = w4_pack_chunk_at(params, index);
        for (int32_t word = chunk.words; word-- > 0;) chunk.packed[word] = w4_pack_word(params, &chunk, word);
    }
}
