/* SPDX-License-Identifier: Apache-2.0
 * Weights in the GPU's memory, in the layout that the kernels read. The GPU packs them. */
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "pack/fragment.h"

#include <stdlib.h>
#include <string.h>

/* Copies go through the device's own stream and are waited for: a plain copy out of pageable memory may return before
 * the data has arrived, and the caller's streams would not wait for it. */

static w4a16_status copy_in(const w4_device *device, CUdeviceptr target, const void *source, size_t bytes) {
    W4_TRY(w4_cuda_call(cuMemcpyHtoDAsync, target, source, bytes, device->stream));
    return w4_cuda_call(cuStreamSynchronize, device->stream);
}

static w4a16_status copy_out(const w4_device *device, void *target, CUdeviceptr source, size_t bytes) {
    W4_TRY(w4_cuda_call(cuMemcpyDtoHAsync, target, source, bytes, device->stream));
    return w4_cuda_call(cuStreamSynchronize, device->stream);
}

/** Canonical bytes on the device at a time while it packs: enough that a launch costs nothing beside its copies. */
enum { SLICE_BYTES = 16 << 20, PACK_THREADS = 256 };

/** Bytes of a row in the canonical arrays. */
typedef struct row_bytes {
    size_t codes, scales, zeros;
} row_bytes;

/** Copy rows into `memory` and launch the kernel that packs them to `packed`. Whole strips, or the last rows: such a
 * slice is a matrix of its own, for strips do not depend on how many there are. */
static w4a16_status pack_slice(const w4_device *device, CUfunction function, const w4_matrix *matrix, row_bytes row,
                               int64_t first_row, int64_t rows, CUdeviceptr memory, CUdeviceptr packed) {
    w4_matrix slice = *matrix;
    slice.n = rows;
    size_t first = (size_t)first_row, count = (size_t)rows;
    CUdeviceptr codes = memory, scales = codes + count * row.codes, zeros = scales + count * row.scales;
    W4_TRY(
        w4_cuda_call(cuMemcpyHtoDAsync, codes, matrix->codes + first * row.codes, count * row.codes, device->stream));
    W4_TRY(w4_cuda_call(cuMemcpyHtoDAsync, scales, (const char *)matrix->scales + first * row.scales,
                        count * row.scales, device->stream));
    if (row.zeros)
        W4_TRY(w4_cuda_call(cuMemcpyHtoDAsync, zeros, (const char *)matrix->zeros + first * row.zeros,
                            count * row.zeros, device->stream));
    w4_pack_params params = w4_fragment_pack_params(&slice);
    params.packed = (uint32_t *)(uintptr_t)packed;
    params.codes = (const uint8_t *)(uintptr_t)codes;
    params.scales = (const uint8_t *)(uintptr_t)scales;
    params.zeros = (const uint8_t *)(uintptr_t)zeros;
    void *arguments[] = {&params};
    return w4_cuda_call(cuLaunchKernel, function, (unsigned)(params.layout.strips * params.layout.chunks), 1, 1,
                        PACK_THREADS, 1, 1, 0, device->stream, arguments, NULL);
}

/** Bring the canonical arrays to the device, a slice of whole strips at a time through the same memory, and pack there:
 * copies and launches follow one another on the device's stream. OUT_OF_MEMORY where that memory cannot be had. */
static w4a16_status pack_on_device(const w4_device *device, const w4_matrix *matrix, const w4_device_weight *weight) {
    const w4_packed_layout *layout = &weight->layout;
    row_bytes row = {
        .codes = (size_t)w4_matrix_row_bytes(matrix),
        .scales = (size_t)(matrix->groups * layout->scale_size),
        .zeros = (size_t)(matrix->groups * layout->zero_size),
    };
    size_t bytes = row.codes + row.scales + row.zeros;
    int64_t strips = w4_maximum(1, SLICE_BYTES / ((int64_t)bytes * W4_BLOCK_ROWS));
    int64_t rows = w4_minimum(matrix->n, strips * W4_BLOCK_ROWS);
    CUfunction function;
    CUdeviceptr memory = 0;
    W4_TRY(w4_cuda_pack_kernel(device, &function));
    W4_TRY(w4_cuda_allocate((uint64_t)rows * bytes, "the canonical form of a weight", &memory));
    w4a16_status status = W4A16_OK;
    for (int64_t first = 0; !status && first < matrix->n; first += rows)
        status = pack_slice(device, function, matrix, row, first, w4_minimum(rows, matrix->n - first), memory,
                            weight->packed + (uint64_t)(first / W4_BLOCK_ROWS * layout->strip_stride));
    if (!status) status = w4_cuda_call(cuStreamSynchronize, device->stream);
    w4_cuda_free(memory);
    return status;
}

