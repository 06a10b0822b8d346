/* SPDX-License-Identifier: Apache-2.0
 * The profiler: random problem, check against fp64 on a sample of the outputs, cold-weight timing. */
#include "tune/profile.h"

#include "core/clock.h"
#include "core/half.h"
#include "core/median.h"
#include "core/memory.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_COPIES = 16384, /* small weights still overflow the caches */
    MIN_RUNS = 10,
    MAX_RUNS = 100000,
    WARM_UP_RUNS = 3,
    SAMPLED_ROWS = 256 /* of A, in the check */
};
static const double CHECK_PRODUCTS = 3e8; /* fp64 multiply-adds that a check may take */
static const double ERROR_LIMIT = 2e-3;   /* relative Frobenius; docs and tests hold every kernel to it */
/* A few bf16 outputs can miss that limit by their own rounding. No kernel is to blame for what the rounding of the fp64
 * result costs, and for one neighbouring value here and there. */
static const double INHERENT_SHARE = 1.1;

/** What one profiled problem needs besides weights. */
typedef struct buffers {
    w4_problem problem; /* what they were made for; m is 0: nothing */
    void *a, *c;
    /* The sample that is checked: rows of A, columns of C, what [columns][rows] of C are exactly, and two sums of
     * squares: of that, and of its errors once it is rounded to C's dtype. */
    int64_t rows, columns;
    int64_t *row_of, *column_of;
    double *exact, total, rounding;
} buffers;

struct w4_profile_pool {
    const w4_backend *backend;
    w4_device *device;
    pthread_mutex_t lock;
    w4_problem problem; /* what the copies were made for */
    w4_matrix matrix;
    w4_device_weight **copies;
    size_t copy_count;
    buffers buffers;
};

const w4_backend *w4_profile_pool_backend(const w4_profile_pool *pool) {
    return pool->backend;
}

const w4_device *w4_profile_pool_device(const w4_profile_pool *pool) {
    return pool->device;
}

w4a16_status w4_profile_pool_create(const w4_backend *backend, w4_device *device, w4_profile_pool **pool) {
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4_profile_pool), "the profiler", &memory));
    w4_profile_pool *result = memory;
    result->backend = backend;
    result->device = device;
    pthread_mutex_init(&result->lock, NULL);
    *pool = result;
    return W4A16_OK;
}

static void drop_buffers(buffers *all) {
    free(all->a);
    free(all->c);
    free(all->row_of);
    free(all->column_of);
    free(all->exact);
    *all = (buffers){.a = NULL};
}

static void drop_copies(w4_profile_pool *pool) {
    drop_buffers(&pool->buffers); /* their exact results are of this matrix */
    for (size_t i = 0; i < pool->copy_count; i++) pool->backend->weight_free(pool->copies[i]);
    free(pool->copies);
    pool->copies = NULL;
    pool->copy_count = 0;
    w4_matrix_free(&pool->matrix);
}

void w4_profile_pool_drop(w4_profile_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    drop_copies(pool);
    pthread_mutex_unlock(&pool->lock);
}

