/* SPDX-License-Identifier: Apache-2.0
 * Converting a checkpoint from one format to another: import, check that nothing is lost, export. */
#include "format/checkpoint.h"
#include "format/module.h"

#include <string.h>

void w4a16_convert_options_init(w4a16_convert_options *options) {
    if (!options) return;
    *options = (w4a16_convert_options){.struct_size = sizeof *options, .format = W4A16_FORMAT_COMPRESSED_TENSORS};
}

typedef struct conversion {
    const w4a16_checkpoint *input;
} conversion;

static void opened(void *state, const w4a16_checkpoint *input) {
    ((conversion *)state)->input = input;
}

static w4a16_status select_module(void *state, const char *name, const w4a16_tensor *tensor, size_t index,
                                  bool *selected, w4_matrix *shape) {
    static int32_t has_order; /* stands for "there will be an order" */
    (void)tensor;
    const w4a16_checkpoint *input = ((conversion *)state)->input;
    const w4_module *module = &input->modules[index];
    if (!module->layout)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: module '%s' cannot be read: %s", input->path, name,
                       module->reason);
    *selected = true;
    *shape = (w4_matrix){.n = module->n,
                         .k = module->k,
                         .group_size = module->group_size,
                         .scale_dtype = module->scale_dtype,
                         .zero_kind = module->layout->is_symmetric(module) ? W4A16_ZERO_SYMMETRIC : W4A16_ZERO_INTEGER,
                         .k_order = w4_groups_in_order(module) ? NULL : &has_order};
    return W4A16_OK;
}

static w4a16_status make_matrix(void *state, const char *name, const w4a16_tensor *tensor, size_t index,
                                w4_matrix *matrix, double *signal, double *noise) {
    (void)name, (void)tensor;
    *signal = *noise = 0;
    return w4_checkpoint_import(((conversion *)state)->input, index, matrix);
}

w4a16_status w4a16_checkpoint_convert(const char *input, const char *output, const w4a16_convert_options *options) {
    if (!input) return w4_fail_null("input");
    if (!output) return w4_fail_null("output");
    if (!options) return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options is NULL; a format must be chosen");
    W4_TRY(w4_check_struct("options", "w4a16_convert_options_init", options->struct_size, sizeof *options));
    conversion state = {NULL};
    w4_rewrite rewrite = {.input = input,
                          .output = output,
                          .convert = true,
                          .overwrite = options->overwrite != 0,
                          .format = options->format,
                          .progress = options->progress,
                          .user = options->user,
                          .opened = opened,
                          .select = select_module,
                          .make = make_matrix,
                          .state = &state};
    return w4_checkpoint_rewrite(&rewrite);
}
