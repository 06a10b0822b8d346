/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: what a warpgroup does that multiplies.
 *
 * It works in units, a block of 64 columns of one of its strips: four wgmmas on 16 registers of dequantised weights.
 * While the wgmmas of a unit run, the unit before is waited for and the next one's codes are dequantised into the
 * registers that it leaves, so that the tensor cores find the next unit ready. Those codes, and scales, have been
 * fetched a unit earlier: ptxas puts the first instructions that need them between the wgmmas, and those that follow
 * would wait for the fetch.
 *
 * Two cooperative warpgroups of large tiles start their units in turns: left alone, one runs ahead until the ring holds
 * it back, and then waits for copies while the other keeps the tensor cores busy for only part of the time. Up to 128
 * tokens that costs less than the turns do. Pingpong warpgroups start their tiles in turns: a barrier tells only one
 * round of the ring from the next, so that nobody may wait for a stage before all stages before it have arrived. */

/** Keep the compiler from moving the making of a fragment behind the fence: it would see registers of a running wgmma
 * change, and serialise all of them. */
__device__ __forceinline__ void settle(uint32_t (&fragment)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; i++) asm volatile("" : "+r"(fragment[i / 4][i % 4])::"memory");
}

/** The same for sums, around code that reads them. */
__device__ __forceinline__ void settle(float (&sums)[SUMS]) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

template <int VALUE> struct Constant { static constexpr int value = VALUE; };

/** What a unit is made of, on its way to registers. */
struct Fetched {
    uint4 words;
    Group group; /* as load_group has it: find() waits for it */
};

