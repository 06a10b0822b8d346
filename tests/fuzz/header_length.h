/* SPDX-License-Identifier: Apache-2.0
 * A mutated header seldom keeps its length. Half of the inputs (by the top bit of the length, which no valid file has)
 * get the length that fits: up to the last closing brace. */
#ifndef TESTS_FUZZ_HEADER_LENGTH_H
#define TESTS_FUZZ_HEADER_LENGTH_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/** A copy of the input, exactly as large (free it), with the length mended where that was asked for. */
static inline uint8_t *mend_header_length(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    if (size < 10 || !(data[7] & 0x80)) return copy;
    size_t end = size;
    while (end > 8 && data[end - 1] != '}') end--;
    uint64_t length = end - 8;
    for (int i = 0; i < 8; i++) copy[i] = (uint8_t)(length >> 8 * i);
    return copy;
}

#endif
