/* SPDX-License-Identifier: Apache-2.0
 * Packing a weight for the CPU and taking it back must not change a bit. */
#include "cpu_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void round_trip(const cpu_shape *shape, int threads) {
    cpu_case made;
    w4_matrix back;
    w4_device_weight *weight;
    w4_device *device = cpu_open(NULL, threads);
    cpu_case_make(shape, 7, &made);
    assert_int_equal(w4_cpu_backend.weight_upload(device, &made.matrix, &weight), W4A16_OK);
    assert_int_equal(w4_matrix_create(shape->n, shape->k, shape->group_size, shape->scale_dtype, shape->zero_kind,
                                      shape->order, &back),
                     W4A16_OK);
    assert_int_equal(w4_cpu_backend.weight_download(weight, &back), W4A16_OK);

    size_t codes = (size_t)(shape->n * w4_matrix_row_bytes(&back)), groups = (size_t)(shape->n * back.groups);
    size_t scales = groups * w4a16_dtype_size(shape->scale_dtype), zeros = groups * w4_zero_size(shape->zero_kind);
    assert_memory_equal(back.codes, made.matrix.codes, codes);
    assert_memory_equal(back.scales, made.matrix.scales, scales);
    if (zeros) assert_memory_equal(back.zeros, made.matrix.zeros, zeros);
    if (shape->order) assert_memory_equal(back.k_order, made.matrix.k_order, (size_t)shape->k * sizeof(int32_t));
    assert_true(w4_cpu_backend.weight_bytes(weight) >= codes + scales + zeros);

    w4_cpu_backend.weight_free(weight);
    w4_cpu_backend.device_close(device);
    w4_matrix_free(&back);
    cpu_case_free(&made);
}

static void test_round_trip(void **state) {
    static const int64_t rows[] = {1, 7, 16, 17, 200}, columns[] = {1, 5, 8, 31, 33, 77, 160, 1000, 4096};
    static const int64_t groups[] = {32, 64, 96, 128, 256, -1};
    static const w4a16_dtype scales[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    int cases = 0;
    (void)state;
    for (size_t n = 0; n < 5; n++) {
        for (size_t k = 0; k < 9; k++) {
            for (size_t g = 0; g < 6; g++, cases++) {
                cpu_shape shape = {.m = 1, .n = rows[n], .k = columns[k], .group_size = groups[g]};
                shape.a_dtype = shape.c_dtype = W4A16_FP16;
                shape.scale_dtype = scales[cases % 3];
                shape.zero_kind = (w4a16_zero_kind)(cases / 3 % 3);
                shape.order = cases & 1;
                round_trip(&shape, 1 + cases % 3);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
