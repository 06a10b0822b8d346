/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: multiplying, with sums in units of a group's scale.
 *
 * A warp goes from one k16 step to the next. While the mma of a step run, the tokens of the next step are loaded and
 * its codes dequantised into a second set of fragments. Before the last step of a stage the next stage is waited for,
 * so that the first step of that one is prepared like any other.
 *
 * Where codes do not take their group's scale along (ScaledCodes), the sums are multiplied by (scale before / scale
 * now) where a group begins, and at the end by the last scale. The host admits only scales whose ratios cannot
 * overflow. */

template <class Codes> struct Consumer {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    uint32_t stage; /* being multiplied, or the last one: its address */
    float sums[SLICES][SUMS];
    float scale[SLICES][2], ratio[SLICES][2]; /* of this group; what to multiply sums by for the next one */
    Group zero[SLICES];                       /* zero points that residuals are made of */
    Codes codes[SLICES];
    uint4 words[SLICES]; /* of a block, a word for each step */
    uint32_t fragment[2][SLICES][4], tokens[2][WARP_M / 8][2];
    int group_left; /* stages to the end of the group; groups shorter than a stage end with each stage */
    bool turn;      /* whether a group begins with the next step, so that sums are to be multiplied */

    static constexpr int STEPS = 4 * OWN_BLOCKS;
    static_assert(WARP_M % 16 == 0, "tokens are loaded 16 at a time");

    __device__ __forceinline__ Consumer(const w4_sm80_gemm_params &params_, const Shared &shared_)
        : params(params_), shared(shared_), stage(shared_.last()) {
        const Codes one;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) codes[slice] = one;
    }

    /** Of a stage's blocks of 64 columns, this warp's first. */
    static __device__ __forceinline__ int first_block() {
        return WARPS_K > 1 ? PART * OWN_BLOCKS : 0;
    }

    __device__ __forceinline__ void load_words(const Rows &rows, int block) {
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
            words[slice] = shared_load128(stage + rows.codes + block * W4_BLOCK_BYTES + slice * SLICE_BYTES);
    }

    /** Tokens 16 * pair and the next of step `step` of a block into set `set`. */
    __device__ __forceinline__ void load_tokens(const Rows &rows, int block, int step, int pair, int set) {
        uint32_t four[4];
        load_matrices(four, stage + block * BLOCK_A_BYTES + (rows.tokens ^ step << 5) + pair * 16 * 128);
#pragma unroll
        for (int j = 0; j < 4; j++) tokens[set][pair * 2 + j / 2][j % 2] = four[j];
    }

    /** The codes of step `step` of a slice into set `set`. */
    __device__ __forceinline__ void dequantise(int slice, int step, int set) {
        const uint4 &four = words[slice];
        codes[slice].word(step == 0 ? four.x : step == 1 ? four.y : step == 2 ? four.z : four.w, fragment[set][slice]);
#pragma unroll
        for (int i = 0; i < 4; i++) keep_order(fragment[set][slice][i]);
    }

    /** Of the slot's lines, that of block `block`. */
    __device__ __forceinline__ int line_of(int block) const {
        return WARPS_K > 1 || block > 0 ? first_block() + block >> params.line_shift : 0;
    }

    __device__ __forceinline__ Group group_of(const Rows &rows, int slice, int block) const {
        return rows.group<Codes::ZERO>(params, stage, slice, line_of(block));
    }

    /** The groups that a piece of work begins with. */
    __device__ __forceinline__ void first_groups(const Group (&group)[SLICES]) {
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            codes[slice].set(group[slice]);
            if constexpr (!Codes::SCALES) {
                codes[slice].set_residual(group[slice]);
#pragma unroll
                for (int i = 0; i < 2; i++) scale[slice][i] = group[slice].scale[i];
            }
        }
    }

    /** The groups that begin with block `block` of this stage: what the next step's codes are dequantised with, and, if
     * codes do not take the scale along, by what the sums are multiplied before it. */
    __device__ __forceinline__ void next_groups(const Rows &rows, int block) {
        if constexpr (Codes::SCALES) {
            if (params.gemm.scale_dtype == W4_PARAM_FP16) {
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++) {
                    Group group = rows.group<Codes::ZERO, false>(params, stage, slice, line_of(block));
                    group.pair = rows.pair(stage, slice, line_of(block));
                    codes[slice].set_pair(group);
                }
                return;
            }
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const Group group = group_of(rows, slice, block);
            codes[slice].set(group);
            if constexpr (!Codes::SCALES)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    ratio[slice][i] = scale[slice][i] * reciprocal(group.scale[i]);
                    scale[slice][i] = group.scale[i];
                    if (Codes::RESIDUAL) zero[slice].zero[i] = group.zero[i];
                }
        }
    }

    /** The same, if groups begin with that block, and it is one of the row's. */
    __device__ __forceinline__ void turn_to_groups(const Rows &rows, int block, int blocks_left) {
        if ((WARPS_K > 1 || block > 0) && first_block() + block >= blocks_left) return;
        if (block > 0 && (first_block() + block & ((1 << params.line_shift) - 1)) != 0) return;
        turn = true;
        next_groups(rows, block);
    }

    __device__ __forceinline__ void set_residuals() {
        if constexpr (Codes::RESIDUAL)
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) codes[slice].set_residual(zero[slice]);
    }

    /** Multiply step STEP of a stage, and prepare the next one meanwhile: what is written between two mma stays there,
     * as the tensor cores would idle if all that came before or after. TURN: the step begins a group; sums from now on
     * count in units of its scale. */
    template <int STEP, bool TURN> __device__ __forceinline__ void multiply_and_prepare(const Rows &rows) {
        constexpr int NEXT = (STEP + 1) % STEPS, BLOCK = NEXT / 4, SET = STEP % 2, COUNT = WARP_M / 8;
        if (NEXT % 4 == 0) load_words(rows, BLOCK);
        if (TURN) set_residuals();
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (i % 2 == 0) load_tokens(rows, BLOCK, NEXT % 4, i / 2, 1 - SET);
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) {
                float *const four = &sums[slice][4 * i];
                if (TURN)
#pragma unroll
                    for (int j = 0; j < 4; j++) four[j] *= ratio[slice][j / 2];
                mma<Codes::IS_BF16, true>(four, fragment[SET][slice], tokens[SET][i]);
                if constexpr (Codes::RESIDUAL) mma<Codes::IS_BF16, true>(four, codes[slice].residual, tokens[SET][i]);
            }
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++)
                if (i == (slice + 1) * COUNT / (SLICES + 1)) dequantise(slice, NEXT % 4, 1 - SET);
        }
    }

    template <int STEP>
    __device__ __forceinline__ void step(const Rows &rows, Loader &loader, int blocks_left, bool more) {
        constexpr bool LAST = STEP == STEPS - 1;
        constexpr int NEXT = LAST ? 0 : STEP + 1, BLOCK = NEXT / 4;
        const bool turns = !Codes::SCALES && STEP % 4 == 0 && turn;
        if (LAST) {
            turn = false;
            if (more) {
                stage = loader.arrive(stage);
                if (--group_left == 0) {
                    group_left = params.group_stages;
                    turn_to_groups(rows, 0, blocks_left - BLOCKS);
                }
            }
        } else if (NEXT % 4 == 0) {
            turn = false;
            if (params.lines > 1) turn_to_groups(rows, BLOCK, blocks_left);
        }
        if (Codes::SCALES && STEP % 4 == 0) __syncwarp(); /* ptxas mixes more steps than there are registers for */
        if (turns)
            multiply_and_prepare<STEP, true>(rows);
        else
            multiply_and_prepare<STEP, false>(rows);
    }

    template <int STEP = 0>
    __device__ __forceinline__ void steps(const Rows &rows, Loader &loader, int blocks_left, bool more) {
        if constexpr (STEP < STEPS) {
            step<STEP>(rows, loader, blocks_left, more);
            if (STEP == 1) loader.load();
            if (STEP == 2) loader.advance();
            steps<STEP + 1>(rows, loader, blocks_left, more);
        }
    }

    /** Sums of the stages [begin, end) of a tile whose first strip is `strip`. */
    __device__ __forceinline__ void multiply(Loader &loader, int strip, int begin, int end) {
#pragma unroll
        for (int i = 0; i < SLICES * SUMS; i++) sums[i / SUMS][i % SUMS] = 0.0f;
        const Rows rows(params.gemm, shared);
        if constexpr (Codes::SCALES)
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++)
                codes[slice].scales.begin(params.gemm.units + (strip + FIRST_SLOT) * W4_BLOCK_ROWS + rows.row +
                                          slice * 16);
        stage = loader.arrive(stage);
        group_left = params.group_stages - begin % params.group_stages;
        turn = false;
        /* A warp whose part of a row's last stage has no columns takes sums of zeros. */
        const bool none = WARPS_K > 1 && first_block() >= (int)params.gemm.layout.blocks - begin * BLOCKS;
        Group group[SLICES];
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            if (none)
                group[slice] = {{0.0f, 0.0f}, {0.0f, 0.0f}}; /* finite over any unit */
            else
                group[slice] = group_of(rows, slice, 0);
        }
        first_groups(group);
        load_words(rows, 0);
#pragma unroll
        for (int pair = 0; pair < WARP_M / 16; pair++) load_tokens(rows, 0, 0, pair, 0);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) dequantise(slice, 0, 0);
#pragma unroll 1
        for (int at = begin; at < end; at++)
            steps(rows, loader, (int)params.gemm.layout.blocks - at * BLOCKS, at + 1 < end);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            codes[slice].sum_scales(scale[slice]);
#pragma unroll
            for (int i = 0; i < SUMS; i++) sums[slice][i] *= scale[slice][i % 4 / 2];
        }
    }
};
