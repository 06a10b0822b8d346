/* SPDX-License-Identifier: Apache-2.0
 * Large shapes through the public API, every config, at little cost on the host.
 *
 * Exact problems (small whole numbers, scales that are powers of two): the first config's result is checked by whole
 * dot products in every 64 x 64 tile of C, along a random row and at least one random column of the tile; every other
 * config must then give the same bits everywhere. Random problems: each config is held to fp64 on some rows and
 * columns, and gives the same bits whatever its workspace held before. */
#include "cuda_case.h"

#include <math.h>
#include <time.h>

enum { BAND = 64, MAX_ROWS = 64, WIDE = 4096 };

typedef struct shape {
    int64_t n, k, group_size;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
} shape;

static const shape large_shapes[] = {
    {152064, 288, 32, W4A16_FP16, W4A16_ZERO_INTEGER},   {152064, 2560, 128, W4A16_BF16, W4A16_ZERO_SYMMETRIC},
    {200, 18944, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC}, {1000, 18944, -1, W4A16_FP32, W4A16_ZERO_INTEGER},
    {11008, 4096, 64, W4A16_FP16, W4A16_ZERO_FLOAT},     {8192, 8192, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC},
    {4096, 14336, 128, W4A16_BF16, W4A16_ZERO_INTEGER},
};
static const int64_t large_m[] = {1, 17, 64, 200, 333, 1025};

static const shape small_shapes[] = {
    {200, 96, 32, W4A16_FP16, W4A16_ZERO_INTEGER},
    {72, 288, 128, W4A16_BF16, W4A16_ZERO_SYMMETRIC},
    {65, 640, -1, W4A16_FP32, W4A16_ZERO_FLOAT},
};
static const int64_t small_m[] = {1, 17, 66};

/** A weight, activations of the largest M for each dtype, and what is known of their product. Smaller M take the first
 * rows. Of an exact problem the product is kept in units of 1/16, as a whole number. */
typedef struct problem {
    const shape *form;
    int exact;
    test_weight arrays;
    w4a16_weight *weight;
    int64_t m_max;
    uint16_t *a[2];         /* [m_max, k], fp16 and bf16 */
    double *values[2];      /* what they are worth, of random ones */
    int16_t *integers;      /* [m_max, k], of exact ones: the same for both dtypes */
    int64_t rows[MAX_ROWS]; /* of which all of C is known, ascending */
    int64_t row_count;
    int64_t *columns; /* of which all of C is known, ascending */
    int64_t column_count;
    double *of_rows, *of_columns; /* [row_count, n], [column_count, m_max]; of random ones, for the dtype last set */
    float alpha;
    w4a16_dtype bias_dtype;
    void *bias; /* in the device's memory */
    double *bias_values;
} problem;

/** Bits of `count` numbers drawn from a table of them, and what the table holds. */
typedef struct number_table {
    uint16_t bits[2][WIDE];
    int16_t integers[WIDE];
} number_table;

static void number_table_make(number_table *table, uint64_t *seed, int exact) {
    for (int i = 0; i < WIDE; i++) {
        double value = 0;
        for (int j = 0; j < 4; j++) value += 0.8660254 * oracle_unit(seed);
        if (exact) value = (double)oracle_below(seed, 17) - 8;
        table->integers[i] = (int16_t)value;
        for (int j = 0; j < 2; j++) table->bits[j][i] = oracle_encode(test_format(halves[j]), value);
    }
}

static void make_activations(problem *p, uint64_t *seed) {
    static number_table table;
    int64_t k = p->form->k;
    size_t count = (size_t)(p->m_max * k);
    uint64_t start = oracle_random(seed);
    number_table_make(&table, seed, p->exact);
    for (int j = 0; j < 2; j++) {
        p->a[j] = test_allocate(count * 2);
        if (!p->exact) p->values[j] = test_allocate(count * sizeof(double));
    }
    if (p->exact) p->integers = test_allocate(count * 2);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < p->m_max; row++) {
        uint64_t state = start + (uint64_t)row * 0x1234567;
        for (int64_t i = row * k; i < (row + 1) * k; i++) {
            size_t drawn = oracle_random(&state) % WIDE;
            for (int j = 0; j < 2; j++) {
                p->a[j][i] = table.bits[j][drawn];
                if (!p->exact) p->values[j][i] = cuda_case_values(halves[j])[table.bits[j][drawn]];
            }
            if (p->exact) p->integers[i] = table.integers[drawn];
        }
    }
}

