/* SPDX-License-Identifier: Apache-2.0
 * A libcuda.so.1 that is none: device memory is the host's, kernels are loops over the packed layout. It checks what a
 * GPU's driver checks (alignments, sizes, a current context, nothing forbidden during a capture), so that the host side
 * of the backend is tested where there is no GPU. W4A16_FAKE_CUDA says what it pretends:
 *   sm_NN     one GPU of this architecture      none     no GPU
 *   mixed     a Volta and a Hopper GPU          two      two Hopper GPUs
 *   mig       a slice of a Hopper GPU (MIG): some of its processors and of its memory
 *   init      cuInit fails                      old      a driver of CUDA 11.4
 *   memory    sm_90 without free memory         module   sm_90 that takes no cubin
 *   tight     sm_90 with room for one array at a time */
#include "fake_cuda.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SHARED_LIMIT = 232448, MAX_RECORDS = 16384, SMALL_GRAPH = 256, REPLAYED_RECORDS = 4 };

struct CUfunc_st {
    CUcontext context; /* that its module was loaded in */
    char name[96];
    int shared_bytes;
};

struct CUmod_st {
    CUcontext context;
    struct CUfunc_st functions[8];
    int count;
};

struct CUstream_st {
    CUcontext context;
    struct CUgraph_st *capture; /* NULL: not capturing */
};

typedef struct record {
    CUfunction function; /* NULL: a copy, or where `source` is NULL, too, a fill */
    void *target;
    const void *source;
    size_t bytes;
    int value;
    fake_map map;
    w4_gemm_params gemm;
    w4_sm80_gemm_params sm80;
    w4_decode_params decode;
    unsigned grid, threads;
    w4_gather_params gather;
    w4_pack_params pack;
} record;

struct CUgraph_st {
    int count;
    record records[];
};

struct CUevent_st {
    double time;
};

static atomic_int live;   /* allocations, modules, streams, graphs and events not given back */
static atomic_int arrays; /* those of `live` that are device memory */
static atomic_int capturing;
static atomic_uint gemms, overlapping; /* launches */
static atomic_uint images;             /* loaded */
static _Thread_local int depth;        /* of the stack of contexts */
static _Thread_local CUcontext contexts[16];

static int is_mode(const char *name) {
    const char *mode = getenv("W4A16_FAKE_CUDA");
    return strcmp(mode ? mode : "none", name) == 0;
}

static void *make(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) abort();
    live++;
    return memory;
}

static CUresult drop(void *memory) {
    if (!memory) return CUDA_ERROR_INVALID_HANDLE;
    live--;
    free(memory);
    return CUDA_SUCCESS;
}

/** What every call on a device must respect; `unsafe`: not allowed while a stream captures. */
static CUresult check_call(int unsafe) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    return unsafe && capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

#define RESPECT(unsafe)                                                                                                \
    do {                                                                                                               \
        CUresult respect_result = check_call(unsafe);                                                                  \
        if (respect_result) return respect_result;                                                                     \
    } while (0)

__attribute__((destructor)) static void report_leaks(void) {
    if (!live && !depth) return;
    fprintf(stderr, "fake CUDA: %d objects were not given back, %d contexts are still pushed\n", live, depth);
    _exit(98);
}

/* ---- Driver and devices -------------------------------------------------------------------------------------- */

