/* SPDX-License-Identifier: Apache-2.0
 * What describing a module needs in every layout: finding its tensors, holding their shapes against each other. */
#include "core/half.h"
#include "core/memory.h"
#include "format/module.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/** strcmp of `name` with module + suffix, without joining them. */
static int compare_joined(const char *name, const char *module, const char *suffix) {
    size_t length = strlen(module);
    int order = strncmp(name, module, length);
    return order ? order : strcmp(name + length, suffix);
}

w4_tensor_ref w4_find_tensor(const w4a16_checkpoint *checkpoint, const char *module, const char *suffix) {
    size_t low = 0, high = checkpoint->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_joined(checkpoint->tensors[middle].tensor->name, module, suffix);
        if (order == 0) return checkpoint->tensors[middle];
        if (order > 0)
            high = middle;
        else
            low = middle + 1;
    }
    return (w4_tensor_ref){NULL, NULL};
}

w4a16_status w4_fail_in(w4a16_status status, const w4_tensor_ref *ref) {
    return w4_fail_context(status, "%s: tensor '%s': ", ref->file->path, ref->tensor->name);
}

w4a16_status w4_expect_part(const w4_module *module, w4_part part, const char *suffix) {
    if (module->parts[part].tensor) return W4A16_OK;
    const w4_tensor_ref *codes = &module->parts[W4_PART_CODES];
    return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s%s' is missing, which '%s' needs", codes->file->path,
                   module->name, suffix, codes->tensor->name);
}

w4a16_status w4_expect_dtype(const w4_tensor_ref *ref, w4a16_dtype dtype) {
    if (ref->tensor->dtype == dtype) return W4A16_OK;
    w4_fail(W4A16_ERROR_FORMAT, "dtype %s found, %s expected", w4a16_dtype_name(ref->tensor->dtype),
            w4a16_dtype_name(dtype));
    return w4_fail_in(W4A16_ERROR_FORMAT, ref);
}

w4a16_status w4_expect_scale_dtype(const w4_tensor_ref *ref) {
    if (w4_is_scale_dtype(ref->tensor->dtype)) return W4A16_OK;
    w4_fail(W4A16_ERROR_FORMAT, "dtype %s found; scales are fp16, bf16 or fp32", w4a16_dtype_name(ref->tensor->dtype));
    return w4_fail_in(W4A16_ERROR_FORMAT, ref);
}

w4a16_status w4_expect_dimensions(const w4_tensor_ref *ref, int dimensions) {
    char shape[256];
    bool good = ref->tensor->dimensions == dimensions;
    /* Later products of extents must not overflow; no layer comes near 2^30. */
    for (int i = 0; i < ref->tensor->dimensions; i++)
        good = good && ref->tensor->shape[i] >= 1 && ref->tensor->shape[i] <= INT64_C(1) << 30;
    if (good) return W4A16_OK;
    w4_fail(W4A16_ERROR_FORMAT, "shape %s found, %d dimensions of 1 to 2^30 expected",
            w4_shape_text(ref->tensor, shape, sizeof shape), dimensions);
    return w4_fail_in(W4A16_ERROR_FORMAT, ref);
}

w4a16_status w4_expect_shape(const w4_tensor_ref *ref, int dimensions, int64_t rows, int64_t columns) {
    w4a16_tensor expected = {.dimensions = dimensions, .shape = {rows, columns}};
    bool good = ref->tensor->dimensions == dimensions;
    for (int i = 0; good && i < dimensions; i++) good = ref->tensor->shape[i] == expected.shape[i];
    if (good) return W4A16_OK;
    char found[256], wanted[64];
    w4_fail(W4A16_ERROR_FORMAT, "shape %s found, %s expected", w4_shape_text(ref->tensor, found, sizeof found),
            w4_shape_text(&expected, wanted, sizeof wanted));
    return w4_fail_in(W4A16_ERROR_FORMAT, ref);
}

void w4_set_unsupported(w4_module *module, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(module->reason, sizeof module->reason, format, arguments);
    va_end(arguments);
    module->layout = NULL;
}

/** The group size that gives `groups` groups, from shapes alone; 0 if several would. */
static int64_t derive_group_size(int64_t k, int64_t groups) {
    if (groups == 1) return k;
    if (k % groups == 0 && k / groups % 32 == 0) return k / groups;
    int64_t found = 0;
    for (int64_t size = 32; size < k; size *= 2) {
        if (w4_ceil_divide(k, size) != groups) continue;
        if (found) return 0;
        found = size;
    }
    return found ? found : k % groups == 0 ? k / groups : 0;
}

w4a16_status w4_resolve_groups(const w4_quantization *quantization, w4_module *module, int64_t groups) {
    int64_t size = 0;
    bool told = quantization->known && quantization->group_size_count > 0 && !quantization->varies;
    if (told) {
        for (int i = 0; i < quantization->group_size_count && size == 0; i++) {
            int64_t candidate = quantization->group_sizes[i];
            if (candidate == -1 || candidate > module->k) candidate = module->k;
            if (w4_ceil_divide(module->k, candidate) == groups) size = candidate;
        }
        if (size == 0) {
            int64_t first = quantization->group_sizes[0];
            w4_fail(W4A16_ERROR_FORMAT,
                    "%" PRId64 " groups over K = %" PRId64 " found, but group_size %" PRId64 " of %s makes %" PRId64,
                    groups, module->k, first, quantization->source, first == -1 ? 1 : w4_ceil_divide(module->k, first));
            return w4_fail_in(W4A16_ERROR_FORMAT, &module->parts[W4_PART_SCALES]);
        }
    } else {
        size = derive_group_size(module->k, groups);
        if (groups > module->k) {
            w4_fail(W4A16_ERROR_FORMAT, "%" PRId64 " groups found over only K = %" PRId64 " columns", groups,
                    module->k);
            return w4_fail_in(W4A16_ERROR_FORMAT, &module->parts[W4_PART_SCALES]);
        }
    }
    module->groups = groups;
    module->group_size = size;
    if (size == 0)
        w4_set_unsupported(module,
                           "%" PRId64 " groups over K = %" PRId64
                           " do not tell the group size; a quantization_config that does is needed",
                           groups, module->k);
    else if (groups > 1 && size % 32 != 0)
        w4_set_unsupported(module, "group size %" PRId64 "; multiples of 32 and one group per row are supported", size);
    return W4A16_OK;
}
