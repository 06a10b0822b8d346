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

/** Scales and zero points of one group, of the two rows that a thread's fragments hold. pair: two fp16 scales, where
 * `scale` is not used. whole: integer zero points, 0 to 63; zero: others. */
struct Group {
    float scale[2], zero[2];
    uint32_t whole[2];
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

/** Makes q - z of a thread's two rows; sum_scales() multiplies the scales of sums by what is missing. With floating
 * zero points fp16 has the bits to hold q - z, rounded; bf16 has not, so that its fragments hold q - round(z), and
 * RESIDUAL asks for a second multiplication, with the constant round(z) - z. */
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
        /* fp16's bits of 1024 + z and -(64 + z). */
        if (ZERO == W4_PARAM_ZERO_INTEGER)
            offsets = half2_of((0xd400u + (group.whole[1] << 4)) << 16 | (0x6400u + group.whole[0]));
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
    __device__ __forceinline__ void sum_scales(float (&)[2]) const {}
};

/** bf16: (q - z) / 64 of the first row and (q - z) / 4 of the second, so that no code has to be moved: q alone is a
 * number too small to be normal, q * 2^-133, or q * 2^-129 where it stands four bits up, and one instruction multiplies
 * it by 2^127 and takes z away. */
template <int ZERO_KIND> struct Dequantizer<true, ZERO_KIND> {
    static constexpr bool IS_BF16 = true, SCALES = false, PAIRS = false, RESIDUAL = ZERO_KIND == W4_PARAM_ZERO_FLOAT;
    static constexpr int ZERO = ZERO_KIND;
    __nv_bfloat162 offsets; /* -z / 64 and -z / 4 of the rows' z: exact for whole z from 0 to 127 */
    uint32_t residual[4];   /* a fragment whose columns are all alike */
    __device__ __forceinline__ Dequantizer()
        : offsets(__floats2bfloat162_rn(-8.0f / 64, -8.0f / 4)), residual{0, 0, 0, 0} {}
    __device__ __forceinline__ void set(const Group &group) {
        if (ZERO == W4_PARAM_ZERO_INTEGER) /* from bf16's bits of 128 + z */
            offsets =
                __hfma2(bfloat162_of(W4_BF16_MAGIC + (group.whole[1] << 16 | group.whole[0])),
                        __floats2bfloat162_rn(-1.0f / 64, -1.0f / 4), __floats2bfloat162_rn(128.0f / 64, 128.0f / 4));
        if (ZERO == W4_PARAM_ZERO_FLOAT)
            offsets = __floats2bfloat162_rn(-whole(group.zero[0]) / 64, -whole(group.zero[1]) / 4);
    }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
        const __nv_bfloat162 factor = bfloat162_of(W4_BF16_FACTOR);
#pragma unroll
        for (int pair = 0; pair < 2; pair++, word >>= 8) {
            a[2 * pair] = bits_of(__hfma2(bfloat162_of(word & W4_LOW_NIBBLES), factor, __low2bfloat162(offsets)));
            a[2 * pair + 1] = bits_of(__hfma2(bfloat162_of(word & W4_HIGH_NIBBLES), factor, __high2bfloat162(offsets)));
        }
    }
    /** Not while a wgmma that reads the residual is running. */
    __device__ __forceinline__ void set_residual(const Group &group) {
        if constexpr (RESIDUAL) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                residual[i] = bits_of(__float2bfloat162_rn((whole(group.zero[i % 2]) - group.zero[i % 2]) *
                                                           (i % 2 ? 1.0f / 4 : 1.0f / 64)));
        }
    }
    __device__ __forceinline__ void sum_scales(float (&scale)[2]) const {
        scale[0] *= 64.0f;
        scale[1] *= 4.0f;
    }
    /** The whole part that the codes take along: zero points far off 0..15 are left to the residual. */
    static __device__ __forceinline__ float whole(float zero) {
        return rintf(fminf(fmaxf(zero, 0.0f), 15.0f));
    }
};

/** Scales of a thread's two rows over the rows' units u: powers of two near them, which w4_matrix_scale_units chooses
 * when a weight is loaded; |s / u| is from 1/16 to less than 16, unless fp16 holds all weights exactly. A row's only
 * scale is its unit. FP16_SCALES: scales come as a group's `pair`, and rows have several groups. */
