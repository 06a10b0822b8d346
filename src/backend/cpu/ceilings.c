/* SPDX-License-Identifier: Apache-2.0
 * The speed limits that results are compared with: reading memory, and multiply-adds on registers. */
#include "backend/cpu/cpu.h"

#include "core/clock.h"
#include "core/memory.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { SLICE_BYTES = 1 << 20, ROUNDS = 1 << 14 };

static const double READ_SECONDS = 0.5, MULTIPLY_SECONDS = 0.3;

double w4_cpu_cold_bytes(const w4_device *device) {
    const double least = 400e6, most = 2e9; /* below: too short to time; above: too long to fill */
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    double bytes = cache > 0 ? 2.0 * (double)cache : least; /* twice: caches keep a part of what does not fit */
    (void)device;
    return bytes < least ? least : bytes > most ? most : bytes;
}

/* What a CPU without fast kernels runs: the same loops in plain C. */

static int64_t read_plain(const uint8_t *data, size_t bytes) {
    const uint64_t *words = (const uint64_t *)(const void *)data;
    uint64_t sum[4] = {0};
    for (size_t i = 0; i < bytes / 8; i += 4)
        for (size_t j = 0; j < 4; j++) sum[j] ^= words[i + j];
    return (int64_t)(sum[0] ^ sum[1] ^ sum[2] ^ sum[3]);
}

/** Multiply-adds in double, as in the reference. */
static double multiply_add_plain(int64_t rounds, int32_t *sink) {
    volatile double factor_source = 1.0;
    double factor = factor_source, sums[16];
    for (int i = 0; i < 16; i++) sums[i] = i;
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < 16; i++) sums[i] += factor * sums[i];
    for (int i = 0; i < 16; i++) *sink ^= sums[i] > 1;
    return (double)rounds * 16 * 2;
}

typedef struct ceiling_job {
    int64_t (*read)(const uint8_t *data, size_t bytes);
    double (*multiply_add)(int64_t rounds, int32_t *sink);
    const uint8_t *data;
    double operations; /* of one task */
    int64_t sink;
} ceiling_job;

static void read_task(void *user, int64_t task, int thread) {
    ceiling_job *job = user;
    int64_t sum = job->read(job->data + task * SLICE_BYTES, SLICE_BYTES);
    (void)thread;
    __atomic_fetch_xor(&job->sink, sum, __ATOMIC_RELAXED);
}

static void multiply_task(void *user, int64_t task, int thread) {
    ceiling_job *job = user;
    int32_t sink = (int32_t)task;
    double operations = job->multiply_add(ROUNDS, &sink);
    (void)thread;
    __atomic_fetch_xor(&job->sink, sink, __ATOMIC_RELAXED);
    __atomic_store(&job->operations, &operations, __ATOMIC_RELAXED); /* the same in every task */
}

/** The plain C loops where the device has no fast kernels. */
static ceiling_job make_job(const w4_device *device, const uint8_t *data) {
    const w4_cpu_kernels *kernels = w4_cpu_kernels_of(device->allowed);
    return (ceiling_job){kernels ? kernels->read : read_plain, kernels ? kernels->multiply_add : multiply_add_plain,
                         data, 0, 0};
}

double w4_cpu_read_rate(const w4_device *device, const uint8_t *data, int64_t bytes) {
    ceiling_job job = make_job(device, data);
    double start = w4_clock_now();
    w4_cpu_parallel(device, device->threads, bytes / SLICE_BYTES, read_task, &job);
    return (double)(bytes / SLICE_BYTES * SLICE_BYTES) / (w4_clock_now() - start);
}

double w4_cpu_multiply_rate(const w4_device *device) {
    ceiling_job job = make_job(device, NULL);
    int64_t tasks = (int64_t)device->threads * 16;
    double start = w4_clock_now();
    w4_cpu_parallel(device, device->threads, tasks, multiply_task, &job);
    return job.operations * (double)tasks / (w4_clock_now() - start);
}

w4a16_status w4_cpu_measure_ceilings(const w4_device *device, w4a16_ceilings *ceilings) {
    void *data;
    int64_t bytes = (int64_t)w4_cpu_cold_bytes(device);
    W4_TRY(w4_allocate((uint64_t)bytes, "the memory that the read loop reads", &data));
    for (int64_t i = 0; i < bytes; i += 4096) ((uint8_t *)data)[i] = 1; /* pages of its own, not the zero page */
    double read = 0, multiply = 0, begin = w4_clock_now();
    for (int i = 0; i < 3 || w4_clock_now() - begin < READ_SECONDS; i++)
        read = fmax(read, w4_cpu_read_rate(device, data, bytes));
    free(data);
    begin = w4_clock_now();
    for (int i = 0; i < 3 || w4_clock_now() - begin < MULTIPLY_SECONDS; i++)
        multiply = fmax(multiply, w4_cpu_multiply_rate(device));
    ceilings->read_bytes_per_second = read;
    ceilings->flop_per_second = multiply;
    return W4A16_OK;
}
