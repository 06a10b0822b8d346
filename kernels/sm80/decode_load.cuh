/* SPDX-License-Identifier: Apache-2.0
 * Part of decode.cu: what a warp copies into its ring. */

/** Codes are addressed from the middle of a step: offsets of 2048 bytes would not fit in an instruction. */
constexpr int CODES_MIDDLE = W4_BLOCK_BYTES / 2;

/** What a warp loads next: a step of k, for a pass. All addresses are this lane's own. */
template <int LINE_STRIDE> struct Loader {
    const w4_decode_params &params;
    const int lane, end; /* of the CTA's slices */
    const Place &place;
    int first, block; /* the pass's first slice, of this warp; the step's first block */
    const uint8_t *codes, *line;
    uint32_t apart[SLICES]; /* from codes to each slice's */
    static constexpr uint32_t NO_LINE = UINT32_MAX;
    uint32_t line_target; /* in a slot; or NO_LINE for this lane */

    __device__ __forceinline__ Loader(const w4_decode_params &params_, const Place &place_, int begin, int end_)
        : params(params_), lane(place_.lane), end(end_), place(place_) {
        restart(begin);
    }

    __device__ __forceinline__ bool more() const { return first < end; }
    __device__ __forceinline__ int blocks() const { return (int)params.gemm.layout.blocks; }

    __device__ __forceinline__ const uint8_t *chunk() const {
        return params.gemm.packed + block / W4_CHUNK_BLOCKS * params.gemm.layout.chunk_stride;
    }

    /** Go to the first step of a pass; `first_`: its first slice, of this warp. Lines and activations are placed apart:
     * a kernel begins with its codes. */
    __device__ __forceinline__ void restart(int first_) {
        block = place.k_warp * W4_STEP_BLOCKS;
        first = block < blocks() ? first_ : end; /* k may be so short that a warp has none of it */
        const int strip = first / W4_SLICES_OF_STRIP;
        codes = chunk() + strip * params.gemm.layout.strip_stride + block % W4_CHUNK_BLOCKS * W4_BLOCK_BYTES +
                CODES_MIDDLE + lane * 16;
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
            const int slice =
                min(first + i, params.slices - 1); /* past the last: any, nobody stores what comes of it */
            apart[i] = (slice / W4_SLICES_OF_STRIP - strip) * (uint32_t)params.gemm.layout.strip_stride +
                       slice % W4_SLICES_OF_STRIP * W4_SLICE_BYTES;
        }
    }

    /** The rest of what restart does: where this lane's 16 bytes of a step's scales and zero points stand. */
    __device__ __forceinline__ void restart_line() {
        const w4_packed_layout &layout = params.gemm.layout;
        const int scale_pieces = (int)layout.scale_size, pieces = scale_pieces + (int)layout.zero_size;
        const int own = (int)kept(lane); /* what follows is not kept from one pass to the next */
        const int index = own * params.pieces_reciprocal >> 16, piece = own - index * pieces, group = index / SLICES;
        const bool is_scale = piece < scale_pieces;
        const int row =
            ((block % W4_CHUNK_BLOCKS * W4_BLOCK_COLUMNS + group * params.span) >> params.line_shift) * W4_BLOCK_ROWS;
        const uint32_t row_bytes = (uint32_t)(is_scale ? layout.scale_size : layout.zero_size);
        const uint32_t in_chunk =
            W4_CHUNK_BLOCKS * W4_BLOCK_BYTES + row * row_bytes +
            (is_scale ? piece * 16
                      : (uint32_t)(layout.lines * W4_BLOCK_ROWS * layout.scale_size) + (piece - scale_pieces) * 16);
        const int slice = min(first + index % SLICES, params.slices - 1);
        line = chunk() + slice / W4_SLICES_OF_STRIP * layout.strip_stride + in_chunk +
               slice % W4_SLICES_OF_STRIP * W4_SLICE_ROWS * row_bytes;
        line_target = own < params.line_pieces && !params.slow_lines
                          ? CODE_BYTES + A_BYTES + index * LINE_STRIDE +
                                (is_scale ? piece * 16 : 64 + (piece - scale_pieces) * 16)
                          : NO_LINE;
    }

    /** The same for any place, where groups and chunks do not begin together, or lanes have several pieces each: where
     * piece `index` of a step stands, were the chunk a full one, and where it goes in a slot. */
    __device__ __forceinline__ void find_line(int index, const uint8_t **from, uint32_t *to) const {
        const w4_packed_layout &layout = params.gemm.layout;
        const int scale_pieces = (int)layout.scale_size, pieces = scale_pieces + (int)layout.zero_size;
        const int piece = index % pieces, group = index / pieces / SLICES;
        const int slice = min(first + index / pieces % SLICES, params.slices - 1);
        const int k = block * W4_BLOCK_COLUMNS + group * params.span;
        const int row =
            (k / params.gemm.group_size - k / W4_CHUNK_COLUMNS * W4_CHUNK_COLUMNS / params.gemm.group_size) *
                W4_BLOCK_ROWS +
            slice % W4_SLICES_OF_STRIP * W4_SLICE_ROWS;
        const int64_t zeros = layout.lines * W4_BLOCK_ROWS * layout.scale_size;
        *from = chunk() + slice / W4_SLICES_OF_STRIP * layout.strip_stride + W4_CHUNK_BLOCKS * W4_BLOCK_BYTES +
                (piece < scale_pieces ? row * layout.scale_size + piece * 16
                                      : zeros + row * layout.zero_size + (piece - scale_pieces) * 16);
        *to = CODE_BYTES + A_BYTES + index / pieces * LINE_STRIDE +
              (piece < scale_pieces ? piece * 16 : 64 + (piece - scale_pieces) * 16);
    }

    /** Go to this warp's next step. */
    __device__ __forceinline__ void advance() {
        const int64_t ahead = CHUNKS_AHEAD * params.gemm.layout.chunk_stride;
        block += K_WARPS * W4_STEP_BLOCKS;
        codes += ahead;
        line += ahead;
        if (block >= blocks()) {
            restart(first + ROW_WARPS * SLICES);
            restart_line();
        }
    }

    /** Copy codes. A step's second block may not be there: what is read instead, W4_PACKED_PADDING at the end of the
     * weight, meets activations that are zeros. */
    __device__ __forceinline__ void load_codes(uint32_t slot) const {
        const uint32_t target = slot + lane * 16;
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
            const uint8_t *from = codes + apart[i];
            copy16_at<0, -CODES_MIDDLE>(target + i * W4_SLICE_BYTES, from);
            copy16_at<SLICES * W4_SLICE_BYTES, CODES_MIDDLE>(target + i * W4_SLICE_BYTES, from);
        }
    }

    /** Copy scales and zero points. */
    __device__ __forceinline__ void load_lines(uint32_t slot) const {
        /* The chunk at the end of k may have fewer blocks before its lines. */
        const int missing = max((block | W4_CHUNK_BLOCKS - 1) + 1 - blocks(), 0), shift = missing * W4_BLOCK_BYTES;
        if (line_target != NO_LINE) copy16(slot + line_target, line - shift);
        if (params.slow_lines)
#pragma unroll 1
            for (int i = lane; i < params.line_pieces; i += 32) {
                const uint8_t *from;
                uint32_t to;
                find_line(i, &from, &to);
                copy16(slot + to, from - shift);
            }
    }
};

