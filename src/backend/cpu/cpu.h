/* SPDX-License-Identifier: Apache-2.0
 * What the files of the CPU backend share: the device, the packed weight, the contract of the kernels.
 * docs/cpu-kernels.md explains the arithmetic and the layout. */
#ifndef W4_BACKEND_CPU_H
#define W4_BACKEND_CPU_H

#include "backend/backend.h"

#include <stdbool.h>

enum {
    W4_CPU_PANEL = 16,       /* rows of W (out features) in a panel */
    W4_CPU_LINE_K = 8,       /* columns of W in one 64-byte line of a panel */
    W4_CPU_LINE = 64,        /* bytes */
    W4_CPU_BLOCK = 128,      /* most columns of A that share one power-of-two scale */
    W4_CPU_OUTLIERS = 4,     /* most activations of a block that are multiplied apart from it */
    W4_CPU_MAX_TILE_M = 12,  /* most rows of A in one kernel call */
    W4_CPU_CHUNK_ROWS = 264, /* rows of A in fixed point at a time: bounds the workspace; a multiple of 6 and of 12 */
    /* Blocks of A that are worth waking threads for: several microseconds of work. Fewer are converted by the caller
     * alone. */
    W4_CPU_CONVERT_SHARE = 512
};

#if defined(__x86_64__)
#define W4_CPU_X86 1
#else
#define W4_CPU_X86 0
#endif

/** Instruction sets that kernels exist for, each including those before it. */
typedef enum w4_cpu_level { W4_CPU_REFERENCE = 0, W4_CPU_AVX2 = 1, W4_CPU_AVX512 = 2 } w4_cpu_level;

typedef enum w4_cpu_method { W4_CPU_METHOD_REFERENCE, W4_CPU_METHOD_DIRECT, W4_CPU_METHOD_PANEL } w4_cpu_method;

typedef struct w4_cpu_config {
    w4_config public;
    w4_cpu_level level;
    w4_cpu_method method;
    int threads; /* that a call takes at most; 0: all of the context's */
} w4_cpu_config;

struct w4_device {
    w4_cpu_level available; /* what this processor has */
    w4_cpu_level allowed;   /* what the context's options let it use: at most `available` */
    int threads;            /* >= 1; the most that a call takes */
};

/** A weight in panels of 16 rows. A panel is, at a multiple of 64 bytes:
 *    codes   [k_padded / 8] lines of 64 bytes. Word i (32 bits, little-endian) of a line belongs to the panel's row
 *            i; nibble j of its 16-bit half h holds column 2j + h, so that (word >> 4j) & 0x000f000f is the pair of
 *            16-bit integers (2j, 2j + 1).
 *    scales  [groups][16] of scale_dtype
 *    zeros   [groups][16] of uint8_t or float, or nothing
 * Rows from n up and columns from k up are padding: codes, scales and zeros of 0. */
struct w4_device_weight {
    int64_t n, k, group_size, groups;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int32_t *k_order; /* [k] or NULL */
    bool fixed_point; /* scales and zeros lie in the range that the fast kernels are correct for */
    int64_t panels, block, k_padded;
    size_t scale_offset, zero_offset, panel_bytes; /* from the panel's start */
    uint8_t *data;                                 /* [panels] of panel_bytes */
};

static inline const uint8_t *w4_cpu_panel(const w4_device_weight *weight, int64_t panel) {
    return weight->data + (size_t)panel * weight->panel_bytes;
}

/** Columns of A that share one power-of-two scale: a divisor of the group size and of 128. */
int64_t w4_cpu_block_columns(int64_t k, int64_t group_size);

/* ---- Kernels ------------------------------------------------------------------------------------------------- */

