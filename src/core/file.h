/* SPDX-License-Identifier: Apache-2.0
 * Files: mapped for reading, written aside and renamed, so that a path never holds half an output. */
#ifndef W4_CORE_FILE_H
#define W4_CORE_FILE_H

#include "core/status.h"

#include <stdbool.h>

typedef struct w4_mapping {
    const uint8_t *data; /* NULL for an empty file */
    uint64_t size;
} w4_mapping;

w4a16_status w4_map_file(const char *path, w4_mapping *mapping);
void w4_unmap_file(w4_mapping *mapping);

bool w4_path_exists(const char *path);
bool w4_is_directory(const char *path);

/** directory + "/" + name, on the heap. */
w4a16_status w4_join_path(const char *directory, const char *name, char **joined);

/** An output file under way: a temporary beside `path` until w4_output_commit. */
typedef struct w4_output {
    int descriptor;
    char *path, *temporary;
    bool overwrite;
} w4_output;

/** EXISTS if `path` is there and `overwrite` is false. */
w4a16_status w4_output_open(const char *path, bool overwrite, w4_output *output);
w4a16_status w4_output_write(w4_output *output, const void *data, uint64_t size);
/** Flush to the disk and rename; on failure the temporary is removed. */
w4a16_status w4_output_commit(w4_output *output);
/** Remove the temporary. Safe after commit and after a failed open (does nothing). */
void w4_output_abandon(w4_output *output);

/** The same for a folder: fill `staging`, then commit renames it to `path`. */
typedef struct w4_output_directory {
    char *path, *staging;
    bool overwrite;
} w4_output_directory;

w4a16_status w4_output_directory_open(const char *path, bool overwrite, w4_output_directory *output);
w4a16_status w4_output_directory_commit(w4_output_directory *output);
void w4_output_directory_abandon(w4_output_directory *output);

/** Wait until no other process or thread holds the lock of `path`, and take it: a file PATH.lock, which stays there.
 * The system gives it back when the process ends, however it ends. *descriptor: for w4_unlock_file. */
w4a16_status w4_lock_file(const char *path, int *descriptor);
void w4_unlock_file(int descriptor);

/** All of a file at once. */
w4a16_status w4_write_file(const char *path, bool overwrite, const void *data, uint64_t size);
/** Copy one regular file. */
w4a16_status w4_copy_file(const char *source, const char *target);

#endif
