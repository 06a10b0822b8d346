/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: copies into the ring. All threads load, each warp with a place of its own in the worker's list of
 * work, which runs ring - 1 stages ahead of the multiplying, across the ends of tiles. */

struct Loader {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    Progress &progress;

    __device__ __forceinline__ Loader(const w4_sm80_gemm_params &params_, const Shared &shared_, Progress &progress_,
                                      int worker)
        : params(params_), shared(shared_), progress(progress_) {
        if (thread_index() % 32 == 0) {
            progress.begin(params, worker);
            progress.next(params);
        }
    }

    /** This warp's weights of stage `stage`: codes, and the scales and zero points of the groups that it touches. */
    __device__ __forceinline__ void load_weights(int stage, const uint8_t *weights, uint32_t slot) const {
        const w4_packed_layout &layout = params.gemm.layout;
        const int lane = thread_index() % 32, block = stage * BLOCKS, chunk = block / W4_CHUNK_BLOCKS;
        const int in_chunk = block % W4_CHUNK_BLOCKS, left = (int)layout.blocks - block;
        const uint8_t *source = weights + chunk * layout.chunk_stride;
        const uint8_t *codes = source + in_chunk * W4_BLOCK_BYTES + FIRST_SLICE * SLICE_BYTES + lane * 16;
        const uint32_t target = slot + FIRST_SLICE * SLICE_BYTES + lane * 16;
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
            if (i > 0 && i >= left) break;
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++)
                copy16(target + i * W4_BLOCK_BYTES + slice * SLICE_BYTES,
                       codes + i * W4_BLOCK_BYTES + slice * SLICE_BYTES);
        }
        /* Of each line, the first lanes copy this warp's scales, 16 bytes each, the next ones its zero points. */
        const int scale_size = (int)layout.scale_size, zero_size = (int)layout.zero_size;
        const bool zeros = lane >= SLICES * scale_size;
        const int piece = zeros ? lane - SLICES * scale_size : lane, size = zeros ? zero_size : scale_size;
        if (piece >= SLICES * size) return;
        const int blocks = min(left, BLOCKS), spans = W4_BLOCK_COLUMNS / W4_SM80_SPAN;
        const int first = w4_sm80_group(params.divider, block * spans);
        const int last = w4_sm80_group(params.divider, (block + blocks) * spans - 1);
        const int base =
            w4_sm80_group(params.divider, chunk * W4_CHUNK_BLOCKS * spans); /* the group of the chunk's line 0 */
        const int line_bytes = W4_BLOCK_ROWS * size, in_line = FIRST_SLICE * 16 * size + piece * 16;
        uint32_t to = slot + CODE_BYTES + in_line;
        const uint8_t *from = source + min(in_chunk + left, W4_CHUNK_BLOCKS) * W4_BLOCK_BYTES + in_line;
        if (zeros) {
            to += params.lines * W4_BLOCK_ROWS * scale_size;
            from += (int)layout.lines * W4_BLOCK_ROWS * scale_size;
        }
        for (int line = first; line <= last; line++)
            copy16(to + (line - first) * line_bytes, from + (line - base) * line_bytes);
    }

    /** Activations of stage `stage`; past the last token and the last column, zeros. */
    __device__ __forceinline__ void load_activations(int stage, int m, uint32_t target) const {
        constexpr int ROWS = THREADS / 8; /* of 64 columns that the threads copy at a time, 8 pieces each */
        const int thread = thread_index(), piece = thread % 8, row = thread / 8;
        const int column = stage * TILE_K + piece * 8;
        const uint16_t *a = params.a;
#pragma unroll
        for (int i = 0; i < (TILE_M * BLOCKS + ROWS - 1) / ROWS; i++) {
            const int at = i * ROWS + row, token = at % TILE_M, block = at / TILE_M;
            if (TILE_M * BLOCKS % ROWS && at >= TILE_M * BLOCKS) break;
            const int k = column + block * W4_BLOCK_COLUMNS;
            const bool exists = m + token < params.gemm.m && k < params.gemm.k;
            const uint16_t *source = exists ? a + (m + token) * params.lda + k : a;
            copy16_part(target + at * 128 + ((piece ^ token % 8) << 4), source, exists ? 16 : 0);
        }
    }

    /** Start the copies of the next stage, if there is one. Each call is one group of copies. */
    __device__ __forceinline__ void load() {
        __syncwarp();
        const bool more = progress.work.tile >= 0;
        if (more) {
            load_weights(progress.stage, progress.weights, shared.slot(progress.ring_at, FIRST_SLOT));
            load_activations(progress.stage, progress.m, shared.stage(progress.ring_at));
        }
        copies_commit();
        __syncwarp(); /* all lanes have read it */
        if (more && thread_index() % 32 == 0) {
            progress.advance(params);
            if (progress.stage == progress.work.end) progress.next(params);
        }
    }
};
