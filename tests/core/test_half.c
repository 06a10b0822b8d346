/* SPDX-License-Identifier: Apache-2.0
 * fp16 and bf16 conversions: every 16-bit pattern, every rounding boundary, and doubles that trap a rounding done
 * twice; against arithmetic in double and, where the processor has them, its own conversion instructions. */
#include "core/half.h"

#include "api/number_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef struct half_format {
    const char *name;
    oracle_format oracle;
    w4a16_dtype dtype;
    float (*to_float)(uint16_t);
    uint16_t (*from_float)(float);
    uint16_t (*from_double)(double);
} half_format;

static const half_format formats[] = {
    {"fp16", {5, 10}, W4A16_FP16, w4_fp16_to_float, w4_float_to_fp16, w4_double_to_fp16},
    {"bf16", {8, 7}, W4A16_BF16, w4_bf16_to_float, w4_float_to_bf16, w4_double_to_bf16},
};
enum { FORMATS = sizeof formats / sizeof *formats };

static int is_nan_pattern(const half_format *format, uint16_t bits) {
    return isnan(oracle_decode(format->oracle, bits));
}

static void every_pattern_decodes(void **state) {
    (void)state;
    for (const half_format *format = formats; format < formats + FORMATS; format++)
        for (uint32_t bits = 0; bits <= 0xffff; bits++) {
            double expected = oracle_decode(format->oracle, (uint16_t)bits);
            float got = format->to_float((uint16_t)bits);
            if (isnan(expected) ? !isnan(got) : (double)got != expected || !signbit(got) != !signbit(expected))
                fail_msg("%s 0x%04x decodes to %a, not %a", format->name, bits, (double)got, expected);
        }
}

static void every_pattern_survives_the_round_trip(void **state) {
    (void)state;
    for (const half_format *format = formats; format < formats + FORMATS; format++)
        for (uint32_t bits = 0; bits <= 0xffff; bits++) {
            uint16_t through_float = format->from_float(format->to_float((uint16_t)bits));
            uint16_t through_double = format->from_double((double)format->to_float((uint16_t)bits));
            int right = is_nan_pattern(format, (uint16_t)bits)
                            ? is_nan_pattern(format, through_float) && is_nan_pattern(format, through_double)
                            : through_float == bits && through_double == bits;
            if (!right)
                fail_msg("%s 0x%04x comes back as 0x%04x, 0x%04x", format->name, bits, through_float, through_double);
        }
}

static void check_float(const half_format *format, float value) {
    uint16_t expected = oracle_encode(format->oracle, (double)value), got = format->from_float(value);
    uint16_t by_double = format->from_double((double)value);
    if (isnan(value)) {
        if (!is_nan_pattern(format, got) || !is_nan_pattern(format, by_double) || (got & 0x8000) != (expected & 0x8000))
            fail_msg("%s of NaN is 0x%04x and 0x%04x", format->name, got, by_double);
    } else if (got != expected || by_double != expected) {
        fail_msg("%s of %a is 0x%04x (as double 0x%04x), not 0x%04x", format->name, (double)value, got, by_double,
                 expected);
    }
}

static void check_double(const half_format *format, double value) {
    uint16_t expected = oracle_encode(format->oracle, value), got = format->from_double(value);
    uint16_t stored[2] = {0xdead, 0xdead};
    w4_store_double(stored, format->dtype, 1, value);
    if (got != expected || stored[1] != expected || stored[0] != 0xdead)
        fail_msg("%s of double %a is 0x%04x (stored 0x%04x), not 0x%04x", format->name, value, got, stored[1],
                 expected);
}

/** Each midpoint of neighbours and the floats and doubles right beside it, both signs. */
static void boundaries_round_to_even(void **state) {
    (void)state;
    for (const half_format *format = formats; format < formats + FORMATS; format++)
        for (uint32_t bits = 0; !isinf(oracle_decode(format->oracle, (uint16_t)bits)); bits++) {
            double low = oracle_decode(format->oracle, (uint16_t)bits);
            double high = oracle_decode(format->oracle, (uint16_t)(bits + 1));
            /* Where the next number is infinity the boundary is half a unit above the largest one. */
            double middle = isinf(high) ? low + oracle_half_unit(format->oracle, low) : (low + high) / 2;
            for (int sign = -1; sign <= 1; sign += 2) {
                double tie = sign * middle;
                float single = (float)tie;
                assert_true((double)single == tie || format->dtype == W4A16_BF16);
                check_float(format, single);
                check_float(format, nextafterf(single, INFINITY));
                check_float(format, nextafterf(single, -INFINITY));
                check_double(format, tie);
                /* These lie so close to the tie that rounding to float first would land on it. */
                check_double(format, nextafter(tie, INFINITY));
                check_double(format, nextafter(tie, -INFINITY));
                check_double(format, tie * (1 + 0x1p-30));
                check_double(format, tie * (1 - 0x1p-30));
            }
        }
}

