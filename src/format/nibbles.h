/* SPDX-License-Identifier: Apache-2.0
 * 8 x 8 nibbles in eight words, transposed: the step between layouts packed along N and codes packed along K. */
#ifndef W4_FORMAT_NIBBLES_H
#define W4_FORMAT_NIBBLES_H

#include <stdint.h>

/** Nibble j of rows[i] becomes nibble i of rows[j]: halves, then quarters, then single nibbles change places. */
static inline void w4_transpose_nibbles(uint32_t rows[8]) {
    for (int i = 0; i < 4; i++) {
        uint32_t swapped = (rows[i] >> 16 ^ rows[i + 4]) & 0x0000ffffu;
        rows[i + 4] ^= swapped;
        rows[i] ^= swapped << 16;
    }
    for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) { /* 0, 1, 4, 5 */
        uint32_t swapped = (rows[i] >> 8 ^ rows[i + 2]) & 0x00ff00ffu;
        rows[i + 2] ^= swapped;
        rows[i] ^= swapped << 8;
    }
    for (int i = 0; i < 8; i += 2) {
        uint32_t swapped = (rows[i] >> 4 ^ rows[i + 1]) & 0x0f0f0f0fu;
        rows[i + 1] ^= swapped;
        rows[i] ^= swapped << 4;
    }
}

#endif
