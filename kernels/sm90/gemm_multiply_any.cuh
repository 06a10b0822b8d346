/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: the multiplication for groups of any multiple of 32 columns, and for scales that lie too far apart
 * to scale sums in place. The products of each 32 columns, half a unit, are summed apart, from zero, and then added to
 * the tile's sums, times the group's scale. While a unit's wgmmas run, the next one is dequantised. */

template <class Codes> struct AnyGroup {
    Consumer<Codes, 0> &own;
    float part[2][SUMS], scale[2][2]; /* of each half of a unit */
    int line, line_left;              /* the slot's line of the next 32 columns; columns / 32 to the end of its group */

    __device__ __forceinline__ explicit AnyGroup(Consumer<Codes, 0> &own_) : own(own_), line(0), line_left(0) {
#pragma unroll
        for (int i = 0; i < 2 * SUMS; i++) part[i / SUMS][i % SUMS] = 0.0f;
    }

    /** Dequantise unit `block` of the stage whose words are at `stage_words`. */
    __device__ __forceinline__ void prepare(uint32_t stage_words, int block, uint32_t (&target)[4][4],
                                            Group (&group)[2]) {
        const uint4 words = shared_load128(stage_words + block * W4_BLOCK_BYTES);
        if (block == 0) line = 0; /* a chunk's first line is of the group that its first column is in */
#pragma unroll
        for (int half = 0; half < 2; half++) {
            group[half] = own.load_group(stage_words, line, 0);
            own.codes[half].set(group[half]);
            if (--line_left == 0) {
                line_left = own.params.group_halves;
                line++;
            }
        }
        own.codes[0].word(words.x, target[0]);
        own.codes[0].word(words.y, target[1]);
        own.codes[1].word(words.z, target[2]);
        own.codes[1].word(words.w, target[3]);
    }

    /** Take over the prepared groups, with no wgmma running. */
    __device__ __forceinline__ void take(const Group (&group)[2]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            scale[half][0] = group[half].scale[0];
            scale[half][1] = group[half].scale[1];
            own.codes[half].set_residual(group[half]);
        }
    }

    /** Start unit UNIT, prepare the next, of this stage, or of the next, if `more`, and add the products. */
    template <int UNIT>
    __device__ __forceinline__ void unit(uint32_t stage_descriptor, uint32_t stage_words, bool more, uint32_t before) {
        constexpr bool last = UNIT == UNITS - 1;
        settle(own.fragment[UNIT % 2]);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) {
            uint64_t b = wgmma_descriptor(stage_descriptor + UNIT * (BOX_BYTES >> 4) + 2 * step);
            wgmma<TILE_M, Codes::IS_BF16>::run(part[step / 2], own.fragment[UNIT % 2][step], b, step % 2);
            if constexpr (Codes::RESIDUAL)
                wgmma<TILE_M, Codes::IS_BF16>::run(part[step / 2], own.codes[step / 2].residual, b, 1);
        }
        wgmma_commit();
        if (last) {
            own.at.hop(1, own.params.ring);
            if (more) {
                stage_words = own.words_at + own.at.stage * own.params.stage_stride;
                barrier_wait(own.shared.full(own.at.stage), own.at.phase);
            }
        }
        if (UNIT == 0) own.release(before);
        Group group[2];
        if (!last || more) prepare(stage_words, last ? 0 : UNIT + 1, own.fragment[(UNIT + 1) % 2], group);
        wgmma_wait<0>();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            settle(part[half]);
#pragma unroll
            for (int i = 0; i < SUMS; i++) own.sums[0][i] = fmaf(part[half][i], scale[half][i % 4 / 2], own.sums[0][i]);
        }
        settle(own.sums[0]);
        if (!last || more) take(group);
        if constexpr (!last) unit<UNIT + 1>(stage_descriptor, stage_words, more, before);
    }

    __device__ __forceinline__ void multiply(int begin, int end) {
        uint32_t before = own.shared.nowhere(); /* `full` of the stage before, which other warps may still read */
#pragma unroll
        for (int i = 0; i < SUMS; i++) own.sums[0][i] = 0.0f;
        line_left = own.params.group_halves - begin * (TILE_K / 32) % own.params.group_halves;
        barrier_wait(own.shared.full(own.at.stage), own.at.phase);
        Group group[2];
        prepare(own.words_at + own.at.stage * own.params.stage_stride, 0, own.fragment[0], group);
        take(group);
#pragma unroll 1
        for (int index = begin; index < end; index++) {
            const int here = own.at.stage;
            unit<0>(own.descriptor + here * (A_BYTES >> 4), own.words_at + here * own.params.stage_stride,
                    index + 1 < end, before);
            before = own.shared.full(here);
        }
        own.release(before);
    }
};
