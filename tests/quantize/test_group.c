/* SPDX-License-Identifier: Apache-2.0
 * The choice of a group's scale, zero point and codes, against brute force in double. */
#include "quantize/group.h"
#include "quantize/group_oracle.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LONGEST = 512 };

static uint8_t scratch[LONGEST * 5 + 64] __attribute__((aligned(64)));

static const w4a16_dtype scale_dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};

static w4_group_result quantize(w4a16_quantize_method method, bool asymmetric, w4a16_dtype scale_dtype, const float *w,
                                int64_t count, uint8_t *codes) {
    assert_true(w4_group_scratch_bytes(count) <= sizeof scratch);
    w4_group_rule rule = {.method = method, .asymmetric = asymmetric, .scale_dtype = scale_dtype};
    memset(codes, 0xee, (size_t)count);
    return w4_quantize_group(&rule, w, count, scratch, codes);
}

/* A scale is representable if encoding it and decoding it again changes nothing. */
static void check_scale(double scale, w4a16_dtype dtype) {
    assert_true(isfinite(scale) && scale > 0);
    oracle_format format = dtype == W4A16_FP16 ? oracle_fp16 : oracle_bf16;
    if (dtype != W4A16_FP32) assert_true(oracle_decode(format, oracle_encode(format, scale)) == scale);
}

/* What must hold for every result: codes are the nearest ones, sums are those of the codes. */
static void check_result(const w4_group_result *result, bool asymmetric, w4a16_dtype dtype, const float *w,
                         int64_t count, const uint8_t *codes) {
    check_scale(result->scale, dtype);
    assert_in_range(result->zero, 0, 15);
    if (!asymmetric) assert_int_equal(result->zero, 8);
    double signal = 0, noise = 0;
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(codes[i], oracle_code(w[i], result->scale, result->zero));
        double error = w[i] - (codes[i] - result->zero) * (double)result->scale;
        signal += (double)w[i] * w[i];
        noise += error * error;
    }
    assert_true(fabs(result->signal - signal) <= 1e-12 * signal);
    assert_true(fabs(result->noise - noise) <= 1e-12 * noise);
}

/* Over all kinds, sizes, lengths and dtypes: rtn is what it says, mse is never worse, both are consistent. */
static void test_random_groups(void **unused) {
    (void)unused;
    static const double sizes[] = {1e-30, 1e-7, 3e-3, 0.02, 1, 3000, 1e30};
    static const int64_t counts[] = {1, 5, 16, 31, 32, 33, 64, 100, 128, LONGEST};
    uint64_t random = 1;
    float w[LONGEST];
    uint8_t codes[LONGEST];
    for (int kind = 0; kind < ORACLE_KINDS; kind++)
        for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++)
            for (size_t length = 0; length < sizeof counts / sizeof *counts; length++)
                for (int variant = 0; variant < 6; variant++) {
                    bool asymmetric = variant & 1;
                    w4a16_dtype dtype = scale_dtypes[variant / 2];
                    int64_t count = counts[length];
                    oracle_group((enum oracle_kind)kind, sizes[size], w, count, &random);
                    bool fits = true;
                    for (int64_t i = 0; i < count; i++) fits = fits && fabsf(w[i]) <= w4_group_limit(dtype);
                    if (!fits) continue;
                    w4_group_result rtn = quantize(W4A16_QUANTIZE_RTN, asymmetric, dtype, w, count, codes);
                    check_result(&rtn, asymmetric, dtype, w, count, codes);
                    w4_group_result mse = quantize(W4A16_QUANTIZE_MSE, asymmetric, dtype, w, count, codes);
                    check_result(&mse, asymmetric, dtype, w, count, codes);
                    assert_true(mse.noise <= rtn.noise);
                }
}

/* rtn: the scale spreads 15 steps over the range, and no weight is off by more than half a step. */
static void test_rtn_covers_the_range(void **unused) {
    (void)unused;
    uint64_t random = 2;
    float w[128];
    uint8_t codes[128];
    for (int round = 0; round < 2000; round++) {
        bool asymmetric = round & 1;
        oracle_group((enum oracle_kind)(round / 2 % ORACLE_KINDS), 0.02, w, 128, &random);
        double lowest = 0, highest = 0;
        for (int i = 0; i < 128; i++) {
            lowest = fmin(lowest, w[i]);
            highest = fmax(highest, w[i]);
        }
        double span = asymmetric ? highest - lowest : 2 * fmax(highest, -lowest);
        w4_group_result rtn = quantize(W4A16_QUANTIZE_RTN, asymmetric, W4A16_FP16, w, 128, codes);
        if (span == 0) continue;
        double half_unit = oracle_half_unit(oracle_fp16, span / 15);
        assert_true(fabs(rtn.scale - span / 15) <= half_unit * (1 + 1e-4));
        if (asymmetric) assert_int_equal(rtn.zero, (int)fmin(15, rint(-lowest / rtn.scale)));
        /* Half a step, plus what rounding the scale and (asymmetric) the zero point moves the ends of the range. */
        double bound = (asymmetric ? 1.0 : 0.5) * rtn.scale + 8 * half_unit;
        for (int i = 0; i < 128; i++) assert_true(fabs(w[i] - (codes[i] - rtn.zero) * (double)rtn.scale) <= bound);
    }
}

