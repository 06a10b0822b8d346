/* SPDX-License-Identifier: Apache-2.0
 * One weight in one file, in the fragment layout (docs/packed-file.md). */
#ifndef W4_PACK_PACKED_FILE_H
#define W4_PACK_PACKED_FILE_H

#include "core/matrix.h"
#include "packed_layout.h"

#include <stdbool.h>

w4a16_status w4_packed_file_save(const w4_matrix *matrix, const char *path, int overwrite);

/** A packed file whose header and checksum are right. The pointers are into the file. */
typedef struct w4_packed_view {
    const char *name; /* stands for the path in error texts */
    w4_matrix shape;  /* without arrays */
    w4_packed_layout layout;
    const uint8_t *packed;
    const uint8_t *order; /* int32 [k] at any address, or NULL */
} w4_packed_view;

w4a16_status w4_packed_view_open(const uint8_t *data, uint64_t size, const char *name, w4_packed_view *view);
/** In canonical form and validated, but without codes where they are not wanted. Padding is not looked at. */
w4a16_status w4_packed_view_unpack(const w4_packed_view *view, bool has_codes, w4_matrix *matrix);

#endif
