/* SPDX-License-Identifier: Apache-2.0
 * Data, oracle and guarded run of the CPU tests. */
#include "cpu_case.h"

#include "core/half.h"
#include "core/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

uint64_t cpu_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double cpu_random_real(uint64_t *state) {
    return (double)(int64_t)cpu_random(state) * 0x1p-63;
}

static uint16_t to_half(w4a16_dtype dtype, double value) {
    return dtype == W4A16_BF16 ? w4_double_to_bf16(value) : w4_double_to_fp16(value);
}

static double round_to(w4a16_dtype dtype, double value) {
    uint16_t half;
    if (dtype == W4A16_FP32) return (float)value;
    half = to_half(dtype, value);
    return w4_load_float(&half, dtype, 0);
}

static void fill_matrix(const cpu_shape *shape, uint64_t *state, w4_matrix *matrix) {
    for (int64_t row = 0; row < matrix->n; row++) {
        for (int64_t k = 0; k < matrix->k; k++) {
            uint8_t code = (uint8_t)(cpu_random(state) & 15);
            matrix->codes[row * w4_matrix_row_bytes(matrix) + k / 2] |= (uint8_t)(k & 1 ? code << 4 : code);
        }
    }
    for (size_t i = 0; i < (size_t)(matrix->n * matrix->groups); i++) {
        double scale = 0.001 + 0.01 * fabs(cpu_random_real(state));
        if (cpu_random(state) & 1) scale = -scale;
        if (shape->exact) scale = ldexp(scale < 0 ? -1 : 1, -(int)(cpu_random(state) % 4));
        w4_store_double(matrix->scales, matrix->scale_dtype, i, round_to(matrix->scale_dtype, scale));
        if (matrix->zero_kind == W4A16_ZERO_INTEGER) ((uint8_t *)matrix->zeros)[i] = (uint8_t)(cpu_random(state) % 17);
        if (matrix->zero_kind == W4A16_ZERO_FLOAT) {
            double zero = 7.5 + 9 * cpu_random_real(state);
            ((float *)matrix->zeros)[i] = (float)(shape->exact ? floor(zero) : zero);
        }
    }
    for (int64_t k = 0; matrix->k_order && k < matrix->k; k++) {
        int64_t other = (int64_t)(cpu_random(state) % (uint64_t)(k + 1));
        matrix->k_order[k] = matrix->k_order[other];
        matrix->k_order[other] = (int32_t)k;
    }
}

void cpu_case_make(const cpu_shape *shape, uint64_t seed, cpu_case *made) {
    uint64_t state = seed;
    memset(made, 0, sizeof *made);
    made->shape = *shape;
    assert_int_equal(w4_matrix_create(shape->n, shape->k, shape->group_size, shape->scale_dtype, shape->zero_kind,
                                      shape->order, &made->matrix),
                     W4A16_OK);
    fill_matrix(shape, &state, &made->matrix);
    assert_int_equal(w4_matrix_validate(&made->matrix), W4A16_OK);

    /* An odd stride: rows start at any multiple of two bytes. The last row has no padding, so that a sanitizer sees
     * a read past its end. */
    made->lda = shape->k + 5 + !(shape->k & 1);
    size_t elements = (size_t)((shape->m - 1) * made->lda + shape->k);
    made->a = malloc(elements * sizeof *made->a);
    assert_non_null(made->a);
    for (size_t i = 0; i < elements; i++) {
        bool padding = (int64_t)(i % (size_t)made->lda) >= shape->k;
        double value = cpu_random_real(&state) * (cpu_random(&state) % 50 ? 1 : 20);
        if (shape->exact) value = (double)(int)(cpu_random(&state) % 17) - 8;
        made->a[i] = to_half(shape->a_dtype, padding ? NAN : value);
    }
    if (shape->bias) {
        made->bias = malloc((size_t)shape->n * sizeof *made->bias);
        assert_non_null(made->bias);
        for (int64_t i = 0; i < shape->n; i++) {
            double value = shape->exact ? (double)(int)(cpu_random(&state) % 9) - 4 : cpu_random_real(&state);
            made->bias[i] = to_half(shape->c_dtype, value);
        }
    }
}

void cpu_case_free(cpu_case *made) {
    w4_matrix_free(&made->matrix);
    free(made->a);
    free(made->bias);
    memset(made, 0, sizeof *made);
}

const char *cpu_case_text(const cpu_case *made) {
    static char text[256];
    const cpu_shape *s = &made->shape;
    snprintf(text, sizeof text, "m %d n %d k %d group %d a %s c %s scales %s zeros %d order %d bias %d alpha %g%s",
             (int)s->m, (int)s->n, (int)s->k, (int)s->group_size, w4a16_dtype_name(s->a_dtype),
             w4a16_dtype_name(s->c_dtype), w4a16_dtype_name(s->scale_dtype), (int)s->zero_kind, s->order, s->bias,
             (double)s->alpha, s->exact ? " exact" : "");
    return text;
}