/** GROUP_BLOCKS: blocks of k in a group, where the compiler is to know them and they divide a stage; else 0. */
template <class Codes, int GROUP_BLOCKS> struct Consumer {
    const w4_sm90_gemm_params &params;
    const Shared &shared;
    const int thread, part;
    static constexpr int ZERO_BYTES = Codes::ZERO == W4_PARAM_ZERO_INTEGER ? 1 : 4; /* of a zero point */
    uint32_t words_at;                          /* this thread's 16 bytes of its first slot in stage 0 */
    uint32_t scale_from_words, zero_from_words, /* from there to its row's scale (of pairs, the lane's matrix row), and
                                                   its zero point */
        scale_selector;                         /* which bytes of a scale's word make a float */
    uint32_t descriptor;                        /* lower half of the wgmma descriptor of stage 0's activations */
    Position at;
    uint32_t full, before; /* `full` of the stage at hand, and of the one before, which wgmmas may still read */
    uint32_t words;        /* of the stage at hand, this thread's first 16 bytes */
    float sums[STRIPS][SUMS];
    float scale[STRIPS][2]; /* in units of which sums are, where codes do not take the scale along */
    /* Where groups' sums are apart: the two sets, and the scale of the group that has begun; `scale` is that of the one
     * before. */
    float apart[2][SUMS], scale_begun[2];
    Codes codes[ANY_GROUP ? 2 : STRIPS]; /* with any group: of the two halves of a unit */
    uint32_t fragment[2][4][4];
    /* Whether units are fetched two ahead, where their stage is there. Four warps to a scheduler gain nothing by it. */
    static constexpr bool AHEAD = GROUP_BLOCKS > 0 && UNITS > 1 && STRIPS *SUMS <= 64 && WARPGROUPS < 4;
    /* Whether groups' sums are apart; with bf16 they would be up to 1 % slower so. */
    static constexpr bool APART = TWO_SETS && GROUP_BLOCKS == 2 && !Codes::SCALES && !Codes::IS_BF16;
    static_assert(!APART || (STRIPS == 1 && BLOCKS == 2 * GROUP_BLOCKS), "a stage has a group for each set");
    /** Which set a block's products are summed in. */
    static __device__ constexpr int set_of(int block) { return APART ? block / GROUP_BLOCKS : 0; }
    Fetched coming;
    /* Lines of a slot whose scales are loaded together, where they are pairs; those of the second. */
    static constexpr int LINES = GROUP_BLOCKS > 0 && BLOCKS >= 2 * GROUP_BLOCKS ? 2 : 1;
    uint32_t scales[STRIPS][2 * LINES]; /* of two rows each, twice in a register */
    __half2 next_pair[STRIPS];
    int group_left; /* stages to the end of the group; groups shorter than a stage end with each stage */
    bool turn;      /* whether the next stage begins a group; not looked at where GROUP_BLOCKS tells */

    __device__ __forceinline__ Consumer(const w4_sm90_gemm_params &params_, const Shared &shared_, int first_slot,
                                        int part_)
        : params(params_), shared(shared_), thread((int)in_register(threadIdx.x % 128)), part(part_) {
        const int row = first_row(), size = (int)params.gemm.layout.scale_size;
        words_at = in_register(shared.slot(0, first_slot) + thread * 16);
        scale_from_words = CODE_BYTES + (row * size & ~3) - thread * 16;
        zero_from_words = CODE_BYTES + params.lines * W4_BLOCK_ROWS * size + row * ZERO_BYTES - thread * 16;
        /* As bytes of {0, word}: fp32 as it is, bf16 as the upper half of one, fp16 as the lower. */
        scale_selector = size == 4 ? 0x3210 : params.gemm.scale_dtype == W4_PARAM_BF16 ? 0x1044 : 0x4410;
        if (size == 2 && row % 2) scale_selector += params.gemm.scale_dtype == W4_PARAM_BF16 ? 0x2200 : 0x0022;
        scale_selector = in_register(scale_selector);
        if (Codes::PAIRS) /* of the matrix row whose address is this lane's to give */
            scale_from_words = CODE_BYTES +
                               (thread / 32 * 16 + thread % 16 / 8 * 8 + thread % 32 / 16 * W4_BLOCK_ROWS) * 2 -
                               thread * 16;
        descriptor = in_register(wgmma_descriptor_low(shared.activations(0)));
    }

    /** Of a strip's rows, the first of the two that this thread's fragments hold; the other is 8 further. */
    __device__ __forceinline__ int first_row() const { return thread / 32 * 16 + thread % 32 / 4; }

    /** Scales and zero points of one group, as find() takes them, of the two rows that this thread's fragments hold.
     * `slot`: this thread's codes in the slot of strip `strip`; `line`: of the slot's. Pairs stay in `scales`. */
    __device__ __forceinline__ Group load_group(uint32_t slot, int line, int strip) {
        Group group;
        /* A lane gets its row's scale from a matrix of 8 rows that all are the scales of 8 rows, transposed. */
        if constexpr (Codes::PAIRS)
            if (line % LINES == 0) load_transposed(scales[strip], slot + scale_from_words + line * W4_BLOCK_ROWS * 2);
#pragma unroll
        for (int i = 0; i < 2 && !Codes::PAIRS; i++) {
            const uint32_t size = (uint32_t)params.gemm.layout.scale_size;
            const uint32_t word = shared_load32(slot + scale_from_words + (line * W4_BLOCK_ROWS + 8 * i) * size);
            const uint32_t bits = __byte_perm(word, 0, scale_selector);
            group.scale[i] = params.gemm.scale_dtype == W4_PARAM_FP16
                                 ? __half2float(__ushort_as_half((unsigned short)bits))
                                 : __uint_as_float(bits);
        }
        if (Codes::ZERO == W4_PARAM_SYMMETRIC) return group;
        const uint32_t zeros = slot + zero_from_words + line * W4_BLOCK_ROWS * ZERO_BYTES;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (Codes::ZERO == W4_PARAM_ZERO_INTEGER)
                group.whole[i] = shared_load8(zeros + 8 * i);
            else
                group.zero[i] = __uint_as_float(shared_load32(zeros + 32 * i));
        }
        return group;
    }

    /** What follows the fetch of a group, of line `line`, and waits for it. */
    __device__ __forceinline__ Group find(const Group &group, int line, int strip) {
        Group result = group;
        if constexpr (Codes::PAIRS) {
            if (line % LINES == 0) {
                const uint32_t(&own)[2 * LINES] = scales[strip];
                result.pair = half2_of(__byte_perm(own[0], own[1], 0x5410));
                if (LINES > 1) next_pair[strip] = half2_of(__byte_perm(own[2 * LINES - 2], own[2 * LINES - 1], 0x5410));
            } else {
                result.pair = next_pair[strip];
            }
        }
        return result;
    }

    /** A warp of this CTA is done with the stage whose `full` this is; the loaders of all CTAs that write into it want
     * to know. */
    __device__ __forceinline__ void release(uint32_t full_of) const {
        __syncwarp(); /* the lane that arrives speaks for what all lanes have read */
        if (ARRIVING_LANES > 1 || elect_one())
#pragma unroll
            for (int i = 0; i < CLUSTER; i++) {
                if (CLUSTER > 1)
                    barrier_arrive_cluster(shared.empty_of(full_of), i);
                else
                    barrier_arrive(shared.empty_of(full_of));
            }
    }

    __device__ __forceinline__ void dequantise(const uint4 &words, int strip, uint32_t (&target)[4][4]) const {
        codes[strip].word(words.x, target[0]);
        codes[strip].word(words.y, target[1]);
        codes[strip].word(words.z, target[2]);
        codes[strip].word(words.w, target[3]);
    }

    /** Where codes do not take scales along: sums from now on count in units of the new group's. */
    __device__ __forceinline__ void rescale(int strip, const Group &group) {
        float ratio[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            ratio[i] = scale[strip][i] * reciprocal(group.scale[i]);
            scale[strip][i] = group.scale[i];
        }
        settle(sums[strip]);
#pragma unroll
        for (int i = 0; i < SUMS; i++) sums[strip][i] *= ratio[i % 4 / 2];
        settle(sums[strip]);
    }

    /** Where sums of groups are apart: the group before the one that has begun with set 1 - SET is complete. */
    template <int SET> __device__ __forceinline__ void add_group() {
        settle(apart[SET]);
#pragma unroll
        for (int i = 0; i < SUMS; i++) sums[0][i] = fmaf(apart[SET][i], scale[0][i % 4 / 2], sums[0][i]);
#pragma unroll
        for (int i = 0; i < 2; i++) scale[0][i] = scale_begun[i];
    }

    template <int UNIT> __device__ __forceinline__ void start(uint32_t (&own)[4][4], uint32_t stage_descriptor) {
        constexpr int block = UNIT / STRIPS, strip = UNIT % STRIPS;
        const bool anew = APART && begins_group(block);
        float(&into)[SUMS] = APART ? apart[set_of(block)] : sums[strip];
        settle(own);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) {
            const uint32_t ahead = block * (BOX_BYTES >> 4) + 2 * step;
            const uint64_t b = GROUP_BLOCKS > 0 ? wgmma_descriptor(stage_descriptor) + ahead
                                                : wgmma_descriptor(stage_descriptor + ahead);
            wgmma<TILE_M, Codes::IS_BF16>::run(into, own[step], b, !anew || step > 0);
            if constexpr (Codes::RESIDUAL) wgmma<TILE_M, Codes::IS_BF16>::run(into, codes[strip].residual, b, 1);
        }
        wgmma_commit();
    }

    /** Whether block `block` of a stage begins a group. */
    __device__ __forceinline__ bool begins_group(int block) const {
        if (GROUP_BLOCKS > 0) return block % GROUP_BLOCKS == 0;
        return block == 0 ? turn : block % 2 ? params.group_blocks == 1 : params.group_blocks <= 2;
    }

    /** Of a slot, the line of block `block`, which begins a group. */
    __device__ __forceinline__ int line_of(int block) const {
        return GROUP_BLOCKS > 0           ? block / GROUP_BLOCKS
               : params.group_blocks == 1 ? block
               : params.group_blocks == 2 ? block / 2
                                          : 0;
    }

    /** Fetch a unit's codes, and its group if it begins one. */
    template <int UNIT> __device__ __forceinline__ Fetched fetch(uint32_t stage_words) {
        constexpr int block = UNIT / STRIPS, strip = UNIT % STRIPS;
        const uint32_t slot = stage_words + strip * params.slot_bytes;
        Fetched fetched;
        fetched.words = shared_load128(slot + block * W4_BLOCK_BYTES);
        if (begins_group(block)) fetched.group = load_group(slot, line_of(block), strip);
        return fetched;
    }

    /** Start a unit, wait for the one before, prepare the next, of this stage, or of the next, if `more`, and fetch the
     * one after that; a stage's first is fetched when the stage before ends. */
    template <int UNIT, int PARITY> __device__ __forceinline__ void unit(uint32_t stage_descriptor, bool more) {
        constexpr bool last = UNIT == UNITS - 1;
        const uint32_t done = before;
        constexpr int block = UNIT / STRIPS;
        constexpr int next = last ? 0 : UNIT + 1, strip = next % STRIPS, further = (UNIT + 2) % UNITS;
        if (ORDERED && !PINGPONG) order_wait();
        bool there = false;
        if (last) {
            at.hop(PARTS, params.ring);
            before = full;
            full = in_register(shared.full(at.stage));
            if (AHEAD) there = barrier_test(full, at.phase); /* the answer takes a while */
        }
        start<UNIT>(fragment[PARITY], stage_descriptor);
        if (ORDERED && !PINGPONG) order_pass();
        if (last) {
            if (GROUP_BLOCKS == 0 && PARTS == 1) {
                turn = --group_left == 0;
                if (turn) group_left = params.group_stages;
            }
            if (AHEAD || more) {
                words = in_register(words_at + at.stage * params.stage_stride);
                if (more && !there) barrier_wait(full, at.phase);
            }
        }
        Fetched fetched;
        if (AHEAD && !last)
            fetched = coming;
        else if (!last || more)
            fetched = fetch<next>(words);
        if constexpr (AHEAD && UNIT != UNITS - 2)
            if (!last || more) coming = fetch<further>(words);
        wgmma_wait<1>();
        if (UNIT == 0) release(done);
        if constexpr (APART && block % GROUP_BLOCKS == 0) add_group<1 - set_of(block)>();
        if (!last || more) {
            const bool begins = begins_group(next / STRIPS);
            Group group;
            if (begins) codes[strip].set(group = find(fetched.group, line_of(next / STRIPS), strip));
            dequantise(fetched.words, strip, fragment[1 - PARITY]);
            if constexpr (APART) {
                if (begins)
                    for (int i = 0; i < 2; i++) scale_begun[i] = group.scale[i];
            } else if constexpr (!Codes::SCALES) {
                if (begins) {
                    if (STRIPS == 1) wgmma_wait<0>();
                    codes[strip].set_residual(group);
                    rescale(strip, group);
                }
            }
        }
        /* With several sets of sums the compiler must see, where the loop closes, that none of them is in use. */
        if (last && (STRIPS > 1 || APART)) wgmma_wait<0>();
    }

    template <int PARITY, int UNIT = 0> __device__ __forceinline__ void units(uint32_t stage_descriptor, bool more) {
        if constexpr (UNIT < UNITS) {
            unit<UNIT, (PARITY + UNIT) % 2>(stage_descriptor, more);
            units<PARITY, UNIT + 1>(stage_descriptor, more);
        }
    }

    /* Turns between two warpgroups: each waits at its own barrier for the other to pass. */
    __device__ __forceinline__ void order_wait() const {
        turn_wait(ORDER_BARRIER + threadIdx.x / 128 % 2);
    }
    __device__ __forceinline__ void order_pass() const {
        turn_pass(ORDER_BARRIER + 1 - threadIdx.x / 128 % 2);
    }

    /** Sums of the stages [begin, end) of a tile, of which this part's, which scale_sums has yet to multiply.
     * first_strip: of this warpgroup's. */
    __device__ __forceinline__ void multiply(int first_strip, int begin, int end) {
        if (PINGPONG) order_wait();
        auto stage = [&](auto parity, bool more) {
            uint32_t stage_descriptor = descriptor + at.stage * (A_BYTES >> 4);
            /* The same in all lanes, and the compiler may know it: descriptors are then made in uniform registers. */
            if (GROUP_BLOCKS > 0) stage_descriptor = __reduce_or_sync(0xffffffff, stage_descriptor);
            units<decltype(parity)::value>(stage_descriptor, more);
        };
#pragma unroll
        for (int i = 0; i < STRIPS * SUMS; i++) sums[i / SUMS][i % SUMS] = 0.0f;
#pragma unroll
        for (int i = 0; i < STRIPS * 2; i++) scale[i / 2][i % 2] = 1.0f;
        if constexpr (Codes::SCALES) {
            /* Not first_row(), which the compiler would keep in a register that n256m32k256 has not got. */
            const float *units = params.gemm.units + first_strip * W4_BLOCK_ROWS + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
            for (int strip = 0; strip < STRIPS; strip++) codes[strip].scales.begin(units + strip * W4_BLOCK_ROWS);
        }
        group_left = params.group_stages - begin % params.group_stages;
        turn = true; /* a part does not see where groups begin: each of its stages has its group's line */
        /* A place in the ring is always the same part's, which so meets all its rounds in order. */
        const int ahead = PARTS > 1 ? (part + PARTS - at.stage % PARTS) % PARTS : 0;
        if (PARTS > 1) {
            if (begin + ahead >= end) { /* nothing */
                at.hop(end - begin, params.ring);
                return;
            }
            at.hop(ahead, params.ring);
        }
        before = shared.nowhere();
        full = shared.full(at.stage);
        barrier_wait(full, at.phase);
        words = words_at + at.stage * params.stage_stride;
        const uint4 codes_of_first = shared_load128(words);
        const Group group = find(load_group(words, 0, 0), 0, 0);
        codes[0].set(group);
        if constexpr (APART) { /* there is no group before */
#pragma unroll
            for (int i = 0; i < SUMS * 2; i++) apart[i / SUMS][i % SUMS] = 0.0f;
#pragma unroll
            for (int i = 0; i < 2; i++) scale_begun[i] = group.scale[i];
        } else if constexpr (!Codes::SCALES) {
            codes[0].set_residual(group);
            scale[0][0] = group.scale[0];
            scale[0][1] = group.scale[1];
        }
        dequantise(codes_of_first, 0, fragment[0]);
        if constexpr (AHEAD) coming = fetch<1>(words);
        int index = begin + ahead;
        while (true) {
            index += PARTS;
            stage(Constant<0>(), index < end);
            if (index >= end) break;
            if (UNITS % 2) {
                index += PARTS;
                stage(Constant<1>(), index < end);
                if (index >= end) break;
            }
        }
        if (PARTS > 1) at.hop_back(index - end, params.ring);
        if (PINGPONG) order_pass();
        wgmma_wait<0>();
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) settle(sums[strip]);
        if constexpr (APART) add_group<1>();
        release(before);
    }

    __device__ __forceinline__ void scale_sums() {
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            /* Those apart have been multiplied, but for what codes leave out. */
            if (APART || ANY_GROUP) scale[strip][0] = scale[strip][1] = 1.0f;
            codes[strip].sum_scales(scale[strip]);
#pragma unroll
            for (int i = 0; i < SUMS; i++) sums[strip][i] *= scale[strip][i % 4 / 2];
        }
    }
};
