/* SPDX-License-Identifier: Apache-2.0
 * A program outside the project, valid as C11 and as C++17: multiplies a weight whose product is known by hand. */
#include "w4a16.h"

#include <stdio.h>
#include <string.h>

enum { TOKENS = 3, OUT_FEATURES = 5, IN_FEATURES = 64 };

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, w4a16_last_error());
    return 1;
}

int main(void) {
    const uint16_t one = 0x3c00, half = 0x3800; /* fp16 */
    uint8_t codes[OUT_FEATURES * IN_FEATURES / 2];
    uint16_t scales[OUT_FEATURES], a[TOKENS * IN_FEATURES], c[TOKENS * OUT_FEATURES];

    /* Code 10 everywhere: w = (10 - 8) * 0.5 = 1, so that each element of C is the sum of a row of A: 64. */
    memset(codes, 0xaa, sizeof codes);
    for (int i = 0; i < OUT_FEATURES; ++i) scales[i] = half;
    for (int i = 0; i < TOKENS * IN_FEATURES; ++i) a[i] = one;
    memset(c, 0xff, sizeof c);

    w4a16_canonical canonical;
    w4a16_canonical_init(&canonical);
    canonical.n = OUT_FEATURES;
    canonical.k = IN_FEATURES;
    canonical.group_size = -1;
    canonical.codes = codes;
    canonical.scales = scales;
    canonical.scale_dtype = W4A16_FP16;

    w4a16_context *context = NULL;
    w4a16_weight *weight = NULL;
    w4a16_plan *plan = NULL;
    w4a16_plan_options options;
    w4a16_plan_options_init(&options);
    options.m_max = TOKENS;
    if (w4a16_context_create(NULL, &context)) return fail("context");
    if (w4a16_weight_create(context, &canonical, &weight)) return fail("weight");
    if (w4a16_plan_create(weight, &options, &plan)) return fail("plan");
    if (w4a16_gemm_host(plan, a, IN_FEATURES, c, OUT_FEATURES, TOKENS)) return fail("gemm");
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);

    for (int i = 0; i < TOKENS * OUT_FEATURES; ++i) {
        if (c[i] != 0x5400) { /* 64 */
            fprintf(stderr, "c[%d] is 0x%04x, expected 0x5400\n", i, (unsigned)c[i]);
            return 1;
        }
    }
    printf("w4a16 %s multiplied correctly\n", w4a16_version());
    return 0;
}