/* mse against every fp16 scale there is: no result may beat the optimum, and the loss to it must be small. */
static void check_optimality(bool asymmetric, int64_t count, int rounds, double allowed_total, double allowed_each) {
    uint64_t random = 3;
    float w[128];
    uint8_t codes[128];
    for (int kind = ORACLE_GAUSSIAN; kind <= ORACLE_OUTLIER; kind++) {
        double found = 0, least = 0;
        for (int round = 0; round < rounds; round++) {
            oracle_group((enum oracle_kind)kind, 0.02, w, count, &random);
            double largest = 0;
            for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(w[i]));
            w4_group_result mse = quantize(W4A16_QUANTIZE_MSE, asymmetric, W4A16_FP16, w, count, codes);
            double best = oracle_least_noise(w, count, asymmetric, largest * 0.02, largest * 0.2);
            assert_true(mse.noise >= best * (1 - 1e-9));
            assert_true(mse.noise <= best * (1 + allowed_each));
            found += mse.noise;
            least += best;
        }
        assert_true(found <= least * (1 + allowed_total));
    }
}

static void test_mse_is_near_the_optimum_symmetric(void **unused) {
    (void)unused;
    check_optimality(false, 32, 60, 0.01, 0.15);
    check_optimality(false, 128, 30, 0.01, 0.15);
}

static void test_mse_is_near_the_optimum_asymmetric(void **unused) {
    (void)unused;
    check_optimality(true, 32, 12, 0.01, 0.15);
    check_optimality(true, 128, 4, 0.01, 0.15);
}

/* Groups that 4 bits hold exactly come back exactly. */
static void test_exact_groups(void **unused) {
    (void)unused;
    float w[48];
    uint8_t codes[48];
    for (int i = 0; i < 48; i++) w[i] = (float)(i % 15 - 7) * 0.125f;
    w4_group_result result = quantize(W4A16_QUANTIZE_MSE, false, W4A16_FP16, w, 48, codes);
    assert_true(result.noise == 0 && result.scale == 0.125f);
    for (int i = 0; i < 48; i++) w[i] = (float)(i % 16 - 3) * 0.5f;
    for (int method = 0; method < 2; method++) {
        result = quantize((w4a16_quantize_method)method, true, W4A16_BF16, w, 48, codes);
        assert_true(result.noise == 0 && result.scale == 0.5f && result.zero == 3);
        for (int i = 0; i < 48; i++) assert_int_equal(codes[i], i % 16);
    }
    for (int i = 0; i < 48; i++) w[i] = (float)(i % 3 - 1);
    result = quantize(W4A16_QUANTIZE_MSE, false, W4A16_FP32, w, 48, codes);
    assert_true(result.noise < 1e-12);
}

static void test_zero_group(void **unused) {
    (void)unused;
    float w[40] = {0, -0.0f};
    uint8_t codes[40];
    for (int variant = 0; variant < 4; variant++) {
        w4_group_result result = quantize((w4a16_quantize_method)(variant & 1), variant & 2, W4A16_FP16, w, 40, codes);
        assert_true(result.scale == 1.0f && result.zero == 8 && result.signal == 0 && result.noise == 0);
        for (int i = 0; i < 40; i++) assert_int_equal(codes[i], 8);
    }
}

/* Weights far below and at the end of what a scale dtype can hold. */
static void test_extreme_sizes(void **unused) {
    (void)unused;
    float w[32];
    uint8_t codes[32];
    for (int d = 0; d < 3; d++)
        for (int variant = 0; variant < 4; variant++) {
            w4a16_dtype dtype = scale_dtypes[d];
            const float sizes[] = {0x1p-149f, FLT_MIN, 0x1p-24f, w4_group_limit(dtype)};
            for (int size = 0; size < 4; size++)
                for (int pattern = 0; pattern < 3; pattern++) {
                    for (int i = 0; i < 32; i++)
                        w[i] = sizes[size] * (pattern == 0 ? 1 : pattern == 1 ? -1 : i % 2 ? -1 : 1);
                    w4_group_result result =
                        quantize((w4a16_quantize_method)(variant & 1), variant & 2, dtype, w, 32, codes);
                    check_result(&result, variant & 2, dtype, w, 32, codes);
                }
        }
}

/* Every processor computes the same bits. */
static void test_portable_copy(void **unused) {
    (void)unused;
    uint64_t random = 4;
    float w[LONGEST];
    uint8_t codes[LONGEST], portable_codes[LONGEST];
    for (int round = 0; round < 3000; round++) {
        int64_t count = 1 + (int64_t)oracle_below(&random, LONGEST);
        oracle_group((enum oracle_kind)(round % ORACLE_KINDS), 0.02, w, count, &random);
        w4_group_rule rule = {.method = W4A16_QUANTIZE_MSE,
                              .asymmetric = oracle_below(&random, 2),
                              .scale_dtype = scale_dtypes[oracle_below(&random, 3)]};
        w4_group_result a = w4_quantize_group(&rule, w, count, scratch, codes);
        w4_group_result b = w4_quantize_group_portable(&rule, w, count, scratch, portable_codes);
        assert_true(a.scale == b.scale && a.zero == b.zero && a.signal == b.signal && a.noise == b.noise);
        assert_memory_equal(codes, portable_codes, (size_t)count);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_groups),
        cmocka_unit_test(test_rtn_covers_the_range),
        cmocka_unit_test(test_mse_is_near_the_optimum_symmetric),
        cmocka_unit_test(test_mse_is_near_the_optimum_asymmetric),
        cmocka_unit_test(test_exact_groups),
        cmocka_unit_test(test_zero_group),
        cmocka_unit_test(test_extreme_sizes),
        cmocka_unit_test(test_portable_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
