/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 configs`: the kernel configs of a device, and which can run a problem. */
#include "options.h"
#include "report.h"
#include "table.h"

#include <stdlib.h>

static const command_help help = {
    "[-m M -n N -k K] [options]",
    "List the kernel configs of a device: name and tile. With -m, -n and -k also which of them can\n"
    "run that multiplication, the reason where one cannot, the time that the cost model expects (~: a\n"
    "rough estimate), the time that was measured (tuned, or shipped for the GPU) and which one a plan\n"
    "takes (*). On a CPU a name that ends in _t2 takes two threads, one without such an end all.\n"
    "The names serve --config of gemm, verify and bench.",
    "  w4a16 configs\n"
    "  w4a16 configs --device cpu -m 16 -n 4096 -k 4096 --group-size 64",
    "the device cannot be used",
};

typedef struct configs_arguments {
    const char *device;
    int64_t m, threads;
    problem_arguments problem;
    int instruction_set;
    bool cost_model, explain, json;
} configs_arguments;

static json_t *config_json(const w4a16_config_info *config, bool with_problem) {
    json_t *object = json_object();
    json_put_text(object, "name", config->name);
    json_put(object, "tile_m", json_integer(config->tile_m));
    json_put(object, "tile_n", json_integer(config->tile_n));
    json_put(object, "tile_k", json_integer(config->tile_k));
    if (config->threads) json_put(object, "threads", json_integer(config->threads));
    json_put(object, "feasible", json_boolean(config->feasible));
    json_put_text(object, "reason", config->reason);
    if (with_problem) {
        bool measured = config->measured_seconds > 0;
        json_put(object, "predicted_seconds", config->feasible ? json_number(config->predicted_seconds) : json_null());
        json_put(object, "rank", config->feasible ? json_integer(config->rank) : json_null());
        json_put(object, "rough", json_boolean(config->rough));
        json_put(object, "measured_seconds", measured ? json_number(config->measured_seconds) : json_null());
        json_put_text(object, "source", source_text(config->source));
        json_put(object, "chosen", json_boolean(config->chosen));
    }
    return object;
}

/* `explanation`: NULL, or what --explain asks for. */
static int print_configs(const configs_arguments *arguments, const w4a16_device_info *device,
                         const w4a16_config_info *configs, size_t count, const char *explanation) {
    bool with_problem = arguments->m > 0;
    if (arguments->json) {
        json_t *root = json_object(), *list = json_array();
        json_put_text(root, "device", device->id);
        if (explanation) json_put_text(root, "explanation", explanation);
        json_put(root, "configs", list);
        for (size_t i = 0; i < count; i++) json_array_append_new(list, config_json(&configs[i], with_problem));
        return json_print(root);
    }
    if (explanation) {
        fputs(explanation, stdout);
        return 0;
    }
    table *rows = table_create(with_problem ? "<CONFIG|TILE M|N|K|<FEASIBLE|PREDICTED|RANK|MEASURED|<REASON"
                                            : "<CONFIG|TILE M|N|K|<FEASIBLE|<REASON");
    for (size_t i = 0; i < count; i++) {
        const w4a16_config_info *config = &configs[i];
        table_add(rows, "%s%s", config->name, config->chosen ? " *" : "");
        table_add(rows, "%d", (int)config->tile_m);
        table_add(rows, "%d", (int)config->tile_n);
        table_add(rows, "%d", (int)config->tile_k);
        table_add(rows, "%s", config->feasible ? "yes" : "no");
        if (with_problem && config->feasible) {
            table_add(rows, "%s%s", config->rough ? "~" : "", seconds_text(config->predicted_seconds));
            table_add(rows, "%d", config->rank);
        } else if (with_problem) {
            for (int column = 0; column < 2; column++) table_add(rows, "-");
        }
        if (with_problem)
            table_add(rows, "%s", config->measured_seconds > 0 ? seconds_text(config->measured_seconds) : "-");
        table_add(rows, "%s", config->reason);
    }
    printf("%s (%s)\n\n", device->id, device->name);
    table_print(rows, stdout);
    table_destroy(rows);
    return 0;
}

static int list_configs(const configs_arguments *arguments) {
    w4a16_device_info device;
    w4a16_context *context =
        open_context(arguments->device, arguments->threads, instruction_set_text(arguments->instruction_set), &device);
    if (!context) return EXIT_RUNTIME;
    w4a16_problem problem = make_problem(&arguments->problem, arguments->m);
    if (arguments->cost_model) problem.flags |= W4A16_PLAN_COST_MODEL;
    const w4a16_problem *asked = arguments->m ? &problem : NULL;
    size_t count = 0;
    w4a16_status status = w4a16_config_list(context, asked, NULL, 0, &count);
    w4a16_config_info *configs = allocate(count, sizeof *configs);
    if (!status) status = w4a16_config_list(context, asked, configs, count, &count);
    int exit_code = status ? fail_library() : 0;
    char *explanation = !exit_code && arguments->explain ? explanation_text(context, &problem) : NULL;
    if (arguments->explain && !explanation) exit_code = EXIT_RUNTIME;
    if (!exit_code) exit_code = print_configs(arguments, &device, configs, count, explanation);
    free(explanation);
    free(configs);
    w4a16_context_destroy(context);
    return exit_code;
}

int command_configs(int argc, char **argv) {
    const int64_t dimension_limit = (int64_t)1 << 24;
    configs_arguments arguments = {.problem = default_problem};
    int exit_code;
    const option_spec options[] = {
        {NULL, 'm', OPTION_INTEGER, "M", &arguments.m, "tokens", 1, dimension_limit, 0, 0},
        {NULL, 'n', OPTION_INTEGER, "N", &arguments.problem.n, "out features", 1, dimension_limit, 0, 0},
        {NULL, 'k', OPTION_INTEGER, "K", &arguments.problem.k, "in features", 1, dimension_limit, 0, 0},
        {"group-size", 'g', OPTION_GROUP_SIZE, "G", &arguments.problem.group_size,
         "a multiple of 32, or -1 for one group per row (default\n128)", 0, 0, 0, 0},
        {"asymmetric", 'a', OPTION_FLAG, NULL, &arguments.problem.asymmetric,
         "with integer zero points (default: symmetric)", 0, 0, 0, 0},
        OPTION_ENTRY_DTYPE(&arguments.problem.dtype),
        {"scale-dtype", 0, OPTION_CHOICE, "T", &arguments.problem.scale_dtype,
         "dtype of the scales: fp16, bf16 or fp32 (default fp16)", 0, 0, scale_dtypes, 0},
        OPTION_ENTRY_DEVICE(&arguments.device),
        OPTION_ENTRY_COST_MODEL(&arguments.cost_model),
        OPTION_ENTRY_EXPLAIN(&arguments.explain),
        OPTION_ENTRY_THREADS(&arguments.threads),
        OPTION_ENTRY_INSTRUCTIONS(&arguments.instruction_set),
        OPTION_ENTRY_JSON(&arguments.json),
        {0},
    };
    if (!parse_options(&help, options, argc, argv, NULL, &exit_code)) return exit_code;
    int given = (arguments.m > 0) + (arguments.problem.n > 0) + (arguments.problem.k > 0);
    if (given != 0 && given != 3) return fail_usage("give all of -m M, -n N and -k K, or none of them");
    if (arguments.explain && !given) return fail_usage("--explain needs a multiplication: give -m M, -n N and -k K");
    return list_configs(&arguments);
}
