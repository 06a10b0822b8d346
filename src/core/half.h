/* SPDX-License-Identifier: Apache-2.0
 * fp16 and bf16 in portable C (rounding to nearest even), and typed loads and stores. */
#ifndef W4_CORE_HALF_H
#define W4_CORE_HALF_H

#include "w4a16.h"

#include <stdint.h>
#include <string.h>

static inline float w4_bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t w4_float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float w4_bf16_to_float(uint16_t half) {
    return w4_bits_to_float((uint32_t)half << 16);
}

static inline uint16_t w4_float_to_bf16(float value) {
    uint32_t bits = w4_float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* keep NaN a (quiet) NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float w4_fp16_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return w4_bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x0400u) return w4_bits_to_float(sign | ((magnitude << 13) + 0x38000000u));
    float value = (float)magnitude * 0x1p-24f; /* subnormal or zero: exact */
    return w4_bits_to_float(sign | w4_float_to_bits(value));
}

static inline uint16_t w4_float_to_fp16(float value) {
    uint32_t bits = w4_float_to_bits(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (bits < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits */
        float shifted = w4_bits_to_float(bits) + 0.5f;
        return (uint16_t)(sign | (w4_float_to_bits(shifted) - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}

/** Round a double to fp16 or bf16 once (through float it would be rounded twice). Defined in half.c. */
uint16_t w4_double_to_fp16(double value);
uint16_t w4_double_to_bf16(double value);

/** Element `index` of an fp16, bf16 or fp32 array (any alignment) as float: exact. */
static inline float w4_load_float(const void *array, w4a16_dtype dtype, size_t index) {
    if (dtype == W4A16_FP32) {
        float value;
        memcpy(&value, (const char *)array + index * 4, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, (const char *)array + index * 2, 2);
    return dtype == W4A16_BF16 ? w4_bf16_to_float(half) : w4_fp16_to_float(half);
}

/** Store to an fp16, bf16, fp32 or fp64 array (any alignment), rounding to nearest even once. Defined in half.c. */
void w4_store_double(void *array, w4a16_dtype dtype, size_t index, double value);

static inline int w4_is_scale_dtype(w4a16_dtype dtype) {
    return dtype == W4A16_FP16 || dtype == W4A16_BF16 || dtype == W4A16_FP32;
}

static inline int w4_is_activation_dtype(w4a16_dtype dtype) {
    return dtype == W4A16_FP16 || dtype == W4A16_BF16;
}

#endif
