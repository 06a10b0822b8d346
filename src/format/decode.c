/* SPDX-License-Identifier: Apache-2.0
 * Dequantising straight from the words on disk, element by element, in double. It deliberately shares nothing with
 * the importers (bit positions, zero-point rules and act-order are written out once more), so that a defect in one
 * of the two ways shows as a difference. */
#include "core/half.h"
#include "core/memory.h"
#include "format/module.h"

#include <inttypes.h>
#include <math.h>

/** Four bits at `shift` of word `index`. */
static unsigned bits_at(const w4a16_tensor *tensor, int64_t index, int shift) {
    const uint8_t *bytes = (const uint8_t *)tensor->data + index * 4 + shift / 8;
    return shift % 8 ? *bytes >> 4 : *bytes & 15u;
}

static double scale_at(const w4a16_tensor *scales, int64_t row, int64_t column) {
    return w4_load_float(scales->data, scales->dtype, (size_t)(row * scales->shape[1] + column));
}

/** Every scale finite and not 0, as the importers demand. */
static w4a16_status check_scales(const w4_module *module) {
    const w4_tensor_ref *ref = &module->parts[W4_PART_SCALES];
    for (int64_t row = 0; row < ref->tensor->shape[0]; row++)
        for (int64_t column = 0; column < ref->tensor->shape[1]; column++) {
            double scale = scale_at(ref->tensor, row, column);
            if (isfinite(scale) && scale != 0) continue;
            w4_fail(W4A16_ERROR_FORMAT, "[%" PRId64 ", %" PRId64 "] is %g; a scale must be finite and not 0", row,
                    column, scale);
            return w4_fail_in(W4A16_ERROR_FORMAT, ref);
        }
    return W4A16_OK;
}

/** The group of column k, checked; without a g_idx it follows from the position. */
static w4a16_status group_at(const w4_module *module, int64_t k, int64_t *group) {
    const w4_tensor_ref *ref = &module->parts[W4_PART_G_IDX];
    *group = k / module->group_size;
    if (!ref->tensor) return W4A16_OK;
    const uint8_t *bytes = (const uint8_t *)ref->tensor->data + k * 4;
    uint32_t value = bytes[0] + bytes[1] * 0x100u + bytes[2] * 0x10000u + bytes[3] * 0x1000000u;
    if (value >= (uint64_t)module->groups) { /* a negative one is huge here */
        w4_fail(W4A16_ERROR_FORMAT, "[%" PRId64 "] is %" PRId32 "; it must be 0 to %" PRId64, k, (int32_t)value,
                module->groups - 1);
        return w4_fail_in(W4A16_ERROR_FORMAT, ref);
    }
    *group = value;
    return W4A16_OK;
}

/** w[k,n] = (q[k,n] - z[k/g,n]) * s[k/g,n]; within a word, column 8c + j stands at nibble REV[j]. */
static double awq_element(const w4_module *module, int64_t n, int64_t k, int64_t group, int zero_offset) {
    static const int REV[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    (void)zero_offset;
    int64_t words = module->n / 8;
    int shift = 4 * REV[n % 8];
    int q = (int)bits_at(module->parts[W4_PART_CODES].tensor, k * words + n / 8, shift);
    int z = (int)bits_at(module->parts[W4_PART_ZEROS].tensor, group * words + n / 8, shift);
    return (q - z) * scale_at(module->parts[W4_PART_SCALES].tensor, group, n);
}

/** What the stored zero points mean: 0 or 1 to add, or -1: every one stands for 8. */
static int gptq_zero_offset(const w4_module *module) {
    const w4a16_tensor *zeros = module->parts[W4_PART_ZEROS].tensor;
    uint64_t sevens = 0, eights = 0, nibbles = zeros->bytes * 2;
    for (uint64_t i = 0; i < nibbles; i++) {
        unsigned value = ((const uint8_t *)zeros->data)[i / 2] >> (i % 2 ? 4 : 0) & 15u;
        sevens += value == 7;
        eights += value == 8;
    }
    bool uniform = sevens == nibbles || eights == nibbles;
    if (module->symmetric == 1 && sevens + eights == nibbles) return -1;
    if (module->symmetric == -1 && uniform) return -1;
    return module->zeros_minus_one ? 1 : 0;
}

/** w[k,n] = (q[k,n] - z[g,n]) * s[g,n], g = g_idx[k]; nibble k % 8 of word k / 8. */
static double gptq_element(const w4_module *module, int64_t n, int64_t k, int64_t group, int zero_offset) {
    int q = (int)bits_at(module->parts[W4_PART_CODES].tensor, k / 8 * module->n + n, (int)(k % 8) * 4);
    int z = 8;
    if (zero_offset >= 0)
        z = zero_offset +
            (int)bits_at(module->parts[W4_PART_ZEROS].tensor, group * (module->n / 8) + n / 8, (int)(n % 8) * 4);
    return (q - z) * scale_at(module->parts[W4_PART_SCALES].tensor, group, n);
}

/** w[n,k] = ((q - 8) - (z - 8)) * s[n,g]; codes along K, zero points along N. */
static double compressed_tensors_element(const w4_module *module, int64_t n, int64_t k, int64_t group,
                                         int zero_offset) {
    (void)zero_offset;
    const w4a16_tensor *codes = module->parts[W4_PART_CODES].tensor, *zeros = module->parts[W4_PART_ZEROS].tensor;
    int q = (int)bits_at(codes, n * codes->shape[1] + k / 8, (int)(k % 8) * 4) - 8;
    int z = zeros ? (int)bits_at(zeros, n / 8 * module->groups + group, (int)(n % 8) * 4) - 8 : 0;
    return (q - z) * scale_at(module->parts[W4_PART_SCALES].tensor, n, group);
}

w4a16_status w4a16_checkpoint_dequantize(const w4a16_checkpoint *checkpoint, const char *module_name, w4a16_dtype dtype,
                                         void *w, int64_t stride) {
    size_t index;
    W4_TRY(w4a16_checkpoint_find(checkpoint, module_name, &index));
    const w4_module *module = &checkpoint->modules[index];
    if (dtype != W4A16_FP64 && dtype != W4A16_FP32 && dtype != W4A16_FP16 && dtype != W4A16_BF16)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "dtype is %s; it must be fp64, fp32, fp16 or bf16",
                       w4a16_dtype_name(dtype));
    if (!w) return w4_fail_null("w");
    if (!module->layout)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: module '%s' is not supported: %s",
                       module->parts[W4_PART_CODES].file->path, module->name, module->reason);
    if (stride < module->k)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "stride is %" PRId64 "; module '%s' needs at least K = %" PRId64,
                       stride, module->name, module->k);
    double (*element)(const w4_module *, int64_t, int64_t, int64_t, int) =
        module->format == W4A16_FORMAT_AWQ    ? awq_element
        : module->format == W4A16_FORMAT_GPTQ ? gptq_element
                                              : compressed_tensors_element;
    int zero_offset = module->format == W4A16_FORMAT_GPTQ ? gptq_zero_offset(module) : 0;
    W4_TRY(check_scales(module));
    int64_t group;
    for (int64_t k = 0; k < module->k; k++) W4_TRY(group_at(module, k, &group)); /* before anything is written */
    for (int64_t n = 0; n < module->n; n++)
        for (int64_t k = 0; k < module->k; k++) {
            W4_TRY(group_at(module, k, &group));
            w4_store_double(w, dtype, (size_t)(n * stride + k), element(module, n, k, group, zero_offset));
        }
    return W4A16_OK;
}
