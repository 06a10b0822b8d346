/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend through the public API, on host arrays and on device pointers. Exact problems must have the bits of
 * the CPU's reference, random ones are held to fp64. Runs on a GPU, and on the fake driver with smaller shapes; skipped
 * where there is neither. */
#include "api/support.h"
#include "device_memory.h"

#include <math.h>

static const w4a16_dtype halves[] = {W4A16_FP16, W4A16_BF16};
static const w4a16_dtype scale_dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
static const int64_t group_sizes[] = {32, 64, 128, 256, -1};

static int simulated; /* on the fake driver: no large shapes */
static w4a16_context *cuda, *cpu;

static w4a16_context *open_context(const char *device) {
    w4a16_context_options options;
    w4a16_context_options_init(&options);
    options.device = device;
    w4a16_context *context = NULL;
    CHECK(w4a16_context_create(&options, &context));
    return context;
}

/** One multiplication to check: the arrays, and the result wanted. */
typedef struct problem {
    const test_weight *arrays;
    const w4a16_weight *weight;
    test_activations a;
    w4a16_dtype c_dtype, bias_dtype;
    float alpha;
    void *bias; /* NULL: none */
    double *bias_values;
    uint16_t *bits;  /* [m, n] of c_dtype: exactly this, or NULL */
    double *product; /* [m, n]: near this, or NULL */
} problem;

static size_t bias_bytes(const problem *p) {
    return (size_t)p->arrays->canonical.n * w4a16_dtype_size(p->bias_dtype);
}

static w4a16_plan *make_plan(const w4a16_weight *weight, const problem *p, const char *config, const void *bias) {
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = p->a.m;
    options.a_dtype = p->a.dtype;
    options.c_dtype = p->c_dtype;
    options.alpha = p->alpha;
    options.bias = bias;
    options.bias_dtype = p->bias_dtype;
    options.config = config;
    w4a16_plan *plan = NULL;
    CHECK(w4a16_plan_create(weight, &options, &plan));
    return plan;
}

static void problem_make(problem *p, uint64_t *seed, const test_weight *arrays, const w4a16_weight *weight, int64_t m,
                         w4a16_dtype a_dtype, w4a16_dtype c_dtype, int exact) {
    int64_t n = arrays->canonical.n, k = arrays->canonical.k;
    *p = (problem){.arrays = arrays, .weight = weight, .c_dtype = c_dtype};
    int64_t lda = oracle_below(seed, 2) ? (k + 7) / 8 * 8 + 8 : k + (int64_t)oracle_below(seed, 9);
    test_activations_make(&p->a, seed, a_dtype, m, k, lda, exact ? TEST_EXACT : 0);
    p->alpha = 0.5f * (float)(1 + oracle_below(seed, 3));
    p->bias_dtype = scale_dtypes[oracle_below(seed, 3)];
    if (oracle_below(seed, 2)) {
        p->bias = test_allocate(bias_bytes(p));
        p->bias_values = test_allocate((size_t)n * sizeof(double));
        for (int64_t i = 0; i < n; i++) {
            double value = exact ? ((double)oracle_below(seed, 129) - 64) / 4 : 0.1 * oracle_unit(seed);
            if (p->bias_dtype == W4A16_FP32) {
                ((float *)p->bias)[i] = (float)value;
                p->bias_values[i] = (double)(float)value;
            } else {
                uint16_t bits = oracle_encode(test_format(p->bias_dtype), value);
                ((uint16_t *)p->bias)[i] = bits;
                p->bias_values[i] = oracle_decode(test_format(p->bias_dtype), bits);
            }
        }
    }
    if (exact) {
        w4a16_weight *on_cpu = NULL;
        p->bits = test_allocate((size_t)(m * n) * 2);
        CHECK(w4a16_weight_create(cpu, &arrays->canonical, &on_cpu));
        w4a16_plan *plan = make_plan(on_cpu, p, "cpu_reference", p->bias);
        CHECK(w4a16_gemm_host(plan, p->a.data, lda, p->bits, n, m));
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(on_cpu);
    } else {
        p->product = test_allocate((size_t)(m * n) * sizeof(double));
        test_multiply(&p->a, arrays, (double)p->alpha, p->bias_values, p->product);
    }
}

static void problem_free(problem *p) {
    test_activations_free(&p->a);
    free(p->bias);
    free(p->bias_values);
    free(p->bits);
    free(p->product);
}

