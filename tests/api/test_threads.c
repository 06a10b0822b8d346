/* SPDX-License-Identifier: Apache-2.0
 * Threads that share one context, weight and plan. With an argument only the part that keeps OpenMP out runs: that
 * part is for ThreadSanitizer, which cannot see into OpenMP's own locks. */
#include "support.h"

#include <pthread.h>

enum { N = 96, K = 640, M = 24, ROUNDS = 40, MAX_THREADS = 8 };

typedef struct job {
    w4a16_context *context;
    w4a16_weight *weight;
    const w4a16_plan *plan;
    const test_activations *a;
    const uint16_t *expected;
    const char *cache; /* a file of tuned results for the context's device */
    int id;
    char complaint[256];
} job;

/** Threads must not use cmocka's assertions: they jump across stacks. */
static void complain(job *self, const char *what) {
    if (!self->complaint[0]) snprintf(self->complaint, sizeof self->complaint, "%s: %s", what, w4a16_last_error());
}

static void *multiply_in_thread(void *argument) {
    job *self = argument;
    w4a16_plan_info info = {.struct_size = sizeof info};
    if (w4a16_plan_query(self->plan, &info)) return complain(self, "query"), NULL;
    void *workspace = NULL;
    if (posix_memalign(&workspace, 256, info.workspace_bytes + 256)) return complain(self, "workspace"), NULL;
    uint16_t *c = malloc(M * N * 2);
    for (int round = 0; c && round < ROUNDS; round++) {
        int64_t first = (self->id * 5 + round) % M, rows = 1 + (round * 7 + self->id) % (M - first);
        memset(c, 0xff, M * N * 2);
        memset(workspace, 0xff, info.workspace_bytes);
        w4a16_status status = round % 4 == 3 ? w4a16_gemm_host(self->plan, self->a->data + first * K, K, c, N, rows)
                                             : w4a16_gemm(self->plan, self->a->data + first * K, K, c, N, rows,
                                                          workspace, info.workspace_bytes, NULL);
        if (status) complain(self, "gemm");
        if (memcmp(c, self->expected + first * N, (size_t)(rows * N) * 2) != 0) complain(self, "another result");
        /* A failing call of one thread must not disturb the others. */
        if (w4a16_gemm(self->plan, NULL, K, c, N, 1, NULL, 0, NULL) != W4A16_ERROR_INVALID_ARGUMENT ||
            !strstr(w4a16_last_error(), "a is NULL"))
            complain(self, "last error");
    }
    free(c);
    free(workspace);
    return NULL;
}

/** Plans and weights made, used and destroyed while others use the same parents. */
static void *create_in_thread(void *argument) {
    job *self = argument;
    for (int round = 0; round < ROUNDS; round++) {
        w4a16_plan_options options;
        w4a16_plan_options_init(&options);
        options.m_max = M;
        options.flags = W4A16_PLAN_BATCH_INVARIANT;
        w4a16_plan *plan = NULL;
        uint16_t c[N];
        if (w4a16_plan_create(self->weight, &options, &plan)) return complain(self, "plan"), NULL;
        if (w4a16_gemm_host(plan, self->a->data, K, c, N, 1)) complain(self, "gemm");
        if (memcmp(c, self->expected, N * 2) != 0) complain(self, "another result");
        w4a16_plan_destroy(plan);
        uint8_t *codes = malloc(N * K / 2);
        if (w4a16_weight_export(self->weight, codes, NULL, NULL, NULL)) complain(self, "export");
        free(codes);
        w4a16_device_info info = {.struct_size = sizeof info};
        if (w4a16_device_query(0, &info) || w4a16_context_device(self->context, &info)) complain(self, "device");
        size_t count;
        if (w4a16_config_list(self->context, NULL, NULL, 0, &count)) complain(self, "configs");
        /* Others plan meanwhile: with the results before, or with these. */
        if (w4a16_context_load_cache(self->context, self->cache)) complain(self, "load");
        w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
        if (w4a16_context_tuning(self->context, &tuning) || tuning.cache_points != 2) complain(self, "tuning");
        if (w4a16_plan_create(self->weight, NULL, &plan)) return complain(self, "plan"), NULL;
        if (w4a16_plan_describe(plan, NULL, 0, &count) || !count) complain(self, "describe");
        w4a16_plan_destroy(plan);
        w4a16_context *own = NULL;
        if (w4a16_context_create(NULL, &own)) complain(self, "context");
        w4a16_context_destroy(own);
    }
    return NULL;
}

