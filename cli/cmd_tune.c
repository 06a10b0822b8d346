/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 tune`: the fastest config of each layer shape and number of tokens, by measurement, kept in a cache file. */
#include "options.h"
#include "progress.h"
#include "report.h"
#include "table.h"

#include <stdlib.h>
#include <string.h>

static const command_help help = {
    "--model PATH | -n N -k K [options]",
    "Find the fastest kernel config for each layer shape of a model, or for one shape, at each number\n"
    "of tokens, and keep the results in a cache file. With W4A16_CACHE=FILE in the environment, or\n"
    "after w4a16_context_load_cache, plans take these configs. Each config is checked against double\n"
    "precision and timed with cold weights, the most promising first, until the rest are hopeless.\n\n"
    "Numbers of tokens fall into buckets that end at 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ... (powers of\n"
    "two and three times powers of two). What is measured at M serves M and those below it in its\n"
    "bucket; a range -m FIRST-LAST measures the ends of its buckets. What FILE has already is not\n"
    "measured again. Several runs may write to one FILE at once. An interrupted run keeps what it has.",
    "  w4a16 tune --model model-awq/ --cache tuned.json\n"
    "  w4a16 tune -n 4096 -k 14336 -m 1-64 --cache tuned.json --budget 60\n"
    "  w4a16 tune -n 4096 -k 4096 -m 1,17,333 --cache tuned.json --device cpu --again",
    "the model, device or cache cannot be used, or a config gave a wrong result",
};

typedef struct tune_arguments {
    const char *model, *device, *cache;
    token_counts tokens;
    problem_arguments problem;
    int64_t threads;
    int instruction_set;
    double budget;
    bool uneven, invariant, again, json;
} tune_arguments;

typedef struct tuning {
    const tune_arguments *arguments;
    w4a16_problem *problems;
    size_t problem_count;
    table *rows;
    json_t *points;
} tuning;

static w4a16_problem asked_problem(const tune_arguments *arguments) {
    w4a16_problem problem = make_problem(&arguments->problem, 0); /* the tuner has the numbers of tokens */
    problem.uneven_scales = arguments->uneven;
    if (arguments->invariant) problem.flags |= W4A16_PLAN_BATCH_INVARIANT;
    return problem;
}

static bool same_problem(const w4a16_problem *a, const w4a16_problem *b) {
    return a->n == b->n && a->k == b->k && a->group_size == b->group_size && a->scale_dtype == b->scale_dtype &&
           a->zero_kind == b->zero_kind;
}

static void add_problem(tuning *self, w4a16_problem problem) {
    for (size_t i = 0; i < self->problem_count; i++)
        if (same_problem(&self->problems[i], &problem)) return;
    self->problems = reallocate(self->problems, self->problem_count + 1, sizeof problem);
    self->problems[self->problem_count++] = problem;
}

/* Every shape of the model's supported layers, once. Headers say all; no weight is read. */
static bool read_model(tuning *self) {
    const char *path = self->arguments->model;
    w4a16_checkpoint *checkpoint;
    if (w4a16_checkpoint_open(path, &checkpoint)) {
        fail_library();
        return false;
    }
    bool good = true;
    size_t count = w4a16_checkpoint_count(checkpoint);
    for (size_t i = 0; good && i < count; i++) {
        w4a16_module_info module = {.struct_size = sizeof module};
        if (w4a16_checkpoint_module(checkpoint, i, &module)) {
            fail_library();
            good = false;
        } else if (module.supported) {
            w4a16_problem problem = asked_problem(self->arguments);
            problem.n = module.n;
            problem.k = module.k;
            problem.group_size = module.groups == 1 ? -1 : module.group_size;
            problem.scale_dtype = module.scale_dtype;
            problem.zero_kind = module.zero_kind;
            add_problem(self, problem);
        }
    }
    w4a16_checkpoint_close(checkpoint);
    if (good && !self->problem_count) {
        fail("%s holds no quantised layers that are supported; see w4a16 inspect", path);
        good = false;
    }
    return good;
}

static void add_row(tuning *self, const w4a16_measure_progress *progress) {
    const w4a16_problem *problem = progress->problem;
    table_add(self->rows, "%lld", (long long)problem->n);
    table_add(self->rows, "%lld", (long long)problem->k);
    table_add(self->rows, "%lld", (long long)problem->group_size);
    table_add(self->rows, "%lld", (long long)problem->m);
    table_add(self->rows, "%s", progress->best);
    table_add(self->rows, "%.2f", progress->best_seconds * 1e6);
    if (progress->chosen_seconds > 0)
        table_add(self->rows, "%.3f", progress->chosen_seconds / progress->best_seconds);
    else
        table_add(self->rows, "-");
    table_add(self->rows, "%s", progress->chosen);
    json_t *object = json_object();
    json_put(object, "n", json_integer(problem->n));
    json_put(object, "k", json_integer(problem->k));
    json_put(object, "group_size", json_integer(problem->group_size));
    json_put_text(object, "zero_points", zero_kind_text(problem->zero_kind));
    json_put(object, "m", json_integer(problem->m));
    json_put_text(object, "config", progress->best);
    json_put(object, "seconds", json_number(progress->best_seconds));
    json_put_text(object, "config_before", progress->chosen);
    json_put(object, "seconds_before",
             progress->chosen_seconds > 0 ? json_number(progress->chosen_seconds) : json_null());
    json_array_append_new(self->points, object);
}

static int note_progress(const w4a16_measure_progress *progress, void *user) {
    tuning *self = user;
    const w4a16_problem *problem = progress->problem;
    if (!progress->config) {
        add_row(self, progress);
    } else if (progress->failure[0]) {
        warn("%s", progress->failure);
    }
    char *text = format_text("%lldx%lld M=%lld %s", (long long)problem->n, (long long)problem->k, (long long)problem->m,
                             progress->config ? progress->config : progress->best);
    progress_show(progress->done, progress->total, text);
    free(text);
    return interruption();
}

static int print_result(const tuning *self, const w4a16_device_info *device, const w4a16_tune_result *result) {
    const char *cache = self->arguments->cache;
    if (self->arguments->json) {
        json_t *root = json_object();
        json_put_text(root, "device", device->id);
        json_put_text(root, "device_name", device->name);
        json_put_text(root, "cache", cache);
        json_put(root, "points", json_integer((json_int_t)result->points));
        json_put(root, "measured", json_integer((json_int_t)result->measured));
        json_put(root, "known", json_integer((json_int_t)result->known));
        json_put(root, "left", json_integer((json_int_t)result->left));
        json_put(root, "configs_timed", json_integer((json_int_t)result->configs_timed));
        json_put(root, "configs_failed", json_integer((json_int_t)result->configs_failed));
        json_put(root, "results", json_incref(self->points));
        json_print(root);
    } else {
        table_print(self->rows, stdout);
        printf("%s%zu points on %s (%s): %zu measured, %zu known before, %zu left for want of time; %zu timings\n",
               result->measured ? "\n" : "", result->points, device->id, device->name, result->measured, result->known,
               result->left, result->configs_timed);
        fputs("The results are in ", stdout);
        print_clean(cache, stdout);
        fputs("; plans use them with W4A16_CACHE=", stdout);
        print_clean(cache, stdout);
        putchar('\n');
    }
    if (result->configs_failed)
        return fail("%zu configs gave wrong results: %s", result->configs_failed, result->failure);
    return 0;
}

static int tune(tuning *self) {
    const tune_arguments *arguments = self->arguments;
    w4a16_device_info device;
    if (arguments->model) {
        if (!read_model(self)) return EXIT_RUNTIME;
    } else {
        add_problem(self, asked_problem(arguments));
    }
    w4a16_context *context =
        open_context(arguments->device, arguments->threads, instruction_set_text(arguments->instruction_set), &device);
    if (!context) return EXIT_RUNTIME;
    w4a16_tune_options options;
    w4a16_tune_options_init(&options);
    options.problems = self->problems;
    options.problem_count = self->problem_count;
    options.m = arguments->tokens.list.items;
    options.m_count = arguments->tokens.list.count;
    if (arguments->tokens.first) {
        options.m_min = arguments->tokens.first;
        options.m_max = arguments->tokens.last;
    }
    options.budget_seconds = arguments->budget;
    options.again = arguments->again;
    options.cache = arguments->cache;
    options.progress = note_progress;
    options.user = self;
    w4a16_tune_result result = {.struct_size = sizeof result};
    catch_interruption();
    progress_begin();
    progress_limit(arguments->budget);
    w4a16_status status = w4a16_tune(context, &options, &result);
    progress_clear();
    int exit_code = status ? fail_library() : print_result(self, &device, &result);
    w4a16_context_destroy(context);
    if (status == W4A16_ERROR_CANCELLED) raise_interruption();
    return exit_code;
}

/* What the options say together. @return 0, or the exit code after an error line */
static int check_arguments(tune_arguments *arguments) {
    const char *environment = getenv("W4A16_CACHE");
    if (!arguments->cache) arguments->cache = environment && *environment ? environment : NULL;
    if (arguments->model && (arguments->problem.n || arguments->problem.k))
        return fail_usage("--model has shapes of its own; give it or -n N and -k K, not both");
    if (!arguments->model && !(arguments->problem.n && arguments->problem.k))
        return fail_usage("give --model PATH, or -n N and -k K");
    if (!arguments->cache) return fail_usage("--cache FILE is missing, and W4A16_CACHE names none");
    return 0;
}

int command_tune(int argc, char **argv) {
    const int64_t dimension_limit = (int64_t)1 << 24;
    tune_arguments arguments = {.problem = default_problem};
    int exit_code;
    const option_spec options[] = {
        {"model", 0, OPTION_TEXT, "PATH", &arguments.model,
         "tune for all layers of this checkpoint: a .safetensors\nfile or a model folder", 0, 0, 0, 0},
        {NULL, 'n', OPTION_INTEGER, "N", &arguments.problem.n, "out features", 1, dimension_limit, 0, 0},
        {NULL, 'k', OPTION_INTEGER, "K", &arguments.problem.k, "in features", 1, dimension_limit, 0, 0},
        {NULL, 'm', OPTION_TOKENS, "M[,M]|M-M", &arguments.tokens,
         "tokens: numbers, or a range, whose buckets' ends are\nmeasured (default 1-8192)", 1, dimension_limit, 0, 0},
        {"cache", 'c', OPTION_TEXT, "FILE", &arguments.cache,
         "the file that receives the results; made where there is\nnone (default: what W4A16_CACHE names)", 0, 0, 0, 0},
        {"budget", 'b', OPTION_SECONDS, "SECONDS", &arguments.budget,
         "stop after about so long; the points share it evenly,\nthe next run goes on (default 0: as long as it takes)",
         0, 1000000, 0, 0},
        {"again", 0, OPTION_FLAG, NULL, &arguments.again, "measure what FILE has already, too (default: only the rest)",
         0, 0, 0, 0},
        {"group-size", 'g', OPTION_GROUP_SIZE, "G", &arguments.problem.group_size,
         "without --model: a multiple of 32, or -1 for one group\nper row (default 128)", 0, 0, 0, 0},
        {"asymmetric", 'a', OPTION_FLAG, NULL, &arguments.problem.asymmetric,
         "without --model: integer zero points (default: symmetric)", 0, 0, 0, 0},
        {"scale-dtype", 0, OPTION_CHOICE, "T", &arguments.problem.scale_dtype,
         "without --model: fp16, bf16 or fp32 (default fp16)", 0, 0, scale_dtypes, 0},
        {"uneven-scales", 0, OPTION_FLAG, NULL, &arguments.uneven,
         "for weights with scales over 2^60 apart within a row\n(default: even scales)", 0, 0, 0, 0},
        {"batch-invariant", 0, OPTION_FLAG, NULL, &arguments.invariant,
         "for plans with that flag (default: for those without)", 0, 0, 0, 0},
        OPTION_ENTRY_DTYPE(&arguments.problem.dtype),
        OPTION_ENTRY_DEVICE(&arguments.device),
        OPTION_ENTRY_THREADS(&arguments.threads),
        OPTION_ENTRY_INSTRUCTIONS(&arguments.instruction_set),
        OPTION_ENTRY_JSON(&arguments.json),
        {0},
    };
    if (parse_options(&help, options, argc, argv, NULL, &exit_code) && !(exit_code = check_arguments(&arguments))) {
        tuning self = {.arguments = &arguments,
                       .rows = table_create("N|K|GROUP|M|<CONFIG|TIME µs|GAIN|<BEFORE"),
                       .points = json_array()};
        exit_code = tune(&self);
        table_destroy(self.rows);
        json_decref(self.points);
        free(self.problems);
    }
    free_integers(&arguments.tokens.list);
    return exit_code;
}
