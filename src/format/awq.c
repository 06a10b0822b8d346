/* SPDX-License-Identifier: Apache-2.0
 * AWQ, version "gemm": words hold eight neighbours along N, in the order 0 2 4 6 1 3 5 7.
 *     qweight int32 [K, N/8]   qzeros int32 [K/g, N/8], as they are   scales [K/g, N] */
#include "core/half.h"
#include "core/memory.h"
#include "format/module.h"
#include "format/nibbles.h"

#include <inttypes.h>
#include <string.h>

/* Nibble i of a word belongs to column 8c + NIBBLE_COLUMN[i]. */
static const int NIBBLE_COLUMN[8] = {0, 2, 4, 6, 1, 3, 5, 7};

enum { TILE = 16 }; /* words of one cache line: the tile is read line by line */

w4a16_status w4_describe_awq(const w4_quantization *quantization, w4_module *module) {
    const w4_tensor_ref *codes = &module->parts[W4_PART_CODES], *scales = &module->parts[W4_PART_SCALES];
    const w4_tensor_ref *zeros = &module->parts[W4_PART_ZEROS];
    module->format = W4A16_FORMAT_AWQ;
    module->variant = quantization->variant[0] ? quantization->variant : "gemm";
    if (codes->tensor->dtype == W4A16_INT16) module->variant = "gemv_fast";
    if (strcmp(module->variant, "gemm") != 0) {
        w4_set_unsupported(module, "AWQ version '%s'; version 'gemm' is supported", module->variant);
        return W4A16_OK;
    }
    if (quantization->bits && quantization->bits != 4 && !quantization->varies) {
        w4_set_unsupported(module, "%d-bit AWQ; 4-bit is supported", quantization->bits);
        return W4A16_OK;
    }
    W4_TRY(w4_expect_part(module, W4_PART_SCALES, ".scales"));
    W4_TRY(w4_expect_part(module, W4_PART_ZEROS, ".qzeros"));
    W4_TRY(w4_expect_dtype(codes, W4A16_INT32));
    W4_TRY(w4_expect_dimensions(codes, 2));
    W4_TRY(w4_expect_dimensions(scales, 2));
    int64_t words = codes->tensor->shape[1], groups = scales->tensor->shape[0];
    module->k = codes->tensor->shape[0];
    module->n = scales->tensor->shape[1];
    if (!quantization->variant[0] && words * 8 != module->n && module->k == groups) {
        module->variant = "gemv";
        w4_set_unsupported(module, "AWQ version 'gemv'; version 'gemm' is supported");
        return W4A16_OK;
    }
    if (words * 8 != module->n && quantization->bits == 0 && words * 32 % module->n == 0) {
        w4_set_unsupported(module, "%" PRId64 "-bit AWQ; 4-bit is supported", words * 32 / module->n);
        return W4A16_OK;
    }
    W4_TRY(w4_expect_scale_dtype(scales));
    W4_TRY(w4_expect_shape(scales, 2, groups, words * 8));
    W4_TRY(w4_expect_dtype(zeros, W4A16_INT32));
    W4_TRY(w4_expect_shape(zeros, 2, groups, words));
    module->scale_dtype = scales->tensor->dtype;
    module->layout = &w4_awq_layout;
    return w4_resolve_groups(quantization, module, groups);
}

static bool is_symmetric(const w4_module *module) {
    const void *zeros = module->parts[W4_PART_ZEROS].tensor->data;
    int64_t words = module->groups * (module->n / 8);
    for (int64_t i = 0; i < words; i++)
        if (w4_load_word(zeros, i) != 0x88888888u) return false;
    return true;
}

/** Columns 8c..8c+7 for k..k+7: eight words down K become eight codes-words along K. */
static void read_block(const uint8_t *data, int64_t words, int64_t c, int64_t k, w4_matrix *matrix) {
    int64_t left = w4_minimum(8, matrix->k - k), row_bytes = w4_matrix_row_bytes(matrix);
    uint32_t block[8] = {0};
    for (int64_t i = 0; i < left; i++) block[i] = w4_load_word(data, (k + i) * words + c);
    w4_transpose_nibbles(block);
    for (int i = 0; i < 8; i++) {
        uint8_t *target = matrix->codes + (8 * c + NIBBLE_COLUMN[i]) * row_bytes + k / 2;
        if (left == 8)
            w4_store_word(target, 0, block[i]);
        else
            for (int64_t j = 0; j < (left + 1) / 2; j++) target[j] = (uint8_t)(block[i] >> 8 * j);
    }
}

static void read_codes(const w4_module *module, w4_matrix *matrix) {
    const uint8_t *data = module->parts[W4_PART_CODES].tensor->data;
    int64_t words = module->n / 8;
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < words; tile += TILE)
        for (int64_t k = 0; k < module->k; k += 8)
            for (int64_t c = tile; c < w4_minimum(tile + TILE, words); c++) read_block(data, words, c, k, matrix);
}

