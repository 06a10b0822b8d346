/* SPDX-License-Identifier: Apache-2.0
 * The linear layers of a decode step, as an inference engine would run them: each reads what the one before wrote, all
 * of them in one CUDA graph. Prints the time of a step and the share of the memory's bandwidth that it reaches, with
 * calls that overlap (the library's way) and with W4A16_PLAN_NO_OVERLAP. Weights are random, and what stands between
 * the linear layers in a model (attention, norms, activations) is left out: the next layer takes the first columns.
 *
 *     cc decode_chain.c $(pkg-config --cflags --libs w4a16) -lm -ldl -o decode_chain && ./decode_chain [-m TOKENS] [-s]
 *
 * --json prints one JSON object for each model, on a line of its own, instead. -s runs a small version, which needs
 * little memory and proves nothing about speed; without a GPU it is all there is. The library leaves device memory,
 * streams and graphs to its caller: here they come straight from the driver, which is opened at run time, so that
 * nothing of CUDA is needed to build this.
 */
#include <w4a16.h>

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINEARS = 4, MAX_LAYERS = 80, GROUP_SIZE = 128, WARM_UPS = 3, RUNS = 20, SMALLER = 16 };

/** Weights of a step must not fit in a cache, or a step would be faster than in a model. */
static const double COLD_BYTES = 400e6;

typedef struct model {
    const char *name;
    int layers;
    struct {
        const char *name;
        int64_t n, k;
    } linears[LINEARS];
} model;

static const model models[] = {
    {"Llama 3 8B", 32, {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}}},
    {"Llama 3 70B", 80, {{"qkv", 10240, 8192}, {"o", 8192, 8192}, {"gate_up", 57344, 8192}, {"down", 8192, 28672}}},
};

/* ---- The driver ---------------------------------------------------------------------------------------------- */

typedef unsigned long long device_pointer;

#define FUNCTIONS(FUNCTION)                                                                                            \
    FUNCTION(cuInit, "cuInit", (unsigned flags))                                                                       \
    FUNCTION(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (void **context, int device))                       \
    FUNCTION(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (int device))                                  \
    FUNCTION(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (void *context))                                                 \
    FUNCTION(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (void **context))                                                  \
    FUNCTION(cuMemAlloc, "cuMemAlloc_v2", (device_pointer * memory, size_t bytes))                                     \
    FUNCTION(cuMemFree, "cuMemFree_v2", (device_pointer memory))                                                       \
    FUNCTION(cuMemcpyAsync, "cuMemcpyAsync",                                                                           \
             (device_pointer target, device_pointer source, size_t bytes, void *stream))                               \
    FUNCTION(cuStreamCreate, "cuStreamCreate", (void **stream, unsigned flags))                                        \
    FUNCTION(cuStreamDestroy, "cuStreamDestroy_v2", (void *stream))                                                    \
    FUNCTION(cuStreamSynchronize, "cuStreamSynchronize", (void *stream))                                               \
    FUNCTION(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (void *stream, int mode))                                \
    FUNCTION(cuStreamEndCapture, "cuStreamEndCapture", (void *stream, void **graph))                                   \
    FUNCTION(cuGraphInstantiate, "cuGraphInstantiateWithFlags", (void **executable, void *graph, unsigned long long))  \
    FUNCTION(cuGraphLaunch, "cuGraphLaunch", (void *executable, void *stream))                                         \
    FUNCTION(cuGraphDestroy, "cuGraphDestroy", (void *graph))                                                          \
    FUNCTION(cuGraphExecDestroy, "cuGraphExecDestroy", (void *executable))                                             \
    FUNCTION(cuEventCreate, "cuEventCreate", (void **event, unsigned flags))                                           \
    FUNCTION(cuEventRecord, "cuEventRecord", (void *event, void *stream))                                              \
    FUNCTION(cuEventSynchronize, "cuEventSynchronize", (void *event))                                                  \
    FUNCTION(cuEventElapsedTime, "cuEventElapsedTime", (float *milliseconds, void *begin, void *end))                  \
    FUNCTION(cuEventDestroy, "cuEventDestroy_v2", (void *event))

