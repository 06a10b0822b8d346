/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: the loaders, a thread of each of two warps, each with a ring position of its own. What a stage costs
 * them in instructions is time that the multiplying warps wait for data when the ring runs low. One thread, as what it
 * passes to the copy engine has to be in uniform registers: of several lanes each would take a turn. */

/** Weights: of each strip its codes, and where a group begins its scale lines and zero lines. No kernel before this one
 * writes weights, so that nothing is waited for. */
struct WeightsLoader {
    const w4_sm90_gemm_params &params;
    const Shared &shared;
    Position at;
    int strips;           /* of the tile */
    const uint8_t *chunk; /* of its first strip */

    __device__ __forceinline__ WeightsLoader(const w4_sm90_gemm_params &params_, const Shared &shared_)
        : params(params_), shared(shared_), strips(0), chunk(nullptr) {}

    __device__ __forceinline__ void place(const Tile &tile, int first_stage) {
        const w4_packed_layout &layout = params.gemm.layout;
        strips = max(min(SLOTS, (int)layout.strips - tile.strip), 0);
        chunk = params.gemm.packed + tile.strip * layout.strip_stride +
                first_stage * BLOCKS / W4_CHUNK_BLOCKS * layout.chunk_stride;
        if (params.gemm.units) /* which those that multiply ask for when they get there */
#pragma unroll
            for (int line = 0; line < SLOTS * 2; line++)
                prefetch(params.gemm.units + tile.strip * W4_BLOCK_ROWS + line * 32);
    }

    /** Stages of whole chunks, [begin, end). Such a one lies in memory as it does in a slot: one copy a strip. */
    __device__ __forceinline__ void load_chunks(int begin, int end) {
        const uint32_t bytes = params.slot_bytes;
        const int64_t strip_stride = params.gemm.layout.strip_stride;
#pragma unroll 1
        for (int stage = begin; stage < end; stage++) {
            const uint32_t full = shared.full(at.stage);
            uint32_t target = shared.slot(at.stage, 0);
            const uint8_t *from = chunk;
            barrier_wait(shared.empty(at.stage), at.phase ^ 1);
            barrier_arrive_expect(full, strips * bytes);
#pragma unroll 1
            for (int slot = 0; slot < strips; slot++, target += bytes, from += strip_stride)
                copy_bulk(target, from, bytes, full);
            chunk += params.gemm.layout.chunk_stride;
            at.hop(1, params.ring);
        }
    }

    /** Any stages of the tile that `work` is of; `stage`: the first. A tile's first stage has a line, whether its group
     * begins there or not. */
    __device__ __forceinline__ void load_stages(int stage, const w4_work &work) {
        const w4_packed_layout &layout = params.gemm.layout;
        const uint32_t scale_line = W4_BLOCK_ROWS * (uint32_t)layout.scale_size;
        const uint32_t zero_line = W4_BLOCK_ROWS * (uint32_t)layout.zero_size;
        const uint32_t scale_bytes = params.lines * scale_line, zero_bytes = params.lines * zero_line;
        const uint32_t all_scales = (uint32_t)layout.lines * scale_line; /* of a chunk: its zero points are behind */
        const int blocks = (int)layout.blocks, group_blocks = params.group_blocks;
        int group_left = 1, to_next_group = params.group_stages, block = stage * BLOCKS;
        if (stage > 0) {
            const int in_group = stage % params.group_stages;
            if (stage == work.begin)
                to_next_group -= in_group;
            else if (in_group > 0)
                group_left += to_next_group - in_group;
        }
#pragma unroll 1
        for (; stage < work.end; stage++) {
            const bool lines = PARTS > 1 || --group_left == 0;
            if (lines) {
                group_left = to_next_group;
                to_next_group = params.group_stages;
            }
            const int in_chunk = block % W4_CHUNK_BLOCKS, left = blocks - block;
            const uint32_t code_bytes = min(BLOCKS, left) * W4_BLOCK_BYTES;
            /* A group has 1, 2 or 4 blocks, or begins with a chunk. */
            const int line = group_blocks < W4_CHUNK_BLOCKS ? in_chunk >> group_blocks / 2 : 0;
            const uint32_t lines_at = min(in_chunk + left, W4_CHUNK_BLOCKS) * W4_BLOCK_BYTES;
            const uint32_t full = shared.full(at.stage);
            uint32_t target = shared.slot(at.stage, 0);
            const uint8_t *from = chunk;
            barrier_wait(shared.empty(at.stage), at.phase ^ 1);
            barrier_arrive_expect(full, strips * (code_bytes + (lines ? scale_bytes + zero_bytes : 0)));
#pragma unroll(BLOCKS == W4_CHUNK_BLOCKS ? 1 : SLOTS) /* of such stages only a row's last one comes here */
            for (int slot = 0; slot < strips; slot++, target += params.slot_bytes, from += layout.strip_stride) {
                copy_bulk(target, from + in_chunk * W4_BLOCK_BYTES, code_bytes, full);
                if (lines) {
                    copy_bulk(target + CODE_BYTES, from + lines_at + line * scale_line, scale_bytes, full);
                    if (zero_bytes)
                        copy_bulk(target + CODE_BYTES + scale_bytes, from + lines_at + all_scales + line * zero_line,
                                  zero_bytes, full);
                }
            }
            block += BLOCKS;
            if (block % W4_CHUNK_BLOCKS == 0) chunk += layout.chunk_stride;
            at.hop(1, params.ring);
        }
    }

