/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 dequantize`: layers back to plain weights. */
#include "modules.h"
#include "progress.h"

#include <stdlib.h>

static const command_help help = {
    "PATH -o OUT.safetensors [options]",
    "Decode quantised layers, straight from the words on disk, and write each as MODULE.weight\n"
    "[N,K] to one .safetensors file.\n\n"
    "The file appears only when it is complete. All decoded weights are held in memory until then:\n"
    "4 bytes per weight as fp32, 2 as fp16 or bf16. Use --tensor on large models.",
    "  w4a16 dequantize model-awq/ -o weights.safetensors --dtype bf16\n"
    "  w4a16 dequantize model.safetensors -o q.safetensors --tensor model.layers.0.self_attn.q_proj",
    "PATH is damaged, a layer is missing or not supported, or OUT exists or cannot be written",
};

static void free_tensors(w4a16_tensor *tensors, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)tensors[i].name);
        free((void *)(uintptr_t)tensors[i].data);
    }
    free(tensors);
}

/* The index of the first element that is Inf or NaN in any of the three dtypes; `count` where there is none. */
static int64_t find_infinite(const void *data, w4a16_dtype dtype, int64_t count) {
    const uint32_t *words = data;
    const uint16_t *halves = data;
    uint32_t exponent = dtype == W4A16_FP32 ? 0x7f800000u : dtype == W4A16_BF16 ? 0x7f80u : 0x7c00u;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = dtype == W4A16_FP32 ? words[i] : halves[i];
        if ((bits & exponent) == exponent) return i;
    }
    return count;
}

static bool decode(const w4a16_checkpoint *checkpoint, size_t index, w4a16_dtype dtype, w4a16_tensor *tensor) {
    w4a16_module_info module = {.struct_size = sizeof module};
    if (w4a16_checkpoint_module(checkpoint, index, &module)) {
        fail_library();
        return false;
    }
    void *data = allocate_array(module.n, module.k, w4a16_dtype_size(dtype));
    if (!data) return false;
    if (w4a16_checkpoint_dequantize(checkpoint, module.name, dtype, data, module.k)) {
        fail_library();
        free(data);
        return false;
    }
    int64_t infinite = find_infinite(data, dtype, module.n * module.k);
    if (infinite < module.n * module.k) {
        fail("%s: weight [%lld, %lld] is Inf or NaN as %s; the scales are damaged, or %s is too narrow for them",
             module.name, (long long)(infinite / module.k), (long long)(infinite % module.k), w4a16_dtype_name(dtype),
             w4a16_dtype_name(dtype));
        free(data);
        return false;
    }
    *tensor = (w4a16_tensor){
        .name = format_text("%s.weight", module.name),
        .dtype = dtype,
        .dimensions = 2,
        .shape = {module.n, module.k},
        .data = data,
        .bytes = (uint64_t)module.n * (uint64_t)module.k * w4a16_dtype_size(dtype),
    };
    return true;
}

static int dequantize(const char *path, const char *output, const text_list *names, w4a16_dtype dtype, bool force) {
    w4a16_checkpoint *checkpoint;
    if (!output_allowed(output, force)) return EXIT_RUNTIME;
    if (w4a16_checkpoint_open(path, &checkpoint)) return fail_library();
    size_t *indices, count, done = 0;
    uint64_t bytes = 0;
    bool good = choose_modules(checkpoint, path, names, &indices, &count);
    w4a16_tensor *tensors = allocate(count, sizeof *tensors);
    progress_begin();
    while (good && done < count) {
        good = decode(checkpoint, indices[done], dtype, &tensors[done]);
        if (!good) break;
        bytes += tensors[done].bytes;
        progress_show((double)(done + 1), (double)count, tensors[done].name);
        done++;
    }
    progress_clear();
    int exit_code = EXIT_RUNTIME;
    if (good) exit_code = w4a16_tensor_file_write(output, tensors, count, force) ? fail_library() : 0;
    if (!exit_code)
        printf("%zu tensors of %s, %s, written to %s\n", count, w4a16_dtype_name(dtype), bytes_text((double)bytes),
               output);
    free_tensors(tensors, done);
    free(indices);
    w4a16_checkpoint_close(checkpoint);
    return exit_code;
}

int command_dequantize(int argc, char **argv) {
    const char *path, *output = NULL;
    text_list names = {0};
    int dtype = W4A16_FP32, exit_code;
    bool force = false;
    const option_spec options[] = {
        {"output", 'o', OPTION_TEXT, "OUT", &output, "the file to write (required)", 0, 0, 0, true},
        {"tensor", 't', OPTION_TEXTS, "MODULE", &names,
         "decode only this layer; may be repeated (default: all).\nA tensor's full name, as MODULE.qweight, will do "
         "too",
         0, 0, 0, 0},
        {"dtype", 0, OPTION_CHOICE, "T", &dtype, "fp32, fp16 or bf16 (default fp32)", 0, 0, scale_dtypes, 0},
        OPTION_ENTRY_FORCE(&force),
        {0},
    };
    if (parse_options(&help, options, argc, argv, &path, &exit_code))
        exit_code = dequantize(path, output, &names, (w4a16_dtype)dtype, force);
    free_texts(&names);
    return exit_code;
}