static w4a16_status pack_on_host(const w4_device *device, const w4_matrix *matrix, const w4_device_weight *weight) {
    void *packed;
    W4_TRY(w4_allocate((uint64_t)weight->layout.bytes, "a packed weight", &packed));
    w4_fragment_pack(matrix, &weight->layout, packed);
    w4a16_status status = copy_in(device, weight->packed, packed, (size_t)weight->layout.bytes);
    free(packed);
    return status;
}

/** Of n rows, padding, and the rows of a tile beyond. */
static size_t units_count(int64_t n) {
    return (size_t)w4_round_up(n, W4_BLOCK_ROWS) + W4_PADDING_UNITS;
}

/** Allocate on the device and fill, context current. `packed`: what packing would give, or NULL; `units`: the matrix's,
 * units_count of them, or NULL. */
static w4a16_status upload(w4_device_weight *weight, const w4_matrix *matrix, const uint8_t *packed,
                           const float *units) {
    CUfunction gather; /* any plan may need it: loaded with the weight, it does not lengthen a plan's creation */
    W4_TRY(w4_cuda_gather_kernel(weight->device, &gather));
    size_t bytes = (size_t)weight->layout.bytes, order_bytes = (size_t)weight->k * sizeof *matrix->k_order;
    static const uint8_t padding[W4_PACKED_PADDING];
    size_t units_bytes = units ? units_count(weight->n) * sizeof *units : 0;
    W4_TRY(w4_cuda_allocate(bytes + sizeof padding + units_bytes, "a packed weight", &weight->packed));
    W4_TRY(copy_in(weight->device, weight->packed + bytes, padding, sizeof padding));
    if (units) {
        weight->units = weight->packed + bytes + sizeof padding;
        W4_TRY(copy_in(weight->device, weight->units, units, units_bytes));
    }
    if (matrix->k_order) {
        W4_TRY(w4_cuda_allocate(order_bytes, "a k_order", &weight->k_order));
        W4_TRY(copy_in(weight->device, weight->k_order, matrix->k_order, order_bytes));
    }
    if (packed) return copy_in(weight->device, weight->packed, packed, bytes);
    w4a16_status status = pack_on_device(weight->device, matrix, weight);
    /* The last weight of a model may just fit into the GPU's memory, without room for anything beside it. */
    return status == W4A16_ERROR_OUT_OF_MEMORY ? pack_on_host(weight->device, matrix, weight) : status;
}

/** A copy of a matrix with float zero points of the same values: of its arrays, or of `packed`, if that is not NULL. */
static w4a16_status with_float_zeros(const w4_matrix *matrix, const uint8_t *packed, w4_matrix *copy) {
    w4_matrix result;
    W4_TRY(w4_matrix_create(matrix->n, matrix->k, matrix->group_size, matrix->scale_dtype, W4A16_ZERO_FLOAT,
                            matrix->k_order != NULL, &result));
    if (packed) {
        w4_matrix codes = result;
        codes.zeros = NULL;
        w4_packed_layout layout = w4_fragment_layout(matrix);
        w4_fragment_unpack(packed, &layout, &codes);
    } else {
        memcpy(result.codes, matrix->codes, (size_t)(result.n * w4_matrix_row_bytes(&result)));
        memcpy(result.scales, matrix->scales,
               (size_t)(result.n * result.groups) * w4a16_dtype_size(result.scale_dtype));
    }
    for (int64_t row = 0; row < result.n; row++)
        for (int64_t group = 0; group < result.groups; group++)
            ((float *)result.zeros)[row * result.groups + group] = (float)w4_matrix_zero(matrix, row, group);
    if (matrix->k_order) memcpy(result.k_order, matrix->k_order, (size_t)result.k * sizeof *result.k_order);
    *copy = result;
    return W4A16_OK;
}

