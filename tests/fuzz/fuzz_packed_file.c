/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a packed file: refused with a text, or a valid matrix, whether its codes are unpacked or not. Where its
 * padding passes, packing gives the same bytes. */
#include "pack/fragment.h"
#include "pack/packed_file.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    w4_packed_view view;
    w4_matrix matrix, lines;
    w4a16_status status = w4_packed_view_open(data, size, "input", &view), lines_status = status;
    if (!status) {
        lines_status = w4_packed_view_unpack(&view, false, &lines);
        status = w4_packed_view_unpack(&view, true, &matrix);
    }
    if (status != lines_status) abort();
    if (status) {
        if (!strstr(w4a16_last_error(), "input") || strchr(w4a16_last_error(), '\n')) abort();
        return 0;
    }
    if (w4_matrix_validate(&matrix) || w4_matrix_validate(&lines)) abort();
    size_t bytes = (size_t)view.layout.bytes;
    uint8_t *packed = malloc(bytes);
    if (!packed) abort();
    w4_fragment_pack(&matrix, &view.layout, packed);
    if (w4_fragment_is_padded(view.packed, &view.layout, &lines) != (memcmp(packed, view.packed, bytes) == 0)) abort();
    free(packed);
    w4_matrix_free(&matrix);
    w4_matrix_free(&lines);
    return 0;
}