template <bool FP16_SCALES> struct RelativeScales {
    /** Of rows 8 apart; `units`: the first one's. */
    __device__ __forceinline__ void begin(const float *units) {
        const float unit[2] = {__ldg(units), __ldg(units + 8)};
        if (FP16_SCALES) /* now, and not when they are needed first */
            inverses = half2_of(in_register(bits_of(__floats2half2_rn(of_power(unit[0]), of_power(unit[1])))));
#pragma unroll
        for (int i = 0; i < 2; i++) inverse[i] = FP16_SCALES ? 0.0f : reciprocal(unit[i]);
    }
    /** What is no group's, padding's scale of 1 or whatever stands where a row has no more columns, is bounded, so that
     * codes there, which are multiplied by zeros, stay finite. */
    __device__ __forceinline__ __half2 of(const Group &group) const {
        return FP16_SCALES ? of_pair(group)
                           : bounded(__floats2half2_rn(group.scale[0] * inverse[0], group.scale[1] * inverse[1]));
    }
    /** The same of a group's `pair`, where rows have several groups. */
    __device__ __forceinline__ __half2 of_pair(const Group &group) const {
        return bounded(__hmul2(group.pair, FP16_SCALES ? inverses : __floats2half2_rn(inverse[0], inverse[1])));
    }
    /** Units times PARTS. */
    template <int PARTS> __device__ __forceinline__ void units(float (&result)[2]) const {
        const float2 both = FP16_SCALES ? __half22float2(inverses) : make_float2(inverse[0], inverse[1]);
        result[0] = FP16_SCALES ? PARTS * of_power(both.x) : reciprocal(found_here(both.x) * (1.0f / PARTS));
        result[1] = FP16_SCALES ? PARTS * of_power(both.y) : reciprocal(found_here(both.y) * (1.0f / PARTS));
    }

  private:
    /* Exact but for a row's only scale: s / u is then 1 all the same, when rounded to fp16. */
    __half2 inverses; /* with FP16_SCALES: a register less */
    float inverse[2]; /* without */

    static constexpr float LARGEST = 16.0f - 1.0f / 128; /* that fp16 has below 16: 4096 times it is finite */

    static __device__ __forceinline__ __half2 bounded(__half2 relative) {
        return __hmin2(relative, __float2half2_rn(LARGEST));
    }
    /** 1 / power of a power of two. */
    static __device__ __forceinline__ float of_power(float power) {
        return __uint_as_float(0x7f000000 - __float_as_uint(power));
    }
    /** Have the compiler not make ahead of a loop, and keep in registers, what is needed after it. */
    static __device__ __forceinline__ float found_here(float value) {
        return __uint_as_float(in_register(__float_as_uint(value)));
    }
};

/** Makes weights over their rows' units, rounded once to fp16, so that sums need not be scaled where a group begins. */
template <bool FP16_SCALES, int ZERO_KIND> struct ScaledCodes;

/** (q - 8) * s / (4096 u). A code alone is an fp16 too small to be normal, q * 2^-24, or q * 2^-20 where it stands four
 * bits up. So one instruction multiplies it and takes 8 s away, which fp16 holds exactly. */
template <bool FP16_SCALES> struct ScaledCodes<FP16_SCALES, W4_PARAM_SYMMETRIC> {
    static constexpr bool IS_BF16 = false, SCALES = true, PAIRS = FP16_SCALES, RESIDUAL = false;
    static constexpr int ZERO = W4_PARAM_SYMMETRIC;
    __half2 factors, offsets; /* by which each row's codes are multiplied, and what is added */
    RelativeScales<FP16_SCALES> scales;
    __device__ __forceinline__ ScaledCodes() : factors(half2_of(0)), offsets(half2_of(0)) {}
    __device__ __forceinline__ void set(const Group &group) { set_relative(group, scales.of(group)); }
    __device__ __forceinline__ void set_pair(const Group &group) { set_relative(group, scales.of_pair(group)); }
    __device__ __forceinline__ void set_relative(const Group &, __half2 relative) {
        factors = __hmul2(relative, __floats2half2_rn(4096.0f, 256.0f)); /* 2^24 / 4096, 2^20 / 4096 */
        offsets = __hmul2(relative, __float2half2_rn(-8.0f / 4096.0f));
    }
    /** What to multiply sums of each of the two rows by. */
    __device__ __forceinline__ void sum_scales(float (&scale)[2]) const { scales.template units<4096>(scale); }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
#pragma unroll
        for (int pair = 0; pair < 2; pair++, word >>= 8) {
            a[2 * pair] = bits_of(__hfma2(half2_of(word & W4_LOW_NIBBLES), __low2half2(factors), __low2half2(offsets)));
            a[2 * pair + 1] =
                bits_of(__hfma2(half2_of(word & W4_HIGH_NIBBLES), __high2half2(factors), __high2half2(offsets)));
        }
    }
};

/** (q - z) * s / u: fp16 does not hold z * s, and so q - z is made first, exactly. */
template <bool FP16_SCALES> struct ScaledCodes<FP16_SCALES, W4_PARAM_ZERO_INTEGER> {
    static constexpr bool IS_BF16 = false, SCALES = true, PAIRS = FP16_SCALES, RESIDUAL = false;
    static constexpr int ZERO = W4_PARAM_ZERO_INTEGER;
    Dequantizer<false, W4_PARAM_ZERO_INTEGER> codes;
    __half2 factors;
    RelativeScales<FP16_SCALES> scales;
    __device__ __forceinline__ ScaledCodes() : factors(half2_of(0)) {}
    __device__ __forceinline__ void set(const Group &group) { set_relative(group, scales.of(group)); }
    __device__ __forceinline__ void set_pair(const Group &group) { set_relative(group, scales.of_pair(group)); }
    __device__ __forceinline__ void set_relative(const Group &group, __half2 relative) {
        codes.set(group);
        factors = relative;
    }
    __device__ __forceinline__ void sum_scales(float (&scale)[2]) const { scales.template units<1>(scale); }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
        codes.word(word, a);
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = bits_of(__hmul2(half2_of(a[i]), i % 2 ? __high2half2(factors) : __low2half2(factors)));
    }
};

/** What a GEMM multiplies with; EXACT: weights without their scales, so that groups may be of any size, and scales of
 * any value; PAIRS: scales are fp16, and rows have several groups. */
template <bool EXACT, bool BF16, int ZERO_KIND, bool PAIRS> struct GemmCodes {
    using Type = Dequantizer<BF16, ZERO_KIND>;
};
template <bool PAIRS> struct GemmCodes<false, false, W4_PARAM_SYMMETRIC, PAIRS> {
    using Type = ScaledCodes<PAIRS, W4_PARAM_SYMMETRIC>;
};
template <bool PAIRS> struct GemmCodes<false, false, W4_PARAM_ZERO_INTEGER, PAIRS> {
    using Type = ScaledCodes<PAIRS, W4_PARAM_ZERO_INTEGER>;
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
