/* SPDX-License-Identifier: Apache-2.0
 * One kernel of kernels/sm80/kernels.def on the CPU, compiled as the GPU's code is: -DW4_CONFIG_NAME=... and so on.
 * Decode kernels have W4_STAGES. */
#include "emulate.h"

#define __syncthreads() __syncthreads_of(32 * W4_WARPS)
#ifdef W4_STAGES
#include "sm80/decode.cu"
typedef w4_decode_params kernel_params;
#define W4_KERNEL decode
#else
#include "sm80/gemm.cu"
typedef w4_sm80_gemm_params kernel_params;
#define W4_KERNEL gemm
#endif

#include <cstdio>

#define W4_LAUNCHER_NAME(name) w4_emulate_##name
#define W4_LAUNCHER(name) W4_LAUNCHER_NAME(name)
#define W4_TEXT_OF(text) #text
#define W4_TEXT(text) W4_TEXT_OF(text)

/** Shared memory of a CTA that has just started: numbers that are none. */
static void begin_cta() {
    memset(memory, 0xff, sizeof memory);
}

/** Run entry point `entry`; 0 if there is no such one. */
extern "C" int W4_LAUNCHER(W4_CONFIG_NAME)(const char *entry, unsigned grid, unsigned threads, int late,
                                           const void *params) {
    static const struct {
        const char *name;
        void (*run)(const void *);
    } entries[] = {
#undef W4_ENTRY
#define W4_ENTRY(name, suffix, is_bf16, zero)                                                                          \
    {"w4_" W4_TEXT(name) "_" #suffix, [](const void *p) { W4_KERNEL<is_bf16, zero>(*(const kernel_params *)p); }},
#include "common_gpu/entries.cuh"
    };
    for (const auto &it : entries)
        if (strcmp(it.name, entry) == 0) {
            if (threads != THREADS) {
                fprintf(stderr, "%s: launched with %u threads\n", entry, threads);
                abort();
            }
            emulate_launch(grid, threads, late != 0, it.run, params, begin_cta);
            return 1;
        }
    return 0;
}
