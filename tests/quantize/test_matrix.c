/* SPDX-License-Identifier: Apache-2.0
 * w4a16_quantize: arguments, shapes, element types, sums, threads. */
#include "quantize/group_oracle.h"
#include "w4a16.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const w4a16_dtype dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};

static double decode(w4a16_dtype dtype, const void *array, int64_t index) {
    if (dtype == W4A16_FP32) return ((const float *)array)[index];
    return oracle_decode(dtype == W4A16_FP16 ? oracle_fp16 : oracle_bf16, ((const uint16_t *)array)[index]);
}

static void encode(w4a16_dtype dtype, void *array, int64_t index, double value) {
    if (dtype == W4A16_FP32)
        ((float *)array)[index] = (float)value;
    else
        ((uint16_t *)array)[index] = oracle_encode(dtype == W4A16_FP16 ? oracle_fp16 : oracle_bf16, value);
}

/* Outputs with poison before and guards after, so that a write out of place shows. */
typedef struct outputs {
    size_t code_bytes, scale_bytes, zero_bytes;
    uint8_t *codes, *scales, *zeros;
    double signal, noise;
} outputs;

enum { GUARD = 64, POISON = 0xa5 };

static uint8_t *guarded(size_t bytes) {
    uint8_t *memory = malloc(bytes + GUARD);
    assert_non_null(memory);
    memset(memory, POISON, bytes + GUARD);
    return memory;
}

static outputs make_outputs(int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype) {
    int64_t groups = group_size == -1 ? 1 : (k + group_size - 1) / group_size;
    outputs made = {.code_bytes = (size_t)(n * ((k + 1) / 2)),
                    .scale_bytes = (size_t)(n * groups) * w4a16_dtype_size(scale_dtype),
                    .zero_bytes = (size_t)(n * groups),
                    .signal = -1,
                    .noise = -1};
    made.codes = guarded(made.code_bytes);
    made.scales = guarded(made.scale_bytes);
    made.zeros = guarded(made.zero_bytes);
    return made;
}

static int is_poison(const uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != POISON) return 0;
    return 1;
}

static void check_guards(const outputs *made) {
    assert_true(is_poison(made->codes + made->code_bytes, GUARD));
    assert_true(is_poison(made->scales + made->scale_bytes, GUARD));
    assert_true(is_poison(made->zeros + made->zero_bytes, GUARD));
}

static void check_untouched(const outputs *made) {
    check_guards(made);
    assert_true(is_poison(made->codes, made->code_bytes) && is_poison(made->scales, made->scale_bytes) &&
                is_poison(made->zeros, made->zero_bytes));
    assert_true(made->signal == -1 && made->noise == -1);
}

static void free_outputs(outputs *made) {
    free(made->codes);
    free(made->scales);
    free(made->zeros);
}

static w4a16_quantize_options options_of(w4a16_quantize_method method, int asymmetric, int64_t group_size,
                                         w4a16_dtype scale_dtype) {
    w4a16_quantize_options options;
    w4a16_quantize_options_init(&options);
    options.method = method;
    options.asymmetric = asymmetric;
    options.group_size = group_size;
    options.scale_dtype = scale_dtype;
    return options;
}

static void test_defaults(void **unused) {
    (void)unused;
    w4a16_quantize_options options;
    w4a16_quantize_options_init(&options);
    assert_int_equal(options.struct_size, sizeof options);
    assert_int_equal(options.method, W4A16_QUANTIZE_MSE);
    assert_int_equal(options.group_size, 128);
    assert_int_equal(options.asymmetric, 0);
    assert_int_equal(options.scale_dtype, W4A16_FP16);
    assert_int_equal(options.format, W4A16_FORMAT_COMPRESSED_TENSORS);
    w4a16_quantize_options_init(NULL);
}

/* Every element type and shape: codes are the nearest ones to the scales given, sums are theirs, nothing else is
 * written. */
