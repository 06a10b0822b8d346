/* SPDX-License-Identifier: Apache-2.0
 * Time w4a16 against cuBLAS's dense GEMM on one GPU, in one process, ours and theirs in turn; `cuda_compare --help` and
 * docs/cuda-backend.md say how. Nothing is timed before its result was checked. */
#include "backend/cuda/device.h"
#include "core/file.h"
#include "core/median.h"
#include "core/memory.h"
#include "cublas_lt.h"
#include "limits.h"
#include "random_data.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_WRONG = 1, EXIT_USAGE = 2, EXIT_NO_GPU = 3, EXIT_NO_CUBLAS = 4 };

enum {
    MAX_COPIES = 4096,
    MAX_LIST = 64,     /* of --m and --shapes */
    MAX_CONFIGS = 256, /* of ours */
    LT_ALGORITHMS = 5, /* of each layout */
    MAX_SLOTS = 2 * MAX_CONFIGS,
    ROUNDS_PER_BATCH = 5, /* submitted at once, so that the GPU does not wait for the host between replays */
    MAX_ROUNDS = 4000,
    WARM_UP_ROUNDS = 3,
    MIN_ROUNDS = 10,
    CHOICE_ROUNDS = 3, /* of each candidate, at least, where the best of several is looked for */
    THEIR_ROWS = 64    /* of cuBLAS's result, evenly spread, that are compared: it is not what is on trial */
};
static const double COLD_BYTES = 4e8;
static const double CHOICE_SECONDS = 0.01, LIMIT_SECONDS = 0.02;
static const size_t LT_WORKSPACE_BYTES = (size_t)64 << 20;
static const double ERROR_LIMIT = 3e-3; /* relative Frobenius, ours against dense weights rounded to 16 bits */

static const char ALL_BEST[] = "all-best"; /* as --config */

static const char help[] =
    "usage: cuda_compare [options]\n\n"
    "Time w4a16 against cuBLAS's dense GEMM of the same shape, interleaved in one process on GPU 0. Both have cold\n"
    "weights: copies of 400 MB in all, at least 2, called in turn in one CUDA graph. After 3 warm-up replays the two\n"
    "graphs are replayed in turn, 10 times each or more, with events between; medians count. cuBLAS may take the\n"
    "better of both layouts of W and the best of 5 algorithms for each, with 64 MiB of workspace.\n"
    "Before that, the result is compared with cuBLAS's on the decoded weights (fp32 output): relative error < 3e-3.\n\n"
    "The limits are measured beside it: reading as many bytes as the packed weight, cold, by kernels in a row that "
    "may\n"
    "start while the one before runs (read_us) or may not (read_alone_us), before a shape's points; multiplying alone "
    "on\n"
    "the tensor cores (peak_tflops), right after each point.\n\n"
    "  -m, --m LIST          tokens (default 1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192)\n"
    "  -s, --shapes LIST     NxK,NxK,... (default: the seven of Llama 3 8B and 70B)\n"
    "      --config NAME     a config as `w4a16 configs` names it, or all-best: each feasible one is timed, the best\n"
    "                        counts (default: the library's choice)\n"
    "  -g, --group G         group size, a multiple of 32 or -1 (default 128)\n"
    "      --dtype T         activations, outputs, scales: fp16 or bf16 (default fp16)\n"
    "      --zeros Z         zero points: none, integer or float (default none)\n"
    "      --seconds S       time budget of each side of a point, 0 to 60 (default 0.3)\n"
    "      --csv FILE        also write the points to a new CSV file: "
    "n,k,m,dtype,group,zeros,config,ours_us,cublas_us,\n"
    "                        ratio (cublas_us / ours_us),tflops (ours),rel_error,weight_bytes,read_us,read_alone_us,\n"
    "                        peak_tflops; it appears when it is complete\n"
    "      --cublas PATH     libcublasLt: the file, or the folder that holds it (default: where the loader looks, "
    "then\n"
    "                        /usr/local/cuda/lib64)\n"
    "  -h, --help            this text\n\n"
    "examples:\n"
    "  cuda_compare --m 1,16,512 --shapes 4096x4096,57344x8192\n"
    "  cuda_compare --config all-best --csv compare.csv\n"
    "  cuda_compare --config sm90_n128m128k64_coop --m 512,8192 --dtype bf16 --seconds 1\n"
    "  cuda_compare --cublas /usr/local/lib/python3.12/site-packages/nvidia/cu13/lib --zeros integer\n\n"
    "exit codes: 0 done; 1 a wrong result, an error of the GPU or an unusable CSV file; 2 the command line; 3 no GPU\n"
    "that w4a16 can use; 4 no libcublasLt.\n";

typedef struct shape {
    int64_t n, k;
} shape;

typedef struct arguments {
    int64_t m[MAX_LIST];
    shape shapes[MAX_LIST];
    int m_count, shape_count;
    const char *config, *cublas, *csv;
    int64_t group_size;
    w4a16_dtype dtype;
    w4a16_zero_kind zero_kind;
    double seconds;
} arguments;

typedef enum candidate_kind { OURS, THEIRS, READ, READ_ALONE, MULTIPLY } candidate_kind;

