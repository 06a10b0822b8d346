/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 inspect`: the quantised layers of a checkpoint. */
#include "options.h"
#include "report.h"
#include "table.h"

static const command_help help = {
    "PATH [--json]",
    "List the quantised layers of a checkpoint: format, out features N, in features K, group size\n"
    "along K, zero points, act-order, dtype of the scales, bytes on disk. A layer that cannot be\n"
    "used is listed with the reason. Only headers are read.\n\n"
    "PATH is a .safetensors file or a model folder.",
    "  w4a16 inspect model-awq/\n"
    "  w4a16 inspect model.safetensors --json",
    "PATH cannot be read or its content is damaged",
};

typedef struct totals {
    size_t supported;
    double parameters;
    uint64_t bytes;
} totals;

static json_t *module_json(const w4a16_module_info *module) {
    json_t *object = json_object();
    json_put_text(object, "name", module->name);
    json_put_text(object, "format", w4a16_format_name(module->format));
    json_put_text(object, "variant", module->variant);
    json_put(object, "n", json_integer(module->n));
    json_put(object, "k", json_integer(module->k));
    json_put(object, "group_size", json_integer(module->group_size));
    json_put(object, "groups", json_integer(module->groups));
    json_put_text(object, "zero_points", zero_kind_text(module->zero_kind));
    json_put(object, "act_order", json_boolean(module->act_order));
    json_put_text(object, "scale_dtype", w4a16_dtype_name(module->scale_dtype));
    json_put(object, "bytes", json_integer((json_int_t)module->bytes));
    json_put(object, "supported", json_boolean(module->supported));
    json_put_text(object, "reason", module->reason ? module->reason : "");
    return object;
}

static void add_row(table *rows, const w4a16_module_info *module) {
    table_add(rows, "%s", module->name);
    table_add(rows, "%s %s", w4a16_format_name(module->format), module->variant);
    table_add(rows, "%lld", (long long)module->n);
    table_add(rows, "%lld", (long long)module->k);
    table_add(rows, "%lld", (long long)module->group_size);
    table_add(rows, "%s", zero_kind_text(module->zero_kind));
    table_add(rows, "%s", module->act_order ? "yes" : "no");
    table_add(rows, "%s", w4a16_dtype_name(module->scale_dtype));
    table_add(rows, "%llu", (unsigned long long)module->bytes);
}

static int print_json(const char *path, json_t *modules, size_t count, const totals *sum) {
    json_t *root = json_object(), *total = json_object();
    json_put_text(root, "path", path);
    json_put(root, "modules", modules);
    json_put(total, "modules", json_integer((json_int_t)count));
    json_put(total, "supported", json_integer((json_int_t)sum->supported));
    json_put(total, "parameters", json_integer((json_int_t)sum->parameters));
    json_put(total, "bytes", json_integer((json_int_t)sum->bytes));
    json_put(root, "totals", total);
    return json_print(root);
}

static int print_table(const char *path, const table *rows, const table *refused, size_t count, const totals *sum) {
    if (!count) {
        print_clean(path, stdout);
        puts(" holds no quantised layers");
        return 0;
    }
    table_print(rows, stdout);
    if (sum->supported < count) {
        puts(sum->supported ? "\nNot supported:" : "Not supported:");
        table_print(refused, stdout);
    }
    printf("\n%zu quantised layers, %zu of them supported", count, sum->supported);
    if (sum->parameters > 0)
        printf("; %.4g million weights in %s, %.3f bits per weight", sum->parameters * 1e-6,
               bytes_text((double)sum->bytes), 8 * (double)sum->bytes / sum->parameters);
    putchar('\n');
    return 0;
}

int command_inspect(int argc, char **argv) {
    bool json = false;
    const char *path;
    int exit_code;
    const option_spec options[] = {OPTION_ENTRY_JSON(&json), {0}};
    if (!parse_options(&help, options, argc, argv, &path, &exit_code)) return exit_code;

    w4a16_checkpoint *checkpoint;
    if (w4a16_checkpoint_open(path, &checkpoint)) return fail_library();
    size_t count = w4a16_checkpoint_count(checkpoint);
    totals sum = {0};
    table *rows = table_create("<LAYER|<FORMAT|N|K|GROUP|<ZEROS|<ACT-ORDER|<SCALES|BYTES");
    table *refused = table_create("<LAYER|<FORMAT|<REASON");
    json_t *modules = json_array();
    exit_code = 0;
    for (size_t i = 0; i < count && !exit_code; i++) {
        w4a16_module_info module = {.struct_size = sizeof module};
        if (w4a16_checkpoint_module(checkpoint, i, &module)) {
            exit_code = fail_library();
        } else {
            if (module.supported) {
                sum.supported++;
                sum.parameters += (double)module.n * (double)module.k;
                sum.bytes += module.bytes;
                add_row(rows, &module);
            } else {
                table_add(refused, "%s", module.name);
                table_add(refused, "%s %s", w4a16_format_name(module.format), module.variant);
                table_add(refused, "%s", module.reason);
            }
            json_array_append_new(modules, module_json(&module));
        }
    }
    if (!exit_code && json) {
        exit_code = print_json(path, modules, count, &sum);
    } else {
        json_decref(modules);
        if (!exit_code) exit_code = print_table(path, rows, refused, count, &sum);
    }
    table_destroy(rows);
    table_destroy(refused);
    w4a16_checkpoint_close(checkpoint);
    return exit_code;
}