static void read_zeros(const w4_module *module, uint8_t *zeros) {
    const void *data = module->parts[W4_PART_ZEROS].tensor->data;
    int64_t words = module->n / 8;
    for (int64_t group = 0; group < module->groups; group++)
        for (int64_t c = 0; c < words; c++) {
            uint32_t word = w4_load_word(data, group * words + c);
            for (int i = 0; i < 8; i++) zeros[(8 * c + NIBBLE_COLUMN[i]) * module->groups + group] = word >> 4 * i & 15;
        }
}

static w4a16_status check(const w4_matrix *shape) {
    if (shape->n % 8 != 0)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "AWQ packs 8 out features to a word; N = %" PRId64 " is no multiple",
                       shape->n);
    if (shape->k_order)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "AWQ has no act-order; GPTQ and compressed-tensors have");
    if (shape->groups > 1 && shape->k % shape->group_size != 0)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "AWQ needs whole groups; K = %" PRId64 " is no multiple of %" PRId64,
                       shape->k, shape->group_size);
    return W4A16_OK;
}

static int plan(const w4_matrix *shape, const w4_scheme *scheme, w4_part_plan parts[W4_PARTS]) {
    (void)scheme;
    parts[0] = (w4_part_plan){W4_PART_CODES, ".qweight", W4A16_INT32, 2, {shape->k, shape->n / 8}};
    parts[1] = (w4_part_plan){W4_PART_ZEROS, ".qzeros", W4A16_INT32, 2, {shape->groups, shape->n / 8}};
    parts[2] = (w4_part_plan){W4_PART_SCALES, ".scales", W4A16_FP16, 2, {shape->groups, shape->n}};
    return 3;
}

static void fill_codes(const w4_matrix *matrix, const uint8_t *codes, uint8_t *data) {
    int64_t words = matrix->n / 8, row_bytes = w4_matrix_row_bytes(matrix);
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < words; tile += TILE)
        for (int64_t k = 0; k < matrix->k; k += 8)
            for (int64_t c = tile; c < w4_minimum(tile + TILE, words); c++) {
                int64_t left = w4_minimum(8, matrix->k - k);
                uint32_t block[8] = {0};
                for (int i = 0; i < 8; i++)
                    for (int64_t j = 0; j < (left + 1) / 2; j++)
                        block[i] |= (uint32_t)codes[(8 * c + NIBBLE_COLUMN[i]) * row_bytes + k / 2 + j] << 8 * j;
                w4_transpose_nibbles(block);
                for (int64_t i = 0; i < left; i++) w4_store_word(data, (k + i) * words + c, block[i]);
            }
}

static w4a16_status fill_zeros(const w4_matrix *matrix, uint8_t *data) {
    int64_t words = matrix->n / 8;
    for (int64_t group = 0; group < matrix->groups; group++)
        for (int64_t c = 0; c < words; c++) {
            uint32_t word = 0;
            for (int i = 0; i < 8; i++) {
                int64_t row = 8 * c + NIBBLE_COLUMN[i];
                double zero = w4_matrix_zero(matrix, row, group);
                if (zero > 15)
                    return w4_fail(W4A16_ERROR_UNSUPPORTED,
                                   "the zero point at [n %" PRId64 ", group %" PRId64 "] is %g; AWQ holds 0 to 15", row,
                                   group, zero);
                word |= (uint32_t)zero << 4 * i;
            }
            w4_store_word(data, group * words + c, word);
        }
    return W4A16_OK;
}

/** Scales are fp16 in AWQ: others only where fp16 has the very same value. */
static w4a16_status fill_scales(const w4_matrix *matrix, uint8_t *data) {
    for (int64_t row = 0; row < matrix->n; row++)
        for (int64_t group = 0; group < matrix->groups; group++) {
            float scale = w4_load_float(matrix->scales, matrix->scale_dtype, (size_t)(row * matrix->groups + group));
            uint16_t half = w4_float_to_fp16(scale);
            if (w4_fp16_to_float(half) != scale)
                return w4_fail(W4A16_ERROR_UNSUPPORTED,
                               "the scale at [n %" PRId64 ", group %" PRId64
                               "] is %.9g (%s); AWQ holds fp16, which cannot express it",
                               row, group, (double)scale, w4a16_dtype_name(matrix->scale_dtype));
            memcpy(data + (group * matrix->n + row) * 2, &half, 2);
        }
    return W4A16_OK;
}

static w4a16_status fill(const w4_matrix *matrix, const uint8_t *codes, w4_part part, uint8_t *data) {
    if (part == W4_PART_SCALES) return fill_scales(matrix, data);
    if (part == W4_PART_ZEROS) return fill_zeros(matrix, data);
    fill_codes(matrix, codes, data);
    return W4A16_OK;
}

const w4_layout w4_awq_layout = {
    .format = W4A16_FORMAT_AWQ,
    .scales_by_group = true,
    .is_symmetric = is_symmetric,
    .read_codes = read_codes,
    .read_zeros = read_zeros,
    .check = check,
    .plan = plan,
    .fill = fill,
};
