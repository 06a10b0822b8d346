/* SPDX-License-Identifier: Apache-2.0
 * From packed nibbles to 16-bit floats by bit tricks: the constants, and a portable branch that works out each step as
 * the GPU's instructions do, so that the tricks are provable on a CPU.
 *
 * fp16: 0x6400 is 1024, and a 4-bit code or-ed into its mantissa gives 1024 + q exactly; shifted left by four it gives
 * 1024 + 16q. Subtracting 1032, or multiplying by 1/16 and subtracting 72, leaves q - 8, exactly, as every
 * intermediate is an integer multiple of a representable step. With a zero point z the constants are 1024 + z and
 * 64 + z. bf16 has seven bits of mantissa, so that nothing can be or-ed around a code four bits up. But up to twice its
 * least normal number bits are a multiple of 2^-133: a code alone is q * 2^-133, or q * 2^-129 four bits up. 2^127
 * times that is q / 64 or q / 4, from which z / 64 or z / 4 is subtracted; the missing factor is a row's.
 *
 * Where nothing is subtracted from the factors, but from the sum of their products, 0x5400 serves for shifted codes in
 * fp16: it is 64, whose mantissa counts sixteenths, so that a code shifted left by four makes 64 + q; and 0x4300 for
 * bf16: it is 128, and makes 128 + q of a code in its lowest bits. */
#ifndef W4_DEQUANTIZE_H
#define W4_DEQUANTIZE_H

#include <stdint.h>

enum {
    W4_FP16_MAGIC = 0x64006400,
    W4_FP16_HIGH_MAGIC = 0x54005400,
    W4_BF16_MAGIC = 0x43004300,
    W4_BF16_FACTOR = 0x7f007f00, /* 2^127, twice */
    W4_LOW_NIBBLES = 0x000f000f,
    W4_HIGH_NIBBLES = 0x00f000f0
};

/** The four registers a0..a3 of an m16k16 fragment: two values each, the lower half of the register first. */
typedef struct w4_fragment_values {
    float value[4][2];
} w4_fragment_values;

/** Value of an fp16 with the bits 0x6400 | mantissa: 1024 + mantissa. */
static inline float w4_fp16_magic_value(uint32_t half) {
    return 1024.0f + (float)(half & 0x3ff);
}

/** Value of a bf16 with the bits 0x4300 | mantissa: 128 + mantissa. */
static inline float w4_bf16_magic_value(uint32_t half) {
    return 128.0f + (float)(half & 0x7f);
}

/** One packed word by the fp16 trick, less the zero point. */
static inline w4_fragment_values w4_dequantize_word_fp16(uint32_t word, int zero) {
    w4_fragment_values result;
    for (int pair = 0; pair < 2; pair++, word >>= 8) {
        uint32_t low = (word & W4_LOW_NIBBLES) | W4_FP16_MAGIC;
        uint32_t high = (word & W4_HIGH_NIBBLES) | W4_FP16_MAGIC;
        for (int half = 0; half < 2; half++) {
            result.value[2 * pair][half] = w4_fp16_magic_value(low >> 16 * half & 0xffff) - (float)(1024 + zero);
            result.value[2 * pair + 1][half] =
                w4_fp16_magic_value(high >> 16 * half & 0xffff) * 0.0625f - (float)(64 + zero);
        }
    }
    return result;
}

/** Value of a bf16 with bits up to 0x00ff, normal or not. */
static inline float w4_bf16_small_value(uint32_t half) {
    return (float)(half & 0xff) * 0x1p-133f;
}

/** One packed word by the bf16 trick, less the zero point: values a0 and a2 in 64ths, a1 and a3 in fourths. */
static inline w4_fragment_values w4_dequantize_word_bf16(uint32_t word, int zero) {
    w4_fragment_values result;
    for (int pair = 0; pair < 2; pair++, word >>= 8)
        for (int half = 0; half < 2; half++) {
            uint32_t low = (word & W4_LOW_NIBBLES) >> 16 * half, high = (word & W4_HIGH_NIBBLES) >> 16 * half;
            result.value[2 * pair][half] = w4_bf16_small_value(low) * 0x1p127f - (float)zero / 64;
            result.value[2 * pair + 1][half] = w4_bf16_small_value(high) * 0x1p127f - (float)zero / 4;
        }
    return result;
}

#endif
