/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend through the public API, on host arrays and on device pointers: every kind of weight, ragged shapes,
 * strides and alignments, with every config. Exact problems must have the bits of the CPU's reference, random ones are
 * held to fp64. test_gemm_large.c has the large shapes, test_gemm_chains.c what overlaps. */
#include "cuda_case.h"

#include <math.h>

static const int64_t group_sizes[] = {32, 64, 128, 256, -1};

/** One multiplication to check: the arrays, and the result wanted. */
typedef struct problem {
    const test_weight *arrays;
    const w4a16_weight *weight;
    test_activations a;
    w4a16_dtype c_dtype, bias_dtype;
    float alpha;
    void *bias; /* NULL: none */
    double *bias_values;
    uint16_t *bits;        /* [m, n] of c_dtype: exactly this, or NULL */
    double *product;       /* [m, n]: near this, or NULL */
    double squares, limit; /* of the product; relative Frobenius error allowed */
} problem;

/** Where a run's arrays lie: bytes behind an aligned address, elements from row to row of C. */
typedef struct placement {
    size_t a_offset, bias_offset, c_offset;
    int64_t ldc;
} placement;

/** Half of them are what kernels like best, to the other half applies what callers may do. */
static placement draw_placement(uint64_t *seed, const problem *p) {
    int64_t n = p->arrays->canonical.n;
    placement at = {.ldc = oracle_below(seed, 2) ? (n + 7) / 8 * 8 : n + (int64_t)oracle_below(seed, 9)};
    if (oracle_below(seed, 3) == 0) at.a_offset = 2 * (1 + oracle_below(seed, 7));
    if (oracle_below(seed, 3) == 0) at.c_offset = 2 * (1 + oracle_below(seed, 7));
    if (oracle_below(seed, 3) == 0) at.bias_offset = w4a16_dtype_size(p->bias_dtype);
    return at;
}

static size_t bias_bytes(const problem *p) {
    return (size_t)p->arrays->canonical.n * w4a16_dtype_size(p->bias_dtype);
}

static w4a16_plan *make_plan(const w4a16_weight *weight, const problem *p, const char *config, const void *bias,
                             int64_t m_max, uint32_t flags) {
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = m_max;
    options.a_dtype = p->a.dtype;
    options.c_dtype = p->c_dtype;
    options.alpha = p->alpha;
    options.bias = bias;
    options.bias_dtype = p->bias_dtype;
    options.config = config;
    options.flags = flags;
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
        p->bias_values = test_allocate((size_t)n * sizeof(double));
        p->bias = cuda_case_bias(seed, n, p->bias_dtype, exact, p->bias_values);
    }
    device_watch(NULL);
    if (exact) {
        w4a16_weight *on_cpu = NULL;
        p->bits = test_allocate((size_t)(m * n) * 2);
        CHECK(w4a16_weight_create(cpu, &arrays->canonical, &on_cpu));
        w4a16_plan *plan = make_plan(on_cpu, p, "cpu_reference", p->bias, m, 0);
        CHECK(w4a16_gemm_host(plan, p->a.data, lda, p->bits, n, m));
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(on_cpu);
    } else {
        double squares = 0, inherent = 0, *product = test_allocate((size_t)(m * n) * sizeof *product);
        oracle_format format = test_format(c_dtype);
        test_multiply(&p->a, arrays, (double)p->alpha, p->bias_values, product);
#pragma omp parallel for schedule(static) reduction(+ : squares, inherent) if (m * n > 10000)
        for (int64_t i = 0; i < m * n; i++) {
            double rounding = oracle_decode(format, oracle_encode(format, product[i])) - product[i];
            squares += product[i] * product[i];
            inherent += rounding * rounding;
        }
        p->product = product;
        p->squares = squares;
        p->limit = cuda_case_limit(sqrt(inherent / squares));
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
    int64_t n = c->n;
    if (p->bits) {
        for (int64_t row = 0; row < c->m; row++) {
            const uint16_t *got = c->data + row * c->ldc, *wanted = p->bits + row * n;
            if (memcmp(got, wanted, (size_t)n * 2) == 0) continue;
            int64_t i = 0;
            while (got[i] == wanted[i]) i++;
            fail_msg("%s: C[%d, %d] is 0x%04x (%g), not 0x%04x (%g)", what, (int)row, (int)i, got[i],
                     cuda_case_values(c->dtype)[got[i]], wanted[i], cuda_case_values(c->dtype)[wanted[i]]);
        }
        return;
    }
    const double *values = cuda_case_values(c->dtype);
    double difference = 0;
#pragma omp parallel for schedule(static) reduction(+ : difference) if (c->m * n > 100000)
    for (int64_t row = 0; row < c->m; row++)
        for (int64_t i = 0; i < n; i++) {
            double error = values[c->data[row * c->ldc + i]] - p->product[row * n + i];
            difference += error * error;
        }
    double error = sqrt(difference / p->squares);
    if (!(error < p->limit)) fail_msg("%s: relative Frobenius error %.3g, allowed %.3g", what, error, p->limit);
}

