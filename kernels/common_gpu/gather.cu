/* SPDX-License-Identifier: Apache-2.0
 * Copy A[m, k] into rows that a tensor map can describe, its columns in the order of the weight's: one block a row. A
 * may stand at any 2-byte address, so that elements move one by one. */
#include "params.h"

extern "C" __global__ void __launch_bounds__(256) w4_gather(const w4_gather_params params) {
    int64_t row = blockIdx.x;
    const uint16_t *source = params.a + row * params.lda;
    uint16_t *target = params.out + row * params.lda_out;
    for (int64_t j = threadIdx.x; j < params.lda_out; j += blockDim.x)
        target[j] = j >= params.k ? 0 : source[params.k_order ? params.k_order[j] : j];
}
