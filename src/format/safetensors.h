/* SPDX-License-Identifier: Apache-2.0
 * safetensors files: u64 header length, JSON header, data. */
#ifndef W4_FORMAT_SAFETENSORS_H
#define W4_FORMAT_SAFETENSORS_H

#include "core/file.h"
#include "core/status.h"

struct w4a16_tensor_file {
    char *path;
    w4_mapping mapping;    /* empty for a file parsed from the caller's memory */
    w4a16_tensor *tensors; /* in the order of the data */
    size_t count;
    size_t *by_name;      /* indices, sorted by name */
    char **metadata_keys; /* "__metadata__" */
    char **metadata_values;
    size_t metadata_count;
    char *storage; /* every name, key and value */
};

/** Check `size` bytes as a safetensors file (`name` stands for the path in error texts) and index its tensors; their
 * data points into `data`. For w4a16_tensor_file_open and fuzzing; w4a16_tensor_file_close frees (it unmaps only what
 * open mapped). */
w4a16_status w4_tensor_file_parse(const uint8_t *data, uint64_t size, const char *name, w4a16_tensor_file **file);

/** The metadata value of `key`, or NULL. */
const char *w4_tensor_file_metadata(const w4a16_tensor_file *file, const char *key);

/** The dtype as the header spells it ("F16"), or NULL; and back: W4A16_DTYPE_NONE for an unknown text. */
const char *w4_safetensors_dtype_text(w4a16_dtype dtype);
w4a16_dtype w4_safetensors_dtype(const char *text);

/** Why a tensor cannot have this name (static text), or NULL if it can. */
const char *w4_safetensors_name_problem(const char *name);

/** A text of a file as it may go into an error text: `text`, or "(unprintable)" where it would break the line. */
const char *w4_safe_text(const char *text);

/** "[2, 3]" into `text`, for error texts; returns `text`. */
const char *w4_shape_text(const w4a16_tensor *tensor, char *text, size_t size);

/** Streaming writer: all names, dtypes and shapes first, then the data of each, in any order of tensors. */
typedef struct w4_tensor_writer {
    w4_output output;
    uint64_t *begin;   /* [count + 1] offset of each tensor in the file; the last is the file's size */
    uint64_t *written; /* [count] bytes of each so far */
    uint64_t position; /* of the descriptor */
    size_t count;
} w4_tensor_writer;

/** The tensors stand in the file in the order given; `tensors[i].data` is not looked at, `bytes` must be 0 or what
 * shape and dtype say. metadata: pairs of strings, may be NULL. On failure nothing needs to be abandoned. */
w4a16_status w4_tensor_writer_open(const char *path, bool overwrite, const w4a16_tensor *tensors, size_t count,
                                   const char *const *metadata_keys, const char *const *metadata_values,
                                   size_t metadata_count, w4_tensor_writer *writer);
/** Append to tensor `index`. */
w4a16_status w4_tensor_writer_append(w4_tensor_writer *writer, size_t index, const void *data, uint64_t size);
/** INTERNAL if a tensor is not complete. The writer is closed whatever the outcome. */
w4a16_status w4_tensor_writer_commit(w4_tensor_writer *writer);
/** Safe on a writer that is zeroed or already closed. */
void w4_tensor_writer_abandon(w4_tensor_writer *writer);

#endif
