/* SPDX-License-Identifier: Apache-2.0
 * Time every CPU config on cold weights, each call beside the read bandwidth and the multiply-add rate of the moment:
 *
 *     cpu_bench [N K GROUP_SIZE [M...]]        (4096 14336 128, M 1 2 4 8 16 32 64 128 512)
 *     CPU_BENCH_CONFIG=m6n16 cpu_bench ...     only configs whose name contains the text
 *     CPU_BENCH_THREADS=1 cpu_bench ...
 *
 * A config that is wrong against fp64 on a sample of C is reported and not timed. */
#include "backend/cpu/cpu.h"
#include "core/clock.h"
#include "core/half.h"
#include "core/median.h"
#include "core/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double SECONDS = 1.5;

enum { SAMPLES = 400, MOST_RUNS = 4000 };

static void must(w4a16_status status) {
    if (status == W4A16_OK) return;
    fprintf(stderr, "cpu_bench: %s\n", w4a16_last_error());
    exit(1);
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static double random_real(uint64_t *state) {
    return (double)(int64_t)next_random(state) * 0x1p-63;
}

/** Relative Frobenius error against fp64, on elements picked at random. */
static double sample_error(const w4_matrix *matrix, const w4_run *run) {
    uint64_t state = 99;
    double error = 0, norm = 0;
    for (int i = 0; i < SAMPLES; i++) {
        int64_t m = (int64_t)(next_random(&state) % (uint64_t)run->m);
        int64_t n = (int64_t)(next_random(&state) % (uint64_t)matrix->n);
        double sum = 0;
        for (int64_t k = 0; k < matrix->k; k++) {
            size_t group = (size_t)(n * matrix->groups + k / matrix->group_size);
            double scale = w4_load_float(matrix->scales, matrix->scale_dtype, group);
            sum += w4_load_float(run->a, W4A16_FP16, (size_t)(m * run->lda + k)) *
                   (w4_matrix_code(matrix, n, k) - 8.0) * scale;
        }
        double difference = w4_load_float(run->c, W4A16_FP16, (size_t)(m * run->ldc + n)) - sum;
        error += difference * difference;
        norm += sum * sum;
    }
    return sqrt(error / norm);
}

typedef struct timing {
    double seconds;          /* median of the calls */
    double of_read, of_peak; /* medians of the call's rate over the limit's, measured just after it */
} timing;

/** Each call takes the next of `copies` weights, and is followed by one pass of the read loop over another copy and by
 * one burst of multiply-adds: on a machine whose speed drifts only neighbours in time can be compared. */
static timing time_calls(const w4_device *device, w4_run *run, w4_device_weight **weights, int copies, double flop) {
    static double times[MOST_RUNS], of_read[MOST_RUNS], of_peak[MOST_RUNS];
    int count = 0;
    double begin = w4_clock_now(), bytes = (double)w4_cpu_backend.weight_bytes(weights[0]);
    while (count < MOST_RUNS && (count < 5 || w4_clock_now() - begin < SECONDS)) {
        run->weight = weights[2 * count % copies];
        double start = w4_clock_now();
        must(w4_cpu_backend.run(device, run));
        times[count] = w4_clock_now() - start;
        const w4_device_weight *other = weights[(2 * count + 1) % copies];
        of_read[count] = bytes / times[count] / w4_cpu_read_rate(device, other->data, (int64_t)bytes);
        of_peak[count] = flop / times[count] / w4_cpu_multiply_rate(device);
        count++;
    }
    size_t calls = (size_t)count;
    return (timing){w4_median(times, calls), w4_median(of_read, calls), w4_median(of_peak, calls)};
}

int main(int argc, char **argv) {
    static const int64_t default_m[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};
    int64_t n = argc > 1 ? atoll(argv[1]) : 4096, k = argc > 2 ? atoll(argv[2]) : 14336;
    int64_t group_size = argc > 3 ? atoll(argv[3]) : 128, largest = 1;
    int m_count = argc > 4 ? argc - 4 : (int)(sizeof default_m / sizeof *default_m);
    const char *only = getenv("CPU_BENCH_CONFIG"), *threads = getenv("CPU_BENCH_THREADS");
    w4a16_context_options options = {.struct_size = sizeof options, .threads = threads ? atoi(threads) : 0};
    w4_device *device;
    w4_matrix matrix;
    must(w4_cpu_backend.device_open(0, &options, &device));
    must(w4_matrix_create(n, k, group_size, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0, &matrix));
    uint64_t state = 42;
    for (int64_t i = 0; i < n * w4_matrix_row_bytes(&matrix); i++) matrix.codes[i] = (uint8_t)next_random(&state);
    for (int64_t i = 0; i < n * matrix.groups; i++)
        w4_store_double(matrix.scales, W4A16_FP16, (size_t)i, 0.01 + 0.005 * random_real(&state));
    for (int i = 0; i < m_count; i++) largest = w4_maximum(largest, argc > 4 ? atoll(argv[4 + i]) : default_m[i]);

    enum { MOST_COPIES = 16384 };
    static w4_device_weight *weights[MOST_COPIES];
    must(w4_cpu_backend.weight_upload(device, &matrix, &weights[0]));
    double bytes = (double)w4_cpu_backend.weight_bytes(weights[0]);
    int copies = (int)fmin(MOST_COPIES, fmax(2, ceil(w4_cpu_backend.cold_bytes(device) / bytes)));
    for (int i = 1; i < copies; i++) must(w4_cpu_backend.weight_upload(device, &matrix, &weights[i]));

    void *a, *c, *workspace;
    must(w4_allocate((uint64_t)(largest * k) * 2, "A", &a));
    must(w4_allocate((uint64_t)(largest * n) * 2, "C", &c));
    for (int64_t i = 0; i < largest * k; i++)
        w4_store_double(a, W4A16_FP16, (size_t)i, random_real(&state) + random_real(&state) + random_real(&state));

    printf("N %lld, K %lld, group %lld, %.1f MB packed, %d copies\n", (long long)n, (long long)k, (long long)group_size,
           bytes * 1e-6, copies);
    printf("%5s %-24s %10s %9s %8s %10s %8s %10s %9s\n", "M", "config", "us", "GB/s", "of read", "GFLOP/s", "of peak",
           "predicted", "error");
    for (int i = 0; i < m_count; i++) {
        w4_problem problem = {argc > 4 ? atoll(argv[4 + i]) : default_m[i],
                              n,
                              k,
                              matrix.group_size,
                              W4A16_FP16,
                              W4A16_FP16,
                              W4A16_FP16,
                              W4A16_ZERO_SYMMETRIC,
                              0,
                              false};
        w4a16_ceilings ceilings = {.struct_size = sizeof ceilings};
        must(w4_cpu_backend.measure_ceilings(device, &ceilings));
        printf("      %-24s %10s %9.1f %8s %10.1f\n", "ceilings", "", ceilings.read_bytes_per_second * 1e-9, "",
               ceilings.flop_per_second * 1e-9);
        for (size_t index = 0; index < w4_cpu_backend.config_count(device); index++) {
            w4_config config;
            char reason[160], *memory;
            w4_cpu_backend.config_get(device, index, &config);
            if (only ? !strstr(config.name, only) : !strcmp(config.name, "cpu_reference")) continue;
            if (w4_cpu_backend.config_check(device, index, &problem, reason, sizeof reason)) continue;
            must(w4_allocate(w4_cpu_backend.workspace_size(device, index, &problem) + W4_WORKSPACE_ALIGNMENT,
                             "the workspace", &workspace));
            memory = workspace;
            memory += W4_WORKSPACE_ALIGNMENT - (uintptr_t)memory % W4_WORKSPACE_ALIGNMENT;
            w4_run run = {.config = index,
                          .problem = problem,
                          .a = a,
                          .lda = k,
                          .c = c,
                          .ldc = n,
                          .m = problem.m,
                          .alpha = 1,
                          .workspace = memory,
                          .weight = weights[0]};
            must(w4_cpu_backend.run(device, &run));
            double error = sample_error(&matrix, &run);
            if (!(error < 2e-3)) {
                printf("%5lld %-24s wrong: relative error %g\n", (long long)problem.m, config.name, error);
                return 1;
            }
            double flop = 2.0 * (double)problem.m * (double)n * (double)k;
            timing time = time_calls(device, &run, weights, copies, flop);
            printf("%5lld %-24s %10.1f %9.1f %7.1f%% %10.1f %7.1f%% %10.1f %9.2g\n", (long long)problem.m, config.name,
                   time.seconds * 1e6, bytes / time.seconds * 1e-9, 100 * time.of_read, flop / time.seconds * 1e-9,
                   100 * time.of_peak, 1e6 * w4_cpu_backend.config_cost(device, index, &problem), error);
            fflush(stdout);
            free(workspace);
        }
    }
    for (int i = 0; i < copies; i++) w4_cpu_backend.weight_free(weights[i]);
    w4_matrix_free(&matrix);
    free(a);
    free(c);
    w4_cpu_backend.device_close(device);
    return 0;
}
