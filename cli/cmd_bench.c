/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 bench`: check, then time a multiplication with cold weights. */
#include "measurement.h"
#include "options.h"
#include "progress.h"
#include "report.h"

#include <stdlib.h>

static const command_help help = {
    "-m M[,M] -n N -k K [options]",
    "Time C[M,N] = A[M,K] * W[N,K]^T on random data. Each config's result is first checked against\n"
    "double precision (relative error under 2e-3; a wrong one gets no time), then timed with cold\n"
    "weights: as many copies as overflow the caches, called in turn; the median counts.\n\n"
    "The machine's limits (reading memory, arithmetic) are measured before and after. OF LIMIT is the\n"
    "time that they would allow, max(bytes / read speed, flop / peak), over the time taken; bytes are\n"
    "codes, scales, zero points, A and C, each once.",
    "  w4a16 bench -m 1,16,512 -n 4096 -k 14336\n"
    "  w4a16 bench -m 1 -n 4096 -k 4096 --profile --csv results.csv\n"
    "  w4a16 bench -m 64 -n 4096 -k 4096 --group-size 64 --dtype bf16 --json",
    "a result was wrong, or the device, config or CSV file cannot be used",
};

typedef struct bench_arguments {
    const char *device, *config, *csv, *only;
    integer_list m;
    problem_arguments problem;
    int64_t threads;
    int instruction_set;
    double seconds;
    bool no_overlap, invariant, cost_model, explain, profile, json, force;
} bench_arguments;

typedef struct bench {
    const bench_arguments *arguments;
    w4a16_context *context;
    w4a16_ceilings ceilings;
    measurement *rows;
    size_t count, failed;
    json_t *explanations; /* NULL without --explain and --json */
} bench;

static w4a16_problem problem_at(const bench_arguments *arguments, int64_t m) {
    w4a16_problem problem = make_problem(&arguments->problem, m);
    if (arguments->no_overlap) problem.flags |= W4A16_PLAN_NO_OVERLAP;
    if (arguments->invariant) problem.flags |= W4A16_PLAN_BATCH_INVARIANT;
    if (arguments->cost_model) problem.flags |= W4A16_PLAN_COST_MODEL;
    return problem;
}

/* Measure one config (NULL: the library's choice) into a new row. @return the library's status */
static w4a16_status measure(bench *self, const w4a16_problem *problem, const char *config, measurement **row) {
    self->rows = reallocate(self->rows, self->count + 1, sizeof *self->rows);
    *row = &self->rows[self->count++];
    **row = (measurement){.problem = *problem};
    w4a16_status status = w4a16_profile(self->context, problem, config, self->arguments->seconds, &(*row)->result);
    if (status) {
        (*row)->result.config = config;
        (*row)->failure = format_text("%s", w4a16_last_error());
        self->failed++;
    }
    return status;
}

/* Where the M at hand stands among all. */
typedef struct place {
    double done, total;
} place;

static int show_progress(const w4a16_measure_progress *progress, void *user) {
    const place *at = user;
    progress_show(at->done + progress->done / progress->total, at->total, progress->config);
    return 0;
}

/* All feasible configs of one problem (--only: those that hold one of its texts, and the library's choice). */
static bool measure_profile(bench *self, const w4a16_problem *problem, place at) {
    size_t count = 0;
    w4a16_status status = w4a16_config_list(self->context, problem, NULL, 0, &count);
    w4a16_profile_result *results = allocate(count, sizeof *results);
    if (!status)
        status = w4a16_profile_all(self->context, problem, self->arguments->only, self->arguments->seconds,
                                   show_progress, &at, results, count, &count);
    if (status) fail_library();
    for (size_t i = 0; !status && i < count; i++) {
        self->rows = reallocate(self->rows, self->count + 1, sizeof *self->rows);
        measurement *row = &self->rows[self->count++];
        *row = (measurement){.problem = *problem, .result = results[i], .chosen = results[i].chosen};
        if (!results[i].failure[0]) continue;
        row->failure = format_text("%s", results[i].failure);
        self->failed++;
    }
    free(results);
    return !status;
}

/* Before the table, or into the JSON. */
static bool explain(bench *self, const w4a16_problem *problem) {
    char *text = explanation_text(self->context, problem);
    if (!text) return false;
    progress_clear();
    if (self->arguments->json) {
        if (!self->explanations) self->explanations = json_array();
        json_array_append_new(self->explanations, json_string(text));
    } else {
        puts(text);
    }
    free(text);
    return true;
}

static bool measure_all(bench *self) {
    const bench_arguments *arguments = self->arguments;
    double total = (double)arguments->m.count;
    for (size_t i = 0; i < arguments->m.count; i++) {
        w4a16_problem problem = problem_at(arguments, arguments->m.items[i]);
        if (arguments->explain && !explain(self, &problem)) return false;
        if (arguments->profile) {
            if (!measure_profile(self, &problem, (place){(double)i, total})) return false;
            continue;
        }
        measurement *row;
        if (measure(self, &problem, arguments->config, &row)) {
            fail_library();
            return false;
        }
        row->chosen = !arguments->config;
        progress_show((double)(i + 1), total, row->result.config);
    }
    return true;
}

/* The limits are measured before and after: where something else ran on the machine meanwhile, one of the two may be
 * too low, and the higher one holds. */
static bool measure_with_ceilings(bench *self) {
    w4a16_ceilings after = {.struct_size = sizeof after};
    if (w4a16_measure_ceilings(self->context, &self->ceilings)) {
        fail_library();
        return false;
    }
    if (!measure_all(self)) return false;
    if (w4a16_measure_ceilings(self->context, &after)) {
        fail_library();
        return false;
    }
    if (after.read_bytes_per_second > self->ceilings.read_bytes_per_second)
        self->ceilings.read_bytes_per_second = after.read_bytes_per_second;
    if (after.flop_per_second > self->ceilings.flop_per_second) self->ceilings.flop_per_second = after.flop_per_second;
    for (size_t i = 0; i < self->count; i++) {
        if (!self->rows[i].failure) rate(&self->rows[i], &self->ceilings);
    }
    return true;
}

static int print_output(const bench *self, const w4a16_device_info *device, text_output *csv) {
    bench_output output = {
        .device = device,
        .ceilings = &self->ceilings,
        .rows = self->rows,
        .count = self->count,
        .shown_per_m = 10,
        .profile = self->arguments->profile,
        .explanations = self->explanations,
    };
    if (self->arguments->csv) {
        write_bench_csv(&output, csv->stream);
        if (!text_output_commit(csv)) return EXIT_RUNTIME;
    }
    if (self->arguments->json) {
        int exit_code = print_bench_json(&output);
        if (exit_code) return exit_code;
    } else {
        print_bench_table(&output);
    }
    if (self->failed) return fail("%zu configs failed", self->failed);
    return 0;
}

static int run_bench(const bench_arguments *arguments) {
    w4a16_device_info device;
    text_output csv = {0};
    int exit_code = EXIT_RUNTIME;
    w4a16_context *context =
        open_context(arguments->device, arguments->threads, instruction_set_text(arguments->instruction_set), &device);
    if (!context) return exit_code;
    bench self = {.arguments = arguments, .context = context, .ceilings = {.struct_size = sizeof self.ceilings}};
    /* The CSV file is opened first: a path that will not do must not cost a measurement. */
    if (!arguments->csv || text_output_open(arguments->csv, arguments->force, &csv)) {
        progress_begin();
        bool good = measure_with_ceilings(&self);
        progress_clear();
        if (good) exit_code = print_output(&self, &device, &csv);
        text_output_abandon(&csv);
    }
    for (size_t i = 0; i < self.count; i++) free(self.rows[i].failure);
    free(self.rows);
    json_decref(self.explanations);
    w4a16_context_destroy(context);
    return exit_code;
}

int command_bench(int argc, char **argv) {
    const int64_t dimension_limit = (int64_t)1 << 24;
    bench_arguments arguments = {.problem = default_problem, .seconds = 0.5};
    int exit_code;
    const option_spec options[] = {
        {NULL, 'm', OPTION_INTEGERS, "M[,M]", &arguments.m, "tokens, one or more numbers (required)", 1,
         dimension_limit, 0, true},
        {NULL, 'n', OPTION_INTEGER, "N", &arguments.problem.n, "out features (required)", 1, dimension_limit, 0, true},
        {NULL, 'k', OPTION_INTEGER, "K", &arguments.problem.k, "in features (required)", 1, dimension_limit, 0, true},
        {"group-size", 'g', OPTION_GROUP_SIZE, "G", &arguments.problem.group_size,
         "weights along K that share a scale: a multiple of 32,\nor -1 for one group per row (default 128)", 0, 0, 0,
         0},
        {"asymmetric", 'a', OPTION_FLAG, NULL, &arguments.problem.asymmetric,
         "with integer zero points (default: symmetric)", 0, 0, 0, 0},
        OPTION_ENTRY_DTYPE(&arguments.problem.dtype),
        {"scale-dtype", 0, OPTION_CHOICE, "T", &arguments.problem.scale_dtype,
         "dtype of the scales: fp16, bf16 or fp32 (default fp16)", 0, 0, scale_dtypes, 0},
        OPTION_ENTRY_DEVICE(&arguments.device),
        {"config", 0, OPTION_TEXT, "NAME", &arguments.config,
         "the kernel config, as `w4a16 configs` names it (default:\nthe library chooses)", 0, 0, 0, 0},
        {"profile", 'p', OPTION_FLAG, NULL, &arguments.profile,
         "every feasible config, the fastest first; the table\nshows ten, with the cost model's rank, and marks "
         "the\nlibrary's choice",
         0, 0, 0, 0},
        {"only", 0, OPTION_TEXT, "TEXT[,TEXT]", &arguments.only,
         "with --profile, besides the library's choice only\nconfigs whose names hold one of these texts", 0, 0, 0, 0},
        OPTION_ENTRY_COST_MODEL(&arguments.cost_model),
        OPTION_ENTRY_EXPLAIN(&arguments.explain),
        {"no-overlap", 0, OPTION_FLAG, NULL, &arguments.no_overlap,
         "start each call's kernel only when the one before has\nended; not the way of plans (default: overlap where "
         "the\nGPU can)",
         0, 0, 0, 0},
        {"batch-invariant", 0, OPTION_FLAG, NULL, &arguments.invariant,
         "only configs that give a row the same bits in any batch\n(default: any config)", 0, 0, 0, 0},
        {"seconds", 's', OPTION_SECONDS, "S", &arguments.seconds,
         "time budget of each measurement, 0 to 60 (default 0.5)", 0, 60, 0, 0},
        {"csv", 0, OPTION_TEXT, "F", &arguments.csv, "also write the results to this CSV file", 0, 0, 0, 0},
        OPTION_ENTRY_JSON(&arguments.json),
        {"force", 'f', OPTION_FLAG, NULL, &arguments.force, "replace an existing CSV file (default: refuse)", 0, 0, 0,
         0},
        OPTION_ENTRY_THREADS(&arguments.threads),
        OPTION_ENTRY_INSTRUCTIONS(&arguments.instruction_set),
        {0},
    };
    if (parse_options(&help, options, argc, argv, NULL, &exit_code)) {
        if (arguments.profile && arguments.config) {
            exit_code = fail_usage("--profile measures every config; give it or --config, not both");
        } else if (arguments.only && !arguments.profile) {
            exit_code = fail_usage("--only picks among the configs of --profile; give both");
        } else {
            exit_code = run_bench(&arguments);
        }
    }
    free_integers(&arguments.m);
    return exit_code;
}
