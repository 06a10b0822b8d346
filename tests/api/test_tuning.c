/* SPDX-License-Identifier: Apache-2.0
 * Tuning, cache files, and what plans make of them, on the CPU. */
#include "support.h"

#include <math.h>

enum { N = 64, K = 128, TEXT = 1 << 16 };

static char folder[64], path[96];

static int make_folder(void **state) {
    (void)state;
    test_make_folder(folder);
    snprintf(path, sizeof path, "%s/tuned.json", folder);
    unsetenv("W4A16_CACHE");
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unsetenv("W4A16_CACHE");
    test_remove_folder(folder);
    return 0;
}

static w4a16_problem small_problem(int64_t m) {
    w4a16_problem problem;
    w4a16_problem_init(&problem);
    problem.m = m;
    problem.n = N;
    problem.k = K;
    return problem;
}

/** What the callback saw. */
typedef struct seen {
    int calls, complete, stop_after; /* stop_after: complete points, 0: never stop */
    double last;
} seen;

static int watch(const w4a16_measure_progress *progress, void *user) {
    seen *self = user;
    self->calls++;
    assert_true(progress->problem->n == N && progress->problem->m >= 1);
    assert_true(progress->done >= self->last && progress->done <= progress->total * (1 + 1e-9));
    self->last = progress->done;
    assert_non_null(progress->chosen);
    if (progress->config) {
        assert_true(progress->seconds > 0);
        assert_string_equal(progress->failure, "");
    } else {
        self->complete++;
        assert_true(progress->best_seconds > 0 && progress->best_seconds <= progress->chosen_seconds);
    }
    return self->stop_after && self->complete >= self->stop_after;
}

static w4a16_tune_options small_options(const w4a16_problem *problem, seen *self) {
    static const int64_t ms[] = {1, 5, 16};
    w4a16_tune_options options;
    w4a16_tune_options_init(&options);
    options.problems = problem;
    options.problem_count = 1;
    options.m = ms;
    options.m_count = COUNT(ms);
    options.cache = path;
    options.progress = watch;
    options.user = self;
    return options;
}

/** A context with so many threads, and `path` tuned at M = 1, 5 and 16. */
static w4a16_context *tuned_with(int threads) {
    w4a16_context *context = test_context(NULL, threads);
    w4a16_problem problem = small_problem(0);
    seen self = {.calls = 0};
    w4a16_tune_options options = small_options(&problem, &self);
    w4a16_tune_result result = {.struct_size = sizeof result};
    CHECK(w4a16_tune(context, &options, &result));
    assert_int_equal(result.points, 3);
    assert_int_equal(result.measured, 3);
    assert_int_equal(result.known + result.left + result.configs_failed, 0);
    assert_int_equal(self.complete, 3);
    assert_int_equal(self.calls - self.complete, result.configs_timed);
    assert_true(result.configs_timed >= 3);
    return context;
}

/** One thread. */
static w4a16_context *tuned_context(void) {
    return tuned_with(1);
}

static char *read_text(const char *name) {
    char *text = test_allocate(TEXT);
    FILE *file = fopen(name, "r");
    assert_non_null(file);
    size_t length = fread(text, 1, TEXT - 1, file);
    text[length] = 0;
    fclose(file);
    return text;
}

