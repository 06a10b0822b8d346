/* SPDX-License-Identifier: Apache-2.0
 * What the library costs the host: loading it up to the first result, making a plan, and each call. `overhead --help`
 * says what is measured. The library is opened with dlopen, so that this can be timed; each measurement starts this
 * program anew, for what a process does first it does only once. */
#include "core/median.h"
#include "w4a16.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_WRONG = 1, EXIT_USAGE = 2, EXIT_NO_DEVICE = 3 };

static const char help[] =
    "usage: overhead [options]\n\n"
    "Measure what libw4a16 costs the host, in fresh processes, medians over them: the steps from loading the library "
    "to\n"
    "the first result, a process's first plan and later ones, and, on a GPU, a call of w4a16_gemm that only enqueues "
    "(in\n"
    "bursts that do not fill the launch queue), one that is waited for, and, to compare, an empty kernel that the "
    "driver\n"
    "launches without any library; for plans of several m_max, whose calls "
    "have\n"
    "m = m_max. The driver's own start (cuInit, the primary context), which any program on a GPU pays, is a step of "
    "its\n"
    "own. The first result is checked.\n\n"
    "  -d, --device D        cpu, cuda:0, ... (default: cuda:0 where there is one that can be used, else cpu)\n"
    "  -s, --shape NxK       the weight, symmetric, group 128, fp16 (default 4096x4096)\n"
    "  -m, --m-max LIST      of the plans, up to 8 (default 1,64,8192; on the CPU 1,64)\n"
    "  -r, --processes R     for each m_max, 1 to 100 (default 5); one more goes before, to fill the file cache\n"
    "      --library PATH    libw4a16.so (default: beside this program, in the folder above, or where the loader\n"
    "                        looks)\n"
    "      --name            only print the device's own name, and its driver's CUDA\n"
    "      --json            one JSON object instead of a table\n"
    "  -h, --help            this text\n\n"
    "examples:\n"
    "  overhead\n"
    "  overhead --device cpu --processes 20 --json\n"
    "  overhead --shape 57344x8192\n\n"
    "exit codes: 0 done; 1 an error, or a wrong result; 2 the command line; 3 no such device.\n";

/* What a fresh process measures, in the order in which it happens. The steps add up to `total`. */
#define FIGURES(FIGURE)                                                                                                \
    FIGURE(library, "load libw4a16 (dlopen)", STEP)                                                                    \
    FIGURE(driver, "load the driver, cuInit", STEP)                                                                    \
    FIGURE(primary, "primary context of the GPU", STEP)                                                                \
    FIGURE(context, "w4a16_context_create", STEP)                                                                      \
    FIGURE(weight, "w4a16_weight_create", STEP)                                                                        \
    FIGURE(first_plan, "first w4a16_plan_create", STEP)                                                                \
    FIGURE(first_call, "first w4a16_gemm, waited for", STEP)                                                           \
    FIGURE(total, "load to first result", SUM)                                                                         \
    FIGURE(plan, "w4a16_plan_create again", LATER)                                                                     \
    FIGURE(call, "w4a16_gemm, enqueued", LATER)                                                                        \
    FIGURE(waited_call, "w4a16_gemm, waited for", LATER)                                                               \
    FIGURE(empty, "an empty kernel, enqueued", LATER)

enum figure_kind { STEP, SUM, LATER };
enum figure {
#define FIGURE_INDEX(name, text, kind) FIGURE_##name,
    FIGURES(FIGURE_INDEX)
#undef FIGURE_INDEX
        FIGURE_COUNT
};

static const struct {
    const char *name, *text;
    enum figure_kind kind;
} figures[] = {
#define FIGURE_ROW(name, text, kind) {#name, text, kind},
    FIGURES(FIGURE_ROW)
#undef FIGURE_ROW
};

enum {
    PLANS = 200,
    BURST = 32, /* calls enqueued between two waits: a launch queue holds about a thousand */
    BURSTS = 200,
    LEAST_BURSTS = 5,
    MAX_PROCESSES = 100,
    MAX_PLANS = 8,
    LARGEST_TEXT = 256
};
static const double CALL_SECONDS = 0.3; /* about, for either way of calling */