static struct {
#define FIELD(name, symbol, parameters) int(*name) parameters;
    FUNCTIONS(FIELD)
} driver;

static int on_gpu, gpu, json;
static void *stream; /* NULL on the CPU */

static _Noreturn void give_up(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

/** A call of the library, and one of the driver, that must succeed. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if (call) give_up(#call, w4a16_last_error());                                                                  \
    } while (0)
#define DRIVE(function, ...)                                                                                           \
    do {                                                                                                               \
        if (driver.function(__VA_ARGS__)) give_up(#function, "the CUDA driver reports an error");                      \
    } while (0)

static void driver_open(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *address, *context;
    if (!library) give_up("libcuda.so.1", dlerror());
#define RESOLVE(name, symbol, parameters)                                                                              \
    address = dlsym(library, symbol);                                                                                  \
    if (!address) give_up(symbol, "the CUDA driver lacks it");                                                         \
    memcpy(&driver.name, &address, sizeof address);
    FUNCTIONS(RESOLVE)
    DRIVE(cuInit, 0);
    DRIVE(cuDevicePrimaryCtxRetain, &context, gpu);
    DRIVE(cuCtxPushCurrent, context);
    DRIVE(cuStreamCreate, &stream, 1); /* does not wait for the default stream */
}

static void driver_close(void) {
    void *context;
    DRIVE(cuStreamDestroy, stream);
    DRIVE(cuCtxPopCurrent, &context);
    DRIVE(cuDevicePrimaryCtxRelease, gpu);
}

/** The device's memory, aligned to 256 bytes. */
static void *allocate(size_t bytes) {
    size_t rounded = bytes / 256 * 256 + 256;
    if (on_gpu) {
        device_pointer memory = 0;
        DRIVE(cuMemAlloc, &memory, rounded);
        return (void *)(uintptr_t)memory;
    }
    void *memory = aligned_alloc(256, rounded);
    if (!memory) give_up("activations", "out of memory");
    return memory;
}

static void release(void *memory) {
    if (on_gpu)
        DRIVE(cuMemFree, (device_pointer)(uintptr_t)memory);
    else
        free(memory);
}

/** Between host and device, either way. */
static void copy(void *target, const void *source, size_t bytes) {
    if (!on_gpu) {
        memcpy(target, source, bytes);
        return;
    }
    DRIVE(cuMemcpyAsync, (device_pointer)(uintptr_t)target, (device_pointer)(uintptr_t)source, bytes, stream);
    DRIVE(cuStreamSynchronize, stream);
}

static void *allocate_on_host(size_t bytes) {
    void *memory = malloc(bytes);
    if (!memory) give_up("a weight", "out of memory");
    return memory;
}

/* ---- A step -------------------------------------------------------------------------------------------------- */

enum { OVERLAP, NO_OVERLAP, WAYS };

typedef struct step {
    int layers, distinct; /* the layers of the step take the distinct ones in turn */
    int64_t m, n[LINEARS], k[LINEARS];
    w4a16_weight *weights[MAX_LAYERS][LINEARS];
    w4a16_plan *plans[MAX_LAYERS][LINEARS][WAYS];
    void *outputs[LINEARS]; /* [m, n]; the last one is also the step's input */
    void *workspace;
    size_t workspace_bytes;
    void *graphs[WAYS], *events[2]; /* on a GPU */
} step;