static void check_result(const problem *p, const test_output *c, const char *what) {
    double difference = 0, inherent = 0, total = 0;
    oracle_format format = test_format(c->dtype);
    for (int64_t row = 0; row < c->m; row++)
        for (int64_t i = 0; i < c->n; i++) {
            uint16_t bits = c->data[row * c->ldc + i];
            if (p->bits && bits != p->bits[row * c->n + i])
                fail_msg("%s: C[%d, %d] is 0x%04x (%g), not 0x%04x (%g)", what, (int)row, (int)i, bits,
                         oracle_decode(format, bits), p->bits[row * c->n + i],
                         oracle_decode(format, p->bits[row * c->n + i]));
            if (!p->product) continue;
            double wanted = p->product[row * c->n + i], error = oracle_decode(format, bits) - wanted;
            double rounding = oracle_decode(format, oracle_encode(format, wanted)) - wanted;
            difference += error * error;
            inherent += rounding * rounding;
            total += wanted * wanted;
        }
    if (!p->product) return;
    /* Rounding the true result to bf16 alone costs about 1.6e-3; a few outputs may have more than their share. */
    double limit = fmax(2e-3, 1.1 * sqrt(inherent / total)), error = sqrt(difference / total);
    if (!(error < limit)) fail_msg("%s: relative Frobenius error %.3g, allowed %.3g", what, error, limit);
}

/** Run `config` on host arrays. */
static void run_on_host(const problem *p, const char *config, uint64_t *seed, const char *what) {
    w4a16_plan *plan = make_plan(p->weight, p, config, p->bias);
    int64_t n = p->arrays->canonical.n;
    test_output c;
    test_output_make(&c, p->c_dtype, p->a.m, n, n + (int64_t)oracle_below(seed, 9));
    CHECK(w4a16_gemm_host(plan, p->a.data, p->a.lda, c.data, c.ldc, p->a.m));
    test_output_check_guards(&c);
    check_result(p, &c, what);
    test_output_free(&c);
    w4a16_plan_destroy(plan);
}

/** A problem's arrays on the device. C travels with its guards. */
typedef struct device_problem {
    size_t a_offset, c_bytes, workspace_bytes;
    void *a, *bias, *workspace;
    uint16_t *c_memory, *c;
    w4a16_plan *plan;
    test_output output;
} device_problem;

static void device_problem_make(device_problem *d, const problem *p, const char *config, uint64_t *seed,
                                size_t a_offset) {
    int64_t n = p->arrays->canonical.n;
    memset(d, 0, sizeof *d);
    d->a_offset = a_offset;
    d->a = device_copy_in(p->a.data, (size_t)((p->a.m - 1) * p->a.lda + p->a.k) * 2, a_offset);
    if (p->bias) d->bias = device_copy_in(p->bias, bias_bytes(p), 0);
    d->plan = make_plan(p->weight, p, config, d->bias);
    w4a16_plan_info info = {.struct_size = sizeof info};
    CHECK(w4a16_plan_query(d->plan, &info));
    d->workspace_bytes = info.workspace_bytes;
    d->workspace = device_allocate(d->workspace_bytes);
    device_fill(d->workspace, 0xff, d->workspace_bytes);
    test_output_make(&d->output, p->c_dtype, p->a.m, n, n + (int64_t)oracle_below(seed, 9));
    size_t guard = (size_t)(d->output.data - d->output.memory);
    d->c_bytes = (2 * guard + (size_t)((p->a.m - 1) * d->output.ldc + n)) * 2;
    d->c_memory = device_copy_in(d->output.memory, d->c_bytes, 0);
    d->c = d->c_memory + guard;
}

static void device_problem_start(const device_problem *d, const problem *p, void *stream) {
    CHECK(w4a16_gemm(d->plan, d->a, p->a.lda, d->c, d->output.ldc, p->a.m, d->workspace, d->workspace_bytes, stream));
}

static void device_problem_check(device_problem *d, const problem *p, const char *what) {
    device_copy_out(d->output.memory, d->c_memory, d->c_bytes);
    test_output_check_guards(&d->output);
    check_result(p, &d->output, what);
}

static void device_problem_free(device_problem *d) {
    device_free(d->a, d->a_offset);
    device_free(d->bias, 0);
    device_free(d->workspace, 0);
    device_free(d->c_memory, 0);
    w4a16_plan_destroy(d->plan);
    test_output_free(&d->output);
}

