/* SPDX-License-Identifier: Apache-2.0
 * From packed nibbles to 16-bit floats by bit tricks: the constants, and a portable branch that works out each step as
 * the GPU's instructions do, so that the tricks are provable on a CPU.
 *
 * fp16: 0x6400 is 1024, and a 4-bit code or-ed into its mantissa gives 1024 + q exactly; shifted left by four it gives
 * 1024 + 16q. Subtracting 1032, or multiplying by 1/16 and subtracting 72, leaves q - 8, exactly, as every
 * intermediate is an integer multiple of a representable step. With a zero point z the constants are 1024 + z and
 * 64 + z. bf16: 0x4300 is 128 with seven mantissa bits, so 128 + q; subtracting 128 + z leaves q - z. Where nothing is
 * subtracted from the factors, but from the sum of their products, 0x5400 serves for shifted codes: it is 64, whose
 * mantissa counts sixteenths, so that a code shifted left by four makes 64 + q. */
#ifndef W4_DEQUANTIZE_H
#define W4_DEQUANTIZE_H

#include <stdint.h>

enum {
    W4_FP16_MAGIC = 0x64006400,
    W4_FP16_HIGH_MAGIC = 0x54005400,
    W4_BF16_MAGIC = 0x43004300,
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

/** One packed word by the bf16 trick, less the zero point. */
static inline w4_fragment_values w4_dequantize_word_bf16(uint32_t word, int zero) {
    w4_fragment_values result;
    for (int i = 0; i < 4; i++) {
        uint32_t pair = (word >> 4 * i & W4_LOW_NIBBLES) | W4_BF16_MAGIC;
        for (int half = 0; half < 2; half++)
            result.value[i][half] = w4_bf16_magic_value(pair >> 16 * half & 0xffff) - (float)(128 + zero);
    }
    return result;
}

#endif