typedef struct arguments {
    const char *device, *library;
    int64_t n, k, m[MAX_PLANS];
    int m_count, processes;
    bool json, name;
    int64_t fresh_m; /* not 0: be one of the fresh processes, for this m_max */
} arguments;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- A fresh process ----------------------------------------------------------------------------------------- */

#define LIBRARY_FUNCTIONS(FUNCTION)                                                                                    \
    FUNCTION(w4a16_last_error)                                                                                         \
    FUNCTION(w4a16_convert_elements)                                                                                   \
    FUNCTION(w4a16_context_options_init)                                                                               \
    FUNCTION(w4a16_context_create)                                                                                     \
    FUNCTION(w4a16_context_destroy)                                                                                    \
    FUNCTION(w4a16_canonical_init)                                                                                     \
    FUNCTION(w4a16_weight_create)                                                                                      \
    FUNCTION(w4a16_weight_destroy)                                                                                     \
    FUNCTION(w4a16_plan_options_init)                                                                                  \
    FUNCTION(w4a16_plan_create)                                                                                        \
    FUNCTION(w4a16_plan_query)                                                                                         \
    FUNCTION(w4a16_plan_destroy)                                                                                       \
    FUNCTION(w4a16_gemm)

static struct {
#define FIELD(name) __typeof__(&name) name;
    LIBRARY_FUNCTIONS(FIELD)
#undef FIELD
} w4;

typedef unsigned long long device_pointer;

/* FUNCTION(name, the symbol, its parameters); handles are pointers to something opaque, CUresult is an int. */
#define DRIVER_FUNCTIONS(FUNCTION)                                                                                     \
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
    FUNCTION(cuModuleLoadData, "cuModuleLoadData", (void **module, const void *image))                                 \
    FUNCTION(cuModuleUnload, "cuModuleUnload", (void *module))                                                         \
    FUNCTION(cuModuleGetFunction, "cuModuleGetFunction", (void **function, void *module, const char *name))            \
    FUNCTION(cuLaunchKernel, "cuLaunchKernel",                                                                         \
             (void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,   \
              unsigned block_z, unsigned shared_bytes, void *stream, void **arguments, void **extra))

static struct {
#define FIELD(name, symbol, parameters) int(*name) parameters;
    DRIVER_FUNCTIONS(FIELD)
#undef FIELD
} driver;

static _Noreturn void give_up(const char *what, const char *why) {
    fprintf(stderr, "overhead: %s: %s\n", what, why);
    exit(EXIT_WRONG);
}

/** A call of the library, and one of the driver, that must succeed. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if (w4.call) give_up(#call, w4.w4a16_last_error());                                                            \
    } while (0)
#define DRIVE(call)                                                                                                    \
    do {                                                                                                               \
        if (driver.call) give_up(#call, "the CUDA driver reports an error");                                           \
    } while (0)

static void resolve(void *library, const char *symbol, void *function) {
    void *address = dlsym(library, symbol);
    if (!address) give_up(symbol, "not in that library");
    memcpy(function, &address, sizeof address);
}

static void open_library(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) give_up("the library (--library says where it is)", dlerror());
#define RESOLVE(name) resolve(library, #name, &w4.name);
    LIBRARY_FUNCTIONS(RESOLVE)
#undef RESOLVE
}

static void open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) give_up("the CUDA driver", dlerror());
#define RESOLVE(name, symbol, parameters) resolve(library, symbol, &driver.name);
    DRIVER_FUNCTIONS(RESOLVE)
#undef RESOLVE
    DRIVE(cuInit(0));
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(256, (bytes / 256 + 1) * 256);
    if (!memory) give_up("an array", "out of memory");
    return memory;
}

/** What calls need: the activations are 1, every weight is 1/1024, and so every result K/1024. */
typedef struct calls {
    bool on_gpu;
    int gpu;
    int64_t m, n, k;
    w4a16_weight *weight;
    w4a16_plan *plan;
    void *a, *c, *workspace, *stream; /* the device's */
    void *empty;                      /* not NULL: launch this kernel instead */
    size_t workspace_bytes;
} calls;