void cpu_case_oracle(const cpu_case *made, double *result, double *bound) {
    const w4_matrix *matrix = &made->matrix;
    const cpu_shape *shape = &made->shape;
    double *a = malloc((size_t)matrix->k * sizeof *a), *step = malloc((size_t)matrix->k * sizeof *step);
    assert_true(a && step);
    for (int64_t m = 0; m < shape->m; m++) {
        for (int64_t k = 0; k < matrix->k; k++) {
            int64_t from = matrix->k_order ? matrix->k_order[k] : k;
            a[k] = w4_load_float(made->a, shape->a_dtype, (size_t)(m * made->lda + from));
        }
        /* The coarsest that fixed point may be: 2^-15 of the largest value within 128 columns either way. */
        for (int64_t k = 0; k < matrix->k; k++) {
            step[k] = 0;
            for (int64_t j = k / 128 * 128; j < w4_minimum(matrix->k, k / 128 * 128 + 128); j++)
                step[k] = fmax(step[k], fabs(a[j]) * 0x1p-15);
        }
        for (int64_t n = 0; n < matrix->n; n++) {
            double sum = 0, fixed = 0, single = 0;
            for (int64_t k = 0; k < matrix->k; k++) {
                int64_t group = k / matrix->group_size;
                double scale = w4_load_float(matrix->scales, matrix->scale_dtype, (size_t)(n * matrix->groups + group));
                double zero = w4_matrix_zero(matrix, n, group), code = w4_matrix_code(matrix, n, k);
                sum += a[k] * ((code - zero) * scale);
                fixed += step[k] * fabs((code - zero) * scale);
                single += fabs(a[k] * scale) * (code + fabs(zero));
            }
            double bias = made->bias ? w4_load_float(made->bias, shape->c_dtype, (size_t)n) : 0;
            double blocks = (double)w4_ceil_divide(matrix->k, 32);
            result[m * matrix->n + n] = shape->alpha * sum + bias;
            bound[m * matrix->n + n] = fabs(shape->alpha) * (fixed + single * (blocks + 4) * 0x1p-24);
        }
    }
    free(a);
    free(step);
}

w4_device *cpu_open(const char *level, int threads) {
    w4a16_context_options options = {.struct_size = sizeof options, .threads = threads, .cpu_instruction_set = level};
    w4_device *device = NULL;
    w4a16_status status = w4_cpu_backend.device_open(0, &options, &device);
    if (status == W4A16_ERROR_UNSUPPORTED) {
        print_message("skipped: %s\n", w4a16_last_error());
        return NULL;
    }
    assert_int_equal(status, W4A16_OK);
    return device;
}

static w4_problem problem_of(const cpu_case *made, int64_t m) {
    const cpu_shape *shape = &made->shape;
    return (w4_problem){m,
                        shape->n,
                        shape->k,
                        made->matrix.group_size,
                        shape->a_dtype,
                        shape->c_dtype,
                        shape->scale_dtype,
                        shape->zero_kind,
                        0,
                        false};
}

bool cpu_feasible(w4_device *device, size_t config, const cpu_case *made) {
    char reason[160] = "";
    w4_problem problem = problem_of(made, made->shape.m);
    w4a16_status status = w4_cpu_backend.config_check(device, config, &problem, reason, sizeof reason);
    assert_true(status == W4A16_OK ? !reason[0] : status == W4A16_ERROR_UNSUPPORTED && reason[0]);
    return status == W4A16_OK;
}

void cpu_case_run(w4_device *device, const w4_device_weight *weight, size_t config, const cpu_case *made, int64_t first,
                  int64_t count, uint16_t *c) {
    enum { GUARD = 64, POISON = 0xff /* a NaN in every type */ };
    const cpu_shape *shape = &made->shape;
    int64_t ldc = shape->n + 3;
    size_t elements = (size_t)(count * ldc), size = elements * sizeof *c + 2 * GUARD;
    w4_problem problem = problem_of(made, shape->m);
    size_t workspace_bytes = w4_cpu_backend.workspace_size(device, config, &problem);
    size_t aligned = (workspace_bytes + W4_WORKSPACE_ALIGNMENT - 1) / W4_WORKSPACE_ALIGNMENT * W4_WORKSPACE_ALIGNMENT;
    uint8_t *output = malloc(size),
            *workspace = aligned_alloc(W4_WORKSPACE_ALIGNMENT, aligned + W4_WORKSPACE_ALIGNMENT);
    assert_true(output && workspace);
    memset(output, POISON, size);
    memset(workspace, POISON, aligned + W4_WORKSPACE_ALIGNMENT);
    uint16_t *target = (uint16_t *)(void *)(output + GUARD);
    w4_run run = {
        .weight = weight,
        .config = config,
        .problem = problem,
        .a = made->a + first * made->lda,
        .lda = made->lda,
        .c = target,
        .ldc = ldc,
        .m = count,
        .alpha = shape->alpha,
        .bias = made->bias,
        .bias_dtype = shape->c_dtype,
        .workspace = workspace,
    };
    assert_int_equal(w4_cpu_backend.run(device, &run), W4A16_OK);
    for (size_t i = 0; i < GUARD; i++) {
        assert_int_equal(output[i], POISON);
        assert_int_equal(output[size - 1 - i], POISON);
    }
    for (size_t i = workspace_bytes; i < aligned + W4_WORKSPACE_ALIGNMENT; i++) assert_int_equal(workspace[i], POISON);
    for (int64_t m = 0; m < count; m++) {
        memcpy(c + m * shape->n, target + m * ldc, (size_t)shape->n * sizeof *c);
        for (int64_t n = shape->n; n < ldc; n++) assert_int_equal(target[m * ldc + n], 0xffff);
    }
    free(output);
    free(workspace);
}
