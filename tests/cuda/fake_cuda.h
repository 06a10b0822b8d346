/* SPDX-License-Identifier: Apache-2.0
 * The fake driver's kernels: what the GPU's compute, one element at a time, in double. */
#ifndef W4A16_TESTS_FAKE_CUDA_H
#define W4A16_TESTS_FAKE_CUDA_H

#include "pack_params.h"
#include "params.h"
#include "sm80/decode_params.h"
#include "sm80/gemm_params.h"
#include "sm90/gemm_params.h"

#include <cuda.h>

/** What the fake tensor map keeps of A[m, k] or C[m, n]. */
typedef struct fake_map {
    const void *address;
    uint64_t columns, rows, stride;
    int is_bf16;
    uint32_t box_rows, box_blocks; /* what a copy takes */
} fake_map;

/** Launches of GEMM kernels so far, and of those the ones that may start while the kernel before them runs; and images
 * loaded: what a test asks the library libcuda.so.1 for by name. */
typedef struct fake_launches {
    unsigned gemms, overlapping, images;
} fake_launches;
fake_launches fake_count_launches(void);

/** Whether a launch of a GEMM kernel keeps to what the kernel expects of its parameters. */
int fake_sm80_is_sound(const w4_sm80_gemm_params *params, int any_group, unsigned grid, unsigned threads,
                       unsigned shared_bytes);
int fake_sm90_is_sound(const w4_sm90_gemm_params *params, const fake_map *activations, const fake_map *results);
int fake_decode_is_sound(const w4_decode_params *params, unsigned grid, unsigned threads, unsigned shared_bytes);
/** In the library with the emulated kernels: run the source of the sm80 kernel with this entry point. */
void fake_emulate(const char *entry, unsigned grid, unsigned threads, const void *params);
void fake_gemm(const w4_gemm_params *params, const fake_map *map);
void fake_gather(const w4_gather_params *params);
void fake_pack(const w4_pack_params *params);

#endif
