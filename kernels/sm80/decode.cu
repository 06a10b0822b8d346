/* SPDX-License-Identifier: Apache-2.0
 * GEMM for few tokens, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n]: time is reading the weights, and what a call costs
 * besides.
 *
 * Which side is which: weights are the left operand of mma.sync.m16n8k16, 16 out features by 16 columns of k, straight
 * from the packed layout: the 512 bytes that a warp's lanes hold of a block are 16 rows, a slice. Tokens are its n.
 *
 * Who does what: a CTA has a run of neighbouring slices, SLICES at a time (a pass), and all of k: its warps take the
 * blocks of k in turns, and add up their sums at the end of a pass, in the order of the warps. So no CTA waits for
 * another one. All CTAs are on the GPU at once.
 *
 * Copies: each warp has a ring of STAGES slots of its own, and starts its own asynchronous copies: the codes of a
 * block, in the places where the same lane reads them; the block's activations, 128 bytes a token, 16-byte pieces
 * swizzled by token % 8 so that ldmatrix meets no bank twice; and the scales and zero points of its groups. There are
 * no barriers but the two of a reduction.
 *
 * Arithmetic: codes become q - z, exact integers in fp16 or bf16; a group's products, of 128 columns at most, are
 * summed from zero by the tensor cores and added to the fp32 sums, times the group's scale. Weights are never rounded
 * (with float zero points and fp16, q - z is).
 *
 * Order in the stream: codes and scales are loaded before the kernel before this one has ended; A, C and bias are
 * touched only after griddepcontrol.wait. The next kernel is let in only then, too: so two kernels at most are on the
 * GPU, and with half an SM's room for each, one CTA of each is on every SM. */
#include "common_gpu/weights.cuh"
#include "decode_params.h"
#include "ptx.cuh"

namespace {

constexpr int SLICES = W4_TILE_N / W4_SLICE_ROWS, TOKENS = W4_TILE_M, WARPS = W4_WARPS, STAGES = W4_STAGES;
constexpr int THREADS = 32 * WARPS;
constexpr int TOKEN_TILES = TOKENS / 8;                    /* of 8: n of the mma */
constexpr int ROUND = W4_DECODE_REDUCTION_TOKENS / TOKENS; /* slices reduced at a time */
constexpr int A_COPIES = TOKENS / 4;                       /* a lane's, of a block: 16 bytes each */
constexpr int CHUNKS_AHEAD = WARPS / W4_STEPS_OF_CHUNK;    /* from a warp's step to its next */
constexpr uint32_t CODE_BYTES = W4_STEP_BLOCKS * SLICES * W4_SLICE_BYTES;
constexpr uint32_t A_BLOCK_BYTES = TOKENS * W4_BLOCK_COLUMNS * 2, A_BYTES = W4_STEP_BLOCKS * A_BLOCK_BYTES;
static_assert(WARPS % W4_STEPS_OF_CHUNK == 0, "a warp's steps have the same place in their chunks");

/** What a warp loads next: a step of k, for a pass. All addresses are this lane's own. */
template <int LINE_STRIDE> struct Loader {
    const w4_decode_params &params;
    const int lane, end, blocks; /* end: of the CTA's slices */
    int first, block;            /* the pass's first slice; the step's first block */
    const uint8_t *codes[SLICES], *line, *activations;
    uint32_t line_target, activations_target; /* in a slot */
    bool has_line;

    __device__ __forceinline__ Loader(const w4_decode_params &params_, int begin, int end_)
        : params(params_), lane(threadIdx.x % 32), end(end_), blocks((int)params_.gemm.layout.blocks) {
        activations_target = CODE_BYTES + lane / 8 * 128 + (lane % 8 ^ lane / 8) * 16;
        restart(begin);
    }

    __device__ __forceinline__ bool more() const { return first < end; }

    __device__ __forceinline__ const uint8_t *chunk() const {
        return params.gemm.packed + block / W4_CHUNK_BLOCKS * params.gemm.layout.chunk_stride;
    }

    __device__ void restart(int first_) {
        const w4_packed_layout &layout = params.gemm.layout;
        block = threadIdx.x / 32 * W4_STEP_BLOCKS;
        first = block < blocks ? first_ : end; /* k may be so short that a warp has none of it */
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
            /* Past the last slice: any, nobody stores what comes of it. */
            const int slice = min(first + i, params.slices - 1);
            codes[i] = chunk() + slice / W4_SLICES_OF_STRIP * layout.strip_stride +
                       block % W4_CHUNK_BLOCKS * W4_BLOCK_BYTES + slice % W4_SLICES_OF_STRIP * W4_SLICE_BYTES +
                       lane * 16;
        }
        activations = (const uint8_t *)params.a + (lane / 8 * params.lda + block * W4_BLOCK_COLUMNS + lane % 8 * 8) * 2;
        has_line = lane < params.line_pieces && !params.slow_lines;
        if (has_line) find_line(lane, &line, &line_target);
    }

