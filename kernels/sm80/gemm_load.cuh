/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: copies into the ring. All threads load, each warp with a place of its own in the worker's list of
 * work, which runs ring - 1 stages ahead of the multiplying, across the ends of tiles. Each thread keeps its addresses,
 * as indices of pieces of 16 bytes, and adds to them: the copies of a stage are a short run of instructions without a
 * branch, which the compiler mixes with multiplying. What lies outside is told by bits worked out beforehand. */

struct Loader {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    Progress &progress;
    int left;        /* stages of this piece of work that are not loaded yet; 0: there is no more work */
    unsigned block;  /* the next stage's first, of k */
    uint32_t target; /* its place in the ring */
    const uint8_t *tokens, *weights; /* the tile's first rows */
    /* What this thread copies first of the stage's activations, codes and lines, from there; where groups may be of any
     * size, line 0 of the chunk's. */
    uint32_t a, codes, lines;
    uint32_t a_to, codes_to; /* where it goes in a stage */
    int line_to, line_step;  /* the same for its lines, or -1; from one line to the next, in pieces */
    uint32_t exists;         /* bit i: activations of pass i; bit 16 + i: codes of block i; LINES_EXIST */

    static constexpr int PIECE = 16, ROW_PIECES = 8; /* bytes; of a row of 64 activations */
    static constexpr uint32_t LINES_EXIST = 1u << 31;
    /* The threads copy ROWS rows of 64 activations at a time. */
    static constexpr int ROWS = THREADS / ROW_PIECES, A_PASSES = TILE_M * BLOCKS / ROWS;
    static_assert(TILE_M * BLOCKS % ROWS == 0 && A_PASSES <= 16, "whole passes");
    static_assert(ROWS > TILE_M ? ROWS % TILE_M == 0 : TILE_M % ROWS == 0, "passes end with blocks");
    /* A strip's codes are copied by STRIP_THREADS of them, so that all of a thread's addresses are as far apart in the
     * matrix as in the stage. */
    static constexpr int BLOCK_PIECES = W4_BLOCK_BYTES / PIECE, STRIP_THREADS = THREADS / SLOTS;
    static constexpr int CODE_PASSES = BLOCKS * BLOCK_PIECES / STRIP_THREADS;
    static_assert(THREADS % SLOTS == 0 && BLOCK_PIECES % STRIP_THREADS == 0, "blocks have whole passes");
    static constexpr int OF_WARP = TILE_N / 16 > WARPS ? TILE_N / 16 / WARPS : 1; /* slices whose lines it copies */
    /* Large tiles with floating zero points have no registers for codes_to and line_step. */
    static constexpr bool KEEPS_PLACE = SLICES * SUMS < 128 || W4_FLOAT_ZEROS == 0;
    static constexpr int SPANS = W4_BLOCK_COLUMNS / W4_SM80_SPAN;

    __device__ __forceinline__ Loader(const w4_sm80_gemm_params &params_, const Shared &shared_, Progress &progress_)
        : params(params_), shared(shared_), progress(progress_) {
        const unsigned thread = thread_index(), row = thread / ROW_PIECES, column = thread % ROW_PIECES;
        a_to = row * 128 + (column ^ row % 8) * PIECE;
        codes_to = place_of_codes();
        line_step = line_pieces();
    }

    __device__ __forceinline__ uint32_t place_of_codes() const {
        const unsigned thread = thread_index();
        return A_BYTES + thread / STRIP_THREADS * shared.slot_bytes + thread % STRIP_THREADS * PIECE;
    }

    static __device__ __forceinline__ uint32_t pieces(int64_t bytes) { return (uint32_t)(bytes / PIECE); }
    static __device__ __forceinline__ const uint8_t *at(const uint8_t *from, uint32_t piece) {
        return from + (uint64_t)piece * PIECE;
    }

    /** Of the lines of a warp's slices, the first lanes copy scales, the next ones zero points. */
    __device__ __forceinline__ bool copies_zeros() const {
        return (int)(thread_index() % 32) >= OF_WARP * (int)params.gemm.layout.scale_size;
    }
    __device__ __forceinline__ int line_pieces() const {
        const w4_packed_layout &layout = params.gemm.layout;
        return W4_BLOCK_ROWS / PIECE * (int)(copies_zeros() ? layout.zero_size : layout.scale_size);
    }

    /** Where the lines of the chunk that block `of` is in begin: its blocks, fewer in a row's last chunk, come first.
     * In pieces. */
    __device__ __forceinline__ int lines_in_chunk(unsigned of) const {
        const int left_of_row = (int)params.gemm.layout.blocks - (int)(of / W4_CHUNK_BLOCKS * W4_CHUNK_BLOCKS);
        return min(left_of_row, W4_CHUNK_BLOCKS) * BLOCK_PIECES;
    }

