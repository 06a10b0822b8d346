/* SPDX-License-Identifier: Apache-2.0
 * Contexts, weights, plans and multiplications called wrongly: each wrong argument gives the stated status and a text
 * that names it, and nothing is written. */
#include "support.h"

#include <pthread.h>

static w4a16_context *context;
static test_weight arrays;
static w4a16_weight *weight;

enum { N = 40, K = 160, M = 9 };

static int set_up(void **state) {
    (void)state;
    uint64_t seed = 1;
    context = test_context(NULL, 1);
    test_weight_make(&arrays, &seed, N, K, 32, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_K_ORDER);
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
    w4a16_context_destroy(context);
    return 0;
}

/** Where a call would store a handle: it must stay as it is. */
static char marker;
#define UNTOUCHED ((void *)&marker)

/* ---- Devices and contexts ------------------------------------------------------------------------------------ */

static void device_query(void **state) {
    (void)state;
    w4a16_device_info info, before;
    memset(&info, 0x5a, sizeof info);
    info.struct_size = sizeof info;
    before = info;
    REFUSED(w4a16_device_query(-1, &info), W4A16_ERROR_NOT_FOUND, "index");
    REFUSED(w4a16_device_query(1000000, &info), W4A16_ERROR_NOT_FOUND, "index");
    REFUSED(w4a16_device_query(0x7fffffff, &info), W4A16_ERROR_NOT_FOUND, "index");
    assert_memory_equal(&info, &before, sizeof info);
    REFUSED(w4a16_device_query(0, NULL), W4A16_ERROR_INVALID_ARGUMENT, "info");
    info.struct_size = 0;
    REFUSED(w4a16_device_query(0, &info), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    info.struct_size = sizeof info + 1;
    REFUSED(w4a16_device_query(0, &info), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
}

static void refuse_options(const w4a16_context_options *options, w4a16_status status, const char *text) {
    w4a16_context *result = UNTOUCHED;
    REFUSED(w4a16_context_create(options, &result), status, text);
    assert_ptr_equal(result, UNTOUCHED);
}

static void context_create(void **state) {
    (void)state;
    w4a16_context_options options;
    REFUSED(w4a16_context_create(NULL, NULL), W4A16_ERROR_INVALID_ARGUMENT, "context");
    w4a16_context_options_init(&options);
    options.struct_size = sizeof options - 1;
    refuse_options(&options, W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    memset(&options, 0, sizeof options);
    refuse_options(&options, W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    static const char *const devices[] = {"cuda:7", "cuda:999", "gpu",     "",       "CPU", "cpu:1", "cpu ",
                                          "cuda:",  "cuda:-1",  "cuda:0x", "auto:0", "\n",  "%s%s%n"};
    for (size_t i = 0; i < COUNT(devices); i++) {
        w4a16_context_options_init(&options);
        options.device = devices[i];
        refuse_options(&options, W4A16_ERROR_NOT_FOUND, "device");
        assert_null(strchr(w4a16_last_error(), '\n'));
    }
    static const int threads[] = {-1, -1000, 1000000};
    for (size_t i = 0; i < COUNT(threads); i++) {
        w4a16_context_options_init(&options);
        options.device = "cpu";
        options.threads = threads[i];
        refuse_options(&options, W4A16_ERROR_INVALID_ARGUMENT, "threads");
    }
    static const char *const unknown[] = {"sse9", "", "AVX2", "avx", "avx2 "};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        w4a16_context_options_init(&options);
        options.device = "cpu";
        options.cpu_instruction_set = unknown[i];
        refuse_options(&options, W4A16_ERROR_INVALID_ARGUMENT, "cpu_instruction_set");
    }
    w4a16_context_options_init(NULL); /* harmless */
    w4a16_context_destroy(NULL);
}

static void no_gpu_is_said_clearly(void **state) {
    (void)state;
    w4a16_device_info info = {.struct_size = sizeof info};
    int listed = 0;
    for (int i = 0; !listed && w4a16_device_query(i, &info) == W4A16_OK; i++) listed = strcmp(info.id, "cuda:0") == 0;
    if (listed && info.usable) {
        print_message("skipped: this machine has a GPU\n");
        skip();
    }
    w4a16_context_options options;
    w4a16_context_options_init(&options);
    options.device = "cuda:0";
    /* A library with GPU kernels lists the device and knows why it cannot be used; one without knows no such device. */
    if (listed)
        refuse_options(&options, W4A16_ERROR_UNSUPPORTED, info.reason);
    else
        refuse_options(&options, W4A16_ERROR_NOT_FOUND, "no CUDA backend");
}

static void context_device(void **state) {
    (void)state;
    w4a16_device_info info = {.struct_size = sizeof info};
    REFUSED(w4a16_context_device(NULL, &info), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_context_device(context, NULL), W4A16_ERROR_INVALID_ARGUMENT, "info");
    info.struct_size = 1;
    REFUSED(w4a16_context_device(context, &info), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
}

/* ---- Weights ------------------------------------------------------------------------------------------------- */

static void refuse_canonical(const w4a16_canonical *canonical, const char *text) {
    w4a16_weight *result = UNTOUCHED;
    REFUSED(w4a16_weight_create(context, canonical, &result), W4A16_ERROR_INVALID_ARGUMENT, text);
    assert_ptr_equal(result, UNTOUCHED);
}

static void weight_create_shapes(void **state) {
    (void)state;
    w4a16_weight *result = UNTOUCHED;
    REFUSED(w4a16_weight_create(NULL, &arrays.canonical, &result), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_weight_create(context, &arrays.canonical, NULL), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    refuse_canonical(NULL, "canonical");
    w4a16_canonical canonical = arrays.canonical;
    canonical.struct_size = 8;
    refuse_canonical(&canonical, "struct_size");
    static const int64_t sizes[] = {0, -1, INT64_MIN, INT64_MAX, INT64_C(1) << 31};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        canonical = arrays.canonical;
        canonical.n = sizes[i];
        refuse_canonical(&canonical, "n is");
        canonical = arrays.canonical;
        canonical.k = sizes[i];
        refuse_canonical(&canonical, "k is");
    }
    static const int64_t groups[] = {0, -2, 1, 8, 16, 31, 33, 48, -32, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < COUNT(groups); i++) {
        canonical = arrays.canonical;
        canonical.group_size = groups[i];
        refuse_canonical(&canonical, "group_size");
    }
    static const int dtypes[] = {W4A16_DTYPE_NONE, W4A16_FP64, W4A16_INT8, W4A16_FP8_E4M3, -1, 16, 1000};
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        canonical = arrays.canonical;
        canonical.scale_dtype = (w4a16_dtype)dtypes[i];
        refuse_canonical(&canonical, "scale_dtype");
    }
    static const int kinds[] = {-1, 3, 100};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        canonical = arrays.canonical;
        canonical.zero_kind = (w4a16_zero_kind)kinds[i];
        refuse_canonical(&canonical, "zero_kind");
    }
    canonical = arrays.canonical;
    canonical.codes = NULL;
    refuse_canonical(&canonical, "codes");
    canonical = arrays.canonical;
    canonical.scales = NULL;
    refuse_canonical(&canonical, "scales");
    canonical = arrays.canonical;
    canonical.zeros = NULL;
    refuse_canonical(&canonical, "zeros");
    w4a16_canonical_init(NULL);
    w4a16_weight_destroy(NULL);
}

static void weight_create_content(void **state) {
    (void)state;
    static const uint16_t scales[] = {0x0000, 0x8000, 0x7c00, 0xfc00, 0x7e00, 0xfe00, 0x7c01};
    for (size_t i = 0; i < COUNT(scales); i++) {
        uint16_t *place = (uint16_t *)arrays.scales + 3 * arrays.groups + 2, kept = *place;
        *place = scales[i];
        refuse_canonical(&arrays.canonical, "scale");
        assert_non_null(strstr(w4a16_last_error(), "3"));
        *place = kept;
    }
    static const uint8_t zeros[] = {17, 18, 127, 255};
    for (size_t i = 0; i < COUNT(zeros); i++) {
        uint8_t *place = (uint8_t *)arrays.zeros + N * arrays.groups - 1, kept = *place;
        *place = zeros[i];
        refuse_canonical(&arrays.canonical, "zero");
        *place = kept;
    }
    static const int32_t columns[] = {-1, K, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < COUNT(columns); i++) {
        int32_t kept = arrays.k_order[K - 1];
        arrays.k_order[K - 1] = columns[i];
        refuse_canonical(&arrays.canonical, "k_order");
        arrays.k_order[K - 1] = arrays.k_order[0]; /* twice the same */
        refuse_canonical(&arrays.canonical, "k_order");
        arrays.k_order[K - 1] = kept;
    }
    static const float floats[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < COUNT(floats); i++) {
        float *float_zeros = test_allocate((size_t)(N * arrays.groups) * sizeof *float_zeros);
        w4a16_canonical canonical = arrays.canonical;
        canonical.zero_kind = W4A16_ZERO_FLOAT;
        canonical.zeros = float_zeros;
        float_zeros[7] = floats[i];
        refuse_canonical(&canonical, "zero");
        free(float_zeros);
    }
    /* What stands just inside the limits is taken. */
    uint8_t kept = *(uint8_t *)arrays.zeros;
    *(uint8_t *)arrays.zeros = 16;
    w4a16_weight *result = NULL;
    CHECK(w4a16_weight_create(context, &arrays.canonical, &result));
    w4a16_weight_destroy(result);
    *(uint8_t *)arrays.zeros = kept;
}

static void weight_query_and_export(void **state) {
    (void)state;
    w4a16_weight_info info = {.struct_size = sizeof info};
    REFUSED(w4a16_weight_query(NULL, &info), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    REFUSED(w4a16_weight_query(weight, NULL), W4A16_ERROR_INVALID_ARGUMENT, "info");
    info.struct_size = 3;
    REFUSED(w4a16_weight_query(weight, &info), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    REFUSED(w4a16_weight_export(NULL, NULL, NULL, NULL, NULL), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    CHECK(w4a16_weight_export(weight, NULL, NULL, NULL, NULL));
}

static void weight_files(void **state) {
    (void)state;
    w4a16_weight *result = UNTOUCHED;
    REFUSED(w4a16_weight_save(NULL, "x", 0), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    REFUSED(w4a16_weight_save(weight, NULL, 0), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_weight_save(weight, "", 0), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_weight_save(weight, "/nonexistent/folder/x", 0), W4A16_ERROR_NOT_FOUND, "/nonexistent/folder/x");
    REFUSED(w4a16_weight_load(NULL, "x", &result), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_weight_load(context, NULL, &result), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_weight_load(context, "x", NULL), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    REFUSED(w4a16_weight_load(context, "/nonexistent/x", &result), W4A16_ERROR_NOT_FOUND, "/nonexistent/x");
    REFUSED(w4a16_weight_load(context, "/", &result), W4A16_ERROR_IO, "/");
    REFUSED(w4a16_weight_load(context, "/proc/self/exe", &result), W4A16_ERROR_FORMAT, "/proc/self/exe");
    assert_ptr_equal(result, UNTOUCHED);
}

/* ---- Plans --------------------------------------------------------------------------------------------------- */

static void refuse_plan(const w4a16_plan_options *options, w4a16_status status, const char *text) {
    w4a16_plan *result = UNTOUCHED;
    REFUSED(w4a16_plan_create(weight, options, &result), status, text);
    assert_ptr_equal(result, UNTOUCHED);
}

static w4a16_plan_options plan_options(void) {
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    return options;
}

static void plan_create(void **state) {
    (void)state;
    w4a16_plan_options options = plan_options();
    w4a16_plan *result = UNTOUCHED;
    REFUSED(w4a16_plan_create(NULL, &options, &result), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    REFUSED(w4a16_plan_create(weight, &options, NULL), W4A16_ERROR_INVALID_ARGUMENT, "plan");
    assert_ptr_equal(result, UNTOUCHED);
    options.struct_size++;
    refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    static const int64_t low[] = {0, -1, INT64_MIN};
    for (size_t i = 0; i < COUNT(low); i++) {
        options = plan_options();
        options.m_min = low[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "m_min");
        options = plan_options();
        options.m_max = low[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "m_max");
    }
    options = plan_options();
    options.m_min = 5;
    options.m_max = 4;
    refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "m_max");
    options = plan_options();
    options.m_max = INT64_MAX;
    refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "m_max");
    static const int dtypes[] = {W4A16_FP32, W4A16_FP64, W4A16_INT8, -1, 16};
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        options = plan_options();
        options.a_dtype = (w4a16_dtype)dtypes[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "a_dtype");
        options = plan_options();
        options.c_dtype = (w4a16_dtype)dtypes[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "c_dtype");
        if (dtypes[i] == W4A16_FP32) continue;
        options = plan_options();
        options.bias_dtype = (w4a16_dtype)dtypes[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "bias_dtype");
    }
    options = plan_options();
    options.a_dtype = W4A16_DTYPE_NONE;
    refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "a_dtype");
    static const float alphas[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < COUNT(alphas); i++) {
        options = plan_options();
        options.alpha = alphas[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "alpha");
    }
    static const char *const names[] = {"sm90_n128m256k64_s5_coop", "", "cpu", "CPU_REFERENCE", "%s%n"};
    for (size_t i = 0; i < COUNT(names); i++) {
        options = plan_options();
        options.config = names[i];
        refuse_plan(&options, W4A16_ERROR_NOT_FOUND, "config");
        assert_non_null(strstr(w4a16_last_error(), "cpu_reference")); /* what would be right */
    }
    static const uint32_t flags[] = {8, 8 | W4A16_PLAN_NO_OVERLAP, 0x80000000u, 0xffffffffu};
    for (size_t i = 0; i < COUNT(flags); i++) {
        options = plan_options();
        options.flags = flags[i];
        refuse_plan(&options, W4A16_ERROR_INVALID_ARGUMENT, "options.flags");
    }
    static const uint32_t known[] = {W4A16_PLAN_BATCH_INVARIANT, W4A16_PLAN_NO_OVERLAP, W4A16_PLAN_COST_MODEL,
                                     W4A16_PLAN_BATCH_INVARIANT | W4A16_PLAN_NO_OVERLAP};
    for (size_t i = 0; i < COUNT(known); i++) {
        options = plan_options();
        options.flags = known[i];
        CHECK(w4a16_plan_create(weight, &options, &result));
        w4a16_plan_destroy(result);
        result = NULL;
    }
    w4a16_plan_options_init(NULL);
    w4a16_plan_destroy(NULL);
    /* NULL options mean the defaults. */
    CHECK(w4a16_plan_create(weight, NULL, &result));
    w4a16_plan_destroy(result);
}

static void infeasible_configs_are_unsupported(void **state) {
    (void)state;
    w4a16_context *limited = test_context("reference", 1);
    w4a16_weight *limited_weight = NULL;
    CHECK(w4a16_weight_create(limited, &arrays.canonical, &limited_weight));
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count = 0, infeasible = 0;
    CHECK(w4a16_config_list(limited, NULL, infos, TEST_MAX_CONFIGS, &count));
    for (size_t i = 0; i < count; i++) {
        if (infos[i].feasible) {
            assert_int_equal(infos[i].reason[0], 0);
            continue;
        }
        infeasible++;
        assert_true(strlen(infos[i].reason) > 5);
        assert_true(infos[i].predicted_seconds == 0);
        w4a16_plan_options options = plan_options();
        options.config = infos[i].name;
        w4a16_plan *result = UNTOUCHED;
        REFUSED(w4a16_plan_create(limited_weight, &options, &result), W4A16_ERROR_UNSUPPORTED, infos[i].name);
        assert_ptr_equal(result, UNTOUCHED);
        w4a16_problem problem;
        w4a16_problem_init(&problem);
        problem.m = 1;
        problem.n = problem.k = 64;
        w4a16_profile_result profile;
        REFUSED(w4a16_profile(limited, &problem, infos[i].name, 0, &profile), W4A16_ERROR_UNSUPPORTED, infos[i].name);
    }
    if (count > 1) assert_true(infeasible >= 1);
    w4a16_weight_destroy(limited_weight);
    w4a16_context_destroy(limited);
}

static void plan_query(void **state) {
    (void)state;
    w4a16_plan *plan = test_plan(weight, 4, W4A16_FP16, W4A16_FP16, NULL);
    w4a16_plan_info info = {.struct_size = sizeof info};
    REFUSED(w4a16_plan_query(NULL, &info), W4A16_ERROR_INVALID_ARGUMENT, "plan");
    REFUSED(w4a16_plan_query(plan, NULL), W4A16_ERROR_INVALID_ARGUMENT, "info");
    info.struct_size = 7;
    REFUSED(w4a16_plan_query(plan, &info), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    info.struct_size = sizeof info;
    CHECK(w4a16_plan_query(plan, &info));
    assert_non_null(info.config);
    assert_true(info.reason[0] != 0);
    assert_true(info.predicted_seconds > 0);
    assert_true(info.workspace_alignment && !(info.workspace_alignment & (info.workspace_alignment - 1)));
    w4a16_plan_destroy(plan);
}

/* ---- The multiplication -------------------------------------------------------------------------------------- */

typedef struct call {
    const w4a16_plan *plan;
    const void *a;
    int64_t lda;
    void *c;
    int64_t ldc, m;
    void *workspace;
    size_t workspace_bytes;
} call;

static void refuse_call(call arguments, const test_output *c, w4a16_status status, const char *text, int host_too) {
    REFUSED(w4a16_gemm(arguments.plan, arguments.a, arguments.lda, arguments.c, arguments.ldc, arguments.m,
                       arguments.workspace, arguments.workspace_bytes, NULL),
            status, text);
    test_output_check_untouched(c);
    if (!host_too) return;
    REFUSED(w4a16_gemm_host(arguments.plan, arguments.a, arguments.lda, arguments.c, arguments.ldc, arguments.m),
            status, text);
    test_output_check_untouched(c);
}

static void gemm(void **state) {
    (void)state;
    uint64_t seed = 3;
    test_activations a;
    test_activations_make(&a, &seed, W4A16_FP16, M, K, K, 0);
    test_output c;
    test_output_make(&c, W4A16_FP16, M, N, N + 2);
    w4a16_plan_options options = plan_options();
    options.m_min = 2;
    options.m_max = M;
    w4a16_plan *plan = NULL;
    CHECK(w4a16_plan_create(weight, &options, &plan));
    size_t bytes;
    void *workspace = test_workspace(plan, &bytes);
    const call good = {plan, a.data, K, c.data, N + 2, M, workspace, bytes};
    call bad = good;
    bad.plan = NULL;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "plan", 1);
    bad = good, bad.a = NULL;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "a is NULL", 1);
    bad = good, bad.c = NULL;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "c is NULL", 1);
    static const int64_t strides[] = {K - 1, 0, -1, -K, INT64_MIN, INT64_MAX, INT64_MAX / 2, INT64_MAX / 8};
    for (size_t i = 0; i < COUNT(strides); i++) {
        bad = good, bad.lda = strides[i];
        refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "lda", 1);
        bad = good, bad.ldc = strides[i] == K - 1 ? N - 1 : strides[i];
        refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "ldc", 1);
    }
    static const int64_t rows[] = {1, M + 1, 0, -1, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < COUNT(rows); i++) {
        bad = good, bad.m = rows[i];
        refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "m is", 1);
    }
    bad = good, bad.a = (const char *)a.data + 1;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "a is", 1);
    bad = good, bad.c = (char *)c.data + 1;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "c", 1);
    /* C in the middle, at either end and all around A. */
    bad = good, bad.a = c.data;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "overlap", 1);
    bad.a = c.data + (M - 1) * c.ldc + N - 1;
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "overlap", 1);
    bad.a = c.data - ((M - 1) * K + K - 1);
    refuse_call(bad, &c, W4A16_ERROR_INVALID_ARGUMENT, "overlap", 1);
    if (bytes) {
        bad = good, bad.workspace = NULL;
        refuse_call(bad, &c, W4A16_ERROR_WORKSPACE, "workspace", 0);
        bad = good, bad.workspace_bytes = bytes - 1;
        refuse_call(bad, &c, W4A16_ERROR_WORKSPACE, "workspace", 0);
        bad = good, bad.workspace_bytes = 0;
        refuse_call(bad, &c, W4A16_ERROR_WORKSPACE, "workspace", 0);
        bad = good, bad.workspace = (char *)workspace + 1;
        refuse_call(bad, &c, W4A16_ERROR_WORKSPACE, "workspace", 0);
    }
    test_gemm(plan, &a, &c); /* and after all that the same plan works */
    double *product = test_allocate(M * N * sizeof *product);
    test_multiply(&a, &arrays, 1, NULL, product);
    test_check_product(&c, &a, &arrays, 1, product, "after misuse");
    free(product);
    free(workspace);
    w4a16_plan_destroy(plan);
    test_output_free(&c);
    test_activations_free(&a);
}

