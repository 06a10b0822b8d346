/* SPDX-License-Identifier: Apache-2.0
 * GPTQ: words hold eight neighbours along K; zero points are packed along N.
 *     qweight int32 [K/8, N]   qzeros int32 [ceil(K/g), N/8]   scales [ceil(K/g), N]   g_idx int32 [K]
 * v1 stores zero points minus one, v2 as they are. */
#include "core/memory.h"
#include "format/module.h"

#include <inttypes.h>
#include <string.h>

enum { TILE = 16 }; /* words of one cache line */

/** The layout's variant by the config's label; false if it is not supported. */
static bool set_variant(const w4_quantization *quantization, w4_module *module) {
    const char *label = quantization->variant;
    module->zeros_minus_one = strcmp(label, "gptq_v2") != 0;
    if (!label[0] || strcmp(label, "gptq") == 0 || strcmp(label, "gptq_v2") == 0) {
        module->variant = module->zeros_minus_one ? "v1" : "v2";
        return true;
    }
    module->variant = label;
    w4_set_unsupported(module, "GPTQ checkpoint_format '%s'; 'gptq' (v1) and 'gptq_v2' are supported", label);
    return false;
}

/** Bits per code: of the config, or told from the width of the zero points. */
static int64_t bits_of(const w4_quantization *quantization, const w4_module *module) {
    if (quantization->bits && !quantization->varies) return quantization->bits;
    int64_t words = module->parts[W4_PART_ZEROS].tensor->shape[1];
    if (words == module->n / 8) return 4;
    return words * 32 % module->n == 0 ? words * 32 / module->n : 4;
}

w4a16_status w4_describe_gptq(const w4_quantization *quantization, w4_module *module) {
    const w4_tensor_ref *codes = &module->parts[W4_PART_CODES], *scales = &module->parts[W4_PART_SCALES];
    const w4_tensor_ref *zeros = &module->parts[W4_PART_ZEROS], *g_idx = &module->parts[W4_PART_G_IDX];
    module->format = W4A16_FORMAT_GPTQ;
    if (!set_variant(quantization, module)) return W4A16_OK;
    W4_TRY(w4_expect_part(module, W4_PART_SCALES, ".scales"));
    W4_TRY(w4_expect_part(module, W4_PART_ZEROS, ".qzeros"));
    W4_TRY(w4_expect_dtype(codes, W4A16_INT32));
    W4_TRY(w4_expect_dtype(zeros, W4A16_INT32));
    W4_TRY(w4_expect_dimensions(codes, 2));
    W4_TRY(w4_expect_dimensions(scales, 2));
    W4_TRY(w4_expect_dimensions(zeros, 2));
    int64_t groups = scales->tensor->shape[0];
    module->n = codes->tensor->shape[1];
    module->k = codes->tensor->shape[0] * 8;
    int64_t bits = bits_of(quantization, module);
    if (bits != 4) {
        module->k = bits ? codes->tensor->shape[0] * 32 / bits : 0;
        w4_set_unsupported(module, "%" PRId64 "-bit GPTQ; 4-bit is supported", bits);
        return W4A16_OK;
    }
    if (module->n % 8 != 0) {
        w4_set_unsupported(module, "GPTQ with N = %" PRId64 "; a multiple of 8 is supported", module->n);
        return W4A16_OK;
    }
    W4_TRY(w4_expect_scale_dtype(scales));
    W4_TRY(w4_expect_shape(scales, 2, groups, module->n));
    W4_TRY(w4_expect_shape(zeros, 2, groups, module->n / 8));
    if (g_idx->tensor) {
        W4_TRY(w4_expect_dtype(g_idx, W4A16_INT32));
        W4_TRY(w4_expect_shape(g_idx, 1, module->k, 0));
    } else if (quantization->act_order && groups > 1) {
        return w4_expect_part(module, W4_PART_G_IDX, ".g_idx"); /* desc_act: without it the groups are unknown */
    }
    module->scale_dtype = scales->tensor->dtype;
    module->layout = &w4_gptq_layout;
    return w4_resolve_groups(quantization, module, groups);
}

/** Is each nibble of `word` 7 or 8? */
static bool is_seven_or_eight(uint32_t word) {
    if (word == 0x77777777u || word == 0x88888888u) return true;
    for (int i = 0; i < 8; i++) {
        uint32_t nibble = word >> 4 * i & 15;
        if (nibble != 7 && nibble != 8) return false;
    }
    return true;
}

/** Symmetric checkpoints are often labelled with the wrong version, so that both 7 and 8 must mean 8 there. Where the
 * config states that they are not symmetric, the label counts. */
static bool is_symmetric(const w4_module *module) {
    const void *zeros = module->parts[W4_PART_ZEROS].tensor->data;
    int64_t words = module->groups * (module->n / 8);
    uint32_t first = w4_load_word(zeros, 0);
    uint32_t labelled = module->zeros_minus_one ? 0x77777777u : 0x88888888u;
    bool mixed = module->symmetric == 1;
    if (!is_seven_or_eight(first) || (module->symmetric == 0 && first != labelled)) return false;
    if (!mixed && first != 0x77777777u && first != 0x88888888u) return false;
    for (int64_t i = 1; i < words; i++) {
        uint32_t word = w4_load_word(zeros, i);
        if (mixed ? !is_seven_or_eight(word) : word != first) return false;
    }
    return true;
}