/** Run `config` on device pointers; A starts `a_offset` bytes after an aligned address. */
static void run_on_device(const problem *p, const char *config, uint64_t *seed, size_t a_offset, const char *what) {
    device_problem d;
    void *stream = device_stream_create();
    device_problem_make(&d, p, config, seed, a_offset);
    device_problem_start(&d, p, stream);
    device_synchronize(stream);
    device_problem_check(&d, p, what);
    device_problem_free(&d);
    device_stream_destroy(stream);
}

/** Every config and the library's choice, in turn through host arrays and device pointers. */
static void run_configs(const problem *p, uint64_t *seed) {
    const test_weight *w = p->arrays;
    const w4a16_canonical *c = &w->canonical;
    const char *names[TEST_MAX_CONFIGS + 1];
    size_t count = test_configs(cuda, w, p->a.m, p->a.dtype, p->c_dtype, 0, names);
    names[count++] = NULL;
    for (size_t i = 0; i < count; i++) {
        char what[320];
        size_t offset = oracle_below(seed, 3) ? 0 : 2 * (1 + oracle_below(seed, 7));
        snprintf(what, sizeof what,
                 "%s: m %d n %d k %d g %d, %s scales, zeros %d, order %d, %s -> %s, lda %d, A + %d, alpha %g, bias %s",
                 names[i] ? names[i] : "(chosen)", (int)p->a.m, (int)c->n, (int)c->k, (int)c->group_size,
                 w4a16_dtype_name(c->scale_dtype), (int)c->zero_kind, c->k_order != NULL, w4a16_dtype_name(p->a.dtype),
                 w4a16_dtype_name(p->c_dtype), (int)p->a.lda, (int)offset, (double)p->alpha,
                 p->bias ? w4a16_dtype_name(p->bias_dtype) : "none");
        run_on_device(p, names[i], seed, offset, what);
        if (i % 2 == 0) run_on_host(p, names[i], seed, what);
    }
}

/** No config takes floating zero points with bf16 activations; the text says why. */
static void refused(const w4a16_weight *weight, w4a16_dtype a_dtype) {
    w4a16_plan *plan = NULL;
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.a_dtype = a_dtype;
    assert_int_equal(w4a16_plan_create(weight, &options, &plan), W4A16_ERROR_UNSUPPORTED);
    assert_non_null(strstr(w4a16_last_error(), "floating zero points with bf16"));
    assert_null(plan);
}

static void run_weight(uint64_t *seed, const int64_t *m_values, size_t m_count, int64_t n, int64_t k,
                       int64_t group_size, w4a16_dtype scale_dtype, w4a16_zero_kind zero_kind, int flags) {
    test_weight arrays;
    w4a16_weight *weight = NULL;
    test_weight_make(&arrays, seed, n, k, group_size, scale_dtype, zero_kind, flags);
    CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
    for (size_t i = 0; i < m_count; i++) {
        problem p;
        w4a16_dtype a_dtype = halves[oracle_below(seed, 2)], c_dtype = halves[oracle_below(seed, 2)];
        if (a_dtype == W4A16_BF16 && zero_kind == W4A16_ZERO_FLOAT) {
            refused(weight, a_dtype);
            a_dtype = W4A16_FP16;
        }
        problem_make(&p, seed, &arrays, weight, m_values[i], a_dtype, c_dtype, flags & TEST_EXACT);
        run_configs(&p, seed);
        problem_free(&p);
    }
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
}

/** Every shape of the lists; the rest is drawn at random. */
static void run_shapes(uint64_t seed, int flags) {
    static const int64_t m_values[] = {1, 17, 64, 333}, n_values[] = {8, 200, 1000, 11008};
    static const int64_t k_values[] = {32, 96, 2560, 4096};
    for (size_t n = 0; n < COUNT(n_values); n++)
        for (size_t k = 0; k < COUNT(k_values); k++) {
            int large = n_values[n] * k_values[k] > 100000;
            if (simulated && large) continue;
            int order = oracle_below(&seed, 4) == 0 ? TEST_K_ORDER : 0;
            run_weight(&seed, m_values, simulated ? 3 : COUNT(m_values), n_values[n], k_values[k],
                       group_sizes[oracle_below(&seed, COUNT(group_sizes))], scale_dtypes[oracle_below(&seed, 3)],
                       (w4a16_zero_kind)oracle_below(&seed, 3), flags | order);
        }
}

