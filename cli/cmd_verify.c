/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 verify`: every layer of a checkpoint through the kernels, against double precision on weights that were
 * decoded by another path. */
#include "modules.h"
#include "progress.h"
#include "reference.h"
#include "report.h"
#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const command_help help = {
    "PATH [options]",
    "Check a quantised checkpoint. Each layer is packed for the device and multiplied by random\n"
    "activations (the same in every run); the result is compared with a double-precision product of\n"
    "weights decoded straight from the words on disk. All outputs are compared. A layer passes where\n"
    "the relative error (Frobenius norm) is under 2e-3 and nothing was written outside the output. (A\n"
    "few bf16 outputs can exceed that by rounding alone; then 1.1 times what rounding the exact result\n"
    "costs is allowed.)\n\n"
    "The table has one line per layer, with its worst run; --json has every run. Outputs too large\n"
    "or too small for 16 bits are brought into range by a power of two, through the kernels' alpha.\n"
    "Memory: 8 bytes per weight of the largest layer.",
    "  w4a16 verify model-awq/\n"
    "  w4a16 verify q.safetensors -m 1,64 --config all --dtype bf16\n"
    "  w4a16 verify model-gptq/ --tensor model.layers.0.mlp.up_proj --device cpu",
    "a layer failed or is not supported, or PATH or the device cannot be used",
};

static const double LIMIT = 2e-3;
/* Few bf16 outputs can miss that limit by their own rounding: what rounding the exact result costs, and a little more
 * for a neighbouring value here and there, is no kernel's fault. */
static const double ROUNDING_SHARE = 1.1;
enum { GUARD = 8 }; /* elements after each row of C that must stay as they were */

typedef struct verify_arguments {
    const char *path, *device, *config;
    text_list tensors;
    integer_list m;
    int dtype, instruction_set;
    int64_t threads;
    bool json;
} verify_arguments;

/* What became of one layer, and of the whole checkpoint. */
typedef struct layer_result {
    size_t runs, failed;
    double relative, largest; /* of the worst run */
    int64_t m;
    const char *config;
    char *text; /* why it failed, on the heap */
} layer_result;

typedef struct verification {
    const verify_arguments *arguments;
    const w4a16_checkpoint *checkpoint;
    w4a16_context *context;
    double done, total; /* multiply-adds, for the progress */
    json_t *runs;       /* NULL without --json */
} verification;

static void set_text(layer_result *layer, const char *text) {
    if (!layer->text) layer->text = format_text("%s", text);
}

static void note_run(verification *self, const w4a16_module_info *module, int64_t m, const char *config,
                     comparison errors, const char *failure, layer_result *layer) {
    bool worse = !layer->runs || !(errors.relative <= layer->relative);
    layer->runs++;
    if (failure) {
        layer->failed++;
        set_text(layer, failure);
    }
    if (worse && !isnan(layer->relative)) {
        layer->relative = errors.relative;
        layer->m = m;
        layer->config = config;
    }
    if (!(errors.largest <= layer->largest)) layer->largest = errors.largest;
    if (!self->runs) return;
    json_t *object = json_object();
    json_put_text(object, "name", module->name);
    json_put(object, "m", json_integer(m));
    json_put(object, "n", json_integer(module->n));
    json_put(object, "k", json_integer(module->k));
    json_put_text(object, "config", config ? config : "");
    json_put(object, "relative_error", json_number(errors.relative));
    json_put(object, "max_abs_error", json_number(errors.largest));
    json_put(object, "rounding_error", json_number(errors.rounding));
    json_put(object, "pass", json_boolean(!failure));
    json_put_text(object, "failure", failure ? failure : "");
    json_array_append_new(self->runs, object);
}

static bool guards_intact(const uint16_t *c, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = n; j < n + GUARD; j++) {
            if (c[i * (n + GUARD) + j] != 0xffff) return false;
        }
    }
    return true;
}

/* One multiplication of `reference` by one config (NULL: the library's choice). */
static void run_config(verification *self, const w4a16_module_info *module, const w4a16_weight *weight, int64_t m,
                       const uint16_t *a, const double *reference, uint16_t *c, const char *config,
                       layer_result *layer) {
    int64_t n = module->n, k = module->k, ldc = n + GUARD;
    w4a16_plan *plan = NULL;
    w4a16_plan_info chosen = {.struct_size = sizeof chosen};
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_min = options.m_max = m;
    options.a_dtype = (w4a16_dtype)self->arguments->dtype;
    options.config = config;
    double peak = largest_magnitude(reference, m * n);
    if (peak > 0 && (peak < 0x1p-4 || peak > 0x1p14)) {
        int exponent;
        frexp(peak, &exponent);
        options.alpha = (float)ldexp(1, -exponent);
    }
    comparison errors = {NAN, NAN, NAN};
    const char *failure = NULL;
    char *text = NULL;
    memset(c, 0xff, (size_t)m * (size_t)ldc * sizeof *c); /* NaN: an element that nobody writes shows */
    w4a16_status status = w4a16_plan_create(weight, &options, &plan);
    if (!status) status = w4a16_plan_query(plan, &chosen);
    if (!status) status = w4a16_gemm_host(plan, a, k, c, ldc, m);
    if (status) {
        failure = w4a16_last_error();
    } else {
        errors = compare(c, ldc, options.a_dtype, reference, options.alpha, m, n);
        if (!guards_intact(c, m, n)) {
            failure = "wrote outside the output";
        } else if (!(errors.relative < LIMIT || errors.relative <= ROUNDING_SHARE * errors.rounding)) {
            failure = text = format_text("relative error %.3g, limit %.0e", errors.relative, LIMIT);
        }
    }
    note_run(self, module, m, chosen.config ? chosen.config : config, errors, failure, layer);
    free(text);
    w4a16_plan_destroy(plan);
}

/* Every feasible config, for --config all. */
static void run_all_configs(verification *self, const w4a16_module_info *module, const w4a16_weight *weight, int64_t m,
                            const uint16_t *a, const double *reference, uint16_t *c, layer_result *layer) {
    w4a16_problem problem;
    w4a16_problem_init(&problem);
    problem.m = m;
    problem.n = module->n;
    problem.k = module->k;
    problem.group_size = module->groups == 1 ? -1 : module->group_size;
    problem.a_dtype = problem.c_dtype = (w4a16_dtype)self->arguments->dtype;
    problem.scale_dtype = module->scale_dtype;
    problem.zero_kind = module->zero_kind;
    size_t count = 0, feasible = 0;
    w4a16_status status = w4a16_config_list(self->context, &problem, NULL, 0, &count);
    w4a16_config_info *configs = allocate(count, sizeof *configs);
    if (!status) status = w4a16_config_list(self->context, &problem, configs, count, &count);
    for (size_t i = 0; !status && i < count; i++) {
        if (!configs[i].feasible) continue;
        feasible++;
        run_config(self, module, weight, m, a, reference, c, configs[i].name, layer);
    }
    if (status || !feasible) {
        comparison none = {NAN, NAN, NAN};
        note_run(self, module, m, NULL, none, status ? w4a16_last_error() : "no config is feasible", layer);
    }
    free(configs);
}

static bool run_m(verification *self, const w4a16_module_info *module, const w4a16_weight *weight, const double *w,
                  int64_t m, layer_result *layer) {
    const verify_arguments *arguments = self->arguments;
    uint16_t *a, *c = NULL;
    double *values, *reference = NULL;
    if (!random_activations((uint64_t)m, m, module->k, (w4a16_dtype)arguments->dtype, &a, &values)) return false;
    reference = allocate_array(m, module->n, sizeof *reference);
    if (reference) c = allocate_array(m, module->n + GUARD, sizeof *c);
    if (c) {
        reference_multiply(values, w, reference, m, module->n, module->k, (int)arguments->threads);
        if (arguments->config && !strcmp(arguments->config, "all")) {
            run_all_configs(self, module, weight, m, a, reference, c, layer);
        } else {
            run_config(self, module, weight, m, a, reference, c, arguments->config, layer);
        }
    }
    free(a);
    free(values);
    free(reference);
    free(c);
    return c != NULL;
}

/* @return false where the whole verification must stop (no memory), after an error line */
static bool verify_layer(verification *self, const w4a16_module_info *module, layer_result *layer) {
    w4a16_weight *weight = NULL;
    double *w = NULL;
    bool go_on = true;
    *layer = (layer_result){0};
    if (!module->supported) {
        set_text(layer, module->reason);
    } else if (w4a16_checkpoint_load(self->checkpoint, self->context, module->name, &weight)) {
        set_text(layer, w4a16_last_error());
    } else if (!(w = allocate_array(module->n, module->k, sizeof *w))) {
        go_on = false;
    } else if (w4a16_checkpoint_dequantize(self->checkpoint, module->name, W4A16_FP64, w, module->k)) {
        set_text(layer, w4a16_last_error());
    } else {
        for (size_t i = 0; go_on && i < self->arguments->m.count; i++) {
            int64_t m = self->arguments->m.items[i];
            go_on = run_m(self, module, weight, w, m, layer);
            self->done += (double)module->n * (double)module->k * (double)m;
            progress_show(self->done, self->total, module->name);
        }
    }
    free(w);
    w4a16_weight_destroy(weight);
    return go_on;
}

static void add_row(table *rows, const w4a16_module_info *module, const layer_result *layer) {
    table_add(rows, "%s", module->name);
    table_add(rows, "%lld", (long long)module->n);
    table_add(rows, "%lld", (long long)module->k);
    table_add(rows, "%zu", layer->runs);
    if (layer->runs) {
        table_add(rows, "%.2e", layer->relative);
        table_add(rows, "%.2e", layer->largest);
        table_add(rows, "%lld", (long long)layer->m);
    } else {
        for (int i = 0; i < 3; i++) table_add(rows, "-");
    }
    table_add(rows, "%s", layer->config ? layer->config : "-");
    if (layer->text) {
        table_add(rows, "FAIL: %s", layer->text);
    } else {
        table_add(rows, "pass");
    }
}

static json_t *layer_json(const w4a16_module_info *module, const layer_result *layer) {
    json_t *object = json_object();
    json_put_text(object, "name", module->name);
    json_put(object, "runs", json_integer((json_int_t)layer->runs));
    json_put(object, "relative_error", layer->runs ? json_number(layer->relative) : json_null());
    json_put(object, "max_abs_error", layer->runs ? json_number(layer->largest) : json_null());
    json_put(object, "pass", json_boolean(!layer->text));
    json_put_text(object, "failure", layer->text ? layer->text : "");
    return object;
}

typedef struct summary {
    size_t layers, failed, runs;
    double worst;
    char *first_failure;
} summary;

static void sum_up(summary *sum, const w4a16_module_info *module, const layer_result *layer) {
    sum->layers++;
    sum->runs += layer->runs;
    if (layer->runs && !(layer->relative <= sum->worst)) sum->worst = layer->relative;
    if (!layer->text) return;
    sum->failed++;
    if (!sum->first_failure) sum->first_failure = format_text("%s: %s", module->name, layer->text);
}

static int print_summary(verification *self, const summary *sum, const w4a16_device_info *device, json_t *layers,
                         const table *rows) {
    if (self->runs) {
        json_t *root = json_object();
        json_put_text(root, "path", self->arguments->path);
        json_put_text(root, "device", device->id);
        json_put_text(root, "dtype", w4a16_dtype_name((w4a16_dtype)self->arguments->dtype));
        json_put(root, "limit", json_real(LIMIT));
        json_put(root, "pass", json_boolean(!sum->failed));
        json_put(root, "failed", json_integer((json_int_t)sum->failed));
        json_put(root, "worst_relative_error", sum->runs ? json_number(sum->worst) : json_null());
        json_put(root, "layers", json_incref(layers));
        json_put(root, "runs", json_incref(self->runs));
        json_print(root);
    } else {
        table_print(rows, stdout);
        printf("\n%zu layers, %zu multiplications on %s (%s)", sum->layers, sum->runs, device->id, device->name);
        if (sum->runs) printf(": worst relative error %.2e, limit %.0e", sum->worst, LIMIT);
        printf("; %s\n", sum->failed ? "FAIL" : "pass");
    }
    if (!sum->failed) return 0;
    return fail("%zu of %zu layers failed; the first: %s", sum->failed, sum->layers, sum->first_failure);
}

static int verify_all(verification *self, const w4a16_device_info *device, const size_t *indices, size_t count) {
    w4a16_module_info *modules = allocate(count, sizeof *modules);
    double work = 0;
    for (size_t i = 0; i < self->arguments->m.count; i++) work += (double)self->arguments->m.items[i];
    for (size_t i = 0; i < count; i++) {
        modules[i].struct_size = sizeof modules[i];
        if (w4a16_checkpoint_module(self->checkpoint, indices[i], &modules[i])) {
            free(modules);
            return fail_library();
        }
        if (modules[i].supported) self->total += (double)modules[i].n * (double)modules[i].k * work;
    }
    table *rows = table_create("<LAYER|N|K|RUNS|REL. ERROR|MAX ERROR|AT M|<CONFIG|<RESULT");
    json_t *layers = json_array();
    summary sum = {0};
    bool go_on = true;
    self->runs = self->arguments->json ? json_array() : NULL;
    progress_begin();
    for (size_t i = 0; go_on && i < count; i++) {
        layer_result layer;
        go_on = verify_layer(self, &modules[i], &layer);
        add_row(rows, &modules[i], &layer);
        json_array_append_new(layers, layer_json(&modules[i], &layer));
        sum_up(&sum, &modules[i], &layer);
        free(layer.text);
    }
    progress_clear();
    int exit_code = go_on ? print_summary(self, &sum, device, layers, rows) : EXIT_RUNTIME;
    json_decref(layers);
    json_decref(self->runs);
    free(sum.first_failure);
    table_destroy(rows);
    free(modules);
    return exit_code;
}

static int verify(const verify_arguments *arguments) {
    w4a16_checkpoint *checkpoint;
    w4a16_device_info device;
    int exit_code = EXIT_RUNTIME;
    if (w4a16_checkpoint_open(arguments->path, &checkpoint)) return fail_library();
    w4a16_context *context =
        open_context(arguments->device, arguments->threads, instruction_set_text(arguments->instruction_set), &device);
    if (context) {
        verification self = {.arguments = arguments, .checkpoint = checkpoint, .context = context};
        size_t *indices = NULL, count;
        const char *config = arguments->config;
        bool config_good = !config || !strcmp(config, "all") || config_known(context, config);
        if (config_good && choose_modules(checkpoint, arguments->path, &arguments->tensors, &indices, &count))
            exit_code = verify_all(&self, &device, indices, count);
        free(indices);
    }
    w4a16_context_destroy(context);
    w4a16_checkpoint_close(checkpoint);
    return exit_code;
}

int command_verify(int argc, char **argv) {
    verify_arguments arguments = {.dtype = W4A16_FP16};
    int exit_code;
    const option_spec options[] = {
        {NULL, 'm', OPTION_INTEGERS, "M[,M]", &arguments.m, "tokens, 1 to 4096 (default 1,33)", 1, 4096, 0, 0},
        {"tensor", 't', OPTION_TEXTS, "MODULE", &arguments.tensors,
         "check only this layer; may be repeated (default: all)", 0, 0, 0, 0},
        OPTION_ENTRY_DTYPE(&arguments.dtype),
        OPTION_ENTRY_DEVICE(&arguments.device),
        {"config", 0, OPTION_TEXT, "NAME", &arguments.config,
         "a kernel config of `w4a16 configs`, or all for every\nfeasible one (default: the library chooses)", 0, 0, 0,
         0},
        OPTION_ENTRY_THREADS(&arguments.threads),
        OPTION_ENTRY_INSTRUCTIONS(&arguments.instruction_set),
        OPTION_ENTRY_JSON(&arguments.json),
        {0},
    };
    if (parse_options(&help, options, argc, argv, &arguments.path, &exit_code)) {
        if (!arguments.m.count) {
            arguments.m = (integer_list){allocate(2, sizeof(int64_t)), 2};
            arguments.m.items[0] = 1;
            arguments.m.items[1] = 33;
        }
        exit_code = verify(&arguments);
    }
    free_integers(&arguments.m);
    free_texts(&arguments.tensors);
    return exit_code;
}
