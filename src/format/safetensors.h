/* SPDX-License-Identifier: Apache-2.0
 * safetensors files: u64 header length, JSON header, data. */
#ifndef W4_FORMAT_SAFETENSORS_H
#define W4_FORMAT_SAFETENSORS_H

#include "core/file.h"
#include "core/status.h"

struct w4a16_tensor_file {
    char *path;
    w4_mapping mapping;
    w4a16_tensor *tensors; /* in the order of the data */
    size_t count;
    size_t *by_name;      /* indices, sorted by name */
    char **metadata_keys; /* "__metadata__" */
    char **metadata_values;
    size_t metadata_count;
    char *storage; /* names */
};

/** Check `size` bytes as a safetensors file (`name` stands for the path in error texts) and index its tensors; their
 * data points into `data`. For w4a16_tensor_file_open and fuzzing; w4a16_tensor_file_close frees (it unmaps only what
 * open mapped). */
w4a16_status w4_tensor_file_parse(const uint8_t *data, uint64_t size, const char *name, w4a16_tensor_file **file);

/** The metadata value of `key`, or NULL. */
const char *w4_tensor_file_metadata(const w4a16_tensor_file *file, const char *key);

/** Streaming writer: all names, dtypes and shapes first, then the data of each in the same order. */
typedef struct w4_tensor_writer {
    w4_output output;
    uint64_t *expected; /* bytes of each tensor */
    size_t count, next;
    uint64_t written; /* of the current tensor */
} w4_tensor_writer;

/** `tensors[i].data` is not looked at. metadata: pairs of strings, may be NULL. */
w4a16_status w4_tensor_writer_open(const char *path, bool overwrite, const w4a16_tensor *tensors, size_t count,
                                   const char *const *metadata_keys, const char *const *metadata_values,
                                   size_t metadata_count, w4_tensor_writer *writer);
/** Append to the current tensor; moves on when it is full. */
w4a16_status w4_tensor_writer_append(w4_tensor_writer *writer, const void *data, uint64_t size);
w4a16_status w4_tensor_writer_commit(w4_tensor_writer *writer);
void w4_tensor_writer_abandon(w4_tensor_writer *writer);

#endif
