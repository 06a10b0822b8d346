/* SPDX-License-Identifier: Apache-2.0
 * Allocation with a status instead of a NULL. */
#include "core/memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of x86-64's and most 64-bit Arm kernels' huge pages. */
enum { HUGE_PAGE = 2 << 20 };

w4a16_status w4_allocate_aligned(uint64_t bytes, size_t alignment, const char *what, void **memory) {
    void *pointer = NULL;
    /* Whole cache lines: vector code may then read to the end of the last line. */
    uint64_t rounded = bytes ? (bytes + 63) / 64 * 64 : 64;
    if (rounded >= 2 * HUGE_PAGE) alignment = HUGE_PAGE;
    if (rounded < bytes || rounded > PTRDIFF_MAX || posix_memalign(&pointer, alignment, (size_t)rounded) != 0)
        return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: %s needs %" PRIu64 " bytes", what, bytes);
    /* A weight is read from one end to the other: with small pages the walks of the page table cost bandwidth. A kernel
     * that does not offer huge pages says so here, and nothing is lost. */
    if (alignment == HUGE_PAGE) (void)madvise(pointer, (size_t)rounded, MADV_HUGEPAGE);
    *memory = pointer;
    return W4A16_OK;
}

w4a16_status w4_allocate(uint64_t bytes, const char *what, void **memory) {
    W4_TRY(w4_allocate_aligned(bytes, 64, what, memory));
    memset(*memory, 0, bytes ? (size_t)(bytes + 63) / 64 * 64 : 64);
    return W4A16_OK;
}

w4a16_status w4_copy_text(const char *text, char **copy) {
    size_t size = strlen(text) + 1;
    void *memory = NULL;
    W4_TRY(w4_allocate(size, "a text", &memory));
    *copy = memcpy(memory, text, size);
    return W4A16_OK;
}
