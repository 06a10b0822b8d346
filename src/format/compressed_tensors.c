/* SPDX-License-Identifier: Apache-2.0
 * compressed-tensors "pack-quantized": words hold eight neighbours along K, zero points eight along N, both plus 8.
 *     weight_packed int32 [N, ceil(K/8)]   weight_scale [N, groups]   weight_shape int64 [2]
 *     weight_zero_point int32 [ceil(N/8), groups], asymmetric only   weight_g_idx int32 [K], act-order only */
#include "core/memory.h"
#include "format/module.h"

#include <inttypes.h>
#include <string.h>

/** N and K as the file states them, of any integer width that is in use. */
static w4a16_status read_shape(const w4_tensor_ref *ref, int64_t shape[2]) {
    W4_TRY(w4_expect_shape(ref, 1, 2, 0));
    if (ref->tensor->dtype == W4A16_INT32) {
        for (int i = 0; i < 2; i++) shape[i] = (int32_t)w4_load_word(ref->tensor->data, i);
        return W4A16_OK;
    }
    W4_TRY(w4_expect_dtype(ref, W4A16_INT64));
    for (int i = 0; i < 2; i++)
        shape[i] = (int64_t)((uint64_t)w4_load_word(ref->tensor->data, 2 * i + 1) << 32 |
                             w4_load_word(ref->tensor->data, 2 * i));
    return W4A16_OK;
}

/** The width of the codes: of the config, or told from the packed width. */
static int64_t bits_of(const w4_quantization *quantization, const w4_module *module, int64_t words) {
    if (quantization->bits && !quantization->varies) return quantization->bits;
    static const int widths[] = {4, 8, 2, 3};
    for (int i = 0; i < 4; i++)
        if (w4_ceil_divide(module->k * widths[i], 32) == words) return widths[i];
    return 4;
}

w4a16_status w4_describe_compressed_tensors(const w4_quantization *quantization, w4_module *module) {
    const w4_tensor_ref *codes = &module->parts[W4_PART_CODES], *scales = &module->parts[W4_PART_SCALES];
    const w4_tensor_ref *zeros = &module->parts[W4_PART_ZEROS], *g_idx = &module->parts[W4_PART_G_IDX];
    module->format = W4A16_FORMAT_COMPRESSED_TENSORS;
    module->variant = "pack-quantized";
    if (quantization->method[0] && strcmp(quantization->method, "compressed-tensors") != 0) {
        w4_set_unsupported(module, "quant_method '%s' with weight_packed tensors; compressed-tensors is supported",
                           quantization->method);
        return W4A16_OK;
    }
    W4_TRY(w4_expect_part(module, W4_PART_SCALES, ".weight_scale"));
    if (codes->tensor->dtype == W4A16_UINT8) {
        module->variant = "mxfp4-pack-quantized";
        w4_set_unsupported(module, "compressed-tensors with packed 4-bit floats (mxfp4 or nvfp4); pack-quantized "
                                   "integers are supported");
        return W4A16_OK;
    }
    W4_TRY(w4_expect_part(module, W4_PART_SHAPE, ".weight_shape"));
    W4_TRY(w4_expect_dtype(codes, W4A16_INT32));
    W4_TRY(w4_expect_dimensions(codes, 2));
    int64_t shape[2], words = codes->tensor->shape[1];
    W4_TRY(read_shape(&module->parts[W4_PART_SHAPE], shape));
    if (shape[0] != codes->tensor->shape[0] || shape[1] < 1 || shape[1] > INT64_C(1) << 30) {
        w4_fail(W4A16_ERROR_FORMAT, "it says [%" PRId64 ", %" PRId64 "], but weight_packed has %" PRId64 " rows",
                shape[0], shape[1], codes->tensor->shape[0]);
        return w4_fail_in(W4A16_ERROR_FORMAT, &module->parts[W4_PART_SHAPE]);
    }
    module->n = shape[0];
    module->k = shape[1];
    int64_t bits = bits_of(quantization, module, words);
    if (bits != 4) {
        w4_set_unsupported(module, "%" PRId64 "-bit compressed-tensors; 4-bit is supported", bits);
        return W4A16_OK;
    }
    W4_TRY(w4_expect_shape(codes, 2, module->n, w4_ceil_divide(module->k, 8)));
    W4_TRY(w4_expect_scale_dtype(scales));
    if (scales->tensor->dimensions != 2) {
        w4_set_unsupported(module, "compressed-tensors with one scale for several rows; one per group or per row "
                                   "is supported");
        return W4A16_OK;
    }
    W4_TRY(w4_expect_dimensions(scales, 2));
    int64_t groups = scales->tensor->shape[1];
    W4_TRY(w4_expect_shape(scales, 2, module->n, groups));
    module->scale_dtype = scales->tensor->dtype;
    module->layout = &w4_compressed_tensors_layout;
    W4_TRY(w4_resolve_groups(quantization, module, groups));
    if (zeros->tensor) {
        W4_TRY(w4_expect_dtype(zeros, W4A16_INT32));
        W4_TRY(w4_expect_shape(zeros, 2, w4_ceil_divide(module->n, 8), groups));
    } else if (module->symmetric == 0) {
        return w4_expect_part(module, W4_PART_ZEROS, ".weight_zero_point");
    }
    if (g_idx->tensor) {
        W4_TRY(w4_expect_dtype(g_idx, W4A16_INT32));
        W4_TRY(w4_expect_shape(g_idx, 1, module->k, 0));
    }
    return W4A16_OK;
}

