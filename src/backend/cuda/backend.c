/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend's vtable. */
#include "backend/cuda/device.h"

#include <fingerprint_cuda.h>

#include <stdio.h>
#include <string.h>

static size_t config_count(const w4_device *device) {
    (void)device;
    return w4_cuda_config_count;
}

static void config_get(const w4_device *device, size_t index, w4_config *config) {
    (void)device;
    *config = w4_cuda_configs[index].public;
}

static void identify(const w4_device *device, w4_identity *identity) {
    *identity = (w4_identity){
        .processors = device->processors, .memory_mhz = device->memory_mhz, .fingerprint = W4_FINGERPRINT_CUDA};
    snprintf(identity->device, sizeof identity->device, "%s", device->name);
    snprintf(identity->code, sizeof identity->code, "%s", device->runs.sm90 ? "sm_90a" : device->runs.code);
}

/** Several times the L2 cache of any GPU with these kernels. */
static double cold_bytes(const w4_device *device) {
    (void)device;
    return 400e6;
}

/** PTX is compiled by the driver: seconds for each kernel that its cache has not yet. */
static bool prepares_ahead(const w4_device *device) {
    return strncmp(device->runs.code, "compute_", 8) != 0;
}

const w4_backend w4_cuda_backend = {
    .name = "cuda",
    .device_count = w4_cuda_device_count,
    .device_query = w4_cuda_device_query,
    .device_open = w4_cuda_device_open,
    .device_close = w4_cuda_device_close,
    .weight_upload = w4_cuda_weight_upload,
    .weight_upload_packed = w4_cuda_weight_upload_packed,
    .weight_download = w4_cuda_weight_download,
    .weight_free = w4_cuda_weight_free,
    .weight_bytes = w4_cuda_weight_bytes,
    .weight_zero_kind = w4_cuda_weight_zero_kind,
    .config_count = config_count,
    .config_get = config_get,
    .config_check = w4_cuda_config_check,
    .config_cost = w4_cuda_config_cost,
    .config_rough = w4_cuda_config_rough,
    .workspace_size = w4_cuda_workspace_size,
    .identify = identify,
    .table = w4_cuda_table,
    .prepare = w4_cuda_prepare,
    .prepares_ahead = prepares_ahead,
    .run = w4_cuda_run,
    .run_host = w4_cuda_run_host,
    .time_cold = w4_cuda_time_cold,
    .cold_bytes = cold_bytes,
    .measure_ceilings = w4_cuda_measure_ceilings,
};
