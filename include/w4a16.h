/* SPDX-License-Identifier: Apache-2.0
 *
 * w4a16: multiply 16-bit activations by 4-bit weights.
 *
 *     C[M,N] = alpha * A[M,K] * W[N,K]^T + bias[N]
 *
 * A holds fp16 or bf16 activations, one row per token. W holds 4-bit codes q in 0..15 with one scale s and one
 * zero point z for each group of consecutive elements along K, so that an element's value is w = (q - z) * s.
 * Terms: M = tokens (rows of A), N = out features, K = in features.
 *
 * A worked example (link with -lw4a16):
 *
 *     w4a16_context *context;
 *     w4a16_checkpoint *checkpoint;
 *     w4a16_weight *weight;
 *     w4a16_plan *plan;
 *     w4a16_plan_options options;
 *
 *     if (w4a16_context_create(NULL, &context) ||
 *         w4a16_checkpoint_open("model-awq/", &checkpoint) ||
 *         w4a16_checkpoint_load(checkpoint, context, "model.layers.0.self_attn.q_proj", &weight))
 *         return fprintf(stderr, "%s\n", w4a16_last_error()), 1;
 *     w4a16_plan_options_init(&options);
 *     options.m_max = 64;
 *     if (w4a16_plan_create(weight, &options, &plan) ||
 *         w4a16_gemm_host(plan, A, K, C, N, M))      // A[M,K], C[M,N]: fp16, row-major
 *         return fprintf(stderr, "%s\n", w4a16_last_error()), 1;
 *
 * Rules that hold for every function:
 * - A call that can fail returns w4a16_status: 0 (W4A16_OK) on success. It writes its outputs only on success;
 *   w4a16_last_error() then says, for this thread, which argument was wrong, what it was and what would be right.
 * - The library never prints, aborts or exits. w4a16_set_log_callback() receives warnings.
 * - Structs that carry `struct_size` must be initialised by their init function before use (for plain outputs: set
 *   struct_size to sizeof the struct). Strings are UTF-8 and end in a zero byte.
 * - Objects are made by a _create, _load or _open function and given back by the matching _destroy or _close, which
 *   accept NULL. A child keeps what it needs of its parent alive: a context may be destroyed before its weights, a
 *   weight before its plans.
 * - Threads: contexts, weights, plans and open checkpoints and tensor files are immutable once made and may be used
 *   by any number of threads at once. (A context may be given tuned results at any time; plans keep their choice.) A
 *   workspace serves one call in flight. Destroying an object while another thread is using that same handle is the
 *   caller's error.
 */
#ifndef W4A16_H
#define W4A16_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define W4A16_API __attribute__((visibility("default")))
#else
#define W4A16_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define W4A16_VERSION_MAJOR 0
#define W4A16_VERSION_MINOR 1
#define W4A16_VERSION_PATCH 0

/* ---- Status, version, log ------------------------------------------------------------------------------------ */

/** Result of every call that can fail. The values are part of the ABI and never change. */
typedef enum w4a16_status {
    W4A16_OK = 0,
    W4A16_ERROR_INVALID_ARGUMENT = 1, /**< an argument breaks its contract */
    W4A16_ERROR_OUT_OF_MEMORY = 2,    /**< the host or the device has no memory left */
    W4A16_ERROR_UNSUPPORTED = 3,      /**< well-formed, but this library or device cannot do it */
    W4A16_ERROR_NOT_FOUND = 4,        /**< no such file, tensor, device or config */
    W4A16_ERROR_IO = 5,               /**< the operating system refused to read or write */
    W4A16_ERROR_FORMAT = 6,           /**< a file's content is damaged or contradicts itself */
    W4A16_ERROR_EXISTS = 7,           /**< the output is there already */
    W4A16_ERROR_DEVICE = 8,           /**< the device or its driver reported an error */
    W4A16_ERROR_WORKSPACE = 9,        /**< the workspace is missing, too small or misaligned */
    W4A16_ERROR_CANCELLED = 10,       /**< the progress callback asked to stop */
    W4A16_ERROR_INTERNAL = 11         /**< a defect of this library: please report it */
} w4a16_status;

/** The library's version, "major.minor.patch". Never NULL; static storage. */
W4A16_API const char *w4a16_version(void);

/** A short English name of `status`, such as "invalid argument". Never NULL, also for unknown values. */
W4A16_API const char *w4a16_status_text(w4a16_status status);

/** What was wrong in the last failed call of the calling thread: one line, naming the argument or the file and
 * tensor. Empty before the first failure; calls that succeed leave it alone. Valid until this thread's next failing
 * call. */
W4A16_API const char *w4a16_last_error(void);

