/* SPDX-License-Identifier: Apache-2.0
 * Finding GPUs: each thing that may be missing or fail has its own words, and `auto` goes on to what works. The driver
 * is tests/cuda/fake_cuda.c; the first argument is what it pretends. */
#include "api/support.h"
#include "backend/cuda/driver.h"
#include "fake_cuda.h"

#include <dlfcn.h>

static const char *mode;

static w4a16_device_info query(const char *id) {
    w4a16_device_info info = {.struct_size = sizeof info};
    for (int i = 0; w4a16_device_query(i, &info) == W4A16_OK; i++)
        if (strcmp(info.id, id) == 0) return info;
    fail_msg("no device %s", id);
    return info;
}

static w4a16_status open_device(const char *device, const char *instruction_set, w4a16_context **context) {
    w4a16_context_options options;
    w4a16_context_options_init(&options);
    options.device = device;
    options.cpu_instruction_set = instruction_set;
    return w4a16_context_create(&options, context);
}

/** `id` cannot be used, for a reason that contains `text`. */
static void check_unusable(const char *id, const char *text) {
    w4a16_device_info info = query(id);
    w4a16_context *context = NULL;
    assert_int_equal(info.usable, 0);
    if (!strstr(info.reason, text)) fail_msg("'%s' is not in: %s", text, info.reason);
    assert_true(info.name[0] && info.architecture[0]);
    REFUSED(open_device(id, NULL, &context), W4A16_ERROR_UNSUPPORTED, text);
    assert_null(context);
}

static void check_automatic(const char *id) {
    w4a16_context *context = NULL;
    w4a16_device_info info = {.struct_size = sizeof info};
    CHECK(open_device(NULL, NULL, &context));
    CHECK(w4a16_context_device(context, &info));
    assert_string_equal(info.id, id);
    w4a16_context_destroy(context);
}

static void unusable_libraries_are_explained(void **state) {
    (void)state;
    w4_cuda_driver driver;
    char reason[256] = "";
    assert_false(w4_cuda_driver_open("/nonexistent/libcuda.so.1", &driver, reason, sizeof reason));
    assert_non_null(strstr(reason, "no NVIDIA driver on this machine"));
    assert_false(w4_cuda_driver_open("libm.so.6", &driver, reason, sizeof reason));
    assert_non_null(strstr(reason, "no function cuDriverGetVersion"));
}

static char logged[512];

static void keep_line(w4a16_log_level level, const char *message, void *user) {
    (void)user;
    if (level == W4A16_LOG_INFO) snprintf(logged, sizeof logged, "%s", message);
}

static void missing_gpus_are_explained(void **state) {
    (void)state;
    static const struct {
        const char *mode, *reason;
    } expected[] = {{"none", "shows no GPU"},
                    {"init", "cuInit: system has unsupported display driver"},
                    {"old", "is one of CUDA 11.4; 12.0 or newer"},
                    {"sm_70", "(Fake V100): compute capability 7.0; there are kernels for 8.0"},
                    {"sm_75", "(Fake T4): compute capability 7.5; there are kernels for 8.0"}};
    for (size_t i = 0; i < COUNT(expected); i++) {
        if (strcmp(mode, expected[i].mode) != 0) continue;
        check_unusable("cuda:0", expected[i].reason);
        w4a16_set_log_callback(keep_line, NULL);
        check_automatic("cpu");
        w4a16_set_log_callback(NULL, NULL);
        assert_non_null(strstr(logged, "auto passes over cuda:0"));
        assert_non_null(strstr(logged, expected[i].reason));
        return;
    }
    skip();
}