/** Something to be timed: one of our configs, one algorithm of cuBLAS on one layout of W, or one of the limits. */
typedef struct candidate {
    candidate_kind kind;
    char name[96];
    w4a16_plan **plans; /* ours: one for each copy of the weight */
    size_t copies;
    CUdeviceptr workspace; /* ours, its own */
    size_t workspace_bytes;
    lt_weight_layout layout; /* cuBLAS's */
    lt_algorithm algorithm;
    CUgraphExec graph; /* over all copies */
    double seconds;    /* of one call, where it was timed */
} candidate;

typedef struct comparison {
    const arguments *options;
    w4a16_context *context;
    w4a16_device_info device;
    lt_library lt;
    limits limits;
    CUcontext primary;
    CUstream stream;
    CUevent events[ROUNDS_PER_BATCH * MAX_SLOTS + 1];
    float values[1 << 16]; /* of each bit pattern of the dtype */
    FILE *csv;
    w4_output csv_output;
    int failures;
    double log_ratios[MAX_LIST]; /* sums over the shapes, for each M */
    int ratios[MAX_LIST];

    /* Of the shape. */
    int64_t n, k, largest_m;
    w4a16_canonical canonical;
    w4a16_weight **weights;
    size_t weight_copies, dense_copies;
    uint64_t dense_stride;       /* bytes from copy to copy */
    uint64_t weight_bytes;       /* packed */
    double read, read_alone;     /* seconds for as many; 0: kernels do not overlap on this GPU */
    CUdeviceptr dense[2];        /* by layout */
    CUdeviceptr a, c, workspace; /* the workspace is cuBLAS's; C is both sides' */
    CUdeviceptr reference;       /* [m, n] of fp32 */
    uint16_t *host_c;
    float *expected; /* [m, n]: the point's true result, as the dense weights give it */

    /* Of the point. */
    int64_t m;
    lt_product products[2]; /* by layout */
} comparison;

/* ---- Device memory ------------------------------------------------------------------------------------------- */

/** Between host and device, either way; all memory has one space of addresses. */
static w4a16_status copy(const comparison *self, CUdeviceptr target, CUdeviceptr source, uint64_t bytes) {
    W4_TRY(w4_cuda_call(cuMemcpyAsync, target, source, bytes, self->stream));
    return w4_cuda_call(cuStreamSynchronize, self->stream);
}

static CUdeviceptr of_host(const void *memory) {
    return (CUdeviceptr)(uintptr_t)memory;
}

static void device_free(CUdeviceptr *memory) {
    w4_cuda_free(*memory);
    *memory = 0;
}

/* ---- The shape ----------------------------------------------------------------------------------------------- */

static size_t cold_copies(double bytes) {
    return (size_t)fmin(MAX_COPIES, fmax(2, ceil(COLD_BYTES / bytes)));
}

static w4a16_status make_weights(comparison *self) {
    w4a16_weight_info info = {.struct_size = sizeof info};
    void *memory;
    W4_TRY(w4_allocate(MAX_COPIES * sizeof *self->weights, "weights", &memory));
    self->weights = memory;
    size_t wanted = 1;
    while (self->weight_copies < wanted) {
        W4_TRY(w4a16_weight_create(self->context, &self->canonical, &self->weights[self->weight_copies]));
        if (self->weight_copies++) continue;
        W4_TRY(w4a16_weight_query(self->weights[0], &info));
        self->weight_bytes = info.device_bytes;
        wanted = cold_copies((double)info.device_bytes);
    }
    return W4A16_OK;
}

/** Both layouts of the dense weight, as many copies of each as are cold; the host's arrays have [n, k] elements. */
static w4a16_status make_dense(comparison *self, uint16_t *by_row, uint16_t *by_column) {
    uint64_t bytes = (uint64_t)self->n * (uint64_t)self->k * 2;
    self->dense_copies = cold_copies((double)bytes);
    self->dense_stride = (uint64_t)w4_round_up((int64_t)bytes, 256);
    W4_TRY(decode_canonical(&self->canonical, self->values, by_row));
    transpose(by_row, self->n, self->k, by_column);
    for (int layout = 0; layout < 2; layout++) {
        CUdeviceptr *dense = &self->dense[layout];
        W4_TRY(w4_cuda_allocate(self->dense_stride * self->dense_copies, "dense weights", dense));
        W4_TRY(copy(self, *dense, of_host(layout == LT_WEIGHT_NK ? by_row : by_column), bytes));
        for (size_t i = 1; i < self->dense_copies; i++)
            W4_TRY(w4_cuda_call(cuMemcpyAsync, *dense + i * self->dense_stride, *dense, bytes, self->stream));
    }
    return w4_cuda_call(cuStreamSynchronize, self->stream);
}

