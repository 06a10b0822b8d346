/* SPDX-License-Identifier: Apache-2.0
 * The canonical matrix: its shapes, and each way in which a caller's arrays can be wrong. */
#include "core/half.h"
#include "core/matrix.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { N = 3, K = 97, GROUPS = 4, ROW_BYTES = 49 };

/* A good matrix; each test breaks one thing of a fresh copy. */
typedef struct sample {
    w4a16_canonical canonical;
    uint8_t codes[N * ROW_BYTES];
    float scales[N * GROUPS];
    uint8_t integer_zeros[N * GROUPS];
    float float_zeros[N * GROUPS];
    int32_t k_order[K];
} sample;

static void make_sample(sample *s) {
    memset(s, 0, sizeof *s);
    for (int i = 0; i < N * ROW_BYTES; i++) s->codes[i] = (uint8_t)(i * 37 + 11);
    for (int i = 0; i < N * GROUPS; i++) {
        s->scales[i] = 0.25f * (float)(i + 1);
        s->integer_zeros[i] = (uint8_t)(i % 17);
        s->float_zeros[i] = 7.5f - (float)i;
    }
    for (int j = 0; j < K; j++) s->k_order[j] = (j * 5 + 3) % K;
    w4a16_canonical_init(&s->canonical);
    s->canonical.n = N;
    s->canonical.k = K;
    s->canonical.group_size = 32;
    s->canonical.codes = s->codes;
    s->canonical.scales = s->scales;
    s->canonical.scale_dtype = W4A16_FP32;
    s->canonical.zero_kind = W4A16_ZERO_INTEGER;
    s->canonical.zeros = s->integer_zeros;
    s->canonical.k_order = s->k_order;
}

static void assert_refused(const sample *s, const char *text) {
    w4_matrix matrix;
    memset(&matrix, 0xa5, sizeof matrix);
    w4_matrix untouched = matrix;
    assert_int_equal(w4_matrix_from_canonical(&s->canonical, &matrix), W4A16_ERROR_INVALID_ARGUMENT);
    assert_memory_equal(&matrix, &untouched, sizeof matrix);
    if (!strstr(w4a16_last_error(), text)) fail_msg("'%s' is not in: %s", text, w4a16_last_error());
}

static void good_arrays_are_copied(void **state) {
    (void)state;
    sample s;
    make_sample(&s);
    w4_matrix matrix;
    assert_int_equal(w4_matrix_from_canonical(&s.canonical, &matrix), W4A16_OK);
    assert_int_equal(matrix.n, N);
    assert_int_equal(matrix.k, K);
    assert_int_equal(matrix.group_size, 32);
    assert_int_equal(matrix.groups, GROUPS);
    for (int row = 0; row < N; row++) {
        for (int column = 0; column < K; column++) {
            int byte = s.codes[row * ROW_BYTES + column / 2];
            assert_int_equal(w4_matrix_code(&matrix, row, column), column % 2 ? byte / 16 : byte % 16);
        }
        /* The nibble after an odd k is nobody's: it must not reach files or checksums. */
        assert_int_equal(matrix.codes[row * ROW_BYTES + ROW_BYTES - 1] >> 4, 0);
        for (int group = 0; group < GROUPS; group++)
            assert_true(w4_matrix_zero(&matrix, row, group) == (row * GROUPS + group) % 17);
    }
    assert_memory_equal(matrix.scales, s.scales, sizeof s.scales);
    assert_memory_equal(matrix.k_order, s.k_order, sizeof s.k_order);
    w4_matrix_free(&matrix);
    w4_matrix_free(&matrix);
}

static void float_and_symmetric_zeros(void **state) {
    (void)state;
    sample s;
    w4_matrix matrix;
    make_sample(&s);
    s.canonical.zero_kind = W4A16_ZERO_FLOAT;
    s.canonical.zeros = s.float_zeros;
    assert_int_equal(w4_matrix_from_canonical(&s.canonical, &matrix), W4A16_OK);
    assert_true(w4_matrix_zero(&matrix, 2, 3) == 7.5 - 11);
    w4_matrix_free(&matrix);
    s.canonical.zero_kind = W4A16_ZERO_SYMMETRIC;
    s.canonical.zeros = NULL;
    s.canonical.k_order = NULL;
    assert_int_equal(w4_matrix_from_canonical(&s.canonical, &matrix), W4A16_OK);
    assert_true(w4_matrix_zero(&matrix, 1, 1) == 8);
    assert_null(matrix.zeros);
    assert_null(matrix.k_order);
    w4_matrix_free(&matrix);
    assert_int_equal(w4_zero_size(W4A16_ZERO_SYMMETRIC), 0);
    assert_int_equal(w4_zero_size(W4A16_ZERO_INTEGER), 1);
    assert_int_equal(w4_zero_size(W4A16_ZERO_FLOAT), 4);
}