typedef enum w4a16_log_level { W4A16_LOG_DEBUG = 0, W4A16_LOG_INFO = 1, W4A16_LOG_WARNING = 2 } w4a16_log_level;

/** Receives one line without a line end. May be called from any thread, one call at a time; must not call back
 * into the library. */
typedef void (*w4a16_log_callback)(w4a16_log_level level, const char *message, void *user);

/** Set (NULL: remove) the process-wide log callback. Thread-safe. */
W4A16_API void w4a16_set_log_callback(w4a16_log_callback callback, void *user);

/* ---- Element types ------------------------------------------------------------------------------------------- */

/** Element types of arrays and tensor files. The values are part of the ABI. */
typedef enum w4a16_dtype {
    W4A16_DTYPE_NONE = 0,
    W4A16_FP16 = 1, /**< IEEE binary16 */
    W4A16_BF16 = 2, /**< the upper half of binary32 */
    W4A16_FP32 = 3,
    W4A16_FP64 = 4,
    W4A16_UINT8 = 5,
    W4A16_INT8 = 6,
    W4A16_INT16 = 7,
    W4A16_INT32 = 8,
    W4A16_INT64 = 9,
    W4A16_UINT16 = 10,
    W4A16_UINT32 = 11,
    W4A16_UINT64 = 12,
    W4A16_BOOL = 13,
    W4A16_FP8_E4M3 = 14,
    W4A16_FP8_E5M2 = 15
} w4a16_dtype;

/** Bytes of one element; 0 for a value that is no dtype. */
W4A16_API size_t w4a16_dtype_size(w4a16_dtype dtype);

/** "fp16", "bf16", "fp32", "int32", ...; "none" for a value that is no dtype. Static storage. */
W4A16_API const char *w4a16_dtype_name(w4a16_dtype dtype);

/* ---- Devices and contexts ------------------------------------------------------------------------------------ */

typedef struct w4a16_device_info {
    size_t struct_size;
    char id[16];           /**< what w4a16_context_options.device takes: "cpu", "cuda:0" */
    char name[128];        /**< the processor's or GPU's own name */
    char architecture[64]; /**< "x86-64 (avx2, f16c, fma)", "sm_90" */
    int usable;            /**< 1: a context can be opened on it */
    int automatic;         /**< 1: the one that "auto" picks */
    char reason[256];      /**< why it is (not) usable */
} w4a16_device_info;

/** Describe device `index` of this machine, counting from 0. The CPU is always there.
 * @return W4A16_ERROR_NOT_FOUND past the last device: count up until then. Thread-safe. */
W4A16_API w4a16_status w4a16_device_query(int index, w4a16_device_info *info);

typedef struct w4a16_context w4a16_context;

typedef struct w4a16_context_options {
    size_t struct_size;
    const char *device; /**< "auto" (also NULL): the fastest usable device; "cpu"; "cuda:0", ... */
    int threads;        /**< the most CPU threads a call may use; 0: all this process may run on (OMP_NUM_THREADS
                             counts). A plan's config may take fewer: small problems are faster so */
    const char *cpu_instruction_set; /**< NULL: the best available; "reference", "avx2", "avx512": at most this;
                                          with "auto" it also means the CPU */
} w4a16_context_options;

W4A16_API void w4a16_context_options_init(w4a16_context_options *options);

/** Open a device. @param options NULL means the defaults. @param context receives the new context.
 * @return NOT_FOUND for a device that is not there, UNSUPPORTED for one that cannot be used (the text says why). */
W4A16_API w4a16_status w4a16_context_create(const w4a16_context_options *options, w4a16_context **context);
W4A16_API void w4a16_context_destroy(w4a16_context *context);

/** The device that this context opened. */
W4A16_API w4a16_status w4a16_context_device(const w4a16_context *context, w4a16_device_info *info);

/* ---- Weights ------------------------------------------------------------------------------------------------- */

typedef enum w4a16_zero_kind {
    W4A16_ZERO_SYMMETRIC = 0, /**< no array: z = 8 everywhere */
    W4A16_ZERO_INTEGER = 1,   /**< uint8_t per group, 0..16 */
    W4A16_ZERO_FLOAT = 2      /**< float per group, finite */
} w4a16_zero_kind;

/** A quantised matrix in the canonical form: plain arrays on the host, out feature by out feature.
 * groups = ceil(K / group_size), or 1 for group_size -1; the last group may be short. */
