/* SPDX-License-Identifier: Apache-2.0
 * Editing packed files: fields, and the checksum put right again, by the words of docs/packed-file.md. */
#ifndef W4A16_TESTS_SEAL_H
#define W4A16_TESTS_SEAL_H

#include <stddef.h>
#include <stdint.h>

enum { SEAL_HEADER = 256 };

static inline uint64_t seal_run(uint64_t hash, const uint8_t *data, size_t size) {
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        for (size_t i = 0; i < 8 && at + i < size; i++) word |= (uint64_t)data[at + i] << 8 * i;
        hash = (hash ^ word) * 1099511628211u;
    }
    return hash;
}

static inline void seal_store(uint8_t *data, int at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) data[at + i] = (uint8_t)(value >> 8 * i);
}

/** What an attacker would do after editing: make the checksum right again. */
static inline void seal(uint8_t *data, size_t size, size_t order_bytes) {
    uint64_t hash = seal_run(14695981039346656037u, data, 72);
    hash = seal_run(hash, data + 80, SEAL_HEADER - 80);
    hash = seal_run(hash, data + SEAL_HEADER, size - SEAL_HEADER - order_bytes);
    hash = seal_run(hash, data + size - order_bytes, order_bytes);
    seal_store(data, 72, hash, 8);
}

#endif
