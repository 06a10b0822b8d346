/* SPDX-License-Identifier: Apache-2.0
 * Finding the quantised modules of a checkpoint by the names of their tensors, and naming the layouts that are known
 * but not supported. */
#include "core/memory.h"
#include "format/module.h"

#include <stdlib.h>
#include <string.h>

const w4_layout *w4_layout_of(w4a16_format format) {
    static const w4_layout *const layouts[] = {&w4_awq_layout, &w4_gptq_layout, &w4_compressed_tensors_layout};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i]->format == format) return layouts[i];
    return NULL;
}

const char *w4a16_format_name(w4a16_format format) {
    switch (format) {
    case W4A16_FORMAT_AWQ:
        return "awq";
    case W4A16_FORMAT_GPTQ:
        return "gptq";
    case W4A16_FORMAT_COMPRESSED_TENSORS:
        return "compressed-tensors";
    case W4A16_FORMAT_NONE:
        break;
    }
    return "none";
}

static void set_parts(const w4a16_checkpoint *checkpoint, w4_module *module, const char *const *suffixes) {
    for (int i = 0; i < W4_PARTS; i++) {
        if (!suffixes[i]) continue;
        module->parts[i] = w4_find_tensor(checkpoint, module->name, suffixes[i]);
        if (module->parts[i].tensor) module->bytes += module->parts[i].tensor->bytes;
    }
}

/** AWQ and GPTQ share their tensors' names: the config tells them apart, or else the shapes do. */
static w4a16_status describe_qweight(const w4a16_checkpoint *checkpoint, w4_module *module) {
    static const char *const suffixes[W4_PARTS] = {".qweight", ".scales", ".qzeros", ".g_idx", NULL};
    set_parts(checkpoint, module, suffixes);
    const w4_quantization *quantization = &checkpoint->quantization;
    if (strcmp(quantization->method, "awq") == 0) return w4_describe_awq(quantization, module);
    if (strcmp(quantization->method, "gptq") == 0) return w4_describe_gptq(quantization, module);
    if (quantization->method[0]) {
        w4_set_unsupported(module, "quant_method '%s' with qweight tensors; awq and gptq are supported",
                           quantization->method);
        return W4A16_OK;
    }
    const w4_tensor_ref *codes = &module->parts[W4_PART_CODES], *scales = &module->parts[W4_PART_SCALES];
    W4_TRY(w4_expect_part(module, W4_PART_SCALES, suffixes[W4_PART_SCALES]));
    W4_TRY(w4_expect_dimensions(codes, 2));
    W4_TRY(w4_expect_dimensions(scales, 2));
    bool gptq = module->parts[W4_PART_G_IDX].tensor || codes->tensor->shape[1] == scales->tensor->shape[1];
    return gptq ? w4_describe_gptq(quantization, module) : w4_describe_awq(quantization, module);
}

static w4a16_status describe_weight_packed(const w4a16_checkpoint *checkpoint, w4_module *module) {
    static const char *const suffixes[W4_PARTS] = {".weight_packed", ".weight_scale", ".weight_zero_point",
                                                   ".weight_g_idx", ".weight_shape"};
    set_parts(checkpoint, module, suffixes);
    module->format = W4A16_FORMAT_COMPRESSED_TENSORS;
    if (w4_find_tensor(checkpoint, module->name, ".weight_global_scale").tensor) {
        module->variant = "nvfp4-pack-quantized";
        w4_set_unsupported(module, "compressed-tensors nvfp4-pack-quantized (4-bit floats); pack-quantized integers "
                                   "are supported");
        return W4A16_OK;
    }
    if (w4_find_tensor(checkpoint, module->name, ".meta").tensor ||
        w4_find_tensor(checkpoint, module->name, ".scale_packed").tensor) {
        module->variant = "marlin-24";
        w4_set_unsupported(module, "compressed-tensors marlin-24 (2:4 sparse); pack-quantized is supported");
        return W4A16_OK;
    }
    return w4_describe_compressed_tensors(&checkpoint->quantization, module);
}

static w4a16_status describe_hqq(const w4a16_checkpoint *checkpoint, w4_module *module) {
    (void)checkpoint;
    module->variant = "hqq";
    w4_set_unsupported(module, "HQQ; awq, gptq and compressed-tensors are supported");
    return W4A16_OK;
}