/** Run `config` on host arrays. */
static void run_on_host(const problem *p, const char *config, int64_t ldc, const char *what) {
    w4a16_plan *plan = make_plan(p->weight, p, config, p->bias, p->a.m, 0);
    test_output c;
    test_output_make(&c, p->c_dtype, p->a.m, p->arrays->canonical.n, ldc);
    CHECK(w4a16_gemm_host(plan, p->a.data, p->a.lda, c.data, c.ldc, p->a.m));
    test_output_check_guards(&c);
    check_result(p, &c, what);
    test_output_free(&c);
    w4a16_plan_destroy(plan);
}

/** A problem's arrays on the device. C travels with its guards; the workspace ends in one. */
typedef struct device_problem {
    placement at;
    size_t c_bytes, workspace_bytes, workspace_offset;
    void *a, *bias, *workspace;
    uint16_t *c_memory, *c;
    w4a16_plan *plan;
    test_output output;
} device_problem;

enum { WORKSPACE_GUARD = 256, GUARD_BYTE = 0x5a };

/** The reduced tests are for tools that see a step over the end themselves, where nothing follows. */
static size_t workspace_guard(void) {
    return reduced ? 0 : WORKSPACE_GUARD;
}

static void device_problem_poison(device_problem *d, int byte) {
    device_fill(d->workspace, byte, d->workspace_bytes);
    device_fill((char *)d->workspace + d->workspace_bytes, GUARD_BYTE, workspace_guard());
}

static void device_problem_make(device_problem *d, const problem *p, const char *config, placement at) {
    int64_t n = p->arrays->canonical.n;
    memset(d, 0, sizeof *d);
    d->at = at;
    d->a = device_copy_in(p->a.data, (size_t)((p->a.m - 1) * p->a.lda + p->a.k) * 2, at.a_offset);
    if (p->bias) d->bias = device_copy_in(p->bias, bias_bytes(p), at.bias_offset);
    d->plan = make_plan(p->weight, p, config, d->bias, p->a.m, 0);
    w4a16_plan_info info = {.struct_size = sizeof info};
    CHECK(w4a16_plan_query(d->plan, &info));
    d->workspace_bytes = info.workspace_bytes;
    /* Aligned as asked for, but not to more. */
    d->workspace_offset = info.workspace_alignment;
    d->workspace =
        (char *)device_allocate(d->workspace_offset + d->workspace_bytes + workspace_guard()) + d->workspace_offset;
    device_problem_poison(d, 0xff);
    test_output_make(&d->output, p->c_dtype, p->a.m, n, at.ldc);
    size_t guard = (size_t)(d->output.data - d->output.memory);
    d->c_bytes = (2 * guard + (size_t)((p->a.m - 1) * d->output.ldc + n)) * 2;
    d->c_memory = device_copy_in(d->output.memory, d->c_bytes, at.c_offset);
    d->c = d->c_memory + guard;
}

static void device_problem_start(const device_problem *d, const problem *p, void *stream) {
    CHECK(w4a16_gemm(d->plan, d->a, p->a.lda, d->c, d->output.ldc, p->a.m, d->workspace, d->workspace_bytes, stream));
}

static void device_problem_check(device_problem *d, const problem *p, const char *what) {
    unsigned char guard[WORKSPACE_GUARD];
    device_copy_out(d->output.memory, d->c_memory, d->c_bytes);
    if (workspace_guard()) device_copy_out(guard, (char *)d->workspace + d->workspace_bytes, workspace_guard());
    test_output_check_guards(&d->output);
    for (size_t i = 0; i < workspace_guard(); i++)
        if (guard[i] != GUARD_BYTE) fail_msg("%s: the workspace was written %d bytes past its end", what, (int)i);
    check_result(p, &d->output, what);
}

static void device_problem_free(device_problem *d) {
    device_free(d->a, d->at.a_offset);
    device_free(d->bias, d->at.bias_offset);
    device_free(d->workspace, d->workspace_offset);
    device_free(d->c_memory, d->at.c_offset);
    w4a16_plan_destroy(d->plan);
    test_output_free(&d->output);
}

/** Run `config` on device pointers: twice, on workspaces of different content, with the same bits. */
static void run_on_device(const problem *p, const char *config, placement at, const char *what) {
    device_problem d;
    void *stream = device_stream_create();
    device_problem_make(&d, p, config, at);
    device_problem_start(&d, p, stream);
    device_synchronize(stream);
    device_problem_check(&d, p, what);
    if (!reduced) {
        test_output first = d.output;
        test_output_make(&d.output, first.dtype, first.m, first.n, first.ldc);
        device_free(d.c_memory, at.c_offset);
        d.c_memory = device_copy_in(d.output.memory, d.c_bytes, at.c_offset);
        d.c = d.c_memory + (d.output.data - d.output.memory);
        device_problem_poison(&d, 0);
        device_problem_start(&d, p, stream);
        device_synchronize(stream);
        device_problem_check(&d, p, what);
        if (memcmp(first.memory, d.output.memory, d.c_bytes) != 0) fail_msg("%s: other bits the second time", what);
        test_output_free(&first);
    }
    device_problem_free(&d);
    device_stream_destroy(stream);
}

