/* SPDX-License-Identifier: Apache-2.0
 * What quantising a group means, in plain double arithmetic: shares nothing with the library. */
#ifndef W4A16_TESTS_GROUP_ORACLE_H
#define W4A16_TESTS_GROUP_ORACLE_H

#include "api/number_oracle.h"

#include <stdbool.h>

/** The code of one weight: the nearest of 0..15 to w / scale + zero, ties to even around the zero point. */
static inline int oracle_code(double w, double scale, int zero) {
    double d = rint(w / scale);
    if (d < -zero) d = -zero;
    if (d > 15 - zero) d = 15 - zero;
    return (int)d + zero;
}

static inline double oracle_noise(const float *w, int64_t count, double scale, int zero) {
    double noise = 0;
    for (int64_t i = 0; i < count; i++) {
        double error = w[i] - (oracle_code(w[i], scale, zero) - zero) * scale;
        noise += error * error;
    }
    return noise;
}

/** The least noise over every positive fp16 scale between `low` and `high` and, if asymmetric, every zero point. */
static inline double oracle_least_noise(const float *w, int64_t count, bool asymmetric, double low, double high) {
    double least = INFINITY;
    uint16_t first = oracle_encode(oracle_fp16, low), last = oracle_encode(oracle_fp16, high);
    if (first == 0) first = 1;
    if (last > 0x7bff) last = 0x7bff;
    for (int zero = asymmetric ? 0 : 8; zero <= (asymmetric ? 15 : 8); zero++)
        for (uint32_t bits = first; bits <= last; bits++) {
            double noise = oracle_noise(w, count, oracle_decode(oracle_fp16, (uint16_t)bits), zero);
            if (noise < least) least = noise;
        }
    return least;
}

/** Kinds of groups that weights come in, and some that they should not. */
enum oracle_kind {
    ORACLE_GAUSSIAN,
    ORACLE_HEAVY_TAILS,
    ORACLE_ONE_SIDED,
    ORACLE_OUTLIER,
    ORACLE_NEARLY_CONSTANT,
    ORACLE_CONSTANT,
    ORACLE_TERNARY,
    ORACLE_SPARSE,
    ORACLE_KINDS
};

static inline double oracle_normal(uint64_t *random) {
    double u = (oracle_unit(random) + 1) / 2, v = oracle_unit(random);
    return sqrt(-2 * log(1 - u)) * cos(3.14159265358979323846 * v);
}

static inline void oracle_group(enum oracle_kind kind, double size, float *w, int64_t count, uint64_t *random) {
    double constant = size * (1 + oracle_below(random, 7)) * (oracle_below(random, 2) ? 1 : -1);
    for (int64_t i = 0; i < count; i++) {
        double normal = oracle_normal(random), value = 0;
        switch (kind) {
        case ORACLE_GAUSSIAN:
            value = size * normal;
            break;
        case ORACLE_HEAVY_TAILS:
            value = size * normal / (0.05 + fabs(oracle_unit(random)));
            break;
        case ORACLE_ONE_SIDED:
            value = size * fabs(normal) * (constant < 0 ? -1 : 1);
            break;
        case ORACLE_OUTLIER:
            value = i == 0 ? 2 * constant : size * normal;
            break;
        case ORACLE_NEARLY_CONSTANT:
            value = constant + 0.01 * size * normal;
            break;
        case ORACLE_CONSTANT:
            value = constant;
            break;
        case ORACLE_TERNARY:
            value = constant * ((double)oracle_below(random, 3) - 1);
            break;
        case ORACLE_SPARSE:
            value = oracle_below(random, 10) ? 0 : size * normal;
            break;
        case ORACLE_KINDS:
            break;
        }
        w[i] = (float)value;
    }
}

#endif