static w4a16_status describe_mxfp4(const w4a16_checkpoint *checkpoint, w4_module *module) {
    (void)checkpoint;
    module->variant = "mxfp4";
    w4_set_unsupported(module, "MXFP4 blocks (4-bit floats); awq, gptq and compressed-tensors integers are supported");
    return W4A16_OK;
}

static w4a16_status describe_marlin(const w4a16_checkpoint *checkpoint, w4_module *module) {
    (void)checkpoint;
    module->variant = "marlin";
    w4_set_unsupported(module, "a checkpoint in Marlin's kernel layout; awq, gptq and compressed-tensors are "
                               "supported");
    return W4A16_OK;
}

static w4a16_status describe_modelopt(const w4a16_checkpoint *checkpoint, w4_module *module) {
    (void)checkpoint;
    module->variant = "nvfp4";
    w4_set_unsupported(module, "ModelOpt NVFP4 (4-bit floats); awq, gptq and compressed-tensors integers are "
                               "supported");
    return W4A16_OK;
}

/** A tensor MODULE + suffix starts a module, if MODULE + companion is there too (NULL: whatever else is there). */
static const struct {
    const char *suffix, *companion;
    w4a16_status (*describe)(const w4a16_checkpoint *checkpoint, w4_module *module);
} signs[] = {
    {".qweight", NULL, describe_qweight}, {".weight_packed", NULL, describe_weight_packed},
    {".W_q", NULL, describe_hqq},         {"_blocks", "_scales", describe_mxfp4},
    {".B", ".s", describe_marlin},        {".weight_scale_2", ".weight", describe_modelopt},
};
enum { SIGNS = sizeof signs / sizeof *signs };

/** Index into signs of the one that tensor `name` is, with the module's name (new) in *module; -1 if none. */
static w4a16_status recognise(const w4a16_checkpoint *checkpoint, const char *name, int *sign, char **module) {
    size_t length = strlen(name);
    for (int i = 0; i < SIGNS; i++) {
        size_t suffix = strlen(signs[i].suffix);
        if (length <= suffix || strcmp(name + length - suffix, signs[i].suffix) != 0) continue;
        W4_TRY(w4_copy_text(name, module));
        (*module)[length - suffix] = 0;
        if (!signs[i].companion || w4_find_tensor(checkpoint, *module, signs[i].companion).tensor) {
            *sign = i;
            return W4A16_OK;
        }
        free(*module);
    }
    *sign = -1;
    return W4A16_OK;
}

static int compare_modules(const void *left, const void *right) {
    return strcmp(((const w4_module *)left)->name, ((const w4_module *)right)->name);
}

static w4a16_status add_module(w4a16_checkpoint *checkpoint, size_t *capacity, const w4_tensor_ref *ref) {
    int sign;
    char *name = NULL;
    W4_TRY(recognise(checkpoint, ref->tensor->name, &sign, &name));
    if (sign < 0) return W4A16_OK;
    if (checkpoint->module_count == *capacity) {
        size_t larger = *capacity ? *capacity * 2 : 64;
        void *modules = realloc(checkpoint->modules, larger * sizeof *checkpoint->modules);
        if (!modules) {
            free(name);
            return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "%s: out of memory for its modules", checkpoint->path);
        }
        checkpoint->modules = modules;
        *capacity = larger;
    }
    w4_module *module = &checkpoint->modules[checkpoint->module_count++];
    *module = (w4_module){.name = name,
                          .variant = "",
                          .symmetric = checkpoint->quantization.symmetric,
                          .parts = {[W4_PART_CODES] = *ref},
                          .bytes = 0};
    w4a16_status status = signs[sign].describe(checkpoint, module);
    if (module->bytes == 0) module->bytes = ref->tensor->bytes;
    return status;
}

w4a16_status w4_find_modules(w4a16_checkpoint *checkpoint) {
    size_t capacity = 0;
    for (size_t i = 0; i < checkpoint->tensor_count; i++)
        W4_TRY(add_module(checkpoint, &capacity, &checkpoint->tensors[i]));
    if (checkpoint->module_count == 0) return W4A16_OK;
    qsort(checkpoint->modules, checkpoint->module_count, sizeof *checkpoint->modules, compare_modules);
    for (size_t i = 1; i < checkpoint->module_count; i++)
        if (compare_modules(&checkpoint->modules[i - 1], &checkpoint->modules[i]) == 0)
            return w4_fail(W4A16_ERROR_FORMAT, "%s: module '%s' is stored in two formats at once", checkpoint->path,
                           checkpoint->modules[i].name);
    return W4A16_OK;
}