static void shapes_are_exact(void **state) {
    (void)state;
    run_shapes(11, TEST_EXACT);
}

static void shapes_match_fp64(void **state) {
    (void)state;
    run_shapes(12, 0);
}

/** Group size, zero kind, scale dtype and k_order in every combination, at a shape with ragged ends everywhere. */
static void run_kinds(uint64_t seed, int flags) {
    static const int64_t m_values[] = {5, 33, 130};
    int step = simulated && !(flags & TEST_EXACT) ? 7 : 1; /* 7 meets every value of every kind */
    for (int kind = 0; kind < 5 * 3 * 3 * 2; kind += step)
        run_weight(&seed, m_values + kind % 3, simulated ? 1 : 2 - (kind % 3 == 2), 200, 417, group_sizes[kind % 5],
                   scale_dtypes[kind / 5 % 3], (w4a16_zero_kind)(kind / 15 % 3),
                   flags | (kind / 45 ? TEST_K_ORDER : 0));
}

static void kinds_are_exact(void **state) {
    (void)state;
    run_kinds(21, TEST_EXACT);
}

static void kinds_match_fp64(void **state) {
    (void)state;
    run_kinds(22, 0);
}

/** Odd sizes that the lists leave out: one row, one column, one element, other group sizes. */
static void small_shapes_are_exact(void **state) {
    (void)state;
    static const struct {
        int64_t n, k, group_size;
    } shapes[] = {{1, 1, -1}, {1, 33, 32}, {3, 31, -1}, {63, 65, 96}, {65, 255, 32}, {129, 257, 160}, {130, 1001, 320}};
    static const int64_t m_values[] = {1, 2, 15, 65};
    uint64_t seed = 31;
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int zero = 0; zero < 3; zero++)
            run_weight(&seed, m_values, COUNT(m_values), shapes[i].n, shapes[i].k, shapes[i].group_size,
                       scale_dtypes[(i + (size_t)zero) % 3], (w4a16_zero_kind)zero,
                       TEST_EXACT | (i % 2 ? TEST_K_ORDER : 0));
}

static void weights_come_back_unchanged(void **state) {
    (void)state;
    uint64_t seed = 41;
    for (int kind = 0; kind < 5 * 3 * 3 * 2; kind++) {
        test_weight arrays;
        w4a16_weight *weight = NULL;
        test_weight_make(&arrays, &seed, 130, 417, group_sizes[kind % 5], scale_dtypes[kind / 5 % 3],
                         (w4a16_zero_kind)(kind / 15 % 3), kind / 45 ? TEST_K_ORDER : 0);
        /* The unused nibble of an odd k is 0 in what the library gives back. */
        for (int64_t row = 1; row <= 130; row++) arrays.codes[row * 209 - 1] &= 15;
        CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
        uint8_t *codes = test_allocate(test_weight_code_bytes(&arrays));
        void *scales = test_allocate(test_weight_scale_bytes(&arrays));
        void *zeros = test_allocate(test_weight_zero_bytes(&arrays));
        int32_t *order = test_allocate(417 * sizeof *order);
        CHECK(w4a16_weight_export(weight, codes, scales, zeros, order));
        assert_memory_equal(codes, arrays.codes, test_weight_code_bytes(&arrays));
        assert_memory_equal(scales, arrays.scales, test_weight_scale_bytes(&arrays));
        if (arrays.zeros) assert_memory_equal(zeros, arrays.zeros, test_weight_zero_bytes(&arrays));
        if (arrays.k_order) assert_memory_equal(order, arrays.k_order, 417 * sizeof *order);
        free(codes);
        free(scales);
        free(zeros);
        free(order);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
    }
}

/** A captured call, with and without the gathered copy of A, replayed on a poisoned workspace and output; and calls
 * back to back on two streams. All have the same, right bits. */