void w4_profile_pool_destroy(w4_profile_pool *pool) {
    if (!pool) return;
    drop_copies(pool);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/** splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/** Uniform in [0, 1). */
static double next_uniform(uint64_t *state) {
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

/** Roughly normal with variance 1: the sum of four uniforms. */
static double next_normal(uint64_t *state) {
    double sum = next_uniform(state) + next_uniform(state) + next_uniform(state) + next_uniform(state);
    return (sum - 2.0) * 1.7320508075688772;
}

static w4a16_status make_matrix(const w4_problem *problem, w4_matrix *matrix) {
    uint64_t seed = 20;
    W4_TRY(w4_matrix_create(problem->n, problem->k, problem->group_size, problem->scale_dtype, problem->zero_kind, 0,
                            matrix));
    size_t bytes = (size_t)matrix->n * (size_t)w4_matrix_row_bytes(matrix);
    for (size_t i = 0; i < bytes; i++) matrix->codes[i] = (uint8_t)(next_random(&seed) >> 32);
    if (matrix->k & 1)
        for (int64_t row = 1; row <= matrix->n; row++) matrix->codes[row * w4_matrix_row_bytes(matrix) - 1] &= 15;
    size_t entries = (size_t)matrix->n * (size_t)matrix->groups;
    /* Outputs of about 1, whatever K is: far from both ends of fp16. */
    double typical = 0.2 / sqrt((double)problem->k);
    for (size_t i = 0; i < entries; i++) {
        w4_store_double(matrix->scales, matrix->scale_dtype, i, typical * (0.5 + next_uniform(&seed)));
        double zero = floor(next_uniform(&seed) * 16);
        if (matrix->zero_kind == W4A16_ZERO_INTEGER) ((uint8_t *)matrix->zeros)[i] = (uint8_t)zero;
        if (matrix->zero_kind == W4A16_ZERO_FLOAT) ((float *)matrix->zeros)[i] = (float)(zero + next_uniform(&seed));
    }
    return W4A16_OK;
}

static int same_weights(const w4_problem *a, const w4_problem *b) {
    return a->n == b->n && a->k == b->k && a->group_size == b->group_size && a->scale_dtype == b->scale_dtype &&
           a->zero_kind == b->zero_kind;
}

static w4a16_status fill_pool(w4_profile_pool *pool, const w4_problem *problem) {
    if (pool->copy_count && same_weights(&pool->problem, problem)) return W4A16_OK;
    drop_copies(pool);
    pool->problem = *problem;
    w4a16_status status = make_matrix(problem, &pool->matrix);
    void *memory = NULL;
    if (!status) status = w4_allocate(MAX_COPIES * sizeof *pool->copies, "the profiler's weights", &memory);
    pool->copies = memory;
    double bytes = 0, cold_bytes = pool->backend->cold_bytes(pool->device);
    while (!status && pool->copy_count < MAX_COPIES && (bytes < cold_bytes || pool->copy_count < 2)) {
        w4_device_weight **copy = &pool->copies[pool->copy_count];
        status = pool->backend->weight_upload(pool->device, &pool->matrix, copy);
        if (status) break;
        bytes += (double)pool->backend->weight_bytes(*copy);
        pool->copy_count++;
    }
    if (status) drop_copies(pool);
    return status;
}

/** Rows and columns of the sample: all of them where they fit, else one at random out of each of so many equal
 * intervals. */
static w4a16_status choose_sample(const w4_problem *problem, buffers *all) {
    uint64_t seed = 4;
    void *memory;
    all->rows = w4_minimum(problem->m, SAMPLED_ROWS);
    all->columns = (int64_t)(CHECK_PRODUCTS / (double)(all->rows * problem->k));
    all->columns = w4_minimum(w4_maximum(all->columns, 16), problem->n);
    W4_TRY(w4_allocate((uint64_t)all->rows * sizeof *all->row_of, "the check", &memory));
    all->row_of = memory;
    W4_TRY(w4_allocate((uint64_t)all->columns * sizeof *all->column_of, "the check", &memory));
    all->column_of = memory;
    W4_TRY(w4_allocate((uint64_t)(all->rows * all->columns) * sizeof *all->exact, "the check", &memory));
    all->exact = memory;
    for (int64_t i = 0; i < all->rows; i++)
        all->row_of[i] = (int64_t)(((double)i + (all->rows < problem->m ? next_uniform(&seed) : 0)) *
                                   (double)problem->m / (double)all->rows);
    for (int64_t i = 0; i < all->columns; i++)
        all->column_of[i] = (int64_t)(((double)i + (all->columns < problem->n ? next_uniform(&seed) : 0)) *
                                      (double)problem->n / (double)all->columns);
    return W4A16_OK;
}

/** The sample in fp64. */
static w4a16_status compute_sample(const w4_matrix *matrix, const w4_problem *problem, buffers *all) {
    int64_t k = problem->k, rows = all->rows;
    void *memory;
    W4_TRY(w4_allocate((uint64_t)(rows * k) * sizeof(float), "the check", &memory));
    float *a = memory;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < k; j++)
            a[i * k + j] = w4_load_float(all->a, problem->a_dtype, (size_t)(all->row_of[i] * k + j));
    double rounding = 0, total = 0;
    int failed = 0;
#pragma omp parallel for schedule(static) reduction(+ : rounding, total, failed)
    for (int64_t i = 0; i < all->columns; i++) {
        double *w = malloc((size_t)k * sizeof *w);
        if (!w) {
            failed++;
            continue;
        }
        int64_t column = all->column_of[i];
        for (int64_t j = 0; j < k; j++) {
            int64_t group = j / matrix->group_size;
            double scale =
                w4_load_float(matrix->scales, matrix->scale_dtype, (size_t)(column * matrix->groups + group));
            w[j] = (w4_matrix_code(matrix, column, j) - w4_matrix_zero(matrix, column, group)) * scale;
        }
        for (int64_t row = 0; row < rows; row++) {
            double sum = 0;
            for (int64_t j = 0; j < k; j++) sum += w[j] * (double)a[row * k + j];
            float stored;
            w4_store_double(&stored, problem->c_dtype, 0, sum);
            double rounded = w4_load_float(&stored, problem->c_dtype, 0);
            rounding += (rounded - sum) * (rounded - sum);
            total += sum * sum;
            all->exact[i * rows + row] = sum;
        }
        free(w);
    }
    free(a);
    all->rounding = rounding;
    all->total = total;
    return failed ? w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the check") : W4A16_OK;
}

static w4a16_status make_buffers(const w4_matrix *matrix, const w4_problem *problem, buffers *all) {
    uint64_t a_count, c_count;
    if (!w4_multiply((uint64_t)problem->m, (uint64_t)problem->k, &a_count) ||
        !w4_multiply((uint64_t)problem->m, (uint64_t)problem->n, &c_count))
        return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the activations of this problem");
    W4_TRY(w4_allocate(a_count * 2, "activations", &all->a));
    W4_TRY(w4_allocate(c_count * 2, "outputs", &all->c));
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < problem->m; row++) {
        uint64_t seed = 16 + (uint64_t)row * UINT64_C(0x2545f4914f6cdd1d);
        for (int64_t j = 0; j < problem->k; j++)
            w4_store_double(all->a, problem->a_dtype, (size_t)(row * problem->k + j), next_normal(&seed));
    }
    W4_TRY(choose_sample(problem, all));
    return compute_sample(matrix, problem, all);
}

