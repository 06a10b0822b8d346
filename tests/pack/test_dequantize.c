/* SPDX-License-Identifier: Apache-2.0
 * The nibble tricks give exactly q - z: every value that four nibbles can take in either half of the word, every zero
 * point, and every intermediate a number that the 16-bit format holds (a GPU would round one that it does not). */
#include "dequantize.h"

#include "api/number_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static int nibble(uint32_t word, int index) {
    return (int)(word >> 4 * index & 15);
}

static void check(uint32_t word, int zero) {
    w4_fragment_values fp16 = w4_dequantize_word_fp16(word, zero), bf16 = w4_dequantize_word_bf16(word, zero);
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++) {
            float expected = (float)(nibble(word, i + 4 * half) - zero);
            float of_bf16 = bf16.value[i][half] * (i % 2 ? 4 : 64);
            if (fp16.value[i][half] != expected || of_bf16 != expected)
                fail_msg("word %08x, zero %d, register a%d half %d: fp16 %g, bf16 %g, not %g", word, zero, i, half,
                         (double)fp16.value[i][half], (double)of_bf16, (double)expected);
        }
}

static void every_four_nibbles_in_either_half(void **state) {
    (void)state;
    for (int zero = 0; zero <= 16; zero++)
        for (uint32_t four = 0; four <= 0xffff; four++) {
            check(four, zero);
            check(four << 16, zero);
            check(four << 16 | (~four & 0xffff), zero);
        }
}

static void random_words(void **state) {
    (void)state;
    uint64_t seed = 5;
    for (int i = 0; i < 1000000; i++) check((uint32_t)oracle_random(&seed), (int)oracle_below(&seed, 17));
}

static void the_magic_numbers_are_what_they_say(void **state) {
    (void)state;
    for (uint32_t mantissa = 0; mantissa < 1024; mantissa++)
        assert_true((double)w4_fp16_magic_value(0x6400 | mantissa) ==
                    oracle_decode(oracle_fp16, (uint16_t)(0x6400 | mantissa)));
    for (uint32_t mantissa = 0; mantissa < 128; mantissa++)
        assert_true((double)w4_bf16_magic_value(0x4300 | mantissa) ==
                    oracle_decode(oracle_bf16, (uint16_t)(0x4300 | mantissa)));
    for (uint32_t bits = 0; bits < 256; bits++)
        assert_true((double)w4_bf16_small_value(bits) == oracle_decode(oracle_bf16, (uint16_t)bits));
    assert_true(oracle_decode(oracle_bf16, W4_BF16_FACTOR & 0xffff) == 0x1p127);
    assert_int_equal((uint32_t)W4_BF16_FACTOR >> 16, W4_BF16_FACTOR & 0xffff);
    assert_int_equal(W4_FP16_MAGIC & 0xffff, 0x6400);
    assert_int_equal((uint32_t)W4_FP16_MAGIC >> 16, 0x6400);
    assert_int_equal(W4_BF16_MAGIC & 0xffff, 0x4300);
    assert_int_equal((uint32_t)W4_BF16_MAGIC >> 16, 0x4300);
}

static int holds(oracle_format format, double value) {
    return oracle_decode(format, oracle_encode(format, value)) == value;
}

static void no_step_rounds(void **state) {
    (void)state;
    for (int q = 0; q < 16; q++)
        for (int zero = 0; zero <= 16; zero++) {
            assert_true(holds(oracle_fp16, 1024 + q) && holds(oracle_fp16, 1024 + zero));
            assert_true(holds(oracle_fp16, 1024 + 16 * q) && holds(oracle_fp16, (1024 + 16 * q) / 16.0));
            assert_true(holds(oracle_fp16, 64 + zero) && holds(oracle_fp16, q - zero));
            assert_true(holds(oracle_bf16, 128 + zero) && holds(oracle_bf16, zero / 4.0));
            assert_true(holds(oracle_bf16, (q - zero) / 64.0) && holds(oracle_bf16, (q - zero) / 4.0));
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_four_nibbles_in_either_half),
        cmocka_unit_test(random_words),
        cmocka_unit_test(the_magic_numbers_are_what_they_say),
        cmocka_unit_test(no_step_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