static w4a16_status make_shape_arrays(comparison *self) {
    uint64_t a_count = (uint64_t)self->largest_m * (uint64_t)self->k,
             c_count = (uint64_t)self->largest_m * (uint64_t)self->n,
             w_bytes = (uint64_t)self->n * (uint64_t)self->k * 2;
    void *by_row = NULL, *by_column = NULL, *a = NULL, *memory;
    W4_TRY(random_canonical(self->n, self->k, self->options->group_size, self->options->dtype, self->options->zero_kind,
                            &self->canonical));
    W4_TRY(make_weights(self));
    w4a16_status status = w4_allocate_aligned(w_bytes, 64, "dense weights", &by_row);
    if (!status) status = w4_allocate_aligned(w_bytes, 64, "dense weights", &by_column);
    if (!status) status = make_dense(self, by_row, by_column);
    free(by_row);
    free(by_column);
    if (status) return status;
    status = w4_allocate_aligned(a_count * 2, 64, "activations", &a);
    if (!status) status = random_activations(self->largest_m, self->k, self->options->dtype, a);
    if (!status) status = w4_cuda_allocate(a_count * 2, "activations", &self->a);
    if (!status) status = copy(self, self->a, of_host(a), a_count * 2);
    free(a);
    if (status) return status;
    W4_TRY(w4_cuda_allocate(c_count * 2, "outputs", &self->c));
    W4_TRY(w4_cuda_allocate(c_count * sizeof(float), "reference outputs", &self->reference));
    W4_TRY(w4_cuda_allocate(LT_WORKSPACE_BYTES, "a workspace", &self->workspace));
    W4_TRY(w4_allocate_aligned(c_count * 2, 64, "outputs", &memory));
    self->host_c = memory;
    W4_TRY(w4_allocate_aligned(c_count * sizeof(float), 64, "reference outputs", &memory));
    self->expected = memory;
    return W4A16_OK;
}

static void free_shape(comparison *self) {
    for (size_t i = 0; i < self->weight_copies; i++) w4a16_weight_destroy(self->weights[i]);
    free(self->weights);
    self->weights = NULL;
    self->weight_copies = 0;
    free_random_canonical(&self->canonical);
    device_free(&self->dense[0]);
    device_free(&self->dense[1]);
    device_free(&self->a);
    device_free(&self->c);
    device_free(&self->workspace);
    device_free(&self->reference);
    free(self->host_c);
    free(self->expected);
    self->host_c = NULL;
    self->expected = NULL;
}

/* ---- Candidates ---------------------------------------------------------------------------------------------- */

/** The bytes that are read for a weight, in a multiple of 16. */
static uint64_t read_bytes(const comparison *self) {
    return self->weight_bytes / 16 * 16;
}

/** @param index of the copy of the weight that this call takes */
static w4a16_status call(const comparison *self, const candidate *which, size_t index) {
    switch (which->kind) {
    case OURS:
        return w4a16_gemm(which->plans[index], (const void *)(uintptr_t)self->a, self->k, (void *)(uintptr_t)self->c,
                          self->n, self->m, (void *)(uintptr_t)which->workspace, which->workspace_bytes, self->stream);
    case THEIRS:
        return lt_product_run(&self->lt, &self->products[which->layout], &which->algorithm,
                              self->dense[which->layout] + index * self->dense_stride, self->a, self->c,
                              self->workspace, LT_WORKSPACE_BYTES, self->stream);
    case MULTIPLY:
        return limits_multiply(&self->limits, self->stream);
    default:
        return limits_read(&self->limits, self->dense[0] + index * read_bytes(self), read_bytes(self),
                           which->kind == READ, self->stream);
    }
}

static void free_graph(candidate *which) {
    if (which->graph) (void)w4_cuda_driver_get()->cuGraphExecDestroy(which->graph);
    which->graph = NULL;
}

static void free_candidate(candidate *which) {
    free_graph(which);
    for (size_t i = 0; which->plans && i < which->copies; i++) w4a16_plan_destroy(which->plans[i]);
    free(which->plans);
    device_free(&which->workspace);
    *which = (candidate){0};
}

/** @param config NULL: the library's choice. Ends up in *made also where it fails: free_candidate. */
static w4a16_status make_ours(const comparison *self, const char *config, candidate *made) {
    w4a16_plan_options options;
    w4a16_plan_info info = {.struct_size = sizeof info};
    void *memory;
    w4a16_plan_options_init(&options);
    options.m_min = options.m_max = self->m;
    options.a_dtype = options.c_dtype = self->options->dtype;
    options.config = config;
    *made = (candidate){.kind = OURS, .copies = self->weight_copies};
    W4_TRY(w4_allocate(made->copies * sizeof *made->plans, "plans", &memory));
    made->plans = memory;
    for (size_t i = 0; i < made->copies; i++) W4_TRY(w4a16_plan_create(self->weights[i], &options, &made->plans[i]));
    W4_TRY(w4a16_plan_query(made->plans[0], &info));
    snprintf(made->name, sizeof made->name, "%s", info.config);
    made->workspace_bytes = info.workspace_bytes;
    return info.workspace_bytes ? w4_cuda_allocate(info.workspace_bytes, "a workspace", &made->workspace) : W4A16_OK;
}

/** Fill C with NaN, multiply, and compare with the expected result: all of ours, some rows of cuBLAS's. @param replay
 * the graph instead of one call */
static w4a16_status find_error(const comparison *self, const candidate *which, bool replay, double *error) {
    int64_t n = self->n, m = self->m, step = which->kind == OURS ? 1 : w4_ceil_divide(m, THEIR_ROWS);
    int64_t rows = w4_ceil_divide(m, step);
    double difference = 0, total = 0;
    CUDA_MEMCPY2D some = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = self->c,
                          .srcPitch = (size_t)(step * n) * 2,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = self->host_c,
                          .dstPitch = (size_t)n * 2,
                          .WidthInBytes = (size_t)n * 2,
                          .Height = (size_t)rows};
    W4_TRY(w4_cuda_call(cuMemsetD8Async, self->c, 0xff, (size_t)(m * n) * 2, self->stream));
    W4_TRY(replay ? w4_cuda_call(cuGraphLaunch, which->graph, self->stream) : call(self, which, 0));
    W4_TRY(w4_cuda_call(cuMemcpy2DAsync, &some, self->stream));
    W4_TRY(w4_cuda_call(cuStreamSynchronize, self->stream));