/** The rows that end every M, so that each has its last row checked; of exact problems also one out of each band. */
static void choose_rows(problem *p, uint64_t *seed, const int64_t *m_values, size_t m_count) {
    unsigned char *chosen = test_allocate((size_t)p->m_max);
    for (size_t i = 0; i < m_count; i++) chosen[m_values[i] - 1] = 1;
    for (int64_t band = 0; p->exact && band < p->m_max; band += BAND) {
        int64_t left = p->m_max - band;
        chosen[band + (int64_t)oracle_below(seed, (uint64_t)(left < BAND ? left : BAND))] = 1;
    }
    for (int64_t row = 0; row < p->m_max; row++)
        if (chosen[row]) {
            assert_true(p->row_count < MAX_ROWS);
            p->rows[p->row_count++] = row;
        }
    free(chosen);
}

/** One column out of each band of an exact problem (narrow matrices have few: there more of each), out of eight parts
 * of a random one; and the last. */
static void choose_columns(problem *p, uint64_t *seed) {
    int64_t n = p->form->n, dense = n <= 256 ? 1 : n <= 1024 ? 4 : BAND, band = p->exact ? dense : (n + 7) / 8;
    p->columns = test_allocate((size_t)(n / band + 2) * sizeof *p->columns);
    for (int64_t first = 0; first < n; first += band) {
        int64_t left = n - first;
        p->columns[p->column_count++] = first + (int64_t)oracle_below(seed, (uint64_t)(left < band ? left : band));
    }
    if (p->columns[p->column_count - 1] != n - 1) p->columns[p->column_count++] = n - 1;
}

/** The scale, zero point and columns of a group of out feature n; returns n's codes. */
static const uint8_t *read_group(const test_weight *weight, int64_t n, int64_t group, double *scale, double *zero,
                                 int64_t *begin, int64_t *end) {
    const w4a16_canonical *c = &weight->canonical;
    int64_t index = n * weight->groups + group, size = c->group_size == -1 ? c->k : c->group_size;
    *scale = c->scale_dtype == W4A16_FP32 ? (double)((const float *)c->scales)[index]
                                          : cuda_case_values(c->scale_dtype)[((const uint16_t *)c->scales)[index]];
    *zero = c->zero_kind == W4A16_ZERO_SYMMETRIC ? 8
            : c->zero_kind == W4A16_ZERO_INTEGER ? ((const uint8_t *)c->zeros)[index]
                                                 : (double)((const float *)c->zeros)[index];
    *begin = group * size;
    *end = *begin + size < c->k ? *begin + size : c->k;
    return c->codes + n * ((c->k + 1) / 2);
}

/** Weights of out feature n of an exact problem, times 16: scales are at least 1/8, zeros multiples of 1/2. */
static void decode_integers(const test_weight *weight, int64_t n, int16_t *out) {
    for (int64_t group = 0; group < weight->groups; group++) {
        double scale, zero;
        int64_t begin, end;
        const uint8_t *codes = read_group(weight, n, group, &scale, &zero, &begin, &end);
        int factor = (int)(8 * scale), shift = (int)(2 * zero);
        for (int64_t i = begin; i < end; i++)
            out[i] = (int16_t)((2 * (codes[i / 2] >> (i % 2 * 4) & 15) - shift) * factor);
    }
}

static void decode_doubles(const test_weight *weight, int64_t n, double *out) {
    for (int64_t group = 0; group < weight->groups; group++) {
        double scale, zero;
        int64_t begin, end;
        const uint8_t *codes = read_group(weight, n, group, &scale, &zero, &begin, &end);
        for (int64_t i = begin; i < end; i++) out[i] = ((codes[i / 2] >> (i % 2 * 4) & 15) - zero) * scale;
    }
}

