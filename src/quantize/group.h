/* SPDX-License-Identifier: Apache-2.0
 * One group of weights to 4 bits: the choice of its scale and zero point, and its codes. */
#ifndef W4_QUANTIZE_GROUP_H
#define W4_QUANTIZE_GROUP_H

#include "w4a16.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    W4_GROUP_LANES = 16 /* the search works on this many elements at once */
};

/** How to quantise every group of a matrix. */
typedef struct w4_group_rule {
    w4a16_quantize_method method;
    bool asymmetric;
    w4a16_dtype scale_dtype;
} w4_group_rule;

typedef struct w4_group_result {
    float scale;          /* exactly representable in the rule's scale_dtype, finite, > 0 */
    int zero;             /* 0..15; 8 where symmetric */
    double signal, noise; /* sums of squares of the weights and of their errors */
} w4_group_result;

/** The largest |w| that w4_quantize_group accepts: a larger one needs a scale beyond scale_dtype's range. */
float w4_group_limit(w4a16_dtype scale_dtype);

/** Bytes of scratch that one call on `count` elements needs. */
uint64_t w4_group_scratch_bytes(int64_t count);

/** Quantise x[count] (finite, |x| <= w4_group_limit) to codes[count], one code 0..15 in each byte. Cannot fail; the
 * result depends on nothing but the arguments. @param scratch 64-byte aligned, w4_group_scratch_bytes(count) */
w4_group_result w4_quantize_group(const w4_group_rule *rule, const float *x, int64_t count, void *scratch,
                                  uint8_t *codes);

/** The same without the instructions that only some processors have: slower, and the same bits (for tests). */
w4_group_result w4_quantize_group_portable(const w4_group_rule *rule, const float *x, int64_t count, void *scratch,
                                           uint8_t *codes);

#endif
