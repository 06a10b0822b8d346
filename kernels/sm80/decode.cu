/* SPDX-License-Identifier: Apache-2.0
 * GEMM for few tokens, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n]: time is reading the weights, and what a call costs
 * besides.
 *
 * Which side is which: weights are the left operand of mma.sync.m16n8k16, 16 out features by 16 columns of k, straight
 * from the packed layout: the 512 bytes that a warp's lanes hold of a block are 16 rows, a slice. Tokens are its n.
 *
 * Who does what: a CTA has a run of neighbouring slices, TILE_N / 16 at a time (a pass), and all of k. Its warps are
 * ROW_WARPS times K_WARPS: each has SLICES slices of a pass, and takes every K_WARPS-th step of k; at the end of a pass
 * those with the same slices add up their sums, in the order of the warps. So no CTA waits for another one. All CTAs
 * are on the GPU at once.
 *
 * Copies: each warp has a ring of STAGES slots of its own, and starts its own asynchronous copies: the codes of a step,
 * two blocks of k; its activations, 128 bytes a token and block, 16-byte pieces swizzled by token % 8 so that ldmatrix
 * meets no bank twice; and the scales and zero points of its groups. A slot is in registers before its products begin,
 * so that it is filled again meanwhile. There are no barriers but those of a pass's end.
 *
 * Arithmetic: a code's bits are or-ed into the mantissa of a 16-bit float, which makes OFFSET + q, exactly. A group's
 * products with these, of 128 columns at most, are summed from zero by the tensor cores. So are the activations alone,
 * times ones: that sum times OFFSET + zero point is what the products have too much. The difference, times the group's
 * scale, is added to the fp32 sums. Weights are never rounded, nor are zero points.
 *
 * Order in the stream: codes and scales are loaded before the kernel before this one has ended; A, C and bias are
 * touched only after griddepcontrol.wait. The next kernel is let in when LAST_STEPS steps are left: late, so that its
 * first loads fill the time between the last load of this kernel and its own first product; but early enough to find
 * this kernel's CTAs still there, one on each SM: else it would have two on one SM and none on another. */
#include "common_gpu/weights.cuh"
#include "decode_params.h"
#include "ptx.cuh"

