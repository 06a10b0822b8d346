/* SPDX-License-Identifier: Apache-2.0
 * What `quantize` and `convert` share: collecting the library's progress calls and reporting them at the end. */
#ifndef W4A16_CLI_REWRITE_H
#define W4A16_CLI_REWRITE_H

#include "cli.h"

typedef struct rewritten_layer {
    char *name;
    int64_t n, k;
    double sqnr_db, signal, noise;
} rewritten_layer;

typedef struct rewrite {
    rewritten_layer *layers;
    size_t count, capacity;
    size_t copied; /* tensors carried over as they were */
    double started;
} rewrite;

/** Start the clock and take interruption into one's own hands: a signal then ends at the next tensor. */
void rewrite_begin(rewrite *self);

/** The library's progress callback; `user` is the rewrite. */
int rewrite_progress(const w4a16_progress *progress, void *user);

/** Report the library's result and free. Where a signal stopped the work, the program ends by it.
 * @param quantized true: with SQNR @param format the output's @return the exit code */
int rewrite_finish(rewrite *self, w4a16_status status, const char *input, const char *output, w4a16_format format,
                   bool quantized, bool json);

#endif
