/* SPDX-License-Identifier: Apache-2.0
 * Pack once, load fast: save a weight to a packed file, load it again and see that nothing was lost.
 *
 *     cc packed_file.c $(pkg-config --cflags --libs w4a16) -o packed_file && ./packed_file /tmp/layer.w4a16
 */
#include <w4a16.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 10, K = 96, GROUP_SIZE = 32, GROUPS = K / GROUP_SIZE };

static int give_up(const char *call) {
    fprintf(stderr, "%s: %s\n", call, w4a16_last_error());
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    static uint8_t codes[N][K / 2], codes_again[N][K / 2];
    static float scales[N][GROUPS], scales_again[N][GROUPS];
    if (argc != 2) return fprintf(stderr, "usage: packed_file PATH\n"), EXIT_FAILURE;

    for (int n = 0; n < N; ++n) {
        for (int i = 0; i < K / 2; ++i) codes[n][i] = (uint8_t)(7 * n + 13 * i);
        for (int g = 0; g < GROUPS; ++g) scales[n][g] = 0.01f * (float)(n + g + 1);
    }
    w4a16_canonical canonical;
    w4a16_canonical_init(&canonical);
    canonical.n = N;
    canonical.k = K;
    canonical.group_size = GROUP_SIZE;
    canonical.codes = codes[0];
    canonical.scales = scales;
    canonical.scale_dtype = W4A16_FP32;

    w4a16_context *context;
    w4a16_weight *weight, *loaded;
    if (w4a16_context_create(NULL, &context)) return give_up("w4a16_context_create");
    if (w4a16_weight_create(context, &canonical, &weight)) return give_up("w4a16_weight_create");

    /* The file appears under its name only when it is complete; 1: it may replace an older one. */
    if (w4a16_weight_save(weight, argv[1], 1)) return give_up("w4a16_weight_save");
    if (w4a16_weight_load(context, argv[1], &loaded)) return give_up("w4a16_weight_load");

    /* The canonical arrays come back bit for bit. */
    w4a16_weight_info info = {.struct_size = sizeof info};
    if (w4a16_weight_query(loaded, &info)) return give_up("w4a16_weight_query");
    if (w4a16_weight_export(loaded, codes_again[0], scales_again, NULL, NULL)) return give_up("w4a16_weight_export");
    int equal = !memcmp(codes, codes_again, sizeof codes) && !memcmp(scales, scales_again, sizeof scales);
    printf("%lld x %lld, group size %lld: %s\n", (long long)info.n, (long long)info.k, (long long)info.group_size,
           equal ? "unchanged" : "DIFFERENT");

    w4a16_weight_destroy(loaded);
    w4a16_weight_destroy(weight);
    w4a16_context_destroy(context);
    return equal ? EXIT_SUCCESS : EXIT_FAILURE;
}