    /** Piece `index` of 16 bytes of a step's scales and zero points: for each group of the step and slice its scales,
     * then its zero points. Where it stands, were the chunk a full one, and where it goes in a slot. */
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

    __device__ __forceinline__ void advance() {
        const int64_t ahead = CHUNKS_AHEAD * params.gemm.layout.chunk_stride;
        block += WARPS * W4_STEP_BLOCKS;
#pragma unroll
        for (int i = 0; i < SLICES; i++) codes[i] += ahead;
        line += ahead;
        activations += WARPS * W4_STEP_BLOCKS * W4_BLOCK_COLUMNS * 2;
        if (block >= blocks) restart(first + SLICES);
    }

    /** Copy codes, scales and zero points. */
    __device__ __forceinline__ void load_weights(uint32_t slot) const {
        const uint32_t target = slot + lane * 16;
        /* A step's second block may not be there: what is read instead, W4_PACKED_PADDING at the end of the weight,
         * meets activations that are zeros. */
#pragma unroll
        for (int i = 0; i < SLICES; i++)
#pragma unroll
            for (int j = 0; j < W4_STEP_BLOCKS; j++)
                copy16(target + (j * SLICES + i) * W4_SLICE_BYTES, codes[i] + j * W4_BLOCK_BYTES);
        /* A chunk at the end of k may have fewer blocks before its lines. */
        const int left = blocks - block / W4_CHUNK_BLOCKS * W4_CHUNK_BLOCKS;
        const int shift = left < W4_CHUNK_BLOCKS ? (left - W4_CHUNK_BLOCKS) * W4_BLOCK_BYTES : 0;
        if (has_line) copy16(slot + line_target, line + shift);
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

template <class Codes> struct Decoder {
    static constexpr int LINE_STRIDE = W4_DECODE_LINE_BYTES(Codes::ZERO);
    const w4_decode_params &params;
    const int lane, end;
    uint32_t scale_at[2], scale_selector; /* this lane's rows' words in a line; which bytes of one make a float */
    Codes codes;
    float sums[SLICES][TOKEN_TILES][4];

    __device__ __forceinline__ Decoder(const w4_decode_params &params_, int end_)
        : params(params_), lane(threadIdx.x % 32), end(end_) {
        const int row = lane / 4, size = (int)params.gemm.layout.scale_size;
        for (int i = 0; i < 2; i++) scale_at[i] = CODE_BYTES + A_BYTES + ((row + 8 * i) * size & ~3);
        /* As bytes of {0, word}: fp32 as it is, bf16 as the upper half of one, fp16 as the lower. */
        scale_selector = size == 4 ? 0x3210 : params.gemm.scale_dtype == W4_PARAM_BF16 ? 0x1044 : 0x4410;
        if (size == 2 && row % 2) scale_selector += params.gemm.scale_dtype == W4_PARAM_BF16 ? 0x2200 : 0x0022;
    }

    __device__ __forceinline__ float read_scale(uint32_t slot, int line, int i) const {
        const uint32_t bits = __byte_perm(shared_load32(slot + scale_at[i] + line * LINE_STRIDE), 0, scale_selector);
        return params.gemm.scale_dtype == W4_PARAM_FP16 ? __half2float(__ushort_as_half((unsigned short)bits))
                                                        : __uint_as_float(bits);
    }
    __device__ __forceinline__ float read_zero(uint32_t slot, int line, int i) const {
        const uint32_t at = slot + CODE_BYTES + A_BYTES + line * LINE_STRIDE + 64;
        const int row = lane / 4 + 8 * i;
        return Codes::ZERO == W4_PARAM_ZERO_INTEGER ? (float)shared_load8(at + row)
                                                    : __uint_as_float(shared_load32(at + row * 4));
    }

    /** Multiply the step at `slot`, which has SPANS groups. */
    template <int SPANS> __device__ __forceinline__ void multiply(uint32_t slot) {
        constexpr int STEPS = 4 * W4_STEP_BLOCKS / SPANS; /* of 16 columns in a span */
        uint32_t b[TOKEN_TILES][8];
        uint4 words[SLICES];
        float part[SLICES][TOKEN_TILES][4];
#pragma unroll
        for (int step = 0; step < 4 * W4_STEP_BLOCKS; step++) {
            const int block = step / 4, span = step / STEPS;
            if (step % 4 == 0) {
#pragma unroll
                for (int i = 0; i < SLICES; i++)
                    words[i] = shared_load128(slot + (block * SLICES + i) * W4_SLICE_BYTES + lane * 16);
#pragma unroll
                for (int j = 0; j < TOKEN_TILES * 2; j++) {
                    const int token = lane % 8, piece = j % 2 * 4 + lane / 8;
                    uint32_t four[4];
                    load_matrices(four, slot + CODE_BYTES + block * A_BLOCK_BYTES + (j / 2 * 8 + token) * 128 +
                                            (piece ^ token) * 16);
#pragma unroll
                    for (int l = 0; l < 4; l++) b[j / 2][j % 2 * 4 + l] = four[l];
                }
            }
            /* Slice by slice within a step: so many products do not wait for one another. */
#pragma unroll
            for (int i = 0; i < SLICES; i++) {
                const uint4 four = words[i];
                uint32_t a[4];
                if (Codes::ZERO != W4_PARAM_SYMMETRIC) {
                    Group group;
                    group.zero[0] = read_zero(slot, span * SLICES + i, 0);
                    group.zero[1] = read_zero(slot, span * SLICES + i, 1);
                    codes.set(group);
                    codes.set_residual(group);
                }
                codes.word(step % 4 == 0 ? four.x : step % 4 == 1 ? four.y : step % 4 == 2 ? four.z : four.w, a);
#pragma unroll
                for (int tile = 0; tile < TOKEN_TILES; tile++) {
                    const uint32_t pair[2] = {b[tile][step % 4 * 2], b[tile][step % 4 * 2 + 1]};
                    if (step % STEPS == 0)
                        mma<Codes::IS_BF16, false>(part[i][tile], a, pair);
                    else
                        mma<Codes::IS_BF16, true>(part[i][tile], a, pair);
                    if constexpr (Codes::RESIDUAL) mma<Codes::IS_BF16, true>(part[i][tile], codes.residual, pair);
                }
            }
            if (step % STEPS == STEPS - 1)
#pragma unroll
                for (int i = 0; i < SLICES; i++) {
                    const float scale[2] = {read_scale(slot, span * SLICES + i, 0),
                                            read_scale(slot, span * SLICES + i, 1)};
#pragma unroll
                    for (int j = 0; j < TOKEN_TILES * 4; j++)
                        sums[i][j / 4][j % 4] = fmaf(part[i][j / 4][j % 4], scale[j % 4 / 2], sums[i][j / 4][j % 4]);
                }
        }
    }

    /** Add up all warps' sums of a pass and store them. */
    __device__ __forceinline__ void finish(int first, uint32_t room) {
        const w4_gemm_params &gemm = params.gemm;
#pragma unroll
        for (int round = 0; round < SLICES; round += ROUND) {
            if (first + round >= end) break;
#pragma unroll
            for (int i = 0; i < ROUND && round + i < SLICES; i++)
#pragma unroll
                for (int tile = 0; tile < TOKEN_TILES; tile++) {
                    const float *four = sums[round + i][tile];
                    shared_store128(room + ((threadIdx.x / 32 * ROUND + i) * TOKEN_TILES + tile) * 512 + lane * 16,
                                    make_float4(four[0], four[1], four[2], four[3]));
                }
            __syncthreads();
            for (int out = threadIdx.x; out < 256; out += THREADS) {
                /* Out features next to one another, so that stores of a token lie together. */
                const int row = out % 16, token = out / 16 % TOKENS, i = out / 16 / TOKENS;
                const int n = (first + round + i) * W4_SLICE_ROWS + row;
                /* Its lane and place in a lane's four. */
                const uint32_t place = room + (i * TOKEN_TILES + token / 8) * 512 + (row % 8 * 4 + token % 8 / 2) * 16 +
                                       (row / 8 * 2 + token % 2) * 4;
                float sum = 0.0f;
#pragma unroll
                for (int warp = 0; warp < WARPS; warp++)
                    sum += __uint_as_float(shared_load32(place + warp * ROUND * TOKEN_TILES * 512));
                if (token < gemm.m && n < gemm.n && round + i < SLICES && first + round + i < end) {
                    const float bias = gemm.bias
                                           ? load_number((const uint8_t *)gemm.bias +
                                                             (int64_t)n * (gemm.bias_dtype == W4_PARAM_FP32 ? 4 : 2),
                                                         gemm.bias_dtype)
                                           : 0.0f;
                    const float result = fmaf(gemm.alpha, sum, bias);
                    ((uint16_t *)gemm.c)[token * gemm.ldc + n] = gemm.c_dtype == W4_PARAM_BF16
                                                                     ? __bfloat16_as_ushort(__float2bfloat16_rn(result))
                                                                     : __half_as_ushort(__float2half_rn(result));
                }
            }
            __syncthreads();
        }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < SLICES * TOKEN_TILES * 4; i++)
            sums[i / (TOKEN_TILES * 4)][i / 4 % TOKEN_TILES][i % 4] = 0.0f;
    }
};

template <bool BF16, int ZERO> __device__ __forceinline__ void decode(const w4_decode_params &params) {
    extern __shared__ uint8_t memory[];
    constexpr uint32_t ROOM_BYTES = WARPS * W4_SLICE_ROWS * W4_DECODE_REDUCTION_TOKENS * 4;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = (int)params.gemm.layout.blocks;
    const int begin = (int)((int64_t)params.slices * blockIdx.x / gridDim.x);
    const int end = (int)((int64_t)params.slices * (blockIdx.x + 1) / gridDim.x);
    const uint32_t room = (shared_address(memory) + 127) / 128 * 128, slot_bytes = params.slot_bytes;
    const uint32_t ring = room + ROOM_BYTES + warp * STAGES * slot_bytes, ring_end = ring + STAGES * slot_bytes;
    Loader<W4_DECODE_LINE_BYTES(ZERO)> loader(params, begin, end);
#pragma unroll 1
    for (uint32_t slot = ring; slot < ring_end; slot += slot_bytes) {
        if (loader.more()) loader.load_weights(slot);
        copies_commit();
        loader.advance();
        for (uint32_t i = lane * 16; i < A_BYTES; i += 512)
            shared_store128(slot + CODE_BYTES + i, make_float4(0, 0, 0, 0));
    }
    __syncwarp();
    loader.restart(begin);
    grid_dependency_wait();
    grid_launch_dependents();
#pragma unroll 1
    for (uint32_t slot = ring; slot < ring_end; slot += slot_bytes) {
        if (loader.more()) loader.load_activations(slot);
        copies_commit();
        loader.advance();
    }
    Decoder<Dequantizer<BF16, ZERO>> decoder(params, end);
    uint32_t slot = ring;
    for (int first = begin; first < end; first += SLICES) {
        decoder.clear();
#pragma unroll 1
        for (int block = warp * W4_STEP_BLOCKS; block < blocks; block += WARPS * W4_STEP_BLOCKS) {
            copies_wait<STAGES - 1>();
            __syncwarp();
            if (params.span == 128)
                decoder.template multiply<1>(slot);
            else if (params.span == 64)
                decoder.template multiply<2>(slot);
            else
                decoder.template multiply<4>(slot);
            __syncwarp();
            if (loader.more()) {
                loader.load_weights(slot);
                loader.load_activations(slot);
            }
            copies_commit();
            loader.advance();
            slot += slot_bytes;
            if (slot == ring_end) slot = ring;
        }
        decoder.finish(first, room);
    }
}

} // namespace

#define W4_ENTRY_NAME(name, suffix) w4_##name##_##suffix
#define W4_ENTRY(name, suffix, is_bf16, zero)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, W4_RESIDENT)                                                 \
        W4_ENTRY_NAME(name, suffix)(const __grid_constant__ w4_decode_params params) {                                 \
        decode<is_bf16, zero>(params);                                                                                 \
    }
#include "common_gpu/entries.cuh"