static void test_shapes_and_types(void **unused) {
    (void)unused;
    static const struct {
        int64_t n, k, group_size, padding;
    } shapes[] = {{1, 1, 32, 0}, {3, 31, 32, 1}, {2, 129, 128, 0}, {5, 200, 64, 7}, {4, 333, -1, 3}, {2, 96, 32, 0}};
    uint64_t random = 5;
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
        for (int variant = 0; variant < 36; variant++) {
            int64_t n = shapes[shape].n, k = shapes[shape].k, stride = k + shapes[shape].padding;
            w4a16_dtype dtype = dtypes[variant % 3], scale_dtype = dtypes[variant / 3 % 3];
            int asymmetric = variant / 9 % 2;
            w4a16_quantize_options options =
                options_of((w4a16_quantize_method)(variant / 18), asymmetric, shapes[shape].group_size, scale_dtype);
            void *w = malloc((size_t)(n * stride) * w4a16_dtype_size(dtype));
            assert_non_null(w);
            for (int64_t i = 0; i < n * stride; i++)
                encode(dtype, w, i, i % stride < k ? 0.05 * oracle_normal(&random) : NAN); /* padding is not read */
            outputs made = make_outputs(n, k, options.group_size, scale_dtype);
            assert_int_equal(w4a16_quantize(&options, w, dtype, n, k, stride, made.codes, made.scales,
                                            asymmetric ? made.zeros : NULL, &made.signal, &made.noise),
                             W4A16_OK);
            check_guards(&made);
            int64_t group_size = options.group_size == -1 ? k : options.group_size;
            int64_t groups = (k + group_size - 1) / group_size;
            double signal = 0, noise = 0;
            for (int64_t row = 0; row < n; row++) {
                for (int64_t column = 0; column < k; column++) {
                    int64_t index = row * groups + column / group_size;
                    double value = decode(dtype, w, row * stride + column),
                           scale = decode(scale_dtype, made.scales, index);
                    int zero = asymmetric ? made.zeros[index] : 8;
                    uint8_t byte = made.codes[row * ((k + 1) / 2) + column / 2];
                    int code = column & 1 ? byte >> 4 : byte & 15;
                    assert_int_equal(code, oracle_code(value, scale, zero));
                    double error = value - (code - zero) * scale;
                    signal += value * value;
                    noise += error * error;
                }
                if (k & 1) assert_int_equal(made.codes[(row + 1) * ((k + 1) / 2) - 1] >> 4, 0);
            }
            assert_true(fabs(made.signal - signal) <= 1e-12 * signal);
            assert_true(fabs(made.noise - noise) <= 1e-12 * noise);
            assert_true(signal > 0 && noise < 0.05 * signal);
            free_outputs(&made);
            free(w);
        }
}

/* An address that suits no float: as in a mapped file. */
static void test_unaligned_source(void **unused) {
    (void)unused;
    enum { N = 3, K = 70 };
    uint64_t random = 6;
    float w[N * K];
    for (int i = 0; i < N * K; i++) w[i] = (float)oracle_unit(&random);
    char shifted[sizeof w + 1];
    memcpy(shifted + 1, w, sizeof w);
    w4a16_quantize_options options = options_of(W4A16_QUANTIZE_MSE, 0, 32, W4A16_FP16);
    outputs a = make_outputs(N, K, 32, W4A16_FP16), b = make_outputs(N, K, 32, W4A16_FP16);
    assert_int_equal(w4a16_quantize(&options, w, W4A16_FP32, N, K, K, a.codes, a.scales, NULL, &a.signal, &a.noise), 0);
    assert_int_equal(w4a16_quantize(&options, shifted + 1, W4A16_FP32, N, K, K, b.codes, b.scales, NULL, NULL, NULL),
                     0);
    assert_memory_equal(a.codes, b.codes, a.code_bytes);
    assert_memory_equal(a.scales, b.scales, a.scale_bytes);
    free_outputs(&a);
    free_outputs(&b);
}

static void test_threads_change_nothing(void **unused) {
    (void)unused;
    enum { N = 101, K = 1000 };
    uint64_t random = 7;
    float *w = malloc(sizeof(float) * N * K);
    assert_non_null(w);
    for (int i = 0; i < N * K; i++) w[i] = (float)oracle_normal(&random);
    w4a16_quantize_options options = options_of(W4A16_QUANTIZE_MSE, 1, 128, W4A16_BF16);
    options.threads = 1;
    outputs one = make_outputs(N, K, 128, W4A16_BF16);
    assert_int_equal(
        w4a16_quantize(&options, w, W4A16_FP32, N, K, K, one.codes, one.scales, one.zeros, &one.signal, &one.noise), 0);
    static const int threads[] = {0, 2, 3, 1000000};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        options.threads = threads[i];
        outputs many = make_outputs(N, K, 128, W4A16_BF16);
        assert_int_equal(w4a16_quantize(&options, w, W4A16_FP32, N, K, K, many.codes, many.scales, many.zeros,
                                        &many.signal, &many.noise),
                         0);
        assert_memory_equal(one.codes, many.codes, one.code_bytes);
        assert_memory_equal(one.scales, many.scales, one.scale_bytes);
        assert_memory_equal(one.zeros, many.zeros, one.zero_bytes);
        assert_true(one.signal == many.signal && one.noise == many.noise);
        free_outputs(&many);
    }
    free_outputs(&one);
    free(w);
}

