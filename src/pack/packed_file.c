/* SPDX-License-Identifier: Apache-2.0
 * The packed file (docs/packed-file.md): a header of 256 bytes, the packed layout, the k_order. */
#include "pack/packed_file.h"

#include "core/file.h"
#include "core/memory.h"
#include "pack/fragment.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char MAGIC[8] = {'W', '4', 'A', '1', '6', 'P', 'A', 'K'};
enum { VERSION = 1, HEADER_BYTES = 256 };

/* Offsets of the header's fields, all little-endian. */
enum {
    AT_VERSION = 8,
    AT_HEADER_BYTES = 12,
    AT_N = 16,
    AT_K = 24,
    AT_GROUP_SIZE = 32,
    AT_SCALE_DTYPE = 40,
    AT_ZERO_KIND = 44,
    AT_HAS_K_ORDER = 48,
    AT_DATA_BYTES = 56,
    AT_ORDER_BYTES = 64,
    AT_CHECKSUM = 72,
    AT_RESERVED = 80
};

static void put(uint8_t *header, int at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) header[at + i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *header, int at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)header[at + i] << 8 * i;
    return value;
}

/** FNV-1a (Fowler, Noll, Vo: offset basis and prime of the 64-bit variant) over little-endian 64-bit words, the last
 * one filled up with zeros. It is there to find damage, not to prove origin. */
static uint64_t checksum(uint64_t hash, const uint8_t *data, uint64_t size) {
    const uint64_t prime = UINT64_C(1099511628211);
    for (uint64_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        uint64_t part = size - at < 8 ? size - at : 8;
        memcpy(&word, data + at, (size_t)part); /* little-endian hosts only, as everywhere in this library */
        hash = (hash ^ word) * prime;
    }
    return hash;
}

/** Of the whole file but the checksum's own field. */
static uint64_t file_checksum(const uint8_t *header, const uint8_t *data, uint64_t data_bytes, const uint8_t *order,
                              uint64_t order_bytes) {
    uint64_t hash = checksum(UINT64_C(14695981039346656037), header, AT_CHECKSUM);
    hash = checksum(hash, header + AT_RESERVED, HEADER_BYTES - AT_RESERVED);
    hash = checksum(hash, data, data_bytes);
    return checksum(hash, order, order_bytes);
}

w4a16_status w4_packed_file_save(const w4_matrix *matrix, const char *path, int overwrite) {
    w4_packed_layout layout = w4_fragment_layout(matrix);
    w4_output output;
    W4_TRY(w4_output_open(path, overwrite != 0, &output));
    void *packed = NULL;
    w4a16_status status = w4_allocate((uint64_t)layout.bytes, "the packed weight", &packed);
    if (!status) {
        w4_fragment_pack(matrix, &layout, packed);
        uint8_t header[HEADER_BYTES] = {0};
        const uint8_t *order = (const uint8_t *)matrix->k_order;
        uint64_t order_bytes = order ? (uint64_t)matrix->k * sizeof(int32_t) : 0;
        memcpy(header, MAGIC, sizeof MAGIC);
        put(header, AT_VERSION, VERSION, 4);
        put(header, AT_HEADER_BYTES, HEADER_BYTES, 4);
        put(header, AT_N, (uint64_t)matrix->n, 8);
        put(header, AT_K, (uint64_t)matrix->k, 8);
        put(header, AT_GROUP_SIZE, (uint64_t)matrix->group_size, 8);
        put(header, AT_SCALE_DTYPE, (uint64_t)matrix->scale_dtype, 4);
        put(header, AT_ZERO_KIND, (uint64_t)matrix->zero_kind, 4);
        put(header, AT_HAS_K_ORDER, order != NULL, 4);
        put(header, AT_DATA_BYTES, (uint64_t)layout.bytes, 8);
        put(header, AT_ORDER_BYTES, order_bytes, 8);
        put(header, AT_CHECKSUM, file_checksum(header, packed, (uint64_t)layout.bytes, order, order_bytes), 8);
        status = w4_output_write(&output, header, sizeof header);
        if (!status) status = w4_output_write(&output, packed, (uint64_t)layout.bytes);
        if (!status) status = w4_output_write(&output, order, order_bytes);
    }
    free(packed);
    if (!status) return w4_output_commit(&output);
    w4_output_abandon(&output);
    return status;
}