/* |a| is at most 8, |16 w| at most 256: 32 bits hold the sum up to k = 2^20. */
static double dot_integers(const int16_t *a, const int16_t *w, int64_t k) {
    int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < k; i++) sum += (int32_t)a[i] * (int32_t)w[i];
    return (double)sum / 16;
}

static double dot_doubles(const double *a, const double *w, int64_t k) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < k; i++) sum += a[i] * w[i];
    return sum;
}

static double dot(const problem *p, int dtype, int64_t row, const int16_t *integers, const double *doubles) {
    int64_t k = p->form->k;
    return p->exact ? dot_integers(p->integers + row * k, integers, k)
                    : dot_doubles(p->values[dtype] + row * k, doubles, k);
}

/** Fill of_rows and of_columns, without alpha and bias; halves[dtype] are the activations. */
static void multiply(problem *p, int dtype) {
    int64_t n = p->form->n, k = p->form->k;
#pragma omp parallel
    {
        int16_t *integers = malloc((size_t)k * sizeof *integers);
        double *doubles = malloc((size_t)k * sizeof *doubles);
        if (!integers || !doubles) abort();
#pragma omp for schedule(static)
        for (int64_t column = 0; column < n; column++) {
            if (p->exact)
                decode_integers(&p->arrays, column, integers);
            else
                decode_doubles(&p->arrays, column, doubles);
            for (int64_t i = 0; i < p->row_count; i++)
                p->of_rows[i * n + column] = dot(p, dtype, p->rows[i], integers, doubles);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < p->column_count; i++) {
            if (p->exact)
                decode_integers(&p->arrays, p->columns[i], integers);
            else
                decode_doubles(&p->arrays, p->columns[i], doubles);
            for (int64_t row = 0; row < p->m_max; row++)
                p->of_columns[i * p->m_max + row] = dot(p, dtype, row, integers, doubles);
        }
        free(integers);
        free(doubles);
    }
}

static void problem_make(problem *p, uint64_t *seed, const shape *form, int exact, const int64_t *m_values,
                         size_t m_count) {
    *p = (problem){.form = form, .exact = exact, .m_max = m_values[m_count - 1]};
    test_weight_make(&p->arrays, seed, form->n, form->k, form->group_size, form->scale_dtype, form->zero_kind,
                     TEST_NO_VALUES | (exact ? TEST_EXACT : 0));
    CHECK(w4a16_weight_create(cuda, &p->arrays.canonical, &p->weight));
    for (int i = 0; i < 2; i++) (void)cuda_case_values(halves[i]); /* made before threads read them */
    make_activations(p, seed);
    choose_rows(p, seed, m_values, m_count);
    choose_columns(p, seed);
    p->of_rows = test_allocate((size_t)(p->row_count * form->n) * sizeof(double));
    p->of_columns = test_allocate((size_t)(p->column_count * p->m_max) * sizeof(double));
    if (exact) multiply(p, 0);
    p->alpha = 0.5f * (float)(1 + oracle_below(seed, 3));
    p->bias_dtype = scale_dtypes[oracle_below(seed, 3)];
    p->bias_values = test_allocate((size_t)form->n * sizeof(double));
    void *bias = cuda_case_bias(seed, form->n, p->bias_dtype, exact, p->bias_values);
    p->bias = device_copy_in(bias, (size_t)form->n * w4a16_dtype_size(p->bias_dtype), 0);
    free(bias);
}

static void problem_free(problem *p) {
    test_weight_free(&p->arrays);
    w4a16_weight_destroy(p->weight);
    for (int i = 0; i < 2; i++) {
        free(p->a[i]);
        free(p->values[i]);
    }
    free(p->integers);
    free(p->columns);
    free(p->of_rows);
    free(p->of_columns);
    free(p->bias_values);
    device_free(p->bias, 0);
}

/** The runs of one M and pair of dtypes: C on the device between guards, and on the host what the last run gave and
 * what it is compared with. All of C's memory is 0xff before a run. */
