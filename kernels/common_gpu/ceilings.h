/* SPDX-License-Identifier: Apache-2.0
 * What host and device agree on about the loops that measure a GPU's limits. */
#ifndef W4_CEILINGS_H
#define W4_CEILINGS_H

enum {
    W4_READ_WORD = 16, /* bytes of one load */
    W4_READ_BLOCKS = 8,
    W4_READ_THREADS = 256,
    W4_READ_UNROLL = 8,
    W4_MULTIPLY_BLOCKS = 2, /* per SM: two warpgroups keep the tensor cores fed */
    W4_MULTIPLY_THREADS = 128,
    W4_MULTIPLY_ROUNDS = 2048,
    W4_MULTIPLY_ISSUED = 4, /* wgmma of a round */
    /* Multiplications and additions of a block's round: m64 n128 k16 each. */
    W4_MULTIPLY_OPERATIONS = 2 * 64 * 128 * 16 * W4_MULTIPLY_ISSUED
};

#endif
