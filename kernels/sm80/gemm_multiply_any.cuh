/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: multiplying, for groups of any size and scales of any value.
 *
 * A warp works in units, a block of 64 columns of its rows, or half of one where groups end inside. It dequantises the
 * unit's weights into registers, and multiplies them with the tokens, some at a time, so that the sums that belong to
 * this block's scale take few registers; these sums, times the scale, are then added to the tile's. A unit is one run
 * of instructions without a branch, which the compiler orders such that the tensor cores have work while others wait
 * for shared memory. */

template <class Codes> struct Consumer {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    uint32_t stage; /* being multiplied, or the last one: its address */
    Codes codes;
    float sums[SLICES][SUMS];

    static constexpr int MOST = SLICES * SUMS < 128 ? 64 / SLICES : 16; /* tokens for which there are registers */
    static constexpr int CHUNK = WARP_M < MOST ? WARP_M : MOST;         /* tokens multiplied at a time */

    __device__ __forceinline__ Consumer(const w4_sm80_gemm_params &params_, const Shared &shared_)
        : params(params_), shared(shared_), stage(shared_.last()) {}

    /** Tokens `first` and the next of a k16 step, as right operands; where CHUNK is 8, of two steps at once. `block`:
     * its activations; `from`: the k16 step of the block that is step 0 here. */
    template <int STEPS, int COUNT>
    __device__ __forceinline__ void load_tokens(const Rows &rows, uint32_t (&tokens)[STEPS][COUNT][2], uint32_t block,
                                                int from, int first, int step) const {
        const uint32_t address = block + (rows.tokens ^ (from + step) << 5);
        uint32_t four[4];
        if constexpr (CHUNK == 8) {
            if (step % 2) return;
            load_matrices(four, address + first * 128);
#pragma unroll
            for (int i = 0; i < 4; i++) tokens[step + i / 2][0][i % 2] = four[i];
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i += 2) {
                load_matrices(four, address + (first + i * 8) * 128);
#pragma unroll
                for (int j = 0; j < 4; j++) tokens[step][i + j / 2][j % 2] = four[j];
            }
        }
    }

    /** STEPS k16 steps under one scale: block `block` of the stage, or with 2 steps half `half` of it. `line`: of the
     * slot's. */
    template <int STEPS> __device__ __forceinline__ void unit(const Rows &rows, int block, int half, int line) {
        constexpr bool BF16 = Codes::IS_BF16;
        constexpr int COUNT = CHUNK / 8;
        const uint32_t activations = stage + block * BLOCK_A_BYTES;
        uint32_t fragment[SLICES][STEPS][4];
        Group group[SLICES];
        Codes own[SLICES];
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const uint32_t words_at = stage + rows.codes + block * W4_BLOCK_BYTES + slice * SLICE_BYTES + half * 8;
            uint32_t words[STEPS];
            if constexpr (STEPS == 4) {
                const uint4 four = shared_load128(words_at);
                words[0] = four.x;
                words[1] = four.y;
                words[2] = four.z;
                words[3] = four.w;
            } else {
                for (int i = 0; i < STEPS; i++) words[i] = shared_load32(words_at + 4 * i);
            }
            group[slice] = rows.group<Codes::ZERO>(params, stage, slice, line);
            own[slice] = codes;
            own[slice].set(group[slice]);
            own[slice].set_residual(group[slice]);
#pragma unroll
            for (int step = 0; step < STEPS; step++) own[slice].word(words[step], fragment[slice][step]);
        }
#pragma unroll
        for (int first = 0; first < WARP_M; first += CHUNK) {
            uint32_t tokens[STEPS][COUNT][2];
            float part[SLICES][COUNT * 4];
            load_tokens(rows, tokens, activations, half * 2, first, 0);
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                if (step + 1 < STEPS) load_tokens(rows, tokens, activations, half * 2, first, step + 1);
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                    for (int i = 0; i < COUNT; i++) {
                        if (step == 0)
                            mma<BF16, false>(&part[slice][4 * i], fragment[slice][step], tokens[step][i]);
                        else
                            mma<BF16, true>(&part[slice][4 * i], fragment[slice][step], tokens[step][i]);
                        if constexpr (Codes::RESIDUAL)
                            mma<BF16, true>(&part[slice][4 * i], own[slice].residual, tokens[step][i]);
                    }
            }
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                for (int i = 0; i < COUNT * 4; i++) {
                    float &sum = sums[slice][first / 2 + i];
                    sum = fmaf(group[slice].scale[i % 4 / 2], part[slice][i], sum);
                }
        }
    }

    /** One unit of stage `at` of the tile, with all that it needs to know: nothing is kept from one to the next. */
    template <int STEPS> __device__ __forceinline__ void unit_of_stage(int at, int block, int half) {
        constexpr int SPANS = W4_BLOCK_COLUMNS / W4_SM80_SPAN;
        const int first = at * BLOCKS * SPANS;
        const int line = params.lines > 1 ? w4_sm80_group(params.divider, first + block * SPANS + half) -
                                                w4_sm80_group(params.divider, first)
                                          : 0;
        unit<STEPS>(Rows(params.gemm, shared), block, half, line);
    }

    /** Stage `at` of a tile, whose copies have arrived. */
    __device__ __forceinline__ void multiply_stage(int at) {
        const int blocks_left = (int)params.gemm.layout.blocks - at * BLOCKS;
        if (params.halves) {
#pragma unroll 1
            for (int half = 0; half < 2 * BLOCKS && half < 2 * blocks_left; half++)
                unit_of_stage<2>(at, half / 2, half % 2);
            return;
        }
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            if (block > 0 && block >= blocks_left) break;
            unit_of_stage<4>(at, block, 0);
        }
    }

    /** Sums of the stages [begin, end) of a tile. */
    __device__ __forceinline__ void multiply(Loader &loader, int /* its first strip */, int begin, int end) {
#pragma unroll
        for (int i = 0; i < SLICES * SUMS; i++) sums[i / SUMS][i % SUMS] = 0.0f;
#pragma unroll 1
        for (int at = begin; at < end; at++) {
            stage = loader.arrive(stage);
            loader.load();
            loader.advance();
            multiply_stage(at);
        }
        float scale[2] = {1.0f, 1.0f};
        codes.sum_scales(scale);
#pragma unroll
        for (int i = 0; i < SLICES * SUMS; i++) sums[i / SUMS][i % SUMS] *= scale[i % 4 / 2];
    }
};