static w4a16_weight *make_weight(w4a16_context *context, int64_t n, int64_t k, double *seconds) {
    int64_t groups = (k + 127) / 128, row_bytes = (k + 1) / 2;
    uint8_t *codes = allocate((size_t)(n * row_bytes));
    uint16_t *scales = allocate((size_t)(n * groups) * 2);
    w4a16_canonical canonical;
    w4a16_weight *weight;
    memset(codes, 0x99, (size_t)(n * row_bytes)); /* 9 - 8 = 1 */
    if (k & 1)
        for (int64_t row = 1; row <= n; row++) codes[row * row_bytes - 1] = 0x09;
    for (int64_t i = 0; i < n * groups; i++) scales[i] = 0x1400; /* 2^-10 in fp16 */
    w4.w4a16_canonical_init(&canonical);
    canonical.n = n;
    canonical.k = k;
    canonical.group_size = 128;
    canonical.codes = codes;
    canonical.scales = scales;
    canonical.scale_dtype = W4A16_FP16;
    double begin = now();
    TRY(w4a16_weight_create(context, &canonical, &weight));
    *seconds = now() - begin;
    free(codes);
    free(scales);
    return weight;
}

/** Host memory on the CPU, else device memory. */
static void *make_array(const calls *self, size_t bytes) {
    device_pointer memory = 0;
    if (!self->on_gpu) return allocate(bytes);
    DRIVE(cuMemAlloc(&memory, bytes ? bytes : 1));
    return (void *)(uintptr_t)memory;
}

static void free_array(const calls *self, void *memory) {
    if (self->on_gpu)
        DRIVE(cuMemFree((device_pointer)(uintptr_t)memory));
    else
        free(memory);
}

static void copy(const calls *self, void *target, const void *source, size_t bytes) {
    if (!self->on_gpu) {
        memcpy(target, source, bytes);
        return;
    }
    DRIVE(cuMemcpyAsync((device_pointer)(uintptr_t)target, (device_pointer)(uintptr_t)source, bytes, self->stream));
    DRIVE(cuStreamSynchronize(self->stream));
}

static void make_arrays(calls *self) {
    size_t a_count = (size_t)(self->m * self->k), c_count = (size_t)(self->m * self->n);
    uint16_t *ones = allocate(a_count * 2);
    for (size_t i = 0; i < a_count; i++) ones[i] = 0x3c00;
    self->a = make_array(self, a_count * 2);
    self->c = make_array(self, c_count * 2);
    copy(self, self->a, ones, a_count * 2);
    free(ones);
}

static void finish(const calls *self) {
    if (self->on_gpu) DRIVE(cuStreamSynchronize(self->stream));
}

static void call(const calls *self) {
    if (self->empty) {
        DRIVE(cuLaunchKernel(self->empty, 132, 1, 1, 128, 1, 1, 0, self->stream, NULL, NULL));
        return;
    }
    TRY(w4a16_gemm(self->plan, self->a, self->k, self->c, self->n, self->m, self->workspace, self->workspace_bytes,
                   self->stream));
}

static void check(const calls *self) {
    size_t count = (size_t)(self->m * self->n);
    uint16_t *results = allocate(count * 2), right;
    float value = (float)self->k / 1024;
    TRY(w4a16_convert_elements(&value, W4A16_FP32, &right, W4A16_FP16, 1));
    copy(self, results, self->c, count * 2);
    for (size_t i = 0; i < count; i++)
        if (results[i] != right) give_up("w4a16_gemm", "a wrong result");
    free(results);
}

static w4a16_plan *make_plan(const calls *self) {
    w4a16_plan_options options;
    w4a16_plan *plan;
    w4.w4a16_plan_options_init(&options);
    options.m_max = self->m;
    TRY(w4a16_plan_create(self->weight, &options, &plan));
    return plan;
}

static double time_plans(const calls *self) {
    double times[PLANS];
    for (int i = 0; i < PLANS; i++) {
        double begin = now();
        w4a16_plan *plan = make_plan(self);
        times[i] = now() - begin;
        w4.w4a16_plan_destroy(plan);
    }
    return w4_median(times, PLANS);
}

/** Seconds of a call, of `burst` that follow one another, the GPU's part of it where each is `waited` for: the median
 * of single calls, so that few slow ones, as after a wait, do not count for the others. */
