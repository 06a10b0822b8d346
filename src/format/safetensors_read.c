/* SPDX-License-Identifier: Apache-2.0
 * Reading safetensors: nothing in the header is believed before it was checked against the file. */
#include "format/safetensors.h"

#include "core/memory.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t LARGEST_HEADER = 100u * 1000 * 1000;
static const size_t LONGEST_NAME = 4096;

static const struct {
    const char *text;
    w4a16_dtype dtype;
} dtype_texts[] = {
    {"F16", W4A16_FP16},  {"BF16", W4A16_BF16},        {"F32", W4A16_FP32},         {"F64", W4A16_FP64},
    {"U8", W4A16_UINT8},  {"I8", W4A16_INT8},          {"I16", W4A16_INT16},        {"I32", W4A16_INT32},
    {"I64", W4A16_INT64}, {"U16", W4A16_UINT16},       {"U32", W4A16_UINT32},       {"U64", W4A16_UINT64},
    {"BOOL", W4A16_BOOL}, {"F8_E4M3", W4A16_FP8_E4M3}, {"F8_E5M2", W4A16_FP8_E5M2},
};
enum { DTYPE_TEXTS = sizeof dtype_texts / sizeof *dtype_texts };

/* Element types that the format knows and this library has no name for. */
static const char *const other_dtypes[] = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};
enum { OTHER_DTYPES = sizeof other_dtypes / sizeof *other_dtypes };

const char *w4_safetensors_dtype_text(w4a16_dtype dtype) {
    for (size_t i = 0; i < DTYPE_TEXTS; i++)
        if (dtype_texts[i].dtype == dtype) return dtype_texts[i].text;
    return NULL;
}

w4a16_dtype w4_safetensors_dtype(const char *text) {
    for (size_t i = 0; i < DTYPE_TEXTS; i++)
        if (strcmp(dtype_texts[i].text, text) == 0) return dtype_texts[i].dtype;
    return W4A16_DTYPE_NONE;
}

const char *w4_safetensors_name_problem(const char *name) {
    size_t length = strlen(name);
    if (length == 0) return "an empty name";
    if (length > LONGEST_NAME) return "a name longer than 4096 bytes";
    if (strcmp(name, "__metadata__") == 0) return "the reserved name __metadata__";
    for (const unsigned char *byte = (const unsigned char *)name; *byte; byte++)
        if (*byte < 0x20 || *byte == 0x7f) return "a name with a control character";
    return NULL;
}

const char *w4_shape_text(const w4a16_tensor *tensor, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < tensor->dimensions && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? ", " : "", tensor->shape[i]);
    if (used < size) snprintf(text + used, size - used, "]");
    return text;
}

const char *w4_safe_text(const char *text) {
    return w4_safetensors_name_problem(text) ? "(unprintable)" : text;
}

static w4a16_status read_dtype(const char *path, const char *name, const json_t *value, w4a16_tensor *tensor) {
    const char *text = json_string_value(value);
    if (!text) return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': dtype is missing or no string", path, name);
    tensor->dtype = w4_safetensors_dtype(text);
    if (tensor->dtype != W4A16_DTYPE_NONE) return W4A16_OK;
    for (size_t i = 0; i < OTHER_DTYPES; i++)
        if (strcmp(other_dtypes[i], text) == 0)
            return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: tensor '%s': dtype %s is not supported", path, name, text);
    return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': unknown dtype '%s'; F16, BF16, F32, I32 and so on are known",
                   path, name, w4_safe_text(text));
}

/** shape, and the bytes that shape and dtype ask for. */
static w4a16_status read_shape(const char *path, const char *name, const json_t *value, w4a16_tensor *tensor) {
    if (!json_is_array(value))
        return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': shape is missing or no array", path, name);
    size_t dimensions = json_array_size(value);
    if (dimensions > W4A16_MAX_DIMENSIONS)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: tensor '%s': %zu dimensions; at most %d are supported", path, name,
                       dimensions, W4A16_MAX_DIMENSIONS);
    tensor->dimensions = (int)dimensions;
    bool empty = false, overflow = false;
    uint64_t bytes = w4a16_dtype_size(tensor->dtype);
    for (size_t i = 0; i < dimensions; i++) {
        const json_t *extent = json_array_get(value, i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': shape[%zu] is no integer from 0 up", path, name, i);
        tensor->shape[i] = json_integer_value(extent);
        if (tensor->shape[i] == 0)
            empty = true;
        else if (!w4_multiply(bytes, (uint64_t)tensor->shape[i], &bytes))
            overflow = true;
    }
    if (overflow)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': its shape asks for more than 2^64 bytes", path, name);
    tensor->bytes = empty ? 0 : bytes;
    return W4A16_OK;
}

