/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: where a lane reads, in a stage. */

struct Rows {
    uint32_t codes, tokens, scales, selector, row;

    /** In a stage: codes, its codes; tokens, its row of the four 8 x 8 matrices of tokens, in a block of activations;
     * scales: the word with its first row's scale in a slot's line 0. selector: if scales are fp16, which bytes of two
     * words make a pair; else which bytes of {0, word} make a float. row: its first, of its strip's. */
    __device__ __forceinline__ Rows(const w4_gemm_params &gemm, const Shared &shared) {
        const int lane = threadIdx.x % 32, slice = FIRST_SLICE, size = (int)gemm.layout.scale_size;
        const uint32_t slot = shared.slot(0, FIRST_SLOT);
        codes = in_register(slot + slice * SLICE_BYTES + lane * 16 + PART * OWN_BLOCKS * W4_BLOCK_BYTES);
        row = slice * 16 + lane / 4;
        scales = in_register(slot + CODE_BYTES + (row * size & ~3));
        /* 8 tokens x 4 pieces of 8 columns, or 16 tokens x 2. Pieces are where the loader put them: piece ^ token
         * % 8. */
        const int token = WARP_M == 8 ? lane % 8 : lane / 16 * 8 + lane % 8;
        const int piece = WARP_M == 8 ? lane / 8 : lane / 8 % 2;
        tokens = (FIRST_TOKEN + token) * 128 + ((piece ^ token % 8) << 4) + PART * OWN_BLOCKS * BLOCK_A_BYTES;
        const bool odd = lane / 4 % 2;
        if (gemm.scale_dtype == W4_PARAM_FP16)
            selector = odd ? 0x7632 : 0x5410;
        else /* fp32 as it is, bf16 as the upper half of one */
            selector = size == 4 ? 0x3210 : odd ? 0x3244 : 0x1044;
    }

    /** fp16 scales of the two rows that this thread's fragments of a slice hold. stage: an address; line: of the
     * slot's. */
    __device__ __forceinline__ __half2 pair(uint32_t stage, int slice, int line) const {
        const uint32_t at = stage + scales + line * (W4_BLOCK_ROWS * 2) + slice * (16 * 2);
        return half2_of(__byte_perm(shared_load32(at), shared_load32(at + 8 * 2), selector));
    }

    /** The rows' zero points, and their scales if WITH_SCALES. */
    template <int ZERO, bool WITH_SCALES = true>
    __device__ __forceinline__ Group group(const w4_sm80_gemm_params &params, uint32_t stage, int slice,
                                           int line) const {
        const w4_gemm_params &gemm = params.gemm;
        const int size = (int)gemm.layout.scale_size;
        Group group;
        if (WITH_SCALES && gemm.scale_dtype == W4_PARAM_FP16) {
            const float2 both = __half22float2(pair(stage, slice, line));
            group.scale[0] = both.x;
            group.scale[1] = both.y;
        } else if (WITH_SCALES) {
            const uint32_t at = stage + scales + (line * W4_BLOCK_ROWS + slice * 16) * size;
#pragma unroll
            for (int i = 0; i < 2; i++)
                group.scale[i] = __uint_as_float(__byte_perm(shared_load32(at + 8 * i * size), 0, selector));
        }
        if (ZERO == W4_PARAM_SYMMETRIC) return group;
        const uint32_t zeros = stage + A_BYTES + FIRST_SLOT * params.slot_bytes + CODE_BYTES +
                               params.lines * W4_BLOCK_ROWS * size +
                               (line * W4_BLOCK_ROWS + row + slice * 16) * (ZERO == W4_PARAM_ZERO_INTEGER ? 1 : 4);
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (ZERO == W4_PARAM_ZERO_INTEGER)
                group.whole[i] = shared_load8(zeros + 8 * i);
            else
                group.zero[i] = __uint_as_float(shared_load32(zeros + 32 * i));
        return group;
    }
};
