/* SPDX-License-Identifier: Apache-2.0
 * Writing safetensors: the header is fixed first, then the data streams in; nothing shows until all of it is there. */
#include "format/safetensors.h"

#include "core/memory.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint64_t LARGEST_HEADER = 100u * 1000 * 1000;

/** Bytes of a tensor by its shape and dtype; every argument is checked. */
static w4a16_status check_tensor(const w4a16_tensor *tensor, size_t index, uint64_t *bytes) {
    if (!tensor->name) return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensors[%zu].name is NULL", index);
    const char *problem = w4_safetensors_name_problem(tensor->name);
    if (problem) return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensors[%zu] has %s", index, problem);
    if (!w4_safetensors_dtype_text(tensor->dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensor '%s': dtype %d is none of w4a16_dtype", tensor->name,
                       (int)tensor->dtype);
    if (tensor->dimensions < 0 || tensor->dimensions > W4A16_MAX_DIMENSIONS)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensor '%s': dimensions is %d; it must be 0 to %d", tensor->name,
                       tensor->dimensions, W4A16_MAX_DIMENSIONS);
    *bytes = w4a16_dtype_size(tensor->dtype);
    bool empty = false;
    for (int i = 0; i < tensor->dimensions; i++) {
        if (tensor->shape[i] < 0)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensor '%s': shape[%d] is %" PRId64 "; it must be 0 or more",
                           tensor->name, i, tensor->shape[i]);
        if (tensor->shape[i] == 0)
            empty = true;
        else if (!w4_multiply(*bytes, (uint64_t)tensor->shape[i], bytes) || *bytes > INT64_MAX)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensor '%s': its shape asks for more than 2^63 bytes",
                           tensor->name);
    }
    if (empty) *bytes = 0;
    if (tensor->bytes != 0 && tensor->bytes != *bytes)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "tensor '%s': bytes is %" PRIu64 ", but its shape and dtype make %" PRIu64, tensor->name,
                       tensor->bytes, *bytes);
    return W4A16_OK;
}

/** Adds `value` (stolen) as `key` to `object`; false if there is no memory or `key` is no UTF-8. */
static bool set_new(json_t *object, const char *key, json_t *value) {
    return value && json_object_set_new(object, key, value) == 0;
}

static json_t *tensor_entry(const w4a16_tensor *tensor, uint64_t begin, uint64_t bytes) {
    json_t *shape = json_array();
    for (int i = 0; i < tensor->dimensions; i++) json_array_append_new(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", w4_safetensors_dtype_text(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + bytes));
}

/** The header as JSON; begin[] receives the offsets within the data. */
static w4a16_status make_header(json_t *header, const w4a16_tensor *tensors, size_t count,
                                const char *const *metadata_keys, const char *const *metadata_values,
                                size_t metadata_count, uint64_t *begin) {
    if (metadata_count > 0) {
        json_t *metadata = json_object();
        if (!set_new(header, "__metadata__", metadata))
            return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the header");
        for (size_t i = 0; i < metadata_count; i++)
            if (!set_new(metadata, metadata_keys[i], json_string(metadata_values[i])))
                return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "metadata[%zu]: key or value is no UTF-8 text", i);
    }
    begin[0] = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        W4_TRY(check_tensor(&tensors[i], i, &bytes));
        if (json_object_get(header, tensors[i].name))
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensor '%s' is given twice", tensors[i].name);
        if (__builtin_add_overflow(begin[i], bytes, &begin[i + 1]) || begin[i + 1] > INT64_MAX / 2)
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensor '%s': all tensors together exceed 2^62 bytes",
                           tensors[i].name);
        if (!set_new(header, tensors[i].name, tensor_entry(&tensors[i], begin[i], bytes)))
            return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensors[%zu]: its name is no UTF-8 text", i);
    }
    return W4A16_OK;
}

/** Length word, JSON and the spaces that bring the data to a multiple of 8. */
static w4a16_status write_header(w4_tensor_writer *writer, const char *path, const char *text) {
    uint64_t length = strlen(text), padded = (length + 7) / 8 * 8;
    if (padded > LARGEST_HEADER)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "%s: the header would take %" PRIu64 " bytes; the format permits %" PRIu64, path, padded,
                       LARGEST_HEADER);
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)(padded >> 8 * i);
    W4_TRY(w4_output_write(&writer->output, prefix, sizeof prefix));
    W4_TRY(w4_output_write(&writer->output, text, length));
    W4_TRY(w4_output_write(&writer->output, "        ", padded - length));
    writer->position = 8 + padded;
    for (size_t i = 0; i <= writer->count; i++) writer->begin[i] += writer->position;
    return W4A16_OK;
}

