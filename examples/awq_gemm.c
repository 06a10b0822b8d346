/* SPDX-License-Identifier: Apache-2.0
 * Multiply one token by one layer of an AWQ model (or any other format that the library reads):
 *     cc awq_gemm.c -lw4a16 -o awq_gemm && ./awq_gemm model-awq/ model.layers.0.self_attn.q_proj */
#include <stdio.h>
#include <stdlib.h>
#include <w4a16.h>

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: awq_gemm CHECKPOINT MODULE\n"), 2;
    w4a16_context *context;
    w4a16_checkpoint *checkpoint;
    w4a16_weight *weight;
    w4a16_plan *plan;
    w4a16_weight_info shape = {.struct_size = sizeof shape};
    if (w4a16_context_create(NULL, &context) || w4a16_checkpoint_open(argv[1], &checkpoint) ||
        w4a16_checkpoint_load(checkpoint, context, argv[2], &weight) || w4a16_weight_query(weight, &shape) ||
        w4a16_plan_create(weight, NULL, &plan))
        return fprintf(stderr, "%s\n", w4a16_last_error()), 1;
    uint16_t *a = malloc((size_t)shape.k * 2), *c = malloc((size_t)shape.n * 2);
    if (!a || !c) return fprintf(stderr, "out of memory\n"), 1;
    for (int64_t i = 0; i < shape.k; i++) a[i] = 0x3c00; /* 1.0 in fp16: C is the sum of each row of W */
    if (w4a16_gemm_host(plan, a, shape.k, c, shape.n, 1)) return fprintf(stderr, "%s\n", w4a16_last_error()), 1;

    float first;
    if (w4a16_convert_elements(c, W4A16_FP16, &first, W4A16_FP32, 1)) return 1;
    printf("%s: N=%lld K=%lld, C[0]=%g\n", argv[2], (long long)shape.n, (long long)shape.k, first);
    free(a);
    free(c);
    w4a16_plan_destroy(plan);
    w4a16_weight_destroy(weight);
    w4a16_checkpoint_close(checkpoint);
    w4a16_context_destroy(context);
    return 0;
}