/** A weight's form as its kernels see it. */
static w4a16_canonical kernel_form(const w4a16_canonical *canonical, const w4a16_weight *weight) {
    w4a16_weight_info info = {.struct_size = sizeof info};
    CHECK(w4a16_weight_query(weight, &info));
    w4a16_canonical form = *canonical;
    form.zero_kind = info.kernel_zero_kind;
    return form;
}

/** Every config and the library's choice, through device pointers and half of them through host arrays. */
static void run_configs(const problem *p, uint64_t *seed) {
    const w4a16_canonical *c = &p->arrays->canonical, form = kernel_form(c, p->weight);
    const char *names[TEST_MAX_CONFIGS + 1];
    size_t count = cuda_case_configs(&form, p->a.m, p->a.dtype, p->c_dtype, 0, names);
    names[count++] = NULL;
    for (size_t i = 0; i < count; i++) {
        char what[400];
        placement at = draw_placement(seed, p);
        snprintf(
            what, sizeof what,
            "%s: m %d n %d k %d g %d, %s scales, zeros %d, order %d, %s -> %s, A + %d stride %d, C + %d stride %d, "
            "alpha %g, bias %s + %d",
            names[i] ? names[i] : "(chosen)", (int)p->a.m, (int)c->n, (int)c->k, (int)c->group_size,
            w4a16_dtype_name(c->scale_dtype), (int)c->zero_kind, c->k_order != NULL, w4a16_dtype_name(p->a.dtype),
            w4a16_dtype_name(p->c_dtype), (int)at.a_offset, (int)p->a.lda, (int)at.c_offset, (int)at.ldc,
            (double)p->alpha, p->bias ? w4a16_dtype_name(p->bias_dtype) : "none", (int)at.bias_offset);
        device_watch(what);
        run_on_device(p, names[i], at, what);
        if (i % 2 == 0 && !reduced) run_on_host(p, names[i], at.ldc, what);
    }
}

/** A weight of this form times each number of rows; a_dtype: the first one's, then they take turns. */
static void run_weight(uint64_t *seed, const int64_t *m_values, size_t m_count, w4a16_dtype a_dtype, int64_t n,
                       int64_t k, int64_t group_size, w4a16_dtype scale_dtype, w4a16_zero_kind zero_kind, int flags) {
    test_weight arrays;
    w4a16_weight *weight = NULL;
    test_weight_make(&arrays, seed, n, k, group_size, scale_dtype, zero_kind, flags);
    CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
    for (size_t i = 0; i < m_count; i++) {
        problem p;
        w4a16_dtype dtype = halves[(i + (a_dtype == W4A16_BF16)) % 2], c_dtype = halves[oracle_below(seed, 2)];
        problem_make(&p, seed, &arrays, weight, m_values[i], dtype, c_dtype, flags & TEST_EXACT);
        run_configs(&p, seed);
        problem_free(&p);
    }
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
}

