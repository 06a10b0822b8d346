/* SPDX-License-Identifier: Apache-2.0
 * fp16 and bf16 by their definition, in double arithmetic: slow, obvious, and sharing nothing with the library. */
#ifndef W4A16_TESTS_NUMBER_ORACLE_H
#define W4A16_TESTS_NUMBER_ORACLE_H

#include <math.h>
#include <stdint.h>

typedef struct oracle_format {
    int exponent_bits, mantissa_bits;
} oracle_format;

static const oracle_format oracle_fp16 = {5, 10};
static const oracle_format oracle_bf16 = {8, 7};

/** The value that 16 bits stand for. */
static inline double oracle_decode(oracle_format format, uint16_t bits) {
    int bias = (1 << (format.exponent_bits - 1)) - 1, all_ones = (1 << format.exponent_bits) - 1;
    int exponent = bits >> format.mantissa_bits & all_ones;
    int mantissa = bits & ((1 << format.mantissa_bits) - 1);
    double value;
    if (exponent == all_ones)
        value = mantissa ? NAN : INFINITY;
    else if (exponent == 0)
        value = ldexp(mantissa, 1 - bias - format.mantissa_bits);
    else
        value = ldexp(mantissa + (1 << format.mantissa_bits), exponent - bias - format.mantissa_bits);
    return bits & 0x8000 ? -value : value;
}

/** The nearest 16-bit number, ties to even; NaN gives the canonical quiet NaN. */
static inline uint16_t oracle_encode(oracle_format format, double value) {
    int bias = (1 << (format.exponent_bits - 1)) - 1;
    uint32_t infinity = (uint32_t)((1 << format.exponent_bits) - 1) << format.mantissa_bits;
    uint32_t sign = signbit(value) ? 0x8000u : 0;
    if (isnan(value)) return (uint16_t)(sign | infinity | 1u << (format.mantissa_bits - 1));
    if (isinf(value)) return (uint16_t)(sign | infinity);
    if (value == 0) return (uint16_t)sign;
    int exponent;
    double magnitude = fabs(value);
    frexp(magnitude, &exponent); /* magnitude is in [2^(exponent-1), 2^exponent) */
    exponent -= 1;
    if (exponent < 1 - bias) exponent = 1 - bias; /* subnormals share the least exponent */
    /* A whole number of units in the last place: the scaling is exact, rint rounds once, to even. */
    double units = rint(ldexp(magnitude, format.mantissa_bits - exponent));
    if (exponent > bias) return (uint16_t)(sign | infinity);
    uint32_t bits = ((uint32_t)(exponent + bias - 1) << format.mantissa_bits) + (uint32_t)units;
    return (uint16_t)(sign | (bits < infinity ? bits : infinity));
}

/** Half the distance between 16-bit numbers around `value`: the most that one rounding may change. */
static inline double oracle_half_unit(oracle_format format, double value) {
    int bias = (1 << (format.exponent_bits - 1)) - 1, exponent;
    frexp(fabs(value), &exponent);
    exponent -= 1;
    if (exponent < 1 - bias || value == 0) exponent = 1 - bias;
    return ldexp(0.5, exponent - format.mantissa_bits);
}

/* splitmix64: good enough to draw test data, the same everywhere. */
static inline uint64_t oracle_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/** Uniform in 0..bound-1. */
static inline uint64_t oracle_below(uint64_t *state, uint64_t bound) {
    return oracle_random(state) % bound;
}

/** Uniform in [-1, 1). */
static inline double oracle_unit(uint64_t *state) {
    return (double)(oracle_random(state) >> 11) * 0x1p-52 - 1.0;
}

#endif
