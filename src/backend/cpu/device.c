/* SPDX-License-Identifier: Apache-2.0
 * The CPU as a device: what it is called, how it is opened, how work is spread over its threads. */
#include "backend/cpu/cpu.h"

#include "core/memory.h"

#include <ctype.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int w4_cpu_device_count(void) {
    return 1;
}

/** The processor's own name, from the kernel's list; "CPU" where that does not say. */
static void read_name(char *name, size_t size) {
    char line[256];
    snprintf(name, size, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        char *start = colon + 1;
        while (isspace((unsigned char)*start)) start++;
        start[strcspn(start, "\n")] = 0;
        if (*start) snprintf(name, size, "%s", start);
        break;
    }
    fclose(file);
}

void w4_cpu_device_query(int index, w4a16_device_info *info) {
    (void)index; /* there is one */
    w4_cpu_level level = w4_cpu_detect();
    snprintf(info->id, sizeof info->id, "cpu");
    read_name(info->name, sizeof info->name);
#if W4_CPU_X86
    static const char *const features[] = {"", " (avx2, f16c, fma)", " (avx2, f16c, fma, avx512f/bw/vl/vnni)"};
    snprintf(info->architecture, sizeof info->architecture, "x86-64%s", features[level]);
#else
    snprintf(info->architecture, sizeof info->architecture, "portable C");
#endif
    info->usable = 1;
    snprintf(info->reason, sizeof info->reason, "always usable; its best kernels here: %s", w4_cpu_level_name(level));
}

w4a16_status w4_cpu_device_open(int index, const w4a16_context_options *options, w4_device **device) {
    w4_cpu_level available = w4_cpu_detect(), allowed = available;
    const char *wanted = options ? options->cpu_instruction_set : NULL;
    int threads = options ? options->threads : 0;
    if (index != 0) return w4_fail(W4A16_ERROR_NOT_FOUND, "device index %d: there is one CPU device, 0", index);
    if (threads < 0)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.threads is %d; 0 (all) or more is right", threads);
    if (wanted) {
        int level = W4_CPU_REFERENCE;
        while (level <= W4_CPU_AVX512 && strcmp(wanted, w4_cpu_level_name((w4_cpu_level)level)) != 0) level++;
        if (level > W4_CPU_AVX512)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                           "options.cpu_instruction_set is '%s'; NULL, 'reference', 'avx2' or 'avx512' is right",
                           wanted);
        if (level > (int)available)
            return w4_fail(W4A16_ERROR_UNSUPPORTED,
                           "options.cpu_instruction_set is '%s', but this CPU has at most '%s'", wanted,
                           w4_cpu_level_name(available));
        allowed = (w4_cpu_level)level;
    }
    w4_device *opened = calloc(1, sizeof *opened);
    if (!opened) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "no memory for the CPU device");
    opened->available = available;
    opened->allowed = allowed;
    opened->threads = threads ? threads : omp_get_max_threads();
    *device = opened;
    return W4A16_OK;
}

void w4_cpu_device_close(w4_device *device) {
    free(device);
}

void w4_cpu_parallel(const w4_device *device, int threads, int64_t tasks,
                     void (*body)(void *user, int64_t task, int thread), void *user) {
    if (tasks < threads) threads = (int)tasks;
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; task++) body(user, task, 0);
        return;
    }
    /* Neighbouring tasks lie side by side in memory: hand them out in runs, several for each thread, so that a thread
     * that is held up by other work does not hold up the rest. */
    int64_t run = w4_maximum(1, tasks / (threads * (int64_t)16)), next = 0;
    /* The team is always the context's, though only some of it work: GNU's OpenMP ends the threads that a smaller team
     * does not need and starts them anew for the next larger one, which takes hundreds of microseconds. */
#pragma omp parallel num_threads(device->threads)
    {
        int thread = omp_get_thread_num();
        int64_t begin = thread < threads ? 0 : tasks;
        while (begin < tasks) {
            begin = __atomic_fetch_add(&next, run, __ATOMIC_RELAXED);
            int64_t end = w4_minimum(begin + run, tasks);
            for (int64_t task = begin; task < end; task++) body(user, task, thread);
        }
    }
}
