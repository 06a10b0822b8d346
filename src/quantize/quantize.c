/* SPDX-License-Identifier: Apache-2.0
 * Quantising one matrix: checks, threads over rows, and the packing of the codes. */
#include "quantize/quantize.h"

#include "core/half.h"
#include "core/memory.h"
#include "quantize/group.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

void w4a16_quantize_options_init(w4a16_quantize_options *options) {
    if (options)
        *options = (w4a16_quantize_options){.struct_size = sizeof *options,
                                            .method = W4A16_QUANTIZE_MSE,
                                            .group_size = 128,
                                            .scale_dtype = W4A16_FP16,
                                            .format = W4A16_FORMAT_COMPRESSED_TENSORS};
}

w4a16_status w4_quantize_options_check(const w4a16_quantize_options *options) {
    W4_TRY(w4_check_struct("options", "w4a16_quantize_options_init", options->struct_size, sizeof *options));
    if (options->method != W4A16_QUANTIZE_RTN && options->method != W4A16_QUANTIZE_MSE)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.method is %d; W4A16_QUANTIZE_RTN or _MSE is right",
                       (int)options->method);
    if (options->group_size != -1 && (options->group_size < 32 || options->group_size % 32 != 0))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "options.group_size is %" PRId64 "; it must be a multiple of 32, or -1 for one group per row",
                       options->group_size);
    if (options->asymmetric != 0 && options->asymmetric != 1)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.asymmetric is %d; 0 or 1 is right", options->asymmetric);
    if (!w4_is_scale_dtype(options->scale_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.scale_dtype is %s; it must be fp16, bf16 or fp32",
                       w4a16_dtype_name(options->scale_dtype));
    if (options->threads < 0)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.threads is %d; 0 (all) or more is right",
                       options->threads);
    return W4A16_OK;
}

typedef struct source_matrix {
    const void *w;
    w4a16_dtype dtype;
    int64_t n, k, stride;
} source_matrix;

/* More threads than processors or rows would only cost memory. */
static int thread_count(int wanted, int64_t rows) {
    int64_t threads = wanted ? wanted : omp_get_max_threads();
    threads = w4_minimum(w4_minimum(threads, omp_get_num_procs()), rows);
    return (int)w4_maximum(threads, 1);
}

/* The first column of `row` that cannot be quantised, or k. */
static int64_t first_bad_column(const source_matrix *source, int64_t row, float limit) {
    for (int64_t column = 0; column < source->k; column++) {
        float value = w4_load_float(source->w, source->dtype, (size_t)(row * source->stride + column));
        if (!(fabsf(value) <= limit)) return column; /* also true of NaN */
    }
    return source->k;
}

/* All of w is looked at before anything is written, so that a bad value leaves the outputs alone. */
static w4a16_status check_values(const source_matrix *source, w4a16_dtype scale_dtype, int threads) {
    const float limit = w4_group_limit(scale_dtype);
    int64_t bad_row = source->n;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : bad_row)
    for (int64_t row = 0; row < source->n; row++)
        if (row < bad_row && first_bad_column(source, row, limit) < source->k) bad_row = row;
    if (bad_row == source->n) return W4A16_OK;
    int64_t column = first_bad_column(source, bad_row, limit);
    float value = w4_load_float(source->w, source->dtype, (size_t)(bad_row * source->stride + column));
    if (!isfinite(value))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "w[%" PRId64 ", %" PRId64 "] is %g; weights must be finite",
                       bad_row, column, (double)value);
    return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                   "w[%" PRId64 ", %" PRId64 "] is %g; with fp16 scales weights reach %g at most: use bf16 or fp32 "
                   "scales",
                   bad_row, column, (double)value, (double)limit);
}

/* What one thread works in. Sizes are rounded to cache lines, so that threads share none. */
typedef struct row_buffers {
    uint8_t *memory; /* of all threads */
    uint64_t group_bytes, code_bytes, scratch_bytes;
} row_buffers;

static w4a16_status allocate_buffers(int64_t group_size, int threads, row_buffers *buffers) {
    buffers->group_bytes = (uint64_t)w4_round_up(group_size * (int64_t)sizeof(float), 64);
    buffers->code_bytes = (uint64_t)w4_round_up(group_size + 1, 64); /* + 1: the pair of an odd last code */
    buffers->scratch_bytes = (uint64_t)w4_round_up((int64_t)w4_group_scratch_bytes(group_size), 64);
    uint64_t bytes = buffers->group_bytes + buffers->code_bytes + buffers->scratch_bytes;
    void *memory;
    W4_TRY(w4_allocate(bytes * (uint64_t)threads, "the quantiser's buffers", &memory));
    buffers->memory = memory;
    return W4A16_OK;
}

