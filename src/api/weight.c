/* SPDX-License-Identifier: Apache-2.0
 * Weights: made from arrays, checkpoints and packed files, and given back as them. */
#include "api/objects.h"
#include "core/file.h"
#include "core/memory.h"
#include "format/checkpoint.h"
#include "pack/fragment.h"
#include "pack/packed_file.h"

#include <stdlib.h>
#include <string.h>

void w4a16_canonical_init(w4a16_canonical *canonical) {
    if (canonical)
        *canonical = (w4a16_canonical){.struct_size = sizeof *canonical, .group_size = 128, .scale_dtype = W4A16_FP16};
}

w4a16_status w4_weight_problem(const w4a16_weight *weight, int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                               uint32_t flags, w4_problem *resolved) {
    const w4a16_weight_info *information = &weight->information;
    w4a16_problem problem = {
        .struct_size = sizeof problem,
        .m = m,
        .n = information->n,
        .k = information->k,
        .group_size = information->groups == 1 ? -1 : information->group_size,
        .a_dtype = a_dtype,
        .c_dtype = c_dtype,
        .scale_dtype = information->scale_dtype,
        .zero_kind = information->kernel_zero_kind,
        .uneven_scales = information->uneven_scales,
        .flags = flags,
    };
    return w4_problem_resolve(&problem, resolved);
}

/** Load the kernels that a plan with the usual options chooses, up to PREPARED_M tokens: a model's weights come when
 * nothing runs yet, but later loading waits for the kernels that run. What fails here fails in the plan that needs it.
 */
static void prepare(const w4a16_weight *weight) {
    static const int64_t PREPARED_M = 8192;
    const w4a16_context *context = weight->context;
    const w4_backend *backend = context->backend;
    if (!backend->prepares_ahead || !backend->prepares_ahead(context->device)) return;
    w4_saved_error saved;
    w4_error_save(&saved);
    w4a16_dtype dtype = weight->information.scale_dtype == W4A16_BF16 ? W4A16_BF16 : W4A16_FP16;
    w4_tuned *cache = w4_context_cache(context);
    w4_plan_measured measured = {cache, context->table};
    w4_plan_choice choice;
    w4_problem problem;
    if (w4_weight_problem(weight, PREPARED_M, dtype, dtype, 0, &problem) ||
        w4_plan_choose(backend, context->device, &measured, &problem, 1, PREPARED_M, NULL, &choice))
        w4_error_restore(&saved);
    w4_tuned_release(cache);
}

/** `packed`: the matrix as weight_upload_packed takes it, or NULL. */
static w4a16_status upload(w4a16_context *context, const w4_matrix *matrix, const uint8_t *packed,
                           w4a16_weight **weight) {
    const w4_backend *backend = context->backend;
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4a16_weight), "a weight", &memory));
    w4a16_weight *result = memory;
    w4a16_status status = packed
                              ? backend->weight_upload_packed(context->device, matrix, packed, &result->device_weight)
                              : backend->weight_upload(context->device, matrix, &result->device_weight);
    if (status) {
        free(result);
        return status;
    }
    atomic_init(&result->references, 1);
    result->context = context;
    w4_context_retain(context);
    result->information = (w4a16_weight_info){
        .struct_size = sizeof result->information,
        .n = matrix->n,
        .k = matrix->k,
        .group_size = matrix->group_size,
        .groups = matrix->groups,
        .scale_dtype = matrix->scale_dtype,
        .zero_kind = matrix->zero_kind,
        .has_k_order = matrix->k_order != NULL,
        .device_bytes = backend->weight_bytes(result->device_weight),
        .kernel_zero_kind =
            backend->weight_zero_kind ? backend->weight_zero_kind(result->device_weight) : matrix->zero_kind,
        .uneven_scales = w4_matrix_scales_uneven(matrix),
    };
    prepare(result);
    *weight = result;
    return W4A16_OK;
}

w4a16_status w4_weight_from_matrix(w4a16_context *context, const w4_matrix *matrix, w4a16_weight **weight) {
    return upload(context, matrix, NULL, weight);
}

w4a16_status w4a16_weight_create(w4a16_context *context, const w4a16_canonical *canonical, w4a16_weight **weight) {
    if (!context) return w4_fail_null("context");
    if (!weight) return w4_fail_null("weight");
    w4_matrix matrix;
    W4_TRY(w4_matrix_from_canonical(canonical, &matrix));
    w4a16_status status = w4_weight_from_matrix(context, &matrix, weight);
    w4_matrix_free(&matrix);
    return status;
}