namespace {

constexpr int TOKENS = W4_TILE_M, WARPS = W4_WARPS, ROW_WARPS = W4_ROW_WARPS, STAGES = W4_STAGES;
constexpr int K_WARPS = WARPS / ROW_WARPS;
constexpr int SLICES = W4_TILE_N / W4_SLICE_ROWS / ROW_WARPS; /* of a warp */
constexpr int THREADS = 32 * WARPS;
constexpr int LAST_STEPS = SLICES < 4 ? 4 : 2;
constexpr int TOKEN_TILES = TOKENS / 8;                             /* of 8: n of the mma */
constexpr int ROUND = W4_DECODE_ROUND(SLICES, TOKENS, W4_RESIDENT); /* slices of a warp reduced at a time */
constexpr int A_COPIES = TOKENS / 4;                                /* a lane's, of a block: 16 bytes each */
constexpr int CHUNKS_AHEAD = K_WARPS / W4_STEPS_OF_CHUNK;           /* from a warp's step to its next */
constexpr int STEPS = 4 * W4_STEP_BLOCKS;                           /* of 16 columns in a step of a warp */
constexpr int COPY_STEP = 3;                                        /* of those: the ring is filled again meanwhile */
constexpr uint32_t CODE_BYTES = W4_STEP_BLOCKS * SLICES * W4_SLICE_BYTES;
constexpr uint32_t A_BLOCK_BYTES = TOKENS * W4_BLOCK_COLUMNS * 2, A_BYTES = W4_STEP_BLOCKS * A_BLOCK_BYTES;
static_assert(W4_TILE_N == SLICES * ROW_WARPS * W4_SLICE_ROWS && WARPS == K_WARPS * ROW_WARPS, "all have as much");
static_assert(K_WARPS % W4_STEPS_OF_CHUNK == 0, "a warp's steps have the same place in their chunks");

/* Registers that a thread may have: schedulers have 16384 each, for a quarter of the warps. */
constexpr int SHARE_OF_REGISTERS = 16384 / 32 / ((WARPS * W4_RESIDENT + 3) / 4);
constexpr bool ROOMY = SHARE_OF_REGISTERS > 128;
/* Slices multiplied at a time: as registers suffice for their codes, products and scales, beside the sums of all, a
 * step's activations and their sums, and addresses. Seven slices of 16 tokens take two turns. */
constexpr int FREE_REGISTERS =
    (ROOMY ? SHARE_OF_REGISTERS < 255 ? SHARE_OF_REGISTERS : 255 : 128) - 28 - (SLICES + 1) * TOKENS / 2 - 2 * TOKENS;
constexpr int AT_ONCE = FREE_REGISTERS / (TOKENS / 2 + STEPS + 4);
constexpr int TURNS = (SLICES + AT_ONCE - 1) / AT_ONCE, PART = (SLICES + TURNS - 1) / TURNS;

/** Kept where registers are not scarce, worked out again and again otherwise. */
__device__ __forceinline__ uint32_t kept_if_roomy(uint32_t value) {
    return ROOMY ? kept(value) : value;
}

/** Which thread this is: found out once. */
struct Place {
    const int lane, row_warp, k_warp;
    __device__ __forceinline__ explicit Place(int thread)
        : lane(thread % 32), row_warp(thread / 32 % ROW_WARPS), k_warp(thread / 32 / ROW_WARPS) {}
};

#include "decode_load.cuh"

template <class Codes> struct Decoder {
    /* Whether a slot is filled again while its products are made: registers must suffice for its scales, too. */
    static constexpr bool EARLY = ROOMY || (SLICES < 3 && TOKENS == 8 && Codes::ZERO == W4_PARAM_SYMMETRIC);
    /* Else activations may be loaded again before the products, if registers suffice for that. */
    static constexpr bool ACTIVATIONS_FIRST = !EARLY && TOKENS == 8;
    /* Steps of 16 columns taken at a time where groups have 32 or 64: a block's, if registers suffice for them. */
    static constexpr int SHORT = ROOMY || SLICES * TOKENS < 32 ? 4 : 2;
    static constexpr uint32_t FP16_SCALES = 0x80000000; /* a bit of the selector that __byte_perm passes over */
    static constexpr int LINE_STRIDE = W4_DECODE_LINE_BYTES(Codes::ZERO);
    const w4_decode_params &params;
    const int lane, end;
    uint32_t b_at;                     /* where this lane finds a row of ldmatrix */
    uint32_t scale_at, scale_selector; /* this lane's first row's word in a line; which bytes of one make a float */
    Codes codes;
    uint32_t words[STEPS][PART];
    uint32_t b[TOKEN_TILES][STEPS][2];
    float part[PART][TOKEN_TILES][4], plain[TOKEN_TILES][2]; /* of a group: sums of products, and of activations */
    float scale[PART][2], too_much[PART][2]; /* of a group: scales; minus what codes and zero points add */
    float sums[SLICES][TOKEN_TILES][4];

    __device__ __forceinline__ Decoder(const w4_decode_params &params_, const Place &place, int end_)
        : params(params_), lane(place.lane), end(end_) {
        b_at = kept_if_roomy(CODE_BYTES + lane % 8 * 128 + (lane / 8 ^ lane % 8) * 16);
        const int row = lane / 4, size = (int)params.gemm.layout.scale_size;
        scale_at = kept_if_roomy(CODE_BYTES + A_BYTES + (row * size & ~3));
        /* As bytes of {0, word}: fp32 as it is, bf16 as the upper half of one, fp16 as the lower. */
        scale_selector = size == 4 ? 0x3210 : params.gemm.scale_dtype == W4_PARAM_BF16 ? 0x1044 : 0x4410;
        if (size == 2 && row % 2) scale_selector += params.gemm.scale_dtype == W4_PARAM_BF16 ? 0x2200 : 0x0022;
        if (params.gemm.scale_dtype == W4_PARAM_FP16) scale_selector |= FP16_SCALES;
    }

    __device__ __forceinline__ float read_scale(uint32_t slot, int line, int i) const {
        const uint32_t bits = __byte_perm(
            shared_load32(slot + scale_at + i * 8 * (uint32_t)params.gemm.layout.scale_size + line * LINE_STRIDE), 0,
            scale_selector);
        return scale_selector & FP16_SCALES ? __half2float(__ushort_as_half((unsigned short)bits))
                                            : __uint_as_float(bits);
    }
    __device__ __forceinline__ float read_zero(uint32_t slot, int line, int i) const {
        const uint32_t at = slot + CODE_BYTES + A_BYTES + line * LINE_STRIDE + 64;
        const int row = lane / 4 + 8 * i;
        return Codes::ZERO == W4_PARAM_SYMMETRIC      ? 8.0f
               : Codes::ZERO == W4_PARAM_ZERO_INTEGER ? (float)shared_load8(at + row)
                                                      : __uint_as_float(shared_load32(at + row * 4));
    }

    /** Take activations of half a block, two steps of 16 columns, into registers of step `to` and the next. */
    __device__ __forceinline__ void read_activations(uint32_t slot, int block, int half, int to) {
#pragma unroll
        for (int tile = 0; tile < TOKEN_TILES; tile++) {
            uint32_t four[4]; /* the upper half of a row: the swizzle changes the same bit of the piece's number */
            load_matrices(four, ((slot + b_at) ^ half * 64) + block * A_BLOCK_BYTES + tile * 1024);
#pragma unroll
            for (int i = 0; i < 4; i++) b[tile][to + i / 2][i % 2] = four[i];
        }
    }

    /** Take codes of COUNT steps of 16 columns, a block's or half of one's, `from` and the next, of the slices from
     * `first` on, into registers of step `to` and the next. */
    template <int COUNT> __device__ __forceinline__ void read_codes(uint32_t slot, int from, int first, int to) {
#pragma unroll
        for (int i = 0; i < PART && first + i < SLICES; i++) {
            const uint32_t at = slot + (from / 4 * SLICES + first + i) * W4_SLICE_BYTES + lane * 16 + from / 2 % 2 * 8;
            if (COUNT == 4) {
                const uint4 four = shared_load128(at);
                words[to][i] = four.x;
                words[to + 1][i] = four.y;
                words[to + 2][i] = four.z;
                words[to + 3][i] = four.w;
            } else {
#pragma unroll
                for (int step = 0; step < COUNT; step++) words[to + step][i] = shared_load32(at + step * 4);
            }
        }
    }

    /** Take the scales and zero points of group `group` of the step. */
    __device__ __forceinline__ void read_group(uint32_t slot, int group, int first) {
#pragma unroll
        for (int i = 0; i < PART && first + i < SLICES; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                scale[i][half] = read_scale(slot, group * SLICES + first + i, half);
                too_much[i][half] = -(Codes::offset(half) + read_zero(slot, group * SLICES + first + i, half));
            }
    }

    /** Multiply what was read last, steps [FROM, TO) of 16 columns, of one group, whose sums begin at step 0; slices
     * from `first` on. `all`: sums of activations, made, too, if `add_up`. `meanwhile` is called when some products are
     * under way. */
    template <int FROM, int TO, class Meanwhile>
    __device__ __forceinline__ void multiply(int first, bool add_up, float (&all)[4], const Meanwhile &meanwhile) {
#pragma unroll
        for (int step = FROM; step < TO; step++) {
            if (step == COPY_STEP) meanwhile();
            if (add_up) sum_activations(step, all);
                /* Slice by slice within a step: so many products do not wait for one another. */
#pragma unroll
            for (int i = 0; i < PART && first + i < SLICES; i++) {
                uint32_t a[4];
                codes.word(words[step][i], a);
#pragma unroll
                for (int tile = 0; tile < TOKEN_TILES; tile++)
                    if (step == 0)
                        mma<Codes::IS_BF16, false>(part[i][tile], a, b[tile][step]);
                    else
                        mma<Codes::IS_BF16, true>(part[i][tile], a, b[tile][step]);
            }
        }
    }

    /** Sums of another group, where step 0 is not its first. */
    __device__ __forceinline__ void begin_sums(float (&all)[4]) {
#pragma unroll
        for (int i = 0; i < PART * TOKEN_TILES * 4; i++) part[i / 4 / TOKEN_TILES][i / 4 % TOKEN_TILES][i % 4] = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) all[i] = 0.0f;
    }

