/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 quantize`: a float model to 4 bits. */
#include "options.h"
#include "rewrite.h"

static const command_help help = {
    "PATH -o OUT [options]",
    "Quantise the linear layers of an fp32, fp16 or bf16 model to 4 bits. PATH is a .safetensors\n"
    "file or a model folder; OUT is of the same kind. In a folder all other tensors and files are\n"
    "carried over, and config.json receives the quantization_config that engines look for.\n\n"
    "Prints the signal to quantisation noise ratio (SQNR) of each layer. Memory is bounded by the\n"
    "largest tensor. OUT appears only when it is complete; Ctrl-C leaves nothing behind.",
    "  w4a16 quantize model/ -o model-4bit/\n"
    "  w4a16 quantize model/ -o model-awq/ --format awq --asymmetric --group-size 64\n"
    "  w4a16 quantize model.safetensors -o q.safetensors --include '*.q_proj' --include '*.k_proj'",
    "PATH is damaged or holds NaN or Inf, OUT exists or cannot be written",
};

static const choice methods[] = {{"mse", W4A16_QUANTIZE_MSE}, {"rtn", W4A16_QUANTIZE_RTN}, {NULL, 0}};

int command_quantize(int argc, char **argv) {
    const char *path, *output = NULL;
    text_list include = {0}, exclude = {0};
    bool asymmetric = false, force = false, json = false;
    w4a16_quantize_options quantize;
    w4a16_quantize_options_init(&quantize);
    int64_t group_size = quantize.group_size, threads = 0;
    int method = quantize.method, format = quantize.format, scale_dtype = quantize.scale_dtype, exit_code;
    const option_spec options[] = {
        {"output", 'o', OPTION_TEXT, "OUT", &output, "the file or folder to write (required)", 0, 0, 0, true},
        {"group-size", 'g', OPTION_GROUP_SIZE, "G", &group_size,
         "weights along K that share a scale: a multiple of 32,\nor -1 for one group per row (default 128)", 0, 0, 0,
         0},
        {"asymmetric", 'a', OPTION_FLAG, NULL, &asymmetric,
         "an integer zero point per group (default: symmetric,\nzero point 8)", 0, 0, 0, 0},
        {"method", 0, OPTION_CHOICE, "M", &method,
         "mse: search scale and zero point for the least squared\nerror; rtn: round to nearest (default mse)", 0, 0,
         methods, 0},
        {"format", 0, OPTION_CHOICE, "F", &format, "compressed-tensors, gptq or awq (default\ncompressed-tensors)", 0,
         0, formats, 0},
        {"scale-dtype", 0, OPTION_CHOICE, "T", &scale_dtype, "dtype of the scales: fp16, bf16 or fp32 (default fp16)",
         0, 0, scale_dtypes, 0},
        {"include", 0, OPTION_TEXTS, "GLOB", &include,
         "quantise exactly the layers whose name matches; may be\nrepeated (default: every linear layer, but no "
         "embedding\n"
         "and no output head)",
         0, 0, 0, 0},
        {"exclude", 0, OPTION_TEXTS, "GLOB", &exclude, "leave matching layers as they are; may be repeated", 0, 0, 0,
         0},
        OPTION_ENTRY_THREADS(&threads),
        OPTION_ENTRY_FORCE(&force),
        OPTION_ENTRY_JSON(&json),
        {0},
    };
    if (parse_options(&help, options, argc, argv, &path, &exit_code)) {
        rewrite work;
        quantize.method = (w4a16_quantize_method)method;
        quantize.group_size = group_size;
        quantize.asymmetric = asymmetric;
        quantize.scale_dtype = (w4a16_dtype)scale_dtype;
        quantize.threads = (int)threads;
        quantize.format = (w4a16_format)format;
        quantize.include = include.items;
        quantize.include_count = include.count;
        quantize.exclude = exclude.items;
        quantize.exclude_count = exclude.count;
        quantize.overwrite = force;
        quantize.progress = rewrite_progress;
        quantize.user = &work;
        exit_code = EXIT_RUNTIME;
        if (output_allowed(output, force)) {
            rewrite_begin(&work);
            w4a16_status status = w4a16_checkpoint_quantize(path, output, &quantize);
            exit_code = rewrite_finish(&work, status, path, output, quantize.format, true, json);
        }
    }
    free_texts(&include);
    free_texts(&exclude);
    return exit_code;
}