typedef struct batch {
    const problem *p;
    int64_t m, ldc;
    w4a16_dtype a_dtype, c_dtype;
    void *a, *stream;
    size_t c_bytes;
    uint16_t *c, *got, *expected;
    double squares, limit; /* of the known elements of a random problem; relative Frobenius error allowed */
} batch;

enum { GUARD = 512 }; /* elements before and behind C */

static uint16_t element(const batch *b, int64_t row, int64_t column) {
    return b->got[GUARD + row * b->ldc + column];
}

static double wanted(const problem *p, double product, int64_t column) {
    return (double)p->alpha * product + p->bias_values[column];
}

/** Nothing but C itself was written. */
static void check_guards(const batch *b, const char *what) {
    int64_t n = b->p->form->n, end = (int64_t)(b->c_bytes / 2);
    for (int64_t i = 0; i < GUARD; i++)
        if (b->got[i] != 0xffff || b->got[end - 1 - i] != 0xffff)
            fail_msg("%s: C was written outside its %d rows", what, (int)b->m);
    for (int64_t row = 0; row + 1 < b->m; row++)
        for (int64_t column = n; column < b->ldc; column++)
            if (element(b, row, column) != 0xffff) fail_msg("%s: the gap after row %d was written", what, (int)row);
}

typedef void look_function(batch *b, int64_t row, int64_t column, double right, double sums[2]);

/** Add up what `look` adds to `sums`, over every element of C that is known; `right` is its true value. */
static void visit(batch *b, look_function *look, double sums[2]) {
    const problem *p = b->p;
    double first = 0, second = 0;
#pragma omp parallel for schedule(static) reduction(+ : first, second)
    for (int64_t column = 0; column < p->form->n; column++) {
        double both[2] = {0, 0};
        for (int64_t i = 0; i < p->row_count && p->rows[i] < b->m; i++)
            look(b, p->rows[i], column, wanted(p, p->of_rows[i * p->form->n + column], column), both);
        first += both[0];
        second += both[1];
    }
#pragma omp parallel for schedule(static) reduction(+ : first, second)
    for (int64_t i = 0; i < p->column_count; i++) {
        double both[2] = {0, 0};
        for (int64_t row = 0; row < b->m; row++)
            look(b, row, p->columns[i], wanted(p, p->of_columns[i * p->m_max + row], p->columns[i]), both);
        first += both[0];
        second += both[1];
    }
    sums[0] = first;
    sums[1] = second;
}

/** One of the wrong elements: threads must not use cmocka's assertions, so that it is kept until they have ended. */
static struct wrong_element {
    int64_t row, column;
    double right;
} wrong;

static void look_exact(batch *b, int64_t row, int64_t column, double right, double sums[2]) {
    if (element(b, row, column) == oracle_encode(test_format(b->c_dtype), right)) return;
    sums[0]++;
#pragma omp critical
    wrong = (struct wrong_element){row, column, right};
}

/** Every element that is known, bit for bit. */
static void check_exact(batch *b, const char *what) {
    double sums[2];
    visit(b, look_exact, sums);
    if (sums[0] == 0) return;
    const double *values = cuda_case_values(b->c_dtype);
    uint16_t got = element(b, wrong.row, wrong.column), bits = oracle_encode(test_format(b->c_dtype), wrong.right);
    fail_msg("%s: C[%d, %d] is 0x%04x (%g), not 0x%04x (%g); %g of the elements looked at are wrong", what,
             (int)wrong.row, (int)wrong.column, got, values[got], bits, values[bits], sums[0]);
}

static void look_rounding(batch *b, int64_t row, int64_t column, double right, double sums[2]) {
    (void)row, (void)column;
    double rounding = oracle_decode(test_format(b->c_dtype), oracle_encode(test_format(b->c_dtype), right)) - right;
    sums[0] += rounding * rounding;
    sums[1] += right * right;
}

static void look_near(batch *b, int64_t row, int64_t column, double right, double sums[2]) {
    double error = cuda_case_values(b->c_dtype)[element(b, row, column)] - right;
    sums[0] += error * error;
}