    /** From the lines of the stage before to those of the stage that begins with `block`, both in one chunk or, if it
     * `crosses`, in two whole ones. In pieces. */
    __device__ __forceinline__ int lines_step(bool crosses) const {
        const int whole = crosses ? pieces(params.gemm.layout.chunk_stride) : 0;
        if (ANY_GROUP) {
            if (!crosses) return 0;
            return whole - (w4_sm80_group(params.divider, block * SPANS) -
                            w4_sm80_group(params.divider, (block - W4_CHUNK_BLOCKS) * SPANS)) *
                               line_pieces();
        }
        const int line = KEEPS_PLACE ? line_step : line_pieces();
        if (BLOCKS == W4_CHUNK_BLOCKS) return whole;
        if (BLOCKS == W4_CHUNK_BLOCKS / 2) {
            const int half = (BLOCKS >> params.line_shift) * line; /* of a chunk's lines */
            return crosses ? whole - half : half;
        }
        return whole + ((int)(block % W4_CHUNK_BLOCKS >> params.line_shift) -
                        (int)((block - BLOCKS) % W4_CHUNK_BLOCKS >> params.line_shift)) *
                           line;
    }

    /** Which copies of the stage read something: tokens, columns, strips and blocks may end within. */
    __device__ __forceinline__ uint32_t what_exists() const {
        const w4_packed_layout &layout = params.gemm.layout;
        const int thread = (int)thread_index(), row = thread / ROW_PIECES, column = thread % ROW_PIECES * 8;
        const int tokens_left = params.gemm.m - progress.m, strips_left = (int)layout.strips - progress.strip;
        const int blocks_left = (int)layout.blocks - (int)block;
        const int columns_left = params.gemm.k - (int)block * W4_BLOCK_COLUMNS - column;
        uint32_t bits = line_to >= 0 ? LINES_EXIST : 0;
#pragma unroll
        for (int i = 0; i < A_PASSES; i++)
            if ((i * ROWS + row) % TILE_M < tokens_left && (i * ROWS + row) / TILE_M * W4_BLOCK_COLUMNS < columns_left)
                bits |= 1u << i;
#pragma unroll
        for (int i = 0; i < BLOCKS; i++)
            if (thread / STRIP_THREADS < strips_left && i < blocks_left) bits |= 0x10000u << i;
        return bits;
    }

    /** Begin with the piece of work that `progress` has. */
    __device__ __forceinline__ void begin() {
        const w4_packed_layout &layout = params.gemm.layout;
        const int thread = (int)thread_index(), stage = progress.work.begin, strip = progress.strip;
        block = (unsigned)(stage * BLOCKS);
        left = progress.work.end - stage;
        const uint32_t strip_pieces = pieces(layout.strip_stride), chunk = block / W4_CHUNK_BLOCKS;
        const uint32_t start = chunk * pieces(layout.chunk_stride);
        weights = params.gemm.packed + strip * layout.strip_stride;
        tokens = (const uint8_t *)(params.a + progress.m * params.lda);
        if (params.gemm.units && thread < TILE_N * (int)sizeof(float) / 128)
            prefetch(params.gemm.units + strip * W4_BLOCK_ROWS + thread * 32);
        codes = start + block % W4_CHUNK_BLOCKS * BLOCK_PIECES + thread / STRIP_THREADS * strip_pieces +
                thread % STRIP_THREADS;
        const int lane = thread % 32, slice = thread / 32 * OF_WARP;
        const int scale_size = (int)layout.scale_size, scale_bytes = W4_BLOCK_ROWS * scale_size;
        const bool zeros = copies_zeros();
        const int piece = zeros ? lane - OF_WARP * scale_size : lane, size = zeros ? (int)layout.zero_size : scale_size;
        const int in_line = slice % 4 * size + piece;
        line_to = A_BYTES + slice / 4 * shared.slot_bytes + CODE_BYTES + in_line * PIECE +
                  (zeros ? params.lines * scale_bytes : 0);
        if (piece >= OF_WARP * size || slice >= TILE_N / 16 || slice / 4 >= (int)layout.strips - strip) line_to = -1;
        lines = start + slice / 4 * strip_pieces + in_line + (zeros ? pieces(layout.lines * scale_bytes) : 0) +
                lines_in_chunk(block);
        if (ANY_GROUP)
            lines -= w4_sm80_group(params.divider, chunk * W4_CHUNK_BLOCKS * SPANS) * line_pieces();
        else
            lines += (block % W4_CHUNK_BLOCKS >> params.line_shift) * line_pieces();
        a = thread / ROW_PIECES % TILE_M * pieces(params.lda * 2) + stage * (TILE_K / 8) +
            (thread / ROW_PIECES / TILE_M * W4_BLOCK_COLUMNS / 8) + thread % ROW_PIECES;
        exists = left > 0 ? what_exists() : 0;
    }

