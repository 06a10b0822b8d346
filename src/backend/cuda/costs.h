/* SPDX-License-Identifier: Apache-2.0
 * What was measured on a GPU and fitted to the cost model, which costs.c and tools/gpu_costs.py state. */
#ifndef W4_CUDA_COSTS_H
#define W4_CUDA_COSTS_H

#include "backend/cuda/config_index.h"

/** Of a config, in nanoseconds; zeros where it was never measured. */
typedef struct w4_cuda_cost {
    double call, stage, further, saturated;
} w4_cuda_cost;

/** What costs_GPU.def has. */
typedef struct w4_cuda_costs {
    double memory_rate; /* bytes a second: what reading cold memory reaches */
    w4_cuda_cost config[CONFIG_COUNT];
} w4_cuda_costs;

#endif