static w4a16_status make(w4_device *device, const w4_matrix *matrix, const uint8_t *packed, const float *units,
                         w4_device_weight **weight) {
    void *description = NULL;
    W4_TRY(w4_allocate(sizeof(w4_device_weight), "a weight's description", &description));
    w4_device_weight *made = description;
    *made = (w4_device_weight){
        .device = device,
        .n = matrix->n,
        .k = matrix->k,
        .group_size = matrix->group_size,
        .scale_dtype = matrix->scale_dtype,
        .zero_kind = matrix->zero_kind,
        .layout = w4_fragment_layout(matrix),
    };
    w4a16_status status = w4_cuda_enter(device);
    if (!status) {
        status = upload(made, matrix, packed, units);
        w4_cuda_leave();
    }
    if (status) {
        w4_cuda_weight_free(made);
        return status;
    }
    *weight = made;
    return W4A16_OK;
}

w4a16_status w4_cuda_weight_upload_packed(w4_device *device, const w4_matrix *matrix, const uint8_t *packed,
                                          w4_device_weight **weight) {
    if (matrix->zero_kind == W4A16_ZERO_FLOAT) return make(device, matrix, packed, NULL, weight);
    void *memory;
    size_t count = units_count(matrix->n);
    W4_TRY(w4_allocate(count * sizeof(float), "the units of a weight's rows", &memory));
    float *units = memory;
    for (size_t row = (size_t)matrix->n; row < count; row++) units[row] = 1;
    w4a16_status status;
    if (w4_matrix_scale_units(matrix, units) || w4_matrix_scales_uneven(matrix)) { /* those few configs take */
        status = make(device, matrix, packed, units, weight);
    } else {
        /* Kernels that count in units would lose bits; those for float zero points scale sums. */
        w4_matrix copy;
        status = with_float_zeros(matrix, packed, &copy);
        if (!status) {
            status = make(device, &copy, NULL, NULL, weight);
            w4_matrix_free(&copy);
        }
    }
    free(memory);
    return status;
}

w4a16_status w4_cuda_weight_upload(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight) {
    return w4_cuda_weight_upload_packed(device, matrix, NULL, weight);
}

/** Fill a matrix from packed bytes, whose zero points may be floats where its own are not. */
static w4a16_status unpack(const w4_device_weight *weight, const uint8_t *packed, w4_matrix *matrix) {
    if (!matrix->zeros || weight->zero_kind == matrix->zero_kind) {
        w4_fragment_unpack(packed, &weight->layout, matrix);
        return W4A16_OK;
    }
    w4_matrix stored = *matrix;
    size_t entries = (size_t)(matrix->n * matrix->groups);
    W4_TRY(w4_allocate(entries * sizeof(float), "a weight's zero points", &stored.zeros));
    w4_fragment_unpack(packed, &weight->layout, &stored);
    for (size_t i = 0; i < entries; i++) ((uint8_t *)matrix->zeros)[i] = (uint8_t)((const float *)stored.zeros)[i];
    free(stored.zeros);
    return W4A16_OK;
}

w4a16_status w4_cuda_weight_download(const w4_device_weight *weight, w4_matrix *matrix) {
    void *packed;
    W4_TRY(w4_allocate((uint64_t)weight->layout.bytes, "a packed weight", &packed));
    w4a16_status status = w4_cuda_enter(weight->device);
    if (!status) {
        status = copy_out(weight->device, packed, weight->packed, (size_t)weight->layout.bytes);
        if (!status && weight->k_order && matrix->k_order)
            status = copy_out(weight->device, matrix->k_order, weight->k_order, (size_t)weight->k * sizeof(int32_t));
        w4_cuda_leave();
    }
    if (!status) status = unpack(weight, packed, matrix);
    free(packed);
    return status;
}

void w4_cuda_weight_free(w4_device_weight *weight) {
    if (!weight) return;
    if (w4_cuda_driver_get()->cuCtxPushCurrent(weight->device->context) == CUDA_SUCCESS) {
        w4_cuda_free(weight->packed);
        w4_cuda_free(weight->k_order);
        w4_cuda_leave();
    }
    free(weight);
}

w4a16_zero_kind w4_cuda_weight_zero_kind(const w4_device_weight *weight) {
    return weight->zero_kind;
}

size_t w4_cuda_weight_bytes(const w4_device_weight *weight) {
    return (size_t)weight->layout.bytes + (weight->units ? units_count(weight->n) * sizeof(float) : 0) +
           (weight->k_order ? (size_t)weight->k * sizeof(int32_t) : 0);
}
