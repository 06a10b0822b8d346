/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a safetensors file: refused with a text, or every tensor lies within the bytes. */
#include "format/safetensors.h"
#include "fuzz/header_length.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, size_t size) {
    w4a16_tensor_file *file = NULL;
    if (w4_tensor_file_parse(data, size, "input", &file)) {
        if (file || !strstr(w4a16_last_error(), "input") || strchr(w4a16_last_error(), '\n')) abort();
        return;
    }
    uint64_t sum = 0, total = 0;
    for (size_t i = 0; i < w4a16_tensor_file_count(file); i++) {
        w4a16_tensor tensor, found;
        if (w4a16_tensor_file_get(file, i, &tensor)) abort();
        if (w4a16_tensor_file_find(file, tensor.name, &found) || found.data != tensor.data) abort();
        for (uint64_t j = 0; j < tensor.bytes; j++) sum += ((const uint8_t *)tensor.data)[j];
        total += tensor.bytes;
    }
    if (total > size || sum > total * 255) abort();
    w4a16_tensor_file_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = mend_header_length(data, size);
    check(copy, size);
    free(copy);
    return 0;
}
