/* SPDX-License-Identifier: Apache-2.0
 * GEMM for sm_80 and everything since, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n], weights of 4 bits in the packed
 * layout. Compiled once a config of kernels.def, for each architecture.
 *
 * Which side is which: the kernel computes transposed tiles, C^T = W * A^T: the dequantised weights are the left
 * operand of mma.sync.m16n8k16 (16 rows), so that a lane's 16 bytes of a packed block are its fragments of four k16
 * steps. mma's M is our N (out features), mma's N is our M (tokens).
 *
 * Roles: all warps load and multiply. A warp has out features of its own, SLICES times 16, and all tokens of the tile:
 * no weight is dequantised twice. schedule.h says which tiles, and which stages of them, a CTA does.
 *
 * A stage, TILE_K columns of k, in shared memory: activations [TILE_K/64][TILE_M][64], of which each row's eight pieces
 * of 16 bytes are in the order piece ^ row % 8, so that ldmatrix meets all banks; then for each strip its codes and the
 * scales and zero points of the groups that the stage touches (w4_sm80_slot_bytes).
 *
 * The ring: cp.async brings a stage while ring - 1 others are multiplied or on their way. One __syncthreads a stage
 * says both that its copies have arrived and that nobody reads the stage before, whose place is filled next.
 *
 * Arithmetic: codes become q - z, exact integers in fp16 or bf16. The products of 64 columns (of 32, where groups end
 * within) are summed apart in fp32, by k16 steps; these sums times the scale are added to the tile's in fp32. So
 * weights are never rounded (with float zero points and fp16, q - z is), scales may be anything, and the order over k
 * is the same in every config that takes tiles whole.
 *
 * Order in the stream: nothing is touched before griddepcontrol.wait, where that exists. */
#include "gemm_params.h"
#include "ptx.cuh"

#include "common_gpu/store.cuh"

namespace {

constexpr int TILE_N = W4_TILE_N, TILE_M = W4_TILE_M, TILE_K = W4_TILE_K;
constexpr int WARPS = W4_WARPS, THREADS = 32 * WARPS;
constexpr int SLOTS = TILE_N / W4_BLOCK_ROWS;                     /* strips in a stage */
constexpr int SLICES = TILE_N / 16 / WARPS;                       /* of 16 rows, of one warp */
constexpr int BLOCKS = TILE_K / W4_BLOCK_COLUMNS;                 /* of k in a stage */
constexpr int SUMS = TILE_M / 2;                                  /* accumulators of a thread and slice */
constexpr int MOST = SLICES * SUMS < 128 ? 64 / SLICES : 16;      /* for which there are registers */
constexpr int CHUNK = TILE_M < MOST ? TILE_M : MOST;              /* tokens multiplied at a time */
constexpr uint32_t BLOCK_A_BYTES = TILE_M * W4_BLOCK_COLUMNS * 2; /* of A in one block of k */
constexpr uint32_t A_BYTES = BLOCKS * BLOCK_A_BYTES, CODE_BYTES = BLOCKS * W4_BLOCK_BYTES;
constexpr uint32_t SLICE_BYTES = W4_BLOCK_BYTES / 4; /* 16 rows of a block: what a warp's lanes own */

static_assert(SLICES >= 1 && 4 % SLICES == 0, "a warp's rows lie in one strip");
static_assert(TILE_K <= W4_CHUNK_COLUMNS, "a stage lies in one chunk");
static_assert(A_BYTES % W4_SM80_ALIGNMENT == 0, "slots are aligned");

/* This warp's first strip of the tile, and its first 16 rows in it. */
#define FIRST_SLOT ((int)(thread_index() / 32 * SLICES / 4))
#define FIRST_SLICE ((int)(thread_index() / 32 * SLICES % 4))

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
    w4_work work;       /* tile -1: none is left */
    int stage, ring_at; /* the next stage of the tile, and its place in the ring */
    int m, lead; /* of loading: the tile's first token; of multiplying: stages that are loaded before the first */
    const uint8_t *weights; /* the tile's strip that holds this warp's first rows */