    /** All work of the list, whose first tile has been placed. */
    __device__ __forceinline__ void load(Worklist list, int rank) {
#pragma unroll 1
        while (list.more) {
            int stage = list.work.begin;
            if (BLOCKS == W4_CHUNK_BLOCKS) {
                const int whole = max(min(list.work.end, (int)params.gemm.layout.blocks / BLOCKS), stage);
                load_chunks(stage, whole);
                stage = whole;
            }
            if (BLOCKS != W4_CHUNK_BLOCKS || stage < list.work.end) load_stages(stage, list.work);
            list.next();
            if (list.more) place(Tile(params.schedule, list.work.tile, rank), list.work.begin);
        }
    }
};

/** Of a warp, one of whose threads starts all copies of weights. */
__device__ __forceinline__ void load_weights(const w4_sm90_gemm_params &params, const Shared &shared, int worker,
                                             int rank) {
    WeightsLoader loader(params, shared);
    Worklist list(params.schedule, worker);
    loader.place(Tile(params.schedule, list.work.tile, rank), list.work.begin);
    start();
    if (elect_one()) loader.load(list, rank);
    __syncwarp(); /* all that follows comes after all loads */
}

/** Activations. What lies past the end of k arrives as zeros, what lies past that of m as zeros or not at all: then
 * what stands there goes into sums that nobody stores. */
__device__ __forceinline__ void load_activations(const CUtensorMap *a, const w4_sm90_gemm_params &params,
                                                 const Shared &shared, int worker, int rank) {
    constexpr bool SHARED_BLOCKS = COPY_TOKENS == TILE_M; /* else a cluster's CTAs share out a block's tokens */
    const uint32_t own = rank * (A_BYTES / CLUSTER);
    const int first_block = SHARED_BLOCKS ? rank * COPY_BLOCKS : 0,
              first_token = SHARED_BLOCKS ? 0 : rank * COPY_TOKENS;
    const auto copy = [&](uint32_t target, int x, int y, int z, uint32_t full) {
        if (CLUSTER > 1)
            copy_tensor_multicast(target, a, x, y, z, full, (1 << CLUSTER) - 1);
        else
            copy_tensor(target, a, x, y, z, full);
    };
    Position at;
    Worklist list(params.schedule, worker);
    int m = (int)in_register(Tile(params.schedule, list.work.tile, rank).m + first_token);
    start();
    grid_dependency_wait();
    if (!elect_one()) return;
#pragma unroll 1
    while (list.more) {
#pragma unroll 1
        for (int stage = list.work.begin; stage < list.work.end; stage++) {
            const uint32_t full = shared.full(at.stage), target = shared.activations(at.stage) + own;
            const int first = stage * BLOCKS + first_block;
            barrier_wait(shared.empty(at.stage), at.phase ^ 1);
            barrier_arrive_expect(full, params.a_bytes);
            if (params.whole_blocks)
                copy(target, 0, m, first, full);
            else
#pragma unroll
                for (int block = 0; block < COPY_BLOCKS; block++)
                    copy(target + block * BOX_BYTES, (first + block) * W4_BLOCK_COLUMNS, m, 0, full);
            at.hop(1, params.ring);
        }
        list.next();
        if (list.more) m = (int)in_register(Tile(params.schedule, list.work.tile, rank).m + first_token);
    }
}
