/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: multiplying.
 *
 * A warp works in units, a block of 64 columns of its rows. It dequantises the unit's weights into registers, and
 * multiplies them with the tokens, some at a time, so that the sums that belong to this block's scale take few
 * registers; these sums, times the scale, are then added to the tile's. A unit is one run of instructions without a
 * branch, which the compiler orders such that the tensor cores have work while others wait for shared memory. */

template <class Codes> struct Consumer {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    int ring_at;
    uint32_t codes_at, tokens_at; /* of this thread, within a slot and within a stage */
    uint32_t scale_selector;      /* which bytes of a word make a float */
    Codes codes;
    float sums[SLICES][SUMS];

    __device__ __forceinline__ Consumer(const w4_sm80_gemm_params &params_, const Shared &shared_)
        : params(params_), shared(shared_), ring_at(0) {
        const int lane = threadIdx.x % 32;
        codes_at = FIRST_SLICE * SLICE_BYTES + lane * 16;
        /* The row of the four 8 x 8 matrices that this lane gives the address of, and its piece: 8 tokens x 4 pieces
         * of 8 columns, or 16 tokens x 2. Pieces are where the loader put them: piece ^ token % 8. */
        const int token = TILE_M == 8 ? lane % 8 : lane / 16 * 8 + lane % 8;
        const int piece = TILE_M == 8 ? lane / 8 : lane / 8 % 2;
        tokens_at = token * 128 + ((piece ^ token % 8) << 4);
        /* As bytes of {0, word}: fp32 as it is, bf16 as the upper half of one, fp16 as the lower. */
        const bool bf16 = params.gemm.scale_dtype == W4_PARAM_BF16;
        scale_selector = params.gemm.layout.scale_size == 4 ? 0x3210 : bf16 ? 0x1044 : 0x4410;
        if (params.gemm.layout.scale_size == 2 && lane / 4 % 2) scale_selector += bf16 ? 0x2200 : 0x0022;
    }

    /** Scale and zero point of the two rows that this thread's fragments of a slice hold. slot: an address; line: of
     * the slot's. */
    __device__ __forceinline__ Group load_group(uint32_t slot, int slice, int line) const {
        const w4_gemm_params &gemm = params.gemm;
        const int row = (FIRST_SLICE + slice) * 16 + threadIdx.x % 32 / 4, size = (int)gemm.layout.scale_size;
        const uint32_t scales = slot + CODE_BYTES + line * W4_BLOCK_ROWS * size + (row * size & ~3);
        Group group;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t bits = __byte_perm(shared_load32(scales + 8 * i * size), 0, scale_selector);
            group.scale[i] = gemm.scale_dtype == W4_PARAM_FP16 ? __half2float(__ushort_as_half((unsigned short)bits))
                                                               : __uint_as_float(bits);
        }
        if (Codes::ZERO == W4_PARAM_SYMMETRIC) return group;
        const uint32_t zeros = slot + CODE_BYTES + params.lines * W4_BLOCK_ROWS * size +
                               (line * W4_BLOCK_ROWS + row) * (Codes::ZERO == W4_PARAM_ZERO_INTEGER ? 1 : 4);
#pragma unroll
        for (int i = 0; i < 2; i++)
            group.zero[i] = Codes::ZERO == W4_PARAM_ZERO_INTEGER ? (float)shared_load8(zeros + 8 * i)
                                                                 : __uint_as_float(shared_load32(zeros + 32 * i));
        return group;
    }

    /** Tokens `first` and the next of the k16 step `step`, as right operands; with TILE_M 8, of two steps at once. */
    template <int COUNT>
    __device__ __forceinline__ void load_tokens(uint32_t (&tokens)[4][COUNT][2], uint32_t block, int first,
                                                int step) const {
        if constexpr (TILE_M == 8) {
            if (step % 2) return;
            uint32_t four[4];
            load_matrices(four, block + (tokens_at ^ step << 5));
#pragma unroll
            for (int i = 0; i < 4; i++) tokens[step + i / 2][0][i % 2] = four[i];
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i += 2) {
                uint32_t four[4];
                load_matrices(four, block + (tokens_at ^ step << 5) + (first + i * 8) * 128);
#pragma unroll
                for (int j = 0; j < 4; j++) tokens[step][i + j / 2][j % 2] = four[j];
            }
        }
    }

    /** One block of 64 columns. HALVES: its 32 first and its 32 last columns may be of different groups, lines[0] and
     * lines[1] of the slot. */
    template <bool HALVES>
    __device__ __forceinline__ void unit(uint32_t activations, uint32_t slot, uint32_t words_at,
                                         const int (&lines)[2]) {
        constexpr int PARTS = HALVES ? 2 : 1, STEPS = 4 / PARTS; /* k16 steps under one scale */
        constexpr int COUNT = CHUNK / 8;
        uint32_t fragment[SLICES][4][4];
        float scale[PARTS][SLICES][2];
        Codes own[PARTS][SLICES];
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const uint4 four = shared_load128(words_at + slice * SLICE_BYTES);
            const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const Group group = load_group(slot, slice, lines[part]);
                own[part][slice] = codes;
                own[part][slice].set(group);
                own[part][slice].set_residual(group);
#pragma unroll
                for (int i = 0; i < 2; i++) scale[part][slice][i] = group.scale[i];
#pragma unroll
                for (int step = part * STEPS; step < (part + 1) * STEPS; step++)
                    own[part][slice].word(words[step], fragment[slice][step]);
            }
        }
