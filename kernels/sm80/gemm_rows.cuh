/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: where a lane reads, in a stage. */

struct Rows {
    uint32_t codes, tokens, scale_selector, row;

    /** codes: its codes in a slot; tokens: its row of the four 8 x 8 matrices of tokens, in a block of activations;
     * scale_selector: which bytes of a word with a scale of its row make a float; row: its first, of its strip's. */
    __device__ __forceinline__ Rows(const w4_gemm_params &gemm) {
        const int lane = threadIdx.x % 32, slice = FIRST_SLICE;
        codes = slice * SLICE_BYTES + lane * 16 + PART * OWN_BLOCKS * W4_BLOCK_BYTES;
        row = slice * 16 + lane / 4;
        /* 8 tokens x 4 pieces of 8 columns, or 16 tokens x 2. Pieces are where the loader put them: piece ^ token
         * % 8. */
        const int token = WARP_M == 8 ? lane % 8 : lane / 16 * 8 + lane % 8;
        const int piece = WARP_M == 8 ? lane / 8 : lane / 8 % 2;
        tokens = (FIRST_TOKEN + token) * 128 + ((piece ^ token % 8) << 4) + PART * OWN_BLOCKS * BLOCK_A_BYTES;
        /* As bytes of {0, word}: fp32 as it is, bf16 as the upper half of one, fp16 as the lower. */
        const bool bf16 = gemm.scale_dtype == W4_PARAM_BF16;
        scale_selector = gemm.layout.scale_size == 4 ? 0x3210 : bf16 ? 0x1044 : 0x4410;
        if (gemm.layout.scale_size == 2 && lane / 4 % 2) scale_selector += bf16 ? 0x2200 : 0x0022;
    }

    /** Scale and zero point of the two rows that this thread's fragments of a slice hold. slot: an address; line: of
     * the slot's. */
    template <int ZERO>
    __device__ __forceinline__ Group group(const w4_sm80_gemm_params &params, uint32_t slot, int slice,
                                           int line) const {
        const w4_gemm_params &gemm = params.gemm;
        const int at = row + slice * 16, size = (int)gemm.layout.scale_size;
        const uint32_t scales = slot + CODE_BYTES + line * W4_BLOCK_ROWS * size + (at * size & ~3);
        Group group;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t bits = __byte_perm(shared_load32(scales + 8 * i * size), 0, scale_selector);
            group.scale[i] = gemm.scale_dtype == W4_PARAM_FP16 ? __half2float(__ushort_as_half((unsigned short)bits))
                                                               : __uint_as_float(bits);
        }
        if (ZERO == W4_PARAM_SYMMETRIC) return group;
        const uint32_t zeros = slot + CODE_BYTES + params.lines * W4_BLOCK_ROWS * size +
                               (line * W4_BLOCK_ROWS + at) * (ZERO == W4_PARAM_ZERO_INTEGER ? 1 : 4);
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (ZERO == W4_PARAM_ZERO_INTEGER)
                group.whole[i] = shared_load8(zeros + 8 * i);
            else
                group.zero[i] = __uint_as_float(shared_load32(zeros + 32 * i));
        return group;
    }
};