typedef struct w4a16_canonical {
    size_t struct_size;
    int64_t n;               /**< out features, >= 1 */
    int64_t k;               /**< in features, >= 1 */
    int64_t group_size;      /**< a multiple of 32, or -1: one group per row of W */
    const uint8_t *codes;    /**< [n, ceil(k/2)] bytes: element 2i in the low nibble of byte i, 2i+1 in the high one */
    const void *scales;      /**< [n, groups] of scale_dtype; each finite and not 0 */
    w4a16_dtype scale_dtype; /**< W4A16_FP16, W4A16_BF16 or W4A16_FP32 */
    w4a16_zero_kind zero_kind;
    const void *zeros;      /**< [n, groups] of uint8_t or float by zero_kind; NULL for W4A16_ZERO_SYMMETRIC */
    const int32_t *k_order; /**< NULL, or [k]: code column j multiplies activation column k_order[j] (a permutation;
                                 what GPTQ calls act-order) */
} w4a16_canonical;

W4A16_API void w4a16_canonical_init(w4a16_canonical *canonical);

typedef struct w4a16_weight w4a16_weight;

typedef struct w4a16_weight_info {
    size_t struct_size;
    int64_t n, k;
    int64_t group_size; /**< resolved: k where the caller said -1 */
    int64_t groups;     /**< per row of W */
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int has_k_order;
    size_t device_bytes; /**< memory that the packed weight takes on its device */
    /** What a w4a16_problem has to say for the configs of plans with this weight to be listed. As zero_kind; but a GPU
     * keeps symmetric weights and whole zero points as floats where a row's scales lie some 128 apart: its kernels,
     * which scale weights in fp16, would lose bits. */
    w4a16_zero_kind kernel_zero_kind;
    int uneven_scales;
} w4a16_weight_info;

/** Check and pack a matrix for `context`'s device. The arrays are copied; they may be freed after the call. On a GPU
 * weights also load the kernels that plans for them will choose, up to 8192 tokens of the scales' type (fp16 for fp32):
 * about 2 ms for a context's first one. */
W4A16_API w4a16_status w4a16_weight_create(w4a16_context *context, const w4a16_canonical *canonical,
                                           w4a16_weight **weight);
W4A16_API void w4a16_weight_destroy(w4a16_weight *weight);
W4A16_API w4a16_status w4a16_weight_query(const w4a16_weight *weight, w4a16_weight_info *info);

/** Copy the canonical arrays back out. Each buffer may be NULL (not wanted) and must hold what w4a16_canonical says
 * for this weight's shape; `zeros` and `k_order` are left alone where the weight has none. */
W4A16_API w4a16_status w4a16_weight_export(const w4a16_weight *weight, uint8_t *codes, void *scales, void *zeros,
                                           int32_t *k_order);

/** Write the weight to one packed file (docs/packed-file.md), the form that loads without repacking on a GPU. The
 * file appears under `path` only when it is complete. @param overwrite 0: an existing file is W4A16_ERROR_EXISTS. */
W4A16_API w4a16_status w4a16_weight_save(const w4a16_weight *weight, const char *path, int overwrite);

/** Load a packed file onto `context`'s device. A damaged file is W4A16_ERROR_FORMAT. */
W4A16_API w4a16_status w4a16_weight_load(w4a16_context *context, const char *path, w4a16_weight **weight);

/* ---- Plans and the multiplication ---------------------------------------------------------------------------- */

typedef struct w4a16_plan w4a16_plan;

enum {
    /** A row's result has the same bits for every M and any position in the batch. */
    W4A16_PLAN_BATCH_INVARIANT = 1u << 0,
    /** A call's kernel starts only when the kernel before it in the stream has ended. Without this flag, on GPUs whose
     * driver can do so (programmatic dependent launch: compute capability 9.0), it may start while that one still
     * runs; it then loads nothing but weights until that one has ended, so that results and the order of the stream
     * are the same either way, in graphs, too. The flag is for measuring what that gains. Ignored on the CPU. */
    W4A16_PLAN_NO_OVERLAP = 1u << 1,
    /** Choose by the cost model alone, as if there were no tuned results and no table shipped for the GPU: for
     * measuring what these gain. */
    W4A16_PLAN_COST_MODEL = 1u << 2
};

/** Where the choice of a config comes from; what stands first is asked first. docs/choosing.md says how. */
typedef enum w4a16_choice_source {
    W4A16_CHOICE_NAME = 0,      /**< the caller named it */
    W4A16_CHOICE_CACHE = 1,     /**< measured on this machine: w4a16_tune, w4a16_context_load_cache */
    W4A16_CHOICE_TABLE = 2,     /**< measured on such a GPU, and shipped with the library */
    W4A16_CHOICE_COST_MODEL = 3 /**< predicted */
} w4a16_choice_source;

