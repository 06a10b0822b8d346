/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: copies into the ring. All threads load, each warp with a place of its own in the worker's list of
 * work, which runs ring - 1 stages ahead of the multiplying, across the ends of tiles. Each thread keeps its addresses
 * and adds to them: the copies of a stage are a short run of instructions without a branch, which the compiler mixes
 * with multiplying. Worked out anew for each stage, by all warps at once after the barrier, they took a fifth of a
 * large tile's time. */

struct Loader {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    Progress &progress;
    const unsigned thread;
    int left;                     /* stages of this piece of work that are not loaded yet; 0: there is no more work */
    uint32_t target;              /* the next stage's place in the ring */
    int in_chunk;                 /* its first block's place in its chunk */
    int columns_left;             /* of k, from this thread's piece of a row on */
    int tokens_left;              /* from this thread's first token on */
    int strips_left, blocks_left; /* from the tile's first strip, from the stage's first block on */
    const uint8_t *codes, *lines; /* this thread's first of the stage, of the chunk */
    int line_to, line_bytes;      /* where its lines go in a stage, or -1; from one line to the next */
    const uint16_t *a;

    /* The threads copy ROWS rows of 64 activations at a time, 8 pieces each. */
    static constexpr int ROWS = THREADS / 8;
    static_assert(ROWS > TILE_M ? ROWS % TILE_M == 0 : TILE_M % ROWS == 0, "passes end with blocks");
    static constexpr int PIECES = BLOCKS * W4_BLOCK_BYTES / 16; /* of 16 bytes, of a strip's codes */
    static_assert(PIECES > THREADS ? PIECES % THREADS == 0 : THREADS % PIECES == 0, "passes end with strips");
    static constexpr int OF_WARP = TILE_N / 16 > WARPS ? TILE_N / 16 / WARPS : 1; /* slices whose lines it copies */

    __device__ __forceinline__ Loader(const w4_sm80_gemm_params &params_, const Shared &shared_, Progress &progress_)
        : params(params_), shared(shared_), progress(progress_), thread(threadIdx.x) {
        begin();
    }

    __device__ __forceinline__ void begin() {
        target = shared.base;
        next(true);
    }

    /** Turn to the first, or the next, piece of work. */
    __device__ __forceinline__ void next(bool first) {
        progress.next(params, first);
        const w4_gemm_params &gemm = params.gemm;
        const w4_packed_layout &layout = gemm.layout;
        const int m = progress.m + thread / 8 % TILE_M, strip = progress.strip, stage = progress.work.begin;
        const int block = stage * BLOCKS, chunk = block / W4_CHUNK_BLOCKS;
        left = progress.work.end - stage;
        in_chunk = block % W4_CHUNK_BLOCKS;
        blocks_left = (int)layout.blocks - block;
        strips_left = (int)layout.strips - strip;
        const uint8_t *start = gemm.packed + strip * layout.strip_stride + chunk * layout.chunk_stride;
        codes = start + in_chunk * W4_BLOCK_BYTES + thread / PIECES * layout.strip_stride + thread % PIECES * 16;
        /* Of the lines of a warp's slices, the first lanes copy scales, 16 bytes each, the next ones zero points. */
        const int lane = thread % 32, slice = thread / 32 * OF_WARP;
        const int scale_size = (int)layout.scale_size, zero_size = (int)layout.zero_size;
        const bool zeros = lane >= OF_WARP * scale_size;
        const int piece = zeros ? lane - OF_WARP * scale_size : lane, size = zeros ? zero_size : scale_size;
        const int in_line = slice % 4 * 16 * size + piece * 16, scale_bytes = W4_BLOCK_ROWS * scale_size;
        const bool exists = piece < OF_WARP * size && slice < TILE_N / 16 && slice / 4 < strips_left;
        line_bytes = W4_BLOCK_ROWS * size;
        line_to =
            A_BYTES + slice / 4 * shared.slot_bytes + CODE_BYTES + in_line + (zeros ? params.lines * scale_bytes : 0);
        if (!exists) line_to = -1;
        lines = start + slice / 4 * layout.strip_stride + in_line + (zeros ? layout.lines * scale_bytes : 0) +
                lines_in_chunk(in_chunk + blocks_left);
        if (ANY_GROUP) lines -= w4_sm80_group(params.divider, chunk * W4_CHUNK_BLOCKS * SPANS) * line_bytes;
        columns_left = gemm.k - stage * TILE_K - thread % 8 * 8;
        tokens_left = gemm.m - m;
        a = params.a + m * params.lda + stage * TILE_K + thread % 8 * 8;
    }

    /** Where a chunk's lines begin: its blocks come first. */
    static __device__ __forceinline__ int lines_in_chunk(int blocks) {
        return min(blocks, W4_CHUNK_BLOCKS) * W4_BLOCK_BYTES;
    }

    static constexpr int SPANS = W4_BLOCK_COLUMNS / W4_SM80_SPAN;