static double time_calls(const calls *self, int burst, bool waited) {
    double times[BURSTS * BURST], begin = now();
    int bursts = 0, count = 0;
    finish(self);
    while (bursts < BURSTS && (bursts < LEAST_BURSTS || now() - begin < CALL_SECONDS)) {
        for (int i = 0; i < burst; i++) {
            double start = now();
            call(self);
            if (waited) finish(self);
            times[count++] = now() - start;
        }
        finish(self);
        bursts++;
    }
    return w4_median(times, (size_t)count);
}

/** The same of a kernel that does nothing: what the driver itself takes. */
static double time_empty_calls(calls self) {
    static const char ptx[] = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry empty() { ret; }\n";
    void *module = NULL;
    if (driver.cuModuleLoadData(&module, ptx)) return 0; /* a driver that cannot compile */
    DRIVE(cuModuleGetFunction(&self.empty, module, "empty"));
    call(&self);
    double seconds = time_calls(&self, BURST, false);
    DRIVE(cuModuleUnload(module));
    return seconds;
}

/** Measure all, and print a line "name seconds" for each figure. */
static void be_fresh(const arguments *options) {
    double seconds[FIGURE_COUNT] = {0};
    calls self = {
        .on_gpu = strncmp(options->device, "cuda:", 5) == 0, .m = options->fresh_m, .n = options->n, .k = options->k};
    w4a16_context_options context_options;
    w4a16_context *context;
    void *primary = NULL;

    double begin = now();
    open_library(options->library);
    seconds[FIGURE_library] = now() - begin;
    if (self.on_gpu) {
        self.gpu = atoi(options->device + 5);
        begin = now();
        open_driver();
        seconds[FIGURE_driver] = now() - begin;
        begin = now();
        DRIVE(cuDevicePrimaryCtxRetain(&primary, self.gpu));
        seconds[FIGURE_primary] = now() - begin;
    }
    begin = now();
    w4.w4a16_context_options_init(&context_options);
    context_options.device = options->device;
    TRY(w4a16_context_create(&context_options, &context));
    seconds[FIGURE_context] = now() - begin;
    self.weight = make_weight(context, self.n, self.k, &seconds[FIGURE_weight]);
    if (self.on_gpu) {
        DRIVE(cuCtxPushCurrent(primary));
        DRIVE(cuStreamCreate(&self.stream, 1)); /* does not wait for the default stream */
    }
    make_arrays(&self);

    begin = now();
    self.plan = make_plan(&self);
    seconds[FIGURE_first_plan] = now() - begin;
    w4a16_plan_info info = {.struct_size = sizeof info};
    TRY(w4a16_plan_query(self.plan, &info));
    self.workspace_bytes = info.workspace_bytes;
    self.workspace = make_array(&self, info.workspace_bytes);
    begin = now();
    call(&self);
    finish(&self);
    seconds[FIGURE_first_call] = now() - begin;
    check(&self);

    seconds[FIGURE_plan] = time_plans(&self);
    if (self.on_gpu) seconds[FIGURE_call] = time_calls(&self, BURST, false);
    seconds[FIGURE_waited_call] = time_calls(&self, 1, true);
    check(&self);
    if (self.on_gpu) seconds[FIGURE_empty] = time_empty_calls(self);
    for (int i = 0; i < FIGURE_total; i++) seconds[FIGURE_total] += seconds[i];
    for (int i = 0; i < FIGURE_COUNT; i++) printf("%s %.9f\n", figures[i].name, seconds[i]);

    free_array(&self, self.a);
    free_array(&self, self.c);
    free_array(&self, self.workspace);
    w4.w4a16_plan_destroy(self.plan);
    w4.w4a16_weight_destroy(self.weight);
    w4.w4a16_context_destroy(context);
    if (!self.on_gpu) return;
    DRIVE(cuStreamDestroy(self.stream));
    DRIVE(cuCtxPopCurrent(&primary));
    DRIVE(cuDevicePrimaryCtxRelease(self.gpu));
}

/* ---- The measurement ----------------------------------------------------------------------------------------- */

