/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a packed file: refused with a text, or a valid matrix. */
#include "pack/packed_file.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    w4_matrix matrix;
    if (w4_packed_file_parse(data, size, "input", &matrix)) {
        if (!strstr(w4a16_last_error(), "input") || strchr(w4a16_last_error(), '\n')) abort();
        return 0;
    }
    if (w4_matrix_validate(&matrix)) abort();
    w4_matrix_free(&matrix);
    return 0;
}