/** One call of a direct kernel: `rows` rows of A times one panel, over all of k. */
typedef struct w4_cpu_direct {
    const int32_t *a;             /* [k_padded / 2][rows]: pairs of 16-bit integers */
    const float *a_scale, *a_sum; /* [blocks], a_stride elements apart, `rows` neighbours each */
    int64_t a_stride;
    int64_t blocks, block, blocks_per_group;
    const uint8_t *codes;
    const void *scales, *zeros;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    float *sums; /* [rows][16], written */
} w4_cpu_direct;

/** One call of a panel kernel: `rows` rows of A times tile_n expanded rows of W, over some blocks of k. */
typedef struct w4_cpu_panel_tile {
    const int32_t *a; /* [blocks * block / 2][rows] */
    const float *a_scale, *a_sum;
    int64_t a_stride;
    int64_t blocks, block;
    const int32_t *w;            /* [blocks * block / 2][tile_n]: pairs of codes as 16-bit integers */
    const float *scales, *zeros; /* [blocks][tile_n] */
    float *sums;                 /* [rows][tile_n], added to */
} w4_cpu_panel_tile;

/** Expand some blocks of one panel into the buffers that w4_cpu_panel_tile reads. */
typedef struct w4_cpu_expand {
    const uint8_t *codes; /* the first block's */
    const void *scales, *zeros;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int64_t first_block, blocks, block, blocks_per_group;
    int64_t tile_n; /* row length of the buffers below, which point at this panel's 16 columns */
    int32_t *w;
    float *w_scales, *w_zeros;
} w4_cpu_expand;

/** How well a block of activations fits 16-bit fixed point. */
typedef enum w4_cpu_fit {
    W4_CPU_FITS,
    W4_CPU_UNEVEN,      /* its largest magnitude is over W4_CPU_UNEVENNESS times the mean of the others that are not 0:
                           the others would lose what a result may need, should weights of 0 meet the largest */
    W4_CPU_OUT_OF_RANGE /* it holds Inf or NaN, or its largest magnitude is out of range */
} w4_cpu_fit;

/** A value is off by at most 2^-15 of the block's largest magnitude, thus by at most 2^-10 (5.6e-4 root mean square) of
 * the mean magnitude of the block. Blocks of normally distributed values reach 4, of Laplace distributed ones 10. */
#define W4_CPU_UNEVENNESS 32.0f

/** An activation that was taken out of its block, to be multiplied in single precision. */
typedef struct w4_cpu_outlier {
    int32_t column; /* of W as packed */
    float value;
} w4_cpu_outlier;

/** Add outliers times one panel to one row's sums. */
typedef struct w4_cpu_outlier_job {
    const w4_cpu_outlier *outliers;
    int64_t count, block, blocks_per_group;
    const uint8_t *codes;
    const void *scales, *zeros;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    float *sums; /* [16], added to */
} w4_cpu_outlier_job;

/** The kernels of one instruction set. All sets compute the same single-precision operations in the same order for
 * an element of C, so that results are the same bits. */
typedef struct w4_cpu_kernels {
    /** Bring `block` activations (fp16 or bf16) to 16-bit fixed point. pairs[i * stride] receives elements 2i and
     * 2i + 1: zeros where the block is out of range, and the rounded values where it is uneven. */
    w4_cpu_fit (*convert)(const uint16_t *source, int64_t block, bool is_bf16, int32_t *pairs, int64_t stride,
                          float *scale, float *sum);
    void (*add_outliers)(const w4_cpu_outlier_job *job);
    void (*direct[W4_CPU_MAX_TILE_M + 1])(const w4_cpu_direct *job); /* by rows; NULL where there is none */
    void (*expand)(const w4_cpu_expand *job);
    void (*panel[W4_CPU_MAX_TILE_M + 1])(const w4_cpu_panel_tile *job);
    /** c[i] = round(alpha * sums[i] + bias[i]) for `count` <= 16 elements; sums and bias hold 16. */
    void (*store)(const float *sums, const float *bias, float alpha, void *c, bool is_bf16, int64_t count);
    /** Read `bytes` (a multiple of 1024) as fast as can be; the result only keeps the reads alive. */
    int64_t (*read)(const uint8_t *data, size_t bytes);
    /** `rounds` rounds of independent multiply-adds on registers; returns the floating-point operations that they
     * stand for (2 for each multiply-add). */
    double (*multiply_add)(int64_t rounds, int32_t *sink);
} w4_cpu_kernels;