static w4a16_status fill_buffers(w4_profile_pool *pool, const w4_problem *problem) {
    buffers *all = &pool->buffers;
    if (all->problem.m == problem->m && all->problem.a_dtype == problem->a_dtype &&
        all->problem.c_dtype == problem->c_dtype)
        return W4A16_OK; /* and the weights are the same: making others drops the buffers */
    drop_buffers(all);
    w4a16_status status = make_buffers(&pool->matrix, problem, all);
    if (status)
        drop_buffers(all);
    else
        all->problem = *problem;
    return status;
}

/** Relative Frobenius error of C on the sample, and the one that the fp64 result has after rounding to C's dtype
 * (`inherent`). */
static void sampled_error(const w4_problem *problem, const buffers *all, double *error, double *inherent) {
    double difference = 0;
    for (int64_t i = 0; i < all->columns; i++)
        for (int64_t row = 0; row < all->rows; row++) {
            size_t place = (size_t)(all->row_of[row] * problem->n + all->column_of[i]);
            double gap = w4_load_float(all->c, problem->c_dtype, place) - all->exact[i * all->rows + row];
            difference += gap * gap;
        }
    /* All sums may be 0: then any difference at all is wrong. */
    *error = all->total > 0 ? sqrt(difference / all->total) : difference == 0 ? 0 : HUGE_VAL;
    *inherent = all->total > 0 ? sqrt(all->rounding / all->total) : 0;
}

