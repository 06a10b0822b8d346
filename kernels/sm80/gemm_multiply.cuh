/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: multiplying.
 *
 * A warp works in units, a block of 64 columns of its rows, or half of one where groups end inside. It dequantises the
 * unit's weights into registers, and multiplies them with the tokens, some at a time, so that the sums that belong to
 * this block's scale take few registers; these sums, times the scale, are then added to the tile's. A unit is one run
 * of instructions without a branch, which the compiler orders such that the tensor cores have work while others wait
 * for shared memory. */

template <class Codes> struct Consumer {
    const w4_sm80_gemm_params &params;
    const Shared &shared;
    Progress &progress; /* ring_at and stage: of what is multiplied next */
    Codes codes;
    float sums[SLICES][SUMS];

    __device__ __forceinline__ Consumer(const w4_sm80_gemm_params &params_, const Shared &shared_, Progress &progress_,
                                        int worker)
        : params(params_), shared(shared_), progress(progress_) {
        if (thread_index() % 32 == 0) {
            progress.begin(params, worker);
            progress.lead = params.ring - 1;
        }
    }

    /** Turn to the next piece of work; false when there is none. */
    __device__ __forceinline__ bool next_work() {
        __syncwarp();
        if (thread_index() % 32 == 0) {
            progress.next(params);
            progress.stage -= progress.lead;
            progress.lead = 0;
        }
        __syncwarp();
        return progress.work.tile >= 0;
    }

    /** Where a lane reads: its codes in a slot; its row of the four 8 x 8 matrices of tokens, in a block of
     * activations; and which bytes of a word with a scale of its row make a float. */
    struct Lane {
        uint32_t codes, tokens, scale_selector, row;
        __device__ __forceinline__ Lane(const w4_gemm_params &gemm, int thread) {
            const int lane = thread % 32, slice = thread / 32 * SLICES % 4;
            codes = slice * SLICE_BYTES + lane * 16;
            row = slice * 16 + lane / 4;
            /* 8 tokens x 4 pieces of 8 columns, or 16 tokens x 2. Pieces are where the loader put them: piece ^ token
             * % 8. */
            const int token = CHUNK == 8 ? lane % 8 : lane / 16 * 8 + lane % 8;
            const int piece = CHUNK == 8 ? lane / 8 : lane / 8 % 2;
            tokens = token * 128 + ((piece ^ token % 8) << 4);
            /* As bytes of {0, word}: fp32 as it is, bf16 as the upper half of one, fp16 as the lower. */
            const bool bf16 = gemm.scale_dtype == W4_PARAM_BF16;
            scale_selector = gemm.layout.scale_size == 4 ? 0x3210 : bf16 ? 0x1044 : 0x4410;
            if (gemm.layout.scale_size == 2 && lane / 4 % 2) scale_selector += bf16 ? 0x2200 : 0x0022;
        }
    };

    /** Scale and zero point of the two rows that this thread's fragments of a slice hold. slot: an address; line: of
     * the slot's. */
    __device__ __forceinline__ Group load_group(const Lane &lane, uint32_t slot, int slice, int line) const {
        const w4_gemm_params &gemm = params.gemm;
        const int row = lane.row + slice * 16, size = (int)gemm.layout.scale_size;
        const uint32_t scales = slot + CODE_BYTES + line * W4_BLOCK_ROWS * size + (row * size & ~3);
        Group group;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t bits = __byte_perm(shared_load32(scales + 8 * i * size), 0, lane.scale_selector);
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

    /** Tokens `first` and the next of a k16 step, as right operands; where CHUNK is 8, of two steps at once. `block`:
     * its activations; `from`: the k16 step of the block that is step 0 here. */
    template <int STEPS, int COUNT>
    __device__ __forceinline__ void load_tokens(const Lane &lane, uint32_t (&tokens)[STEPS][COUNT][2], uint32_t block,
                                                int from, int first, int step) const {
        const uint32_t address = block + (lane.tokens ^ (from + step) << 5);
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

    /** STEPS k16 steps under one scale: block `block` of a stage, or with 2 steps half `half` of it. `activations`: the
     * block's; `line`: of the slot's. */
    template <int STEPS>
    __device__ __forceinline__ void unit(const Lane &lane, uint32_t activations, uint32_t slot, int block, int half,
                                         int line) {
        constexpr bool BF16 = Codes::IS_BF16;
        constexpr int COUNT = CHUNK / 8;
        uint32_t fragment[SLICES][STEPS][4];
        Group group[SLICES];
        Codes own[SLICES];
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            const uint32_t words_at = slot + lane.codes + block * W4_BLOCK_BYTES + slice * SLICE_BYTES + half * 8;
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
            group[slice] = load_group(lane, slot, slice, line);
            own[slice] = codes;
            own[slice].set(group[slice]);
            own[slice].set_residual(group[slice]);
#pragma unroll
            for (int step = 0; step < STEPS; step++) own[slice].word(words[step], fragment[slice][step]);
        }
#pragma unroll
        for (int first = 0; first < TILE_M; first += CHUNK) {
            uint32_t tokens[STEPS][COUNT][2];
            float part[SLICES][COUNT * 4];
            load_tokens(lane, tokens, activations, half * 2, first, 0);
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                if (step + 1 < STEPS) load_tokens(lane, tokens, activations, half * 2, first, step + 1);
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

    /** One unit of stage progress.stage, with all that it needs to know: nothing is kept from one to the next. */
    template <int STEPS> __device__ __forceinline__ void unit_of_stage(int block, int half) {
        constexpr int SPANS = W4_BLOCK_COLUMNS / W4_SM80_SPAN;
        const int ring_at = progress.ring_at, first = progress.stage * BLOCKS * SPANS;
        const int line = params.lines > 1 ? w4_sm80_group(params.divider, first + block * SPANS + half) -
                                                w4_sm80_group(params.divider, first)
                                          : 0;
        unit<STEPS>(Lane(params.gemm, thread_index()), shared.stage(ring_at) + block * BLOCK_A_BYTES,
                    shared.slot(ring_at, FIRST_SLOT), block, half, line);
    }

    /** Stage progress.stage of a tile, whose copies have arrived. */
    __device__ __forceinline__ void multiply_stage() {
        if (params.halves) {
#pragma unroll 1
            for (int half = 0; half < 2 * BLOCKS && half < 2 * blocks_left(); half++)
                unit_of_stage<2>(half / 2, half % 2);
            return;
        }
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            if (block > 0 && block >= blocks_left()) break;
            unit_of_stage<4>(block, 0);
        }
    }

    __device__ __forceinline__ int blocks_left() const {
        return (int)params.gemm.layout.blocks - progress.stage * BLOCKS;
    }

    /** Sums of all stages of this piece of work. Where its first stage is not on its way yet, progress.stage is that
     * many stages before it: so many are loaded first. */
    __device__ __forceinline__ void multiply(Loader &loader) {
#pragma unroll
        for (int i = 0; i < SLICES * SUMS; i++) sums[i / SUMS][i % SUMS] = 0.0f;
        bool more = true;
#pragma unroll 1
        while (more) {
            const bool ready = progress.stage >= progress.work.begin;
            if (ready) {
                wait_for_copies(params.ring - 2);
                __syncthreads(); /* all threads' copies are there, and all warps are done with the stage before */
            }
            loader.load();
            if (ready) multiply_stage();
            more = progress.stage + 1 < progress.work.end;
            __syncwarp();
            if (thread_index() % 32 == 0) {
                if (progress.stage < progress.work.begin)
                    progress.stage++;
                else
                    progress.advance(params);
            }
            __syncwarp();
        }
    }

    /** The stage of the ring that was multiplied last. */
    __device__ __forceinline__ int last_stage() const {
        return (progress.ring_at == 0 ? params.ring : progress.ring_at) - 1;
    }
};
