/* SPDX-License-Identifier: Apache-2.0
 * Sizes that come from callers and files are multiplied here, so that no overflow goes unseen. */
#ifndef W4_CORE_MEMORY_H
#define W4_CORE_MEMORY_H

#include "core/status.h"

#include <stdbool.h>

/** result = a * b; false on overflow. */
static inline bool w4_multiply(uint64_t a, uint64_t b, uint64_t *result) {
    return !__builtin_mul_overflow(a, b, result);
}

static inline int64_t w4_ceil_divide(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}
static inline int64_t w4_round_up(int64_t a, int64_t b) {
    return w4_ceil_divide(a, b) * b;
}
static inline int64_t w4_minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t w4_maximum(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/** `bytes` of zeroed memory, 64-byte aligned, in *memory (free with free()); OUT_OF_MEMORY names `what`. 0 bytes give
 * a pointer too. */
w4a16_status w4_allocate(uint64_t bytes, const char *what, void **memory);

/** The same, aligned to `alignment` (a power of two, 64 at least) and not zeroed. */
w4a16_status w4_allocate_aligned(uint64_t bytes, size_t alignment, const char *what, void **memory);

/** A copy of `text` on the heap. */
w4a16_status w4_copy_text(const char *text, char **copy);

#endif
