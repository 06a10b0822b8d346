/* SPDX-License-Identifier: Apache-2.0
 * From plain arrays to a product: quantise a matrix, make a weight of it, plan, and multiply with a workspace of our
 * own, as an inference engine would. Prints how far the result is from the product with the unquantised matrix.
 *
 *     cc gemm.c $(pkg-config --cflags --libs w4a16) -lm -o gemm && ./gemm
 */
#include <w4a16.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { M = 4, N = 96, K = 256, GROUP_SIZE = 64, GROUPS = K / GROUP_SIZE };

static float w[N][K];              /* what a training framework left us */
static float a_exact[M][K];        /* activations, one row per token */
static uint16_t a[M][K], c[M][N];  /* fp16 */
static uint8_t codes[N][K / 2];    /* two 4-bit codes per byte */
static uint16_t scales[N][GROUPS]; /* fp16 */
static uint8_t zero_points[N][GROUPS];

/** Print what went wrong in the last call and give up. */
static int give_up(const char *call) {
    fprintf(stderr, "%s: %s\n", call, w4a16_last_error());
    return EXIT_FAILURE;
}

/** A reproducible value in [-1, 1). */
static float next_value(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

int main(void) {
    for (int n = 0; n < N; ++n)
        for (int k = 0; k < K; ++k) w[n][k] = 0.05f * next_value();
    for (int m = 0; m < M; ++m)
        for (int k = 0; k < K; ++k) a_exact[m][k] = next_value();
    w4a16_convert_elements(a_exact, W4A16_FP32, a, W4A16_FP16, (size_t)M * K);

    /* 1. Quantise: 4-bit codes, a scale and a zero point for each 64 elements along K. */
    w4a16_quantize_options quantize_options;
    w4a16_quantize_options_init(&quantize_options);
    quantize_options.group_size = GROUP_SIZE;
    quantize_options.asymmetric = 1;
    double signal, noise;
    if (w4a16_quantize(&quantize_options, w, W4A16_FP32, N, K, K, codes[0], scales, zero_points[0], &signal, &noise))
        return give_up("w4a16_quantize");
    printf("signal to quantisation noise: %.1f dB\n", 10 * log10(signal / noise));

    /* 2. Open the best device of this machine and give it the weight, which it copies and packs. */
    w4a16_context *context;
    w4a16_weight *weight;
    w4a16_canonical canonical;
    w4a16_canonical_init(&canonical);
    canonical.n = N;
    canonical.k = K;
    canonical.group_size = GROUP_SIZE;
    canonical.codes = codes[0];
    canonical.scales = scales;
    canonical.scale_dtype = W4A16_FP16;
    canonical.zero_kind = W4A16_ZERO_INTEGER;
    canonical.zeros = zero_points;
    if (w4a16_context_create(NULL, &context)) return give_up("w4a16_context_create");
    if (w4a16_weight_create(context, &canonical, &weight)) return give_up("w4a16_weight_create");

    /* 3. Plan once for all the batch sizes to come, and ask what a call needs. */
    w4a16_plan *plan;
    w4a16_plan_options plan_options;
    w4a16_plan_info plan_info = {.struct_size = sizeof plan_info};
    w4a16_plan_options_init(&plan_options);
    plan_options.m_max = M;
    if (w4a16_plan_create(weight, &plan_options, &plan)) return give_up("w4a16_plan_create");
    if (w4a16_plan_query(plan, &plan_info)) return give_up("w4a16_plan_query");
    printf("config %s: %s\n", plan_info.config, plan_info.reason);

    /* 4. Multiply. The workspace may be used again by the next call, but not by two calls at once. */
    size_t alignment = plan_info.workspace_alignment < sizeof(void *) ? sizeof(void *) : plan_info.workspace_alignment;
    size_t bytes = (plan_info.workspace_bytes + alignment - 1) / alignment * alignment;
    void *workspace = bytes ? aligned_alloc(alignment, bytes) : NULL;
    if (bytes && !workspace) return EXIT_FAILURE;
    if (w4a16_gemm(plan, a, K, c, N, M, workspace, bytes, NULL)) return give_up("w4a16_gemm");

    /* 5. Compare with the matrix that we began with: what is left is the price of 4 bits. */
    float c_float[M][N];
    double error = 0, norm = 0;
    w4a16_convert_elements(c, W4A16_FP16, c_float, W4A16_FP32, (size_t)M * N);
    for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
            double exact = 0;
            for (int k = 0; k < K; ++k) exact += (double)a_exact[m][k] * w[n][k];
            error += (c_float[m][n] - exact) * (c_float[m][n] - exact);
            norm += exact * exact;
        }
    }
    printf("relative error against the unquantised product: %.4f\n", sqrt(error / norm));

    free(workspace);
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    return sqrt(error / norm) < 0.15 ? EXIT_SUCCESS : EXIT_FAILURE;
}