typedef struct w4a16_plan_options {
    size_t struct_size;
    int64_t m_min, m_max;   /**< the range of M that the plan serves; 1 and 1 after init */
    w4a16_dtype a_dtype;    /**< W4A16_FP16 (after init) or W4A16_BF16 */
    w4a16_dtype c_dtype;    /**< W4A16_FP16 or W4A16_BF16; W4A16_DTYPE_NONE (after init): as a_dtype */
    float alpha;            /**< 1 after init; finite */
    const void *bias;       /**< NULL, or [n] in the device's memory, unscaled by alpha; must outlive the plan */
    w4a16_dtype bias_dtype; /**< W4A16_FP16, W4A16_BF16 or W4A16_FP32; W4A16_DTYPE_NONE: as c_dtype */
    const char *config;     /**< NULL: the library chooses; or a name from w4a16_config_list */
    uint32_t flags;         /**< W4A16_PLAN_... */
} w4a16_plan_options;

W4A16_API void w4a16_plan_options_init(w4a16_plan_options *options);

/** Choose a config for a weight and a range of M. @param options NULL means the defaults: one token, fp16. */
W4A16_API w4a16_status w4a16_plan_create(const w4a16_weight *weight, const w4a16_plan_options *options,
                                         w4a16_plan **plan);
W4A16_API void w4a16_plan_destroy(w4a16_plan *plan);

typedef struct w4a16_plan_info {
    size_t struct_size;
    const char *config;         /**< stable name; static storage */
    int threads;                /**< CPU threads that a call of it takes at most; 0 on a GPU */
    size_t workspace_bytes;     /**< what w4a16_gemm needs for m_max; may be 0 */
    size_t workspace_alignment; /**< a power of two */
    double predicted_seconds;   /**< for m_max: measured (tuned, shipped) or the cost model's figure */
    char reason[256];           /**< why this config, as far as it fits; w4a16_plan_describe has all of it */
} w4a16_plan_info;

W4A16_API w4a16_status w4a16_plan_query(const w4a16_plan *plan, w4a16_plan_info *info);

/** Say how the plan chose: for each range of M that one config serves where the choice came from, every candidate with
 * its measured or predicted time, the fastest first, and why each other config cannot run. Lines for people: their form
 * may change.
 * @param text receives at most `capacity` bytes, the final zero included; may be NULL where capacity is 0
 * @param length receives the whole text's length without the final zero, whatever fits */
W4A16_API w4a16_status w4a16_plan_describe(const w4a16_plan *plan, char *text, size_t capacity, size_t *length);

/** C = alpha * A * W^T + bias on the plan's device.
 * @param a [m, k] of a_dtype, row-major, row stride lda elements; at least 2-byte aligned
 * @param lda >= k
 * @param c [m, n] of c_dtype, row stride ldc elements; the elements between n and ldc are not touched; must not
 *        overlap a
 * @param ldc >= n
 * @param m within the plan's m_min..m_max
 * @param workspace scratch of this call alone, at least plan_info.workspace_bytes, aligned to workspace_alignment;
 *        its content before and after the call means nothing
 * @param stream the device's stream (CUstream); NULL on the CPU
 * Never allocates and never waits for the device. Thread-safe with distinct workspaces and outputs.
 * Inf and NaN in A follow IEEE arithmetic on the decoded weights. */
W4A16_API w4a16_status w4a16_gemm(const w4a16_plan *plan, const void *a, int64_t lda, void *c, int64_t ldc, int64_t m,
                                  void *workspace, size_t workspace_bytes, void *stream);

/** The same on host arrays, for any device: allocates its own workspace, copies as needed, and returns when C is
 * complete. For tests, tools and first steps; engines call w4a16_gemm. */
W4A16_API w4a16_status w4a16_gemm_host(const w4a16_plan *plan, const void *a, int64_t lda, void *c, int64_t ldc,
                                       int64_t m);

/* ---- Configs and profiling ----------------------------------------------------------------------------------- */

/** A multiplication, without data: what configs are feasible for. */
typedef struct w4a16_problem {
    size_t struct_size;
    int64_t m, n, k;
    int64_t group_size; /**< a multiple of 32, or -1 */
    w4a16_dtype a_dtype, c_dtype, scale_dtype;
    w4a16_zero_kind zero_kind;
    int uneven_scales; /**< 1: a row has scales more than 2^60 apart, or one outside 2^-60 .. 2^60; few configs take
                          them */
    uint32_t flags;    /**< W4A16_PLAN_... */
} w4a16_problem;

/** fp16 everywhere, group size 128, symmetric, even scales, m = n = k = 0. */
W4A16_API void w4a16_problem_init(w4a16_problem *problem);

