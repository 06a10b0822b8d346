/* SPDX-License-Identifier: Apache-2.0
 * Deciding what an output will hold, before its first byte is written: which modules, in which shapes. */
#include "format/rewrite.h"

#include "core/half.h"
#include "core/memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char WEIGHT[] = ".weight";

static w4a16_status resolve_shape(const w4_matrix *shape, w4_matrix *resolved) {
    *resolved = *shape;
    if (shape->n < 1 || shape->k < 1 || (shape->group_size < 1 && shape->group_size != -1))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "a module of %" PRId64 " x %" PRId64 " in groups of %" PRId64,
                       shape->n, shape->k, shape->group_size);
    if (shape->group_size == -1 || shape->group_size > shape->k) resolved->group_size = shape->k;
    resolved->groups = w4_ceil_divide(shape->k, resolved->group_size);
    return W4A16_OK;
}

w4a16_status w4_format_check(w4a16_format format, const w4_matrix *shape) {
    const w4_layout *layout = w4_layout_of(format);
    if (!layout)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "format is %d; it must be awq, gptq or compressed-tensors",
                       (int)format);
    w4_matrix resolved;
    W4_TRY(resolve_shape(shape, &resolved));
    if (shape->zero_kind == W4A16_ZERO_FLOAT)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s holds integer zero points; these are floats",
                       w4a16_format_name(format));
    return layout->check(&resolved);
}

/** Is it a layer that could be quantised: MODULE.weight, 2 dimensions, 16- or 32-bit floats? */
static bool is_linear(const w4a16_tensor *tensor) {
    size_t length = strlen(tensor->name), suffix = sizeof WEIGHT - 1;
    return length > suffix && strcmp(tensor->name + length - suffix, WEIGHT) == 0 && tensor->dimensions == 2 &&
           tensor->shape[0] > 0 && tensor->shape[1] > 0 && w4_is_scale_dtype(tensor->dtype);
}

static w4a16_status module_name(const w4a16_tensor *tensor, char **name) {
    W4_TRY(w4_copy_text(tensor->name, name));
    (*name)[strlen(*name) - (sizeof WEIGHT - 1)] = 0;
    return W4A16_OK;
}

/** Ask whether a module is to be written quantised and note the answer; takes over `name`. */
static w4a16_status consider(w4_rewrite_plan *plan, char *name, const w4a16_tensor *tensor, size_t index,
                             const w4a16_tensor *source) {
    const w4_rewrite *request = plan->request;
    w4_choice choice = {.name = name, .source = source, .index = index};
    bool selected = false;
    w4a16_status status = request->select(request->state, name, tensor, index, &selected, &choice.shape);
    if (!status && !selected) {
        plan->ignored[plan->ignored_count++] = name;
        return W4A16_OK;
    }
    if (!status) {
        status = w4_format_check(request->format, &choice.shape);
        if (status) w4_fail_context(status, "module '%s': ", name);
    }
    if (status) {
        free(name);
        return status;
    }
    choice.has_k_order = choice.shape.k_order != NULL;
    resolve_shape(&choice.shape, &choice.shape);
    plan->scheme.zeros |= choice.shape.zero_kind != W4A16_ZERO_SYMMETRIC;
    plan->scheme.g_idx |= choice.has_k_order;
    plan->choices[plan->choice_count++] = choice;
    return W4A16_OK;
}

/** A group size per module as its config states it: a single group is "128" where the others have 128 too. */
static void label_choices(w4_rewrite_plan *plan) {
    for (size_t i = 0; i < plan->choice_count; i++) {
        w4_choice *choice = &plan->choices[i];
        choice->label = choice->shape.groups > 1 ? choice->shape.group_size : -1;
    }
    for (size_t i = 0; i < plan->choice_count; i++) {
        w4_choice *choice = &plan->choices[i];
        if (choice->shape.groups > 1) continue;
        for (size_t j = 0; j < plan->choice_count; j++) {
            int64_t other = plan->choices[j].shape.group_size;
            if (plan->choices[j].shape.groups > 1 && other >= choice->shape.k) {
                choice->label = other;
                break;
            }
        }
    }
}

w4a16_status w4_rewrite_choose(w4_rewrite_plan *plan) {
    const w4a16_checkpoint *input = plan->input;
    const w4_rewrite *request = plan->request;
    void *memory;
    W4_TRY(w4_allocate((input->tensor_count + input->module_count) * sizeof *plan->choices, "the plan", &memory));
    plan->choices = memory;
    W4_TRY(w4_allocate((input->tensor_count + input->module_count) * sizeof *plan->ignored, "the plan", &memory));
    plan->ignored = memory;
    if (request->opened) request->opened(request->state, input);
    char *name;
    for (size_t i = 0; request->convert && i < input->module_count; i++) {
        W4_TRY(w4_copy_text(input->modules[i].name, &name));
        W4_TRY(consider(plan, name, NULL, i, input->modules[i].parts[W4_PART_CODES].tensor));
    }
    for (size_t i = 0; i < input->file_count; i++) {
        for (size_t j = 0; j < input->files[i]->count; j++) {
            const w4a16_tensor *tensor = &input->files[i]->tensors[j];
            plan->total_bytes += tensor->bytes;
            if (!is_linear(tensor)) continue;
            W4_TRY(module_name(tensor, &name));
            if (request->convert)
                plan->ignored[plan->ignored_count++] = name;
            else
                W4_TRY(consider(plan, name, tensor, 0, tensor));
        }
    }
    if (plan->choice_count == 0)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: no module was selected; %zu linear layers were looked at",
                       input->path, plan->ignored_count);
    label_choices(plan);
    return W4A16_OK;
}

void w4_rewrite_plan_free(w4_rewrite_plan *plan) {
    for (size_t i = 0; i < plan->choice_count; i++) free(plan->choices[i].name);
    for (size_t i = 0; i < plan->ignored_count; i++) free(plan->ignored[i]);
    free(plan->choices);
    free(plan->ignored);
}
