/* SPDX-License-Identifier: Apache-2.0
 * Which of the embedded code a GPU runs, by its compute capability. */
#ifndef W4_CUDA_ARCHITECTURE_H
#define W4_CUDA_ARCHITECTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct w4_cuda_architecture {
    int32_t first, last; /* compute capabilities, 10 * major + minor */
    const char *code;    /* of the sm80 and the small kernels, as cmake/cuda.cmake names it */
    bool is_ptx;         /* the driver compiles it when it is loaded, and caches the result */
    bool sm90;           /* the sm90 kernels (sm_90a code) run, too */
    bool overlaps;       /* the sm80 kernels wait for the kernel before by griddepcontrol.wait */
    /* For the cost model: tensor operations (multiplications and additions; fp16, fp32 sums) of an SM in a clock. */
    int32_t flop_per_clock;
} w4_cuda_architecture;

/** What a GPU of this compute capability runs. `forced`: the value of W4A16_CUDA_ARCH, which tests set, or NULL: "sm80"
 * leaves the sm90 kernels out, "ptx" takes the PTX whatever else there is. On false `reason` says why nothing runs. */
bool w4_cuda_architecture_find(int32_t capability, const char *forced, w4_cuda_architecture *found, char *reason,
                               size_t reason_size);

#endif
