/* SPDX-License-Identifier: Apache-2.0
 * What the files of the CUDA backend share. */
#ifndef W4_CUDA_DEVICE_H
#define W4_CUDA_DEVICE_H

#include "backend/backend.h"
#include "backend/cuda/architecture.h"
#include "backend/cuda/driver.h"
#include "params.h"
#include "schedule.h"

#include <pthread.h>
#include <stdatomic.h>

/** A config: a kernel of kernels/sm90/kernels.def or kernels/sm80/kernels.def, and how its tiles are shared out. */
typedef struct w4_cuda_config {
    w4_config public;
    const char *kernel; /* name of the cubin */
    int32_t warps;      /* that multiply */
    int32_t parts; /* of an sm80 GEMM's warps, that share out a stage's columns, or of an sm90 one's warpgroups, that
                      take stages in turns; else 0 or 1 */
    int32_t row_warps; /* of a decode kernel: warps side by side along n; the others share out k with them */
    int32_t cluster, pingpong, resident;
    bool float_zeros; /* takes floating zero points */
    bool any_group;   /* takes groups of any multiple of 32, and any scales */
    bool group_64;    /* has a kernel of its own for W4_CUDA_GROUP_64 */
    bool sm80;        /* kernels/sm80: all warps load and multiply */
    bool decode;      /* kernels/sm80/decode.cu, with `stages` in each warp's ring; the others have what fits */
    bool stream_k;
    int32_t split; /* CTAs of a cluster that share out each tile's stages; 0: whole tiles, or stream-K */
    int32_t stages;
    size_t slot; /* of the kernel in w4_cuda_kernels */
} w4_cuda_config;

extern const w4_cuda_config w4_cuda_configs[];
extern const size_t w4_cuda_config_count;

/* Kernels of a config: (a_dtype is bf16) + 2 * zero_kind; and one for groups of 64, fp16 activations and scales, and no
 * zero points. */
enum { W4_CUDA_GROUP_64 = 6, W4_CUDA_VARIANTS };

/** What the build embeds: code of each config's kernel, named as the config, and of those of kernels/common_gpu; for
 * each architecture that has code of its own. Ends with a NULL name. */
typedef struct w4_cuda_image {
    const char *name;
    const char *code; /* "sm_90a", or as w4_cuda_architecture has it */
    /* Of each variant, which loads faster than one image of all would; of PTX the same for all; NULL where the kernel
     * does not have it. Of kernels/common_gpu: the first one has all. */
    const void *data[W4_CUDA_VARIANTS];
} w4_cuda_image;

extern const w4_cuda_image w4_cuda_images[];

/** A kernel of a device, loaded when it is first asked for; read without the lock once it is there. */
typedef struct w4_cuda_kernel {
    _Atomic(CUfunction) function;
    CUmodule module;
} w4_cuda_kernel;

/** The kernels of one open device. */
typedef struct w4_cuda_kernels {
    pthread_mutex_t lock;
    w4_cuda_kernel gather, pack, read, multiply;
    w4_cuda_kernel (*gemm)[W4_CUDA_VARIANTS]; /* [kernel][variant] */
} w4_cuda_kernels;

struct w4_device {
    CUdevice handle;
    CUcontext context; /* the device's primary one, which it shares with PyTorch and the runtime API */
    CUstream stream;   /* for uploads and downloads */
    w4_cuda_architecture runs;
    int32_t processors;
    int32_t shared_limit; /* of dynamic shared memory a block may ask for */
    int32_t shared_of_sm, threads_of_sm;
    double clock, memory_rate; /* of an SM, in Hz; of the memory, in bytes a second; as the driver states them */
    int32_t memory_mhz;        /* to 100 MHz; 0: not stated */
    char name[128];
    w4_cuda_kernels *kernels;
};

struct w4_device_weight {
    const w4_device *device;
    int64_t n, k, group_size;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind; /* float where the scales lie too far apart for units */
    w4_packed_layout layout;
    CUdeviceptr packed;
    CUdeviceptr units;   /* w4_matrix_scale_units, in the same memory as `packed`; 0: none */
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
w4a16_status w4_cuda_gemm_kernel(const w4_device *device, size_t config, const w4_problem *problem,
                                 CUfunction *function);
w4a16_status w4_cuda_gather_kernel(const w4_device *device, CUfunction *function);
w4a16_status w4_cuda_pack_kernel(const w4_device *device, CUfunction *function);
w4a16_status w4_cuda_ceiling_kernels(const w4_device *device, CUfunction *read, CUfunction *multiply);

w4a16_status w4_cuda_weight_upload(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight);
w4a16_status w4_cuda_weight_upload_packed(w4_device *device, const w4_matrix *matrix, const uint8_t *packed,
                                          w4_device_weight **weight);
w4a16_status w4_cuda_weight_download(const w4_device_weight *weight, w4_matrix *matrix);
void w4_cuda_weight_free(w4_device_weight *weight);
size_t w4_cuda_weight_bytes(const w4_device_weight *weight);
w4a16_zero_kind w4_cuda_weight_zero_kind(const w4_device_weight *weight);

w4a16_status w4_cuda_config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                  size_t reason_size);
double w4_cuda_config_cost(const w4_device *device, size_t index, const w4_problem *problem);
bool w4_cuda_config_rough(const w4_device *device, size_t index);
/** What a launch needs to know besides the pointers. */
typedef struct w4_cuda_shape {
    w4_schedule schedule;
    int32_t ring, slot_bytes, lines; /* as in the kernels' parameters */
    int32_t stage_bytes;             /* of sm80 kernels */
    int32_t resident;                /* blocks on an SM */
    int32_t shared_bytes;            /* dynamic shared memory of a block */
    uint32_t grid, threads;
    size_t partial_bytes, flag_bytes; /* of the workspace, for any M up to the problem's */
} w4_cuda_shape;

/** How a problem's weight is packed. */
w4_packed_layout w4_cuda_layout(const w4_problem *problem);
/** How many workers of a config run at the same time. */
int32_t w4_cuda_worker_slots(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape);
/** For `m` tokens, and a workspace that serves problem->m of them. */
w4_cuda_shape w4_cuda_shape_make(const w4_device *device, size_t config, const w4_problem *problem, int64_t m);
size_t w4_cuda_workspace_size(const w4_device *device, size_t index, const w4_problem *problem);

/** The table that is shipped for GPUs like this one, or NULL. */
const w4_shipped_table *w4_cuda_table(const w4_device *device);
/** The cost model's constants of a config for GPUs like this one; where these were not measured, or not with this
 * config, another's; NULL where none was. */
const struct w4_cuda_cost *w4_cuda_cost_of(const w4_device *device, size_t index);
/** Bytes a second that reading cold memory reached on GPUs like this one; 0: none was measured. */
double w4_cuda_measured_rate(const w4_device *device);

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