typedef struct w4a16_config_info {
    const char *name; /**< stable; static storage */
    int32_t tile_m, tile_n, tile_k;
    int threads;                /**< CPU threads that a call takes at most; 0 on a GPU */
    int feasible;               /**< for the problem asked about */
    double predicted_seconds;   /**< the cost model's figure; 0 where not feasible */
    int rank;                   /**< among the feasible ones by that figure, from 1; 0 where not feasible */
    int rough;                  /**< 1: no cost was fitted to this config yet, predicted_seconds is an estimate by what
                                     others take: it ranks after all others, and w4a16_tune tries it */
    double measured_seconds;    /**< by the tuned cache or the shipped table; 0 where neither has it */
    w4a16_choice_source source; /**< where measured_seconds comes from; W4A16_CHOICE_COST_MODEL where it is 0 */
    int chosen;                 /**< 1: the one that a plan for this m alone takes */
    char reason[160];           /**< why it is not feasible; empty where it is */
} w4a16_config_info;

/** List a device's configs and say which can run `problem` (NULL: on any problem). Writes at most `capacity`
 * entries; `count` receives how many there are. The order is stable. */
W4A16_API w4a16_status w4a16_config_list(const w4a16_context *context, const w4a16_problem *problem,
                                         w4a16_config_info *configs, size_t capacity, size_t *count);

/** The text of w4a16_plan_describe for a plan that serves problem->m alone, without a weight. */
W4A16_API w4a16_status w4a16_problem_describe(const w4a16_context *context, const w4a16_problem *problem, char *text,
                                              size_t capacity, size_t *length);

/** Speed limits of the context's device, measured by this call (about a second). */
typedef struct w4a16_ceilings {
    size_t struct_size;
    double read_bytes_per_second; /**< a plain read loop over memory too large for any cache */
    double flop_per_second;       /**< independent multiply-adds on registers, in the kernels' own arithmetic */
} w4a16_ceilings;
W4A16_API w4a16_status w4a16_measure_ceilings(const w4a16_context *context, w4a16_ceilings *ceilings);

typedef struct w4a16_profile_result {
    const char *config;
    int threads;           /**< CPU threads that a call took at most; 0 on a GPU */
    double seconds;        /**< median of the timed runs, cold weights */
    double relative_error; /**< relative Frobenius error against fp64, of the run checked before timing */
    int runs;
    double predicted_seconds; /**< the cost model's figure */
    int rank;                 /**< by that figure among the feasible configs, from 1 */
    int chosen;               /**< 1: the one that a plan for this m alone takes */
    char failure[160];        /**< w4a16_profile_all: why there is no time (then seconds is 0); else empty */
} w4a16_profile_result;

/** Check, then time one config (NULL: the one that a plan would choose) on random data with cold weights: as many
 * copies of the weight as overflow the caches, called in turn. A result over 2e-3 is W4A16_ERROR_INTERNAL, never a
 * time. @param min_seconds time budget of the timed part. */
W4A16_API w4a16_status w4a16_profile(w4a16_context *context, const w4a16_problem *problem, const char *config,
                                     double min_seconds, w4a16_profile_result *result);

/** How far w4a16_profile_all and w4a16_tune have come. Pointers live for the length of the callback. */
typedef struct w4a16_measure_progress {
    const w4a16_problem *problem;
    const char *config;  /**< just measured; NULL where the point at hand is complete */
    double seconds;      /**< its time; 0 where it has none */
    const char *failure; /**< why it has none; empty where it has one */
    const char *best;    /**< the fastest so far at this M; NULL: none yet */
    double best_seconds;
    const char *chosen;    /**< what a plan took before */
    double chosen_seconds; /**< its time; 0 where it has none */
    double done, total;    /**< points of (problem, M), the one at hand in part */
} w4a16_measure_progress;

/** Called after each measurement, from the calling thread. A value other than 0 cancels: the call returns
 * W4A16_ERROR_CANCELLED. */
typedef int (*w4a16_measure_callback)(const w4a16_measure_progress *progress, void *user);

/** w4a16_profile for every feasible config, the fastest first; those that fail stand last, with the reason.
 * @param only NULL, or texts separated by commas: besides the library's own choice only configs whose names hold one
 * @param callback may be NULL @param results receives at most `capacity` entries
 * @param count receives how many there are: at most what w4a16_config_list counts. */
W4A16_API w4a16_status w4a16_profile_all(w4a16_context *context, const w4a16_problem *problem, const char *only,
                                         double min_seconds, w4a16_measure_callback callback, void *user,
                                         w4a16_profile_result *results, size_t capacity, size_t *count);

/* ---- Tuning -------------------------------------------------------------------------------------------------- */