/** Right next to each other is not overlapping. */
static void neighbours_do_not_overlap(void **state) {
    (void)state;
    uint16_t *memory = test_allocate((N + K + N) * 2);
    w4a16_plan *plan = test_plan(weight, 1, W4A16_FP16, W4A16_FP16, "cpu_reference");
    CHECK(w4a16_gemm_host(plan, memory + N, K, memory, N, 1));
    CHECK(w4a16_gemm_host(plan, memory + N, K, memory + N + K, N, 1));
    REFUSED(w4a16_gemm_host(plan, memory + N, K, memory + 1, N, 1), W4A16_ERROR_INVALID_ARGUMENT, "overlap");
    REFUSED(w4a16_gemm_host(plan, memory + N, K, memory + N + K - 1, N, 1), W4A16_ERROR_INVALID_ARGUMENT, "overlap");
    w4a16_plan_destroy(plan);
    free(memory);
}

/* ---- The rest ------------------------------------------------------------------------------------------------ */

static void config_list(void **state) {
    (void)state;
    w4a16_config_info infos[TEST_MAX_CONFIGS], before[TEST_MAX_CONFIGS];
    size_t count = 12345;
    memset(infos, 0x5a, sizeof infos);
    memcpy(before, infos, sizeof infos);
    REFUSED(w4a16_config_list(NULL, NULL, infos, TEST_MAX_CONFIGS, &count), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_config_list(context, NULL, infos, TEST_MAX_CONFIGS, NULL), W4A16_ERROR_INVALID_ARGUMENT, "count");
    REFUSED(w4a16_config_list(context, NULL, NULL, 1, &count), W4A16_ERROR_INVALID_ARGUMENT, "configs");
    static const struct {
        size_t at;
        int bytes;
        int64_t value;
        const char *text;
    } wrong[] = {
        {offsetof(w4a16_problem, struct_size), 8, 1, "struct_size"},
        {offsetof(w4a16_problem, m), 8, 0, "m is"},
        {offsetof(w4a16_problem, m), 8, INT64_MAX, "m is"},
        {offsetof(w4a16_problem, n), 8, -5, "n is"},
        {offsetof(w4a16_problem, k), 8, INT64_MIN, "k is"},
        {offsetof(w4a16_problem, group_size), 8, 33, "group_size"},
        {offsetof(w4a16_problem, group_size), 8, 0, "group_size"},
        {offsetof(w4a16_problem, a_dtype), 4, W4A16_FP32, "a_dtype"},
        {offsetof(w4a16_problem, a_dtype), 4, W4A16_DTYPE_NONE, "a_dtype"},
        {offsetof(w4a16_problem, c_dtype), 4, 99, "c_dtype"},
        {offsetof(w4a16_problem, scale_dtype), 4, W4A16_FP64, "scale_dtype"},
        {offsetof(w4a16_problem, zero_kind), 4, 3, "zero_kind"},
        {offsetof(w4a16_problem, uneven_scales), 4, 2, "uneven_scales"},
        {offsetof(w4a16_problem, flags), 4, 8, "flags"},
        {offsetof(w4a16_problem, flags), 4, 0x10, "flags"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        w4a16_problem problem;
        w4a16_problem_init(&problem);
        problem.m = problem.n = problem.k = 64;
        memcpy((char *)&problem + wrong[i].at, &wrong[i].value, (size_t)wrong[i].bytes); /* little-endian */
        REFUSED(w4a16_config_list(context, &problem, infos, TEST_MAX_CONFIGS, &count), W4A16_ERROR_INVALID_ARGUMENT,
                wrong[i].text);
        w4a16_profile_result result;
        REFUSED(w4a16_profile(context, &problem, NULL, 0, &result), W4A16_ERROR_INVALID_ARGUMENT, wrong[i].text);
    }
    assert_int_equal(count, 12345);
    assert_memory_equal(infos, before, sizeof infos);
    /* Capacity 0 asks for the count alone; a small capacity is filled, and no more. */
    CHECK(w4a16_config_list(context, NULL, NULL, 0, &count));
    assert_in_range(count, 1, TEST_MAX_CONFIGS);
    size_t again = 0;
    CHECK(w4a16_config_list(context, NULL, infos, 1, &again));
    assert_int_equal(again, count);
    assert_memory_equal(&infos[1], &before[1], sizeof infos - sizeof *infos);
    w4a16_problem_init(NULL);
}

static void profile_and_ceilings(void **state) {
    (void)state;
    w4a16_problem problem;
    w4a16_problem_init(&problem);
    problem.m = problem.n = problem.k = 64;
    w4a16_profile_result result, before;
    memset(&result, 0x5a, sizeof result);
    before = result;
    REFUSED(w4a16_profile(NULL, &problem, NULL, 0, &result), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_profile(context, NULL, NULL, 0, &result), W4A16_ERROR_INVALID_ARGUMENT, "problem");
    REFUSED(w4a16_profile(context, &problem, NULL, 0, NULL), W4A16_ERROR_INVALID_ARGUMENT, "result");
    REFUSED(w4a16_profile(context, &problem, "no such config", 0, &result), W4A16_ERROR_NOT_FOUND, "no such config");
    static const double seconds[] = {NAN, -1, INFINITY, 1e9};
    for (size_t i = 0; i < COUNT(seconds); i++)
        REFUSED(w4a16_profile(context, &problem, NULL, seconds[i], &result), W4A16_ERROR_INVALID_ARGUMENT,
                "min_seconds");
    assert_memory_equal(&result, &before, sizeof result);
    w4a16_ceilings ceilings = {.struct_size = sizeof ceilings};
    REFUSED(w4a16_measure_ceilings(NULL, &ceilings), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_measure_ceilings(context, NULL), W4A16_ERROR_INVALID_ARGUMENT, "ceilings");
    ceilings.struct_size = 0;
    REFUSED(w4a16_measure_ceilings(context, &ceilings), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
}

static void convert_elements(void **state) {
    (void)state;
    uint16_t source[4] = {0}, target[4] = {1, 2, 3, 4};
    REFUSED(w4a16_convert_elements(NULL, W4A16_FP16, target, W4A16_BF16, 1), W4A16_ERROR_INVALID_ARGUMENT, "source");
    REFUSED(w4a16_convert_elements(source, W4A16_FP16, NULL, W4A16_BF16, 1), W4A16_ERROR_INVALID_ARGUMENT, "target");
    static const int dtypes[] = {W4A16_DTYPE_NONE, W4A16_UINT8, W4A16_INT64, W4A16_FP8_E5M2, -1, 16};
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        REFUSED(w4a16_convert_elements(source, (w4a16_dtype)dtypes[i], target, W4A16_BF16, 1),
                W4A16_ERROR_INVALID_ARGUMENT, "source_dtype");
        REFUSED(w4a16_convert_elements(source, W4A16_FP16, target, (w4a16_dtype)dtypes[i], 1),
                W4A16_ERROR_INVALID_ARGUMENT, "target_dtype");
    }
    CHECK(w4a16_convert_elements(NULL, W4A16_FP16, NULL, W4A16_BF16, 0));
    for (uint16_t i = 0; i < 4; i++) assert_int_equal(target[i], i + 1);
}

static void *fail_elsewhere(void *argument) {
    (void)argument;
    if (*w4a16_last_error()) return "a new thread starts with a text";
    w4a16_context_create(NULL, NULL);
    return strstr(w4a16_last_error(), "context") ? NULL : "the thread's own error is missing";
}

static void last_error_is_per_thread_and_survives_success(void **state) {
    (void)state;
    REFUSED(w4a16_weight_load(context, "/nonexistent/x", &weight), W4A16_ERROR_NOT_FOUND, "/nonexistent/x");
    pthread_t thread;
    void *complaint;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, &complaint);
    if (complaint) fail_msg("%s", (const char *)complaint);
    CHECK(w4a16_weight_export(weight, NULL, NULL, NULL, NULL));
    assert_non_null(strstr(w4a16_last_error(), "/nonexistent/x"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_query),
        cmocka_unit_test(context_create),
        cmocka_unit_test(no_gpu_is_said_clearly),
        cmocka_unit_test(context_device),
        cmocka_unit_test(weight_create_shapes),
        cmocka_unit_test(weight_create_content),
        cmocka_unit_test(weight_query_and_export),
        cmocka_unit_test(weight_files),
        cmocka_unit_test(plan_create),
        cmocka_unit_test(infeasible_configs_are_unsupported),
        cmocka_unit_test(plan_query),
        cmocka_unit_test(gemm),
        cmocka_unit_test(neighbours_do_not_overlap),
        cmocka_unit_test(config_list),
        cmocka_unit_test(profile_and_ceilings),
        cmocka_unit_test(convert_elements),
        cmocka_unit_test(last_error_is_per_thread_and_survives_success),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
