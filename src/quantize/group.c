/* SPDX-License-Identifier: Apache-2.0
 * The search for a group's scale and zero point.
 *
 * The squared error of a group, as a function of its scale, has many local minima: each time a weight changes its code
 * the slope jumps. So a grid of clipping ratios finds the good valleys, and alternating least squares walks down
 * them: with the codes fixed, the best scale is <x,d> / <d,d> with d = q - z; with that scale stored, the codes are
 * rounded again. Every error is measured with the scale as it will be stored.
 *
 * All arithmetic has a fixed order (W4_GROUP_LANES partial sums, no contraction), so that the AVX2 copy of this code
 * and the baseline copy give the same bits. */
#include "quantize/group.h"

#include "core/half.h"
#include "core/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    SYMMETRIC_ZERO = 8,
    STARTS = 4,      /* grid points that are refined */
    REFINE_STEPS = 4 /* alternations at most; most groups settle in two */
};

/* The grid of clipping ratios: the scale relative to the one that covers the whole range, from RATIO_FIRST / 20 down to
 * RATIO_LAST / 20; where the error still falls at the end (long groups with heavy tails), on down geometrically.
 * Ratios over 1 can win in short groups, where they happen to fit the lattice of the weights better. */
enum { RATIO_FIRST = 23, RATIO_LAST = 6 };
static const float ratio_step = 0.05f, ratio_tail_factor = 0.85f;

typedef struct candidate {
    float scale; /* as stored */
    int zero;
    float error;
} candidate;

/* The group, multiplied by a power of two so that squares neither overflow nor vanish in float. */
typedef struct scaled_group {
    const float *x;        /* padded with zeros to whole lanes */
    int64_t padded;        /* elements, a multiple of W4_GROUP_LANES */
    float up, down;        /* 2^-e and 2^e: x = original * up */
    float lowest, highest; /* of x, with 0 included */
    w4a16_dtype scale_dtype;
} scaled_group;

float w4_group_limit(w4a16_dtype scale_dtype) {
    return scale_dtype == W4A16_FP16 ? 65504.0f * 7.5f : FLT_MAX;
}

uint64_t w4_group_scratch_bytes(int64_t count) {
    uint64_t padded = (uint64_t)w4_round_up(count, W4_GROUP_LANES);
    return padded * sizeof(float) + (uint64_t)w4_round_up(count, 64);
}

/* Round a wished scale to what the dtype can store: finite and greater than 0. */
INLINE float stored_scale(float wished, w4a16_dtype dtype) {
    if (dtype == W4A16_FP16) {
        if (wished >= 65504.0f) return 65504.0f;
        float scale = w4_fp16_to_float(w4_float_to_fp16(wished));
        return scale > 0.0f ? scale : 0x1p-24f;
    }
    if (dtype == W4A16_BF16) {
        if (wished >= 0x1.fep127f) return 0x1.fep127f;
        float scale = w4_bf16_to_float(w4_float_to_bf16(wished));
        return scale > 0.0f ? scale : 0x1p-133f;
    }
    if (wished >= FLT_MAX) return FLT_MAX;
    return wished > 0.0f ? wished : 0x1p-149f;
}

/* Written with vectors of a fixed width, which gcc and clang map to whatever registers the target has: what the
 * auto-vectorisers make of the same sums varies too much. */
typedef float lanes __attribute__((vector_size(32)));
typedef int32_t lane_masks __attribute__((vector_size(32)));
enum { LANES = sizeof(lanes) / sizeof(float) };

/* How x is rounded: the same for all elements of a group. Vectors go by pointer, so that no ABI is involved. */
typedef struct rounding {
    float inverse, low, high; /* 1 / scale, the least and the greatest q - z */
} rounding;

INLINE rounding make_rounding(float scale, int zero) {
    return (rounding){.inverse = 1.0f / scale, .low = (float)-zero, .high = (float)(15 - zero)};
}

/* Load elements and their q - z: x / scale, clamped and rounded to the nearest integer (ties to even). */
INLINE void round_lanes(const float *source, rounding how, lanes *x, lanes *d) {
    const lanes lowest = (lanes){0} + how.low, highest = (lanes){0} + how.high;
    memcpy(x, source, sizeof *x);
    lanes value = *x * how.inverse;
    lane_masks below = value < lowest;
    value = (lanes)(((lane_masks)lowest & below) | ((lane_masks)value & ~below));
    lane_masks above = value > highest;
    value = (lanes)(((lane_masks)highest & above) | ((lane_masks)value & ~above));
    *d = (value + 0x1.8p23f) - 0x1.8p23f;
}