static void graphs_and_streams_give_the_same_bits(void **state) {
    (void)state;
    uint64_t seed = 51;
    test_weight arrays;
    w4a16_weight *weight = NULL;
    test_weight_make(&arrays, &seed, 200, 416, 64, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_EXACT);
    CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
    void *streams[2] = {device_stream_create(), device_stream_create()};
    const char *names[TEST_MAX_CONFIGS];
    size_t count = test_configs(cuda, &arrays, 70, W4A16_FP16, W4A16_FP16, 0, names);
    for (size_t config = 0; config < count; config++) {
        problem p;
        problem_make(&p, &seed, &arrays, weight, 70, W4A16_FP16, W4A16_FP16, 1);
        device_problem d[2];
        for (size_t i = 0; i < 2; i++) device_problem_make(&d[i], &p, names[config], &seed, i * 2);
        device_capture_begin(streams[0]);
        for (int i = 0; i < 2; i++) device_problem_start(&d[i], &p, streams[0]);
        device_capture_run(streams[0], 3);
        for (int i = 0; i < 2; i++) {
            device_problem_check(&d[i], &p, names[config]);
            device_fill(d[i].workspace, 0xff, d[i].workspace_bytes);
        }
        for (int i = 0; i < (simulated ? 4 : 1000); i++) device_problem_start(&d[i % 2], &p, streams[i % 2]);
        for (int i = 0; i < 2; i++) {
            device_synchronize(streams[i]);
            device_problem_check(&d[i], &p, names[config]);
            device_problem_free(&d[i]);
        }
        problem_free(&p);
    }
    for (int i = 0; i < 2; i++) device_stream_destroy(streams[i]);
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
}

static void configs_can_be_profiled(void **state) {
    (void)state;
    w4a16_problem shape;
    w4a16_problem_init(&shape);
    shape.m = simulated ? 1 : 48;
    shape.n = simulated ? 512 : 2048;
    shape.k = simulated ? 512 : 4096;
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count = 0;
    CHECK(w4a16_config_list(cuda, &shape, infos, TEST_MAX_CONFIGS, &count));
    for (size_t i = 0; i < (simulated ? 1 : count); i++) {
        w4a16_profile_result result = {NULL, 0, 0, 0};
        if (!infos[i].feasible) continue;
        CHECK(w4a16_profile(cuda, &shape, infos[i].name, 0.0, &result));
        assert_string_equal(result.config, infos[i].name);
        assert_true(result.seconds > 0 && result.seconds < 1);
        assert_true(result.relative_error < 2e-3);
        assert_true(result.runs >= 10);
        print_message("%s: m %d n %d k %d in %.2f us, %d replays, relative error %.2g\n", result.config, (int)shape.m,
                      (int)shape.n, (int)shape.k, result.seconds * 1e6, result.runs, result.relative_error);
    }
}

static void limits_are_plausible(void **state) {
    (void)state;
    if (simulated) skip(); /* 2 GiB of host memory would prove nothing */
    w4a16_ceilings ceilings = {.struct_size = sizeof ceilings};
    CHECK(w4a16_measure_ceilings(cuda, &ceilings));
    print_message("%.3f TB/s read, %.1f TFLOP/s\n", ceilings.read_bytes_per_second * 1e-12,
                  ceilings.flop_per_second * 1e-12);
    assert_true(ceilings.read_bytes_per_second > 1e11 && ceilings.read_bytes_per_second < 1e14);
    assert_true(ceilings.flop_per_second > 1e13 && ceilings.flop_per_second < 1e16);
}

static int begin(void **state) {
    (void)state;
    device_begin();
    cuda = open_context("cuda:0");
    cpu = open_context("cpu");
    return 0;
}

static int end(void **state) {
    (void)state;
    w4a16_context_destroy(cuda);
    w4a16_context_destroy(cpu);
    device_end();
    return 0;
}

int main(void) {
    w4a16_device_info info = {.struct_size = sizeof info};
    int found = 0;
    simulated = getenv("W4A16_FAKE_CUDA") != NULL;
    for (int i = 0; !found && w4a16_device_query(i, &info) == W4A16_OK; i++) found = strcmp(info.id, "cuda:0") == 0;
    if (!found || !info.usable) {
        printf("skipped: %s\n", found ? info.reason : "this build has no CUDA backend");
        return simulated ? 1 : 77; /* the fake driver has no excuse */
    }
    printf("on %s, %s: %s\n", info.id, info.name, info.reason);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_come_back_unchanged),
        cmocka_unit_test(small_shapes_are_exact),
        cmocka_unit_test(kinds_are_exact),
        cmocka_unit_test(kinds_match_fp64),
        cmocka_unit_test(shapes_are_exact),
        cmocka_unit_test(shapes_match_fp64),
        cmocka_unit_test(graphs_and_streams_give_the_same_bits),
        cmocka_unit_test(configs_can_be_profiled),
        cmocka_unit_test(limits_are_plausible),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
