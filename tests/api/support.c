/* SPDX-License-Identifier: Apache-2.0
 * What the API tests share. */
#include "support.h"

#include <ftw.h>
#include <unistd.h>

enum { GUARD = 256 };
static const uint16_t GUARD_PATTERN = 0x5aa5;
static const uint16_t NAN_PATTERN = 0xffff; /* a NaN of both fp16 and bf16 */

/* Under AddressSanitizer, too, an allocation that cannot be had is NULL, as malloc promises. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}

void *test_allocate(size_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory) fail_msg("out of memory: %zu bytes", bytes);
    return memory;
}

oracle_format test_format(w4a16_dtype dtype) {
    return dtype == W4A16_BF16 ? oracle_bf16 : oracle_fp16;
}

static double read_number(const void *array, w4a16_dtype dtype, int64_t index) {
    if (dtype == W4A16_FP32) return (double)((const float *)array)[index];
    return oracle_decode(test_format(dtype), ((const uint16_t *)array)[index]);
}

static void write_number(void *array, w4a16_dtype dtype, int64_t index, double value) {
    if (dtype == W4A16_FP32)
        ((float *)array)[index] = (float)value;
    else
        ((uint16_t *)array)[index] = oracle_encode(test_format(dtype), value);
}

size_t test_weight_code_bytes(const test_weight *weight) {
    return (size_t)(weight->canonical.n * ((weight->canonical.k + 1) / 2));
}
size_t test_weight_scale_bytes(const test_weight *weight) {
    return (size_t)(weight->canonical.n * weight->groups) * w4a16_dtype_size(weight->canonical.scale_dtype);
}
size_t test_weight_zero_bytes(const test_weight *weight) {
    static const size_t sizes[] = {0, 1, 4};
    return (size_t)(weight->canonical.n * weight->groups) * sizes[weight->canonical.zero_kind];
}

static void decode(test_weight *weight) {
    const w4a16_canonical *c = &weight->canonical;
    int64_t group_size = c->group_size == -1 ? c->k : c->group_size;
    weight->values = test_allocate((size_t)(c->n * c->k) * sizeof(double));
    weight->norms = test_allocate((size_t)c->n * sizeof(double));
#pragma omp parallel for schedule(static) if (c->n * c->k > 1000000)
    for (int64_t row = 0; row < c->n; row++) {
        double squares = 0;
        for (int64_t j = 0; j < c->k; j++) {
            int64_t index = row * weight->groups + j / group_size;
            int byte = weight->codes[row * ((c->k + 1) / 2) + j / 2];
            double code = j % 2 ? byte / 16 : byte % 16, scale = read_number(weight->scales, c->scale_dtype, index);
            double zero = c->zero_kind == W4A16_ZERO_SYMMETRIC ? 8
                          : c->zero_kind == W4A16_ZERO_INTEGER ? ((const uint8_t *)weight->zeros)[index]
                                                               : (double)((const float *)weight->zeros)[index];
            int64_t column = weight->k_order ? weight->k_order[j] : j;
            weight->values[column * c->n + row] = (code - zero) * scale;
            double magnitude = (code + fabs(zero)) * fabs(scale);
            squares += magnitude * magnitude;
        }
        weight->norms[row] = sqrt(squares);
    }
}

void test_weight_make(test_weight *weight, uint64_t *seed, int64_t n, int64_t k, int64_t group_size,
                      w4a16_dtype scale_dtype, w4a16_zero_kind zero_kind, int flags) {
    memset(weight, 0, sizeof *weight);
    w4a16_canonical *c = &weight->canonical;
    w4a16_canonical_init(c);
    c->n = n;
    c->k = k;
    c->group_size = group_size;
    c->scale_dtype = scale_dtype;
    c->zero_kind = zero_kind;
    weight->groups = group_size == -1 ? 1 : (k + group_size - 1) / group_size;
    weight->codes = test_allocate(test_weight_code_bytes(weight));
    weight->scales = test_allocate(test_weight_scale_bytes(weight));
    for (size_t i = 0; i < test_weight_code_bytes(weight); i++) weight->codes[i] = (uint8_t)oracle_random(seed);
    if (zero_kind) weight->zeros = test_allocate(test_weight_zero_bytes(weight));
    for (int64_t i = 0; i < n * weight->groups; i++) {
        double sign = oracle_below(seed, 8) ? 1 : -1;
        double scale = flags & TEST_EXACT ? ldexp(1, -(int)oracle_below(seed, 4))
                                          : (0.02 + 0.01 * oracle_unit(seed)) / sqrt((double)k);
        /* Large enough that fp16 does not hold all weights exactly. */
        if (flags & TEST_SPREAD) scale = (0.02 + 0.01 * oracle_unit(seed)) * ldexp(1, 3 - (int)oracle_below(seed, 7));
        if (flags & TEST_FAR) scale = (0.02 + 0.01 * oracle_unit(seed)) * ldexp(1, 5 - (int)oracle_below(seed, 19));
        write_number(weight->scales, scale_dtype, i, sign * scale);
        if (zero_kind == W4A16_ZERO_INTEGER) ((uint8_t *)weight->zeros)[i] = (uint8_t)oracle_below(seed, 17);
        if (zero_kind == W4A16_ZERO_FLOAT)
            ((float *)weight->zeros)[i] =
                flags & TEST_EXACT ? (float)oracle_below(seed, 33) * 0.5f : (float)(8 + 8 * oracle_unit(seed));
    }
    if (flags & TEST_K_ORDER) {
        weight->k_order = test_allocate((size_t)k * sizeof(int32_t));
        for (int64_t j = 0; j < k; j++) weight->k_order[j] = (int32_t)j;
        for (int64_t j = k - 1; j > 0; j--) {
            int64_t other = (int64_t)oracle_below(seed, (uint64_t)j + 1);
            int32_t kept = weight->k_order[j];
            weight->k_order[j] = weight->k_order[other];
            weight->k_order[other] = kept;
        }
    }
    c->codes = weight->codes;
    c->scales = weight->scales;
    c->zeros = weight->zeros;
    c->k_order = weight->k_order;
    if (!(flags & TEST_NO_VALUES)) decode(weight);
}