    /** From where sum_activations has its sums to where the products are. */
    __device__ __forceinline__ void spread(const float (&all)[4]) {
#pragma unroll
        for (int tile = 0; tile < TOKEN_TILES; tile++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                plain[tile][j] = TOKENS == 8
                                     ? all[j]
                                     : __uint_as_float(of_lane(__float_as_uint(all[2 * tile]), lane % 4 * 8 + j * 4));
    }

    /** Add a step's activations, times ones. Of 8 tokens they are the right operand, so that sums are where products
     * are: of tokens lane % 4 * 2 and the next. The same registers of 16 tokens are a left operand, one product for
     * all; its sums are of tokens lane / 4 and, from the third on, 8 more. */
    __device__ __forceinline__ void sum_activations(int step, float (&all)[4]) const {
        const uint32_t ones[4] = {Codes::ONES, Codes::ONES, Codes::ONES, Codes::ONES},
                       two_ones[2] = {Codes::ONES, Codes::ONES};
        const uint32_t left[4] = {b[0][step][0], b[TOKEN_TILES - 1][step][0], b[0][step][1],
                                  b[TOKEN_TILES - 1][step][1]};
        if (TOKENS == 8 && step == 0)
            mma<Codes::IS_BF16, false>(all, ones, b[0][step]);
        else if (TOKENS == 8)
            mma<Codes::IS_BF16, true>(all, ones, b[0][step]);
        else if (step == 0)
            mma<Codes::IS_BF16, false>(all, left, two_ones);
        else
            mma<Codes::IS_BF16, true>(all, left, two_ones);
    }

    /** Add the group's sums to those of all groups. */
    __device__ __forceinline__ void add_group(int first) {
#pragma unroll
        for (int i = 0; i < PART && first + i < SLICES; i++)
#pragma unroll
            for (int j = 0; j < TOKEN_TILES * 4; j++) {
                const float exact = fmaf(too_much[i][j % 4 / 2], plain[j / 4][j % 2], part[i][j / 4][j % 4]);
                sums[first + i][j / 4][j % 4] = fmaf(exact, scale[i][j % 4 / 2], sums[first + i][j / 4][j % 4]);
            }
    }

    /** Multiply the step at `slot`, which is of one group. Once they are in registers, `load_activations` and
     * `load_rest` are called for the slot's next ones. */
    template <class LoadActivations, class LoadRest>
    __device__ __forceinline__ void multiply_whole(uint32_t slot, const LoadActivations &load_activations,
                                                   const LoadRest &load_rest) {
#pragma unroll
        for (int half = 0; half < 2 * W4_STEP_BLOCKS; half++) read_activations(slot, half / 2, half % 2, half * 2);
        if (ACTIVATIONS_FIRST) load_activations();
#pragma unroll
        for (int first = 0; first < SLICES; first += PART) {
            const bool last = first + PART >= SLICES;
            float all[4];
#pragma unroll
            for (int block = 0; block < W4_STEP_BLOCKS; block++) read_codes<4>(slot, block * 4, first, block * 4);
            if (EARLY) read_group(slot, 0, first);
            multiply<0, STEPS>(first, first == 0, all, [&]() {
                if (EARLY && first == 0) load_activations();
                if (EARLY && last) load_rest();
            });
            if (first == 0) spread(all);
            if (!EARLY) read_group(slot, 0, first);
            if (!EARLY && !ACTIVATIONS_FIRST && last) load_activations();
            if (!EARLY && last) load_rest();
            add_group(first);
        }
    }

    /** The same of a step whose groups have 32 or 64 columns, SHORT steps of 16 columns at a time. */
    template <class LoadActivations, class LoadRest>
    __device__ __forceinline__ void multiply_groups(uint32_t slot, const LoadActivations &load_activations,
                                                    const LoadRest &load_rest) {
#pragma unroll 1
        for (int from = 0; from < STEPS; from += SHORT) {
#pragma unroll
            for (int half = 0; half < SHORT / 2; half++)
                read_activations(slot, from / 4, from / 2 % 2 + half, half * 2);
#pragma unroll
            for (int first = 0; first < SLICES; first += PART) {
                const int group = from * 16 / params.span, last_group = (from + SHORT - 1) * 16 / params.span;
                float all[4];
                read_codes<SHORT>(slot, from, first, 0);
                multiply<0, 2>(first, true, all, []() {});
                if (SHORT == 4 && group < last_group) {
                    read_group(slot, group, first);
                    spread(all);
                    add_group(first);
                    begin_sums(all);
                }
                if (EARLY) read_group(slot, last_group, first);
                if (EARLY && from + SHORT == STEPS && first + PART >= SLICES) { /* all has been read */
                    load_activations();
                    load_rest();
                }
                multiply<2, SHORT>(first, true, all, []() {});
                if (!EARLY) read_group(slot, last_group, first);
                spread(all);
                add_group(first);
            }
        }
        if (EARLY) return;
        load_activations();
        load_rest();
    }

    /** Add up the sums of a pass, which begins at slice `first`, and store them. `room`: W4_DECODE_ROOM_BYTES. */
    __device__ __forceinline__ void finish(int first, uint32_t room) {
        const w4_gemm_params &gemm = params.gemm;
        constexpr uint32_t SLICE_ROOM = TOKEN_TILES * 512, WARP_ROOM = ROUND * SLICE_ROOM;
#pragma unroll
        for (int round = 0; round < SLICES; round += ROUND) {
            if (round > 0) __syncthreads(); /* the room has been read */
#pragma unroll
            for (int i = 0; i < ROUND && round + i < SLICES; i++)
#pragma unroll
                for (int tile = 0; tile < TOKEN_TILES; tile++) {
                    const float *four = sums[round + i][tile];
                    shared_store128(room + threadIdx.x / 32 * WARP_ROOM + i * SLICE_ROOM + tile * 512 + lane * 16,
                                    make_float4(four[0], four[1], four[2], four[3]));
                }
            __syncthreads();
            for (int out = threadIdx.x; out < ROW_WARPS * ROUND * W4_SLICE_ROWS * gemm.m; out += THREADS) {
                /* Out features next to one another, so that stores of a token lie together. */
                const int row = out % 16, i = out / 16 % ROUND, row_warp = out / 16 / ROUND % ROW_WARPS,
                          token = out / 16 / ROUND / ROW_WARPS;
                const int slice = first + row_warp * SLICES + round + i, n = slice * W4_SLICE_ROWS + row;
                if (round + i >= SLICES || slice >= end || n >= gemm.n) continue;
                /* Its lane and place in a lane's four. */
                const uint32_t place = room + row_warp * WARP_ROOM + i * SLICE_ROOM + token / 8 * 512 +
                                       (row % 8 * 4 + token % 8 / 2) * 16 + (row / 8 * 2 + token % 2) * 4;
                const float bias = gemm.bias ? load_number((const uint8_t *)gemm.bias +
                                                               (int64_t)n * (gemm.bias_dtype == W4_PARAM_FP32 ? 4 : 2),
                                                           gemm.bias_dtype)
                                             : 0.0f;
                float sum = 0.0f;
#pragma unroll
                for (int warp = 0; warp < K_WARPS; warp++)
                    sum += __uint_as_float(shared_load32(place + warp * ROW_WARPS * WARP_ROOM));
                const float result = fmaf(gemm.alpha, sum, bias);
                ((uint16_t *)gemm.c)[token * gemm.ldc + n] = gemm.c_dtype == W4_PARAM_BF16
                                                                 ? __bfloat16_as_ushort(__float2bfloat16_rn(result))
                                                                 : __half_as_ushort(__float2half_rn(result));
            }
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
    const Place place((int)kept(threadIdx.x));
    const int blocks = (int)params.gemm.layout.blocks;
    const int cta = blockIdx.x, begin = cta * params.share + min(cta, params.one_more);
    const int end = begin + params.share + (cta < params.one_more), own_begin = begin + place.row_warp * SLICES;
    const uint32_t room =
                       (shared_address(memory) + W4_DECODE_ALIGNMENT - 1) / W4_DECODE_ALIGNMENT * W4_DECODE_ALIGNMENT,
                   slot_bytes = params.slot_bytes;
    const uint32_t ring = room + W4_DECODE_ROOM_BYTES(WARPS, SLICES, TOKENS, W4_RESIDENT) +
                          (place.k_warp * ROW_WARPS + place.row_warp) * STAGES * slot_bytes,
                   ring_end = ring + STAGES * slot_bytes;
    Loader<W4_DECODE_LINE_BYTES(ZERO)> loader(params, place, own_begin, end);
    /* A warp's first steps, whose places in k the next loop goes through again. Codes first: they come from afar. */
#pragma unroll 1
    for (uint32_t slot = ring; slot < ring_end; slot += slot_bytes) {
        if (loader.more()) loader.load_codes(slot);
        copies_commit();
        loader.advance();
    }
    loader.restart(own_begin);
    loader.restart_line();
#pragma unroll 1
    for (uint32_t slot = ring; slot < ring_end; slot += slot_bytes) {
        if (loader.more()) loader.load_lines(slot);
        loader.advance();
    }
    const int warp_steps =
        (blocks - place.k_warp * W4_STEP_BLOCKS + K_WARPS * W4_STEP_BLOCKS - 1) / (K_WARPS * W4_STEP_BLOCKS);
    int steps = warp_steps * ((end - begin + ROW_WARPS * SLICES - 1) / (ROW_WARPS * SLICES));
    /* Those of the last pass, if this warp has no slices in it. */
    const int idle_steps = (end - begin - 1) % (ROW_WARPS * SLICES) < place.row_warp * SLICES ? warp_steps : 0;
    ActivationsLoader activations(params, place); /* addresses are found before the wait: nothing else to do yet */
    grid_dependency_wait();
    if (steps <= LAST_STEPS) grid_launch_dependents();
    int ahead = 0;
#pragma unroll 1
    for (uint32_t slot = ring; slot < ring_end; slot += slot_bytes) {
        if (ahead++ < steps - idle_steps) activations.load(slot);
        copies_commit();
    }
    Decoder<PlainCodes<BF16, ZERO>> decoder(params, place, end);
    const bool whole = (int)kept_if_roomy(params.span) == W4_STEP_COLUMNS;
    uint32_t slot = ring;
    for (int first = begin; first < end; first += ROW_WARPS * SLICES) {
        decoder.clear();
        const bool idle = ROW_WARPS > 1 && first + place.row_warp * SLICES >= end;
#pragma unroll 1
        for (int step = 0; step < warp_steps; step++) {
            if (--steps == LAST_STEPS) grid_launch_dependents();
            if (idle) continue;
            copies_wait<STAGES - 1>();
            __syncwarp();
            const bool more = steps >= STAGES + idle_steps;
            const auto load_activations = [&]() {
                __syncwarp();
                if (more) activations.load(slot);
            };
            const auto load_rest = [&]() {
                __syncwarp();
                if (more) {
                    loader.load_codes(slot);
                    loader.load_lines(slot);
                }
                copies_commit();
                loader.advance();
            };
            if (whole)
                decoder.multiply_whole(slot, load_activations, load_rest);
            else
                decoder.multiply_groups(slot, load_activations, load_rest);
            slot += slot_bytes;
            if (slot == ring_end) slot = ring;
        }
        if (first > begin) __syncthreads(); /* the room has been read */
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
