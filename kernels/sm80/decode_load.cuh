/* SPDX-License-Identifier: Apache-2.0
 * Part of decode.cu: what a warp copies into its ring. */

/** What a warp loads next: a step of k, for a pass. All addresses are this lane's own. */
template <int LINE_STRIDE> struct Loader {
    const w4_decode_params &params;
    const int lane, end; /* of the CTA's slices */
    int first, block;    /* the pass's first slice, of this warp; the step's first block */
    const uint8_t *codes, *line, *activations;
    uint32_t apart[SLICES];                   /* from codes to each slice's */
    uint32_t line_target, activations_target; /* in a slot */
    uint32_t line_place, line_row_bytes;      /* of this lane's line in its strip's chunk; of one row in it */
    int line_slice;                           /* of the warp's, of this lane's line; none: -1 */

    __device__ __forceinline__ Loader(const w4_decode_params &params_, int begin, int end_)
        : params(params_), lane(threadIdx.x % 32), end(end_) {
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
        block = K_WARP * W4_STEP_BLOCKS;
        first = block < blocks() ? first_ : end; /* k may be so short that a warp has none of it */
        const int strip = first / W4_SLICES_OF_STRIP;
        codes =
            chunk() + strip * params.gemm.layout.strip_stride + block % W4_CHUNK_BLOCKS * W4_BLOCK_BYTES + lane * 16;
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
            const int slice =
                min(first + i, params.slices - 1); /* past the last: any, nobody stores what comes of it */
            apart[i] = (slice / W4_SLICES_OF_STRIP - strip) * (uint32_t)params.gemm.layout.strip_stride +
                       slice % W4_SLICES_OF_STRIP * W4_SLICE_BYTES;
        }
    }

    /** Work out once where this lane's 16 bytes of a step's scales and zero points stand. */
    __device__ __forceinline__ void place_line() {
        const w4_packed_layout &layout = params.gemm.layout;
        const int scale_pieces = (int)layout.scale_size, pieces = scale_pieces + (int)layout.zero_size;
        const int index = lane * params.pieces_reciprocal >> 16, piece = lane - index * pieces, group = index / SLICES;
        const bool is_scale = piece < scale_pieces;
        const int row =
            ((block % W4_CHUNK_BLOCKS * W4_BLOCK_COLUMNS + group * params.span) >> params.line_shift) * W4_BLOCK_ROWS;
        line_slice = lane < params.line_pieces && !params.slow_lines ? index % SLICES : -1;
        line_row_bytes = (uint32_t)(is_scale ? layout.scale_size : layout.zero_size);
        line_place =
            W4_CHUNK_BLOCKS * W4_BLOCK_BYTES + row * line_row_bytes +
            (is_scale ? piece * 16
                      : (uint32_t)(layout.lines * W4_BLOCK_ROWS * layout.scale_size) + (piece - scale_pieces) * 16);
        line_target =
            CODE_BYTES + A_BYTES + index * LINE_STRIDE + (is_scale ? piece * 16 : 64 + (piece - scale_pieces) * 16);
    }

    /** The rest of what restart does. */
    __device__ __forceinline__ void restart_line() {
        const int slice = min(first + line_slice, params.slices - 1);
        line = chunk() + slice / W4_SLICES_OF_STRIP * params.gemm.layout.strip_stride + line_place +
               slice % W4_SLICES_OF_STRIP * W4_SLICE_ROWS * line_row_bytes;
    }
    __device__ __forceinline__ void restart_activations() {
        activations_target = CODE_BYTES + lane / 8 * 128 + (lane % 8 ^ lane / 8) * 16;
        activations = (const uint8_t *)params.a + (lane / 8 * params.lda + block * W4_BLOCK_COLUMNS + lane % 8 * 8) * 2;
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
        activations += K_WARPS * W4_STEP_BLOCKS * W4_BLOCK_COLUMNS * 2;
        if (block >= blocks()) {
            restart(first + ROW_WARPS * SLICES);
            restart_line();
            restart_activations();
        }
    }

    /** Copy codes. A step's second block may not be there: what is read instead, W4_PACKED_PADDING at the end of the
     * weight, meets activations that are zeros. */
    __device__ __forceinline__ void load_codes(uint32_t slot) const {
        const uint32_t target = slot + lane * 16;
#pragma unroll
        for (int i = 0; i < SLICES; i++)
#pragma unroll
            for (int j = 0; j < W4_STEP_BLOCKS; j++)
                copy16(target + (j * SLICES + i) * W4_SLICE_BYTES, codes + apart[i] + j * W4_BLOCK_BYTES);
    }

    /** Copy scales and zero points. */
    __device__ __forceinline__ void load_lines(uint32_t slot) const {
        /* The chunk at the end of k may have fewer blocks before its lines. */
        const int left = blocks() - block / W4_CHUNK_BLOCKS * W4_CHUNK_BLOCKS;
        const int shift = left < W4_CHUNK_BLOCKS ? (left - W4_CHUNK_BLOCKS) * W4_BLOCK_BYTES : 0;
        if (line_slice >= 0) copy16(slot + line_target, line + shift);
        if (params.slow_lines)
#pragma unroll 1
            for (int i = lane; i < params.line_pieces; i += 32) {
                const uint8_t *from;
                uint32_t to;
                find_line(i, &from, &to);
                copy16(slot + to, from + shift);
            }
    }

    /** Copy activations. Tokens past m stay as they are, zeros. */
    __device__ __forceinline__ void load_activations(uint32_t slot) const {
        const int token = lane / 8;
        const uint32_t target = slot + activations_target;
        const int64_t rows = 4 * params.lda * 2;
        const uint8_t *from = activations;
        if ((block + W4_STEP_BLOCKS) * W4_BLOCK_COLUMNS <= params.gemm.k) {
#pragma unroll
            for (int i = 0; i < A_COPIES; i++, from += rows) {
                /* Where token % 8 is 4 more, the swizzle differs by 64 bytes. */
                const uint32_t to = (target ^ i % 2 * 64) + i * 512;
                if (token + 4 * i < params.gemm.m)
#pragma unroll
                    for (int j = 0; j < W4_STEP_BLOCKS; j++)
                        copy16(to + j * A_BLOCK_BYTES, from + j * W4_BLOCK_COLUMNS * 2);
            }
            return;
        }
#pragma unroll 1
        for (int i = 0; i < A_COPIES * W4_STEP_BLOCKS; i++) {
            const int row = i / W4_STEP_BLOCKS, j = i % W4_STEP_BLOCKS;
            const int left = params.gemm.k - (block + j) * W4_BLOCK_COLUMNS - lane % 8 * 8;
            if (token + 4 * row < params.gemm.m)
                copy16_part((target ^ row % 2 * 64) + row * 512 + j * A_BLOCK_BYTES,
                            left > 0 ? from + row * rows + j * W4_BLOCK_COLUMNS * 2 : (const uint8_t *)params.a,
                            left > 0 ? 16 : 0);
        }
    }
};
