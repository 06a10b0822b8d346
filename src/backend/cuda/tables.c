/* SPDX-License-Identifier: Apache-2.0
 * What is shipped of the GPUs that were measured: tables of times, and constants of the cost model. */
#include "backend/cuda/costs.h"
#include "backend/cuda/device.h"

#define W4_TUNED(n, k, group_size, dtype, scale_dtype, zeros, m, config, microseconds)                                 \
    {n, k, group_size, W4A16_##dtype, W4A16_##scale_dtype, W4A16_ZERO_##zeros, m, #config, microseconds},
static const w4_shipped_row h200_rows[] = {
#include "backend/cuda/tuned_h200.def"
};
static const w4_shipped_row h100_rows[] = {
#include "backend/cuda/tuned_h100.def"
};
#undef W4_TUNED

#define W4_MEMORY_RATE(rate) .memory_rate = rate,
#define W4_COST(name, call, stage, further, saturated) .config[CONFIG_##name] = {call, stage, further, saturated},
static const w4_cuda_costs h200_costs = {
#include "backend/cuda/costs_h200.def"
};
static const w4_cuda_costs h100_costs = {
#include "backend/cuda/costs_h100.def"
};
#undef W4_MEMORY_RATE
#undef W4_COST

/** They hold for what sets the speed, whatever the GPU is called. */
static const struct {
    bool sm90;
    int32_t processors, memory_mhz;
    w4_shipped_table table;
    const w4_cuda_costs *costs;
} measured[] = {
    {true, 132, 3200, {"NVIDIA H200", h200_rows, sizeof h200_rows / sizeof *h200_rows}, &h200_costs},
    {true, 132, 2600, {"NVIDIA H100 80GB HBM3", h100_rows, sizeof h100_rows / sizeof *h100_rows}, &h100_costs},
};

/** Which of them is like this one; -1: none. */
static int measured_like(const w4_device *device) {
    for (size_t i = 0; i < sizeof measured / sizeof *measured; i++)
        if (measured[i].sm90 == device->runs.sm90 && measured[i].processors == device->processors &&
            measured[i].memory_mhz == device->memory_mhz)
            return (int)i;
    return -1;
}

const w4_shipped_table *w4_cuda_table(const w4_device *device) {
    int like = measured_like(device);
    return like < 0 ? NULL : &measured[like].table;
}

double w4_cuda_measured_rate(const w4_device *device) {
    int like = measured_like(device);
    return like < 0 ? 0 : measured[like].costs->memory_rate;
}

const w4_cuda_cost *w4_cuda_cost_of(const w4_device *device, size_t index) {
    const size_t count = sizeof measured / sizeof *measured;
    int like = measured_like(device);
    size_t first = like < 0 ? 0 : (size_t)like;
    for (size_t i = 0; i < count; i++) {
        const w4_cuda_cost *cost = &measured[(first + i) % count].costs->config[index];
        if (cost->stage > 0) return cost;
    }
    return NULL;
}
