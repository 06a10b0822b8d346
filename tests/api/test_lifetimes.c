/* SPDX-License-Identifier: Apache-2.0
 * Who keeps whom alive, what comes back out of a weight, and the packed file through the API. */
#include "support.h"

#include <unistd.h>

static void parents_may_go_first(void **state) {
    (void)state;
    uint64_t seed = 1;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 50, 130, 32, W4A16_BF16, W4A16_ZERO_INTEGER, TEST_K_ORDER);
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, 5, 130, 130, 0);
    double *product = test_allocate(5 * 50 * sizeof *product);
    test_multiply(&a, &arrays, 1, NULL, product);
    w4a16_context *context = test_context(NULL, 0);
    w4a16_weight *first = NULL, *second = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &first));
    CHECK(w4a16_weight_create(context, &arrays.canonical, &second));
    w4a16_context_destroy(context);
    w4a16_plan *plan = test_plan(first, 5, W4A16_FP16, W4A16_FP16, NULL);
    w4a16_plan *other = test_plan(first, 5, W4A16_FP16, W4A16_BF16, "cpu_reference");
    w4a16_weight_destroy(first);
    /* The caller's arrays are copies of no interest any more. */
    memset(arrays.codes, 0xff, test_weight_code_bytes(&arrays));
    memset(arrays.scales, 0xff, test_weight_scale_bytes(&arrays));
    test_output c;
    test_output_make(&c, W4A16_FP16, 5, 50, 50);
    test_gemm(plan, &a, &c);
    test_check_product(&c, &a, &arrays, 1, product, "orphaned plan");
    test_output_free(&c);
    w4a16_plan_destroy(plan);
    test_output_make(&c, W4A16_BF16, 5, 50, 50);
    test_gemm(other, &a, &c);
    test_check_product(&c, &a, &arrays, 1, product, "the last plan");
    test_output_free(&c);
    w4a16_plan_destroy(other);
    w4a16_weight_destroy(second);
    free(product);
    test_activations_free(&a);
    test_weight_free(&arrays);
}

static void nothing_is_left_after_failures(void **state) {
    (void)state;
    /* LeakSanitizer is the judge: every failing path after something was allocated. */
    uint64_t seed = 1;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 50, 130, 32, W4A16_FP32, W4A16_ZERO_FLOAT, TEST_K_ORDER);
    w4a16_context *context = test_context(NULL, 0);
    w4a16_weight *weight = NULL;
    ((float *)arrays.scales)[3] = NAN;
    assert_int_not_equal(w4a16_weight_create(context, &arrays.canonical, &weight), W4A16_OK);
    ((float *)arrays.scales)[3] = 1;
    arrays.k_order[0] = arrays.k_order[1];
    assert_int_not_equal(w4a16_weight_create(context, &arrays.canonical, &weight), W4A16_OK);
    arrays.canonical.k_order = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.config = "none";
    w4a16_plan *plan = NULL;
    assert_int_not_equal(w4a16_plan_create(weight, &options, &plan), W4A16_OK);
    assert_int_not_equal(w4a16_weight_save(weight, "/nonexistent/x", 0), W4A16_OK);
    assert_null(plan);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

/** A shape too large for any machine is refused without touching the arrays. */
static void impossible_sizes_are_out_of_memory(void **state) {
    (void)state;
    uint8_t codes[1] = {0};
    float scales[1] = {1};
    w4a16_canonical canonical;
    w4a16_canonical_init(&canonical);
    canonical.n = canonical.k = INT64_C(1) << 30;
    canonical.group_size = -1;
    canonical.codes = codes;
    canonical.scales = scales;
    canonical.scale_dtype = W4A16_FP32;
    w4a16_context *context = test_context(NULL, 0);
    w4a16_weight *weight = NULL;
    assert_int_equal(w4a16_weight_create(context, &canonical, &weight), W4A16_ERROR_OUT_OF_MEMORY);
    assert_null(weight);
    w4a16_context_destroy(context);
}

static void check_export(const w4a16_weight *weight, const test_weight *arrays) {
    const w4a16_canonical *canonical = &arrays->canonical;
    w4a16_weight_info info = {.struct_size = sizeof info};
    CHECK(w4a16_weight_query(weight, &info));
    assert_int_equal(info.n, canonical->n);
    assert_int_equal(info.k, canonical->k);
    assert_int_equal(info.groups, arrays->groups);
    if (canonical->group_size == -1) assert_int_equal(info.group_size, canonical->k);
    assert_int_equal(info.scale_dtype, canonical->scale_dtype);
    assert_int_equal(info.zero_kind, canonical->zero_kind);
    assert_int_equal(info.has_k_order, canonical->k_order != NULL);
    assert_true(info.device_bytes >= test_weight_code_bytes(arrays));
    size_t code_bytes = test_weight_code_bytes(arrays), scale_bytes = test_weight_scale_bytes(arrays);
    size_t zero_bytes = test_weight_zero_bytes(arrays), order_bytes = (size_t)canonical->k * 4;
    uint8_t *codes = test_allocate(code_bytes), *scales = test_allocate(scale_bytes);
    uint8_t *zeros = test_allocate(zero_bytes + 1);
    int32_t *k_order = test_allocate(order_bytes);
    memset(zeros, 0x77, zero_bytes + 1);
    memset(k_order, 0x77, order_bytes);
    CHECK(w4a16_weight_export(weight, codes, scales, zeros, k_order));
    for (int64_t row = 0; row < canonical->n; row++)
        for (int64_t j = 0; j < canonical->k; j++) {
            size_t at = (size_t)(row * ((canonical->k + 1) / 2) + j / 2);
            int shift = j % 2 ? 4 : 0;
            assert_int_equal(codes[at] >> shift & 15, arrays->codes[at] >> shift & 15);
        }
    assert_memory_equal(scales, arrays->scales, scale_bytes);
    if (zero_bytes) assert_memory_equal(zeros, arrays->zeros, zero_bytes);
    assert_int_equal(zeros[zero_bytes], 0x77); /* and where there are none, nothing */
    if (canonical->k_order)
        assert_memory_equal(k_order, arrays->k_order, order_bytes);
    else
        for (int64_t j = 0; j < canonical->k; j++) assert_int_equal(k_order[j], 0x77777777);
    free(codes);
    free(scales);
    free(zeros);
    free(k_order);
}

