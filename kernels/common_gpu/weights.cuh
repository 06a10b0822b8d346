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

/** Scales and zero points of one group, of the two rows that a thread's fragments hold. words: what two fp16 scales
 * stand in, and pair: those scales, where `scale` is not used. */
struct Group {
    float scale[2], zero[2];
    uint32_t words[2];
    __half2 pair;
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
    static constexpr bool IS_BF16 = false, SCALES = false, PAIRS = false, RESIDUAL = false;
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
    static constexpr bool IS_BF16 = true, SCALES = false, PAIRS = false, RESIDUAL = ZERO_KIND == W4_PARAM_ZERO_FLOAT;
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

/** Makes (q - 8) * s / (4096 u) of a thread's two rows, rounded once to fp16: s is the group's scale, and u the row's
 * unit, of which sums of products then count 4096ths. A unit is a power of two near the scales, or the scale itself
 * where the row has but one: its weights are then not rounded at all.
 *
 * A code alone is an fp16 too small to be normal, q * 2^-24, or q * 2^-20 where it stands four bits up. So one
 * instruction multiplies it and takes 8 s away, which fp16 holds exactly. FP16_SCALES: they come as a
 * group's `pair`. */
template <bool FP16_SCALES> struct ScaledCodes {
    static constexpr bool IS_BF16 = false, SCALES = true, PAIRS = FP16_SCALES, RESIDUAL = false;
    static constexpr int ZERO = W4_PARAM_SYMMETRIC;
    __half2 factors, offsets; /* by which each row's codes are multiplied, and what is added */
    __device__ __forceinline__ ScaledCodes()
        : factors(half2_of(0)), offsets(half2_of(0)), inverses(half2_of(0)), unit{1.0f, 1.0f} {}

    /** The least unit that may be chosen: if scales are fp16, fp16 holds one over it. */
    static __device__ __forceinline__ float least(int scale_dtype) {
        return scale_dtype == W4_PARAM_FP16 ? 1.0f / 16384 : 0.0f;
    }

    /** Choose the units for a row's part that begins with `group`, and take that. one: the row has no other; not with
     * PAIRS. least: no unit is below. */
    __device__ __forceinline__ void begin(const Group &group, bool one, float least) {
#pragma unroll
        for (int i = 0; i < 2; i++) unit[i] = one ? group.scale[i] : unit_of(group.scale[i], least);
        inverses = __floats2half2_rn(inverse(unit[0]), inverse(unit[1]));
        set(one ? __float2half2_rn(1.0f) : relative(group));
    }
    /** Take the next group. False where a row's scale is too far from its unit, so that move() has to come first. */
    __device__ __forceinline__ bool take(const Group &group) {
        const __half2 scales = PAIRS ? __hmul2(group.pair, inverses) : relative(group);
        set(scales);
        /* In both halves at once: the eight exponents from LEAST on leave the upper three bits empty. */
        static_assert(MOST - LEAST == 0x2000, "eight exponents");
        return (((bits_of(scales) & 0x7fff7fff) - (LEAST << 16 | LEAST)) & 0xe000e000) == 0;
    }
    /** Choose new units where the group's scales ask for it, take the group, and give by how much sums grow for it.
     * What becomes of a row does not depend on the others. */
    __device__ __forceinline__ void move(const Group &group, float least, float (&growth)[2]) {
        find_units();
        const uint32_t scales = bits_of(relative(group));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t size = scales >> 16 * i & 0x7fff;
            const float before = unit[i];
            if (size < LEAST || size >= MOST) unit[i] = unit_of(group.scale[i], least);
            growth[i] = before * inverse(unit[i]);
        }
        inverses = __floats2half2_rn(inverse(unit[0]), inverse(unit[1]));
        set(relative(group));
    }
    /** What to multiply sums of each of the two rows by. */
    __device__ __forceinline__ void sum_scales(float (&scale)[2]) {
        find_units();
#pragma unroll
        for (int i = 0; i < 2; i++) scale[i] = unit[i] * 4096.0f;
    }

    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
#pragma unroll
        for (int pair = 0; pair < 2; pair++, word >>= 8) {
            a[2 * pair] = bits_of(__hfma2(half2_of(word & W4_LOW_NIBBLES), __low2half2(factors), __low2half2(offsets)));
            a[2 * pair + 1] =
                bits_of(__hfma2(half2_of(word & W4_HIGH_NIBBLES), __high2half2(factors), __high2half2(offsets)));
        }
    }

  private:
    static constexpr uint32_t LEAST = 0x2c00, MOST = 0x4c00; /* |s / u| is from 1/16 to less than 16: as fp16's bits */
    __half2 inverses;                                        /* of units: kept with PAIRS */
    float unit[2];                                           /* kept without: a register more */

    /** The power of two at or below |scale|. */
    static __device__ __forceinline__ float unit_of(float scale, float least) {
        return fmaxf(__uint_as_float(__float_as_uint(scale) & 0x7f800000), least);
    }
    static __device__ __forceinline__ float inverse(float power) {
        return __uint_as_float(0x7f000000 - __float_as_uint(power));
    }
    __device__ __forceinline__ void find_units() {
        if (!PAIRS) return;
        const float2 both = __half22float2(inverses);
        unit[0] = inverse(both.x);
        unit[1] = inverse(both.y);
    }
    __device__ __forceinline__ __half2 relative(const Group &group) const {
        return __floats2half2_rn(group.scale[0] * inverse(unit[0]), group.scale[1] * inverse(unit[1]));
    }
    __device__ __forceinline__ void set(__half2 scales) {
        factors = __hmul2(scales, __floats2half2_rn(4096.0f, 256.0f)); /* 2^24 / 4096, 2^20 / 4096 */
        offsets = __hmul2(scales, __float2half2_rn(-8.0f / 4096.0f));
    }
};

/** What a GEMM multiplies with; ANY_GROUP: groups may be of any size, and their scales far apart; PAIRS: scales are
 * fp16, and rows have several groups. */
template <bool ANY_GROUP, bool BF16, int ZERO_KIND, bool PAIRS> struct GemmCodes {
    using Type = Dequantizer<BF16, ZERO_KIND>;
};
template <bool PAIRS> struct GemmCodes<false, false, W4_PARAM_SYMMETRIC, PAIRS> { using Type = ScaledCodes<PAIRS>; };

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