extern const w4_cpu_kernels w4_cpu_avx2_kernels, w4_cpu_avx512_kernels;

/** NULL for W4_CPU_REFERENCE, and for sets that this build does not have. */
const w4_cpu_kernels *w4_cpu_kernels_of(w4_cpu_level level);

/** Activations in fixed point: a block's largest magnitude lies in 2^e .. 2^(e+1), and e in this range. Outside it
 * (and for Inf and NaN) the row goes to the reference. */
enum { W4_CPU_MIN_EXPONENT = -60, W4_CPU_MAX_EXPONENT = 40 };
/** Weights' scales outside 2^-60 .. 2^40, or float zeros that are neither 0 nor 2^-20 .. 2^10, go to the reference. */
#define W4_CPU_MIN_SCALE 0x1p-60f
#define W4_CPU_MAX_SCALE 0x1p40f
#define W4_CPU_MIN_ZERO 0x1p-20f
#define W4_CPU_MAX_ZERO 0x1p10f

/* ---- Parts of the backend ------------------------------------------------------------------------------------ */

/** The best level of the processor that this process runs on. */
w4_cpu_level w4_cpu_detect(void);
const char *w4_cpu_level_name(w4_cpu_level level);

extern const w4_cpu_config w4_cpu_configs[];
/** How many of them a device has: those with fewer threads than it has, and those that take all. */
size_t w4_cpu_config_count(const w4_device *device);

/** The threads of a config's calls on this device. */
int w4_cpu_config_threads(const w4_device *device, size_t index);

w4a16_status w4_cpu_config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                 size_t reason_size);
double w4_cpu_config_cost(const w4_device *device, size_t index, const w4_problem *problem);

int w4_cpu_device_count(void);
void w4_cpu_device_query(int index, w4a16_device_info *info);
w4a16_status w4_cpu_device_open(int index, const w4a16_context_options *options, w4_device **device);
void w4_cpu_device_close(w4_device *device);

w4a16_status w4_cpu_weight_upload(w4_device *device, const w4_matrix *matrix, w4_device_weight **weight);
w4a16_status w4_cpu_weight_download(const w4_device_weight *weight, w4_matrix *matrix);
void w4_cpu_weight_free(w4_device_weight *weight);
size_t w4_cpu_weight_bytes(const w4_device_weight *weight);

/** Rows row..row+rows of C, the columns of one panel, by the definition. */
void w4_cpu_reference_panel(const w4_run *run, int64_t row, int64_t rows, int64_t panel);

/** For so many threads. */
size_t w4_cpu_fast_workspace(int threads, const w4_cpu_config *config, const w4_problem *problem);
void w4_cpu_fast_run(const w4_device *device, int threads, const w4_cpu_config *config, const w4_run *run);

double w4_cpu_cold_bytes(const w4_device *device);
/** Bytes per second of one pass of the widest loads over `data`, with all threads; whole MiB are read. */
double w4_cpu_read_rate(const w4_device *device, const uint8_t *data, int64_t bytes);
/** Floating-point operations per second of multiply-adds on registers, in one burst of some milliseconds. */
double w4_cpu_multiply_rate(const w4_device *device);
w4a16_status w4_cpu_measure_ceilings(const w4_device *device, w4a16_ceilings *ceilings);

/** Call body(user, task, thread) for every task in 0..tasks-1, thread < threads, of the device's at most. With one
 * thread or one task no parallel region is entered. */
void w4_cpu_parallel(const w4_device *device, int threads, int64_t tasks,
                     void (*body)(void *user, int64_t task, int thread), void *user);

#endif