EXPORT CUresult cuDriverGetVersion(int *version) {
    *version = is_mode("old") ? 11040 : 13000;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuInit(unsigned flags) {
    (void)flags;
    return is_mode("init") ? CUDA_ERROR_SYSTEM_DRIVER_MISMATCH : CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY            ? "out of memory"
            : error == CUDA_ERROR_INVALID_IMAGE          ? "device kernel image is invalid"
            : error == CUDA_ERROR_NO_BINARY_FOR_GPU      ? "no kernel image is available for execution on the device"
            : error == CUDA_ERROR_SYSTEM_DRIVER_MISMATCH ? "system has unsupported display driver"
            : error == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing"
                                                             : "an error of the fake driver";
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int *count) {
    *count = is_mode("none") ? 0 : is_mode("mixed") || is_mode("two") ? 2 : 1;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGet(CUdevice *device, int index) {
    *device = index;
    return CUDA_SUCCESS;
}
/** GPUs as their driver describes them: shared memory of a block and of an SM, threads of an SM, kHz, bits. */
typedef struct gpu {
    int capability;
    const char *name;
    int processors, shared_of_block, shared_of_sm, threads_of_sm, clock, memory_clock, bus_width;
} gpu;

static const gpu gpus[] = {
    {70, "Fake V100", 80, 98304, 98304, 2048, 1530000, 877000, 4096},
    {75, "Fake T4", 40, 65536, 65536, 1024, 1590000, 5001000, 256},
    {80, "Fake A100", 108, 166912, 167936, 2048, 1410000, 1593000, 5120},
    {86, "Fake A10", 72, 101376, 102400, 1536, 1695000, 6251000, 384},
    {87, "Fake Orin", 16, 166912, 167936, 1536, 1300000, 1300000, 256},
    {89, "Fake RTX 4090", 128, 101376, 102400, 1536, 2520000, 10501000, 384},
    {90, "Fake H200", 132, SHARED_LIMIT, 233472, 2048, 1980000, 3201000, 6144},
    {100, "Fake B200", 148, SHARED_LIMIT, 233472, 2048, 1965000, 3996000, 8192},
    {120, "Fake RTX 5090", 170, 101376, 102400, 1536, 2407000, 14001000, 512},
};

static const gpu slice = {90, "Fake H200 MIG 1g.18gb", 16, SHARED_LIMIT, 233472, 2048, 1980000, 3201000, 768};

static const gpu *gpu_of(CUdevice device) {
    if (is_mode("mig")) return &slice;
    const char *mode = getenv("W4A16_FAKE_CUDA");
    int capability = mode && strncmp(mode, "sm_", 3) == 0 ? atoi(mode + 3) : is_mode("mixed") && device == 0 ? 70 : 90;
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++)
        if (gpus[i].capability == capability) return &gpus[i];
    abort();
}
/** The one that kernels run on. */
static const gpu *working(void) {
    return gpu_of(is_mode("mixed"));
}
EXPORT CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    snprintf(name, (size_t)size, "%s", gpu_of(device)->name);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    const gpu *it = gpu_of(device);
    switch ((int)attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = it->capability / 10;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = it->capability % 10;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = it->processors;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        *value = it->shared_of_block;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        *value = it->shared_of_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        *value = it->threads_of_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        *value = it->clock;
        break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        *value = it->memory_clock;
        break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        *value = it->bus_width;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    live++;
    *context = (CUcontext)(uintptr_t)(device + 1);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    (void)device;
    live--;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPushCurrent(CUcontext context) {
    if (!context || depth == sizeof contexts / sizeof *contexts) return CUDA_ERROR_INVALID_CONTEXT;
    contexts[depth++] = context;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPopCurrent(CUcontext *context) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    *context = contexts[--depth];
    return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = depth ? contexts[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

static CUresult run_or_record(const record *it, CUstream stream);

/* ---- Memory -------------------------------------------------------------------------------------------------- */

EXPORT CUresult cuMemAlloc(CUdeviceptr *pointer, size_t bytes) {
    RESPECT(1);
    void *memory = NULL;
    if (is_mode("memory") || (is_mode("tight") && arrays)) return CUDA_ERROR_OUT_OF_MEMORY;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (posix_memalign(&memory, 256, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(memory, 0xff, bytes);
    live++;
    arrays++;
    *pointer = (CUdeviceptr)(uintptr_t)memory;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemFree(CUdeviceptr pointer) {
    RESPECT(1);
    if (pointer) arrays--;
    return drop((void *)(uintptr_t)pointer);
}
EXPORT CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    (void)flags;
    RESPECT(1);
    *pointer = make(bytes);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemFreeHost(void *pointer) {
    RESPECT(1);
    return drop(pointer);
}
EXPORT CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) {
    RESPECT(0);
    record copy = {.target = (void *)(uintptr_t)target, .source = (void *)(uintptr_t)source, .bytes = bytes};
    return run_or_record(&copy, stream);
}
EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t bytes, CUstream stream) {
    return cuMemcpyAsync(target, (CUdeviceptr)(uintptr_t)source, bytes, stream);
}
EXPORT CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t bytes, CUstream stream) {
    return cuMemcpyAsync((CUdeviceptr)(uintptr_t)target, source, bytes, stream);
}
EXPORT CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream stream) {
    (void)stream;
    RESPECT(0);
    if (copy->srcPitch < copy->WidthInBytes || copy->dstPitch < copy->WidthInBytes || copy->srcPitch > INT32_MAX ||
        copy->dstPitch > INT32_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    const char *source =
        copy->srcMemoryType == CU_MEMORYTYPE_HOST ? copy->srcHost : (const char *)(uintptr_t)copy->srcDevice;
    char *target = copy->dstMemoryType == CU_MEMORYTYPE_HOST ? copy->dstHost : (char *)(uintptr_t)copy->dstDevice;
    for (size_t row = 0; row < copy->Height; row++)
        memcpy(target + row * copy->dstPitch, source + row * copy->srcPitch, copy->WidthInBytes);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t bytes, CUstream stream) {
    RESPECT(0);
    record fill = {.target = (void *)(uintptr_t)target, .value = value, .bytes = bytes};
    return run_or_record(&fill, stream);
}

/* ---- Kernels ------------------------------------------------------------------------------------------------- */

/** Whether this device takes a fatbin's first entry: after 16 bytes, its kind (1: PTX, 2: a cubin) in 16 bits and,
 * after 28 bytes of its own, the architecture. A cubin runs on its compute capability and later ones of the same major
 * version, but sm_90a's (whose entries these bytes do not tell apart from sm_90's) on 9.0 alone, which is all that
 * there is. */
static int runs_here(const unsigned char *image) {
    static const unsigned char magic[] = {0x50, 0xed, 0x55, 0xba};
    if (memcmp(image, magic, sizeof magic) != 0) return 0;
    int kind = image[16] | image[17] << 8, capability = working()->capability;
    uint32_t code;
    memcpy(&code, image + 16 + 28, sizeof code);
    if (kind == 1) return (int)code <= capability;
    return kind == 2 && (int)code / 10 == capability / 10 && (int)code <= capability;
}

EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    RESPECT(1);
    static atomic_int loaded; /* "gemm": the kernels that gather and pack load, no more */
    if (is_mode("module") || (is_mode("gemm") && atomic_fetch_add(&loaded, 1) >= 2)) return CUDA_ERROR_INVALID_IMAGE;
    if (!runs_here(image)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    images++;
    *module = make(sizeof **module);
    (*module)->context = contexts[depth - 1];
    return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleUnload(CUmodule module) {
    RESPECT(1);
    return drop(module);
}
EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    RESPECT(0);
    if (module->count == 8) return CUDA_ERROR_NOT_FOUND;
    *function = &module->functions[module->count++];
    snprintf((*function)->name, sizeof(*function)->name, "%s", name);
    (*function)->context = module->context;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    RESPECT(0);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > working()->shared_of_block)
        return CUDA_ERROR_INVALID_VALUE;
    function->shared_bytes = value;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                       const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                       const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                       CUtensorMapFloatOOBfill fill) {
    (void)promotion;
    /* Of three dimensions: the columns of a block, rows, blocks side by side. */
    cuuint64_t blocks = rank == 3 ? sizes[2] : 1;
    fake_map fields = {.address = address,
                       .columns = sizes[0] * blocks,
                       .rows = sizes[1],
                       .stride = strides[0],
                       .is_bf16 = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                       .box_rows = box[1],
                       .box_blocks = rank == 3 ? box[2] : 1};
    if (rank == 3 && (!blocks || blocks >> 32 || !box[2] || box[2] > 256 || steps[2] != 1 || strides[1] % 16 ||
                      (blocks > 1 && (sizes[0] != 64 || strides[1] != 128 || strides[0] < blocks * 128))))
        return CUDA_ERROR_INVALID_VALUE;
    if ((rank != 2 && rank != 3) || (uintptr_t)map % 64 || (uintptr_t)address % 16 || strides[0] % 16 ||
        strides[0] >> 40 || !sizes[0] || !sizes[1] || sizes[0] >> 32 || sizes[1] >> 32 || !box[1] || box[1] > 256 ||
        steps[0] != 1 || steps[1] != 1 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        swizzle != (box[0] == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_32B) ||
        (box[0] != 64 && box[0] != 16) || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    memset(map, 0, sizeof *map);
    memcpy(map, &fields, sizeof fields);
    return CUDA_SUCCESS;
}

static int is_gemm(const char *name) {
    return strstr(name, "_fp16") || strstr(name, "_bf16");
}
static int is_decode(const char *name) {
    return strstr(name, "_decode_") != NULL;
}
static int is_sm80(const char *name) {
    return strncmp(name, "w4_sm80_", 8) == 0 && !is_decode(name);
}

/** The activations of a kernel that takes them without a tensor map. */
static fake_map rows_of(const void *a, int64_t lda, const w4_gemm_params *gemm, const char *name) {
    return (fake_map){.address = a,
                      .columns = (uint64_t)gemm->k,
                      .rows = (uint64_t)gemm->m,
                      .stride = (uint64_t)lda * 2,
                      .is_bf16 = strstr(name, "_bf16") != NULL};
}

static void execute(const record *launch) {
    if (!launch->function && launch->source) memcpy(launch->target, launch->source, launch->bytes);
    if (!launch->function && !launch->source) memset(launch->target, launch->value, launch->bytes);
    if (!launch->function) return;
    const char *name = launch->function->name;
#ifdef W4A16_EMULATE
    if (is_gemm(name) && (is_sm80(name) || is_decode(name))) {
        const void *params = is_decode(name) ? (const void *)&launch->decode : &launch->sm80;
        fake_emulate(name, launch->grid, launch->threads, params);
        return;
    }
#endif
    if (is_gemm(name))
        fake_gemm(&launch->gemm, &launch->map);
    else if (strcmp(name, "w4_gather") == 0)
        fake_gather(&launch->gather);
    else if (strcmp(name, "w4_pack") == 0)
        fake_pack(&launch->pack);
    else
        usleep(1000); /* the loops that measure: they compute nothing that is kept */
}

static CUresult run_or_record(const record *it, CUstream stream) {
    if (!stream || !stream->capture) {
        execute(it);
    } else {
        if (stream->capture->count == MAX_RECORDS) return CUDA_ERROR_OUT_OF_MEMORY;
        stream->capture->records[stream->capture->count++] = *it;
    }
    return CUDA_SUCCESS;
}

EXPORT fake_launches fake_count_launches(void) {
    return (fake_launches){gemms, overlapping, images};
}

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream,
                               void **arguments, void **extra) {
    RESPECT(0);
    const CUcontext context = contexts[depth - 1];
    if (is_mode("mixed") && context != (CUcontext)(uintptr_t)2) return CUDA_ERROR_INVALID_CONTEXT;
    if (function && (function->context != context || (stream && stream->context != context)))
        return CUDA_ERROR_INVALID_HANDLE;
    if (!function || !grid_x || grid_y != 1 || grid_z != 1 || !block_x || block_x > 1024 || block_y != 1 ||
        block_z != 1 || (int)shared_bytes > function->shared_bytes || extra)
        return CUDA_ERROR_INVALID_VALUE;
    record launch = {.function = function, .grid = grid_x, .threads = block_x};
    if (is_gemm(function->name) && is_sm80(function->name)) {
        memcpy(&launch.sm80, arguments[0], sizeof launch.sm80);
        int any_group = strstr(function->name, "_any_") != NULL;
        if (!fake_sm80_is_sound(&launch.sm80, any_group, grid_x, block_x, shared_bytes))
            return CUDA_ERROR_INVALID_VALUE;
        launch.gemm = launch.sm80.gemm;
        launch.map = rows_of(launch.sm80.a, launch.sm80.lda, &launch.gemm, function->name);
    } else if (is_gemm(function->name) && is_decode(function->name)) {
        memcpy(&launch.decode, arguments[0], sizeof launch.decode);
        if (!fake_decode_is_sound(&launch.decode, grid_x, block_x, shared_bytes)) return CUDA_ERROR_INVALID_VALUE;
        launch.gemm = launch.decode.gemm;
        launch.map = rows_of(launch.decode.a, launch.decode.lda, &launch.gemm, function->name);
    } else if (is_gemm(function->name)) {
        w4_sm90_gemm_params params;
        fake_map results;
        memcpy(&launch.map, arguments[0], sizeof launch.map);
        memcpy(&results, arguments[1], sizeof results);
        memcpy(&params, arguments[2], sizeof params);
        if (!fake_sm90_is_sound(&params, &launch.map, &results)) return CUDA_ERROR_INVALID_VALUE;
        launch.gemm = params.gemm;
    } else if (strcmp(function->name, "w4_gather") == 0) {
        memcpy(&launch.gather, arguments[0], sizeof launch.gather);
        if (grid_x != (unsigned)launch.gather.m) return CUDA_ERROR_INVALID_VALUE;
    } else if (strcmp(function->name, "w4_pack") == 0) {
        memcpy(&launch.pack, arguments[0], sizeof launch.pack);
        if (grid_x != launch.pack.layout.strips * launch.pack.layout.chunks) return CUDA_ERROR_INVALID_VALUE;
    }
    if (is_gemm(function->name)) gemms++;
    return run_or_record(&launch, stream);
}

EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **arguments, void **extra) {
    unsigned overlaps = 0;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const CUlaunchAttribute *attribute = &config->attrs[i];
        if (working()->capability < 90) return CUDA_ERROR_INVALID_VALUE; /* no clusters, and kernels do not overlap */
        if (attribute->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
            if (config->gridDimX % attribute->value.clusterDim.x) return CUDA_ERROR_INVALID_VALUE;
        } else if (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
            overlaps = attribute->value.programmaticStreamSerializationAllowed != 0;
        } else {
            return CUDA_ERROR_INVALID_VALUE;
        }
    }
    overlapping += overlaps;
    return cuLaunchKernel(function, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
                          config->blockDimY, config->blockDimZ, config->sharedMemBytes, config->hStream, arguments,
                          extra);
}

/* ---- Streams, graphs, events --------------------------------------------------------------------------------- */

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    (void)flags;
    RESPECT(1);
    *stream = make(sizeof **stream);
    (*stream)->context = contexts[depth - 1];
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamDestroy(CUstream stream) {
    RESPECT(0);
    return drop(stream);
}
EXPORT CUresult cuStreamSynchronize(CUstream stream) {
    (void)stream;
    RESPECT(1);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    (void)mode;
    RESPECT(1);
    stream->capture = make(sizeof(struct CUgraph_st) + MAX_RECORDS * sizeof(record));
    capturing++;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    RESPECT(0);
    *graph = stream->capture;
    stream->capture = NULL;
    capturing--;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
    (void)flags;
    RESPECT(1);
    size_t bytes = sizeof *graph + (size_t)graph->count * sizeof(record);
    *executable = (CUgraphExec)memcpy(make(bytes), graph, bytes);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    (void)stream;
    RESPECT(1);
    const struct CUgraph_st *graph = (const struct CUgraph_st *)executable;
    /* Of thousands, which would take minutes, the first ones show what there is to show. */
    int count = graph->count <= SMALL_GRAPH ? graph->count : REPLAYED_RECORDS;
    for (int i = 0; i < count; i++) execute(&graph->records[i]);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuGraphDestroy(CUgraph graph) {
    return drop(graph);
}
EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable) {
    return drop(executable);
}
EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags) {
    (void)flags;
    RESPECT(0);
    *event = make(sizeof **event);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
    struct timespec time;
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, &time);
    event->time = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
    return CUDA_SUCCESS;
}
EXPORT CUresult cuEventSynchronize(CUevent event) {
    (void)event;
    RESPECT(1);
    return CUDA_SUCCESS;
}
/* The driver exports both versions; the library asks for the one that every driver has. */
#undef cuEventElapsedTime
EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent begin, CUevent end);
EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent begin, CUevent end) {
    *milliseconds = (float)((end->time - begin->time) * 1e3);
    return CUDA_SUCCESS;
}
EXPORT CUresult cuEventDestroy(CUevent event) {
    return drop(event);
}
