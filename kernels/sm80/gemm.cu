/* SPDX-License-Identifier: Apache-2.0
 * GEMM for sm_80 and everything since, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n], weights of 4 bits in the packed
 * layout. Compiled once a config of kernels.def, for each architecture.
 *
 * Which side is which: the kernel computes transposed tiles, C^T = W * A^T: the dequantised weights are the left
 * operand of mma.sync.m16n8k16 (16 rows), so that a lane's 16 bytes of a packed block are its fragments of four k16
 * steps. mma's M is our N (out features), mma's N is our M (tokens).
 *
 * Roles: all warps load and multiply. A warp has out features of its own, SLICES times 16, and all tokens of the tile,
 * so that no weight is dequantised twice; or, where that takes too many registers, WARPS_M warps share out the tokens.
 * WARPS_K warps share out the columns of a stage, each with sums of its own, which are added up when a piece of work is
 * done: where tiles are few, fewer CTAs then have parts of one, and no sums go through global memory.
 * schedule.h says which tiles, and which stages of them, a CTA does.
 *
 * A stage, TILE_K columns of k, in shared memory: activations [TILE_K/64][TILE_M][64], of which each row's eight pieces
 * of 16 bytes are in the order piece ^ row % 8, so that ldmatrix meets all banks; then for each strip its codes and the
 * scales and zero points of the groups that the stage touches (w4_slot_bytes).
 *
 * The ring: cp.async brings a stage while ring - 1 others are multiplied or on their way. One __syncthreads a stage
 * says both that its copies have arrived and that nobody reads the stage before, whose place is filled next.
 *
 * Arithmetic: as sm90's kernels do, those of the first kind multiply symmetric fp16 weights by their group's scale as
 * they are dequantised (ScaledCodes), rounded once to fp16; else codes become q - z, exactly (in bf16 over 64 or 4, by
 * the row), and a tile's sums are kept in units of the current group's scale (gemm_multiply.cuh). Kernels for any group
 * (ANY_GROUP) sum the products of 64 columns (of 32, where groups end within) with such exact codes apart and add them
 * times the scale (gemm_multiply_any.cuh). The order over k is the same in every config of a kind that takes tiles
 * whole, if WARPS_K is 1.
 *
 * Order in the stream: weights are loaded before the kernel before this one has ended; A, C, bias and the workspace are
 * touched only after griddepcontrol.wait, where that exists. */
#include "gemm_params.h"
#include "ptx.cuh"

#include "common_gpu/store.cuh"

namespace {

constexpr int TILE_N = W4_TILE_N, TILE_M = W4_TILE_M, TILE_K = W4_TILE_K;
constexpr int WARPS = W4_WARPS, THREADS = 32 * WARPS;
/* Warps that share out tokens, a stage's columns, rows. */
constexpr int WARPS_M = W4_WARPS_M, WARPS_K = W4_WARPS_K, WARPS_N = WARPS / WARPS_M / WARPS_K;
constexpr bool ANY_GROUP = W4_ANY_GROUP;
constexpr int SLOTS = TILE_N / W4_BLOCK_ROWS;                     /* strips in a stage */
constexpr int SLICES = TILE_N / 16 / WARPS_N;                     /* of 16 rows, of one warp */
constexpr int WARP_M = TILE_M / WARPS_M;                          /* tokens of one warp */
constexpr int BLOCKS = TILE_K / W4_BLOCK_COLUMNS;                 /* of k in a stage */
constexpr int OWN_BLOCKS = BLOCKS / WARPS_K;                      /* of these, of one warp */
constexpr int SUMS = WARP_M / 2;                                  /* accumulators of a thread and slice */
constexpr uint32_t BLOCK_A_BYTES = TILE_M * W4_BLOCK_COLUMNS * 2; /* of A in one block of k */
constexpr uint32_t A_BYTES = BLOCKS * BLOCK_A_BYTES, CODE_BYTES = BLOCKS * W4_BLOCK_BYTES;
constexpr uint32_t SLICE_BYTES = W4_BLOCK_BYTES / 4; /* 16 rows of a block: what a warp's lanes own */
constexpr uint32_t STAGING_BYTES = 512;              /* through which a warp turns its results over */

static_assert(SLICES >= 1 && 4 % SLICES == 0, "a warp's rows lie in one strip");
static_assert(WARP_M % 8 == 0 && WARPS % WARPS_M == 0, "warps have whole mma tiles");
static_assert(TILE_K <= W4_CHUNK_COLUMNS, "a stage lies in one chunk");
static_assert(A_BYTES % W4_SM80_ALIGNMENT == 0, "slots are aligned");
static_assert(A_BYTES + SLOTS * CODE_BYTES >= WARPS * STAGING_BYTES, "a stage has room for all warps' results");

/* This warp's first strip of the tile, its first 16 rows in it, and its first token. */
#define FIRST_SLOT ((int)(threadIdx.x / 32 % WARPS_N * SLICES / 4))
#define FIRST_SLICE ((int)(threadIdx.x / 32 % WARPS_N * SLICES % 4))
#define FIRST_TOKEN ((int)(threadIdx.x / 32 / WARPS_N % WARPS_M * WARP_M))
#define PART ((int)(threadIdx.x / 32 / (WARPS_N * WARPS_M)))

/** A CTA's tile: its first token and first strip. */
struct Tile {
    int m, strip;
    __device__ Tile(const w4_schedule &schedule, int index) {
        int tile_m, tile_n;
        w4_schedule_place(&schedule, index, &tile_m, &tile_n);
        m = tile_m * TILE_M;
        strip = tile_n * SLOTS;
    }
};

/** Where a warp is in the worker's list of work. It is kept in shared memory, as sums take nearly all registers; lane 0
 * writes it. */
struct Progress {
    w4_work_cursor cursor;
    w4_work work; /* begin == end: none is left */
    int m, strip; /* of its tile */

