/* SPDX-License-Identifier: Apache-2.0
 * From packed codes to the left operand of wgmma and mma.sync. kernels/common/dequantize.h has the bit tricks and their
 * proof. */
#ifndef W4_GPU_WEIGHTS_CUH
#define W4_GPU_WEIGHTS_CUH

#include "dequantize.h"
#include "params.h"
#include "ptx.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float load_number(const uint8_t *address, int dtype) {
    if (dtype == W4_PARAM_FP32) return __ldg((const float *)address);
    uint16_t bits = __ldg((const unsigned short *)address);
    return dtype == W4_PARAM_BF16 ? __uint_as_float((uint32_t)bits << 16) : __half2float(__ushort_as_half(bits));
}

/** Scales and zero points of one group, of the two rows that a thread's fragments hold. */
struct Group {
    float scale[2], zero[2];
};

__device__ __forceinline__ uint32_t bits_of(__half2 value) {
    return *reinterpret_cast<uint32_t *>(&value);
}
__device__ __forceinline__ uint32_t bits_of(__nv_bfloat162 value) {
    return *reinterpret_cast<uint32_t *>(&value);
}
__device__ __forceinline__ __half2 half2_of(uint32_t bits) {
    return *reinterpret_cast<__half2 *>(&bits);
}
__device__ __forceinline__ __nv_bfloat162 bfloat162_of(uint32_t bits) {
    return *reinterpret_cast<__nv_bfloat162 *>(&bits);
}

/** Makes q - z of a thread's two rows. With floating zero points fp16 has the bits to hold q - z, rounded; bf16 has
 * not, so that its fragments hold q - round(z), and RESIDUAL asks for a second multiplication, with the constant
 * round(z) - z. */
template <bool BF16, int ZERO_KIND> struct Dequantizer;

template <int ZERO_KIND> struct Dequantizer<false, ZERO_KIND> {
    static constexpr bool IS_BF16 = false, RESIDUAL = false;
    static constexpr int ZERO = ZERO_KIND;
    uint32_t magic;
    __half2 offsets, fraction[2]; /* {1024 + z of row 0, -(64 + z) of row 1}; what is left of a float z */
    __device__ __forceinline__ Dequantizer() : magic(in_register(W4_FP16_MAGIC)) {
        const float zero = ZERO == W4_PARAM_SYMMETRIC ? 8.0f : 0.0f;
        offsets = __floats2half2_rn(1024.0f + zero, -64.0f - zero);
    }
    __device__ __forceinline__ void set(const Group &group) {
        if (ZERO == W4_PARAM_ZERO_INTEGER) offsets = __floats2half2_rn(1024.0f + group.zero[0], -64.0f - group.zero[1]);
        if (ZERO == W4_PARAM_ZERO_FLOAT) {
            fraction[0] = __float2half2_rn(group.zero[0]);
            fraction[1] = __float2half2_rn(group.zero[1]);
        }
    }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
        const __half2 sixteenth = __float2half2_rn(0.0625f), low = __low2half2(offsets), high = __high2half2(offsets);
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            __half2 first = __hsub2(half2_of(and_or<W4_LOW_NIBBLES>(word, magic)), low);
            __half2 second = __hfma2(half2_of(and_or<W4_HIGH_NIBBLES>(word, magic)), sixteenth, high);
            if (ZERO == W4_PARAM_ZERO_FLOAT) {
                first = __hsub2(first, fraction[0]);
                second = __hsub2(second, fraction[1]);
            }
            a[2 * pair] = bits_of(first);
            a[2 * pair + 1] = bits_of(second);
            word >>= 8;
        }
    }
    __device__ __forceinline__ void set_residual(const Group &) {}
};

template <int ZERO_KIND> struct Dequantizer<true, ZERO_KIND> {
    static constexpr bool IS_BF16 = true, RESIDUAL = ZERO_KIND == W4_PARAM_ZERO_FLOAT;
    static constexpr int ZERO = ZERO_KIND;
    uint32_t magic;
    __nv_bfloat162 offsets; /* 128 + z of each row: exact for whole z from 0 to 127 */
    uint32_t residual[4];   /* a fragment whose columns are all alike */
    __device__ __forceinline__ Dequantizer()
        : magic(in_register(W4_BF16_MAGIC)), offsets(__float2bfloat162_rn(136.0f)), residual{0, 0, 0, 0} {}
    __device__ __forceinline__ void set(const Group &group) {
        if (ZERO == W4_PARAM_SYMMETRIC) return;
        offsets = __floats2bfloat162_rn(128.0f + whole(group.zero[0]), 128.0f + whole(group.zero[1]));
    }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
        const __nv_bfloat162 offset[2] = {__low2bfloat162(offsets), __high2bfloat162(offsets)};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = bits_of(__hsub2(bfloat162_of(and_or<W4_LOW_NIBBLES>(word, magic)), offset[i % 2]));
            word >>= 4;
        }
    }
    /** Not while a wgmma that reads the residual is running. */
    __device__ __forceinline__ void set_residual(const Group &group) {
        if constexpr (RESIDUAL) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                residual[i] = bits_of(__float2bfloat162_rn(whole(group.zero[i % 2]) - group.zero[i % 2]));
        }
    }
    /** The whole part that the codes take along: zero points far off 0..15 are left to the residual. */
    static __device__ __forceinline__ float whole(float zero) {
        return RESIDUAL ? rintf(fminf(fmaxf(zero, 0.0f), 15.0f)) : zero;
    }
};

/** Makes OFFSET + q of a thread's two rows, codes as they are: what OFFSET and zero points add to a sum of products is
 * for the caller to take away, who needs the sum of the other factors for it. */
template <bool BF16, int ZERO_KIND> struct PlainCodes {
    static constexpr bool IS_BF16 = BF16;
    static constexpr int ZERO = ZERO_KIND;
    static constexpr uint32_t ONES = BF16 ? 0x3f803f80 : 0x3c003c00; /* two of them */
    uint32_t low, high;
    __device__ __forceinline__ PlainCodes()
        : low(in_register(BF16 ? W4_BF16_MAGIC : W4_FP16_MAGIC)), high(in_register(W4_FP16_HIGH_MAGIC)) {}
    /** OFFSET of row `row` of the two. */
    static __device__ __forceinline__ float offset(int row) { return BF16 ? 128.0f : row ? 64.0f : 1024.0f; }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
        if (BF16) {
#pragma unroll
            for (int i = 0; i < 4; i++, word >>= 4) a[i] = and_or<W4_LOW_NIBBLES>(word, low);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i += 2, word >>= 8) {
                a[i] = and_or<W4_LOW_NIBBLES>(word, low);
                a[i + 1] = and_or<W4_HIGH_NIBBLES>(word, high);
            }
        }
    }
};

#endif