w4a16_status w4_packed_view_open(const uint8_t *data, uint64_t size, const char *name, w4_packed_view *view) {
    if (size < HEADER_BYTES)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: is %" PRIu64 " bytes; a packed file has at least %d", name, size,
                       HEADER_BYTES);
    if (memcmp(data, MAGIC, sizeof MAGIC) != 0)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: does not start with \"W4A16PAK\": no packed file", name);
    uint64_t version = get(data, AT_VERSION, 4), header_bytes = get(data, AT_HEADER_BYTES, 4);
    if (version != VERSION)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: packed file version %" PRIu64 "; this library reads version %d",
                       name, version, VERSION);
    if (header_bytes != HEADER_BYTES)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: its header says it has %" PRIu64 " bytes; version %d has %d", name,
                       header_bytes, VERSION, HEADER_BYTES);
    int64_t n = (int64_t)get(data, AT_N, 8), k = (int64_t)get(data, AT_K, 8);
    int64_t group_size = (int64_t)get(data, AT_GROUP_SIZE, 8);
    uint64_t scale_dtype = get(data, AT_SCALE_DTYPE, 4), zero_kind = get(data, AT_ZERO_KIND, 4);
    uint64_t has_order = get(data, AT_HAS_K_ORDER, 4);
    uint64_t data_bytes = get(data, AT_DATA_BYTES, 8), order_bytes = get(data, AT_ORDER_BYTES, 8);
    /* Each bounded by the file before anything is allocated for it. */
    if (n < 1 || k < 1 || n > INT32_MAX || k > INT32_MAX || group_size < 1 || group_size > k ||
        (group_size != k && group_size % 32 != 0) || scale_dtype > W4A16_FP32 ||
        !w4a16_dtype_size((w4a16_dtype)scale_dtype) || zero_kind > W4A16_ZERO_FLOAT || has_order > 1)
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: its header describes no weight (n %" PRId64 ", k %" PRId64 ", group size %" PRId64
                       ", scale dtype %" PRIu64 ", zero kind %" PRIu64 ", k_order %" PRIu64 ")",
                       name, n, k, group_size, scale_dtype, zero_kind, has_order);
    w4_packed_layout layout =
        w4_packed_layout_make(n, k, group_size, (int64_t)w4a16_dtype_size((w4a16_dtype)scale_dtype),
                              (int64_t)w4_zero_size((w4a16_zero_kind)zero_kind));
    uint64_t order_expected = has_order ? (uint64_t)k * sizeof(int32_t) : 0;
    uint64_t expected = HEADER_BYTES + (uint64_t)layout.bytes + order_expected;
    if (data_bytes != (uint64_t)layout.bytes || order_bytes != order_expected || size != expected)
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: %" PRIu64 " bytes, of which its header gives %" PRIu64 " to the weight and %" PRIu64
                       " to k_order; this shape takes %" PRIu64 ", %" PRId64 " and %" PRIu64,
                       name, size, data_bytes, order_bytes, expected, layout.bytes, order_expected);
    const uint8_t *packed = data + HEADER_BYTES, *order = packed + layout.bytes;
    uint64_t stored = get(data, AT_CHECKSUM, 8), computed = file_checksum(data, packed, data_bytes, order, order_bytes);
    if (stored != computed)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: damaged: its checksum is %016" PRIx64 ", its content gives %016" PRIx64,
                       name, stored, computed);
    w4_packed_view result = {.name = name, .layout = layout, .packed = packed, .order = has_order ? order : NULL};
    w4a16_status status =
        w4_matrix_describe(n, k, group_size, (w4a16_dtype)scale_dtype, (w4a16_zero_kind)zero_kind, &result.shape);
    if (status) return w4_fail_context(status, "%s: ", name);
    *view = result;
    return W4A16_OK;
}

w4a16_status w4_packed_view_unpack(const w4_packed_view *view, bool has_codes, w4_matrix *matrix) {
    w4_matrix result = view->shape;
    w4a16_status status = w4_matrix_allocate(&result, has_codes, view->order != NULL);
    if (status) return w4_fail_context(status, "%s: ", view->name);
    w4_fragment_unpack(view->packed, &view->layout, &result);
    if (view->order) memcpy(result.k_order, view->order, (size_t)result.k * sizeof(int32_t));
    if (w4_matrix_validate(&result)) {
        w4_matrix_free(&result);
        return w4_fail_context(W4A16_ERROR_FORMAT, "%s: ", view->name);
    }
    *matrix = result;
    return W4A16_OK;
}
