/* SPDX-License-Identifier: Apache-2.0
 * Canonical arrays -> the packed layout: one block a chunk, each thread a word at a time. A warp writes 128 bytes in a
 * row and reads the codes of four rows, 32 bytes each, all of which it needs. */
#include "pack_params.h"

extern "C" __global__ void __launch_bounds__(256) w4_pack(const __grid_constant__ w4_pack_params params) {
    const w4_pack_chunk chunk = w4_pack_chunk_at(&params, blockIdx.x);
    for (int32_t word = threadIdx.x; word < chunk.words; word += blockDim.x)
        chunk.packed[word] = w4_pack_word(&params, &chunk, word);
}