/** What a warp loads next of the activations; all addresses are this lane's own. */
struct ActivationsLoader {
    const w4_decode_params &params;
    const Place &place;
    int block;           /* the step's first */
    int tokens, columns; /* from this lane's first on: how many tokens; how many columns, in all */
    uint32_t target;     /* in a slot */
    const uint8_t *from;

    __device__ __forceinline__ ActivationsLoader(const w4_decode_params &params_, const Place &place_)
        : params(params_), place(place_) {
        const int token = place.lane / 8, piece = place.lane % 8;
        tokens = (int)kept_if_roomy(params.gemm.m - token);
        columns = (int)kept_if_roomy(params.gemm.k - piece * 8);
        target = kept_if_roomy(CODE_BYTES + token * 128 + (piece ^ token) * 16);
        restart();
    }

    /** Go to the first step of a pass. */
    __device__ __forceinline__ void restart() {
        block = place.k_warp * W4_STEP_BLOCKS;
        from = (const uint8_t *)params.a +
               (place.lane / 8 * params.lda + block * W4_BLOCK_COLUMNS + place.lane % 8 * 8) * 2;
    }

    /** Copy a step's, with zeros for tokens past m and columns past k, and go to the next. */
    __device__ __forceinline__ void load(uint32_t slot) {
        const int64_t rows = 4 * params.lda * 2;
        const uint8_t *source = from;
        const int left = columns - block * W4_BLOCK_COLUMNS;
        const int first_tokens = left > 0 ? tokens : 0, second_tokens = left > W4_BLOCK_COLUMNS ? tokens : 0;
#pragma unroll
        for (int i = 0; i < A_COPIES; i++, source += rows) {
            /* Where token % 8 is 4 more, the swizzle differs by 64 bytes. */
            const uint32_t to = (slot + target ^ i % 2 * 64) + i * 512;
            copy16_part_at<0, 0>(to, source, 4 * i < first_tokens ? 16 : 0);
            copy16_part_at<A_BLOCK_BYTES, W4_BLOCK_COLUMNS * 2>(to, source, 4 * i < second_tokens ? 16 : 0);
        }
        block += K_WARPS * W4_STEP_BLOCKS;
        from += K_WARPS * W4_STEP_BLOCKS * W4_BLOCK_COLUMNS * 2;
        if (block >= (int)params.gemm.layout.blocks) restart();
    }
};