/* A call that must fail with `status`, say `words`, and write nothing. */
#define CHECK_REFUSED(status, words, ...)                                                                              \
    do {                                                                                                               \
        outputs made = make_outputs(N, K, 32, W4A16_FP32);                                                             \
        assert_int_equal(w4a16_quantize(__VA_ARGS__, &made.signal, &made.noise), status);                              \
        if (!strstr(w4a16_last_error(), words)) fail_msg("'%s' does not say '%s'", w4a16_last_error(), words);         \
        check_untouched(&made);                                                                                        \
        free_outputs(&made);                                                                                           \
    } while (0)

enum { N = 4, K = 64 };

static void test_refused_arguments(void **unused) {
    (void)unused;
    static float w[N * K];
    for (int i = 0; i < N * K; i++) w[i] = 1;
    w4a16_quantize_options good = options_of(W4A16_QUANTIZE_MSE, 0, 32, W4A16_FP16), bad;
    const w4a16_status invalid = W4A16_ERROR_INVALID_ARGUMENT;
    CHECK_REFUSED(invalid, "w is NULL", &good, NULL, W4A16_FP32, N, K, K, made.codes, made.scales, NULL);
    CHECK_REFUSED(invalid, "codes is NULL", &good, w, W4A16_FP32, N, K, K, NULL, made.scales, NULL);
    CHECK_REFUSED(invalid, "scales is NULL", &good, w, W4A16_FP32, N, K, K, made.codes, NULL, NULL);
    CHECK_REFUSED(invalid, "dtype is fp64", &good, w, W4A16_FP64, N, K, K, made.codes, made.scales, NULL);
    CHECK_REFUSED(invalid, "n is 0", &good, w, W4A16_FP32, 0, K, K, made.codes, made.scales, NULL);
    CHECK_REFUSED(invalid, "k is -5", &good, w, W4A16_FP32, N, -5, K, made.codes, made.scales, NULL);
    CHECK_REFUSED(invalid, "stride is 63", &good, w, W4A16_FP32, N, K, 63, made.codes, made.scales, NULL);
#define CHECK_OPTION(field, value, words)                                                                              \
    bad = good;                                                                                                        \
    bad.field = value;                                                                                                 \
    CHECK_REFUSED(invalid, words, &bad, w, W4A16_FP32, N, K, K, made.codes, made.scales, NULL)
    CHECK_OPTION(struct_size, 3, "w4a16_quantize_options_init");
    CHECK_OPTION(method, (w4a16_quantize_method)7, "options.method is 7");
    CHECK_OPTION(group_size, 48, "options.group_size is 48");
    CHECK_OPTION(group_size, 0, "options.group_size is 0");
    CHECK_OPTION(asymmetric, 2, "options.asymmetric is 2");
    CHECK_OPTION(asymmetric, 1, "zeros is NULL");
    CHECK_OPTION(scale_dtype, W4A16_INT8, "options.scale_dtype is int8");
    CHECK_OPTION(threads, -1, "options.threads is -1");
}

static void test_refused_values(void **unused) {
    (void)unused;
    static float w[N * K];
    w4a16_quantize_options options = options_of(W4A16_QUANTIZE_MSE, 0, 32, W4A16_FP16);
    const float values[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        w[3 * K + 1] = values[i]; /* not the first offender */
        w[2 * K + 63] = values[i];
        CHECK_REFUSED(W4A16_ERROR_INVALID_ARGUMENT, "w[2, 63] is ", &options, w, W4A16_FP32, N, K, K, made.codes,
                      made.scales, NULL);
    }
    w[3 * K + 1] = 0;
    /* The largest weight that an fp16 scale can hold is taken, the next is refused with the way out. */
    w[2 * K + 63] = -491280.0f;
    outputs taken = make_outputs(N, K, 32, W4A16_FP32);
    assert_int_equal(w4a16_quantize(&options, w, W4A16_FP32, N, K, K, taken.codes, taken.scales, NULL, NULL, NULL), 0);
    w[2 * K + 63] = -491281.0f;
    free_outputs(&taken);
    CHECK_REFUSED(W4A16_ERROR_INVALID_ARGUMENT, "use bf16 or fp32", &options, w, W4A16_FP32, N, K, K, made.codes,
                  made.scales, NULL);
    options.scale_dtype = W4A16_BF16;
    taken = make_outputs(N, K, 32, W4A16_FP32);
    assert_int_equal(w4a16_quantize(&options, w, W4A16_FP32, N, K, K, taken.codes, taken.scales, NULL, NULL, NULL), 0);
    free_outputs(&taken);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),          cmocka_unit_test(test_shapes_and_types),
        cmocka_unit_test(test_unaligned_source),  cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_refused_arguments), cmocka_unit_test(test_refused_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