/** The first GPU's context, and a small weight's arrays. */
static w4a16_context *open_beside_arrays(test_weight *arrays) {
    w4a16_context *context = NULL;
    uint64_t seed = 1;
    test_weight_make(arrays, &seed, 70, 96, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    CHECK(open_device("cuda:0", NULL, &context));
    return context;
}

/** What each GPU says that it runs, and that it does: a weight is packed, planned and multiplied. */
static void gpus_run_their_code(void **state) {
    (void)state;
    static const struct {
        const char *mode, *forced, *runs, *kernels;
    } expected[] = {
        {"sm_80", NULL, "8.0, runs sm_80,", "sm80_"},
        {"sm_86", NULL, "8.6, runs sm_86,", "sm80_"},
        {"sm_87", NULL, "8.7, runs sm_86,", "sm80_"},
        {"sm_89", NULL, "8.9, runs sm_89,", "sm80_"},
        {"sm_90", NULL, "9.0, runs sm_90a and sm_90", "sm90_"},
        {"mig", NULL, "9.0, runs sm_90a and sm_90", "sm90_"},
        {"sm_90", "sm80", "9.0, runs sm_90,", "sm80_"},
        {"sm_90", "ptx", "9.0, runs PTX of compute_80, which the driver compiles and caches", "sm80_"},
        {"sm_100", NULL, "10.0, runs PTX", "sm80_"},
        {"sm_120", NULL, "12.0, runs PTX", "sm80_"},
    };
    const char *forced = getenv("W4A16_CUDA_ARCH");
    if (forced && strcmp(forced, "other") == 0) {
        check_unusable("cuda:0", "W4A16_CUDA_ARCH is 'other'; it must be 'sm80' or 'ptx'");
        return;
    }
    size_t i = 0;
    while (i < COUNT(expected) && (strcmp(mode, expected[i].mode) != 0 || !forced != !expected[i].forced ||
                                   (forced && strcmp(forced, expected[i].forced) != 0)))
        i++;
    if (i == COUNT(expected)) skip();
    w4a16_device_info info = query("cuda:0");
    assert_int_equal(info.usable, 1);
    if (!strstr(info.reason, expected[i].runs)) fail_msg("'%s' is not in: %s", expected[i].runs, info.reason);
    assert_string_equal(info.architecture, strcmp(mode, "mig") == 0 ? "sm_90" : mode);
    w4a16_weight *weight = NULL;
    w4a16_plan *plan = NULL;
    test_weight arrays;
    w4a16_context *context = open_beside_arrays(&arrays);
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = 100;
    CHECK(w4a16_plan_create(weight, &options, &plan)); /* loads its kernels: the driver checks whether they run here */
    w4a16_plan_info plan_info = {.struct_size = sizeof plan_info};
    CHECK(w4a16_plan_query(plan, &plan_info));
    assert_memory_equal(plan_info.config, expected[i].kernels, 5);
    w4a16_plan_destroy(plan);
    plan = NULL;
    if (strcmp(expected[i].kernels, "sm80_") == 0) {
        options.config = "sm90_n128m16k256_any";
        REFUSED(w4a16_plan_create(weight, &options, &plan), W4A16_ERROR_UNSUPPORTED, "compute capability 9.0 alone");
    }
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

/** GEMMs launched so far, as the fake driver counted them. */
static fake_launches count_launches(void) {
    fake_launches (*count)(void);
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    assert_non_null(library);
    void *address = dlsym(library, "fake_count_launches");
    assert_non_null(address);
    memcpy(&count, &address, sizeof count);
    fake_launches launches = count();
    dlclose(library);
    return launches;
}

/** Every config is launched so that it may start while the kernel before runs, where the GPU can do that and its code
 * was made to wait; never by a plan with W4A16_PLAN_NO_OVERLAP. The results are the same. */
static void overlapping_can_be_switched_off(void **state) {
    (void)state;
    enum { N = 256, K = 1024, M = 8 };
    const char *forced = getenv("W4A16_CUDA_ARCH");
    if (strncmp(mode, "sm_", 3) != 0 || !query("cuda:0").usable) skip();
    unsigned overlaps = strcmp(mode, "sm_90") == 0 && !(forced && strcmp(forced, "ptx") == 0), launched = 0;
    uint64_t seed = 2;
    test_weight arrays;
    test_activations a;
    w4a16_context *context = NULL;
    w4a16_weight *weight = NULL;
    test_weight_make(&arrays, &seed, N, K, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    test_activations_make(&a, &seed, W4A16_FP16, M, K, K, 0);
    CHECK(open_device("cuda:0", NULL, &context));
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    const char *names[TEST_MAX_CONFIGS];
    size_t count = test_configs(context, &arrays, M, W4A16_FP16, W4A16_FP16, 0, names);
    for (size_t i = 0; i < count; i++) {
        static const uint32_t flags[] = {0, W4A16_PLAN_NO_OVERLAP, W4A16_PLAN_NO_OVERLAP | W4A16_PLAN_BATCH_INVARIANT};
        test_output c[COUNT(flags)];
        for (size_t j = 0; j < COUNT(flags); j++) {
            w4a16_plan *plan = NULL;
            w4a16_plan_options options;
            w4a16_plan_options_init(&options);
            options.m_max = M;
            /* A batch-invariant plan does not take every config. */
            options.config = flags[j] & W4A16_PLAN_BATCH_INVARIANT ? NULL : names[i];
            options.flags = flags[j];
            CHECK(w4a16_plan_create(weight, &options, &plan));
            test_output_make(&c[j], W4A16_FP16, M, N, N);
            fake_launches before = count_launches();
            CHECK(w4a16_gemm_host(plan, a.data, K, c[j].data, N, M));
            fake_launches after = count_launches();
            if (after.gemms != before.gemms + 1 || after.overlapping != before.overlapping + (flags[j] ? 0 : overlaps))
                fail_msg("%s, flags %u: %u GEMMs, %u of them overlapping", names[i], (unsigned)flags[j],
                         after.gemms - before.gemms, after.overlapping - before.overlapping);
            launched++;
            w4a16_plan_destroy(plan);
        }
        assert_memory_equal(c[0].data, c[1].data, sizeof(uint16_t) * N * M);
        for (size_t j = 0; j < COUNT(flags); j++) test_output_free(&c[j]);
    }
    assert_true(launched > 0);
    test_activations_free(&a);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

static void a_hopper_gpu_is_picked(void **state) {
    (void)state;
    w4a16_context *context = NULL;
    if (getenv("W4A16_CUDA_ARCH")) skip();
    if (strcmp(mode, "mixed") == 0) {
        check_unusable("cuda:0", "compute capability 7.0");
        check_automatic("cuda:1");
    } else if (strcmp(mode, "sm_90") == 0) {
        w4a16_device_info info = query("cuda:0");
        assert_int_equal(info.usable, 1);
        assert_string_equal(info.name, "Fake H200");
        assert_string_equal(info.architecture, "sm_90");
        check_automatic("cuda:0");
        REFUSED(open_device("cuda:0", "avx2", &context), W4A16_ERROR_INVALID_ARGUMENT, "cpu_instruction_set");
        REFUSED(open_device("cuda:1", NULL, &context), W4A16_ERROR_NOT_FOUND, "cuda:1");
        assert_null(strstr(w4a16_last_error(), "no CUDA backend"));
    } else {
        skip();
    }
}

/** A context on the CPU must not wait for a GPU's driver to start. This test is the first of the process. */
static void cpu_contexts_open_no_driver(void **state) {
    (void)state;
    w4a16_context *context = NULL;
    w4a16_device_info info = {.struct_size = sizeof info};
    CHECK(open_device("cpu", NULL, &context));
    assert_null(dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD));
    CHECK(w4a16_context_device(context, &info));
    assert_string_equal(info.id, "cpu");
    assert_int_equal(info.automatic, query("cpu").automatic);
    assert_int_not_equal(info.automatic, query("cuda:0").automatic || (strcmp(mode, "mixed") == 0));
    w4a16_context_destroy(context);
}

static CUcontext current_context(void) {
    CUcontext current = NULL;
    assert_int_equal(w4_cuda_driver_get()->cuCtxGetCurrent(&current), CUDA_SUCCESS);
    return current;
}

/** A call works with no context, another's or the plan's own current, and leaves it so. */
/** Loading waits for the kernels that run, so that a weight loads what its plans will choose; where the driver would
 * compile it, a plan does. */
static void weights_load_what_plans_need(void **state) {
    (void)state;
    enum { N = 256, K = 1024, M = 8192 };
    const char *forced = getenv("W4A16_CUDA_ARCH");
    if (strncmp(mode, "sm_", 3) != 0 || !query("cuda:0").usable) skip();
    bool compiled = atoi(mode + 3) > 90 || (forced && strcmp(forced, "ptx") == 0);
    uint64_t seed = 4;
    w4a16_context *context = NULL;
    CHECK(open_device("cuda:0", NULL, &context));
    for (int i = 0; i < 2; i++) { /* scales say what the activations will be */
        w4a16_dtype dtype = i ? W4A16_BF16 : W4A16_FP16;
        test_weight arrays;
        w4a16_weight *weight = NULL;
        w4a16_plan *plan = NULL;
        w4a16_plan_options options;
        test_weight_make(&arrays, &seed, N, K, 128, dtype, W4A16_ZERO_SYMMETRIC, 0);
        unsigned before = count_launches().images;
        CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
        unsigned with_weight = count_launches().images;
        w4a16_plan_options_init(&options);
        options.m_max = M;
        options.a_dtype = dtype;
        CHECK(w4a16_plan_create(weight, &options, &plan));
        unsigned with_plan = count_launches().images;
        if (compiled ? with_plan == with_weight : with_weight == before || with_plan != with_weight)
            fail_msg("%s: %u images before, %u with the weight, %u with the plan", w4a16_dtype_name(dtype), before,
                     with_weight, with_plan);
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
    }
    w4a16_context_destroy(context);
}

static void calls_keep_the_current_context(void **state) {
    (void)state;
    enum { N = 256, K = 1024, M = 8 };
    if (strcmp(mode, "sm_90") != 0 || !query("cuda:0").usable) skip();
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    uint64_t seed = 3;
    test_weight arrays;
    test_activations a;
    test_output c;
    w4a16_context *context = NULL;
    w4a16_weight *weight = NULL;
    w4a16_plan *plan = NULL;
    w4a16_plan_options options;
    w4a16_plan_info info = {.struct_size = sizeof info};
    CUcontext primary, popped;
    CUdeviceptr workspace;
    test_weight_make(&arrays, &seed, N, K, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0);
    test_activations_make(&a, &seed, W4A16_FP16, M, K, K, 0);
    CHECK(open_device("cuda:0", NULL, &context));
    CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
    w4a16_plan_options_init(&options);
    options.m_max = M;
    CHECK(w4a16_plan_create(weight, &options, &plan));
    CHECK(w4a16_plan_query(plan, &info));
    assert_int_equal(driver->cuDevicePrimaryCtxRetain(&primary, 0), CUDA_SUCCESS);
    assert_int_equal(driver->cuCtxPushCurrent(primary), CUDA_SUCCESS);
    assert_int_equal(driver->cuMemAlloc(&workspace, info.workspace_bytes + 1), CUDA_SUCCESS);
    assert_int_equal(driver->cuCtxPopCurrent(&popped), CUDA_SUCCESS);
    CUcontext current[] = {NULL, (CUcontext)(uintptr_t)77, primary};
    for (size_t i = 0; i < COUNT(current); i++) {
        if (current[i]) assert_int_equal(driver->cuCtxPushCurrent(current[i]), CUDA_SUCCESS);
        test_output_make(&c, W4A16_FP16, M, N, N);
        CHECK(w4a16_gemm(plan, a.data, K, c.data, N, M, (void *)(uintptr_t)workspace, info.workspace_bytes, NULL));
        assert_ptr_equal(current_context(), current[i]);
        if (current[i]) assert_int_equal(driver->cuCtxPopCurrent(&popped), CUDA_SUCCESS);
        test_output_free(&c);
    }
    assert_int_equal(driver->cuCtxPushCurrent(primary), CUDA_SUCCESS);
    assert_int_equal(driver->cuMemFree(workspace), CUDA_SUCCESS);
    assert_int_equal(driver->cuCtxPopCurrent(&popped), CUDA_SUCCESS);
    assert_int_equal(driver->cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    test_activations_free(&a);
    test_weight_free(&arrays);
}

static void driver_errors_are_named(void **state) {
    (void)state;
    int memory = strcmp(mode, "memory") == 0, module = strcmp(mode, "module") == 0, gemm = strcmp(mode, "gemm") == 0;
    if (!memory && !module && !gemm) skip();
    w4a16_weight *weight = NULL;
    w4a16_plan *plan = NULL;
    test_weight arrays;
    w4a16_context *context = open_beside_arrays(&arrays);
    if (memory)
        REFUSED(w4a16_weight_create(context, &arrays.canonical, &weight), W4A16_ERROR_OUT_OF_MEMORY,
                "cuMemAlloc: out of memory");
    if (module) {
        REFUSED(w4a16_weight_create(context, &arrays.canonical, &weight), W4A16_ERROR_DEVICE,
                "cuModuleLoadData: device kernel image is invalid");
        REFUSED(w4a16_weight_load(context, W4A16_TESTS_DIR "/pack/golden/symmetric_fp16_g128.w4a16", &weight),
                W4A16_ERROR_DEVICE, "cuModuleLoadData: device kernel image is invalid");
    }
    assert_null(weight);
    if (gemm) { /* the weight's kernels load, the plan's does not */
        CHECK(w4a16_weight_create(context, &arrays.canonical, &weight));
        REFUSED(w4a16_plan_create(weight, NULL, &plan), W4A16_ERROR_DEVICE,
                "cuModuleLoadData: device kernel image is invalid");
        assert_null(plan);
    }
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    test_weight_free(&arrays);
}

int main(int argc, char **argv) {
    mode = argc > 1 ? argv[1] : "none";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_contexts_open_no_driver),     cmocka_unit_test(unusable_libraries_are_explained),
        cmocka_unit_test(missing_gpus_are_explained),      cmocka_unit_test(gpus_run_their_code),
        cmocka_unit_test(overlapping_can_be_switched_off), cmocka_unit_test(calls_keep_the_current_context),
        cmocka_unit_test(weights_load_what_plans_need),    cmocka_unit_test(a_hopper_gpu_is_picked),
        cmocka_unit_test(driver_errors_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
