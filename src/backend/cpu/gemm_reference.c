/* SPDX-License-Identifier: Apache-2.0
 * The definition of the multiplication: decoded weights, double accumulation in k order, one rounding at the end.
 * Every other kernel is measured against this one; rows and weights that those cannot do come here too. */
#include "backend/cpu/cpu.h"

#include "core/half.h"
#include "core/memory.h"

#include <string.h>

enum { ROWS = 32, COLUMNS = 128 }; /* of A that one pass holds: the buffers below stay in the L1 cache */

/** w[column][i] = the weight of panel row i. Padding rows decode to something that nobody stores. */
static void decode(const w4_device_weight *weight, const uint8_t *panel, int64_t k, int64_t columns,
                   double w[COLUMNS][W4_CPU_PANEL]) {
    double scale[W4_CPU_PANEL], zero[W4_CPU_PANEL];
    int64_t decoded = -1; /* the group that scale and zero are of */
    for (int64_t column = 0; column < columns; column++) {
        int64_t at = k + column, group = at / weight->group_size;
        for (int64_t i = 0; i < W4_CPU_PANEL && group != decoded; i++) {
            size_t index = (size_t)(group * W4_CPU_PANEL + i);
            scale[i] = w4_load_float(panel + weight->scale_offset, weight->scale_dtype, index);
            zero[i] = 8;
            if (weight->zero_kind == W4A16_ZERO_INTEGER) zero[i] = panel[weight->zero_offset + index];
            if (weight->zero_kind == W4A16_ZERO_FLOAT)
                zero[i] = w4_load_float(panel + weight->zero_offset, W4A16_FP32, index);
        }
        decoded = group;
        int shift = (int)(at % 8 / 2 * 4 + at % 2 * 16);
        const uint32_t *line = (const uint32_t *)(const void *)(panel + at / W4_CPU_LINE_K * W4_CPU_LINE);
        for (int64_t i = 0; i < W4_CPU_PANEL; i++)
            w[column][i] = ((double)(int)(line[i] >> shift & 15) - zero[i]) * scale[i];
    }
}

void w4_cpu_reference_panel(const w4_run *run, int64_t row, int64_t rows, int64_t panel) {
    const w4_device_weight *weight = run->weight;
    const uint8_t *packed = w4_cpu_panel(weight, panel);
    int64_t first = panel * W4_CPU_PANEL, count = w4_minimum(W4_CPU_PANEL, weight->n - first);
    double w[COLUMNS][W4_CPU_PANEL], a[COLUMNS], sums[ROWS][W4_CPU_PANEL];
    for (int64_t end = row + rows; row < end; row += ROWS) {
        int64_t tile = w4_minimum(ROWS, end - row);
        memset(sums, 0, sizeof sums);
        for (int64_t k = 0; k < weight->k; k += COLUMNS) {
            int64_t columns = w4_minimum(COLUMNS, weight->k - k);
            decode(weight, packed, k, columns, w);
            for (int64_t r = 0; r < tile; r++) {
                size_t start = (size_t)((row + r) * run->lda);
                for (int64_t j = 0; j < columns; j++) {
                    int64_t from = weight->k_order ? weight->k_order[k + j] : k + j;
                    a[j] = w4_load_float(run->a, run->problem.a_dtype, start + (size_t)from);
                }
                for (int64_t j = 0; j < columns; j++)
                    for (int64_t i = 0; i < W4_CPU_PANEL; i++) sums[r][i] += a[j] * w[j][i];
            }
        }
        for (int64_t r = 0; r < tile; r++) {
            for (int64_t i = 0; i < count; i++) {
                double bias = run->bias ? w4_load_float(run->bias, run->bias_dtype, (size_t)(first + i)) : 0.0;
                w4_store_double(run->c, run->problem.c_dtype, (size_t)((row + r) * run->ldc + first + i),
                                (double)run->alpha * sums[r][i] + bias);
            }
        }
    }
}
