/* SPDX-License-Identifier: Apache-2.0
 * A folder of its own for each test, and files in it. */
#ifndef TESTS_FORMAT_FOLDER_H
#define TESTS_FORMAT_FOLDER_H

#include <stddef.h>

/** cmocka set-up and tear-down: *state is the folder's path. The tear-down fails if anything temporary was left. */
int folder_create(void **state);
int folder_remove(void **state);

/** folder/name in one of several static buffers. */
const char *folder_path(const char *folder, const char *name);

void write_bytes(const char *path, const void *data, size_t size);
void write_text(const char *path, const char *text);

/** A safetensors file of any header text and `data_size` zero bytes of data. `length`: what the file gives as the
 * header's length; 0: the truth. */
void write_raw(const char *path, const char *header, size_t data_size, unsigned long long length);

/** Number of entries of a folder. */
int count_entries(const char *folder);

#endif