/** Results for the context's device, at M = 1 and 2 of the test's weight. */
static void write_cache(const w4a16_context *context, int threads, const char *path) {
    w4a16_device_info device = {.struct_size = sizeof device};
    w4a16_tuning_info tuning = {.struct_size = sizeof tuning};
    CHECK(w4a16_context_device(context, &device));
    CHECK(w4a16_context_tuning(context, &tuning));
    const char *code = strrchr(device.reason, ' ') + 1; /* "...; its best kernels here: avx2" */
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "{\"format\": \"w4a16 cache\", \"version\": 1, \"devices\": [{\"device\": \"%s\", \"code\": \"%s\", "
            "\"processors\": %d, \"memory_mhz\": 0, \"library\": \"%s\", \"problems\": [{\"n\": %d, \"k\": %d, "
            "\"group_size\": 128, \"zero_points\": \"integer\", \"scales\": \"even\", \"dtype\": \"fp16\", "
            "\"output_dtype\": \"fp16\", \"scale_dtype\": \"fp16\", \"flags\": [], \"points\": [",
            device.name, code, threads, tuning.fingerprint, N, K);
    for (int m = 1; m <= 2; m++)
        fprintf(
            file,
            "%s{\"m\": %d, \"configs\": [[\"cpu_reference\", 1]], \"timed\": 1, \"date\": \"2026-11-21T16:05:00Z\"}",
            m == 1 ? "" : ", ", m);
    fputs("]}]}]}", file);
    assert_int_equal(fclose(file), 0);
}

static void run_threads(int library_threads, int threads) {
    uint64_t seed = 8;
    test_weight arrays;
    test_weight_make(&arrays, &seed, N, K, 128, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_K_ORDER);
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, M, K, K, 0);
    w4a16_context *context = test_context(NULL, library_threads);
    w4a16_weight *weight = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = M;
    options.flags = W4A16_PLAN_BATCH_INVARIANT;
    w4a16_plan *plan = NULL;
    CHECK(w4a16_plan_create(weight, &options, &plan));
    char folder[64], cache[96];
    test_make_folder(folder);
    snprintf(cache, sizeof cache, "%s/tuned.json", folder);
    write_cache(context, library_threads, cache);
    test_output expected;
    test_output_make(&expected, W4A16_FP16, M, N, N);
    test_gemm(plan, &a, &expected);
    job jobs[MAX_THREADS] = {{0}};
    pthread_t handles[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        jobs[i] = (job){.context = context,
                        .weight = weight,
                        .plan = plan,
                        .a = &a,
                        .expected = expected.data,
                        .cache = cache,
                        .id = i};
        void *(*body)(void *) = i % 4 == 3 ? create_in_thread : multiply_in_thread;
        assert_int_equal(pthread_create(&handles[i], NULL, body, &jobs[i]), 0);
    }
    for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
    for (int i = 0; i < threads; i++)
        if (jobs[i].complaint[0]) fail_msg("thread %d: %s", i, jobs[i].complaint);
    test_remove_folder(folder);
    test_output_free(&expected);
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    test_activations_free(&a);
    test_weight_free(&arrays);
}

static void eight_threads_share_a_plan(void **state) {
    (void)state;
    run_threads(1, 8);
}

typedef struct owner {
    w4a16_context *context;
    const test_weight *arrays;
    int failed;
} owner;

static void *own_a_weight(void *argument) {
    owner *self = argument;
    for (int round = 0; round < 20; round++) {
        w4a16_weight *weight = NULL;
        w4a16_plan *plan = NULL;
        if (w4a16_weight_create(self->context, &self->arrays->canonical, &weight)) return self->failed = 1, NULL;
        if (w4a16_plan_create(weight, NULL, &plan)) self->failed = 1;
        w4a16_weight_destroy(weight);
        uint16_t a[64] = {0}, c[16];
        if (w4a16_gemm_host(plan, a, 64, c, 16, 1)) self->failed = 1;
        w4a16_plan_destroy(plan);
    }
    return NULL;
}

/** The last owner of a context is whichever thread comes last. */
static void threads_give_back_their_own_handles(void **state) {
    (void)state;
    uint64_t seed = 2;
    test_weight arrays;
    test_weight_make(&arrays, &seed, 16, 64, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    owner owners[MAX_THREADS];
    pthread_t handles[MAX_THREADS];
    w4a16_context *context = test_context(NULL, 1);
    for (int i = 0; i < MAX_THREADS; i++) {
        owners[i] = (owner){context, &arrays, 0};
        assert_int_equal(pthread_create(&handles[i], NULL, own_a_weight, &owners[i]), 0);
    }
    for (int i = 0; i < MAX_THREADS; i++) {
        pthread_join(handles[i], NULL);
        assert_int_equal(owners[i].failed, 0);
    }
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

static void four_threads_with_openmp_each(void **state) {
    (void)state;
    run_threads(2, 4);
}

int main(int argc, char **argv) {
    (void)argv;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_threads_share_a_plan),
        cmocka_unit_test(threads_give_back_their_own_handles),
    };
    const struct CMUnitTest openmp_tests[] = {cmocka_unit_test(four_threads_with_openmp_each)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (argc < 2) failed += cmocka_run_group_tests(openmp_tests, NULL, NULL);
    return failed;
}
