/* SPDX-License-Identifier: Apache-2.0
 * Packing a canonical matrix into panels of 16 rows, and back without loss. */
#include "backend/cpu/cpu.h"

#include "core/half.h"
#include "core/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t w4_cpu_block_columns(int64_t k, int64_t group_size) {
    if (group_size >= k) return W4_CPU_BLOCK; /* one group: blocks need not respect any boundary */
    int64_t block = W4_CPU_BLOCK;
    while (group_size % block != 0) block /= 2;
    return block;
}

/** Eight codes in canonical order (column i in nibble i) to the order of a line's word, and back. */
static uint32_t word_from_canonical(uint32_t codes) {
    uint32_t even = codes & 0x0f0f0f0fu, odd = codes >> 4 & 0x0f0f0f0fu;
    even = (even | even >> 4) & 0x00ff00ffu;
    odd = (odd | odd >> 4) & 0x00ff00ffu;
    even = (even | even >> 8) & 0xffffu;
    odd = (odd | odd >> 8) & 0xffffu;
    return even | odd << 16;
}

static uint32_t word_to_canonical(uint32_t word) {
    uint32_t even = word & 0xffffu, odd = word >> 16;
    even = (even | even << 8) & 0x00ff00ffu;
    odd = (odd | odd << 8) & 0x00ff00ffu;
    even = (even | even << 4) & 0x0f0f0f0fu;
    odd = (odd | odd << 4) & 0x0f0f0f0fu;
    return even | odd << 4;
}

typedef struct pack_job {
    w4_device_weight *weight;
    const w4_matrix *matrix;
} pack_job;

/** Bytes of a row's codes that belong to the line at column k: 4, or fewer at the row's end. */
static size_t line_bytes(int64_t row_bytes, int64_t k) {
    return (size_t)w4_minimum(4, row_bytes - k / 2);
}

static uint32_t load_word(const uint8_t *bytes, size_t count) {
    uint32_t word = 0;
    for (size_t i = 0; i < count; i++) word |= (uint32_t)bytes[i] << 8 * i;
    return word;
}

static void pack_panel(void *user, int64_t panel, int thread) {
    const pack_job *job = user;
    const w4_device_weight *weight = job->weight;
    const w4_matrix *matrix = job->matrix;
    uint8_t *target = weight->data + (size_t)panel * weight->panel_bytes;
    int64_t row_bytes = w4_matrix_row_bytes(matrix), first = panel * W4_CPU_PANEL;
    int64_t rows = w4_minimum(W4_CPU_PANEL, weight->n - first);
    size_t scale_size = w4a16_dtype_size(weight->scale_dtype), zero_size = w4_zero_size(weight->zero_kind);
    (void)thread;
    for (int64_t k = 0; k < weight->k; k += W4_CPU_LINE_K) {
        uint32_t *line = (uint32_t *)(void *)(target + k / W4_CPU_LINE_K * W4_CPU_LINE);
        size_t bytes = line_bytes(row_bytes, k);
        for (int64_t i = 0; i < rows; i++)
            line[i] = word_from_canonical(load_word(matrix->codes + (first + i) * row_bytes + k / 2, bytes));
    }
    for (int64_t group = 0; group < weight->groups; group++) {
        for (int64_t i = 0; i < rows; i++) {
            size_t from = (size_t)((first + i) * weight->groups + group), to = (size_t)(group * W4_CPU_PANEL + i);
            memcpy(target + weight->scale_offset + to * scale_size, (const char *)matrix->scales + from * scale_size,
                   scale_size);
            if (zero_size)
                memcpy(target + weight->zero_offset + to * zero_size, (const char *)matrix->zeros + from * zero_size,
                       zero_size);
        }
    }
}

/** Whether every scale and zero lies in the range that the fast kernels are correct for. */
static bool is_fixed_point(const w4_matrix *matrix) {
    size_t count = (size_t)(matrix->n * matrix->groups);
    for (size_t i = 0; i < count; i++) {
        float scale = fabsf(w4_load_float(matrix->scales, matrix->scale_dtype, i));
        if (!(scale >= W4_CPU_MIN_SCALE && scale <= W4_CPU_MAX_SCALE)) return false;
    }
    if (matrix->zero_kind != W4A16_ZERO_FLOAT) return true;
    for (size_t i = 0; i < count; i++) {
        float zero = fabsf(w4_load_float(matrix->zeros, W4A16_FP32, i));
        if (zero != 0 && !(zero >= W4_CPU_MIN_ZERO && zero <= W4_CPU_MAX_ZERO)) return false;
    }
    return true;
}