static void every_float_exponent_and_random_floats(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (const half_format *format = formats; format < formats + FORMATS; format++) {
        for (uint32_t high = 0; high <= 0xffff; high++) {
            static const uint32_t low[] = {0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff};
            for (size_t i = 0; i < sizeof low / sizeof *low; i++)
                check_float(format, w4_bits_to_float(high << 16 | low[i]));
        }
        for (int i = 0; i < 2000000; i++) check_float(format, w4_bits_to_float((uint32_t)oracle_random(&seed)));
    }
}

static void doubles_beyond_float(void **state) {
    (void)state;
    static const double values[] = {0.0,
                                    -0.0,
                                    0x1p-1074,
                                    -0x1p-1074,
                                    0x1p-150,
                                    0x1p-149,
                                    0x1.8p-149,
                                    0x1p-134,
                                    0x1p-133,
                                    0x1p-126,
                                    0x1p-25,
                                    0x1.0000000000001p-25,
                                    0x1.fffffffffffffp-26,
                                    0x1p-24,
                                    65504,
                                    65519.999,
                                    65520,
                                    65520.001,
                                    0x1p127,
                                    0x1.fep127,
                                    0x1.ffp127,
                                    0x1.fefffffffffffp127,
                                    0x1p128,
                                    0x1p1023,
                                    -65520,
                                    -0x1p1023};
    for (const half_format *format = formats; format < formats + FORMATS; format++)
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) check_double(format, values[i]);
    for (const half_format *format = formats; format < formats + FORMATS; format++) {
        assert_int_equal(format->from_double(INFINITY), oracle_encode(format->oracle, INFINITY));
        assert_int_equal(format->from_double(-INFINITY), oracle_encode(format->oracle, -INFINITY));
        assert_true(is_nan_pattern(format, format->from_double(NAN)));
    }
}

static void overflow_of_fp16_starts_at_65520(void **state) {
    (void)state;
    assert_int_equal(w4_float_to_fp16(65519.996f), 0x7bff);
    assert_int_equal(w4_float_to_fp16(65520.0f), 0x7c00);
    assert_int_equal(w4_double_to_fp16(nextafter(65520.0, 0)), 0x7bff);
    assert_int_equal(w4_double_to_fp16(-65520.0), 0xfc00);
}

/** 1 + 2^-11 + 2^-40 is above a tie of fp16; a float would drop the 2^-40, and the tie would round down. */
static void doubles_round_once(void **state) {
    (void)state;
    assert_int_equal(w4_double_to_fp16(1 + 0x1p-11 + 0x1p-40), 0x3c01);
    assert_int_equal(w4_double_to_fp16(1 + 0x1p-11), 0x3c00);
    assert_int_equal(w4_double_to_fp16(1 + 0x1.8p-10 - 0x1p-45), 0x3c01);
    assert_int_equal(w4_double_to_bf16(1 + 0x1p-8 + 0x1p-45), 0x3f81);
    assert_int_equal(w4_double_to_bf16(1 + 0x1p-8), 0x3f80);
    uint64_t seed = 7;
    for (int i = 0; i < 1000000; i++) {
        /* A tie of either format plus a part that no float holds. */
        int exponent = (int)oracle_below(&seed, 30) - 14;
        double mantissa = 1 + (double)oracle_below(&seed, 2048) * 0x1p-11;
        double value = ldexp(mantissa + oracle_unit(&seed) * 0x1p-36, exponent);
        check_double(&formats[0], value);
        check_double(&formats[1], value);
    }
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static uint16_t hardware_from_float(float value) {
    return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0);
}
__attribute__((target("f16c"))) static float hardware_to_float(uint16_t bits) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}
#endif