/** The elements that are known have a relative Frobenius error within the limit. */
static void check_near(batch *b, const char *what) {
    double sums[2];
    if (b->squares == 0) {
        visit(b, look_rounding, sums);
        b->squares = sums[1];
        b->limit = cuda_case_limit(sqrt(sums[0] / sums[1]));
    }
    visit(b, look_near, sums);
    double error = sqrt(sums[0] / b->squares);
    if (!(error < b->limit)) fail_msg("%s: relative Frobenius error %.3g, allowed %.3g", what, error, b->limit);
}

/** Offset of the first difference between what this run and the one to compare with gave; -1: none. */
static int64_t first_difference(const batch *b) {
    const char *got = (const char *)b->got, *expected = (const char *)b->expected;
    int64_t piece = 1 << 20, bytes = (int64_t)b->c_bytes, first = bytes;
#pragma omp parallel for schedule(static) reduction(min : first)
    for (int64_t at = 0; at < bytes; at += piece) {
        size_t size = (size_t)(bytes - at < piece ? bytes - at : piece);
        if (memcmp(got + at, expected + at, size) == 0) continue;
        for (int64_t i = at; i < bytes && i < first; i++)
            if (got[i] != expected[i]) first = i;
    }
    return first == bytes ? -1 : first;
}

static void check_same(const batch *b, const char *what, const char *other) {
    int64_t difference = first_difference(b);
    if (difference < 0) return;
    int64_t index = difference / 2 - GUARD, row = index / b->ldc, column = index % b->ldc;
    fail_msg("%s: C[%d, %d] is 0x%04x, but 0x%04x %s", what, (int)row, (int)column, b->got[GUARD + index],
             b->expected[GUARD + index], other);
}

static void run(batch *b, const w4a16_plan *plan, void *workspace, size_t workspace_bytes) {
    device_queue_fill(b->c, 0xff, b->c_bytes, b->stream);
    CHECK(w4a16_gemm(plan, b->a, b->p->form->k, b->c + GUARD, b->ldc, b->m, workspace, workspace_bytes, b->stream));
    device_synchronize(b->stream);
    device_copy_out(b->got, b->c, b->c_bytes);
}

static void keep_result(batch *b) {
    uint16_t *expected = b->expected;
    b->expected = b->got;
    b->got = expected;
}

/** Plans of `count` configs, and the workspace that the largest needs. */
static size_t make_plans(const batch *b, const char *const *names, size_t count, w4a16_plan **plans) {
    size_t largest = 0;
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = b->m;
    options.a_dtype = b->a_dtype;
    options.c_dtype = b->c_dtype;
    options.alpha = b->p->alpha;
    options.bias = b->p->bias;
    options.bias_dtype = b->p->bias_dtype;
    for (size_t i = 0; i < count; i++) {
        w4a16_plan_info info = {.struct_size = sizeof info};
        options.config = names[i];
        CHECK(w4a16_plan_create(b->p->weight, &options, &plans[i]));
        CHECK(w4a16_plan_query(plans[i], &info));
        if (info.workspace_bytes > largest) largest = info.workspace_bytes;
    }
    return largest;
}