static void groups_of_every_length(void **state) {
    (void)state;
    static const struct {
        int64_t k, group_size, groups;
    } cases[] = {{1, -1, 1},    {1, 32, 1},     {32, 32, 1},  {33, 32, 2},
                 {1000, -1, 1}, {1000, 96, 11}, {96, 128, 1}, {4096, 128, 32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        w4_matrix matrix;
        assert_int_equal(w4_matrix_create(2, cases[i].k, cases[i].group_size, W4A16_BF16, W4A16_ZERO_FLOAT, 1, &matrix),
                         W4A16_OK);
        assert_int_equal(matrix.groups, cases[i].groups);
        assert_true(matrix.group_size > 0);
        assert_int_equal(w4_matrix_row_bytes(&matrix), (cases[i].k + 1) / 2);
        w4_matrix_free(&matrix);
    }
}

static void wrong_shapes_are_refused(void **state) {
    (void)state;
    static const int64_t bad_sizes[] = {0, -1, INT64_MIN, INT64_MAX, INT64_C(1) << 40};
    static const int64_t bad_groups[] = {0, -2, -32, 1, 16, 31, 33, 48, 100, INT64_MIN, INT64_MAX};
    sample s;
    for (size_t i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++) {
        make_sample(&s);
        s.canonical.n = bad_sizes[i];
        assert_refused(&s, "n is ");
        make_sample(&s);
        s.canonical.k = bad_sizes[i];
        assert_refused(&s, "k is ");
    }
    for (size_t i = 0; i < sizeof bad_groups / sizeof *bad_groups; i++) {
        make_sample(&s);
        s.canonical.group_size = bad_groups[i];
        assert_refused(&s, "group_size");
    }
    make_sample(&s);
    s.canonical.group_size = K; /* one group per row is said with -1 */
    assert_refused(&s, "group_size");
    static const int bad_dtypes[] = {W4A16_DTYPE_NONE, W4A16_FP64, W4A16_UINT8, -1, 99};
    for (size_t i = 0; i < sizeof bad_dtypes / sizeof *bad_dtypes; i++) {
        make_sample(&s);
        s.canonical.scale_dtype = (w4a16_dtype)bad_dtypes[i];
        assert_refused(&s, "scale_dtype");
    }
    static const int bad_kinds[] = {3, -1, 99};
    for (size_t i = 0; i < 3; i++) {
        make_sample(&s);
        s.canonical.zero_kind = (w4a16_zero_kind)bad_kinds[i];
        assert_refused(&s, "zero_kind");
    }
}

static void missing_arrays_are_refused(void **state) {
    (void)state;
    sample s;
    w4_matrix matrix;
    assert_int_equal(w4_matrix_from_canonical(NULL, &matrix), W4A16_ERROR_INVALID_ARGUMENT);
    make_sample(&s);
    s.canonical.struct_size = 0;
    assert_refused(&s, "struct_size");
    make_sample(&s);
    s.canonical.codes = NULL;
    assert_refused(&s, "codes");
    make_sample(&s);
    s.canonical.scales = NULL;
    assert_refused(&s, "scales");
    make_sample(&s);
    s.canonical.zeros = NULL;
    assert_refused(&s, "zeros");
    make_sample(&s);
    s.canonical.zero_kind = W4A16_ZERO_SYMMETRIC;
    assert_refused(&s, "zeros");
}

static void wrong_content_is_refused_and_placed(void **state) {
    (void)state;
    static const float bad_floats[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f};
    sample s;
    for (size_t i = 0; i < 6; i++) {
        make_sample(&s);
        s.scales[2 * GROUPS + 1] = bad_floats[i];
        assert_refused(&s, "[n 2, group 1]");
    }
    for (size_t i = 0; i < 4; i++) {
        make_sample(&s);
        s.canonical.zero_kind = W4A16_ZERO_FLOAT;
        s.canonical.zeros = s.float_zeros;
        s.float_zeros[GROUPS + 3] = bad_floats[i];
        assert_refused(&s, "[n 1, group 3]");
    }
    static const uint8_t bad_zeros[] = {17, 128, 255};
    for (size_t i = 0; i < 3; i++) {
        make_sample(&s);
        s.integer_zeros[N * GROUPS - 1] = bad_zeros[i];
        assert_refused(&s, "[n 2, group 3]");
    }
    static const int32_t bad_columns[] = {-1, K, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        make_sample(&s);
        s.k_order[40] = bad_columns[i];
        assert_refused(&s, "k_order[40]");
    }
    make_sample(&s);
    s.k_order[50] = s.k_order[49];
    assert_refused(&s, "k_order");
}

static void half_scales_are_checked_too(void **state) {
    (void)state;
    static const struct {
        w4a16_dtype dtype;
        uint16_t bits;
    } bad[] = {{W4A16_FP16, 0},      {W4A16_FP16, 0x8000}, {W4A16_FP16, 0x7c00}, {W4A16_FP16, 0x7e01},
               {W4A16_BF16, 0x7f80}, {W4A16_BF16, 0xffc0}, {W4A16_BF16, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sample s;
        make_sample(&s);
        uint16_t scales[N * GROUPS];
        for (int j = 0; j < N * GROUPS; j++) scales[j] = 1; /* the least subnormal number is a legal scale */
        s.canonical.scale_dtype = bad[i].dtype;
        s.canonical.scales = scales;
        w4_matrix matrix;
        assert_int_equal(w4_matrix_from_canonical(&s.canonical, &matrix), W4A16_OK);
        w4_matrix_free(&matrix);
        scales[GROUPS] = bad[i].bits;
        assert_refused(&s, "[n 1, group 0]");
    }
}

/** A matrix with these scales, two groups a row, and nothing else. */
static w4_matrix two_groups(w4a16_dtype dtype, const void *scales, int64_t rows) {
    return (w4_matrix){
        .n = rows, .k = 64, .group_size = 32, .groups = 2, .scale_dtype = dtype, .scales = (void *)(uintptr_t)scales};
}

static bool is_uneven(const float scales[][2], int64_t rows) {
    w4_matrix matrix = two_groups(W4A16_FP32, scales, rows);
    return w4_matrix_scales_uneven(&matrix);
}

static void uneven_scales_are_found(void **state) {
    (void)state;
    const float past_one = nextafterf(1, 2), over = nextafterf(0x1p60f, INFINITY), under = nextafterf(0x1p-60f, 0);
    const struct {
        float scales[2][2];
        bool uneven;
    } cases[] = {
        {{{0.01f, 0.02f}, {3e-4f, -1}}, false},
        {{{1, 1}, {1e-30f, 1e30f}}, true},
        {{{1, 1}, {1e30f, 1e-30f}}, true},
        {{{1e-12f, 1e12f}, {1, 1}}, true}, /* 2^79 apart, each within the range */
        {{{0x1p-70f, 0x1p-70f}, {0x1p-70f, 0x1p-70f}}, true},
        {{{0x1p70f, 0x1p70f}, {0x1p70f, 0x1p70f}}, true},
        {{{0x1p-50f, 0x1p-50f}, {0x1p50f, 0x1p50f}}, false}, /* only scales of one row are compared */
        {{{0x1p-60f, 0x1p-60f}, {0x1p60f, 0x1p60f}}, false},
        {{{0x1p-60f, 1}, {1, 0x1p60f}}, false}, /* exactly 2^60 apart */
        {{{0x1p-60f, past_one}, {1, 1}}, true},
        {{{1, 1}, {-past_one, -0x1p-60f}}, true}, /* signs do not count */
        {{{-1, 1}, {1, -1}}, false},
        {{{1, 1}, {0x1p60f, over}}, true},
        {{{1, 1}, {-over, 0x1p60f}}, true},
        {{{under, 0x1p-60f}, {1, 1}}, true},
        {{{1, 1}, {0x1p-60f, -under}}, true},
        {{{1, 1}, {0x1p-149f, 1}}, true}, /* subnormal */
        {{{3.4e38f, 3.4e38f}, {1, 1}}, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (is_uneven(cases[i].scales, 2) != cases[i].uneven)
            fail_msg("scales %a, %a; %a, %a: uneven is %d", (double)cases[i].scales[0][0],
                     (double)cases[i].scales[0][1], (double)cases[i].scales[1][0], (double)cases[i].scales[1][1],
                     !cases[i].uneven);
    /* Of one row only the first counts. */
    const float rows[][2] = {{1, 1}, {1e-30f, 1e30f}};
    assert_false(is_uneven(rows, 1));
}

static void half_scales_may_be_uneven(void **state) {
    (void)state;
    /* fp16 cannot be: from its least subnormal to its largest number it is 2^40. bf16 can. */
    static const struct {
        w4a16_dtype dtype;
        uint16_t scales[3];
        bool uneven;
    } cases[] = {
        {W4A16_FP16, {0x211f, 0x2e66, 0x3c00}, false}, /* 0.01, 0.1, 1 */
        {W4A16_FP16, {0x0001, 0x7bff, 0x8001}, false},
        {W4A16_BF16, {0x3c24, 0x3dcd, 0xbf80}, false}, /* 0.01, 0.1, -1 */
        {W4A16_BF16, {0x0da2, 0x3f80, 0x7149}, true},  /* 1e-30, 1, 1e30 */
        {W4A16_BF16, {0x2180, 0x3f80, 0x3f80}, false}, /* 2^-60, 1 */
        {W4A16_BF16, {0x2180, 0x3f80, 0x3f81}, true},
        {W4A16_BF16, {0x1c80, 0x1c80, 0x1c80}, true}, /* 2^-70 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        w4_matrix matrix = {.n = 1,
                            .k = 96,
                            .group_size = 32,
                            .groups = 3,
                            .scale_dtype = cases[i].dtype,
                            .scales = (void *)(uintptr_t)cases[i].scales};
        if (w4_matrix_scales_uneven(&matrix) != cases[i].uneven) fail_msg("case %d", (int)i);
    }
}

/** Of fp32 scales, two groups a row. */
static void units_are_an_eighth_of_the_largest_scale(void **state) {
    (void)state;
    const float under = nextafterf(0x1p-7f, 0);
    const struct {
        float scales[2], unit;
        bool near;
    } cases[] = {
        {{1, 1}, 0x1p-3f, true},
        {{1.99f, -0.5f}, 0x1p-3f, true},
        {{-2, 0.5f}, 0x1p-2f, true},
        {{0.01f, 0.0125f}, 0x1p-10f, true},
        {{1, 0x1p-7f}, 0x1p-3f, true}, /* a sixteenth of the unit */
        {{1, -under}, 0x1p-3f, false},
        {{0x1p-50f, 0x1p-50f}, 0x1p-53f, true},
        {{0x1p50f, 0x1p40f}, 0x1p47f, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float unit = 0;
        w4_matrix matrix = two_groups(W4A16_FP32, cases[i].scales, 1);
        if (w4_matrix_scale_units(&matrix, &unit) != cases[i].near || unit != cases[i].unit)
            fail_msg("scales %a, %a: unit %a, near is %d", (double)cases[i].scales[0], (double)cases[i].scales[1],
                     (double)unit, !cases[i].near);
    }
}

/** With units up to 2^-12 fp16 holds all products of codes and fp16 scales; below 2^-14 it does not hold 1 / unit. */
static void units_of_half_scales_are_bounded(void **state) {
    (void)state;
    static const struct {
        uint16_t scales[2];
        float unit;
        bool near;
    } cases[] = {
        {{0x3c00, 0x3c00}, 0x1p-3f, true},                                      /* 1 */
        {{0x1bff, 0x0001}, 0x1p-12f, true},                                     /* just below 2^-8, and 2^-24 */
        {{0x1c00, 0x0001}, 0x1p-11f, false},                                    /* 2^-8 */
        {{0x8001, 0x0001}, 0x1p-14f, true},  {{0x7bff, 0x7bff}, 0x1p12f, true}, /* 65504 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float unit = 0;
        w4_matrix matrix = two_groups(W4A16_FP16, cases[i].scales, 1);
        if (w4_matrix_scale_units(&matrix, &unit) != cases[i].near || unit != cases[i].unit)
            fail_msg("case %d: unit %a", (int)i, (double)unit);
    }
}

static void one_scale_is_its_own_unit(void **state) {
    (void)state;
    const float scales[] = {0.3f, -1e-9f};
    float units[2];
    w4_matrix matrix = {
        .n = 2, .k = 64, .group_size = 64, .groups = 1, .scale_dtype = W4A16_FP32, .scales = (void *)(uintptr_t)scales};
    assert_true(w4_matrix_scale_units(&matrix, units));
    assert_memory_equal(units, scales, sizeof scales);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_arrays_are_copied),           cmocka_unit_test(float_and_symmetric_zeros),
        cmocka_unit_test(groups_of_every_length),           cmocka_unit_test(wrong_shapes_are_refused),
        cmocka_unit_test(missing_arrays_are_refused),       cmocka_unit_test(wrong_content_is_refused_and_placed),
        cmocka_unit_test(half_scales_are_checked_too),      cmocka_unit_test(uneven_scales_are_found),
        cmocka_unit_test(half_scales_may_be_uneven),        cmocka_unit_test(units_are_an_eighth_of_the_largest_scale),
        cmocka_unit_test(units_of_half_scales_are_bounded), cmocka_unit_test(one_scale_is_its_own_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