/** Start this program anew for one m_max and read its lines. */
static void measure_once(const arguments *options, int64_t m, double seconds[FIGURE_COUNT]) {
    char fresh[32], shape[64], name[LARGEST_TEXT];
    int ends[2], status;
    snprintf(fresh, sizeof fresh, "%lld", (long long)m);
    snprintf(shape, sizeof shape, "%lldx%lld", (long long)options->n, (long long)options->k);
    if (pipe(ends)) give_up("a pipe", strerror(errno));
    pid_t child = fork();
    if (child < 0) give_up("a process", strerror(errno));
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "overhead", "--fresh", fresh, "--shape", shape, "--device", options->device,
              "--library", options->library, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *lines = fdopen(ends[0], "r");
    if (!lines) give_up("a pipe", strerror(errno));
    int count = 0;
    while (count < FIGURE_COUNT && fscanf(lines, "%255s %lf", name, &seconds[count]) == 2 &&
           strcmp(name, figures[count].name) == 0)
        count++;
    fclose(lines);
    if (waitpid(child, &status, 0) < 0) give_up("a process", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status)) exit(EXIT_WRONG); /* it said why */
    if (count != FIGURE_COUNT) give_up("a process", "it did not print what it measured");
}

static void measure(const arguments *options, int64_t m, double medians[FIGURE_COUNT]) {
    static double times[FIGURE_COUNT][MAX_PROCESSES];
    double seconds[FIGURE_COUNT];
    for (int run = -1; run < options->processes; run++) {
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\roverhead: m_max %lld, process %d of %d ", (long long)m, run + 2, options->processes + 1);
        measure_once(options, m, seconds);
        for (int i = 0; run >= 0 && i < FIGURE_COUNT; i++) times[i][run] = seconds[i];
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%60s\r", "");
    for (int i = 0; i < FIGURE_COUNT; i++) medians[i] = w4_median(times[i], (size_t)options->processes);
}

static void print_json(const arguments *options, double (*seconds)[FIGURE_COUNT]) {
    printf("{\"device\": \"%s\", \"n\": %lld, \"k\": %lld, \"processes\": %d, \"plans\": [", options->device,
           (long long)options->n, (long long)options->k, options->processes);
    for (int i = 0; i < options->m_count; i++) {
        printf("%s\n  {\"m_max\": %lld", i ? "," : "", (long long)options->m[i]);
        for (int j = 0; j < FIGURE_COUNT; j++)
            if (seconds[i][j] > 0) printf(", \"%s_seconds\": %.9f", figures[j].name, seconds[i][j]);
        putchar('}');
    }
    puts("\n]}");
}

static void print_table(const arguments *options, double (*seconds)[FIGURE_COUNT]) {
    printf("%s, N=%lld K=%lld; microseconds, medians of %d fresh processes\n\n%-32s", options->device,
           (long long)options->n, (long long)options->k, options->processes, "m_max");
    for (int i = 0; i < options->m_count; i++) printf(" %12lld", (long long)options->m[i]);
    putchar('\n');
    for (int j = 0; j < FIGURE_COUNT; j++) {
        if (!(seconds[0][j] > 0)) continue; /* not of this device */
        printf("%s%-*s", figures[j].kind == STEP ? "  " : "", figures[j].kind == STEP ? 30 : 32, figures[j].text);
        for (int i = 0; i < options->m_count; i++) printf(" %12.2f", seconds[i][j] * 1e6);
        putchar('\n');
    }
}

/* ---- The program --------------------------------------------------------------------------------------------- */

static int usage(const char *option, const char *value, const char *right) {
    fprintf(stderr, "overhead: %s: '%s' will not do; give %s (overhead --help)\n", option, value, right);
    return EXIT_USAGE;
}

/** The device's own name, and what its driver's CUDA is. */
static void print_name(const w4a16_device_info *info) {
    const char *cuda = strstr(info->reason, "driver of CUDA ");
    printf("%s\n%s\n", info->name, cuda ? cuda + strlen("driver of CUDA ") : "none");
}

/** Whether this machine has `device`; NULL becomes the GPU, or the CPU where there is none. */
static bool find_device(arguments *options) {
    w4a16_device_info info = {.struct_size = sizeof info};
    void *library = dlopen(options->library, RTLD_NOW);
    __typeof__(&w4a16_device_query) query;
    if (!library) give_up("the library (--library says where it is)", dlerror());
    resolve(library, "w4a16_device_query", &query);
    for (int index = 0; query(index, &info) == W4A16_OK; index++) {
        if (options->device ? strcmp(info.id, options->device) != 0 : !info.usable) continue;
        static char id[sizeof info.id];
        memcpy(id, info.id, sizeof id);
        if (!info.usable) fprintf(stderr, "overhead: --device %s cannot be used: %s\n", id, info.reason);
        options->device = id;
        if (options->name && info.usable) print_name(&info);
        return info.usable;
    }
    fprintf(stderr, "overhead: --device %s: this machine has none; `w4a16 info` lists its devices\n", options->device);
    return false;
}

/** In a copied folder the library lies beside the program, in a build folder one above. */
static const char *default_library(void) {
    static const char name[] = "libw4a16.so.0", *const below[] = {"", "../"};
    static char path[4096];
    char self[2048];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    char *end = length > 0 ? memrchr(self, '/', (size_t)length) : NULL;
    for (int i = 0; end && i < 2; i++) {
        snprintf(path, sizeof path, "%.*s%s%s", (int)(end + 1 - self), self, below[i], name);
        if (access(path, R_OK) == 0) return path;
    }
    return name;
}

static bool read_m(arguments *options, const char *text) {
    char *end = (char *)(uintptr_t)text;
    for (options->m_count = 0; options->m_count < MAX_PLANS;) {
        const char *begin = end;
        long long m = strtoll(begin, &end, 10);
        if (end == begin || m < 1 || m > 1 << 16 || (*end && *end != ',')) return false;
        options->m[options->m_count++] = m;
        if (!*end++) return true;
    }
    return false;
}

/** @return -1: go on; else the exit code. */
static int read_arguments(int argc, char **argv, arguments *options) {
    enum { OPTION_LIBRARY = 256, OPTION_JSON, OPTION_NAME, OPTION_FRESH };
    static const struct option names[] = {
        {"device", required_argument, NULL, 'd'},
        {"shape", required_argument, NULL, 's'},
        {"m-max", required_argument, NULL, 'm'},
        {"processes", required_argument, NULL, 'r'},
        {"library", required_argument, NULL, OPTION_LIBRARY},
        {"json", no_argument, NULL, OPTION_JSON},
        {"name", no_argument, NULL, OPTION_NAME},
        {"fresh", required_argument, NULL, OPTION_FRESH}, /* for measure_once alone */
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    *options = (arguments){.library = default_library(), .n = 4096, .k = 4096, .processes = 5};
    for (int option; (option = getopt_long(argc, argv, "d:s:m:r:h", names, NULL)) != -1;) {
        long long n, k;
        char rest;
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return 0;
        case 'd':
            options->device = optarg;
            break;
        case 's':
            if (sscanf(optarg, "%lldx%lld%c", &n, &k, &rest) != 2 || n < 1 || n > 1 << 20 || k < 1 || k > 1 << 20)
                return usage("--shape", optarg, "NxK, both from 1 to 1048576, such as 4096x4096");
            options->n = n;
            options->k = k;
            break;
        case 'm':
            if (!read_m(options, optarg))
                return usage("--m-max", optarg, "up to 8 whole numbers from 1 to 65536, such as 1,64");
            break;
        case 'r':
            if (sscanf(optarg, "%lld%c", &n, &rest) != 1 || n < 1 || n > MAX_PROCESSES)
                return usage("--processes", optarg, "a whole number from 1 to 100");
            options->processes = (int)n;
            break;
        case OPTION_LIBRARY:
            options->library = optarg;
            break;
        case OPTION_JSON:
            options->json = true;
            break;
        case OPTION_NAME:
            options->name = true;
            break;
        case OPTION_FRESH:
            options->fresh_m = atoll(optarg);
            break;
        default:
            return EXIT_USAGE;
        }
    }
    return optind == argc ? -1 : usage("operand", argv[optind], "options only");
}

int main(int argc, char **argv) {
    static double seconds[MAX_PLANS][FIGURE_COUNT];
    arguments options;
    int code = read_arguments(argc, argv, &options);
    if (code >= 0) return code;
    if (options.fresh_m) {
        be_fresh(&options);
        return 0;
    }
    if (!find_device(&options)) return EXIT_NO_DEVICE;
    if (options.name) return 0;
    if (!options.m_count) (void)read_m(&options, strcmp(options.device, "cpu") ? "1,64,8192" : "1,64");
    for (int i = 0; i < options.m_count; i++) measure(&options, options.m[i], seconds[i]);
    (options.json ? print_json : print_table)(&options, seconds);
    return 0;
}
