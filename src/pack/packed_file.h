/* SPDX-License-Identifier: Apache-2.0
 * One weight in one file, in the fragment layout (docs/packed-file.md). */
#ifndef W4_PACK_PACKED_FILE_H
#define W4_PACK_PACKED_FILE_H

#include "core/matrix.h"

w4a16_status w4_packed_file_save(const w4_matrix *matrix, const char *path, int overwrite);
w4a16_status w4_packed_file_load(const char *path, w4_matrix *matrix);
/** The same from memory, for fuzzing; `name` stands for the path in error texts. */
w4a16_status w4_packed_file_parse(const uint8_t *data, uint64_t size, const char *name, w4_matrix *matrix);

#endif