/** Every shape of the lists; the rest is drawn at random. */
static void run_shapes(uint64_t seed, int flags) {
    static const int64_t m_values[] = {1, 17, 64, 333}, n_values[] = {8, 200, 1000, 11008};
    static const int64_t k_values[] = {32, 96, 2560, 4128};
    for (size_t n = 0; n < COUNT(n_values); n++)
        for (size_t k = 0; k < COUNT(k_values); k++) {
            int64_t elements = n_values[n] * k_values[k];
            if (elements > (simulated ? 100000 : 30000000)) continue;
            int order = oracle_below(&seed, 4) == 0 ? TEST_K_ORDER : 0;
            run_weight(&seed, m_values, simulated ? 3 : COUNT(m_values), halves[n % 2], n_values[n], k_values[k],
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

/** Group size, zero kind, scale dtype and k_order in every combination, with both activation dtypes, at a shape with
 * ragged ends everywhere. */
static void run_kinds(uint64_t seed, int flags) {
    static const int64_t m_values[] = {5, 33, 130, 5};
    int step = simulated && !(flags & TEST_EXACT) ? 7 : 1; /* 7 meets every value of every kind */
    for (int kind = 0; kind < 5 * 3 * 3 * 2; kind += step)
        run_weight(&seed, m_values + kind % 3, simulated ? 1 : 2, halves[kind % 2], 200, 417, group_sizes[kind % 5],
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
    } shapes[] = {{1, 1, -1},    {1, 33, 32},     {3, 31, -1},      {63, 65, 96},
                  {65, 255, 32}, {129, 257, 160}, {130, 1001, 320}, {72, 192, -1}};
    static const int64_t m_values[] = {1, 2, 15, 65};
    uint64_t seed = 31;
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int zero = 0; zero < 3; zero++)
            run_weight(&seed, m_values, COUNT(m_values), halves[i % 2], shapes[i].n, shapes[i].k, shapes[i].group_size,
                       scale_dtypes[(i + (size_t)zero) % 3], (w4a16_zero_kind)zero,
                       TEST_EXACT | (i % 2 ? TEST_K_ORDER : 0));
}

/** What the library gives back of a weight is what it was made of. */
static void check_export(const w4a16_weight *weight, const test_weight *arrays) {
    const size_t order_bytes = (size_t)arrays->canonical.k * sizeof(int32_t);
    uint8_t *codes = test_allocate(test_weight_code_bytes(arrays));
    void *scales = test_allocate(test_weight_scale_bytes(arrays));
    void *zeros = test_allocate(test_weight_zero_bytes(arrays));
    int32_t *order = test_allocate(order_bytes);
    CHECK(w4a16_weight_export(weight, codes, scales, zeros, order));
    assert_memory_equal(codes, arrays->codes, test_weight_code_bytes(arrays));
    assert_memory_equal(scales, arrays->scales, test_weight_scale_bytes(arrays));
    if (arrays->zeros) assert_memory_equal(zeros, arrays->zeros, test_weight_zero_bytes(arrays));
    if (arrays->k_order) assert_memory_equal(order, arrays->k_order, order_bytes);
    free(codes);
    free(scales);
    free(zeros);
    free(order);
}

static void weights_come_back_unchanged(void **state) {
    (void)state;
    uint64_t seed = 41;
    char folder[64], path[80];
    test_make_folder(folder);
    snprintf(path, sizeof path, "%s/weight", folder);
    for (int kind = 0; kind < 5 * 3 * 3 * 2; kind++) {
        test_weight arrays;
        w4a16_weight *weight = NULL, *loaded = NULL;
        w4a16_weight_info info = {.struct_size = sizeof info};
        w4a16_zero_kind zero_kind = (w4a16_zero_kind)(kind / 15 % 3);
        int far = kind % 2;
        test_weight_make(&arrays, &seed, 130, 417, group_sizes[kind % 5], scale_dtypes[kind / 5 % 3], zero_kind,
                         (kind / 45 ? TEST_K_ORDER : 0) | (far ? TEST_FAR : 0));
        /* The unused nibble of an odd k is 0 in what the library gives back. */
        for (int64_t row = 1; row <= 130; row++) arrays.codes[row * 209 - 1] &= 15;
        CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
        check_export(weight, &arrays);
        CHECK(w4a16_weight_query(weight, &info));
        assert_int_equal(info.zero_kind, zero_kind);
        assert_int_equal(info.kernel_zero_kind, far && arrays.groups > 1 ? W4A16_ZERO_FLOAT : zero_kind);
        /* A packed file goes straight to the GPU, but where zero points have to be added. */
        CHECK(w4a16_weight_save(weight, path, 1));
        CHECK(w4a16_weight_load(cuda, path, &loaded));
        check_export(loaded, &arrays);
        w4a16_weight_destroy(loaded);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
    }
    test_remove_folder(folder);
}

/** A captured call, with and without the gathered copy of A, replayed on a poisoned workspace and output; and calls
 * back to back on two streams. All have the same, right bits. */
static void graphs_and_streams_give_the_same_bits(void **state) {
    (void)state;
    uint64_t seed = 51;
    test_weight arrays;
    w4a16_weight *weight = NULL;
    problem p;
    test_weight_make(&arrays, &seed, 200, 416, 64, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_EXACT);
    CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
    problem_make(&p, &seed, &arrays, weight, 70, W4A16_FP16, W4A16_FP16, 1);
    void *streams[2] = {device_stream_create(), device_stream_create()};
    const char *names[TEST_MAX_CONFIGS];
    size_t count = cuda_case_configs(&arrays.canonical, 70, W4A16_FP16, W4A16_FP16, 0, names);
    for (size_t config = 0; config < count; config++) {
        device_problem d[2];
        device_watch(names[config]);
        for (size_t i = 0; i < 2; i++)
            device_problem_make(&d[i], &p, names[config], (placement){.a_offset = i * 2, .ldc = 200 + (int64_t)i});
        device_capture_begin(streams[0]);
        for (int i = 0; i < 2; i++) device_problem_start(&d[i], &p, streams[0]);
        void *graph = device_capture_end(streams[0]);
        for (int i = 0; i < 3; i++) device_graph_launch(graph, streams[0]);
        device_synchronize(streams[0]);
        device_graph_destroy(graph);
        for (int i = 0; i < 2; i++) {
            device_problem_check(&d[i], &p, names[config]);
            device_problem_poison(&d[i], 0xff);
        }
        for (int i = 0; i < (simulated ? 4 : reduced ? 20 : 1000); i++)
            device_problem_start(&d[i % 2], &p, streams[i % 2]);
        for (int i = 0; i < 2; i++) {
            device_synchronize(streams[i]);
            device_problem_check(&d[i], &p, names[config]);
            device_problem_free(&d[i]);
        }
    }
    for (int i = 0; i < 2; i++) device_stream_destroy(streams[i]);
    problem_free(&p);
    w4a16_weight_destroy(weight);
    test_weight_free(&arrays);
}

/** Rows `first` to `first` + m - 1 of A, by a plan for up to `m_max` rows, have the bits that they have in `whole`. */
static void check_rows(const problem *p, const char *config, const uint16_t *whole, int64_t first, int64_t m,
                       int64_t m_max) {
    int64_t n = p->arrays->canonical.n;
    uint16_t *c = test_allocate((size_t)(m * n) * 2);
    w4a16_plan *plan = make_plan(p->weight, p, config, p->bias, m_max, W4A16_PLAN_BATCH_INVARIANT);
    CHECK(w4a16_gemm_host(plan, p->a.data + first * p->a.lda, p->a.lda, c, n, m));
    if (memcmp(c, whole + first * n, (size_t)(m * n) * 2) != 0)
        fail_msg("%s, n %d k %d: rows %d to %d by a plan for up to %d differ from those in a batch of %d",
                 config ? config : "(chosen)", (int)n, (int)p->arrays->canonical.k, (int)first, (int)(first + m - 1),
                 (int)m_max, (int)p->a.m);
    w4a16_plan_destroy(plan);
    free(c);
}

static void rows_do_not_depend_on_the_batch(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{200, 417}, {1000, 2560}, {72, 4128}}, sizes[] = {1, 2, 16, 17, 64, 200};
    uint64_t seed = 61;
    for (size_t i = 0; i < (simulated ? 1 : COUNT(shapes)); i++) {
        test_weight arrays;
        w4a16_weight *weight = NULL;
        problem p;
        int64_t m = simulated ? 70 : 333;
        test_weight_make(&arrays, &seed, shapes[i][0], shapes[i][1], group_sizes[i + 1], W4A16_FP16,
                         i % 2 ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC, 0);
        CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
        problem_make(&p, &seed, &arrays, weight, m, halves[i % 2], halves[i % 2], 0);
        const char *names[TEST_MAX_CONFIGS + 1];
        size_t count = cuda_case_configs(&arrays.canonical, m, p.a.dtype, p.c_dtype, W4A16_PLAN_BATCH_INVARIANT, names);
        names[count++] = NULL;
        for (size_t config = 0; config < count; config++) {
            test_output whole;
            const char *what = names[config] ? names[config] : "(chosen)";
            device_watch(what);
            test_output_make(&whole, p.c_dtype, m, arrays.canonical.n, arrays.canonical.n);
            w4a16_plan *plan = make_plan(weight, &p, names[config], p.bias, m, W4A16_PLAN_BATCH_INVARIANT);
            CHECK(w4a16_gemm_host(plan, p.a.data, p.a.lda, whole.data, whole.ldc, m));
            w4a16_plan_destroy(plan);
            check_result(&p, &whole, what);
            for (size_t j = 0; j < COUNT(sizes) && sizes[j] < m; j++) {
                check_rows(&p, names[config], whole.data, 0, sizes[j], sizes[j]);
                check_rows(&p, names[config], whole.data, m - sizes[j], sizes[j], m);
            }
            test_output_free(&whole);
        }
        problem_free(&p);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
    }
}

/** One row of activations, its results by a plan for M = 1, and the batch that it is put into. */
typedef struct probe {
    const test_weight *arrays;
    const w4a16_weight *weight;
    w4a16_dtype dtype;
    int64_t lda, m_max;
    uint16_t *row, *batch, *a, *c; /* on the device: the row, others, a copy of the others with the row among them */
    const uint16_t *right;
    uint16_t *got;
    void *workspace, *stream;
} probe;

static w4a16_plan *make_probe_plan(const probe *p, const char *config, int64_t m_max, size_t *workspace_bytes) {
    w4a16_plan_options options;
    w4a16_plan *plan = NULL;
    w4a16_plan_info info = {.struct_size = sizeof info};
    w4a16_plan_options_init(&options);
    options.m_max = m_max;
    options.a_dtype = p->dtype;
    options.config = config;
    options.flags = W4A16_PLAN_BATCH_INVARIANT;
    CHECK(w4a16_plan_create(p->weight, &options, &plan));
    CHECK(w4a16_plan_query(plan, &info));
    *workspace_bytes = info.workspace_bytes;
    return plan;
}

/** A plan for up to m_max rows gives the row the right bits at the first, a middle and the last place of m. */
static void check_places(const probe *p, const char *config, int64_t m_max, int64_t m) {
    size_t bytes, n = (size_t)p->arrays->canonical.n, row_bytes = (size_t)p->lda * 2;
    w4a16_plan *plan = make_probe_plan(p, config, m_max, &bytes);
    void *workspace = device_allocate(bytes);
    const int64_t places[] = {0, m / 2, m - 1};
    for (size_t i = 0; i < COUNT(places); i++) {
        device_queue_copy(p->a, p->batch, (size_t)m * row_bytes, p->stream);
        device_queue_copy(p->a + places[i] * p->lda, p->row, row_bytes, p->stream);
        device_queue_fill(p->c, 0xff, (size_t)m * n * 2, p->stream);
        CHECK(w4a16_gemm(plan, p->a, p->lda, p->c, (int64_t)n, m, workspace, bytes, p->stream));
        device_synchronize(p->stream);
        device_copy_out(p->got, p->c + (size_t)places[i] * n, n * 2);
        for (size_t j = 0; j < n; j++)
            if (p->got[j] != p->right[j])
                fail_msg(
                    "%s, %s, group %d, zeros %d: element %d of row %d of %d, by a plan for up to %d, is 0x%04x; by "
                    "one for M = 1 0x%04x",
                    config ? config : "(chosen)", w4a16_dtype_name(p->dtype), (int)p->arrays->canonical.group_size,
                    (int)p->arrays->canonical.zero_kind, (int)j, (int)places[i], (int)m, (int)m_max, p->got[j],
                    p->right[j]);
    }
    device_free(workspace, 0);
    w4a16_plan_destroy(plan);
}

/** The same row with others before and behind it, in batches of every size, by every config that a batch-invariant plan
 * may choose: always the same bits. */
static void check_a_row(uint64_t *seed, const test_weight *arrays, const w4a16_weight *weight, w4a16_dtype dtype) {
    static const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 16, 17, 64, 100, 256, 1000}, few[] = {1, 2, 3, 7, 8, 9, 16, 17};
    const int64_t *m_values = simulated ? few : sizes, n = arrays->canonical.n, k = arrays->canonical.k;
    size_t m_count = simulated ? COUNT(few) : COUNT(sizes), bytes;
    const w4a16_canonical form = kernel_form(&arrays->canonical, weight);
    probe p = {.arrays = arrays,
               .weight = weight,
               .dtype = dtype,
               .lda = (k + 7) / 8 * 8,
               .m_max = m_values[m_count - 1],
               .stream = device_stream_create()};
    test_activations row, batch;
    test_activations_make(&row, seed, dtype, 1, k, p.lda, 0);
    test_activations_make(&batch, seed, dtype, p.m_max, k, p.lda, 0);
    p.row = device_copy_in(row.data, (size_t)p.lda * 2, 0);
    p.batch = device_copy_in(batch.data, (size_t)(p.m_max * p.lda) * 2, 0);
    p.a = device_allocate((size_t)(p.m_max * p.lda) * 2);
    p.c = device_allocate((size_t)(p.m_max * n) * 2);
    p.got = test_allocate((size_t)n * 2);
    /* What is right: a plan for M = 1, held to fp64. */
    test_output right;
    double *product = test_allocate((size_t)n * sizeof *product);
    test_output_make(&right, dtype, 1, n, n);
    w4a16_plan *plan = make_probe_plan(&p, NULL, 1, &bytes);
    CHECK(w4a16_gemm_host(plan, row.data, p.lda, right.data, n, 1));
    w4a16_plan_destroy(plan);
    test_multiply(&row, arrays, 1, NULL, product);
    test_check_product(&right, &row, arrays, 1, product, "a row alone");
    p.right = right.data;
    for (size_t i = 0; i < m_count; i++) {
        const char *names[TEST_MAX_CONFIGS + 1];
        size_t count = cuda_case_configs(&form, m_values[i], dtype, dtype, W4A16_PLAN_BATCH_INVARIANT, names);
        names[count++] = NULL;
        for (size_t j = 0; j < count; j++) {
            device_watch(names[j] ? names[j] : "(chosen), batch-invariant");
            check_places(&p, names[j], m_values[i], m_values[i]);
        }
        check_places(&p, NULL, p.m_max, m_values[i]); /* a config for each M */
    }
    test_activations_free(&row);
    test_activations_free(&batch);
    test_output_free(&right);
    free(product);
    free(p.got);
    device_free(p.row, 0);
    device_free(p.batch, 0);
    device_free(p.a, 0);
    device_free(p.c, 0);
    device_stream_destroy(p.stream);
}