void test_weight_free(test_weight *weight) {
    free(weight->codes);
    free(weight->scales);
    free(weight->zeros);
    free(weight->k_order);
    free(weight->values);
    free(weight->norms);
    memset(weight, 0, sizeof *weight);
}

void test_activations_make(test_activations *a, uint64_t *seed, w4a16_dtype dtype, int64_t m, int64_t k, int64_t lda,
                           int flags) {
    *a = (test_activations){.dtype = dtype, .m = m, .k = k, .lda = lda};
    /* The last row ends at k: what lies behind it is not the library's to read. */
    size_t count = (size_t)((m - 1) * lda + k);
    a->data = test_allocate(count * 2);
    a->values = test_allocate((size_t)(m * k) * sizeof(double));
    for (size_t i = 0; i < count; i++) a->data[i] = NAN_PATTERN;
    for (int64_t row = 0; row < m; row++)
        for (int64_t j = 0; j < k; j++) {
            double normal = 0;
            for (int i = 0; i < 4; i++) normal += 0.8660254 * oracle_unit(seed);
            test_activations_set(a, row, j, flags & TEST_EXACT ? (double)oracle_below(seed, 17) - 8 : normal);
        }
}

void test_activations_set(test_activations *a, int64_t row, int64_t column, double value) {
    uint16_t bits = oracle_encode(test_format(a->dtype), value);
    a->data[row * a->lda + column] = bits;
    a->values[row * a->k + column] = oracle_decode(test_format(a->dtype), bits);
}

void test_activations_free(test_activations *a) {
    free(a->data);
    free(a->values);
}

static size_t output_count(const test_output *c) {
    return (size_t)((c->m - 1) * c->ldc + c->n);
}