INLINE float sum_lanes(const lanes *a, const lanes *b) {
    lanes sum = *a + *b;
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* Sum of squared errors of the scaled group; `scale` is in the scaled group's units. */
INLINE float squared_error(const scaled_group *group, float scale, int zero) {
    const rounding how = make_rounding(scale, zero);
    lanes even = {0}, odd = {0}, x, d;
    for (int64_t i = 0; i < group->padded; i += 2 * LANES) {
        round_lanes(group->x + i, how, &x, &d);
        lanes error = x - d * scale;
        even += error * error;
        round_lanes(group->x + i + LANES, how, &x, &d);
        error = x - d * scale;
        odd += error * error;
    }
    return sum_lanes(&even, &odd);
}

/* With the codes that `scale` gives: the scale of the least squared error, or 0 if all codes are at the zero point. */
INLINE float least_squares_scale(const scaled_group *group, float scale, int zero) {
    const rounding how = make_rounding(scale, zero);
    lanes xd_even = {0}, xd_odd = {0}, dd_even = {0}, dd_odd = {0}, x, d;
    for (int64_t i = 0; i < group->padded; i += 2 * LANES) {
        round_lanes(group->x + i, how, &x, &d);
        xd_even += x * d;
        dd_even += d * d;
        round_lanes(group->x + i + LANES, how, &x, &d);
        xd_odd += x * d;
        dd_odd += d * d;
    }
    float dd = sum_lanes(&dd_even, &dd_odd);
    return dd > 0 ? sum_lanes(&xd_even, &xd_odd) / dd : 0;
}

/* Store `wished` (in scaled units) and measure it. */
INLINE candidate measure(const scaled_group *group, float wished, int zero) {
    candidate made = {.scale = stored_scale(wished * group->down, group->scale_dtype), .zero = zero};
    made.error = squared_error(group, made.scale * group->up, zero);
    return made;
}

/* Keep the STARTS best, best first. */
INLINE void keep_best(candidate best[STARTS], candidate next) {
    if (!(next.error < best[STARTS - 1].error)) return;
    for (int i = 0; i < STARTS; i++)
        if (next.scale == best[i].scale && next.zero == best[i].zero) return;
    int place = STARTS - 1;
    for (; place > 0 && next.error < best[place - 1].error; place--) best[place] = best[place - 1];
    best[place] = next;
}

INLINE candidate refine(const scaled_group *group, candidate start) {
    for (int step = 0; step < REFINE_STEPS; step++) {
        float wished = least_squares_scale(group, start.scale * group->up, start.zero);
        if (!(wished > 0)) break;
        candidate next = measure(group, wished, start.zero);
        if (!(next.error < start.error)) break;
        start = next;
    }
    return start;
}

/* Round to nearest on the group's range. */
INLINE candidate range_candidate(const scaled_group *group, bool asymmetric) {
    candidate range = {.zero = SYMMETRIC_ZERO};
    float span = asymmetric ? group->highest - group->lowest : 2.0f * fmaxf(group->highest, -group->lowest);
    range.scale = stored_scale(span / 15.0f * group->down, group->scale_dtype);
    if (asymmetric) {
        float zero = rintf(-group->lowest / (range.scale * group->up));
        range.zero = zero > 15.0f ? 15 : (int)zero;
    }
    return range;
}

/* Measure all clipping ratios for one zero point; returns the least error. */
INLINE float search_grid(const scaled_group *group, float whole, int zero, candidate best[STARTS]) {
    float before = INFINITY, error = INFINITY, least = INFINITY, ratio = 0;
    for (int step = RATIO_FIRST; step >= RATIO_LAST || error < before; step--) {
        ratio = step >= RATIO_LAST ? ratio_step * (float)step : ratio * ratio_tail_factor;
        candidate next = measure(group, whole * ratio, zero);
        keep_best(best, next);
        before = error;
        error = next.error;
        least = error < least ? error : least;
    }
    return least;
}

/* Clipping one tail more than the other moves the zero point: follow it in one direction while the error falls. */
INLINE void walk_zeros(const scaled_group *group, float whole, int zero, int direction, float least,
                       candidate best[STARTS]) {
    for (zero += direction; zero >= 0 && zero <= 15; zero += direction) {
        float error = search_grid(group, whole, zero, best);
        if (!(error < least)) return;
        least = error;
    }
}

INLINE candidate search(const scaled_group *group, candidate range, bool asymmetric) {
    candidate best[STARTS];
    for (int i = 0; i < STARTS; i++) best[i] = (candidate){.error = INFINITY, .zero = range.zero};
    float whole = range.scale * group->up;
    float at_range = search_grid(group, whole, range.zero, best);
    if (asymmetric) {
        walk_zeros(group, whole, range.zero, -1, at_range, best);
        walk_zeros(group, whole, range.zero, 1, at_range, best);
    }
    candidate found = best[0];
    for (int i = 0; i < STARTS && best[i].error < INFINITY; i++) {
        candidate next = refine(group, best[i]);
        if (next.error < found.error) found = next;
    }
    return found;
}

/* Final codes, and the squared error in double. Division in double makes every rounding the exact nearest. */
INLINE double encode(const float *x, int64_t count, candidate chosen, uint8_t *codes) {
    const double scale = chosen.scale, low = -chosen.zero, high = 15 - chosen.zero;
    const double magic = 0x1.8p52;
    double sum[8] = {0}, total = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int lane = 0; lane < 8; lane++) {
            double d = (double)x[i + lane] / scale;
            d = d < low ? low : d;
            d = d > high ? high : d;
            d = (d + magic) - magic;
            double error = (double)x[i + lane] - d * scale;
            sum[lane] += error * error;
            codes[i + lane] = (uint8_t)((int)d + chosen.zero);
        }
    for (; i < count; i++) {
        double d = fmin(fmax((double)x[i] / scale, low), high);
        d = (d + magic) - magic;
        double error = (double)x[i] - d * scale;
        total += error * error;
        codes[i] = (uint8_t)((int)d + chosen.zero);
    }
    for (int lane = 0; lane < 8; lane++) total += sum[lane];
    return total;
}