/* Measured times are kept for buckets of M that end at 1, 2, 3, 4, 6, 8, 12, 16, 24, ... (powers of two and three times
 * powers of two): what was measured at an M serves that M and those below it in its bucket. A cache is a JSON file that
 * holds them for one or more devices (docs/choosing.md). It is used only by the device, library and problem it was
 * measured with: GPU or processor, number of SMs or threads, memory clock, the library's kernels and configs; N, K,
 * group size, zero points, evenness of scales, dtypes, flags. */

/** Add a cache file's results for this device to those that the context has; plans made from then on use them, newer
 * files' rather than older files'. A context is made with those of the file that W4A16_CACHE names in the environment;
 * a file that will not do is no error there, but w4a16_context_tuning, plans' descriptions and the log callback say
 * why.
 * @return NOT_FOUND, IO, FORMAT (damaged), UNSUPPORTED (only results of other devices or another library); the text
 * says what. Thread-safe. */
W4A16_API w4a16_status w4a16_context_load_cache(w4a16_context *context, const char *path);

/** What a context knows besides its cost model. */
typedef struct w4a16_tuning_info {
    size_t struct_size;
    size_t cache_points;  /**< of (problem, M), tuned: from cache files and w4a16_tune */
    size_t table_points;  /**< in the table shipped for this device */
    char table[64];       /**< the GPU that the table was measured on; empty: there is none for this device */
    char cache[256];      /**< where the last cache came from, or why W4A16_CACHE was not used; empty: none was named */
    char fingerprint[32]; /**< of the library's kernels and configs for this device */
} w4a16_tuning_info;
W4A16_API w4a16_status w4a16_context_tuning(const w4a16_context *context, w4a16_tuning_info *info);

typedef struct w4a16_tune_options {
    size_t struct_size;
    const w4a16_problem *problems; /**< their m is not looked at */
    size_t problem_count;
    const int64_t
        *m; /**< the numbers of tokens to measure at; NULL (after init): the ends of all buckets of m_min..m_max */
    size_t m_count;
    int64_t m_min, m_max;  /**< 1 and 8192 after init */
    double budget_seconds; /**< 0 (after init): as long as it takes. Otherwise points share it evenly, and what is not
                                reached is left to the next run; the least promising configs are dropped first */
    int again;             /**< 1: measure also what the context or the cache file has already */
    const char *cache;     /**< NULL, or the file that receives the results as they come, besides the context */
    w4a16_measure_callback progress;
    void *user;
} w4a16_tune_options;

W4A16_API void w4a16_tune_options_init(w4a16_tune_options *options);

typedef struct w4a16_tune_result {
    size_t struct_size;
    size_t points;         /**< problems times numbers of tokens */
    size_t measured;       /**< points measured by this call */
    size_t known;          /**< points that were there already */
    size_t left;           /**< points that the budget did not reach */
    size_t configs_timed;  /**< in all */
    size_t configs_failed; /**< wrong results: never chosen, never stored */
    char failure[256];     /**< the first of those */
} w4a16_tune_result;

/** Find the fastest config of each problem and number of tokens, by measurement: every feasible config is checked
 * against fp64 and timed with cold weights, in the order of the cost model, until the rest are hopeless. Plans of this
 * context use the results at once; a cache file keeps them. Results are written when a problem is complete, when the
 * call is cancelled, and where it fails, so that nothing measured is lost; several processes may tune into one file. */
W4A16_API w4a16_status w4a16_tune(w4a16_context *context, const w4a16_tune_options *options, w4a16_tune_result *result);

typedef struct w4a16_cache w4a16_cache;

/** One result of a cache file. Strings live as long as the cache is open. */
typedef struct w4a16_cache_entry {
    size_t struct_size;
    const char *device;      /**< the GPU's or processor's name */
    const char *code;        /**< what kernels it ran: "sm_90a", "avx512" */
    int processors;          /**< SMs; CPU threads */
    int memory_mhz;          /**< to 100 MHz; 0: not known */
    const char *fingerprint; /**< of the library's kernels and configs */
    w4a16_problem problem;   /**< with its m */
    const char *config;      /**< the fastest */
    double seconds;
    int timed;        /**< configs that were timed */
    const char *date; /**< "2026-11-21T16:05:00Z" */
} w4a16_cache_entry;

/** Read a cache file, whatever devices it is of. */
W4A16_API w4a16_status w4a16_cache_open(const char *path, w4a16_cache **cache);
W4A16_API void w4a16_cache_close(w4a16_cache *cache);
W4A16_API size_t w4a16_cache_count(const w4a16_cache *cache);
W4A16_API w4a16_status w4a16_cache_get(const w4a16_cache *cache, size_t index, w4a16_cache_entry *entry);