    /** Codes, and the scales and zero points of the groups that the stage touches. */
    __device__ __forceinline__ void load_weights() const {
        const uint32_t to_codes = target + (KEEPS_PLACE ? codes_to : place_of_codes());
        const uint8_t *const from = at(weights, codes);
#pragma unroll
        for (int i = 0; i < CODE_PASSES; i++) {
            const uint32_t bit = 0x10000u << i * STRIP_THREADS / BLOCK_PIECES;
            copy16_or_zeros(to_codes + i * STRIP_THREADS * PIECE, from + i * STRIP_THREADS * PIECE, exists & bit);
        }
        uint32_t to = target + line_to;
        if constexpr (ANY_GROUP) {
            const int blocks_left = (int)params.gemm.layout.blocks - (int)block;
            const int begin = w4_sm80_group(params.divider, block * SPANS);
            const int last = w4_sm80_group(params.divider, (block + min(blocks_left, BLOCKS)) * SPANS - 1);
            const int line = line_pieces();
            if (!(exists & LINES_EXIST)) return;
            for (int i = begin; i <= last; i++, to += line * PIECE) copy16(to, at(weights, lines + i * line));
        } else {
            copy16_if(exists & LINES_EXIST, to, at(weights, lines));
            if (BLOCKS == 1 || params.lines == 1) return;
            const int line = line_pieces();
#pragma unroll
            for (int i = 1; i < BLOCKS; i++)
                copy16_if(i < params.lines ? exists & LINES_EXIST : 0, to + i * line * PIECE,
                          at(weights, lines + i * line));
        }
    }

    /** Activations; past the last token and the last column, zeros. */
    __device__ __forceinline__ void load_activations() const {
#pragma unroll
        for (int i = 0; i < A_PASSES; i++) {
            /* Rows of this thread: ROWS apart, of one block after another. */
            const int token = i * ROWS % TILE_M, of = i * ROWS / TILE_M;
            copy16_or_zeros(target + a_to + i * ROWS * 128,
                            at(tokens, a + token * pieces(params.lda * 2)) + of * W4_BLOCK_COLUMNS * 2,
                            exists & 1u << i);
        }
    }

    /** Start the copies of the next stage, one group of copies; if there is no more work, of zeros, into places that
     * nobody reads any more. */
    __device__ __forceinline__ void load() const {
        load_weights();
        load_activations();
        copies_commit();
    }

    /** Go on to the stage after it. */
    __device__ __forceinline__ void advance() {
        const w4_packed_layout &layout = params.gemm.layout;
        target = shared.next(target);
        if (left == 0) return;
        if (--left == 0) {
            progress.next(params);
            begin();
            return;
        }
        a += TILE_K / 8;
        block += BLOCKS;
        const bool crosses = block % W4_CHUNK_BLOCKS == 0;
        codes +=
            crosses ? pieces(layout.chunk_stride) - (W4_CHUNK_BLOCKS - BLOCKS) * BLOCK_PIECES : BLOCKS * BLOCK_PIECES;
        lines += lines_step(crosses);
        /* In a row's last chunk, if it is not whole, copies may have nothing to read, and lines come earlier. */
        if ((int)((block | (W4_CHUNK_BLOCKS - 1)) * W4_BLOCK_COLUMNS + W4_BLOCK_COLUMNS) > params.gemm.k) {
            if (crosses) lines += lines_in_chunk(block) - W4_CHUNK_BLOCKS * BLOCK_PIECES;
            exists = what_exists();
        }
    }

    /** Go on to multiply the stage after `before`, and return its address: its copies have arrived, and all warps are
     * done with `before`, whose place is the next to be loaded. */
    __device__ __forceinline__ uint32_t arrive(uint32_t before) const {
        wait_for_copies(params.ring - 2);
        __syncthreads();
        return shared.next(before);
    }

    /** The ring's first ring - 1 stages: weights at once, activations when the kernel before this one has ended.
     * first: the worker's first piece of work. */
    __device__ __forceinline__ void fill(const Progress &first) {
#pragma unroll 1
        for (int pass = 0; pass < 2; pass++) {
            progress.copy(first);
            target = shared.base;
            begin();
#pragma unroll 1
            for (int i = 1; i < params.ring; i++) {
                if (pass == 0) {
                    load_weights();
                } else {
                    load_activations();
                    copies_commit();
                }
                advance();
            }
            if (pass == 0) {
                grid_dependency_wait();
                grid_launch_dependents();
            }
        }
    }
};