/** The median of runs of a device whose `run` returns when C is complete, by the host's clock. */
static w4a16_status time_on_host(const w4_profile_pool *pool, w4_run run, w4_profile_effort effort, double *seconds,
                                 int *timed) {
    const double long_time = effort.give_up > 0 ? 1 : 10 * fmax(1, floor(effort.min_seconds));
    double *times = malloc(MAX_RUNS * sizeof *times);
    if (!times) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the profiler's times");
    w4a16_status status = W4A16_OK;
    double first = 0, begin = w4_clock_now();
    int runs = 0, total = 0;
    while (!status && runs < MAX_RUNS && (runs < MIN_RUNS || w4_clock_now() - begin < effort.min_seconds)) {
        run.weight = pool->copies[(size_t)total % pool->copy_count];
        double start = w4_clock_now();
        status = pool->backend->run(pool->device, &run);
        double taken = w4_clock_now() - start;
        if (total == 0) first = taken;
        if (total == 0 && effort.give_up > 0 && taken > effort.give_up) {
            times[runs++] = taken;
            break;
        }
        /* Slow problems warm up within one run. */
        int warm_up = first > 0.5 ? 1 : WARM_UP_RUNS;
        if (total >= warm_up)
            times[runs++] = taken;
        else
            begin = w4_clock_now();
        total++;
        if (runs >= 3 && w4_clock_now() - begin > long_time) break; /* ten runs would take long */
    }
    if (!status) {
        *seconds = w4_median(times, (size_t)runs);
        *timed = runs;
    }
    free(times);
    return status;
}

static w4a16_status check_and_time(w4_profile_pool *pool, const w4_problem *problem, size_t config,
                                   w4_profile_effort effort, void *workspace, w4a16_profile_result *result) {
    const w4_backend *backend = pool->backend;
    const buffers *all = &pool->buffers;
    w4_config information;
    backend->config_get(pool->device, config, &information);
    w4_run run = {.config = config,
                  .problem = *problem,
                  .weight = pool->copies[0],
                  .a = all->a,
                  .lda = problem->k,
                  .c = all->c,
                  .ldc = problem->n,
                  .m = problem->m,
                  .alpha = 1.0f,
                  .workspace = workspace};
    memset(all->c, 0xff, (size_t)problem->m * (size_t)problem->n * 2); /* NaN: an element left out will show */
    W4_TRY(backend->run_host ? backend->run_host(pool->device, &run) : backend->run(pool->device, &run));
    double error = HUGE_VAL, inherent = 0, seconds = 0;
    int runs = 0;
    sampled_error(problem, all, &error, &inherent);
    if (!(error < ERROR_LIMIT || error <= INHERENT_SHARE * inherent))
        return w4_fail(W4A16_ERROR_INTERNAL,
                       "config '%s' is wrong: relative error %g against fp64, the limit is %g; it was not timed",
                       information.name, error, ERROR_LIMIT);
    if (backend->time_cold)
        W4_TRY(backend->time_cold(pool->device, &run, pool->copies, pool->copy_count, effort.min_seconds, &seconds,
                                  &runs));
    else
        W4_TRY(time_on_host(pool, run, effort, &seconds, &runs));
    *result = (w4a16_profile_result){.config = information.name,
                                     .threads = w4_plan_threads(backend, pool->device, config),
                                     .seconds = seconds,
                                     .relative_error = error,
                                     .runs = runs};
    return W4A16_OK;
}

w4a16_status w4_profile_run(w4_profile_pool *pool, const w4_problem *problem, size_t config, w4_profile_effort effort,
                            w4a16_profile_result *result) {
    void *workspace = NULL;
    pthread_mutex_lock(&pool->lock);
    w4a16_status status = fill_pool(pool, problem);
    if (!status) status = fill_buffers(pool, problem);
    /* A device with memory of its own has its workspace there. */
    size_t bytes = pool->backend->run_host ? 0 : pool->backend->workspace_size(pool->device, config, problem);
    if (!status) status = w4_allocate_aligned(bytes, W4_WORKSPACE_ALIGNMENT, "a workspace", &workspace);
    if (!status) status = check_and_time(pool, problem, config, effort, workspace, result);
    free(workspace);
    pthread_mutex_unlock(&pool->lock);
    return status;
}