static void write_text(const char *name, const char *text) {
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/** Rewrite `path` so that M = 5 is served by this config. */
static void plant(const char *config) {
    char *text = read_text(path), *m = strstr(text, "{\"m\": 5,"), *changed = test_allocate(TEXT);
    assert_non_null(m);
    char *configs = strstr(m, "[["), *end = strstr(m, "]],");
    assert_true(configs && end);
    snprintf(changed, TEXT, "%.*s[[\"%s\", 1.5]%s", (int)(configs - text), text, config, end + 1);
    write_text(path, changed);
    free(changed);
    free(text);
}

/** By one that no cost model takes. */
static void plant_reference(void) {
    plant("cpu_reference");
}

static const w4a16_config_info *list(const w4a16_context *context, const w4a16_problem *problem,
                                     w4a16_config_info *infos, size_t *count) {
    const w4a16_config_info *chosen = NULL;
    CHECK(w4a16_config_list(context, problem, infos, TEST_MAX_CONFIGS, count));
    for (size_t i = 0; i < *count; i++) {
        if (infos[i].chosen) assert_null(chosen); /* one */
        if (infos[i].chosen) chosen = &infos[i];
    }
    assert_non_null(chosen);
    assert_true(chosen->feasible);
    return chosen;
}

static char *describe(const w4a16_context *context, const w4a16_problem *problem) {
    char *text = test_allocate(TEXT);
    size_t length;
    CHECK(w4a16_problem_describe(context, problem, text, TEXT, &length));
    assert_int_equal(strlen(text), length);
    return text;
}

/* ---- Tests ----------------------------------------------------------------------------------------------------- */

static void tuned_results_are_used(void **state) {
    (void)state;
    w4a16_context *context = tuned_context();
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count;
    w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
    CHECK(w4a16_context_tuning(context, &tuning));
    assert_int_equal(tuning.cache_points, 3);
    assert_string_equal(tuning.cache, path);
    assert_int_equal(strlen(tuning.fingerprint), 16);
    assert_int_equal(tuning.table_points, 0);
    assert_string_equal(tuning.table, "");
    /* Measured at 5 and 16; 4 is no M of 5's bucket, 17 of none that was measured. */
    static const struct {
        int64_t m;
        w4a16_choice_source source;
    } expected[] = {{1, W4A16_CHOICE_CACHE},  {2, W4A16_CHOICE_COST_MODEL},  {4, W4A16_CHOICE_COST_MODEL},
                    {5, W4A16_CHOICE_CACHE},  {6, W4A16_CHOICE_COST_MODEL},  {13, W4A16_CHOICE_CACHE},
                    {16, W4A16_CHOICE_CACHE}, {17, W4A16_CHOICE_COST_MODEL}, {8192, W4A16_CHOICE_COST_MODEL}};
    for (size_t i = 0; i < COUNT(expected); i++) {
        w4a16_problem problem = small_problem(expected[i].m);
        const w4a16_config_info *chosen = list(context, &problem, infos, &count);
        assert_int_equal(chosen->source, expected[i].source);
        assert_int_equal(chosen->measured_seconds > 0, expected[i].source == W4A16_CHOICE_CACHE);
        for (size_t j = 0; j < count; j++) /* nothing measured is faster than what is chosen */
            if (infos[j].measured_seconds > 0) assert_true(chosen->measured_seconds <= infos[j].measured_seconds);
        problem.flags = W4A16_PLAN_COST_MODEL;
        chosen = list(context, &problem, infos, &count);
        assert_int_equal(chosen->source, W4A16_CHOICE_COST_MODEL);
        assert_int_equal(chosen->rank, 1);
        problem = small_problem(expected[i].m);
        problem.zero_kind = W4A16_ZERO_INTEGER; /* another problem */
        assert_int_equal(list(context, &problem, infos, &count)->source, W4A16_CHOICE_COST_MODEL);
    }
    /* Ranks are a permutation of 1..count, in the order of predictions. */
    w4a16_problem problem = small_problem(5);
    list(context, &problem, infos, &count);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            if (infos[i].feasible && infos[j].feasible && infos[i].rank < infos[j].rank)
                assert_true(infos[i].predicted_seconds <= infos[j].predicted_seconds);
    w4a16_context_destroy(context);
}

/** Another process's context: the file says it all, plans follow it, and results stay right. */
static void plans_follow_the_file(void **state) {
    (void)state;
    w4a16_context_destroy(tuned_context());
    plant_reference();
    w4a16_context *context = test_context(NULL, 1);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count, length;
    w4a16_problem problem = small_problem(5);
    assert_string_not_equal(list(context, &problem, infos, &count)->name, "cpu_reference");
    CHECK(w4a16_context_load_cache(context, path));
    assert_string_equal(list(context, &problem, infos, &count)->name, "cpu_reference");
    uint64_t seed = 5;
    test_weight weight;
    test_weight_make(&weight, &seed, N, K, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    w4a16_weight *loaded;
    CHECK(w4a16_weight_create(context, &weight.canonical, &loaded));
    w4a16_plan *plan = test_plan(loaded, 40, W4A16_FP16, W4A16_FP16, NULL);
    w4a16_plan_info info = {.struct_size = sizeof info};
    CHECK(w4a16_plan_query(plan, &info));
    assert_non_null(strstr(info.reason, "tuned: M 5..5 cpu_reference"));
    char *text = test_allocate(TEXT), small[10];
    CHECK(w4a16_plan_describe(plan, text, TEXT, &length));
    assert_int_equal(strlen(text), length);
    assert_non_null(strstr(text, path));
    assert_non_null(strstr(text, "M 5..5: cpu_reference, 1 thread (tuned: the cache)"));
    assert_non_null(strstr(text, "1.50 us tuned"));
    assert_non_null(strstr(text, "(the cost model: no measured time for this problem)"));
    size_t again;
    CHECK(w4a16_plan_describe(plan, NULL, 0, &again));
    assert_int_equal(again, length);
    CHECK(w4a16_plan_describe(plan, small, sizeof small, &again));
    assert_int_equal(again, length);
    assert_memory_equal(small, text, sizeof small - 1);
    assert_int_equal(small[sizeof small - 1], 0);
    for (int64_t m = 1; m <= 40; m += 3) {
        test_activations a;
        test_output c;
        double *product = test_allocate((size_t)(m * N) * sizeof *product);
        test_activations_make(&a, &seed, W4A16_FP16, m, K, K, 0);
        test_output_make(&c, W4A16_FP16, m, N, N);
        test_gemm(plan, &a, &c);
        test_multiply(&a, &weight, 1, NULL, product);
        test_check_product(&c, &a, &weight, 1, product, "a tuned plan");
        test_output_free(&c);
        test_activations_free(&a);
        free(product);
    }
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(loaded);
    test_weight_free(&weight);
    free(text);
    w4a16_context_destroy(context);
}

static void what_is_known_is_not_measured_again(void **state) {
    (void)state;
    w4a16_context *context = tuned_context();
    w4a16_problem problem = small_problem(0);
    seen self = {.calls = 0};
    w4a16_tune_options options = small_options(&problem, &self);
    w4a16_tune_result result = {.struct_size = sizeof result};
    CHECK(w4a16_tune(context, &options, &result));
    assert_int_equal(result.known, 3);
    assert_int_equal(result.measured + result.configs_timed + (size_t)self.calls, 0);
    w4a16_context_destroy(context);
    /* From the file, by another context; one more M. */
    context = test_context(NULL, 1);
    const int64_t more[] = {1, 3, 5};
    options.m = more;
    CHECK(w4a16_tune(context, &options, &result));
    assert_int_equal(result.known, 2);
    assert_int_equal(result.measured, 1);
    options.again = 1;
    self = (seen){.calls = 0};
    CHECK(w4a16_tune(context, &options, &result));
    assert_int_equal(result.measured, 3);
    w4a16_cache *cache;
    CHECK(w4a16_cache_open(path, &cache));
    assert_int_equal(w4a16_cache_count(cache), 4);
    int64_t last = 0;
    for (size_t i = 0; i < 4; i++) {
        w4a16_cache_entry entry = {.struct_size = sizeof entry};
        CHECK(w4a16_cache_get(cache, i, &entry));
        assert_true(entry.problem.m > last && entry.problem.n == N && entry.problem.k == K);
        assert_int_equal(entry.problem.group_size, -1); /* 128 of 128 columns */
        assert_int_equal(entry.processors, 1);
        assert_true(entry.seconds > 0 && entry.timed >= 1);
        last = entry.problem.m;
    }
    w4a16_cache_close(cache);
    /* A range: the ends of its buckets, and its own end. */
    options.m = NULL;
    options.m_min = 5;
    options.m_max = 14;
    options.again = 0;
    self = (seen){.calls = 0};
    CHECK(w4a16_tune(context, &options, &result));
    assert_int_equal(result.points, 4); /* 6 8 12 14 */
    assert_int_equal(result.measured, 4);
    w4a16_context_destroy(context);
}

static void budgets_and_cancellation_keep_what_is_there(void **state) {
    (void)state;
    w4a16_context *context = test_context(NULL, 1);
    w4a16_problem problem = small_problem(0);
    seen self = {.stop_after = 2};
    w4a16_tune_options options = small_options(&problem, &self);
    w4a16_tune_result result = {.struct_size = sizeof result};
    options.budget_seconds = 1e-9;
    CHECK(w4a16_tune(context, &options, &result));
    assert_int_equal(result.left, 3);
    assert_int_equal(result.measured + (size_t)self.calls, 0);
    options.budget_seconds = 0;
    w4a16_tune_result before = result;
    REFUSED(w4a16_tune(context, &options, &result), W4A16_ERROR_CANCELLED, "cancelled");
    assert_memory_equal(&result, &before, sizeof result);
    w4a16_cache *cache;
    CHECK(w4a16_cache_open(path, &cache));
    assert_int_equal(w4a16_cache_count(cache), 2);
    w4a16_cache_close(cache);
    w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
    CHECK(w4a16_context_tuning(context, &tuning));
    assert_int_equal(tuning.cache_points, 2);
    w4a16_context_destroy(context);
}

/** A file of another world, or damaged: the call says why; the environment's is passed over, with the reason. */
static void foreign_files_are_refused(void **state) {
    (void)state;
    w4a16_context *context = tuned_context();
    char *text = read_text(path);
    w4a16_context_destroy(context);
    static const struct {
        const char *key, *value;
        w4a16_status status;
        const char *says;
    } worlds[] = {
        {"\"processors\": ", "64,", W4A16_ERROR_UNSUPPORTED, "64 threads"},
        {"\"device\": ", "\"Another CPU\",", W4A16_ERROR_UNSUPPORTED, "Another CPU"},
        {"\"code\": ", "\"sse\",", W4A16_ERROR_UNSUPPORTED, "sse"},
        {"\"library\": ", "\"0123456789abcdef\",", W4A16_ERROR_UNSUPPORTED, "library 0123456789abcdef"},
        {"\"configs\": ", "[[\"cpu_of_old\", 1]],", W4A16_ERROR_FORMAT, "no config 'cpu_of_old'"},
        {"\"devices\": ", "\"none\",", W4A16_ERROR_FORMAT, "'devices' must be a list"},
    };
    char *changed = test_allocate(TEXT);
    for (size_t i = 0; i < COUNT(worlds); i++) {
        char *place = strstr(text, worlds[i].key);
        assert_non_null(place);
        char *rest = place + strcspn(place, "\n");
        if (strcmp(worlds[i].key, "\"configs\": ") == 0) rest = strstr(place, "]],") + 3;
        if (strcmp(worlds[i].key, "\"devices\": ") == 0) {
            snprintf(changed, TEXT, "{\"format\": \"w4a16 cache\", \"version\": 1, \"devices\": 0}");
        } else {
            snprintf(changed, TEXT, "%.*s%s%s%s", (int)(place - text), text, worlds[i].key, worlds[i].value, rest);
        }
        write_text(path, changed);
        context = test_context(NULL, 1);
        REFUSED(w4a16_context_load_cache(context, path), worlds[i].status, worlds[i].says);
        assert_non_null(strstr(w4a16_last_error(), path));
        w4a16_context_destroy(context);
        setenv("W4A16_CACHE", path, 1);
        REFUSED(w4a16_context_create(NULL, NULL), W4A16_ERROR_INVALID_ARGUMENT, "context is NULL");
        context = test_context(NULL, 1); /* no error, and it leaves the last one alone */
        assert_string_equal(w4a16_last_error(), "context is NULL");
        w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
        CHECK(w4a16_context_tuning(context, &tuning));
        assert_int_equal(tuning.cache_points, 0);
        assert_non_null(strstr(tuning.cache, "W4A16_CACHE not used: "));
        w4a16_problem problem = small_problem(5);
        char *said = describe(context, &problem);
        assert_non_null(strstr(said, "W4A16_CACHE not used: "));
        free(said);
        uint64_t seed = 9;
        test_weight arrays;
        test_weight_make(&arrays, &seed, N, K, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, TEST_NO_VALUES);
        w4a16_weight *weight;
        CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
        w4a16_plan *plan = test_plan(weight, 5, W4A16_FP16, W4A16_FP16, NULL);
        w4a16_plan_info info = {.struct_size = sizeof info};
        CHECK(w4a16_plan_query(plan, &info));
        assert_ptr_equal(strstr(info.reason, "W4A16_CACHE not used"), info.reason);
        assert_non_null(strstr(info.reason, "least predicted time: M 1.."));
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
        w4a16_context_destroy(context);
        unsetenv("W4A16_CACHE");
        /* Tuning adds to another world's file, and lets a damaged one be, before it measures. */
        w4a16_tune_result result = {.struct_size = sizeof result};
        seen self = {.calls = 0};
        problem.m = 0;
        w4a16_tune_options options = small_options(&problem, &self);
        context = test_context(NULL, 1);
        if (worlds[i].status == W4A16_ERROR_FORMAT) {
            REFUSED(w4a16_tune(context, &options, &result), W4A16_ERROR_FORMAT, worlds[i].says);
            assert_int_equal(self.calls, 0);
            char *kept = read_text(path);
            assert_string_equal(kept, changed);
            free(kept);
        } else if (i == 0) {
            CHECK(w4a16_tune(context, &options, &result));
            assert_int_equal(result.measured, 3);
            w4a16_cache *cache;
            CHECK(w4a16_cache_open(path, &cache));
            assert_int_equal(w4a16_cache_count(cache), 6);
            w4a16_cache_close(cache);
        }
        w4a16_context_destroy(context);
    }
    free(changed);
    free(text);
}

/** A tuned result says how many threads a call takes; a context's own number is the most. */
static void threads_are_tuned(void **state) {
    (void)state;
    w4a16_context *context = tuned_with(3);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count;
    w4a16_problem problem = small_problem(5);
    const w4a16_config_info *two = NULL, *chosen = list(context, &problem, infos, &count);
    for (size_t i = 0; i < count; i++) {
        assert_in_range(infos[i].threads, 1, 3);
        if (!two && infos[i].feasible && infos[i].threads == 2 && &infos[i] != chosen) two = &infos[i];
    }
    w4a16_context_destroy(context);
    if (!two) skip(); /* without fast kernels there is one config, which takes all threads */
    plant(two->name);
    context = test_context(NULL, 3);
    CHECK(w4a16_context_load_cache(context, path));
    uint64_t seed = 6;
    test_weight weight;
    test_activations a;
    test_output c, other;
    w4a16_weight *loaded;
    w4a16_plan_info info = {.struct_size = sizeof info};
    test_weight_make(&weight, &seed, N, K, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    test_activations_make(&a, &seed, W4A16_FP16, 5, K, K, 0);
    test_output_make(&c, W4A16_FP16, 5, N, N);
    test_output_make(&other, W4A16_FP16, 5, N, N);
    CHECK(w4a16_weight_create(context, &weight.canonical, &loaded));
    w4a16_plan *plan = test_plan(loaded, 5, W4A16_FP16, W4A16_FP16, NULL);
    CHECK(w4a16_plan_query(plan, &info));
    assert_string_equal(info.config, two->name);
    assert_int_equal(info.threads, 2);
    test_gemm(plan, &a, &c);
    w4a16_plan_destroy(plan);
    char all[64], text[TEXT], expected[128];
    size_t length;
    CHECK(w4a16_problem_describe(context, &problem, text, sizeof text, &length));
    snprintf(expected, sizeof expected, "M 5..5: %s, 2 threads (tuned: the cache)", two->name);
    assert_non_null(strstr(text, expected));
    /* The same kernel with all threads: the same bits. */
    snprintf(all, sizeof all, "%.*s", (int)(strstr(two->name, "_t") - two->name), two->name);
    plan = test_plan(loaded, 5, W4A16_FP16, W4A16_FP16, all);
    CHECK(w4a16_plan_query(plan, &info));
    assert_int_equal(info.threads, 3);
    test_gemm(plan, &a, &other);
    assert_memory_equal(c.data, other.data, 5 * N * 2);
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(loaded);
    w4a16_context_destroy(context);
    /* Two threads are not fewer than two: the context has no such config, and its own results are others. */
    context = test_context(NULL, 2);
    REFUSED(w4a16_context_load_cache(context, path), W4A16_ERROR_UNSUPPORTED, "2 threads");
    w4a16_profile_result result;
    REFUSED(w4a16_profile(context, &problem, two->name, 0, &result), W4A16_ERROR_NOT_FOUND, two->name);
    CHECK(w4a16_profile(context, &problem, all, 0, &result));
    assert_int_equal(result.threads, 2);
    w4a16_context_destroy(context);
    test_output_free(&c);
    test_output_free(&other);
    test_activations_free(&a);
    test_weight_free(&weight);
}

static void the_environment_is_read(void **state) {
    (void)state;
    w4a16_context_destroy(tuned_context());
    plant_reference();
    setenv("W4A16_CACHE", path, 1);
    w4a16_context *context = test_context(NULL, 1);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count;
    w4a16_problem problem = small_problem(5);
    assert_string_equal(list(context, &problem, infos, &count)->name, "cpu_reference");
    w4a16_context_destroy(context);
    context = test_context(NULL, 2); /* other threads, another world */
    assert_string_not_equal(list(context, &problem, infos, &count)->name, "cpu_reference");
    w4a16_context_destroy(context);
    setenv("W4A16_CACHE", "", 1);
    context = test_context(NULL, 1);
    w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
    CHECK(w4a16_context_tuning(context, &tuning));
    assert_string_equal(tuning.cache, "");
    w4a16_context_destroy(context);
}

static void files_are_merged(void **state) {
    (void)state;
    char other[128];
    snprintf(other, sizeof other, "%s/other.json", folder);
    w4a16_context_destroy(tuned_context());
    CHECK(w4a16_cache_merge(other, path)); /* made where there is none */
    char *a = read_text(path), *b = read_text(other);
    assert_string_equal(a, b);
    free(a);
    free(b);
    CHECK(w4a16_cache_merge(other, path));
    w4a16_cache *cache;
    CHECK(w4a16_cache_open(other, &cache));
    assert_int_equal(w4a16_cache_count(cache), 3);
    w4a16_cache_close(cache);
    write_text(other, "{}");
    REFUSED(w4a16_cache_merge(other, path), W4A16_ERROR_FORMAT, other);
    REFUSED(w4a16_cache_merge(path, other), W4A16_ERROR_FORMAT, other);
    REFUSED(w4a16_cache_open(other, &cache), W4A16_ERROR_FORMAT, "no cache");
    REFUSED(w4a16_cache_open("/nowhere/at all", &cache), W4A16_ERROR_NOT_FOUND, "/nowhere/at all");
    REFUSED(w4a16_cache_open(folder, &cache), W4A16_ERROR_IO, "a folder");
}

/** Every feasible config once, by time; ranks and the choice as w4a16_config_list has them. */
static void all_configs_are_profiled(void **state) {
    (void)state;
    w4a16_context *context = test_context(NULL, 1);
    w4a16_problem problem = small_problem(7);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    w4a16_profile_result results[TEST_MAX_CONFIGS];
    size_t count, total, feasible = 0;
    seen self = {.calls = 0};
    const w4a16_config_info *chosen = list(context, &problem, infos, &total);
    for (size_t i = 0; i < total; i++) feasible += infos[i].feasible != 0;
    CHECK(w4a16_profile_all(context, &problem, NULL, 0, watch, &self, results, TEST_MAX_CONFIGS, &count));
    assert_int_equal(count, feasible);
    assert_int_equal(self.calls, feasible);
    for (size_t i = 0; i < count; i++) {
        if (i) assert_true(results[i].seconds >= results[i - 1].seconds);
        assert_true(results[i].seconds > 0 && results[i].relative_error < 2e-3);
        assert_string_equal(results[i].failure, "");
        for (size_t j = 0; j < total; j++) {
            if (strcmp(infos[j].name, results[i].config) != 0) continue;
            assert_int_equal(results[i].rank, infos[j].rank);
            assert_int_equal(results[i].chosen, &infos[j] == chosen);
            assert_true(results[i].predicted_seconds == infos[j].predicted_seconds);
            infos[j].name = ""; /* once */
        }
    }
    CHECK(w4a16_profile_all(context, &problem, "reference,no such text", 0, NULL, NULL, results, 1, &count));
    assert_int_equal(count, 1 + !strstr(chosen->name, "reference"));
    list(context, &problem, infos, &total);
    w4a16_profile_result one;
    CHECK(w4a16_profile(context, &problem, "cpu_reference", 0, &one));
    assert_int_equal(one.rank, (int)feasible); /* predicted last */
    assert_int_equal(one.chosen, 0);
    CHECK(w4a16_profile(context, &problem, NULL, 0, &one));
    assert_int_equal(one.chosen, 1);
    w4a16_context_destroy(context);
}

static int stop(const w4a16_measure_progress *progress, void *user) {
    (void)progress, (void)user;
    return 1;
}

static void misuse_is_refused(void **state) {
    (void)state;
    w4a16_context *context = test_context(NULL, 1);
    w4a16_problem problem = small_problem(1);
    const int64_t bad_m[] = {1, 0};
    w4a16_tune_options good, options;
    w4a16_tune_result result = {.struct_size = sizeof result};
    w4a16_tune_options_init(NULL);
    w4a16_tune_options_init(&good);
    good.problems = &problem;
    good.problem_count = 1;
#define REFUSED_OPTIONS(change, text)                                                                                  \
    do {                                                                                                               \
        options = good;                                                                                                \
        change;                                                                                                        \
        REFUSED(w4a16_tune(context, &options, &result), W4A16_ERROR_INVALID_ARGUMENT, text);                           \
    } while (0)
    REFUSED_OPTIONS(options.struct_size = 3, "w4a16_tune_options_init");
    REFUSED_OPTIONS(options.problems = NULL, "options.problems is NULL");
    REFUSED_OPTIONS(options.problem_count = 0, "options.problem_count is 0");
    REFUSED_OPTIONS(options.m_min = 0, "options.m_min is 0");
    REFUSED_OPTIONS(options.m_max = 0, "options.m_max is 0");
    REFUSED_OPTIONS(options.m = bad_m, "options.m_count is 0");
    REFUSED_OPTIONS((options.m = bad_m, options.m_count = 2), "options.m[1] is 0");
    REFUSED_OPTIONS(options.budget_seconds = -1, "options.budget_seconds is -1");
    REFUSED_OPTIONS(options.budget_seconds = (double)NAN, "options.budget_seconds");
    problem.k = 0;
    REFUSED_OPTIONS((void)0, "options.problems[0]: problem.k is 0");
    problem = small_problem(1);
    options = good;
    options.cache = "/nowhere/at/all.json";
    REFUSED(w4a16_tune(context, &options, &result), W4A16_ERROR_NOT_FOUND, "/nowhere/at/all.json.lock");
    REFUSED(w4a16_tune(NULL, &good, &result), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_tune(context, NULL, &result), W4A16_ERROR_INVALID_ARGUMENT, "options");
    REFUSED(w4a16_tune(context, &good, NULL), W4A16_ERROR_INVALID_ARGUMENT, "result");
    result.struct_size = 0;
    REFUSED(w4a16_tune(context, &good, &result), W4A16_ERROR_INVALID_ARGUMENT, "result.struct_size");
    REFUSED(w4a16_context_load_cache(NULL, path), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_context_load_cache(context, NULL), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_context_load_cache(context, path), W4A16_ERROR_NOT_FOUND, path);
    w4a16_tuning_info tuning = {.struct_size = 1};
    REFUSED(w4a16_context_tuning(context, &tuning), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    REFUSED(w4a16_context_tuning(context, NULL), W4A16_ERROR_INVALID_ARGUMENT, "info");
    REFUSED(w4a16_context_tuning(NULL, &tuning), W4A16_ERROR_INVALID_ARGUMENT, "context");
    size_t length = 77;
    char text[8];
    REFUSED(w4a16_problem_describe(NULL, &problem, text, 8, &length), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_problem_describe(context, NULL, text, 8, &length), W4A16_ERROR_INVALID_ARGUMENT, "problem");
    REFUSED(w4a16_problem_describe(context, &problem, NULL, 8, &length), W4A16_ERROR_INVALID_ARGUMENT, "text");
    REFUSED(w4a16_problem_describe(context, &problem, text, 8, NULL), W4A16_ERROR_INVALID_ARGUMENT, "length");
    REFUSED(w4a16_plan_describe(NULL, text, 8, &length), W4A16_ERROR_INVALID_ARGUMENT, "plan");
    w4a16_profile_result profile;
    REFUSED(w4a16_profile_all(NULL, &problem, NULL, 0, NULL, NULL, &profile, 1, &length), W4A16_ERROR_INVALID_ARGUMENT,
            "context");
    REFUSED(w4a16_profile_all(context, NULL, NULL, 0, NULL, NULL, &profile, 1, &length), W4A16_ERROR_INVALID_ARGUMENT,
            "problem");
    REFUSED(w4a16_profile_all(context, &problem, NULL, -1, NULL, NULL, &profile, 1, &length),
            W4A16_ERROR_INVALID_ARGUMENT, "min_seconds");
    REFUSED(w4a16_profile_all(context, &problem, NULL, 0, NULL, NULL, NULL, 1, &length), W4A16_ERROR_INVALID_ARGUMENT,
            "results");
    REFUSED(w4a16_profile_all(context, &problem, NULL, 0, NULL, NULL, &profile, 1, NULL), W4A16_ERROR_INVALID_ARGUMENT,
            "count");
    REFUSED(w4a16_profile_all(context, &problem, NULL, 0, stop, NULL, &profile, 1, &length), W4A16_ERROR_CANCELLED,
            "callback");
    assert_int_equal(length, 77);
    w4a16_cache *cache = NULL;
    w4a16_cache_entry entry = {.struct_size = sizeof entry};
    REFUSED(w4a16_cache_open(NULL, &cache), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_cache_open(path, NULL), W4A16_ERROR_INVALID_ARGUMENT, "cache");
    REFUSED(w4a16_cache_get(NULL, 0, &entry), W4A16_ERROR_INVALID_ARGUMENT, "cache");
    REFUSED(w4a16_cache_merge(NULL, path), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_cache_merge(path, NULL), W4A16_ERROR_INVALID_ARGUMENT, "source");
    w4a16_cache_close(NULL);
    assert_int_equal(w4a16_cache_count(NULL), 0);
    write_text(path, "{\"format\": \"w4a16 cache\", \"version\": 1, \"devices\": []}");
    CHECK(w4a16_cache_open(path, &cache));
    REFUSED(w4a16_cache_get(cache, 0, &entry), W4A16_ERROR_NOT_FOUND, "holds 0 results");
    REFUSED(w4a16_cache_get(cache, 0, NULL), W4A16_ERROR_INVALID_ARGUMENT, "entry");
    w4a16_cache_close(cache);
    REFUSED(w4a16_context_load_cache(context, path), W4A16_ERROR_UNSUPPORTED, "holds no results");
    w4a16_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tuned_results_are_used, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(plans_follow_the_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_is_known_is_not_measured_again, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(budgets_and_cancellation_keep_what_is_there, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(foreign_files_are_refused, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(threads_are_tuned, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_environment_is_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_are_merged, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(all_configs_are_profiled, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(misuse_is_refused, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