/** Merge the results of `source` into the cache file `path`, which is made where there is none: of two results for the
 * same, the newer one stays. Processes that write at once wait for one another (PATH.lock); none loses what the other
 * wrote, and a reader never sees half a file. */
W4A16_API w4a16_status w4a16_cache_merge(const char *path, const char *source);

/* ---- Progress ------------------------------------------------------------------------------------------------ */

typedef struct w4a16_progress {
    const char *tensor;   /**< what has just been finished */
    int64_t n, k;         /**< its shape; 0 where it was only copied */
    double sqnr_db;       /**< signal to quantisation noise of this tensor; 0 where it was only copied or converted */
    double signal, noise; /**< sum of squares of the weights and of their errors, to add up over tensors */
    uint64_t done_bytes, total_bytes; /**< input read so far, and in all */
} w4a16_progress;

/** Called after each tensor, from the calling thread. A value other than 0 cancels: the call returns
 * W4A16_ERROR_CANCELLED and leaves no output. */
typedef int (*w4a16_progress_callback)(const w4a16_progress *progress, void *user);

/* ---- Quantising ---------------------------------------------------------------------------------------------- */

typedef enum w4a16_quantize_method {
    W4A16_QUANTIZE_RTN = 0, /**< round to nearest on the group's range */
    W4A16_QUANTIZE_MSE = 1  /**< search scale and zero point for the least squared error (default) */
} w4a16_quantize_method;

typedef enum w4a16_format {
    W4A16_FORMAT_NONE = 0,
    W4A16_FORMAT_AWQ = 1,               /**< AWQ, version "gemm" */
    W4A16_FORMAT_GPTQ = 2,              /**< GPTQ, v1 and v2; written as v2 */
    W4A16_FORMAT_COMPRESSED_TENSORS = 3 /**< compressed-tensors "pack-quantized" */
} w4a16_format;

/** "awq", "gptq", "compressed-tensors"; "none" otherwise. */
W4A16_API const char *w4a16_format_name(w4a16_format format);

typedef struct w4a16_quantize_options {
    size_t struct_size;
    w4a16_quantize_method method;
    int64_t group_size;      /**< a multiple of 32, or -1; 128 after init */
    int asymmetric;          /**< 0: z = 8; 1: an integer zero point per group */
    w4a16_dtype scale_dtype; /**< W4A16_FP16 (after init), W4A16_BF16 or W4A16_FP32 */
    int threads;             /**< as in w4a16_context_options */
    /* The rest is for w4a16_checkpoint_quantize only. */
    w4a16_format format; /**< W4A16_FORMAT_COMPRESSED_TENSORS after init */
    /* Glob patterns on module names ("*.q_proj"). Without include patterns every linear layer is wanted, less
     * embeddings, output heads, norms and routers under their usual names (docs/quantising.md lists them); with them
     * exactly what they match. What an exclude pattern matches is left as it is in either case. */
    const char *const *include;
    size_t include_count;
    const char *const *exclude;
    size_t exclude_count;
    int overwrite; /**< 0: an existing output is W4A16_ERROR_EXISTS */
    w4a16_progress_callback progress;
    void *user;
} w4a16_quantize_options;

W4A16_API void w4a16_quantize_options_init(w4a16_quantize_options *options);

/** Quantise one matrix w[n,k] of fp16, bf16 or fp32 (row stride `stride` elements) on the CPU into caller's arrays
 * shaped as in w4a16_canonical. `zeros` (uint8_t) may be NULL where options->asymmetric is 0. A NaN or Inf in w is
 * W4A16_ERROR_INVALID_ARGUMENT. @param signal, noise may be NULL; receive the sums of squares of w and of the error. */
W4A16_API w4a16_status w4a16_quantize(const w4a16_quantize_options *options, const void *w, w4a16_dtype dtype,
                                      int64_t n, int64_t k, int64_t stride, uint8_t *codes, void *scales,
                                      uint8_t *zeros, double *signal, double *noise);

/** Quantise a model folder or a .safetensors file. Output is a folder where the input is one (config.json and all
 * other files carried over), otherwise a file. It appears under `output` only when it is complete. Memory is bounded
 * by the largest tensor. */
W4A16_API w4a16_status w4a16_checkpoint_quantize(const char *input, const char *output,
                                                 const w4a16_quantize_options *options);

/* ---- Checkpoints --------------------------------------------------------------------------------------------- */

typedef struct w4a16_checkpoint w4a16_checkpoint;