    __device__ __forceinline__ void begin(const w4_sm80_gemm_params &params, int worker) {
        cursor = w4_schedule_begin(&params.schedule, worker);
        ring_at = 0;
    }
    __device__ __forceinline__ void advance(const w4_sm80_gemm_params &params) {
        stage++;
        ring_at = ring_at + 1 < params.ring ? ring_at + 1 : 0;
    }
    __device__ __forceinline__ void next(const w4_sm80_gemm_params &params) {
        if (!w4_schedule_next(&params.schedule, &cursor, &work)) {
            work.tile = -1;
            return;
        }
        stage = work.begin;
        const Tile tile(params.schedule, work.tile);
        const w4_packed_layout &layout = params.gemm.layout;
        m = tile.m;
        /* Past the last strip the last one is loaded again: what is made of it is not stored. */
        weights = params.gemm.packed + min(tile.strip + FIRST_SLOT, (int)layout.strips - 1) * layout.strip_stride;
    }
};

/** Where things lie in shared memory: each warp's progress in loading and in multiplying; then, by 32-bit address,
 * stages, in each of them activations and slots of weights. */
struct Shared {
    uint32_t base;
    int stage_bytes, slot_bytes;
    __device__ Shared(const void *memory, const w4_sm80_gemm_params &params)
        : base(shared_address(memory) + W4_SM80_FIXED_BYTES), stage_bytes(params.stage_bytes),
          slot_bytes(params.slot_bytes) {}
    __device__ uint32_t stage(int index) const { return base + index * stage_bytes; }
    __device__ uint32_t slot(int index, int slot) const { return stage(index) + A_BYTES + slot * slot_bytes; }
    /** 512 bytes through which this warp turns results over: codes of its own, in a stage that has been multiplied. */
    __device__ uint32_t staging(int index) const { return slot(index, FIRST_SLOT) + FIRST_SLICE * SLICE_BYTES; }
};
static_assert(2 * WARPS * sizeof(Progress) <= W4_SM80_FIXED_BYTES, "room for the progress of all warps");

/** Wait until at most `pending` groups of this thread's copies are on their way. */
__device__ __forceinline__ void wait_for_copies(int pending) {
    switch (pending) {
    case 0:
        copies_wait<0>();
        break;
    case 1:
        copies_wait<1>();
        break;
    case 2:
        copies_wait<2>();
        break;
    case 3:
        copies_wait<3>();
        break;
    case 4:
        copies_wait<4>();
        break;
    case 5:
        copies_wait<5>();
        break;
    default:
        copies_wait<6>();
        break;
    }
}
static_assert(W4_SM80_MOST_STAGES - 2 == 6, "wait_for_copies has a case for each");

#include "gemm_load.cuh"

#include "gemm_multiply.cuh"

template <bool BF16, int ZERO> __device__ __forceinline__ void gemm(const w4_sm80_gemm_params &params) {
    extern __shared__ __align__(1024) uint8_t memory[];
    const Shared shared(memory, params);
    const int worker = blockIdx.x;
    Progress *const progress = (Progress *)memory + thread_index() / 32 * 2;
    grid_launch_dependents();
    grid_dependency_wait();
    Loader loader(params, shared, progress[0], worker);
    Consumer<Dequantizer<BF16, ZERO>> consumer(params, shared, progress[1], worker);
#pragma unroll 1
    while (consumer.next_work()) {
        consumer.multiply(loader);
        const w4_work work = progress[1].work;
        const Share<w4_sm80_gemm_params, THREADS, 1> share(params, worker, 0, 0);
        if (work.begin > 0) {
            share.give(consumer.sums);
            continue;
        }
        if (work.end < params.schedule.stages) share.collect<8>(work.tile, consumer.sums);
        const Tile tile(params.schedule, work.tile);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
            store_rows(params, shared.staging(consumer.last_stage()), tile.m,
                       (tile.strip + FIRST_SLOT) * W4_BLOCK_ROWS + (FIRST_SLICE + slice) * 16, consumer.sums[slice]);
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
