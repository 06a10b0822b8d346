/* SPDX-License-Identifier: Apache-2.0
 * Weights in the GPU's memory, packed on the host with the layout that the kernels read. */
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

/** Allocate on the device and fill from the host, context current. */
static w4a16_status upload(w4_device_weight *weight, const uint8_t *packed, const int32_t *k_order) {
    size_t bytes = (size_t)weight->layout.bytes, order_bytes = (size_t)weight->k * sizeof *k_order;
    W4_TRY(w4_cuda_allocate(bytes, "a packed weight", &weight->packed));
    W4_TRY(copy_in(weight->device, weight->packed, packed, bytes));
    if (!k_order) return W4A16_OK;
    W4_TRY(w4_cuda_allocate(order_bytes, "a k_order", &weight->k_order));
    return copy_in(weight->device, weight->k_order, k_order, order_bytes);
}

w4a16_status w4_cuda_weight_upload(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight) {
    void *description = NULL, *packed = NULL;
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
    w4a16_status status = w4_allocate((uint64_t)made->layout.bytes, "a packed weight", &packed);
    if (!status) {
        w4_fragment_pack(matrix, &made->layout, packed);
        status = w4_cuda_enter(device);
        if (!status) {
            status = upload(made, packed, matrix->k_order);
            w4_cuda_leave();
        }
    }
    free(packed);
    if (status) {
        w4_cuda_weight_free(made);
        return status;
    }
    *weight = made;
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
    if (!status) w4_fragment_unpack(packed, &weight->layout, matrix);
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

size_t w4_cuda_weight_bytes(const w4_device_weight *weight) {
    return (size_t)weight->layout.bytes + (weight->k_order ? (size_t)weight->k * sizeof(int32_t) : 0);
}