    /** The worker's first piece of work. */
    __device__ __forceinline__ void first(const w4_sm80_gemm_params &params) {
        if (threadIdx.x % 32 == 0) {
            cursor = w4_schedule_begin(&params.schedule, (int)blockIdx.x);
            take(params);
        }
        __syncwarp();
    }

    /** The next. */
    __device__ __forceinline__ void next(const w4_sm80_gemm_params &params) {
        __syncwarp(); /* all lanes have read it */
        if (threadIdx.x % 32 == 0) take(params);
        __syncwarp();
    }

    /** The same place as `from`, which this warp has, too. */
    __device__ __forceinline__ void copy(const Progress &from) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) *this = from;
        __syncwarp();
    }

    /** For one lane: what is next in the list. */
    __device__ __forceinline__ void take(const w4_sm80_gemm_params &params) {
        if (!w4_schedule_next(&params.schedule, &cursor, &work)) work.begin = work.end = 0;
        const Tile tile(params.schedule, work.tile);
        m = tile.m;
        strip = tile.strip;
    }
};

/** Where things lie in shared memory, by 32-bit address: each warp's progress in loading and in multiplying; then
 * stages, in each of them activations and slots of weights. */
struct Shared {
    uint32_t base, end;
    int stage_bytes, slot_bytes;
    __device__ Shared(const void *memory, const w4_sm80_gemm_params &params)
        : base(shared_address(memory) + W4_SM80_FIXED_BYTES), end(base + params.ring * params.stage_bytes),
          stage_bytes(params.stage_bytes), slot_bytes(params.slot_bytes) {}
    /** The stage after `stage`, an address, in the ring. */
    __device__ uint32_t next(uint32_t stage) const { return stage + stage_bytes == end ? base : stage + stage_bytes; }
    __device__ uint32_t last() const { return end - stage_bytes; }
    __device__ uint32_t slot(uint32_t stage, int slot) const { return stage + A_BYTES + slot * slot_bytes; }
};
static_assert(2 * WARPS * sizeof(Progress) <= W4_SM80_FIXED_BYTES, "room for the progress of all warps");

/** Wait until at most `pending` groups of this thread's copies are on their way, or two if that is less: the
 * instruction takes no number from a register, and each branch costs time. */
__device__ __forceinline__ void wait_for_copies(int pending) {
    if (pending >= 2)
        copies_wait<2>();
    else if (pending == 1)
        copies_wait<1>();
    else
        copies_wait<0>();
}

#include "gemm_load.cuh"

#include "gemm_rows.cuh"

#if W4_ANY_GROUP
#include "gemm_multiply_any.cuh"
#else
#include "gemm_multiply.cuh"
#endif

/** Where warps share out the columns of a stage, each has sums of its own of all tokens: add them up, part after part.
 * Each warp gets the tokens that it finishes, an equal share. stage: the address of the last one, which has room. */