/** Canonical -> device -> canonical, and -> packed file -> another instruction set's device -> canonical: bit for bit,
 * and the same products. */
static void weights_come_back_as_they_went_in(void **state) {
    (void)state;
    static const struct {
        int64_t n, k, group_size;
    } shapes[] = {{1, 1, -1},      {1, 33, 32},   {17, 31, -1},  {16, 64, 64},  {65, 200, 96},
                  {130, 257, 128}, {7, 1000, 32}, {40, 96, 128}, {33, 300, 160}};
    static const w4a16_dtype scales[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    char folder[64], path[96];
    test_make_folder(folder);
    snprintf(path, sizeof path, "%s/weight", folder);
    w4a16_context *context = test_context(NULL, 0), *reference = test_context("reference", 1);
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int kind = 0; kind < 18; kind++) {
            uint64_t seed = i * 100 + (uint64_t)kind;
            test_weight arrays;
            test_weight_make(&arrays, &seed, shapes[i].n, shapes[i].k, shapes[i].group_size, scales[kind % 3],
                             (w4a16_zero_kind)(kind / 3 % 3), kind / 9 ? TEST_K_ORDER : 0);
            w4a16_weight *weight = NULL, *loaded = NULL, *again = NULL;
            CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
            check_export(weight, &arrays);
            CHECK(w4a16_weight_save(weight, path, 1));
            REFUSED(w4a16_weight_save(weight, path, 0), W4A16_ERROR_EXISTS, path);
            CHECK(w4a16_weight_load(reference, path, &loaded));
            check_export(loaded, &arrays);
            CHECK(w4a16_weight_load(context, path, &again));
            check_export(again, &arrays);
            test_activations a;
            test_activations_make(&a, &seed, W4A16_FP16, 3, shapes[i].k, shapes[i].k, 0);
            test_output before, after;
            test_output_make(&before, W4A16_FP16, 3, shapes[i].n, shapes[i].n);
            test_output_make(&after, W4A16_FP16, 3, shapes[i].n, shapes[i].n);
            w4a16_plan *plan = test_plan(weight, 3, W4A16_FP16, W4A16_FP16, NULL);
            test_gemm(plan, &a, &before);
            w4a16_plan_destroy(plan);
            plan = test_plan(again, 3, W4A16_FP16, W4A16_FP16, NULL);
            test_gemm(plan, &a, &after);
            w4a16_plan_destroy(plan);
            assert_memory_equal(before.data, after.data, (size_t)(3 * shapes[i].n) * 2);
            test_output_free(&before);
            test_output_free(&after);
            test_activations_free(&a);
            w4a16_weight_destroy(weight);
            w4a16_weight_destroy(loaded);
            w4a16_weight_destroy(again);
            test_weight_free(&arrays);
        }
    w4a16_context_destroy(context);
    w4a16_context_destroy(reference);
    test_remove_folder(folder);
}

/** Codes in a row's unused last nibble are nobody's: two callers with other rubbish there get the same weight. */
static void the_spare_nibble_does_not_matter(void **state) {
    (void)state;
    uint64_t seed = 6;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 3, 5, 32, W4A16_FP16, W4A16_ZERO_FLOAT, 0);
    w4a16_context *context = test_context(NULL, 0);
    uint16_t results[2][3];
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, 1, 5, 5, 0);
    for (int i = 0; i < 2; i++) {
        for (int row = 0; row < 3; row++)
            arrays.codes[row * 3 + 2] = (uint8_t)((arrays.codes[row * 3 + 2] & 15) | (i ? 0xf0 : 0));
        w4a16_weight *weight = NULL;
        CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
        w4a16_plan *plan = test_plan(weight, 1, W4A16_FP16, W4A16_FP16, NULL);
        CHECK(w4a16_gemm_host(plan, a.data, 5, results[i], 3, 1));
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(weight);
    }
    assert_memory_equal(results[0], results[1], sizeof results[0]);
    test_activations_free(&a);
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parents_may_go_first),
        cmocka_unit_test(nothing_is_left_after_failures),
        cmocka_unit_test(impossible_sizes_are_out_of_memory),
        cmocka_unit_test(weights_come_back_as_they_went_in),
        cmocka_unit_test(the_spare_nibble_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
