/* SPDX-License-Identifier: Apache-2.0
 * The fake driver's kernels. */
#include "fake_cuda.h"

#include "core/half.h"

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

void fake_gemm(const w4_gemm_params *params, const fake_map *map) {
    double *w = malloc((size_t)params->k * sizeof *w);
    if (!w || map->k != (uint64_t)params->k || map->m != (uint64_t)params->m) abort();
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
