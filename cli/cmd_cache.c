/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 cache`: files of tuned results: shown, merged, exported. */
#include "options.h"
#include "report.h"
#include "table.h"

#include <stdlib.h>
#include <string.h>

static const command_help help = {
    "FILE [options]",
    "Show a file of tuned results, as `w4a16 tune` makes it: for each device, problem and number of\n"
    "tokens the fastest config, its time, how many configs were timed, and when. With --merge the\n"
    "results of other files are merged into FILE first (it is made where there is none); of two for\n"
    "the same problem the newer one stays. A table that the library ships can be made from the CSV\n"
    "(tools/make_table.py).",
    "  w4a16 cache tuned.json\n"
    "  w4a16 cache all.json --merge gpu0.json --merge gpu1.json\n"
    "  w4a16 cache tuned.json --csv tuned.csv",
    "a file cannot be read or written, or is damaged",
};

typedef struct cache_arguments {
    const char *path, *csv;
    text_list merge;
    bool json, force;
} cache_arguments;

static json_t *entry_json(const w4a16_cache_entry *entry) {
    const w4a16_problem *problem = &entry->problem;
    json_t *object = json_object();
    json_put_text(object, "device", entry->device);
    json_put_text(object, "code", entry->code);
    json_put(object, "processors", json_integer(entry->processors));
    json_put(object, "memory_mhz", json_integer(entry->memory_mhz));
    json_put_text(object, "library", entry->fingerprint);
    json_put(object, "n", json_integer(problem->n));
    json_put(object, "k", json_integer(problem->k));
    json_put(object, "group_size", json_integer(problem->group_size));
    json_put_text(object, "zero_points", zero_kind_text(problem->zero_kind));
    json_put(object, "uneven_scales", json_boolean(problem->uneven_scales));
    json_put_text(object, "dtype", w4a16_dtype_name(problem->a_dtype));
    json_put_text(object, "output_dtype", w4a16_dtype_name(problem->c_dtype));
    json_put_text(object, "scale_dtype", w4a16_dtype_name(problem->scale_dtype));
    json_put(object, "batch_invariant", json_boolean(problem->flags & W4A16_PLAN_BATCH_INVARIANT));
    json_put(object, "overlap", json_boolean(!(problem->flags & W4A16_PLAN_NO_OVERLAP)));
    json_put(object, "m", json_integer(problem->m));
    json_put_text(object, "config", entry->config);
    json_put(object, "seconds", json_number(entry->seconds));
    json_put(object, "timed", json_integer(entry->timed));
    json_put_text(object, "date", entry->date);
    return object;
}

/* "integer bf16 invariant": what a problem is besides its sizes. */
static char *mode_text(const w4a16_problem *problem) {
    return format_text("%s %s%s%s %s%s%s%s", zero_kind_text(problem->zero_kind), w4a16_dtype_name(problem->a_dtype),
                       problem->c_dtype == problem->a_dtype ? "" : "->",
                       problem->c_dtype == problem->a_dtype ? "" : w4a16_dtype_name(problem->c_dtype),
                       w4a16_dtype_name(problem->scale_dtype), problem->uneven_scales ? " uneven" : "",
                       problem->flags & W4A16_PLAN_BATCH_INVARIANT ? " invariant" : "",
                       problem->flags & W4A16_PLAN_NO_OVERLAP ? " no-overlap" : "");
}

static void add_row(table *rows, const w4a16_cache_entry *entry) {
    char *mode = mode_text(&entry->problem);
    table_add(rows, "%lld", (long long)entry->problem.n);
    table_add(rows, "%lld", (long long)entry->problem.k);
    table_add(rows, "%lld", (long long)entry->problem.group_size);
    table_add(rows, "%s", mode);
    table_add(rows, "%lld", (long long)entry->problem.m);
    table_add(rows, "%s", entry->config);
    table_add(rows, "%.2f", entry->seconds * 1e6);
    table_add(rows, "%d", entry->timed);
    table_add(rows, "%s", entry->date);
    free(mode);
}

/* The columns that tools/ reads of `w4a16 bench --profile --csv`, and the rest of the key. */
static void write_csv_row(FILE *stream, const w4a16_cache_entry *entry) {
    const w4a16_problem *problem = &entry->problem;
    char *device = format_text("%s", entry->device);
    for (char *c = device; *c; c++)
        if (*c == ',' || *c == '"') *c = ' ';
    fprintf(stream, "%s,%lld,%lld,%lld,%lld,%s,%s,%s,%s,1,%.6g,%s,%s,%s,%d,%s\n", device, (long long)problem->m,
            (long long)problem->n, (long long)problem->k, (long long)problem->group_size,
            zero_kind_text(problem->zero_kind), w4a16_dtype_name(problem->a_dtype),
            w4a16_dtype_name(problem->scale_dtype), entry->config, entry->seconds * 1e6,
            w4a16_dtype_name(problem->c_dtype), problem->uneven_scales ? "uneven" : "even",
            problem->flags & W4A16_PLAN_BATCH_INVARIANT ? "batch-invariant"
            : problem->flags & W4A16_PLAN_NO_OVERLAP    ? "no-overlap"
                                                        : "",
            entry->timed, entry->date);
    free(device);
}

static bool same_device(const w4a16_cache_entry *a, const w4a16_cache_entry *b) {
    return !strcmp(a->device, b->device) && !strcmp(a->code, b->code) && a->processors == b->processors &&
           a->memory_mhz == b->memory_mhz && !strcmp(a->fingerprint, b->fingerprint);
}

static void print_device(const w4a16_cache_entry *entry, bool first) {
    if (!first) putchar('\n');
    print_clean(entry->device, stdout);
    printf(" (%s, %d %s", entry->code, entry->processors,
           entry->memory_mhz        ? "SMs"
           : entry->processors == 1 ? "thread"
                                    : "threads");
    if (entry->memory_mhz) printf(", memory %d MHz", entry->memory_mhz);
    printf("), library %s\n\n", entry->fingerprint);
}

static void print_tables(const w4a16_cache_entry *entries, size_t count) {
    static const char headers[] = "N|K|GROUP|<MODE|M|<CONFIG|TIME µs|TIMED|<DATE";
    table *rows = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!i || !same_device(&entries[i - 1], &entries[i])) {
            print_device(&entries[i], !i);
            rows = table_create(headers);
        }
        add_row(rows, &entries[i]);
        if (i + 1 < count && same_device(&entries[i], &entries[i + 1])) continue;
        table_print(rows, stdout);
        table_destroy(rows);
    }
    printf("%s%zu results\n", count ? "\n" : "", count);
}

static int print_json(const char *path, const w4a16_cache_entry *entries, size_t count) {
    json_t *root = json_object(), *list = json_array();
    json_put_text(root, "path", path);
    json_put(root, "results", list);
    for (size_t i = 0; i < count; i++) json_array_append_new(list, entry_json(&entries[i]));
    return json_print(root);
}

static int show(const cache_arguments *arguments, const w4a16_cache *cache, text_output *csv) {
    size_t count = w4a16_cache_count(cache);
    w4a16_cache_entry *entries = allocate(count, sizeof *entries);
    int exit_code = 0;
    for (size_t i = 0; i < count && !exit_code; i++) {
        entries[i].struct_size = sizeof *entries;
        if (w4a16_cache_get(cache, i, &entries[i])) exit_code = fail_library();
    }
    if (!exit_code && arguments->csv) {
        fputs("device,m,n,k,group_size,zero_points,dtype,scale_dtype,config,chosen,microseconds,output_dtype,scales,"
              "flags,"
              "timed,date\n",
              csv->stream);
        for (size_t i = 0; i < count; i++) write_csv_row(csv->stream, &entries[i]);
        if (!text_output_commit(csv)) exit_code = EXIT_RUNTIME;
    }
    if (!exit_code && arguments->json) {
        exit_code = print_json(arguments->path, entries, count);
    } else if (!exit_code) {
        print_tables(entries, count);
    }
    free(entries);
    return exit_code;
}

static int run_cache(const cache_arguments *arguments) {
    w4a16_cache *cache;
    text_output csv = {0};
    if (arguments->csv && !text_output_open(arguments->csv, arguments->force, &csv)) return EXIT_RUNTIME;
    w4a16_status status = W4A16_OK;
    for (size_t i = 0; !status && i < arguments->merge.count; i++)
        status = w4a16_cache_merge(arguments->path, arguments->merge.items[i]);
    if (!status) status = w4a16_cache_open(arguments->path, &cache);
    int exit_code = status ? fail_library() : show(arguments, cache, &csv);
    if (!status) w4a16_cache_close(cache);
    text_output_abandon(&csv);
    return exit_code;
}

int command_cache(int argc, char **argv) {
    cache_arguments arguments = {0};
    int exit_code;
    const option_spec options[] = {
        {"merge", 0, OPTION_TEXTS, "OTHER", &arguments.merge, "merge this file's results into FILE; may be repeated", 0,
         0, 0, 0},
        {"csv", 0, OPTION_TEXT, "F", &arguments.csv, "also write the results to this CSV file", 0, 0, 0, 0},
        OPTION_ENTRY_JSON(&arguments.json),
        {"force", 'f', OPTION_FLAG, NULL, &arguments.force, "replace an existing CSV file (default: refuse)", 0, 0, 0,
         0},
        {0},
    };
    if (parse_options(&help, options, argc, argv, &arguments.path, &exit_code)) exit_code = run_cache(&arguments);
    free_texts(&arguments.merge);
    return exit_code;
}