/** All configs on one M. They share a workspace, so that each finds what another left there. */
static void run_configs(batch *b, const char *const *names, size_t count) {
    const problem *p = b->p;
    w4a16_plan *plans[TEST_MAX_CONFIGS + 1];
    size_t bytes = make_plans(b, names, count, plans);
    void *workspace = device_allocate(bytes);
    device_fill(workspace, 0x11, bytes);
    for (size_t i = 0; i < count; i++) {
        char what[256];
        snprintf(what, sizeof what, "%s: m %d n %d k %d g %d, %s scales, zeros %d, %s -> %s, stride of C %d, %s",
                 names[i] ? names[i] : "(chosen)", (int)b->m, (int)p->form->n, (int)p->form->k,
                 (int)p->form->group_size, w4a16_dtype_name(p->form->scale_dtype), (int)p->form->zero_kind,
                 w4a16_dtype_name(b->a_dtype), w4a16_dtype_name(b->c_dtype), (int)b->ldc,
                 p->exact ? "exact" : "random");
        device_watch(what);
        run(b, plans[i], workspace, bytes);
        if (p->exact) {
            if (i > 0 && first_difference(b) < 0) continue;
            check_guards(b, what);
            check_exact(b, what);
            if (i > 0) check_same(b, what, "by the first config; the known elements are right in both");
            keep_result(b);
            continue;
        }
        check_guards(b, what);
        check_near(b, what);
        keep_result(b);
        for (int byte = 0; byte < 256; byte += 255) {
            device_fill(workspace, byte, bytes);
            run(b, plans[i], workspace, bytes);
            check_same(b, what, byte ? "on another workspace, 0xff before" : "on another workspace, 0 before");
        }
    }
    for (size_t i = 0; i < count; i++) w4a16_plan_destroy(plans[i]);
    device_free(workspace, 0);
}

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void run_shape(uint64_t *seed, const shape *form, size_t index, int exact, const int64_t *m_values,
                      size_t m_count) {
    problem p;
    double begin = seconds();
    device_watch(NULL);
    problem_make(&p, seed, form, exact, m_values, m_count);
    size_t bytes = ((size_t)(p.m_max * (form->n + 8)) + 2 * GUARD) * 2; /* for the largest stride */
    batch b = {.p = &p, .stream = device_stream_create()};
    b.c = device_allocate(bytes);
    b.got = device_host_allocate(bytes);
    b.expected = device_host_allocate(bytes);
    double made = seconds();
    for (int dtype = 0; dtype < 2; dtype++) {
        b.a_dtype = halves[dtype];
        b.a = device_copy_in(p.a[dtype], (size_t)(p.m_max * form->k) * 2, 0);
        device_watch(NULL);
        if (!exact) multiply(&p, dtype);
        for (size_t i = 0; i < m_count; i++) {
            const char *names[TEST_MAX_CONFIGS + 1];
            b.m = m_values[i];
            b.c_dtype = halves[(index + i) / 2 % 2];
            /* This M has the other dtype at the next shape. No config may take bf16, as test_gemm.c explains. */
            int bf16 = (index + i) % 2 && cuda_case_configs(&p.arrays.canonical, b.m, W4A16_BF16, b.c_dtype, 0, names);
            if (bf16 != dtype) continue;
            size_t count = cuda_case_configs(&p.arrays.canonical, b.m, b.a_dtype, b.c_dtype, 0, names);
            names[count++] = NULL;
            /* Strides of whole 16 bytes, and others. */
            b.ldc = form->n + (oracle_below(seed, 2) ? 8 - form->n % 8 : (int64_t)oracle_below(seed, 8));
            b.c_bytes = ((size_t)((b.m - 1) * b.ldc + form->n) + 2 * GUARD) * 2;
            b.squares = 0;
            run_configs(&b, names, count);
        }
        device_free(b.a, 0);
    }
    device_watch(NULL);
    device_free(b.c, 0);
    device_host_free(b.got);
    device_host_free(b.expected);
    device_stream_destroy(b.stream);
    problem_free(&p);
    print_message("n %d k %d, %s: %.1f s, of them %.1f s to make the problem\n", (int)form->n, (int)form->k,
                  exact ? "exact" : "random", seconds() - begin, made - begin);
}

static void run_shapes(uint64_t seed, int exact) {
    if (simulated)
        for (size_t i = 0; i < COUNT(small_shapes); i++)
            run_shape(&seed, &small_shapes[i], i, exact, small_m, COUNT(small_m));
    else
        for (size_t i = 0; i < COUNT(large_shapes); i++)
            run_shape(&seed, &large_shapes[i], i, exact, large_m, COUNT(large_m));
}

static void large_shapes_are_exact(void **state) {
    (void)state;
    run_shapes(81, 1);
}

static void large_shapes_match_fp64_and_repeat(void **state) {
    (void)state;
    run_shapes(82, 0);
}

int main(int argc, char **argv) {
    int code = cuda_case_find(argc, argv);
    if (code) return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_shapes_are_exact),
        cmocka_unit_test(large_shapes_match_fp64_and_repeat),
    };
    return cmocka_run_group_tests(tests, cuda_case_begin, cuda_case_end);
}