w4a16_status w4_tensor_writer_open(const char *path, bool overwrite, const w4a16_tensor *tensors, size_t count,
                                   const char *const *metadata_keys, const char *const *metadata_values,
                                   size_t metadata_count, w4_tensor_writer *writer) {
    w4_tensor_writer result = {.output = {-1, NULL, NULL, false}, .count = count};
    *writer = result;
    void *memory;
    W4_TRY(w4_allocate((count + 1) * sizeof *result.begin, "the tensor offsets", &memory));
    result.begin = memory;
    w4a16_status status = w4_allocate(count * sizeof *result.written, "the tensor offsets", &memory);
    if (!status) result.written = memory;
    json_t *header = NULL;
    char *text = NULL;
    if (!status) {
        header = json_object();
        status = header
                     ? make_header(header, tensors, count, metadata_keys, metadata_values, metadata_count, result.begin)
                     : w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the header");
        if (status) w4_fail_context(status, "%s: ", path);
    }
    if (!status) {
        text = json_dumps(header, JSON_COMPACT);
        if (!text) status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the header of %s", path);
    }
    if (!status) status = w4_output_open(path, overwrite, &result.output);
    if (!status) status = write_header(&result, path, text);
    json_decref(header);
    free(text);
    if (status)
        w4_tensor_writer_abandon(&result);
    else
        *writer = result;
    return status;
}

w4a16_status w4_tensor_writer_append(w4_tensor_writer *writer, size_t index, const void *data, uint64_t size) {
    uint64_t capacity = writer->begin[index + 1] - writer->begin[index];
    if (size > capacity - writer->written[index])
        return w4_fail(W4A16_ERROR_INTERNAL, "%s: tensor %zu of the output holds %" PRIu64 " bytes; more were written",
                       writer->output.path, index, capacity);
    if (size == 0) return W4A16_OK;
    uint64_t position = writer->begin[index] + writer->written[index];
    if (position != writer->position && lseek(writer->output.descriptor, (off_t)position, SEEK_SET) < 0)
        return w4_fail(W4A16_ERROR_IO, "%s: cannot seek", writer->output.path);
    writer->position = position;
    W4_TRY(w4_output_write(&writer->output, data, size));
    writer->position += size;
    writer->written[index] += size;
    return W4A16_OK;
}

static void free_index(w4_tensor_writer *writer) {
    free(writer->begin);
    free(writer->written);
    writer->begin = writer->written = NULL;
}

w4a16_status w4_tensor_writer_commit(w4_tensor_writer *writer) {
    for (size_t i = 0; i < writer->count; i++) {
        if (writer->written[i] == writer->begin[i + 1] - writer->begin[i]) continue;
        w4a16_status status =
            w4_fail(W4A16_ERROR_INTERNAL, "%s: tensor %zu of the output is not complete", writer->output.path, i);
        w4_tensor_writer_abandon(writer);
        return status;
    }
    free_index(writer);
    return w4_output_commit(&writer->output);
}

void w4_tensor_writer_abandon(w4_tensor_writer *writer) {
    if (writer->begin) w4_output_abandon(&writer->output);
    free_index(writer);
}

w4a16_status w4a16_tensor_file_write(const char *path, const w4a16_tensor *tensors, size_t count, int overwrite) {
    if (!path) return w4_fail_null("path");
    if (!tensors && count > 0) return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "tensors is NULL, but count is %zu", count);
    w4_tensor_writer writer;
    W4_TRY(w4_tensor_writer_open(path, overwrite != 0, tensors, count, NULL, NULL, 0, &writer));
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = writer.begin[i + 1] - writer.begin[i];
        w4a16_status status = W4A16_OK;
        if (bytes > 0 && !tensors[i].data)
            status = w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "%s: tensor '%s': data is NULL", path, tensors[i].name);
        else
            status = w4_tensor_writer_append(&writer, i, tensors[i].data, bytes);
        if (status) {
            w4_tensor_writer_abandon(&writer);
            return status;
        }
    }
    return w4_tensor_writer_commit(&writer);
}