void test_output_make(test_output *c, w4a16_dtype dtype, int64_t m, int64_t n, int64_t ldc) {
    *c = (test_output){.dtype = dtype, .m = m, .n = n, .ldc = ldc};
    c->memory = test_allocate((output_count(c) + 2 * GUARD) * 2);
    c->data = c->memory + GUARD;
    for (size_t i = 0; i < output_count(c) + 2 * GUARD; i++) c->memory[i] = GUARD_PATTERN;
    for (int64_t row = 0; row < m; row++)
        for (int64_t column = 0; column < n; column++) c->data[row * ldc + column] = NAN_PATTERN;
}

void test_output_check_guards(const test_output *c) {
    for (int i = 0; i < GUARD; i++) {
        if (c->memory[i] != GUARD_PATTERN) fail_msg("C was written %d elements before its start", GUARD - i);
        if (c->data[output_count(c) + (size_t)i] != GUARD_PATTERN)
            fail_msg("C was written %d elements past its end", i);
    }
    for (int64_t row = 0; row + 1 < c->m; row++)
        for (int64_t column = c->n; column < c->ldc; column++)
            if (c->data[row * c->ldc + column] != GUARD_PATTERN)
                fail_msg("the gap after row %d of C was written", (int)row);
}

void test_output_check_untouched(const test_output *c) {
    test_output_check_guards(c);
    for (int64_t row = 0; row < c->m; row++)
        for (int64_t column = 0; column < c->n; column++) assert_int_equal(c->data[row * c->ldc + column], NAN_PATTERN);
}

double test_output_value(const test_output *c, int64_t row, int64_t column) {
    return oracle_decode(test_format(c->dtype), c->data[row * c->ldc + column]);
}

void test_output_free(test_output *c) {
    free(c->memory);
}

void test_multiply(const test_activations *a, const test_weight *weight, double alpha, const double *bias,
                   double *product) {
    int64_t n = weight->canonical.n, k = weight->canonical.k;
#pragma omp parallel for schedule(static) if (a->m * n * k > 1000000)
    for (int64_t row = 0; row < a->m; row++) {
        double *restrict sums = product + row * n;
        for (int64_t i = 0; i < n; i++) sums[i] = 0;
        for (int64_t j = 0; j < k; j++) {
            double factor = a->values[row * k + j];
            const double *restrict values = weight->values + j * n;
            for (int64_t i = 0; i < n; i++) sums[i] += factor * values[i];
        }
        for (int64_t i = 0; i < n; i++) sums[i] = alpha * sums[i] + (bias ? bias[i] : 0);
    }
}

void test_check_elements(const test_output *c, const test_activations *a, const test_weight *weight, double alpha,
                         const double *product, const char *what) {
    oracle_format format = test_format(c->dtype);
    for (int64_t row = 0; row < c->m; row++) {
        double squares = 0;
        for (int64_t j = 0; j < a->k; j++) squares += a->values[row * a->k + j] * a->values[row * a->k + j];
        double norm = sqrt(squares) * fabs(alpha);
        for (int64_t column = 0; column < c->n; column++) {
            double expected = product[row * c->n + column], got = test_output_value(c, row, column);
            /* The value just before rounding may lie in the next binade; the bound is that of the larger one. */
            double unit = oracle_half_unit(format, fmax(fabs(expected), fabs(got)));
            double bound = unit + 0x1p-14 * (norm * weight->norms[column]) + 0x1p-22 * fabs(expected);
            if (!(fabs(got - expected) <= bound))
                fail_msg("%s: C[%d, %d] is %.9g, not %.9g: off by %.3g, allowed %.3g", what, (int)row, (int)column, got,
                         expected, fabs(got - expected), bound);
        }
    }
}

