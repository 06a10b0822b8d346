/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: the loaders, two warps, each with a ring position of its own. What a stage costs them in
 * instructions is time that the multiplying warps wait for data when the ring runs low, so that all that a tile's
 * stages share is worked out once, and kept (in_register) from being worked out again. */

/** Weights: of each strip its codes, and where a group begins its scale lines and zero lines. Every lane has a copy of
 * its own to start. No kernel before this one writes weights, so that nothing is waited for. */
__device__ __forceinline__ void load_weights(const w4_sm90_gemm_params &params, const Shared &shared, int worker,
                                             int rank) {
    const w4_packed_layout &layout = params.gemm.layout;
    const int lane = threadIdx.x % 32, slot = lane % SLOTS,
              kind = lane / SLOTS; /* 0: codes, 1: scales, 2: zero points */
    const uint32_t scale_line = W4_BLOCK_ROWS * (uint32_t)layout.scale_size;
    const uint32_t zero_line = W4_BLOCK_ROWS * (uint32_t)layout.zero_size;
    const uint32_t line_size = kind == 1 ? scale_line : kind == 2 ? zero_line : 0;
    const uint32_t line_bytes = params.lines * (scale_line + zero_line);
    /* Where this lane's copy goes in a slot; where it comes from, after the codes of a chunk. */
    const uint32_t to =
        slot * params.slot_bytes + (kind > 0 ? CODE_BYTES : 0) + (kind == 2 ? params.lines * scale_line : 0);
    const uint32_t behind_codes = kind == 2 ? (uint32_t)layout.lines * scale_line : 0;
    const uint32_t chunk_stride = (uint32_t)layout.chunk_stride;
    const int blocks = (int)layout.blocks, group_blocks = params.group_blocks;
    Position at;
    w4_work_cursor cursor = w4_schedule_begin(&params.schedule, worker);
    w4_work work;
#pragma unroll 1
    while (w4_schedule_next(&params.schedule, &cursor, &work)) {
        const Tile tile(params.schedule, work.tile, rank);
        const int strips = max(min(SLOTS, (int)layout.strips - tile.strip), 0);
        const bool mine = slot < strips && (kind == 0 || line_size);
        int block = work.begin * BLOCKS, group_left = 1;
        int to_next_group = params.group_stages - work.begin % params.group_stages;
        const uint8_t *chunk = params.gemm.packed + (tile.strip + slot) * layout.strip_stride +
                               block / W4_CHUNK_BLOCKS * (int64_t)chunk_stride;
#pragma unroll 1
        for (int stage = work.begin; stage < work.end; stage++) {
            barrier_wait(shared.empty(at.stage), at.phase ^ 1);
            const bool lines = PARTS > 1 || --group_left == 0;
            if (lines) {
                group_left = to_next_group;
                to_next_group = params.group_stages;
            }
            const int in_chunk = block % W4_CHUNK_BLOCKS, left = blocks - block;
            const uint32_t code_bytes = min(BLOCKS, left) * W4_BLOCK_BYTES;
            /* A group has 1, 2 or 4 blocks, or begins with a chunk. */
            const int line = group_blocks < W4_CHUNK_BLOCKS ? in_chunk >> group_blocks / 2 : 0;
            const uint32_t from =
                kind == 0 ? in_chunk * W4_BLOCK_BYTES
                          : min(in_chunk + left, W4_CHUNK_BLOCKS) * W4_BLOCK_BYTES + behind_codes + line * line_size;
            const uint32_t full = shared.full(at.stage);
            /* A whole chunk lies in memory as it does in a slot: one copy. */
            const bool whole = BLOCKS == W4_CHUNK_BLOCKS && left >= BLOCKS;
            const uint32_t bytes = kind > 0 ? params.lines * line_size : whole ? params.slot_bytes : code_bytes;
            if (lane == 0)
                barrier_arrive_expect(full,
                                      strips * (whole ? params.slot_bytes : code_bytes + (lines ? line_bytes : 0)));
            __syncwarp();
            if (mine && (kind == 0 || (lines && !whole)))
                copy_bulk(shared.slot(at.stage, 0) + to, chunk + from, bytes, full);
            __syncwarp();
            block += BLOCKS;
            if (block % W4_CHUNK_BLOCKS == 0) chunk += chunk_stride;
            at.advance(params.ring);
        }
    }
}

/** Activations. Blocks past the end of k arrive as zeros. */
__device__ __forceinline__ void load_activations(const CUtensorMap *a, const w4_sm90_gemm_params &params,
                                                 const Shared &shared, int worker, int rank) {
    Position at;
    w4_work_cursor cursor = w4_schedule_begin(&params.schedule, worker);
    w4_work work;
    grid_dependency_wait();
#pragma unroll 1
    while (w4_schedule_next(&params.schedule, &cursor, &work)) {
        const int m = in_register(Tile(params.schedule, work.tile, rank).m + rank * (TILE_M / CLUSTER));
#pragma unroll 1
        for (int stage = work.begin; stage < work.end; stage++) {
            const uint32_t full = shared.full(at.stage), target = shared.activations(at.stage);
            barrier_wait(shared.empty(at.stage), at.phase ^ 1);
            if (elect_one()) {
                barrier_arrive_expect(full, A_BYTES);
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
                    const int k = stage * TILE_K + block * W4_BLOCK_COLUMNS;
                    if (CLUSTER > 1)
                        copy_tensor_multicast(target + block * BOX_BYTES + rank * (BOX_BYTES / CLUSTER), a, k, m, full,
                                              (1 << CLUSTER) - 1);
                    else
                        copy_tensor(target + block * BOX_BYTES, a, k, m, full);
                }
            }
            at.advance(params.ring);
        }
    }
}