w4a16_status w4_cpu_weight_upload(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight) {
    w4_device_weight *made = calloc(1, sizeof *made);
    if (!made) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "no memory for a weight's description");
    made->n = matrix->n;
    made->k = matrix->k;
    made->group_size = matrix->group_size;
    made->groups = matrix->groups;
    made->scale_dtype = matrix->scale_dtype;
    made->zero_kind = matrix->zero_kind;
    made->block = w4_cpu_block_columns(made->k, made->group_size);
    made->k_padded = w4_round_up(made->k, made->block);
    made->panels = w4_ceil_divide(made->n, W4_CPU_PANEL);
    made->fixed_point = is_fixed_point(matrix);

    uint64_t group_rows = (uint64_t)made->groups * W4_CPU_PANEL, bytes = 0;
    made->scale_offset = (size_t)(made->k_padded / W4_CPU_LINE_K * W4_CPU_LINE);
    made->zero_offset = made->scale_offset + group_rows * w4a16_dtype_size(made->scale_dtype);
    uint64_t end = made->zero_offset + group_rows * w4_zero_size(made->zero_kind);
    made->panel_bytes = (size_t)w4_round_up((int64_t)end, W4_CPU_LINE);

    void *data = NULL, *order = NULL;
    w4a16_status status = W4A16_OK;
    if (!w4_multiply((uint64_t)made->panels, made->panel_bytes, &bytes) || bytes > SIZE_MAX / 2)
        status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "a weight of %lld x %lld is larger than the address space",
                         (long long)made->n, (long long)made->k);
    if (!status) status = w4_allocate(bytes, "a packed weight", &data);
    if (!status && matrix->k_order) status = w4_allocate((uint64_t)made->k * sizeof(int32_t), "a k_order", &order);
    made->data = data;
    made->k_order = order;
    if (status) {
        w4_cpu_weight_free(made);
        return status;
    }
    if (order) memcpy(order, matrix->k_order, (size_t)made->k * sizeof(int32_t));
    pack_job job = {made, matrix};
    w4_cpu_parallel(device, device->threads, made->panels, pack_panel, &job);
    *weight = made;
    return W4A16_OK;
}

w4a16_status w4_cpu_weight_download(const w4_device_weight *weight, w4_matrix *matrix) {
    int64_t row_bytes = w4_matrix_row_bytes(matrix);
    size_t scale_size = w4a16_dtype_size(weight->scale_dtype), zero_size = w4_zero_size(weight->zero_kind);
    for (int64_t row = 0; row < weight->n; row++) {
        const uint8_t *panel = w4_cpu_panel(weight, row / W4_CPU_PANEL);
        int64_t i = row % W4_CPU_PANEL;
        uint8_t *codes = matrix->codes + row * row_bytes;
        for (int64_t k = 0; k < weight->k; k += W4_CPU_LINE_K) {
            const uint32_t *line = (const uint32_t *)(const void *)(panel + k / W4_CPU_LINE_K * W4_CPU_LINE);
            uint32_t word = word_to_canonical(line[i]);
            size_t bytes = line_bytes(row_bytes, k);
            for (size_t b = 0; b < bytes; b++) codes[(size_t)(k / 2) + b] = (uint8_t)(word >> 8 * b);
        }
        for (int64_t group = 0; group < weight->groups; group++) {
            size_t to = (size_t)(row * weight->groups + group), from = (size_t)(group * W4_CPU_PANEL + i);
            memcpy((char *)matrix->scales + to * scale_size, panel + weight->scale_offset + from * scale_size,
                   scale_size);
            if (zero_size)
                memcpy((char *)matrix->zeros + to * zero_size, panel + weight->zero_offset + from * zero_size,
                       zero_size);
        }
    }
    if (weight->k_order && matrix->k_order)
        memcpy(matrix->k_order, weight->k_order, (size_t)weight->k * sizeof(int32_t));
    return W4A16_OK;
}

void w4_cpu_weight_free(w4_device_weight *weight) {
    if (!weight) return;
    free(weight->data);
    free(weight->k_order);
    free(weight);
}

size_t w4_cpu_weight_bytes(const w4_device_weight *weight) {
    return (size_t)weight->panels * weight->panel_bytes + (weight->k_order ? (size_t)weight->k * sizeof(int32_t) : 0);
}
