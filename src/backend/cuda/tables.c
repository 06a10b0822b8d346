/* SPDX-License-Identifier: Apache-2.0
 * The tables of measured times that are shipped, one for each GPU that was measured. */
#include "backend/cuda/device.h"

static const w4_shipped_row h200[] = {
#define W4_TUNED(n, k, group_size, dtype, scale_dtype, zeros, m, config, microseconds)                                 \
    {n, k, group_size, W4A16_##dtype, W4A16_##scale_dtype, W4A16_ZERO_##zeros, m, #config, microseconds},
#include "backend/cuda/tuned_h200.def"
#undef W4_TUNED
};

/** A table holds for what sets the speed, whatever the GPU is called. */
static const struct {
    bool sm90;
    int32_t processors, memory_mhz;
    w4_shipped_table table;
} tables[] = {
    {true, 132, 3200, {"NVIDIA H200", h200, sizeof h200 / sizeof *h200}},
};

const w4_shipped_table *w4_cuda_table(const w4_device *device) {
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (tables[i].sm90 == device->runs.sm90 && tables[i].processors == device->processors &&
            tables[i].memory_mhz == device->memory_mhz)
            return &tables[i].table;
    return NULL;
}