static void a_row_has_the_same_bits_in_any_place(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1000, 2560}, {136, 4096}}, small[][2] = {{72, 288}};
    static const int64_t groups[] = {128, 32};
    uint64_t seed = 62;
    for (size_t i = 0; i < (simulated ? COUNT(small) : COUNT(shapes)); i++)
        for (size_t kind = 0; kind <= 2 * COUNT(groups); kind++) {
            const int far = kind == 2 * COUNT(groups);
            const int64_t *shape = simulated ? small[i] : shapes[i];
            test_weight arrays;
            w4a16_weight *weight = NULL;
            test_weight_make(&arrays, &seed, shape[0], shape[1], far ? 128 : groups[kind / 2],
                             far ? W4A16_FP32 : W4A16_FP16, kind % 2 ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC,
                             far ? TEST_FAR : 0);
            CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
            for (size_t j = 0; j < COUNT(halves); j++) check_a_row(&seed, &arrays, weight, halves[j]);
            w4a16_weight_destroy(weight);
            test_weight_free(&arrays);
        }
}

/** Scales of a row as far apart as kernels count in one unit, and farther: such a weight is kept with float zero
 * points. */
static void spread_scales_match_fp64(void **state) {
    (void)state;
    static const int64_t m_values[] = {1, 12, 33, 130, 260};
    static const int spreads[] = {TEST_SPREAD, TEST_FAR};
    uint64_t seed = 85;
    for (size_t i = 0; i < (simulated ? 4 : COUNT(m_values) * 4); i++)
        run_weight(&seed, &m_values[i / 4], 1, halves[i % 5 == 4], 200, 1344, group_sizes[1 + i % 3],
                   scale_dtypes[i % 3], i % 8 == 3 ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC, spreads[i / 2 % 2]);
}