/** One entry of the header. `data` is the start of the data, `size` its length. */
static w4a16_status read_tensor(const char *path, const char *name, const json_t *entry, const uint8_t *data,
                                uint64_t size, w4a16_tensor *tensor) {
    if (!json_is_object(entry))
        return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': its entry in the header is no object", path, name);
    W4_TRY(read_dtype(path, name, json_object_get(entry, "dtype"), tensor));
    W4_TRY(read_shape(path, name, json_object_get(entry, "shape"), tensor));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second))
        return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': data_offsets is not two integers", path, name);
    int64_t begin = json_integer_value(first), end = json_integer_value(second);
    if (begin < 0 || end < begin || (uint64_t)end > size)
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: tensor '%s': data_offsets [%" PRId64 ", %" PRId64 "] do not lie in the file's %" PRIu64
                       " bytes of data",
                       path, name, begin, end, size);
    if ((uint64_t)(end - begin) != tensor->bytes) {
        char shape[256];
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: tensor '%s': data_offsets span %" PRId64 " bytes, but shape %s of %s needs %" PRIu64, path,
                       name, end - begin, w4_shape_text(tensor, shape, sizeof shape), w4a16_dtype_name(tensor->dtype),
                       tensor->bytes);
    }
    tensor->data = data + begin;
    return W4A16_OK;
}

static int compare_data(const void *left, const void *right) {
    const w4a16_tensor *a = left, *b = right;
    uintptr_t first = (uintptr_t)a->data, second = (uintptr_t)b->data;
    if (first != second) return first < second ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1; /* an empty tensor stands before its neighbour */
    return strcmp(a->name, b->name);
}

static int compare_names(const void *left, const void *right, void *context) {
    const w4a16_tensor *tensors = context;
    return strcmp(tensors[*(const size_t *)left].name, tensors[*(const size_t *)right].name);
}

/** The tensors must cover the data from end to end: bytes that no tensor owns could hide another file. */
static w4a16_status check_coverage(const w4a16_tensor_file *file, const uint8_t *data, uint64_t size) {
    uint64_t covered = 0;
    for (size_t i = 0; i < file->count; i++) {
        uint64_t begin = (uint64_t)((const uint8_t *)file->tensors[i].data - data);
        if (begin < covered)
            return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': its data overlaps that of '%s'", file->path,
                           file->tensors[i].name, file->tensors[i - 1].name);
        if (begin > covered)
            return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s': %" PRIu64 " bytes before its data belong to no tensor",
                           file->path, file->tensors[i].name, begin - covered);
        covered = begin + file->tensors[i].bytes;
    }
    if (covered != size)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: the last %" PRIu64 " bytes belong to no tensor", file->path,
                       size - covered);
    return W4A16_OK;
}

/** Bytes that all names, metadata keys and values take. */
static w4a16_status measure_texts(json_t *header, const char *path, uint64_t *bytes, size_t *metadata_count) {
    const char *name, *key;
    json_t *entry, *value;
    *bytes = 0;
    *metadata_count = 0;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") != 0) {
            const char *problem = w4_safetensors_name_problem(name);
            if (problem) return w4_fail(W4A16_ERROR_FORMAT, "%s: a tensor has %s", path, problem);
            *bytes += strlen(name) + 1;
            continue;
        }
        if (!json_is_object(entry)) return w4_fail(W4A16_ERROR_FORMAT, "%s: __metadata__ is no object", path);
        *metadata_count = json_object_size(entry);
        json_object_foreach(entry, key, value) {
            if (!json_is_string(value))
                return w4_fail(W4A16_ERROR_FORMAT, "%s: __metadata__: the value of '%s' is no string", path,
                               w4_safe_text(key));
            *bytes += strlen(key) + 1 + json_string_length(value) + 1;
        }
    }
    return W4A16_OK;
}

static char *store_text(char **storage, const char *text) {
    char *copy = *storage;
    size_t size = strlen(text) + 1;
    memcpy(copy, text, size);
    *storage += size;
    return copy;
}

