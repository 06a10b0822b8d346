/* SPDX-License-Identifier: Apache-2.0
 * One vtable per kind of device. The plan, the profiler and the API see devices only through it. */
#ifndef W4_BACKEND_H
#define W4_BACKEND_H

#include "core/matrix.h"
#include "core/status.h"

#include <stdbool.h>

typedef struct w4_device w4_device;               /* an open device: each backend defines its own */
typedef struct w4_device_weight w4_device_weight; /* a weight in the device's own packed layout */

/** What a plan fixes, resolved and checked: group_size > 0, dtypes set. m is the largest M served. */
typedef struct w4_problem {
    int64_t m, n, k, group_size;
    w4a16_dtype a_dtype, c_dtype, scale_dtype;
    w4a16_zero_kind zero_kind;
    uint32_t flags;
    bool uneven_scales; /* of the weight, as w4_matrix_scales_uneven says; false where there is no weight yet */
} w4_problem;

typedef struct w4_config {
    const char *name;
    int32_t tile_m, tile_n, tile_k;
} w4_config;

/** One multiplication, its arguments checked by the caller. */
typedef struct w4_run {
    const w4_device_weight *weight;
    size_t config;
    w4_problem problem; /* as planned: the workspace was sized for it */
    const void *a;
    int64_t lda;
    void *c;
    int64_t ldc;
    int64_t m;
    float alpha;
    const void *bias; /* NULL or [n] */
    w4a16_dtype bias_dtype;
    void *workspace; /* aligned and large enough */
    void *stream;
} w4_run;

/** What measured times depend on besides the problem: they are worth nothing where one of these differs. */
typedef struct w4_identity {
    char device[128];     /* the processor's or GPU's own name */
    char code[16];        /* which kernels it runs: "sm_90a", "compute_80", "avx512" */
    int32_t processors;   /* SMs; threads of a CPU */
    int32_t memory_mhz;   /* the memory's clock, to 100 MHz; 0 where nobody says */
    char fingerprint[17]; /* of the kernels and configs that this library holds */
} w4_identity;

/** A measured time that is shipped with the library: the fastest config of a problem at m. */
typedef struct w4_shipped_row {
    int64_t n, k, group_size;       /* -1: one group per row */
    w4a16_dtype dtype, scale_dtype; /* of activations and output; of scales */
    w4a16_zero_kind zero_kind;
    int64_t m;
    const char *config;
    double microseconds;
} w4_shipped_row;

typedef struct w4_shipped_table {
    const char *name; /* of the GPU that it was measured on */
    const w4_shipped_row *rows;
    size_t count;
} w4_shipped_table;

typedef struct w4_backend {
    const char *name;

    /** Number of devices of this kind, usable or not; never fails. */
    int (*device_count)(void);
    /** id, name, architecture, usable, reason; `automatic` is the caller's. */
    void (*device_query)(int index, w4a16_device_info *info);
    w4a16_status (*device_open)(int index, const w4a16_context_options *options, w4_device **device);
    void (*device_close)(w4_device *device);

    /** Pack and upload; the matrix was validated. */
    w4a16_status (*weight_upload)(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight);
    /** Upload what w4_fragment_pack would make of the matrix, whose codes may be NULL: nothing is left to pack. NULL
     * here: this kind of device has a layout of its own. */
    w4a16_status (*weight_upload_packed)(w4_device *device, const w4_matrix *matrix, const uint8_t *packed,
                                         w4_device_weight **weight);
    /** Fill the arrays of a matrix made by w4_matrix_create with this weight's shape. */
    w4a16_status (*weight_download)(const w4_device_weight *weight, w4_matrix *matrix);
    void (*weight_free)(w4_device_weight *weight);
    size_t (*weight_bytes)(const w4_device_weight *weight);
    /** The zero points that problems with this weight have: a device may keep whole ones, or the 8 of a
     * symmetric weight, as floats. NULL: the weight's own. */
    w4a16_zero_kind (*weight_zero_kind)(const w4_device_weight *weight);

    size_t (*config_count)(const w4_device *device);
    void (*config_get)(const w4_device *device, size_t index, w4_config *config);
    /** W4A16_OK, or W4A16_ERROR_UNSUPPORTED with the reason in `reason`. */
    w4a16_status (*config_check)(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                 size_t reason_size);
    /** The cost model: predicted seconds of a feasible config. */
    double (*config_cost)(const w4_device *device, size_t index, const w4_problem *problem);
    /** Whether no cost was fitted to this config on such devices: config_cost is then a rough estimate by what other
     * configs take. It is chosen only where no other config can run, but tuning tries it. NULL here: none is so. */
    bool (*config_rough)(const w4_device *device, size_t index);
    size_t (*workspace_size)(const w4_device *device, size_t index, const w4_problem *problem);
    /** The most CPU threads that a call of this config takes. NULL here: it takes none but the caller's. */
    int (*config_threads)(const w4_device *device, size_t index);
    void (*identify)(const w4_device *device, w4_identity *identity);
    /** Times that are shipped for this device, or NULL. NULL here: none for any device of this kind. */
    const w4_shipped_table *(*table)(const w4_device *device);

    /** Load what `run` needs for a config that a plan has chosen, so that `run` itself need not allocate. NULL: there
     * is nothing to load. */
    w4a16_status (*prepare)(const w4_device *device, size_t index, const w4_problem *problem);
    /** Whether `prepare` takes so little that it is worth calling for what a weight's plans may choose. Not where a
     * driver compiles. NULL: as where there is no `prepare`. */
    bool (*prepares_ahead)(const w4_device *device);
    w4a16_status (*run)(const w4_device *device, const w4_run *run);
    /** The same on host arrays: run->a, c, bias are host pointers as w4_run states, workspace is NULL. NULL here:
     * host memory is device memory, so that the caller allocates a workspace and calls `run`. */
    w4a16_status (*run_host)(const w4_device *device, const w4_run *run);

    /** Time a run over copies of its weight, in turn, for at least min_seconds by the device's own clock: the median
     * seconds of one run. Arrays as in run_host. NULL here: `run` has finished when it returns, so that the caller can
     * time it by the host's clock. */
    w4a16_status (*time_cold)(const w4_device *device, const w4_run *run, w4_device_weight *const *copies,
                              size_t copy_count, double min_seconds, double *seconds, int *runs);
    /** Weights of this many bytes in all, read in turn, come from memory and not from a cache. */
    double (*cold_bytes)(const w4_device *device);
    w4a16_status (*measure_ceilings)(const w4_device *device, w4a16_ceilings *ceilings);
} w4_backend;

enum { W4_WORKSPACE_ALIGNMENT = 256 };

extern const w4_backend w4_cpu_backend;
extern const w4_backend w4_cuda_backend; /* only in builds with W4A16_CUDA */

/** The backends of this build, in the order in which "auto" tries them; ends with NULL. */
extern const w4_backend *const w4_backends[];

#endif