static uint8_t zero_at(const void *data, int64_t groups, int64_t row, int64_t group) {
    return w4_load_word(data, row / 8 * groups + group) >> row % 8 * 4 & 15;
}

static bool is_symmetric(const w4_module *module) {
    const w4a16_tensor *zeros = module->parts[W4_PART_ZEROS].tensor;
    if (!zeros) return true;
    int64_t whole = module->n / 8 * module->groups;
    for (int64_t i = 0; i < whole; i++)
        if (w4_load_word(zeros->data, i) != 0x88888888u) return false;
    for (int64_t row = module->n / 8 * 8; row < module->n; row++) /* a last word that is not full */
        for (int64_t group = 0; group < module->groups; group++)
            if (zero_at(zeros->data, module->groups, row, group) != 8) return false;
    return true;
}

/** Words along K with the lowest column lowest are the canonical bytes themselves. */
static void read_codes(const w4_module *module, w4_matrix *matrix) {
    const uint8_t *data = module->parts[W4_PART_CODES].tensor->data;
    int64_t row_bytes = w4_matrix_row_bytes(matrix), stride = w4_ceil_divide(module->k, 8) * 4;
    for (int64_t row = 0; row < module->n; row++) {
        uint8_t *target = matrix->codes + row * row_bytes;
        memcpy(target, data + row * stride, (size_t)row_bytes);
        if (module->k & 1) target[row_bytes - 1] &= 15;
    }
}

static void read_zeros(const w4_module *module, uint8_t *zeros) {
    const void *data = module->parts[W4_PART_ZEROS].tensor->data;
    for (int64_t row = 0; row < module->n; row++)
        for (int64_t group = 0; group < module->groups; group++)
            zeros[row * module->groups + group] = zero_at(data, module->groups, row, group);
}

static w4a16_status check(const w4_matrix *shape) {
    if (shape->groups > 1 && shape->k % shape->group_size != 0)
        return w4_fail(W4A16_ERROR_UNSUPPORTED,
                       "compressed-tensors needs whole groups; K = %" PRId64 " is no multiple of %" PRId64, shape->k,
                       shape->group_size);
    return W4A16_OK;
}

static int plan(const w4_matrix *shape, const w4_scheme *scheme, w4_part_plan parts[W4_PARTS]) {
    int count = 0;
    parts[count++] =
        (w4_part_plan){W4_PART_CODES, ".weight_packed", W4A16_INT32, 2, {shape->n, w4_ceil_divide(shape->k, 8)}};
    parts[count++] = (w4_part_plan){W4_PART_SCALES, ".weight_scale", shape->scale_dtype, 2, {shape->n, shape->groups}};
    if (scheme->zeros)
        parts[count++] = (w4_part_plan){
            W4_PART_ZEROS, ".weight_zero_point", W4A16_INT32, 2, {w4_ceil_divide(shape->n, 8), shape->groups}};
    if (scheme->g_idx) parts[count++] = (w4_part_plan){W4_PART_G_IDX, ".weight_g_idx", W4A16_INT32, 1, {shape->k, 0}};
    parts[count++] = (w4_part_plan){W4_PART_SHAPE, ".weight_shape", W4A16_INT64, 1, {2, 0}};
    return count;
}

static w4a16_status fill_zeros(const w4_matrix *matrix, uint8_t *data) {
    for (int64_t row = 0; row < matrix->n; row++)
        for (int64_t group = 0; group < matrix->groups; group++) {
            double zero = w4_matrix_zero(matrix, row, group);
            if (zero > 15)
                return w4_fail(W4A16_ERROR_UNSUPPORTED,
                               "the zero point at [n %" PRId64 ", group %" PRId64
                               "] is %g; compressed-tensors holds 0 to 15",
                               row, group, zero);
            int64_t word = row / 8 * matrix->groups + group;
            uint32_t before = row % 8 ? w4_load_word(data, word) : 0;
            w4_store_word(data, word, before | (uint32_t)zero << row % 8 * 4);
        }
    return W4A16_OK;
}

static w4a16_status fill(const w4_matrix *matrix, const uint8_t *codes, w4_part part, uint8_t *data) {
    int64_t row_bytes = w4_matrix_row_bytes(matrix), stride = w4_ceil_divide(matrix->k, 8) * 4;
    int64_t shape[2] = {matrix->n, matrix->k};
    switch (part) {
    case W4_PART_CODES:
        memset(data, 0, (size_t)(matrix->n * stride));
        for (int64_t row = 0; row < matrix->n; row++)
            memcpy(data + row * stride, codes + row * row_bytes, (size_t)row_bytes);
        return W4A16_OK;
    case W4_PART_SCALES:
        memcpy(data, matrix->scales, (size_t)(matrix->n * matrix->groups) * w4a16_dtype_size(matrix->scale_dtype));
        return W4A16_OK;
    case W4_PART_ZEROS:
        return fill_zeros(matrix, data);
    case W4_PART_G_IDX:
        w4_fill_group_index(matrix, data);
        return W4A16_OK;
    default:
        for (int i = 0; i < 4; i++) w4_store_word(data, i, (uint32_t)((uint64_t)shape[i / 2] >> i % 2 * 32));
        return W4A16_OK;
    }
}

const w4_layout w4_compressed_tensors_layout = {
    .format = W4A16_FORMAT_COMPRESSED_TENSORS,
    .scales_by_group = false,
    .is_symmetric = is_symmetric,
    .read_codes = read_codes,
    .read_zeros = read_zeros,
    .check = check,
    .plan = plan,
    .fill = fill,
};