static w4a16_status read_header(w4a16_tensor_file *file, json_t *header, const uint8_t *data, uint64_t size) {
    uint64_t bytes;
    W4_TRY(measure_texts(header, file->path, &bytes, &file->metadata_count));
    file->count = json_object_size(header) - (json_object_get(header, "__metadata__") ? 1 : 0);
    void *memory;
    W4_TRY(w4_allocate(bytes, "the tensor names", &memory));
    file->storage = memory;
    W4_TRY(w4_allocate(file->count * sizeof *file->tensors, "the tensor index", &memory));
    file->tensors = memory;
    W4_TRY(w4_allocate(file->count * sizeof *file->by_name, "the tensor index", &memory));
    file->by_name = memory;
    W4_TRY(w4_allocate(file->metadata_count * sizeof *file->metadata_keys, "the metadata", &memory));
    file->metadata_keys = memory;
    W4_TRY(w4_allocate(file->metadata_count * sizeof *file->metadata_values, "the metadata", &memory));
    file->metadata_values = memory;

    char *storage = file->storage;
    const char *name, *key;
    json_t *entry, *value;
    size_t tensors = 0, pairs = 0;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            json_object_foreach(entry, key, value) {
                file->metadata_keys[pairs] = store_text(&storage, key);
                file->metadata_values[pairs++] = store_text(&storage, json_string_value(value));
            }
            continue;
        }
        w4a16_tensor *tensor = &file->tensors[tensors++];
        tensor->name = store_text(&storage, name);
        W4_TRY(read_tensor(file->path, name, entry, data, size, tensor));
    }
    qsort(file->tensors, file->count, sizeof *file->tensors, compare_data);
    for (size_t i = 0; i < file->count; i++) file->by_name[i] = i;
    qsort_r(file->by_name, file->count, sizeof *file->by_name, compare_names, file->tensors);
    return check_coverage(file, data, size);
}

static w4a16_status parse(w4a16_tensor_file *file, const uint8_t *data, uint64_t size) {
    if (size < 8)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: %" PRIu64 " bytes long; a safetensors file has at least 8", file->path,
                       size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | data[i];
    if (length > LARGEST_HEADER)
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: no safetensors file: it gives the length of its header as %" PRIu64
                       "; the format permits %" PRIu64,
                       file->path, length, LARGEST_HEADER);
    if (length > size - 8)
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: truncated, or no safetensors file: a header of %" PRIu64 " bytes is announced, %" PRIu64
                       " follow",
                       file->path, length, size - 8);
    if (length < 2 || data[8] != '{')
        return w4_fail(W4A16_ERROR_FORMAT, "%s: no safetensors file: its header is no JSON object", file->path);
    json_error_t error;
    /* jansson bounds the nesting that it follows, so a header of brackets cannot exhaust the stack. */
    json_t *header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!header)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: bad JSON in the header, byte %d: %s", file->path, error.position,
                       w4_safe_text(error.text));
    w4a16_status status = read_header(file, header, data + 8 + length, size - 8 - length);
    json_decref(header);
    return status;
}

w4a16_status w4_tensor_file_parse(const uint8_t *data, uint64_t size, const char *name, w4a16_tensor_file **file) {
    void *memory;
    W4_TRY(w4_allocate(sizeof **file, "a tensor file", &memory));
    w4a16_tensor_file *result = memory;
    w4a16_status status = w4_copy_text(name, &result->path);
    if (!status) status = parse(result, data, size);
    if (status) {
        w4a16_tensor_file_close(result);
        return status;
    }
    *file = result;
    return W4A16_OK;
}

w4a16_status w4a16_tensor_file_open(const char *path, w4a16_tensor_file **file) {
    if (!path) return w4_fail_null("path");
    if (!file) return w4_fail_null("file");
    w4_mapping mapping;
    W4_TRY(w4_map_file(path, &mapping));
    w4a16_tensor_file *result;
    w4a16_status status = w4_tensor_file_parse(mapping.data, mapping.size, path, &result);
    if (status) {
        w4_unmap_file(&mapping);
        return status;
    }
    result->mapping = mapping;
    *file = result;
    return W4A16_OK;
}

void w4a16_tensor_file_close(w4a16_tensor_file *file) {
    if (!file) return;
    w4_unmap_file(&file->mapping);
    free(file->path);
    free(file->tensors);
    free(file->by_name);
    free(file->metadata_keys);
    free(file->metadata_values);
    free(file->storage);
    free(file);
}

size_t w4a16_tensor_file_count(const w4a16_tensor_file *file) {
    return file ? file->count : 0;
}

w4a16_status w4a16_tensor_file_get(const w4a16_tensor_file *file, size_t index, w4a16_tensor *tensor) {
    if (!file) return w4_fail_null("file");
    if (!tensor) return w4_fail_null("tensor");
    if (index >= file->count)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: index is %zu; the file has %zu tensors", file->path, index,
                       file->count);
    *tensor = file->tensors[index];
    return W4A16_OK;
}

w4a16_status w4a16_tensor_file_find(const w4a16_tensor_file *file, const char *name, w4a16_tensor *tensor) {
    if (!file) return w4_fail_null("file");
    if (!name) return w4_fail_null("name");
    if (!tensor) return w4_fail_null("tensor");
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const w4a16_tensor *candidate = &file->tensors[file->by_name[middle]];
        int order = strcmp(name, candidate->name);
        if (order == 0) {
            *tensor = *candidate;
            return W4A16_OK;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: no tensor '%s'", file->path, name);
}

const char *w4_tensor_file_metadata(const w4a16_tensor_file *file, const char *key) {
    for (size_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata_keys[i], key) == 0) return file->metadata_values[i];
    return NULL;
}
