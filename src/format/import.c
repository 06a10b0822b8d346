/* SPDX-License-Identifier: Apache-2.0
 * Modules of a checkpoint: describing them, finding them, importing them to canonical form. */
#include "core/memory.h"
#include "format/checkpoint.h"
#include "format/module.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void copy_scales(const w4_module *module, w4_matrix *matrix) {
    const uint8_t *data = module->parts[W4_PART_SCALES].tensor->data;
    size_t size = w4a16_dtype_size(module->scale_dtype);
    if (!module->layout->scales_by_group) {
        memcpy(matrix->scales, data, (size_t)(module->n * module->groups) * size);
        return;
    }
    uint8_t *scales = matrix->scales;
    for (int64_t row = 0; row < module->n; row++)
        for (int64_t group = 0; group < module->groups; group++)
            memcpy(scales + (size_t)(row * module->groups + group) * size,
                   data + (size_t)(group * module->n + row) * size, size);
}

/** Bring the columns into k_order, which the matrix takes over. */
static w4a16_status order_columns(w4_matrix *matrix, int32_t *k_order) {
    void *memory;
    matrix->k_order = k_order;
    W4_TRY(w4_allocate((uint64_t)matrix->n * (uint64_t)w4_matrix_row_bytes(matrix), "codes", &memory));
    w4a16_status status = w4_permute_columns(matrix->codes, memory, matrix->n, matrix->k, k_order, false);
    free(matrix->codes);
    matrix->codes = memory;
    return status;
}

static w4a16_status import_module(const w4_module *module, w4_matrix *matrix) {
    int32_t *k_order;
    W4_TRY(w4_sort_columns(module, &k_order));
    bool symmetric = module->layout->is_symmetric(module);
    w4_matrix result;
    w4a16_status status = w4_matrix_create(module->n, module->k, module->group_size, module->scale_dtype,
                                           symmetric ? W4A16_ZERO_SYMMETRIC : W4A16_ZERO_INTEGER, 0, &result);
    if (status) {
        free(k_order);
        return w4_fail_in(status, &module->parts[W4_PART_CODES]);
    }
    module->layout->read_codes(module, &result);
    copy_scales(module, &result);
    if (!symmetric) module->layout->read_zeros(module, result.zeros);
    if (k_order) status = order_columns(&result, k_order);
    if (!status) {
        status = w4_matrix_validate(&result);
        /* Only scales can be wrong here: zero points and the order are valid as they were made. In a file that is
         * damage, not a wrong argument. */
        if (status == W4A16_ERROR_INVALID_ARGUMENT) status = W4A16_ERROR_FORMAT;
        if (status == W4A16_ERROR_FORMAT) w4_fail_in(status, &module->parts[W4_PART_SCALES]);
    }
    if (status)
        w4_matrix_free(&result);
    else
        *matrix = result;
    return status;
}

static w4a16_status fail_unsupported(const w4_module *module) {
    return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: module '%s' is not supported: %s",
                   module->parts[W4_PART_CODES].file->path, module->name, module->reason);
}

w4a16_status w4_checkpoint_import(const w4a16_checkpoint *checkpoint, size_t index, w4_matrix *matrix) {
    if (index >= checkpoint->module_count)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: index is %zu; there are %zu quantised modules", checkpoint->path,
                       index, checkpoint->module_count);
    const w4_module *module = &checkpoint->modules[index];
    return module->layout ? import_module(module, matrix) : fail_unsupported(module);
}

size_t w4a16_checkpoint_count(const w4a16_checkpoint *checkpoint) {
    return checkpoint ? checkpoint->module_count : 0;
}

w4a16_status w4a16_checkpoint_module(const w4a16_checkpoint *checkpoint, size_t index, w4a16_module_info *info) {
    if (!checkpoint) return w4_fail_null("checkpoint");
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    if (index >= checkpoint->module_count)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: index is %zu; there are %zu quantised modules", checkpoint->path,
                       index, checkpoint->module_count);
    const w4_module *module = &checkpoint->modules[index];
    *info = (w4a16_module_info){.struct_size = sizeof *info,
                                .name = module->name,
                                .format = module->format,
                                .variant = module->variant,
                                .n = module->n,
                                .k = module->k,
                                .group_size = module->group_size,
                                .groups = module->groups,
                                .scale_dtype = module->scale_dtype,
                                .bytes = module->bytes,
                                .supported = module->layout != NULL,
                                .reason = module->reason};
    if (module->layout) {
        info->zero_kind = module->layout->is_symmetric(module) ? W4A16_ZERO_SYMMETRIC : W4A16_ZERO_INTEGER;
        info->act_order = !w4_groups_in_order(module);
    }
    return W4A16_OK;
}

/** Index of the module of exactly this name (`length` bytes of it). */
static bool find_module(const w4a16_checkpoint *checkpoint, const char *name, size_t length, size_t *index) {
    size_t low = 0, high = checkpoint->module_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *candidate = checkpoint->modules[middle].name;
        int order = strncmp(name, candidate, length);
        if (order == 0 && candidate[length]) order = -1;
        if (order == 0) {
            *index = middle;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

w4a16_status w4a16_checkpoint_find(const w4a16_checkpoint *checkpoint, const char *module, size_t *index) {
    static const char *const suffixes[] = {".weight",       ".qweight",       ".qzeros",       ".scales",
                                           ".g_idx",        ".weight_packed", ".weight_scale", ".weight_zero_point",
                                           ".weight_shape", ".weight_g_idx",  ".W_q"};
    if (!checkpoint) return w4_fail_null("checkpoint");
    if (!module) return w4_fail_null("module");
    if (!index) return w4_fail_null("index");
    size_t length = strlen(module);
    if (find_module(checkpoint, module, length, index)) return W4A16_OK;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t suffix = strlen(suffixes[i]);
        if (length > suffix && strcmp(module + length - suffix, suffixes[i]) == 0 &&
            find_module(checkpoint, module, length - suffix, index))
            return W4A16_OK;
    }
    if (checkpoint->module_count == 0)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: no module '%s': the checkpoint is not quantised", checkpoint->path,
                       module);
    return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: no quantised module '%s'; there are %zu, such as '%s'", checkpoint->path,
                   module, checkpoint->module_count, checkpoint->modules[0].name);
}