static uint64_t next_random(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/** Random codes under scales of either sign, all of a size that keeps activations as large as they are. */
static w4a16_weight *make_weight(w4a16_context *context, int64_t n, int64_t k) {
    size_t bytes = (size_t)(n * k / 2), groups = (size_t)(n * k / GROUP_SIZE);
    uint64_t *codes = allocate_on_host(bytes);
    uint16_t *scales = allocate_on_host(groups * 2), bits;
    float scale = 1 / (4.64f * sqrtf((float)k)); /* the root mean square of q - 8 is 4.64 */
    TRY(w4a16_convert_elements(&scale, W4A16_FP32, &bits, W4A16_FP16, 1));
    for (size_t i = 0; i < bytes / 8; ++i) codes[i] = next_random();
    for (size_t i = 0; i < groups; ++i) scales[i] = (uint16_t)(bits | (next_random() >> 40 & 1) << 15);
    w4a16_canonical canonical;
    w4a16_weight *weight;
    w4a16_canonical_init(&canonical);
    canonical.n = n;
    canonical.k = k;
    canonical.group_size = GROUP_SIZE;
    canonical.codes = (const uint8_t *)codes;
    canonical.scales = scales;
    canonical.scale_dtype = W4A16_FP16;
    TRY(w4a16_weight_create(context, &canonical, &weight));
    free(codes);
    free(scales);
    return weight;
}

static void make_plans(step *s, int layer, int linear) {
    w4a16_plan_info info = {.struct_size = sizeof info};
    for (int way = 0; way < WAYS; ++way) {
        w4a16_plan **plan = &s->plans[layer][linear][way];
        w4a16_plan_options options;
        w4a16_plan_options_init(&options);
        options.m_min = options.m_max = s->m;
        if (way == NO_OVERLAP) { /* the same kernel, which another choice would not give the same bits */
            options.flags = W4A16_PLAN_NO_OVERLAP;
            options.config = info.config;
        }
        TRY(w4a16_plan_create(s->weights[layer][linear], &options, plan));
        TRY(w4a16_plan_query(*plan, &info));
        if (info.workspace_bytes > s->workspace_bytes) s->workspace_bytes = info.workspace_bytes;
    }
}

/** Start all calls of a step. One workspace serves them all, for in a stream they run one after another. */
static void start(const step *s, int way) {
    for (int layer = 0; layer < s->layers; ++layer) {
        for (int i = 0; i < LINEARS; ++i) {
            int before = (i + LINEARS - 1) % LINEARS;
            TRY(w4a16_gemm(s->plans[layer % s->distinct][i][way], s->outputs[before], s->n[before], s->outputs[i],
                           s->n[i], s->m, s->workspace, s->workspace_bytes, stream));
        }
    }
}

static void *capture(const step *s, int way) {
    void *graph, *executable;
    DRIVE(cuStreamBeginCapture, stream, 1); /* of this thread alone */
    start(s, way);
    DRIVE(cuStreamEndCapture, stream, &graph);
    DRIVE(cuGraphInstantiate, &executable, graph, 0);
    DRIVE(cuGraphDestroy, graph);
    return executable;
}

static void describe(const step *s, const model *what, double bytes) {
    printf("%s, M = %lld: %d layers of", what->name, (long long)s->m, s->layers);
    for (int i = 0; i < LINEARS; ++i)
        printf(" %s %lldx%lld,", what->linears[i].name, (long long)s->n[i], (long long)s->k[i]);
    printf(" %d of them distinct (%.0f MB of weights)\n", s->distinct, bytes * 1e-6);
}

static void step_make(step *s, w4a16_context *context, const model *what, int64_t m, int small) {
    double bytes = 0;
    *s = (step){.layers = small ? 2 : what->layers, .m = m};
    for (int i = 0; i < LINEARS; ++i) {
        s->n[i] = what->linears[i].n / (small ? SMALLER : 1);
        s->k[i] = what->linears[i].k / (small ? SMALLER : 1);
        s->outputs[i] = allocate((size_t)(m * s->n[i]) * 2);
    }
    while (s->distinct < s->layers && (small || bytes < COLD_BYTES)) {
        for (int i = 0; i < LINEARS; ++i) {
            w4a16_weight_info info = {.struct_size = sizeof info};
            s->weights[s->distinct][i] = make_weight(context, s->n[i], s->k[i]);
            TRY(w4a16_weight_query(s->weights[s->distinct][i], &info));
            bytes += (double)info.device_bytes;
            make_plans(s, s->distinct, i);
        }
        ++s->distinct;
    }
    s->workspace = allocate(s->workspace_bytes);
    if (!json) describe(s, what, bytes);
    if (!on_gpu) return;
    for (int way = 0; way < WAYS; ++way) s->graphs[way] = capture(s, way);
    for (int i = 0; i < 2; ++i) DRIVE(cuEventCreate, &s->events[i], 0);
}

static void step_free(step *s) {
    for (int way = 0; on_gpu && way < WAYS; ++way) DRIVE(cuGraphExecDestroy, s->graphs[way]);
    for (int i = 0; on_gpu && i < 2; ++i) DRIVE(cuEventDestroy, s->events[i]);
    for (int layer = 0; layer < s->distinct; ++layer) {
        for (int i = 0; i < LINEARS; ++i) {
            for (int way = 0; way < WAYS; ++way) w4a16_plan_destroy(s->plans[layer][i][way]);
            w4a16_weight_destroy(s->weights[layer][i]);
        }
    }
    for (int i = 0; i < LINEARS; ++i) release(s->outputs[i]);
    release(s->workspace);
}

/** Seconds of one step. */
static double run(const step *s, int way) {
    if (on_gpu) {
        float milliseconds;
        DRIVE(cuEventRecord, s->events[0], stream);
        DRIVE(cuGraphLaunch, s->graphs[way], stream);
        DRIVE(cuEventRecord, s->events[1], stream);
        DRIVE(cuEventSynchronize, s->events[1]);
        DRIVE(cuEventElapsedTime, &milliseconds, s->events[0], s->events[1]);
        return (double)milliseconds * 1e-3;
    }
    struct timespec begin, end;
    timespec_get(&begin, TIME_UTC);
    start(s, way);
    timespec_get(&end, TIME_UTC);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

/** Both ways make the same of the same activations, bit for bit, and something of about the same size. */
static void check(const step *s) {
    size_t count = (size_t)(s->m * s->n[LINEARS - 1]);
    float *numbers = allocate_on_host(count * sizeof *numbers);
    uint16_t *bits = allocate_on_host(count * 2), *results[WAYS];
    for (size_t i = 0; i < count; ++i) numbers[i] = (float)(next_random() >> 40) * 0x1p-23f - 1;
    TRY(w4a16_convert_elements(numbers, W4A16_FP32, bits, W4A16_FP16, count));
    for (int way = 0; way < WAYS; ++way) {
        results[way] = allocate_on_host(count * 2);
        copy(s->outputs[LINEARS - 1], bits, count * 2);
        run(s, way);
        copy(results[way], s->outputs[LINEARS - 1], count * 2);
    }
    if (memcmp(results[OVERLAP], results[NO_OVERLAP], count * 2) != 0)
        give_up("the last layer's output", "overlapping calls give another one than calls that wait");
    double squares = 0;
    TRY(w4a16_convert_elements(results[OVERLAP], W4A16_FP16, numbers, W4A16_FP32, count));
    for (size_t i = 0; i < count; ++i) squares += (double)numbers[i] * (double)numbers[i];
    double size = sqrt(squares / (double)count);
    if (!(size > 0.01 && size < 100)) give_up("the last layer's output", "zeros, or numbers without end");
    for (int way = 0; way < WAYS; ++way) free(results[way]);
    free(numbers);
    free(bits);
}

/** Bytes that a step must move at least: codes, scales, activations in and out, each once. */
static double bytes_of(const step *s) {
    double bytes = 0;
    for (int i = 0; i < LINEARS; ++i) {
        double m = (double)s->m, n = (double)s->n[i], k = (double)s->k[i];
        bytes += n * k / 2 + n * k / GROUP_SIZE * 2 + m * (n + k) * 2;
    }
    return bytes * s->layers;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/** Time both ways in turn, so that clocks and temperature are the same for both; medians count. read: bytes a second
 * that a plain read loop reaches, or 0 where that says nothing. */
static void compare(const step *s, const model *what, int runs, double read) {
    static const char *const names[WAYS] = {"with overlap", "without overlap"};
    double times[WAYS][RUNS], medians[WAYS];
    int ways = on_gpu ? WAYS : 1;
    for (int i = -WARM_UPS; i < runs; ++i) {
        for (int way = 0; way < ways; ++way) {
            double seconds = run(s, way);
            if (i >= 0) times[way][i] = seconds;
        }
    }
    for (int way = 0; way < ways; ++way) {
        qsort(times[way], (size_t)runs, sizeof(double), compare_doubles);
        medians[way] = times[way][runs / 2];
    }
    if (json) {
        printf("{\"model\": \"%s\", \"m\": %lld, \"layers\": %d, \"bytes\": %.0f, \"seconds\": %.9f", what->name,
               (long long)s->m, s->layers, bytes_of(s), medians[OVERLAP]);
        if (on_gpu) printf(", \"no_overlap_seconds\": %.9f", medians[NO_OVERLAP]);
        if (read > 0) printf(", \"read_bytes_per_second\": %.0f", read);
        puts("}");
        return;
    }
    for (int way = 0; way < ways; ++way) {
        double rate = bytes_of(s) / medians[way];
        printf("  %-16s %9.1f us a step, %.3f TB/s", on_gpu ? names[way] : "on the CPU", medians[way] * 1e6,
               rate * 1e-12);
        if (read > 0) printf(", %.1f %% of what reading memory reaches", rate / read * 100);
        putchar('\n');
    }
    if (on_gpu) printf("  overlap: %.3f times as fast, the same bits\n", medians[NO_OVERLAP] / medians[OVERLAP]);
}

int main(int argc, char **argv) {
    static step s;
    int64_t m = 1;
    int small = 0;
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "-s") == 0)
            small = 1;
        else if (strcmp(argv[i], "--json") == 0)
            json = 1;
        else if (strcmp(argv[i], "-m") == 0 && i + 1 < argc)
            m = strtol(argv[++i], NULL, 10);
        else
            m = 0;
    }
    if (m < 1 || m > 1024) {
        fprintf(stderr, "usage: %s [-m TOKENS, 1 to 1024, default 1] [-s] [--json]\n", argv[0]);
        return 2;
    }
    w4a16_context *context;
    w4a16_device_info device = {.struct_size = sizeof device};
    w4a16_ceilings ceilings = {.struct_size = sizeof ceilings};
    TRY(w4a16_context_create(NULL, &context));
    TRY(w4a16_context_device(context, &device));
    on_gpu = strncmp(device.id, "cuda:", 5) == 0;
    if (!json) printf("on %s, %s\n", device.id, device.name);
    if (on_gpu) {
        gpu = atoi(device.id + 5);
        driver_open();
    } else {
        if (!json) puts("no GPU: a small version on the CPU, which has no overlap");
        small = 1;
    }
    if (!small) {
        TRY(w4a16_measure_ceilings(context, &ceilings));
        if (!json) printf("reading memory reaches %.3f TB/s\n", ceilings.read_bytes_per_second * 1e-12);
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; ++i) {
        step_make(&s, context, &models[i], m, small);
        check(&s);
        compare(&s, &models[i], small ? 3 : RUNS, ceilings.read_bytes_per_second);
        step_free(&s);
    }
    if (on_gpu) driver_close();
    w4a16_context_destroy(context);
    return EXIT_SUCCESS;
}