__device__ __forceinline__ void add_parts(uint32_t stage, const float (&sums)[SLICES][SUMS],
                                          float (&own)[SLICES][SUMS / WARPS_K]) {
    constexpr int SHARE = SUMS / WARPS_K; /* of a thread and slice, which it finishes */
    static_assert(SHARE % 4 == 0, "whole mma tiles");
    if constexpr (WARPS_K == 1) {
#pragma unroll
        for (int i = 0; i < SLICES * SUMS; i++) own[i / SUMS][i % SUMS] = sums[i / SUMS][i % SUMS];
        return;
    }
    /* In a round each thread leaves AT_ONCE float4s for each part: [part from][part to][at once][thread of a part]. */
    constexpr uint32_t FOUR_BYTES = WARPS_N * WARPS_M * 32 * 16, ROOM = A_BYTES + SLOTS * CODE_BYTES;
    constexpr uint32_t FIT = ROOM / (FOUR_BYTES * WARPS_K * WARPS_K);
    constexpr int AT_ONCE = FIT >= SHARE / 4 ? SHARE / 4 : FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
    static_assert(FIT >= 1 && SHARE / 4 % AT_ONCE == 0, "a stage has room");
    const int part = PART;
    const uint32_t place = stage + threadIdx.x % (32 * WARPS_N * WARPS_M) * 16;
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
        for (int first = 0; first < SHARE; first += 4 * AT_ONCE) {
            __syncthreads(); /* all are done with what was there */
#pragma unroll
            for (int to = 0; to < WARPS_K; to++)
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const float *const four = &sums[slice][to * SHARE + first + 4 * i];
                    shared_store128(place + ((part * WARPS_K + to) * AT_ONCE + i) * FOUR_BYTES,
                                    make_float4(four[0], four[1], four[2], four[3]));
                }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                float *const four = &own[slice][first + 4 * i];
                four[0] = four[1] = four[2] = four[3] = 0.0f;
#pragma unroll
                for (int from = 0; from < WARPS_K; from++)
                    add_four(four, shared_load_floats(place + ((from * WARPS_K + part) * AT_ONCE + i) * FOUR_BYTES));
            }
        }
}

template <bool BF16, int ZERO> __device__ __forceinline__ void gemm(const w4_sm80_gemm_params &params) {
    extern __shared__ __align__(1024) uint8_t memory[];
    const Shared shared(memory, params);
    Progress *const progress = (Progress *)memory + threadIdx.x / 32 * 2;
    progress[1].first(params);
    Loader loader(params, shared, progress[0]);
    loader.fill(progress[1]);
    Consumer<typename GemmCodes<ANY_GROUP, BF16, ZERO, false>::Type> consumer(params, shared);
#pragma unroll 1
    for (;; progress[1].next(params)) {
        const w4_work &work = progress[1].work; /* read again when it is needed: registers are few */
        if (work.begin == work.end) break;
        consumer.multiply(loader, progress[1].strip, work.begin, work.end);
        float own[SLICES][SUMS / WARPS_K];
        add_parts(consumer.stage, consumer.sums, own);
        const Share<w4_sm80_gemm_params, THREADS, 1> share(params, (int)blockIdx.x, 0, 0);
        if (work.begin > 0) {
            share.leave(own);
            __syncthreads();
            if (threadIdx.x == 0) share.tell();
            continue;
        }
        if (work.end < params.schedule.stages) share.collect<8, 16>(work.tile, own);
        __syncthreads(); /* all are done with the last stage, where results are turned over */
        const uint32_t staging = consumer.stage + threadIdx.x / 32 * STAGING_BYTES;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
            store_rows(params, staging, progress[1].m + FIRST_TOKEN + PART * (WARP_M / WARPS_K),
                       (progress[1].strip + FIRST_SLOT) * W4_BLOCK_ROWS + (FIRST_SLICE + slice) * 16, own[slice]);
    }
}

} // namespace

#define W4_ENTRY_NAME(name, suffix) w4_##name##_##suffix
#define W4_ENTRY(name, suffix, is_bf16, zero)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, W4_RESIDENT)                                                 \
        W4_ENTRY_NAME(name, suffix)(const __grid_constant__ w4_sm80_gemm_params params) {                              \
        gemm<is_bf16, zero>(params);                                                                                   \
    }
#include "common_gpu/entries.cuh"
