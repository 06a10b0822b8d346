/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 gemm`: multiply activations from a file by one layer of a checkpoint. */
#include "options.h"

#include <stdlib.h>
#include <string.h>

static const command_help help = {
    "--weight PATH --tensor MODULE --input A.safetensors -o C.safetensors [options]",
    "Compute C[M,N] = A[M,K] * W[N,K]^T with one quantised layer of a checkpoint. Reads the tensor\n"
    "`input` [M,K] (fp16, bf16, fp32 or fp64, rounded to --dtype) and writes the tensor `output`\n"
    "[M,N]. The output file appears only when it is complete.",
    "  w4a16 gemm --weight model-awq/ --tensor model.layers.0.self_attn.q_proj \\\n"
    "      --input a.safetensors -o c.safetensors --dtype bf16\n"
    "  w4a16 gemm -w q.safetensors -t fc1 -i a.safetensors -o c.safetensors --device cpu --config NAME",
    "a file, layer, device or config is missing or damaged, shapes do not match, OUT exists",
};

typedef struct gemm_arguments {
    const char *weight, *module, *input, *output, *device, *config;
    int dtype, instruction_set;
    int64_t threads;
    bool force, cost_model, explain;
} gemm_arguments;

static bool convertible(w4a16_dtype dtype) {
    return dtype == W4A16_FP16 || dtype == W4A16_BF16 || dtype == W4A16_FP32 || dtype == W4A16_FP64;
}

/* How many of `count` 16-bit floats are Inf or NaN. */
static size_t count_infinite(const uint16_t *values, size_t count, w4a16_dtype dtype) {
    uint16_t exponent = dtype == W4A16_BF16 ? 0x7f80 : 0x7c00;
    size_t infinite = 0;
    for (size_t i = 0; i < count; i++) infinite += (values[i] & exponent) == exponent;
    return infinite;
}

/* Read `input` [M,k] as `dtype`. @return the activations, to be freed; NULL after an error line */
static uint16_t *read_input(const gemm_arguments *arguments, int64_t k, int64_t *m) {
    w4a16_tensor_file *file;
    w4a16_tensor tensor;
    uint16_t *activations = NULL;
    void *aligned = NULL;
    if (w4a16_tensor_file_open(arguments->input, &file)) {
        fail_library();
        return NULL;
    }
    if (w4a16_tensor_file_find(file, "input", &tensor)) {
        fail_library();
    } else if (!convertible(tensor.dtype)) {
        fail("%s: tensor 'input' is %s; give fp16, bf16, fp32 or fp64", arguments->input,
             w4a16_dtype_name(tensor.dtype));
    } else if (tensor.dimensions != 2) {
        fail("%s: tensor 'input' has %d dimensions; give two, [M, %lld]", arguments->input, tensor.dimensions,
             (long long)k);
    } else if (tensor.shape[0] < 1 || tensor.shape[1] != k) {
        fail("%s: tensor 'input' is [%lld, %lld]; %s needs [M, %lld] with M >= 1", arguments->input,
             (long long)tensor.shape[0], (long long)tensor.shape[1], arguments->module, (long long)k);
    } else if ((activations = allocate_array(tensor.shape[0], k, 2)) &&
               (aligned = allocate_array(tensor.shape[0], k, w4a16_dtype_size(tensor.dtype)))) {
        size_t count = (size_t)tensor.shape[0] * (size_t)k;
        w4a16_dtype dtype = (w4a16_dtype)arguments->dtype;
        memcpy(aligned, tensor.data, tensor.bytes); /* the mapped data may lie at any address */
        *m = tensor.shape[0];
        if (w4a16_convert_elements(aligned, tensor.dtype, activations, dtype, count)) {
            fail_library();
            free(activations);
            activations = NULL;
        } else {
            size_t infinite = count_infinite(activations, count, dtype);
            if (infinite) warn("%zu elements of 'input' are Inf or NaN as %s", infinite, w4a16_dtype_name(dtype));
        }
    }
    free(aligned);
    w4a16_tensor_file_close(file);
    return activations;
}

/* How the plan was chosen, after the result's line. */
static bool explain_plan(const w4a16_plan *plan) {
    size_t length = 0;
    w4a16_status status = w4a16_plan_describe(plan, NULL, 0, &length);
    char *text = allocate(length + 1, 1);
    if (!status) status = w4a16_plan_describe(plan, text, length + 1, &length);
    if (status)
        fail_library();
    else
        printf("\n%s", text);
    free(text);
    return !status;
}

static int multiply(const gemm_arguments *arguments, const w4a16_weight *weight, const w4a16_weight_info *shape,
                    const char *device) {
    int64_t m = 0;
    uint16_t *a = read_input(arguments, shape->k, &m), *c = NULL;
    w4a16_plan *plan = NULL;
    w4a16_plan_info chosen = {.struct_size = sizeof chosen};
    int exit_code = EXIT_RUNTIME;
    if (a) c = allocate_array(m, shape->n, 2);
    if (a && c) {
        w4a16_plan_options options;
        w4a16_plan_options_init(&options);
        options.m_min = options.m_max = m;
        options.a_dtype = (w4a16_dtype)arguments->dtype;
        options.config = arguments->config;
        if (arguments->cost_model) options.flags |= W4A16_PLAN_COST_MODEL;
        w4a16_tensor output = {
            .name = "output",
            .dtype = (w4a16_dtype)arguments->dtype,
            .dimensions = 2,
            .shape = {m, shape->n},
            .data = c,
            .bytes = (uint64_t)m * (uint64_t)shape->n * 2,
        };
        double started = 0, seconds = 0;
        w4a16_status status = w4a16_plan_create(weight, &options, &plan);
        if (!status) status = w4a16_plan_query(plan, &chosen);
        if (!status) {
            started = seconds_now();
            status = w4a16_gemm_host(plan, a, shape->k, c, shape->n, m);
            seconds = seconds_now() - started;
        }
        if (!status) status = w4a16_tensor_file_write(arguments->output, &output, 1, arguments->force);
        exit_code = status ? fail_library() : 0;
        if (!status)
            printf("output [%lld, %lld] %s written to %s: M=%lld N=%lld K=%lld, config %s on %s, %s with one-time "
                   "costs\n",
                   (long long)m, (long long)shape->n, w4a16_dtype_name(output.dtype), arguments->output, (long long)m,
                   (long long)shape->n, (long long)shape->k, chosen.config, device, seconds_text(seconds));
        if (!status && arguments->explain && !explain_plan(plan)) exit_code = EXIT_RUNTIME;
    }
    w4a16_plan_destroy(plan);
    free(a);
    free(c);
    return exit_code;
}

static int gemm(const gemm_arguments *arguments) {
    w4a16_checkpoint *checkpoint;
    w4a16_device_info device;
    w4a16_weight *weight = NULL;
    w4a16_weight_info shape = {.struct_size = sizeof shape};
    if (!output_allowed(arguments->output, arguments->force)) return EXIT_RUNTIME;
    if (w4a16_checkpoint_open(arguments->weight, &checkpoint)) return fail_library();
    w4a16_context *context =
        open_context(arguments->device, arguments->threads, instruction_set_text(arguments->instruction_set), &device);
    int exit_code = EXIT_RUNTIME;
    size_t index;
    w4a16_module_info module = {.struct_size = sizeof module};
    if (context) {
        if (w4a16_checkpoint_find(checkpoint, arguments->module, &index) ||
            w4a16_checkpoint_module(checkpoint, index, &module) ||
            w4a16_checkpoint_load(checkpoint, context, module.name, &weight) || w4a16_weight_query(weight, &shape)) {
            exit_code = fail_library();
        } else {
            exit_code = multiply(arguments, weight, &shape, device.id);
        }
    }
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    w4a16_checkpoint_close(checkpoint);
    return exit_code;
}

int command_gemm(int argc, char **argv) {
    gemm_arguments arguments = {.dtype = W4A16_FP16};
    int exit_code;
    const option_spec options[] = {
        {"weight", 'w', OPTION_TEXT, "PATH", &arguments.weight,
         "the checkpoint: a .safetensors file or a model folder\n(required)", 0, 0, 0, true},
        {"tensor", 't', OPTION_TEXT, "MODULE", &arguments.module, "the layer, as `w4a16 inspect` names it (required)",
         0, 0, 0, true},
        {"input", 'i', OPTION_TEXT, "A", &arguments.input, "a .safetensors file with the tensor `input` (required)", 0,
         0, 0, true},
        {"output", 'o', OPTION_TEXT, "C", &arguments.output, "the file to write (required)", 0, 0, 0, true},
        OPTION_ENTRY_DTYPE(&arguments.dtype),
        OPTION_ENTRY_DEVICE(&arguments.device),
        {"config", 0, OPTION_TEXT, "NAME", &arguments.config,
         "the kernel config, as `w4a16 configs` names it (default:\nthe library chooses)", 0, 0, 0, 0},
        OPTION_ENTRY_COST_MODEL(&arguments.cost_model),
        OPTION_ENTRY_EXPLAIN(&arguments.explain),
        OPTION_ENTRY_THREADS(&arguments.threads),
        OPTION_ENTRY_INSTRUCTIONS(&arguments.instruction_set),
        OPTION_ENTRY_FORCE(&arguments.force),
        {0},
    };
    if (!parse_options(&help, options, argc, argv, NULL, &exit_code)) return exit_code;
    return gemm(&arguments);
}