void test_check_product(const test_output *c, const test_activations *a, const test_weight *weight, double alpha,
                        const double *product, const char *what) {
    oracle_format format = test_format(c->dtype);
    double difference = 0, inherent = 0, total = 0;
    test_check_elements(c, a, weight, alpha, product, what);
    for (int64_t i = 0; i < c->m * c->n; i++) {
        double expected = product[i], got = test_output_value(c, i / c->n, i % c->n);
        double rounded = oracle_decode(format, oracle_encode(format, expected));
        difference += (got - expected) * (got - expected);
        inherent += (rounded - expected) * (rounded - expected);
        total += expected * expected;
    }
    /* Rounding the true result to bf16 alone costs about 1.6e-3, and more where a few large elements dominate. */
    double error = sqrt(difference / total), limit = fmax(2e-3, 1.1 * sqrt(inherent / total));
    if (c->m * c->n >= 64 && !(error < limit)) fail_msg("%s: relative Frobenius error %.3g", what, error);
}

w4a16_context *test_context(const char *instruction_set, int threads) {
    w4a16_context_options options;
    w4a16_context_options_init(&options);
    options.device = "cpu";
    options.cpu_instruction_set = instruction_set;
    options.threads = threads;
    w4a16_context *context = NULL;
    w4a16_status status = w4a16_context_create(&options, &context);
    if (status == W4A16_ERROR_UNSUPPORTED && instruction_set) {
        static int said;
        if (!said++) print_message("skipped %s: %s\n", instruction_set, w4a16_last_error());
        return NULL;
    }
    if (status) fail_msg("%s", w4a16_last_error());
    return context;
}

w4a16_plan *test_plan(const w4a16_weight *weight, int64_t m_max, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                      const char *config) {
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = m_max;
    options.a_dtype = a_dtype;
    options.c_dtype = c_dtype;
    options.config = config;
    w4a16_plan *plan = NULL;
    CHECK(w4a16_plan_create(weight, &options, &plan));
    return plan;
}

void *test_workspace(const w4a16_plan *plan, size_t *bytes) {
    w4a16_plan_info info = {.struct_size = sizeof info};
    CHECK(w4a16_plan_query(plan, &info));
    *bytes = info.workspace_bytes;
    if (!*bytes) return NULL;
    /* Exactly as large as asked for, so that AddressSanitizer sees a step over the end. */
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, info.workspace_alignment < 16 ? 16 : info.workspace_alignment, *bytes), 0);
    memset(memory, 0xff, *bytes);
    return memory;
}

void test_gemm(const w4a16_plan *plan, const test_activations *a, test_output *c) {
    size_t bytes;
    void *workspace = test_workspace(plan, &bytes);
    CHECK(w4a16_gemm(plan, a->data, a->lda, c->data, c->ldc, a->m, workspace, bytes, NULL));
    free(workspace);
    test_output_check_guards(c);
}

w4a16_problem test_problem(const w4a16_canonical *weight, int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                           uint32_t flags) {
    w4a16_problem problem;
    w4a16_problem_init(&problem);
    problem.m = m;
    problem.n = weight->n;
    problem.k = weight->k;
    problem.group_size = weight->group_size;
    problem.a_dtype = a_dtype;
    problem.c_dtype = c_dtype;
    problem.scale_dtype = weight->scale_dtype;
    problem.zero_kind = weight->zero_kind;
    problem.flags = flags;
    return problem;
}

size_t test_configs(const w4a16_context *context, const test_weight *weight, int64_t m, w4a16_dtype a_dtype,
                    w4a16_dtype c_dtype, uint32_t flags, const char *names[TEST_MAX_CONFIGS]) {
    w4a16_problem problem = test_problem(&weight->canonical, m, a_dtype, c_dtype, flags);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count = 0, feasible = 0;
    CHECK(w4a16_config_list(context, &problem, infos, TEST_MAX_CONFIGS, &count));
    assert_in_range(count, 1, TEST_MAX_CONFIGS);
    for (size_t i = 0; i < count; i++)
        if (infos[i].feasible) names[feasible++] = infos[i].name;
    assert_true(feasible >= 1);
    return feasible;
}

void test_make_folder(char folder[64]) {
    strcpy(folder, "/tmp/w4a16-api-XXXXXX");
    assert_non_null(mkdtemp(folder));
}

static int remove_entry(const char *path, const struct stat *information, int type, struct FTW *walk) {
    (void)information, (void)type, (void)walk;
    return remove(path);
}

void test_remove_folder(const char *folder) {
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}