/** Scales too far apart for sums in units of one of them: half of the rows begin with a group of tiny ones. */
static void make_uneven(test_weight *arrays) {
    const w4a16_canonical *c = &arrays->canonical;
    int64_t group = arrays->groups > 1 ? c->group_size : c->k;
    for (int64_t row = 0; row < c->n; row += 2) {
        ((float *)arrays->scales)[row * arrays->groups] *= 0x1p-100f;
        for (int64_t k = 0; k < group; k++) arrays->values[k * c->n + row] *= 0x1p-100;
    }
}

static int takes_any_scales(const char *config) {
    return strstr(config, "_any") || strstr(config, "_decode");
}

/** Such a weight is multiplied by the configs that take any scales, and each other one says why it does not. */
static void uneven_scales_are_left_to_some_configs(void **state) {
    (void)state;
    static const int64_t m_values[] = {1, 33, 130};
    uint64_t seed = 81;
    for (size_t i = 0; i < 9; i++) {
        test_weight arrays;
        w4a16_weight *weight = NULL;
        problem p;
        w4a16_problem shape;
        w4a16_plan_options options;
        w4a16_config_info infos[TEST_MAX_CONFIGS];
        size_t count = 0, ran = 0, refused = 0, has_sm90 = 0;
        int64_t m = m_values[(i + i / 3) % 3], group_size = group_sizes[2 + i % 3];
        w4a16_zero_kind zero_kind = (w4a16_zero_kind)(i / 3);
        test_weight_make(&arrays, &seed, 200, 417, group_size, W4A16_FP32, zero_kind, 0);
        make_uneven(&arrays);
        CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
        problem_make(&p, &seed, &arrays, weight, m, halves[i % 2], halves[i % 2], 0);
        shape = test_problem(&arrays.canonical, m, halves[i % 2], halves[i % 2], 0);
        CHECK(w4a16_config_list(cuda, &shape, infos, TEST_MAX_CONFIGS, &count));
        w4a16_plan_options_init(&options);
        options.m_max = m;
        options.a_dtype = options.c_dtype = halves[i % 2];
        for (size_t j = 0; j < count; j++) {
            if (!infos[j].feasible) continue;
            const char *name = infos[j].name;
            has_sm90 += strncmp(name, "sm90_", 5) == 0;
            device_watch(name);
            if (takes_any_scales(name)) {
                run_on_device(&p, name, draw_placement(&seed, &p), name);
                ran++;
                continue;
            }
            w4a16_plan *plan = NULL;
            options.config = name;
            REFUSED(w4a16_plan_create(weight, &options, &plan), W4A16_ERROR_UNSUPPORTED, name);
            REFUSED(w4a16_plan_create(weight, &options, &plan), W4A16_ERROR_UNSUPPORTED,
                    "the scales lie too far apart");
            assert_null(plan);
            refused++;
        }
        assert_true(ran > 0);
        assert_true(refused > 0 || !has_sm90); /* all the others take any scales */
        options.config = NULL;
        for (uint32_t flags = 0; flags <= W4A16_PLAN_BATCH_INVARIANT; flags += W4A16_PLAN_BATCH_INVARIANT) {
            w4a16_plan *plan = make_plan(weight, &p, NULL, NULL, m, flags);
            w4a16_plan_info info = {.struct_size = sizeof info};
            CHECK(w4a16_plan_query(plan, &info));
            assert_true(takes_any_scales(info.config));
            w4a16_plan_destroy(plan);
        }
        device_watch("(chosen), scales far apart");
        run_on_device(&p, NULL, draw_placement(&seed, &p), "(chosen), scales far apart");
        problem_free(&p);
        w4a16_weight_destroy(weight);
        test_weight_free(&arrays);
    }
}

