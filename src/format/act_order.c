/* SPDX-License-Identifier: Apache-2.0
 * Act-order: columns whose groups are not neighbours. They are sorted by group once, at import; the order is kept. */
#include "core/memory.h"
#include "format/module.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int32_t group_of(const void *g_idx, int64_t column) {
    return (int32_t)w4_load_word(g_idx, column);
}

bool w4_groups_in_order(const w4_module *module) {
    const w4a16_tensor *g_idx = module->parts[W4_PART_G_IDX].tensor;
    if (!g_idx) return true;
    for (int64_t column = 0; column < module->k; column++)
        if (group_of(g_idx->data, column) != column / module->group_size) return false;
    return true;
}

/** Count the columns of each group into next[], then turn the counts into each group's first place. */
static w4a16_status count_groups(const w4_module *module, int64_t *next) {
    const w4_tensor_ref *ref = &module->parts[W4_PART_G_IDX];
    for (int64_t column = 0; column < module->k; column++) {
        int32_t group = group_of(ref->tensor->data, column);
        if (group < 0 || group >= module->groups) {
            w4_fail(W4A16_ERROR_FORMAT, "[%" PRId64 "] is %" PRId32 "; it must be 0 to %" PRId64, column, group,
                    module->groups - 1);
            return w4_fail_in(W4A16_ERROR_FORMAT, ref);
        }
        next[group]++;
    }
    int64_t place = 0;
    for (int64_t group = 0; group < module->groups; group++) {
        int64_t count = next[group], wanted = w4_minimum(module->group_size, module->k - group * module->group_size);
        if (count != wanted) {
            w4_fail(W4A16_ERROR_UNSUPPORTED,
                    "group %" PRId64 " has %" PRId64 " columns; act-order with %" PRId64 " in it is supported", group,
                    count, wanted);
            return w4_fail_in(W4A16_ERROR_UNSUPPORTED, ref);
        }
        next[group] = place;
        place += count;
    }
    return W4A16_OK;
}

w4a16_status w4_sort_columns(const w4_module *module, int32_t **k_order) {
    *k_order = NULL;
    if (w4_groups_in_order(module)) return W4A16_OK;
    void *memory;
    W4_TRY(w4_allocate((uint64_t)module->groups * sizeof(int64_t), "the groups of columns", &memory));
    int64_t *next = memory;
    w4a16_status status = count_groups(module, next);
    if (!status) status = w4_allocate((uint64_t)module->k * sizeof(int32_t), "the order of columns", &memory);
    if (!status) {
        *k_order = memory;
        const void *g_idx = module->parts[W4_PART_G_IDX].tensor->data;
        for (int64_t column = 0; column < module->k; column++)
            (*k_order)[next[group_of(g_idx, column)]++] = (int32_t)column;
    }
    free(next);
    return status;
}

w4a16_status w4_permute_columns(const uint8_t *source, uint8_t *target, int64_t n, int64_t k, const int32_t *k_order,
                                bool invert) {
    int64_t row_bytes = w4_ceil_divide(k, 2);
    void *memory;
    W4_TRY(w4_allocate((uint64_t)k * 2, "a row of codes", &memory));
    uint8_t *from = memory, *to = from + k;
    for (int64_t row = 0; row < n; row++) {
        const uint8_t *packed = source + row * row_bytes;
        for (int64_t j = 0; j < k; j++) from[j] = j & 1 ? packed[j / 2] >> 4 : packed[j / 2] & 15;
        if (invert)
            for (int64_t j = 0; j < k; j++) to[k_order[j]] = from[j];
        else
            for (int64_t j = 0; j < k; j++) to[j] = from[k_order[j]];
        for (int64_t i = 0; i < row_bytes; i++)
            target[row * row_bytes + i] = (uint8_t)(to[2 * i] | (2 * i + 1 < k ? to[2 * i + 1] << 4 : 0));
    }
    free(memory);
    return W4A16_OK;
}

void w4_fill_group_index(const w4_matrix *matrix, uint8_t *data) {
    for (int64_t j = 0; j < matrix->k; j++) {
        int64_t column = matrix->k_order ? matrix->k_order[j] : j;
        w4_store_word(data, column, (uint32_t)(j / matrix->group_size));
    }
}
