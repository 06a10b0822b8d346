/* SPDX-License-Identifier: Apache-2.0
 * What the files of the CUDA backend share. */
#ifndef W4_CUDA_DEVICE_H
#define W4_CUDA_DEVICE_H

#include "backend/backend.h"
#include "backend/cuda/driver.h"
#include "params.h"

#include <pthread.h>
#include <stdatomic.h>

/** A line of kernels/sm90/kernels.def. */
typedef struct w4_cuda_config {
    w4_config public;
    int32_t stages;
} w4_cuda_config;

extern const w4_cuda_config w4_cuda_configs[];
extern const size_t w4_cuda_config_count;

/** What the build embeds: a cubin per config, named as the config, and those of kernels/common_gpu. Ends with a NULL
 * name. */
typedef struct w4_cuda_cubin {
    const char *name;
    const void *data;
} w4_cuda_cubin;

extern const w4_cuda_cubin w4_cuda_cubins[];

/** A kernel of a device, loaded when it is first asked for; read without the lock once it is there. */
typedef struct w4_cuda_kernel {
    _Atomic(CUfunction) function;
    CUmodule module;
} w4_cuda_kernel;

/** The kernels of one open device. */
typedef struct w4_cuda_kernels {
    pthread_mutex_t lock;
    w4_cuda_kernel gather, pack, read, multiply;
    w4_cuda_kernel (*gemm)[2]; /* [config][0: fp16, 1: bf16] */
} w4_cuda_kernels;

struct w4_device {
    CUdevice handle;
    CUcontext context; /* the device's primary one, which it shares with PyTorch and the runtime API */
    CUstream stream;   /* for uploads and downloads */
    int32_t processors;
    int32_t shared_limit; /* of dynamic shared memory a block may ask for */
    w4_cuda_kernels *kernels;
};

struct w4_device_weight {
    const w4_device *device;
    int64_t n, k, group_size;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    w4_packed_layout layout;
    CUdeviceptr packed;
    CUdeviceptr k_order; /* 0: none */
};

/** Make the device's context the thread's current one, and give back the one before. Every entry of the backend that
 * calls the driver does so between these. */
w4a16_status w4_cuda_enter(const w4_device *device);
void w4_cuda_leave(void);

int w4_cuda_device_count(void);
void w4_cuda_device_query(int index, w4a16_device_info *info);
w4a16_status w4_cuda_device_open(int index, const w4a16_context_options *options, w4_device **device);
void w4_cuda_device_close(w4_device *device);

w4a16_status w4_cuda_kernels_create(w4_cuda_kernels **kernels);
/** Unloads; the context must be current. */
void w4_cuda_kernels_destroy(w4_cuda_kernels *kernels);
/** Entry points; the context must be current. Only the first call for a kernel loads (and allocates). */
w4a16_status w4_cuda_gemm_kernel(const w4_device *device, size_t config, w4a16_dtype a_dtype, CUfunction *function);
w4a16_status w4_cuda_gather_kernel(const w4_device *device, CUfunction *function);
w4a16_status w4_cuda_pack_kernel(const w4_device *device, CUfunction *function);
w4a16_status w4_cuda_ceiling_kernels(const w4_device *device, CUfunction *read, CUfunction *multiply);

w4a16_status w4_cuda_weight_upload(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight);
w4a16_status w4_cuda_weight_upload_packed(w4_device *device, const w4_matrix *matrix, const uint8_t *packed,
                                          w4_device_weight **weight);
w4a16_status w4_cuda_weight_download(const w4_device_weight *weight, w4_matrix *matrix);
void w4_cuda_weight_free(w4_device_weight *weight);
size_t w4_cuda_weight_bytes(const w4_device_weight *weight);

w4a16_status w4_cuda_config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                  size_t reason_size);
double w4_cuda_config_cost(const w4_device *device, size_t index, const w4_problem *problem);
/** Dynamic shared memory of a block. */
int32_t w4_cuda_shared_bytes(size_t config);
size_t w4_cuda_workspace_size(const w4_device *device, size_t index, const w4_problem *problem);

w4a16_status w4_cuda_prepare(const w4_device *device, size_t index, const w4_problem *problem);
w4a16_status w4_cuda_run(const w4_device *device, const w4_run *run);
w4a16_status w4_cuda_run_host(const w4_device *device, const w4_run *run);
w4a16_status w4_cuda_time_cold(const w4_device *device, const w4_run *run, w4_device_weight *const *copies,
                               size_t copy_count, double min_seconds, double *seconds, int *runs);
w4a16_status w4_cuda_measure_ceilings(const w4_device *device, w4a16_ceilings *ceilings);

/** Device memory; the text names `what`. The context must be current. Freeing 0 is harmless. */
w4a16_status w4_cuda_allocate(uint64_t bytes, const char *what, CUdeviceptr *memory);
void w4_cuda_free(CUdeviceptr memory);

#endif