/** Rows shorter than a chunk of the packed layout, with one group. */
static void run_short_rows(uint64_t *seed) {
    static const int64_t m_values[] = {2, 9};
    run_weight(seed, m_values, COUNT(m_values), W4A16_FP16, 72, 192, -1, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_EXACT);
}

/** Small shapes of every kind of weight, each config once on each: what a tool that looks at every access can bear. */
static void reduced_shapes_are_exact(void **state) {
    (void)state;
    static const int64_t m_values[] = {1, 33, 130}, k_values[] = {417, 640, 1344}, groups[] = {32, 64, 128, -1};
    uint64_t seed = 71;
    for (size_t i = 0; i < COUNT(k_values) * COUNT(groups); i++)
        run_weight(&seed, m_values, COUNT(m_values), halves[i % 2], 200, k_values[i % 3], groups[i / 3],
                   scale_dtypes[(i + i / 3) % 3], (w4a16_zero_kind)(i / 2 % 3),
                   TEST_EXACT | (i % 5 ? 0 : TEST_K_ORDER));
    run_short_rows(&seed);
}

/** Contexts on all GPUs of the machine in one process: each has the right bits alone; and calls that are on their way
 * on all of them at once, made while the first GPU's context is the caller's current one. */
static void all_gpus_serve_one_process(void **state) {
    (void)state;
    enum { MOST = 8 };
    w4a16_context *contexts[MOST] = {cuda};
    w4a16_weight *weights[MOST];
    int count = 1;
    for (int i = 0; count < MOST; i++) {
        w4a16_device_info info = {.struct_size = sizeof info};
        if (w4a16_device_query(i, &info)) break;
        char next[24];
        snprintf(next, sizeof next, "cuda:%d", count);
        if (strcmp(info.id, next) != 0 || !info.usable) continue;
        contexts[count++] = cuda_case_context(next);
    }
    if (count == 1) skip();
    print_message("%d GPUs\n", count);
    static const int64_t m_values[] = {1, 16, 70, 300};
    const size_t m_count = simulated ? 2 : COUNT(m_values);
    const int64_t n = simulated ? 72 : 1000, k = simulated ? 320 : 2560;
    for (int i = 1; i < count; i++) {
        uint64_t seed = 81;
        device_use(i);
        cuda = contexts[i];
        run_weight(&seed, m_values, m_count, W4A16_FP16, n, k, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, TEST_EXACT);
        run_weight(&seed, m_values, m_count, W4A16_BF16, 200, 544, 64, W4A16_BF16, W4A16_ZERO_INTEGER,
                   TEST_EXACT | TEST_K_ORDER);
    }
    uint64_t seed = 82;
    test_weight arrays;
    test_weight_make(&arrays, &seed, n, k, 128, W4A16_FP16, W4A16_ZERO_INTEGER, TEST_EXACT);
    for (int i = 0; i < count; i++) CHECK(w4a16_weight_create(contexts[i], &arrays.canonical, &weights[i]));
    for (size_t j = 0; j < m_count; j++) {
        problem p;
        device_problem d[MOST];
        void *streams[MOST];
        problem_make(&p, &seed, &arrays, weights[0], m_values[j], W4A16_FP16, W4A16_FP16, 1);
        device_watch("calls on all GPUs at once");
        for (int i = 0; i < count; i++) {
            device_use(i);
            p.weight = weights[i];
            device_problem_make(&d[i], &p, NULL, (placement){.ldc = n});
            streams[i] = device_stream_create();
        }
        device_use(0);
        for (int call = 0; call < (simulated ? 3 : 100); call++)
            for (int i = 0; i < count; i++) device_problem_start(&d[i], &p, streams[i]);
        for (int i = 0; i < count; i++) {
            device_use(i);
            device_synchronize(streams[i]);
            device_problem_check(&d[i], &p, "calls on all GPUs at once");
            device_stream_destroy(streams[i]);
            device_problem_free(&d[i]);
        }
        problem_free(&p);
    }
    cuda = contexts[0];
    device_use(0);
    for (int i = 0; i < count; i++) w4a16_weight_destroy(weights[i]);
    for (int i = 1; i < count; i++) w4a16_context_destroy(contexts[i]);
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
    /* What differs between configs is tested above. */
    for (size_t i = 0; i < (simulated ? 1 : count); i += (count + 5) / 6) {
        device_watch(infos[i].name);
        w4a16_profile_result result = {.config = NULL};
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

int main(int argc, char **argv) {
    int code = cuda_case_find(argc, argv);
    if (code) return code;
    const struct CMUnitTest few[] = {
        cmocka_unit_test(reduced_shapes_are_exact),
        cmocka_unit_test(graphs_and_streams_give_the_same_bits),
    };
    if (reduced) return cmocka_run_group_tests(few, cuda_case_begin, cuda_case_end);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_come_back_unchanged),
        cmocka_unit_test(small_shapes_are_exact),
        cmocka_unit_test(kinds_are_exact),
        cmocka_unit_test(kinds_match_fp64),
        cmocka_unit_test(shapes_are_exact),
        cmocka_unit_test(shapes_match_fp64),
        cmocka_unit_test(graphs_and_streams_give_the_same_bits),
        cmocka_unit_test(rows_do_not_depend_on_the_batch),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_place),
        cmocka_unit_test(spread_scales_match_fp64),
        cmocka_unit_test(uneven_scales_are_left_to_some_configs),
        cmocka_unit_test(all_gpus_serve_one_process),
        cmocka_unit_test(configs_can_be_profiled),
        cmocka_unit_test(limits_are_plausible),
    };
    return cmocka_run_group_tests(tests, cuda_case_begin, cuda_case_end);
}
