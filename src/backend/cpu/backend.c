/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's vtable. */
#include "backend/cpu/cpu.h"

#include "core/memory.h"
#include <fingerprint_cpu.h>

#include <stdio.h>
#include <string.h>

static void config_get(const w4_device *device, size_t index, w4_config *config) {
    (void)device;
    *config = w4_cpu_configs[index].public;
}

static size_t workspace_size(const w4_device *device, size_t index, const w4_problem *problem) {
    const w4_cpu_config *config = &w4_cpu_configs[index];
    return config->method == W4_CPU_METHOD_REFERENCE
               ? 0
               : w4_cpu_fast_workspace(w4_cpu_config_threads(device, index), config, problem);
}

static void identify(const w4_device *device, w4_identity *identity) {
    w4a16_device_info info;
    w4_cpu_device_query(0, &info);
    *identity = (w4_identity){.processors = device->threads, .fingerprint = W4_FINGERPRINT_CPU};
    memcpy(identity->device, info.name, sizeof identity->device);
    snprintf(identity->code, sizeof identity->code, "%s", w4_cpu_level_name(device->allowed));
}

enum { REFERENCE_ROWS = 32 };

/** Task = (panel, some rows). */
static void reference_task(void *user, int64_t task, int thread) {
    const w4_run *run = user;
    int64_t row = task / run->weight->panels * REFERENCE_ROWS;
    (void)thread;
    w4_cpu_reference_panel(run, row, w4_minimum(REFERENCE_ROWS, run->m - row), task % run->weight->panels);
}

static w4a16_status run_config(const w4_device *device, const w4_run *run) {
    char reason[160];
    if (w4_cpu_config_check(device, run->config, &run->problem, reason, sizeof reason))
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "config %s: %s", w4_cpu_configs[run->config].public.name, reason);
    const w4_cpu_config *config = &w4_cpu_configs[run->config];
    int threads = w4_cpu_config_threads(device, run->config);
    if (config->method != W4_CPU_METHOD_REFERENCE && run->weight->fixed_point) {
        w4_cpu_fast_run(device, threads, config, run);
        return W4A16_OK;
    }
    w4_run copy = *run;
    int64_t tasks = run->weight->panels * w4_ceil_divide(run->m, REFERENCE_ROWS);
    w4_cpu_parallel(device, threads, tasks, reference_task, &copy);
    return W4A16_OK;
}

const w4_backend w4_cpu_backend = {
    .name = "cpu",
    .device_count = w4_cpu_device_count,
    .device_query = w4_cpu_device_query,
    .device_open = w4_cpu_device_open,
    .device_close = w4_cpu_device_close,
    .weight_upload = w4_cpu_weight_upload,
    .weight_download = w4_cpu_weight_download,
    .weight_free = w4_cpu_weight_free,
    .weight_bytes = w4_cpu_weight_bytes,
    .config_count = w4_cpu_config_count,
    .config_get = config_get,
    .config_check = w4_cpu_config_check,
    .config_cost = w4_cpu_config_cost,
    .workspace_size = workspace_size,
    .config_threads = w4_cpu_config_threads,
    .identify = identify,
    .run = run_config,
    .run_host = NULL,
    .cold_bytes = w4_cpu_cold_bytes,
    .measure_ceilings = w4_cpu_measure_ceilings,
};