/** One quantised linear layer of a checkpoint. Strings live as long as the checkpoint. */
typedef struct w4a16_module_info {
    size_t struct_size;
    const char *name; /**< such as "model.layers.0.self_attn.q_proj" */
    w4a16_format format;
    const char *variant; /**< such as "gemm", "v1", "v2", "pack-quantized" */
    int64_t n, k, group_size, groups;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int act_order;  /**< columns are grouped in another order than they stand in */
    uint64_t bytes; /**< on disk, all tensors of the module */
    int supported;
    const char *reason; /**< why it is not supported; empty where it is */
} w4a16_module_info;

/** Open a .safetensors file or a model folder (model.safetensors, or shards with model.safetensors.index.json).
 * Headers and shapes are checked here; the data is read on demand. */
W4A16_API w4a16_status w4a16_checkpoint_open(const char *path, w4a16_checkpoint **checkpoint);
W4A16_API void w4a16_checkpoint_close(w4a16_checkpoint *checkpoint);

/** Number of quantised modules. */
W4A16_API size_t w4a16_checkpoint_count(const w4a16_checkpoint *checkpoint);

/** Describe module `index`, in ascending order of names. */
W4A16_API w4a16_status w4a16_checkpoint_module(const w4a16_checkpoint *checkpoint, size_t index,
                                               w4a16_module_info *info);

/** Find a module by name; a tensor's full name ("NAME.qweight", "NAME.weight") is accepted too. */
W4A16_API w4a16_status w4a16_checkpoint_find(const w4a16_checkpoint *checkpoint, const char *module, size_t *index);

/** Read, check and pack one module for a device. */
W4A16_API w4a16_status w4a16_checkpoint_load(const w4a16_checkpoint *checkpoint, w4a16_context *context,
                                             const char *module, w4a16_weight **weight);

/** Decode one module to w[n,k] (row stride `stride` elements) straight from the words on disk, element by element by
 * the format's formula; it shares no code with w4a16_checkpoint_load, so that each can prove the other.
 * @param dtype W4A16_FP64, W4A16_FP32, W4A16_FP16 or W4A16_BF16 */
W4A16_API w4a16_status w4a16_checkpoint_dequantize(const w4a16_checkpoint *checkpoint, const char *module,
                                                   w4a16_dtype dtype, void *w, int64_t stride);

typedef struct w4a16_convert_options {
    size_t struct_size;
    w4a16_format format;
    int overwrite;
    w4a16_progress_callback progress;
    void *user;
} w4a16_convert_options;
W4A16_API void w4a16_convert_options_init(w4a16_convert_options *options);

/** Rewrite a quantised checkpoint in another format, losslessly; UNSUPPORTED, naming the module, where the target
 * cannot hold it. Output as in w4a16_checkpoint_quantize. */
W4A16_API w4a16_status w4a16_checkpoint_convert(const char *input, const char *output,
                                                const w4a16_convert_options *options);

/* ---- Tensor files (safetensors) ------------------------------------------------------------------------------ */

#define W4A16_MAX_DIMENSIONS 8

typedef struct w4a16_tensor {
    const char *name;
    w4a16_dtype dtype;
    int dimensions;
    int64_t shape[W4A16_MAX_DIMENSIONS];
    const void *data; /**< row-major, little-endian; in a file that was opened: mapped, possibly unaligned */
    uint64_t bytes;
} w4a16_tensor;

typedef struct w4a16_tensor_file w4a16_tensor_file;

/** Map a .safetensors file and check its header against the file. */
W4A16_API w4a16_status w4a16_tensor_file_open(const char *path, w4a16_tensor_file **file);
W4A16_API void w4a16_tensor_file_close(w4a16_tensor_file *file);
W4A16_API size_t w4a16_tensor_file_count(const w4a16_tensor_file *file);

/** Tensor `index`, in the order of the data; pointers live as long as the file is open. */
W4A16_API w4a16_status w4a16_tensor_file_get(const w4a16_tensor_file *file, size_t index, w4a16_tensor *tensor);
W4A16_API w4a16_status w4a16_tensor_file_find(const w4a16_tensor_file *file, const char *name, w4a16_tensor *tensor);

/** Write tensors to a .safetensors file, which appears under `path` only when it is complete. */
W4A16_API w4a16_status w4a16_tensor_file_write(const char *path, const w4a16_tensor *tensors, size_t count,
                                               int overwrite);

/** Convert `count` elements between W4A16_FP16, W4A16_BF16, W4A16_FP32 and W4A16_FP64, rounding to nearest even. */
W4A16_API w4a16_status w4a16_convert_elements(const void *source, w4a16_dtype source_dtype, void *target,
                                              w4a16_dtype target_dtype, size_t count);

#ifdef __cplusplus
}
#endif

#endif /* W4A16_H */