#pragma unroll
        for (int first = 0; first < TILE_M; first += CHUNK) {
            uint32_t tokens[4][COUNT][2];
            float part_sums[SLICES][COUNT * 4];
            load_tokens(tokens, activations, first, 0);
#pragma unroll
            for (int step = 0; step < 4; step++) {
                constexpr bool BF16 = Codes::IS_BF16;
                const int part = step / STEPS;
                if (step < 3) load_tokens(tokens, activations, first, step + 1);
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                    for (int i = 0; i < COUNT; i++) {
                        float *four = &part_sums[slice][4 * i];
                        if (step % STEPS == 0)
                            mma<BF16, false>(four, fragment[slice][step], tokens[step][i]);
                        else
                            mma<BF16, true>(four, fragment[slice][step], tokens[step][i]);
                        if constexpr (Codes::RESIDUAL)
                            mma<BF16, true>(four, own[part][slice].residual, tokens[step][i]);
                    }
                if (step % STEPS < STEPS - 1) continue;
#pragma unroll
                for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
                    for (int i = 0; i < COUNT * 4; i++) {
                        float &sum = sums[slice][first / 2 + i];
                        sum = fmaf(scale[part][slice][i % 4 / 2], part_sums[slice][i], sum);
                    }
            }
        }
    }

    /** The stage of the ring that is next, which is there: stage `stage` of a tile. */
    template <bool HALVES> __device__ __forceinline__ void multiply_stage(int stage) {
        const int block = stage * BLOCKS, left = (int)params.gemm.layout.blocks - block;
        const uint32_t activations = shared.stage(ring_at), slot = shared.slot(ring_at, FIRST_SLOT);
        constexpr int SPANS = W4_BLOCK_COLUMNS / W4_SM80_SPAN;
        const int first = params.lines > 1 ? w4_sm80_group(params.divider, block * SPANS) : 0;
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
            if (i > 0 && i >= left) break;
            int lines[2] = {0, 0};
            if (params.lines > 1) {
                lines[0] = w4_sm80_group(params.divider, (block + i) * SPANS) - first;
                if (HALVES) lines[1] = w4_sm80_group(params.divider, (block + i) * SPANS + 1) - first;
            }
            unit<HALVES>(activations + i * BLOCK_A_BYTES, slot, slot + codes_at + i * W4_BLOCK_BYTES, lines);
        }
    }

    /** Sums of the stages [begin, end) of a tile; before the first, `lead` more stages are loaded. Returns the stage of
     * the ring that was the last. */
    __device__ __forceinline__ int multiply(int begin, int end, int lead, Loader &loader) {
        int last = ring_at;
#pragma unroll
        for (int i = 0; i < SLICES * SUMS; i++) sums[i / SUMS][i % SUMS] = 0.0f;
#pragma unroll 1
        for (int stage = begin - lead; stage < end; stage++) {
            if (stage >= begin) {
                wait_for_copies(params.ring - 2);
                __syncthreads(); /* all threads' copies are there, and all warps are done with the stage before */
            }
            loader.load();
            if (stage < begin) continue;
            if (params.halves)
                multiply_stage<true>(stage);
            else
                multiply_stage<false>(stage);
            last = ring_at;
            if (++ring_at == params.ring) ring_at = 0;
        }
        return last;
    }
};