/* Quantise one row; sums[0] and sums[1] receive its signal and noise. */
static void quantize_row(const w4_group_rule *rule, const source_matrix *source, int64_t row,
                         const row_buffers *buffers, int thread, w4_matrix *matrix, double sums[2]) {
    uint8_t *memory =
        buffers->memory + (uint64_t)thread * (buffers->group_bytes + buffers->code_bytes + buffers->scratch_bytes);
    float *x = (float *)memory;
    uint8_t *codes = memory + buffers->group_bytes, *scratch = codes + buffers->code_bytes;
    uint8_t *packed = matrix->codes + row * w4_matrix_row_bytes(matrix);
    sums[0] = sums[1] = 0;
    for (int64_t group = 0; group < matrix->groups; group++) {
        int64_t first = group * matrix->group_size, count = w4_minimum(matrix->group_size, matrix->k - first);
        for (int64_t i = 0; i < count; i++)
            x[i] = w4_load_float(source->w, source->dtype, (size_t)(row * source->stride + first + i));
        w4_group_result result = w4_quantize_group(rule, x, count, scratch, codes);
        codes[count] = 0; /* the unused nibble of an odd k */
        /* A group starts on a whole byte: group sizes are multiples of 32, and one group per row starts at 0. */
        for (int64_t i = 0; i < count; i += 2) packed[(first + i) / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
        size_t index = (size_t)(row * matrix->groups + group);
        w4_store_double(matrix->scales, matrix->scale_dtype, index, result.scale);
        if (matrix->zeros) ((uint8_t *)matrix->zeros)[index] = (uint8_t)result.zero;
        sums[0] += result.signal;
        sums[1] += result.noise;
    }
}

w4a16_status w4_quantize_matrix(const w4a16_quantize_options *options, const void *w, w4a16_dtype dtype, int64_t stride,
                                w4_matrix *matrix, double *signal, double *noise) {
    const source_matrix source = {.w = w, .dtype = dtype, .n = matrix->n, .k = matrix->k, .stride = stride};
    const w4_group_rule rule = {.method = options->method,
                                .asymmetric = matrix->zero_kind == W4A16_ZERO_INTEGER,
                                .scale_dtype = matrix->scale_dtype};
    const int threads = thread_count(options->threads, source.n);
    W4_TRY(check_values(&source, matrix->scale_dtype, threads));
    row_buffers buffers;
    W4_TRY(allocate_buffers(matrix->group_size, threads, &buffers));
    void *memory;
    w4a16_status status = w4_allocate((uint64_t)source.n * 2 * sizeof(double), "the quantiser's sums", &memory);
    if (status) {
        free(buffers.memory);
        return status;
    }
    double *sums = memory;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t row = 0; row < source.n; row++)
        quantize_row(&rule, &source, row, &buffers, omp_get_thread_num(), matrix, sums + 2 * row);
    /* Added in the order of the rows: the same bits for any number of threads. */
    double total_signal = 0, total_noise = 0;
    for (int64_t row = 0; row < source.n; row++) {
        total_signal += sums[2 * row];
        total_noise += sums[2 * row + 1];
    }
    if (signal) *signal = total_signal;
    if (noise) *noise = total_noise;
    free(buffers.memory);
    free(sums);
    return W4A16_OK;
}

w4a16_status w4a16_quantize(const w4a16_quantize_options *options, const void *w, w4a16_dtype dtype, int64_t n,
                            int64_t k, int64_t stride, uint8_t *codes, void *scales, uint8_t *zeros, double *signal,
                            double *noise) {
    w4a16_quantize_options defaults;
    w4a16_quantize_options_init(&defaults);
    if (!options) options = &defaults;
    W4_TRY(w4_quantize_options_check(options));
    if (!w) return w4_fail_null("w");
    if (!codes) return w4_fail_null("codes");
    if (!scales) return w4_fail_null("scales");
    if (options->asymmetric && !zeros)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "zeros is NULL; options.asymmetric needs it");
    if (dtype != W4A16_FP16 && dtype != W4A16_BF16 && dtype != W4A16_FP32)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "dtype is %s; it must be fp16, bf16 or fp32",
                       w4a16_dtype_name(dtype));
    w4_matrix matrix;
    W4_TRY(w4_matrix_create(n, k, options->group_size, options->scale_dtype,
                            options->asymmetric ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC, 0, &matrix));
    w4a16_status status;
    if (stride < k)
        status =
            w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "stride is %" PRId64 "; it must be at least k = %" PRId64, stride, k);
    else
        status = w4_quantize_matrix(options, w, dtype, stride, &matrix, signal, noise);
    if (!status) {
        size_t entries = (size_t)(matrix.n * matrix.groups);
        memcpy(codes, matrix.codes, (size_t)(matrix.n * w4_matrix_row_bytes(&matrix)));
        memcpy(scales, matrix.scales, entries * w4a16_dtype_size(matrix.scale_dtype));
        if (matrix.zeros) memcpy(zeros, matrix.zeros, entries);
    }
    w4_matrix_free(&matrix);
    return status;
}