static void read_codes(const w4_module *module, w4_matrix *matrix) {
    const uint8_t *data = module->parts[W4_PART_CODES].tensor->data;
    int64_t n = module->n, word_rows = module->k / 8, row_bytes = w4_matrix_row_bytes(matrix);
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < n; tile += TILE)
        for (int64_t r = 0; r < word_rows; r++)
            for (int64_t row = tile; row < w4_minimum(tile + TILE, n); row++)
                memcpy(matrix->codes + row * row_bytes + r * 4, data + (r * n + row) * 4, 4);
}

static void read_zeros(const w4_module *module, uint8_t *zeros) {
    const w4_tensor_ref *ref = &module->parts[W4_PART_ZEROS];
    int64_t words = module->n / 8, wrapped = 0;
    if (module->symmetric == 1)
        w4_log(W4A16_LOG_WARNING, "%s: tensor '%s': the config says symmetric, but zero points differ; using them",
               ref->file->path, ref->tensor->name);
    for (int64_t group = 0; group < module->groups; group++)
        for (int64_t c = 0; c < words; c++) {
            uint32_t word = w4_load_word(ref->tensor->data, group * words + c);
            for (int i = 0; i < 8; i++) {
                uint8_t nibble = word >> 4 * i & 15;
                wrapped += module->zeros_minus_one && nibble == 15;
                zeros[(8 * c + i) * module->groups + group] = (uint8_t)(nibble + module->zeros_minus_one);
            }
        }
    if (wrapped)
        w4_log(W4A16_LOG_WARNING,
               "%s: tensor '%s': %" PRId64
               " zero points are stored as 15 in a v1 checkpoint; read as 16 (other readers may take 0)",
               ref->file->path, ref->tensor->name, wrapped);
}

static w4a16_status check(const w4_matrix *shape) {
    if (shape->k % 8 != 0)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "GPTQ packs 8 in features to a word; K = %" PRId64 " is no multiple",
                       shape->k);
    if (shape->n % 8 != 0)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "GPTQ packs 8 zero points to a word; N = %" PRId64 " is no multiple",
                       shape->n);
    return W4A16_OK;
}

static int plan(const w4_matrix *shape, const w4_scheme *scheme, w4_part_plan parts[W4_PARTS]) {
    (void)scheme;
    parts[0] = (w4_part_plan){W4_PART_CODES, ".qweight", W4A16_INT32, 2, {shape->k / 8, shape->n}};
    parts[1] = (w4_part_plan){W4_PART_ZEROS, ".qzeros", W4A16_INT32, 2, {shape->groups, shape->n / 8}};
    parts[2] = (w4_part_plan){W4_PART_SCALES, ".scales", shape->scale_dtype, 2, {shape->groups, shape->n}};
    parts[3] = (w4_part_plan){W4_PART_G_IDX, ".g_idx", W4A16_INT32, 1, {shape->k, 0}};
    return 4;
}

static void fill_codes(const w4_matrix *matrix, const uint8_t *codes, uint8_t *data) {
    int64_t n = matrix->n, word_rows = matrix->k / 8, row_bytes = w4_matrix_row_bytes(matrix);
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < n; tile += TILE)
        for (int64_t r = 0; r < word_rows; r++)
            for (int64_t row = tile; row < w4_minimum(tile + TILE, n); row++)
                memcpy(data + (r * n + row) * 4, codes + row * row_bytes + r * 4, 4);
}

static w4a16_status fill_zeros(const w4_matrix *matrix, uint8_t *data) {
    int64_t words = matrix->n / 8;
    for (int64_t group = 0; group < matrix->groups; group++)
        for (int64_t c = 0; c < words; c++) {
            uint32_t word = 0;
            for (int i = 0; i < 8; i++) {
                double zero = w4_matrix_zero(matrix, 8 * c + i, group);
                if (zero > 15)
                    return w4_fail(W4A16_ERROR_UNSUPPORTED,
                                   "the zero point at [n %" PRId64 ", group %" PRId64 "] is %g; GPTQ v2 holds 0 to 15",
                                   8 * c + i, group, zero);
                word |= (uint32_t)zero << 4 * i;
            }
            w4_store_word(data, group * words + c, word);
        }
    return W4A16_OK;
}

static w4a16_status fill(const w4_matrix *matrix, const uint8_t *codes, w4_part part, uint8_t *data) {
    size_t size = w4a16_dtype_size(matrix->scale_dtype);
    switch (part) {
    case W4_PART_CODES:
        fill_codes(matrix, codes, data);
        return W4A16_OK;
    case W4_PART_ZEROS:
        return fill_zeros(matrix, data);
    case W4_PART_SCALES:
        for (int64_t row = 0; row < matrix->n; row++)
            for (int64_t group = 0; group < matrix->groups; group++)
                memcpy(data + (size_t)(group * matrix->n + row) * size,
                       (const uint8_t *)matrix->scales + (size_t)(row * matrix->groups + group) * size, size);
        return W4A16_OK;
    default:
        w4_fill_group_index(matrix, data);
        return W4A16_OK;
    }
}

const w4_layout w4_gptq_layout = {
    .format = W4A16_FORMAT_GPTQ,
    .scales_by_group = true,
    .is_symmetric = is_symmetric,
    .read_codes = read_codes,
    .read_zeros = read_zeros,
    .check = check,
    .plan = plan,
    .fill = fill,
};