    /** Codes, and the scales and zero points of the groups that the stage touches. */
    __device__ __forceinline__ void load_weights() const {
        const w4_packed_layout &layout = params.gemm.layout;
        const bool more = left > 0;
        /* A pass copies some strips, or a part of one. */
        constexpr int STRIPS = PIECES < THREADS ? THREADS / PIECES : 1;
        const uint32_t to = shared.slot(target, thread / PIECES) + thread % PIECES * 16;
#pragma unroll
        for (int first = 0; first < SLOTS * PIECES; first += THREADS) {
            const int slot = first / PIECES, piece = first % PIECES;
            const bool exists = (int)(thread / PIECES) + slot < strips_left &&
                                (BLOCKS == 1 || (int)(thread % PIECES + piece) / (W4_BLOCK_BYTES / 16) < blocks_left) &&
                                (slot + STRIPS <= SLOTS || (int)(thread / PIECES) + slot < SLOTS);
            copy16_if(more && exists, to + slot * shared.slot_bytes + piece * 16,
                      codes + slot * layout.strip_stride + piece * 16);
        }
        const bool exists = more && line_to >= 0;
        uint32_t to_line = target + line_to;
        if constexpr (ANY_GROUP) {
            const int block = (int)layout.blocks - blocks_left;
            const int begin = w4_sm80_group(params.divider, block * SPANS);
            const int last = w4_sm80_group(params.divider, (block + min(blocks_left, BLOCKS)) * SPANS - 1);
            if (!exists) return;
            for (int i = begin; i <= last; i++, to_line += line_bytes) copy16(to_line, lines + i * line_bytes);
        } else {
            const uint8_t *from = lines + (in_chunk >> params.line_shift) * line_bytes;
            copy16_if(exists, to_line, from);
#pragma unroll
            for (int i = 1; i < BLOCKS; i++)
                copy16_if(exists && i < params.lines, to_line + i * line_bytes, from + i * line_bytes);
        }
    }

    /** Activations; past the last token and the last column, zeros. */
    __device__ __forceinline__ void load_activations() const {
        const unsigned piece = thread % 8, row = thread / 8;
        const uint32_t to = target + row * 128 + ((piece ^ row % 8) << 4);
#pragma unroll
        for (int i = 0; i < (TILE_M * BLOCKS + ROWS - 1) / ROWS; i++) {
            /* Rows of this thread: ROWS apart, of one block after another. */
            const int token = i * ROWS % TILE_M;
            const int block = ROWS > TILE_M ? (i * ROWS + row) / TILE_M : i * ROWS / TILE_M;
            if (block >= BLOCKS) break;
            const bool exists = token < tokens_left && block * W4_BLOCK_COLUMNS < columns_left;
            copy16_part_if(left > 0, to + i * ROWS * 128, a + token * params.lda + block * W4_BLOCK_COLUMNS,
                           exists ? 16 : 0);
        }
    }

    /** Start the copies of the next stage, if there is one; they are one group of copies. */
    __device__ __forceinline__ void load() const {
        load_weights();
        load_activations();
        copies_commit();
    }

    /** Go on to the stage after it. */
    __device__ __forceinline__ void advance() {
        const w4_packed_layout &layout = params.gemm.layout;
        if (left == 0) return;
        target = shared.next(target);
        if (--left == 0) {
            next(false);
            return;
        }
        codes += BLOCKS * W4_BLOCK_BYTES;
        a += TILE_K;
        columns_left -= TILE_K;
        blocks_left -= BLOCKS;
        in_chunk += BLOCKS;
        if (in_chunk == W4_CHUNK_BLOCKS) {
            in_chunk = 0;
            codes += layout.chunk_stride - W4_CHUNK_BLOCKS * W4_BLOCK_BYTES;
            lines += layout.chunk_stride - W4_CHUNK_BLOCKS * W4_BLOCK_BYTES + lines_in_chunk(blocks_left);
            if (ANY_GROUP) {
                const int block = (int)layout.blocks - blocks_left;
                lines -= (w4_sm80_group(params.divider, block * SPANS) -
                          w4_sm80_group(params.divider, (block - W4_CHUNK_BLOCKS) * SPANS)) *
                         line_bytes;
            }
        }
    }

    /** Go on to multiply the stage after `before`, and return its address: its copies have arrived, and all warps are
     * done with `before`, whose place is the next to be loaded. */
    __device__ __forceinline__ uint32_t arrive(uint32_t before) const {
        wait_for_copies(params.ring - 2);
        __syncthreads();
        return shared.next(before);
    }

    /** The ring's first ring - 1 stages: weights at once, activations when the kernel before this one has ended. */
    __device__ __forceinline__ void fill() {
#pragma unroll 1
        for (int i = 1; i < params.ring; i++) {
            load_weights();
            advance();
        }
        grid_dependency_wait();
        grid_launch_dependents();
        begin();
#pragma unroll 1
        for (int i = 1; i < params.ring; i++) {
            load_activations();
            copies_commit();
            advance();
        }
    }
};