#pragma omp parallel for schedule(static) reduction(+ : difference, total)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < n; i++) {
            double wanted = self->expected[row * step * n + i], got = self->values[self->host_c[row * n + i]];
            difference += (got - wanted) * (got - wanted);
            total += wanted * wanted;
        }
    *error = sqrt(difference / total);
    return W4A16_OK;
}

static w4a16_status check(const comparison *self, const candidate *which, bool replay, double *error) {
    W4_TRY(find_error(self, which, replay, error));
    if (*error < ERROR_LIMIT) return W4A16_OK;
    return w4_fail(W4A16_ERROR_INTERNAL, "%s is wrong%s: relative error %g, the limit is %g", which->name,
                   replay ? " when called back to back" : "", *error, ERROR_LIMIT);
}

/** Record one call for each copy of the weight. */
static w4a16_status capture(const comparison *self, candidate *which) {
    CUgraph graph = NULL;
    W4_TRY(w4_cuda_call(cuStreamBeginCapture, self->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    w4a16_status status = W4A16_OK;
    for (size_t i = 0; !status && i < which->copies; i++) status = call(self, which, i);
    /* A capture must end, also after a failure; its first error is the one to report. */
    if (status)
        (void)w4_cuda_driver_get()->cuStreamEndCapture(self->stream, &graph);
    else
        status = w4_cuda_call(cuStreamEndCapture, self->stream, &graph);
    if (!status) status = w4_cuda_call(cuGraphInstantiateWithFlags, &which->graph, graph, 0);
    if (graph) (void)w4_cuda_driver_get()->cuGraphDestroy(graph);
    return status;
}

/** The true result by the dense weights, its outputs not rounded to 16 bits: with two results in bf16 their own
 * rounding would come near the limit. */
static w4a16_status make_expected(comparison *self) {
    lt_product product;
    lt_algorithm algorithm;
    int count = 0;
    W4_TRY(lt_product_create(&self->lt, LT_WEIGHT_NK, self->m, self->n, self->k, self->options->dtype, W4A16_FP32,
                             &product));
    w4a16_status status = lt_product_algorithms(&self->lt, &product, LT_WORKSPACE_BYTES, 1, &algorithm, &count);
    if (!status)
        status = lt_product_run(&self->lt, &product, &algorithm, self->dense[LT_WEIGHT_NK], self->a, self->reference,
                                self->workspace, LT_WORKSPACE_BYTES, self->stream);
    if (!status)
        status = copy(self, of_host(self->expected), self->reference,
                      (uint64_t)self->m * (uint64_t)self->n * sizeof *self->expected);
    lt_product_destroy(&self->lt, &product);
    return status;
}

/* ---- Timing -------------------------------------------------------------------------------------------------- */

/** `rounds` rounds of all slots' graphs, one after the other; times[slot * MAX_ROUNDS + done + ...] in milliseconds. */
static w4a16_status replay_rounds(const comparison *self, candidate *const *slots, int slot_count, int rounds, int done,
                                  double *times) {
    int replays = rounds * slot_count;
    for (int i = 0; i < replays; i++) {
        W4_TRY(w4_cuda_call(cuEventRecord, self->events[i], self->stream));
        W4_TRY(w4_cuda_call(cuGraphLaunch, slots[i % slot_count]->graph, self->stream));
    }
    W4_TRY(w4_cuda_call(cuEventRecord, self->events[replays], self->stream));
    W4_TRY(w4_cuda_call(cuEventSynchronize, self->events[replays]));
    for (int i = 0; i < replays; i++) {
        float milliseconds = 0;
        W4_TRY(w4_cuda_call(cuEventElapsedTime, &milliseconds, self->events[i], self->events[i + 1]));
        times[i % slot_count * MAX_ROUNDS + done + i / slot_count] = (double)milliseconds;
    }
    return W4A16_OK;
}

/** Time the slots' graphs in turn: `least` rounds or more, until each slot has had `seconds` on average. Sets each
 * candidate's `seconds`; where one has several slots, to that of its last. */
static w4a16_status time_in_turn(const comparison *self, candidate *const *slots, int slot_count, int warm_up,
                                 int least, double seconds) {
    void *memory;
    W4_TRY(w4_allocate((uint64_t)slot_count * MAX_ROUNDS * sizeof(double), "times", &memory));
    double *times = memory;
    double total = 0;
    int rounds = 0;
    w4a16_status status = replay_rounds(self, slots, slot_count, warm_up, 0, times);
    while (!status && rounds + ROUNDS_PER_BATCH <= MAX_ROUNDS && (rounds < least || total < seconds)) {
        int batch = (int)w4_minimum(ROUNDS_PER_BATCH, least);
        status = replay_rounds(self, slots, slot_count, batch, rounds, times);
        for (int slot = 0; !status && slot < slot_count; slot++)
            for (int i = rounds; i < rounds + batch; i++) total += times[slot * MAX_ROUNDS + i] * 1e-3 / slot_count;
        rounds += batch;
    }
    for (int slot = 0; !status && slot < slot_count; slot++)
        slots[slot]->seconds =
            w4_median(times + slot * MAX_ROUNDS, (size_t)rounds) * 1e-3 / (double)slots[slot]->copies;
    free(times);
    return status;
}

/** The fastest of `count` candidates, which are timed in turn; `between` (may be NULL) runs before each of them, so
 * that all find the GPU in the same state. */
static w4a16_status find_best(const comparison *self, candidate *candidates, int count, candidate *between,
                              candidate **best) {
    candidate *slots[MAX_SLOTS] = {NULL};
    int slot_count = 0;
    *best = candidates;
    if (count == 1) return W4A16_OK;
    for (int i = 0; i < count; i++) {
        if (between) slots[slot_count++] = between;
        slots[slot_count++] = &candidates[i];
    }
    W4_TRY(time_in_turn(self, slots, slot_count, 1, CHOICE_ROUNDS, CHOICE_SECONDS));
    for (int i = 1; i < count; i++)
        if (candidates[i].seconds < (*best)->seconds) *best = &candidates[i];
    return W4A16_OK;
}

/* ---- Limits -------------------------------------------------------------------------------------------------- */

/** Time one or two limits, in turn. */
static w4a16_status time_limits(const comparison *self, candidate *these, int count) {
    candidate *slots[] = {&these[0], &these[count - 1]};
    w4a16_status status = W4A16_OK;
    for (int i = 0; !status && i < count; i++) status = capture(self, &these[i]);
    if (!status) status = time_in_turn(self, slots, count, WARM_UP_ROUNDS, MIN_ROUNDS, LIMIT_SECONDS);
    for (int i = 0; i < count; i++) free_graph(&these[i]);
    return status;
}

/** What reading a weight of this shape takes at least, in memory that no cache holds: the dense weights'. */
static w4a16_status measure_reads(comparison *self) {
    size_t copies =
        (size_t)w4_minimum((int64_t)(self->dense_stride * self->dense_copies / read_bytes(self)), MAX_COPIES);
    candidate reads[] = {{.kind = READ_ALONE, .copies = copies}, {.kind = READ, .copies = copies}};
    W4_TRY(time_limits(self, reads, self->limits.overlaps ? 2 : 1));
    self->read_alone = reads[0].seconds;
    self->read = reads[1].seconds;
    return W4A16_OK;
}

/** What the tensor cores reach at this moment, as hot as the GPU is: operations a second. */
static w4a16_status measure_peak(const comparison *self, double *peak) {
    candidate multiply = {.kind = MULTIPLY, .copies = 1};
    W4_TRY(time_limits(self, &multiply, 1));
    *peak = limits_multiply_flop(&self->limits) / multiply.seconds;
    return W4A16_OK;
}

/* ---- One point ----------------------------------------------------------------------------------------------- */

static void report_failure(comparison *self, const char *what) {
    fprintf(stderr, "cuda_compare: N %lld, K %lld, M %lld: %s%s%s\n", (long long)self->n, (long long)self->k,
            (long long)self->m, what, *what ? ": " : "", w4a16_last_error());
    self->failures++;
}

/** The heuristics' proposals for one layout that do run, checked and captured. */
static w4a16_status make_theirs(comparison *self, lt_weight_layout layout, candidate *candidates, int *count) {
    const lt_product *product = &self->products[layout];
    lt_algorithm algorithms[LT_ALGORITHMS];
    int found = 0;
    W4_TRY(lt_product_create(&self->lt, layout, self->m, self->n, self->k, self->options->dtype, self->options->dtype,
                             &self->products[layout]));
    w4a16_status status =
        lt_product_algorithms(&self->lt, product, LT_WORKSPACE_BYTES, LT_ALGORITHMS, algorithms, &found);
    for (int i = 0; !status && i < found; i++) {
        candidate *made = &candidates[*count];
        double error;
        *made = (candidate){.kind = THEIRS, .copies = self->dense_copies, .layout = layout, .algorithm = algorithms[i]};
        snprintf(made->name, sizeof made->name, "%s#%d", layout == LT_WEIGHT_NK ? "NK" : "KN", i);
        /* Also because a kernel's first call may load it, which a capture forbids. */
        status = check(self, made, false, &error);
        if (!status) status = capture(self, made);
        if (!status) (*count)++;
        if (status == W4A16_ERROR_UNSUPPORTED) status = W4A16_OK; /* a proposal that is none */
    }
    return status == W4A16_ERROR_UNSUPPORTED ? W4A16_OK : status;
}

/** The configs to time, checked and captured; one that is wrong is reported and left out. */
static w4a16_status make_all_of_ours(comparison *self, candidate *candidates, double *errors, int *count) {
    const arguments *options = self->options;
    static w4a16_config_info configs[MAX_CONFIGS];
    size_t config_count = 1;
    bool all = options->config && strcmp(options->config, ALL_BEST) == 0;
    if (all) {
        w4a16_problem problem;
        w4a16_problem_init(&problem);
        problem.m = self->m;
        problem.n = self->n;
        problem.k = self->k;
        problem.group_size = options->group_size;
        problem.a_dtype = problem.c_dtype = problem.scale_dtype = options->dtype;
        problem.zero_kind = options->zero_kind;
        W4_TRY(w4a16_config_list(self->context, &problem, configs, MAX_CONFIGS, &config_count));
        config_count = (size_t)w4_minimum((int64_t)config_count, MAX_CONFIGS);
    }
    for (size_t i = 0; i < config_count; i++) {
        const char *config = all ? configs[i].name : options->config;
        candidate *made = &candidates[*count];
        if (all && !configs[i].feasible) continue;
        w4a16_status status = make_ours(self, config, made);
        if (!status) status = check(self, made, false, &errors[*count]);
        if (!status) status = capture(self, made);
        if (status && !all) {
            (*count)++; /* to be freed */
            return status;
        }
        if (status) {
            report_failure(self, config);
            free_candidate(made);
        } else {
            (*count)++;
        }
    }
    return *count ? W4A16_OK : w4_fail(W4A16_ERROR_UNSUPPORTED, "no config can run this point");
}

/** Seconds as a cell of the CSV file; empty where there is no such time. */
static const char *microseconds(double seconds, char text[32]) {
    if (seconds > 0)
        snprintf(text, 32, "%.4f", seconds * 1e6);
    else
        *text = 0;
    return text;
}

static void print_point(comparison *self, const candidate *ours, const candidate *theirs, double error, double peak,
                        int m_index) {
    static const char *const zero_names[] = {"none", "integer", "float"};
    const arguments *options = self->options;
    double ratio = theirs->seconds / ours->seconds;
    double tflops = 2e-12 * (double)self->m * (double)self->n * (double)self->k / ours->seconds;
    self->log_ratios[m_index] += log(ratio);
    self->ratios[m_index]++;
    printf("%6lld %6lld %6lld  %-32s %10.2f %10.2f %-5s %7.3f %8.1f %9.2g\n", (long long)self->n, (long long)self->k,
           (long long)self->m, ours->name, ours->seconds * 1e6, theirs->seconds * 1e6, theirs->name, ratio, tflops,
           error);
    fflush(stdout);
    if (!self->csv) return;
    char read[32], read_alone[32];
    fprintf(self->csv, "%lld,%lld,%lld,%s,%lld,%s,%s,%.4f,%.4f,%.4f,%.2f,%.3g,%llu,%s,%s,%.2f\n", (long long)self->n,
            (long long)self->k, (long long)self->m, w4a16_dtype_name(options->dtype), (long long)options->group_size,
            zero_names[options->zero_kind], ours->name, ours->seconds * 1e6, theirs->seconds * 1e6, ratio, tflops,
            error, (unsigned long long)self->weight_bytes, microseconds(self->read, read),
            microseconds(self->read_alone, read_alone), peak * 1e-12);
}

static w4a16_status compare(comparison *self, candidate *ours, double *errors, int *our_count, candidate *theirs,
                            int *their_count, int m_index) {
    candidate *our_best, *their_best;
    double error, peak;
    W4_TRY(make_expected(self));
    W4_TRY(make_theirs(self, LT_WEIGHT_NK, theirs, their_count));
    W4_TRY(make_theirs(self, LT_WEIGHT_KN, theirs, their_count));
    if (!*their_count) return w4_fail(W4A16_ERROR_UNSUPPORTED, "cuBLAS has no algorithm that runs this point");
    W4_TRY(make_all_of_ours(self, ours, errors, our_count));
    W4_TRY(find_best(self, theirs, *their_count, NULL, &their_best));
    W4_TRY(find_best(self, ours, *our_count, their_best, &our_best));
    candidate *both[] = {our_best, their_best};
    W4_TRY(time_in_turn(self, both, 2, WARM_UP_ROUNDS, MIN_ROUNDS, self->options->seconds));
    W4_TRY(measure_peak(self, &peak));
    /* What was timed were calls back to back: they must be right, too. */
    W4_TRY(check(self, our_best, true, &error));
    print_point(self, our_best, their_best, fmax(error, errors[our_best - ours]), peak, m_index);
    return W4A16_OK;
}

static void compare_point(comparison *self, int m_index) {
    static candidate ours[MAX_CONFIGS], theirs[2 * LT_ALGORITHMS];
    static double errors[MAX_CONFIGS];
    int our_count = 0, their_count = 0;
    self->m = self->options->m[m_index];
    if (compare(self, ours, errors, &our_count, theirs, &their_count, m_index)) report_failure(self, "");
    for (int i = 0; i < our_count; i++) free_candidate(&ours[i]);
    for (int i = 0; i < their_count; i++) free_candidate(&theirs[i]);
    for (int layout = 0; layout < 2; layout++) lt_product_destroy(&self->lt, &self->products[layout]);
}

static void compare_shape(comparison *self, const shape *of) {
    const arguments *options = self->options;
    self->n = of->n;
    self->k = of->k;
    self->m = self->largest_m = 1;
    for (int i = 0; i < options->m_count; i++) self->largest_m = w4_maximum(self->largest_m, options->m[i]);
    if (make_shape_arrays(self))
        report_failure(self, "the arrays");
    else if (measure_reads(self))
        report_failure(self, "reading memory");
    else
        for (int i = 0; i < options->m_count; i++) compare_point(self, i);
    free_shape(self);
}

/* ---- The program --------------------------------------------------------------------------------------------- */

static bool read_integer(const char *text, char **end, int64_t *value) {
    errno = 0;
    long long number = strtoll(text, end, 10);
    *value = number;
    return *end != text && !errno;
}

static bool usage(const char *option, const char *value, const char *right) {
    fprintf(stderr, "cuda_compare: %s: '%s' will not do; give %s (cuda_compare --help)\n", option, value, right);
    return false;
}

static bool read_m(arguments *options, const char *text) {
    const char *right = "up to 64 whole numbers from 1 to 1048576, such as 1,16,512";
    char *end = (char *)(uintptr_t)text;
    for (options->m_count = 0;;) {
        int64_t m;
        if (options->m_count == MAX_LIST || !read_integer(end, &end, &m) || m < 1 || m > 1 << 20 ||
            (*end && *end != ','))
            return usage("--m", text, right);
        options->m[options->m_count++] = m;
        if (!*end++) return true;
    }
}

static bool read_shapes(arguments *options, const char *text) {
    const char *right = "up to 64 shapes NxK, N and K from 1 to 16777216, such as 4096x4096,28672x4096";
    char *end = (char *)(uintptr_t)text;
    for (options->shape_count = 0;;) {
        shape s;
        if (options->shape_count == MAX_LIST || !read_integer(end, &end, &s.n) || *end != 'x' ||
            !read_integer(end + 1, &end, &s.k) || s.n < 1 || s.n > 1 << 24 || s.k < 1 || s.k > 1 << 24 ||
            (*end && *end != ','))
            return usage("--shapes", text, right);
        options->shapes[options->shape_count++] = s;
        if (!*end++) return true;
    }
}

enum { OPTION_CONFIG = 256, OPTION_DTYPE, OPTION_ZEROS, OPTION_SECONDS, OPTION_CSV, OPTION_CUBLAS };

static bool read_option(arguments *options, int option, const char *text) {
    char *end;
    switch (option) {
    case 'm':
        return read_m(options, text);
    case 's':
        return read_shapes(options, text);
    case 'g':
        if (!read_integer(text, &end, &options->group_size) || *end ||
            (options->group_size != -1 && (options->group_size < 32 || options->group_size % 32)))
            return usage("--group", text, "a multiple of 32, or -1");
        return true;
    case OPTION_DTYPE:
        options->dtype = strcmp(text, "bf16") ? W4A16_FP16 : W4A16_BF16;
        return !strcmp(text, "fp16") || !strcmp(text, "bf16") || usage("--dtype", text, "fp16 or bf16");
    case OPTION_ZEROS:
        options->zero_kind = !strcmp(text, "integer") ? W4A16_ZERO_INTEGER
                             : !strcmp(text, "float") ? W4A16_ZERO_FLOAT
                                                      : W4A16_ZERO_SYMMETRIC;
        return options->zero_kind || !strcmp(text, "none") || usage("--zeros", text, "none, integer or float");
    case OPTION_SECONDS:
        options->seconds = strtod(text, &end);
        return (end != text && !*end && options->seconds >= 0 && options->seconds <= 60) ||
               usage("--seconds", text, "a number of seconds from 0 to 60");
    case OPTION_CONFIG:
        options->config = text;
        return true;
    case OPTION_CSV:
        options->csv = text;
        return true;
    default:
        options->cublas = text;
        return true;
    }
}

/** @return -1: go on; else the exit code. */
static int read_arguments(int argc, char **argv, arguments *options) {
    static const struct option names[] = {
        {"m", required_argument, NULL, 'm'},
        {"shapes", required_argument, NULL, 's'},
        {"group", required_argument, NULL, 'g'},
        {"config", required_argument, NULL, OPTION_CONFIG},
        {"dtype", required_argument, NULL, OPTION_DTYPE},
        {"zeros", required_argument, NULL, OPTION_ZEROS},
        {"seconds", required_argument, NULL, OPTION_SECONDS},
        {"csv", required_argument, NULL, OPTION_CSV},
        {"cublas", required_argument, NULL, OPTION_CUBLAS},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    *options = (arguments){.group_size = 128, .dtype = W4A16_FP16, .seconds = 0.3};
    (void)read_m(options, "1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192");
    (void)read_shapes(options, "4096x4096,28672x4096,4096x14336,10240x8192,8192x8192,57344x8192,8192x28672");
    for (int option; (option = getopt_long(argc, argv, "m:s:g:h", names, NULL)) != -1;) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option == '?' || !read_option(options, option, optarg)) return EXIT_USAGE;
    }
    if (optind == argc) return -1;
    (void)usage("operand", argv[optind], "options only");
    return EXIT_USAGE;
}

/** Streams, events, cuBLAS's handle; the primary context is current until `finish`. */
static w4a16_status start(comparison *self) {
    W4_TRY(w4_cuda_call(cuDevicePrimaryCtxRetain, &self->primary, 0));
    W4_TRY(w4_cuda_call(cuCtxPushCurrent, self->primary));
    W4_TRY(w4_cuda_call(cuStreamCreate, &self->stream, CU_STREAM_NON_BLOCKING));
    for (size_t i = 0; i < sizeof self->events / sizeof *self->events; i++)
        W4_TRY(w4_cuda_call(cuEventCreate, &self->events[i], CU_EVENT_DEFAULT));
    W4_TRY(limits_open(0, &self->limits));
    W4_TRY(lt_begin(&self->lt));
    for (uint32_t bits = 0; bits < 1 << 16; bits++) {
        uint16_t element = (uint16_t)bits;
        W4_TRY(w4a16_convert_elements(&element, self->options->dtype, &self->values[bits], W4A16_FP32, 1));
    }
    return W4A16_OK;
}

static void finish(comparison *self) {
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    CUcontext popped;
    lt_end(&self->lt);
    limits_close(&self->limits);
    for (size_t i = 0; i < sizeof self->events / sizeof *self->events; i++)
        if (self->events[i]) (void)driver->cuEventDestroy(self->events[i]);
    if (self->stream) (void)driver->cuStreamDestroy(self->stream);
    w4a16_context_destroy(self->context);
    if (!self->primary) return;
    (void)driver->cuCtxPopCurrent(&popped);
    (void)driver->cuDevicePrimaryCtxRelease(0);
}

static void print_heading(FILE *file, const comparison *self) {
    int version = w4_cuda_driver_get()->version;
    size_t lt_version = self->lt.GetVersion();
    fprintf(file,
            "# cuda_compare: %s, driver of CUDA %d.%d, cuBLASLt %zu (%s), w4a16 %s\n"
            "# %s, group %lld; cold weights, graphs replayed in turn, medians; ratio = cublas_us / ours_us\n",
            self->device.name, version / 1000, version % 1000 / 10, lt_version, self->lt.path, w4a16_version(),
            w4a16_dtype_name(self->options->dtype), (long long)self->options->group_size);
}

/** A name that no device has would fail at every point. */
static bool config_known(const comparison *self) {
    const char *name = self->options->config;
    w4a16_config_info configs[MAX_CONFIGS];
    size_t count = 0;
    if (!name || !strcmp(name, ALL_BEST)) return true;
    if (w4a16_config_list(self->context, NULL, configs, MAX_CONFIGS, &count)) return true;
    for (size_t i = 0; i < count && i < MAX_CONFIGS; i++)
        if (!strcmp(configs[i].name, name)) return true;
    return usage("--config", name, "all-best, or a name of `w4a16 configs`");
}

static void compare_all(comparison *self) {
    const arguments *options = self->options;
    print_heading(stdout, self);
    if (self->csv) {
        print_heading(self->csv, self);
        fprintf(self->csv, "n,k,m,dtype,group,zeros,config,ours_us,cublas_us,ratio,tflops,rel_error,weight_bytes,"
                           "read_us,read_alone_us,peak_tflops\n");
    }
    printf("%6s %6s %6s  %-32s %10s %10s %-5s %7s %8s %9s\n", "N", "K", "M", "config", "ours us", "cuBLAS us", "its",
           "ratio", "TFLOP/s", "error");
    for (int i = 0; i < options->shape_count; i++) compare_shape(self, &options->shapes[i]);
    for (int i = 0; i < options->m_count; i++)
        if (self->ratios[i])
            printf("M %lld: ratio %.3f, geometric mean over %d shapes\n", (long long)options->m[i],
                   exp(self->log_ratios[i] / self->ratios[i]), self->ratios[i]);
}

/** The file takes its name when it is complete. */
static w4a16_status open_csv(comparison *self) {
    W4_TRY(w4_output_open(self->options->csv, false, &self->csv_output));
    int descriptor = dup(self->csv_output.descriptor);
    self->csv = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (self->csv) return W4A16_OK;
    w4_output_abandon(&self->csv_output);
    return w4_fail(W4A16_ERROR_IO, "%s: %s", self->options->csv, strerror(errno));
}

static w4a16_status close_csv(comparison *self) {
    if (fclose(self->csv) == 0) return w4_output_commit(&self->csv_output);
    int error = errno;
    w4_output_abandon(&self->csv_output);
    return w4_fail(W4A16_ERROR_IO, "%s: %s", self->options->csv, strerror(error));
}

int main(int argc, char **argv) {
    static comparison self;
    arguments options;
    w4a16_context_options context_options;
    char reason[512];
    int code = read_arguments(argc, argv, &options);
    if (code >= 0) return code;
    self.options = &options;
    w4a16_context_options_init(&context_options);
    context_options.device = "cuda:0";
    if (w4a16_context_create(&context_options, &self.context)) {
        fprintf(stderr, "cuda_compare: no GPU that w4a16 can use: %s\n", w4a16_last_error());
        return EXIT_NO_GPU;
    }
    self.device.struct_size = sizeof self.device;
    (void)w4a16_context_device(self.context, &self.device);
    if (!config_known(&self)) {
        finish(&self);
        return EXIT_USAGE;
    }
    if (!lt_open(options.cublas, &self.lt, reason, sizeof reason)) {
        fprintf(stderr, "cuda_compare: %s\n", reason);
        finish(&self);
        return EXIT_NO_CUBLAS;
    }
    if (options.csv && open_csv(&self)) {
        fprintf(stderr, "cuda_compare: --csv: %s; give a file that can be made and is not there yet\n",
                w4a16_last_error());
        finish(&self);
        return EXIT_WRONG;
    }
    if (start(&self)) {
        fprintf(stderr, "cuda_compare: %s\n", w4a16_last_error());
        self.failures++;
    } else {
        compare_all(&self);
    }
    finish(&self);
    if (self.csv && close_csv(&self)) {
        fprintf(stderr, "cuda_compare: --csv: %s\n", w4a16_last_error());
        self.failures++;
    }
    return self.failures ? EXIT_WRONG : 0;
}