INLINE w4_group_result quantize_group(const w4_group_rule *rule, const float *x, int64_t count, void *scratch,
                                      uint8_t *codes) {
    w4_group_result result = {.scale = 1.0f, .zero = SYMMETRIC_ZERO};
    float lowest = 0, highest = 0;
    for (int64_t i = 0; i < count; i++) {
        lowest = x[i] < lowest ? x[i] : lowest;
        highest = x[i] > highest ? x[i] : highest;
        result.signal += (double)x[i] * (double)x[i];
    }
    if (lowest == 0 && highest == 0) { /* any scale is right; 1 is the least surprising */
        memset(codes, SYMMETRIC_ZERO, (size_t)count);
        return result;
    }

    int exponent;
    frexpf(fmaxf(highest, -lowest), &exponent);
    exponent = exponent - 1 < -126 ? -126 : exponent - 1; /* the largest becomes 1..2; 2^-exponent must be finite */
    scaled_group group = {.x = scratch,
                          .padded = w4_round_up(count, W4_GROUP_LANES),
                          .up = ldexpf(1.0f, -exponent),
                          .down = ldexpf(1.0f, exponent),
                          .scale_dtype = rule->scale_dtype};
    group.lowest = lowest * group.up;
    group.highest = highest * group.up;

    candidate range = range_candidate(&group, rule->asymmetric), chosen = range;
    result.noise = encode(x, count, range, codes);
    if (rule->method == W4A16_QUANTIZE_MSE && result.noise > 0) {
        float *scaled = scratch;
        for (int64_t i = 0; i < count; i++) scaled[i] = x[i] * group.up;
        for (int64_t i = count; i < group.padded; i++) scaled[i] = 0;
        candidate found = search(&group, range, rule->asymmetric);
        uint8_t *found_codes = (uint8_t *)(scaled + group.padded);
        double noise = encode(x, count, found, found_codes);
        if (noise < result.noise) { /* decided in double: the search can never make a group worse */
            chosen = found;
            result.noise = noise;
            memcpy(codes, found_codes, (size_t)count);
        }
    }
    result.scale = chosen.scale;
    result.zero = chosen.zero;
    return result;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static w4_group_result
quantize_group_avx2(const w4_group_rule *rule, const float *x, int64_t count, void *scratch, uint8_t *codes) {
    return quantize_group(rule, x, count, scratch, codes);
}
#endif

w4_group_result w4_quantize_group_portable(const w4_group_rule *rule, const float *x, int64_t count, void *scratch,
                                           uint8_t *codes) {
    return quantize_group(rule, x, count, scratch, codes);
}

w4_group_result w4_quantize_group(const w4_group_rule *rule, const float *x, int64_t count, void *scratch,
                                  uint8_t *codes) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return quantize_group_avx2(rule, x, count, scratch, codes);
#endif
    return w4_quantize_group_portable(rule, x, count, scratch, codes);
}