static void the_processor_agrees(void **state) {
    (void)state;
#if defined(__x86_64__)
    /* Every processor with AVX2 has F16C, whose own name clang 14 does not take here. */
    if (__builtin_cpu_supports("avx2")) {
        for (uint32_t bits = 0; bits <= 0xffff; bits++) {
            float library = w4_fp16_to_float((uint16_t)bits), hardware = hardware_to_float((uint16_t)bits);
            assert_true(isnan(hardware) ? isnan(library) : library == hardware);
        }
        /* Every 61st float: about 70 million of the 4.3 thousand million, all exponents and signs. */
        for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 61) {
            float value = w4_bits_to_float((uint32_t)bits);
            uint16_t library = w4_float_to_fp16(value), hardware = hardware_from_float(value);
            if (isnan(value) ? !is_nan_pattern(&formats[0], library) : library != hardware)
                fail_msg("fp16 of %a is 0x%04x, the processor says 0x%04x", (double)value, library, hardware);
        }
        return;
    }
#endif
    print_message("skipped: this processor has no AVX2\n");
    skip();
}

static void loads_and_stores_take_any_alignment(void **state) {
    (void)state;
    unsigned char buffer[64];
    for (size_t shift = 0; shift < 8; shift++) {
        w4_store_double(buffer + shift, W4A16_FP64, 3, 1.0 / 3);
        double wide;
        memcpy(&wide, buffer + shift + 24, 8);
        assert_true(wide == 1.0 / 3);
        w4_store_double(buffer + shift, W4A16_FP32, 3, 1.0 / 3);
        assert_true(w4_load_float(buffer + shift, W4A16_FP32, 3) == 1.0f / 3);
        w4_store_double(buffer + shift, W4A16_FP16, 3, -1.5);
        assert_true(w4_load_float(buffer + shift, W4A16_FP16, 3) == -1.5f);
        w4_store_double(buffer + shift, W4A16_BF16, 3, -1.5);
        assert_true(w4_load_float(buffer + shift, W4A16_BF16, 3) == -1.5f);
    }
}

static void convert_elements_goes_every_way(void **state) {
    (void)state;
    static const w4a16_dtype dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32, W4A16_FP64};
    enum { COUNT = 1000 };
    double source[COUNT];
    uint64_t seed = 3;
    for (int i = 0; i < COUNT; i++) source[i] = ldexp(oracle_unit(&seed), (int)oracle_below(&seed, 30) - 15);
    for (size_t from = 0; from < 4; from++)
        for (size_t to = 0; to < 4; to++) {
            unsigned char start[COUNT * 8], end[COUNT * 8 + 8];
            memset(end, 0xa5, sizeof end);
            assert_int_equal(w4a16_convert_elements(source, W4A16_FP64, start, dtypes[from], COUNT), W4A16_OK);
            assert_int_equal(w4a16_convert_elements(start, dtypes[from], end, dtypes[to], COUNT), W4A16_OK);
            for (int i = 0; i < COUNT; i++) {
                double value =
                    dtypes[from] == W4A16_FP16   ? oracle_decode(oracle_fp16, oracle_encode(oracle_fp16, source[i]))
                    : dtypes[from] == W4A16_BF16 ? oracle_decode(oracle_bf16, oracle_encode(oracle_bf16, source[i]))
                    : dtypes[from] == W4A16_FP32 ? (double)(float)source[i]
                                                 : source[i];
                double got;
                if (dtypes[to] == W4A16_FP64) {
                    memcpy(&got, end + i * 8, 8);
                    assert_true(got == value);
                } else if (dtypes[to] == W4A16_FP32) {
                    float single;
                    memcpy(&single, end + i * 4, 4);
                    assert_true(single == (float)value);
                } else {
                    uint16_t half;
                    memcpy(&half, end + i * 2, 2);
                    assert_int_equal(half, oracle_encode(dtypes[to] == W4A16_FP16 ? oracle_fp16 : oracle_bf16, value));
                }
            }
            for (size_t i = COUNT * w4a16_dtype_size(dtypes[to]); i < sizeof end; i++) assert_int_equal(end[i], 0xa5);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_decodes),
        cmocka_unit_test(every_pattern_survives_the_round_trip),
        cmocka_unit_test(boundaries_round_to_even),
        cmocka_unit_test(every_float_exponent_and_random_floats),
        cmocka_unit_test(doubles_beyond_float),
        cmocka_unit_test(overflow_of_fp16_starts_at_65520),
        cmocka_unit_test(doubles_round_once),
        cmocka_unit_test(the_processor_agrees),
        cmocka_unit_test(loads_and_stores_take_any_alignment),
        cmocka_unit_test(convert_elements_goes_every_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