w4a16_status w4a16_checkpoint_load(const w4a16_checkpoint *checkpoint, w4a16_context *context, const char *module,
                                   w4a16_weight **weight) {
    if (!checkpoint) return w4_fail_null("checkpoint");
    if (!context) return w4_fail_null("context");
    if (!module) return w4_fail_null("module");
    if (!weight) return w4_fail_null("weight");
    size_t index;
    W4_TRY(w4a16_checkpoint_find(checkpoint, module, &index));
    w4_matrix matrix;
    W4_TRY(w4_checkpoint_import(checkpoint, index, &matrix));
    w4a16_status status = w4_weight_from_matrix(context, &matrix, weight);
    w4_matrix_free(&matrix);
    return status;
}

void w4a16_weight_destroy(w4a16_weight *weight) {
    if (!weight || atomic_fetch_sub(&weight->references, 1) != 1) return;
    weight->context->backend->weight_free(weight->device_weight);
    w4a16_context_destroy(weight->context);
    free(weight);
}

w4a16_status w4a16_weight_query(const w4a16_weight *weight, w4a16_weight_info *info) {
    if (!weight) return w4_fail_null("weight");
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    *info = weight->information;
    return W4A16_OK;
}

/** The canonical form of a weight, fetched from its device. */
static w4a16_status download(const w4a16_weight *weight, w4_matrix *matrix) {
    const w4a16_weight_info *information = &weight->information;
    w4_matrix result;
    W4_TRY(w4_matrix_create(information->n, information->k, information->group_size, information->scale_dtype,
                            information->zero_kind, information->has_k_order, &result));
    w4a16_status status = weight->context->backend->weight_download(weight->device_weight, &result);
    if (status) {
        w4_matrix_free(&result);
        return status;
    }
    *matrix = result;
    return W4A16_OK;
}

w4a16_status w4a16_weight_export(const w4a16_weight *weight, uint8_t *codes, void *scales, void *zeros,
                                 int32_t *k_order) {
    if (!weight) return w4_fail_null("weight");
    w4_matrix matrix;
    W4_TRY(download(weight, &matrix));
    size_t entries = (size_t)matrix.n * (size_t)matrix.groups;
    if (codes) memcpy(codes, matrix.codes, (size_t)matrix.n * (size_t)w4_matrix_row_bytes(&matrix));
    if (scales) memcpy(scales, matrix.scales, entries * w4a16_dtype_size(matrix.scale_dtype));
    if (zeros && matrix.zeros) memcpy(zeros, matrix.zeros, entries * w4_zero_size(matrix.zero_kind));
    if (k_order && matrix.k_order) memcpy(k_order, matrix.k_order, (size_t)matrix.k * sizeof *k_order);
    w4_matrix_free(&matrix);
    return W4A16_OK;
}

w4a16_status w4a16_weight_save(const w4a16_weight *weight, const char *path, int overwrite) {
    if (!weight) return w4_fail_null("weight");
    if (!path) return w4_fail_null("path");
    w4_matrix matrix;
    W4_TRY(download(weight, &matrix));
    w4a16_status status = w4_packed_file_save(&matrix, path, overwrite);
    w4_matrix_free(&matrix);
    return status;
}

/** Where the backend takes packed bytes, the file's go to the device as they are, unless their padding is not what
 * kernels may rely on: unpacking and packing puts that right. */
static w4a16_status load(w4a16_context *context, const w4_packed_view *view, w4a16_weight **weight) {
    bool straight = context->backend->weight_upload_packed != NULL;
    w4_matrix matrix;
    if (straight) {
        W4_TRY(w4_packed_view_unpack(view, false, &matrix));
        straight = w4_fragment_is_padded(view->packed, &view->layout, &matrix);
        if (!straight) w4_matrix_free(&matrix);
    }
    if (!straight) W4_TRY(w4_packed_view_unpack(view, true, &matrix));
    w4a16_status status = upload(context, &matrix, straight ? view->packed : NULL, weight);
    w4_matrix_free(&matrix);
    return status;
}

w4a16_status w4a16_weight_load(w4a16_context *context, const char *path, w4a16_weight **weight) {
    if (!context) return w4_fail_null("context");
    if (!path) return w4_fail_null("path");
    if (!weight) return w4_fail_null("weight");
    w4_mapping mapping;
    w4_packed_view view;
    W4_TRY(w4_map_file(path, &mapping));
    w4a16_status status = w4_packed_view_open(mapping.data, mapping.size, path, &view);
    if (!status) status = load(context, &view, weight);
    w4_unmap_file(&mapping);
    return status;
}
