/* SPDX-License-Identifier: Apache-2.0
 * Conversions between element types, each rounding once. */
#include "core/half.h"

#include "core/status.h"

#include <math.h>

/** Round to float by round-to-odd: an inexact result gets its last bit set, so that a later rounding to fewer bits
 * sees on which side of a tie the double was. float has more than two bits over fp16 and bf16, which makes the second
 * rounding right (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding
 * to odd", 2008). */
static float round_to_odd(double value) {
    float nearest = (float)value;
    if (isnan(value) || isinf(value) || (double)nearest == value) return nearest;
    uint32_t bits = w4_float_to_bits(nearest);
    if (isinf(nearest)) return w4_bits_to_float((bits & 0x80000000u) | 0x7f7fffffu);
    if (fabs((double)nearest) > fabs(value)) bits -= 1; /* towards zero */
    return w4_bits_to_float(bits | 1u);
}

uint16_t w4_double_to_fp16(double value) {
    return w4_float_to_fp16(round_to_odd(value));
}
uint16_t w4_double_to_bf16(double value) {
    return w4_float_to_bf16(round_to_odd(value));
}

void w4_store_double(void *array, w4a16_dtype dtype, size_t index, double value) {
    char *bytes = array;
    if (dtype == W4A16_FP64) {
        memcpy(bytes + index * 8, &value, 8);
    } else if (dtype == W4A16_FP32) {
        float rounded = (float)value;
        memcpy(bytes + index * 4, &rounded, 4);
    } else {
        uint16_t half = dtype == W4A16_BF16 ? w4_double_to_bf16(value) : w4_double_to_fp16(value);
        memcpy(bytes + index * 2, &half, 2);
    }
}

static int is_convertible(w4a16_dtype dtype) {
    return w4_is_scale_dtype(dtype) || dtype == W4A16_FP64;
}

w4a16_status w4a16_convert_elements(const void *source, w4a16_dtype source_dtype, void *target,
                                    w4a16_dtype target_dtype, size_t count) {
    if (!source && count) return w4_fail_null("source");
    if (!target && count) return w4_fail_null("target");
    if (!is_convertible(source_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "source_dtype is %s; it must be fp16, bf16, fp32 or fp64",
                       w4a16_dtype_name(source_dtype));
    if (!is_convertible(target_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "target_dtype is %s; it must be fp16, bf16, fp32 or fp64",
                       w4a16_dtype_name(target_dtype));
    if (source_dtype == target_dtype) {
        if (count) memmove(target, source, count * w4a16_dtype_size(source_dtype));
        return W4A16_OK;
    }
    if (source_dtype == W4A16_FP64) {
        for (size_t i = 0; i < count; i++) {
            double value;
            memcpy(&value, (const char *)source + i * 8, 8);
            w4_store_double(target, target_dtype, i, value);
        }
        return W4A16_OK;
    }
    for (size_t i = 0; i < count; i++)
        w4_store_double(target, target_dtype, i, (double)w4_load_float(source, source_dtype, i));
    return W4A16_OK;
}
