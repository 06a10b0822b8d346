/* SPDX-License-Identifier: Apache-2.0
 * GEMM for sm_90a, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n], weights of 4 bits in the packed layout. Compiled once
 * a config of kernels.def.
 *
 * Which side is which: the kernel computes transposed tiles, C^T = W * A^T, because wgmma takes its left operand (64
 * rows) from registers, where the dequantised weights are. wgmma's M is our N (out features), wgmma's N is our M
 * (tokens).
 *
 * Roles: warpgroup 0 loads (one warp activations, one weights), the others multiply. Cooperative: they share a tile,
 * each has strips of 64 out features of its own, and the same tokens. Pingpong: each takes every other tile, so that
 * one stores its results while the other multiplies. Parts: warpgroups of one tile take its stages in turns, each with
 * sums of its own, which the first part adds up and stores: more warps then share an SM than narrow tiles have strips.
 * schedule.h says which tiles, and which stages of them, a CTA does.
 *
 * A stage, TILE_K columns of k: activations [TILE_K/64][TILE_M][64] as the copy engine writes them with the 128-byte
 * swizzle; and for each strip its codes and the scales and zero points of its groups (w4_slot_bytes).
 *
 * Cluster (2): two CTAs with the same tokens and neighbouring out features; each loads half of every stage's
 * activations for both. Or two that share out a tile's stages (gemm_split.cuh).
 *
 * Barriers, for each stage: `full`, 2 arrivals (the loaders) plus the stage's bytes; `empty`, one arrival for each warp
 * that multiplies the stage, of each CTA in the cluster, once its wgmmas have read it. The ring has as many stages for
 * each part: a barrier tells only one round from the next, and a part does not see all rounds. One more `empty`, of no
 * stage, which nobody waits for: warps arrive there with a tile's first stage, which has none before it to give back.
 *
 * Arithmetic: symmetric fp16 weights are multiplied by their group's scale as they are dequantised, and rounded once to
 * fp16, in units of a power of two near the row's scales (ScaledCodes). Else codes become q - z, exactly (in bf16 over
 * 64 or 4, by the row), and a tile's sums are kept in units of the current group's scale: where a group begins, they
 * are multiplied by (scale before / scale now), and at the end by the last scale. So those weights are never rounded
 * (with float zero points and fp16, q - z is), and no second set of sums is needed; the host admits only scales whose
 * ratios cannot overflow. bf16 has too few bits to round to, and z * s too many for fp16. The cost of exactness is that
 * wgmma has to be waited for at each group's end. Where a thread has few sums (TWO_SETS), fp16 weights with whole zero
 * points and groups of 128 have a group's products summed from zero, in one of two sets in turn, and added times the
 * scale. Groups of 128, and those of 64 in an entry point of their own, have code that knows where they begin
 * (GROUP_BLOCKS).
 *
 * Order in the stream: weights are loaded before the kernel before this one has ended; A, C, bias and the workspace are
 * touched only after griddepcontrol.wait. The next kernel is let in once this one's loads of weights are on their way:
 * where half an SM is a CTA's, it finds this kernel's CTAs still there, one on each SM, and would else have two on one
 * SM and none on another. Stream-K takes all places there are, and lets the next kernel wait for one from the start. */
#include "common_gpu/weights.cuh"
#include "gemm_params.h"
#include "ptx.cuh"
#include "shape.h"

/* After ptx.cuh, which it needs. */
#include "common_gpu/store.cuh"

namespace {

constexpr int TILE_N = W4_TILE_N, TILE_M = W4_TILE_M, TILE_K = W4_TILE_K, CLUSTER = W4_CLUSTER;
constexpr int WARPGROUPS = W4_WARPGROUPS; /* that multiply */
constexpr bool PINGPONG = W4_PINGPONG;
constexpr int THREADS = 128 * (1 + WARPGROUPS), WARPS = THREADS / 32;
constexpr int SLOTS = TILE_N / W4_BLOCK_ROWS;                 /* strips in a stage */
constexpr int PARTS = W4_PARTS;                               /* of a tile's stages, each some warpgroups' */
constexpr int SHARERS = PINGPONG ? 1 : WARPGROUPS / PARTS;    /* warpgroups that share a stage */
constexpr int STORING_WARPS = 4 * WARPGROUPS / PARTS;         /* of the part that stores results */
constexpr int STRIPS = SLOTS / SHARERS;                       /* strips of one warpgroup */
constexpr int BLOCKS = TILE_K / W4_BLOCK_COLUMNS;             /* of k in a stage */
constexpr int UNITS = BLOCKS * STRIPS;                        /* a unit: one block of one strip, four wgmmas */
constexpr int SUMS = TILE_M / 2;                              /* accumulators of a thread and strip */
constexpr uint32_t BOX_BYTES = TILE_M * W4_BLOCK_COLUMNS * 2; /* of A in one block of k */
constexpr int COPY_BLOCKS = W4_SM90_COPY_BLOCKS(TILE_K, CLUSTER);
constexpr int COPY_TOKENS = W4_SM90_COPY_TOKENS(TILE_M, TILE_K, CLUSTER);
constexpr uint32_t A_BYTES = BLOCKS * BOX_BYTES, CODE_BYTES = BLOCKS * W4_BLOCK_BYTES;
/* Of a warp that has done with a stage. compute-sanitizer's racecheck follows no order that goes through another lane:
 * for it there is a build (W4A16_RACECHECK) in which every lane arrives. */
#ifdef W4_EVERY_LANE_ARRIVES
constexpr int ARRIVING_LANES = 32;
#else
constexpr int ARRIVING_LANES = 1;
#endif
constexpr uint32_t EMPTY_ARRIVALS = ARRIVING_LANES * 4 * SHARERS * CLUSTER;
constexpr uint32_t LOADERS = 2;                   /* warps that load */
constexpr uint32_t MOST_ARRIVALS = (1 << 20) - 1; /* that a barrier can count */
constexpr bool ORDERED =
    WARPGROUPS == 2 && PARTS == 1 &&
    (PINGPONG || TILE_M > 128); /* warpgroups take turns: cooperative ones by units, pingpong by tiles */
static_assert(ORDERED || !PINGPONG, "turns are made for two");
constexpr bool ANY_GROUP = W4_ANY_GROUP; /* gemm_multiply_any.cuh */
static_assert(!ANY_GROUP || (STRIPS == 1 && TILE_K == W4_CHUNK_COLUMNS && !PINGPONG), "a slot has a chunk's lines");
constexpr bool SPLITTABLE = W4_SPLIT > 0; /* over k, among a cluster's CTAs */
static_assert(!SPLITTABLE || (W4_SPLIT == 2 && CLUSTER == 1 && !PINGPONG), "a cluster has one use");
/* Whether there is code of its own for groups of 128 columns (or, in their entry point, 64): no branches, a third fewer
 * instructions. With 128 sums a thread only codes that take the scale along leave it the registers, and no more than
 * one strip and whole tiles; exact ones would spill, or be 7 % slower. Four warpgroups of 32 sums a thread have none
 * left for zero points. */
constexpr bool CROWDED = WARPGROUPS == 4 && SUMS > 16;
template <bool BF16, int ZERO>
constexpr bool OWN_CODE =
    !ANY_GROUP && TILE_K >= 128 && (STRIPS * SUMS <= 64 || (!BF16 && STRIPS == 1 && !SPLITTABLE)) &&
    (ZERO == W4_PARAM_SYMMETRIC || (ZERO == W4_PARAM_ZERO_INTEGER && !CROWDED));
/* Named barriers; ORDER_BARRIER and the next; a warpgroup's own begin at 2. LEAVING: threads that leave sums. */
constexpr int START_BARRIER = 1, LEFT_BARRIER = 7, ORDER_BARRIER = 8, LEAVING = 128 * SHARERS;

/* Registers: what the compiler may use is what an equal share gives; the loader hands most of its own to the others. */
constexpr int EQUAL_SHARE = W4_SM90_EQUAL_SHARE(THREADS * W4_RESIDENT) > 248
                                ? 248
                                : W4_SM90_EQUAL_SHARE(THREADS *W4_RESIDENT);
/* Whether there are registers for two more sets of sums, so that groups have theirs apart (Consumer::APART): two
 * parts would spill. Only with parts, whose sums differ in the last bit from those of other configs anyway. */
constexpr bool TWO_SETS = PARTS == 4 && SUMS <= 8 && EQUAL_SHARE >= 96;
constexpr int LOADER_REGISTERS = W4_RESIDENT > 1 || WARPGROUPS == 4 ? 32 : STRIPS *SUMS == 128 ? 40 : 48;
constexpr int FAIR = (EQUAL_SHARE * THREADS - LOADER_REGISTERS * 128) / (128 * WARPGROUPS) / 8 * 8;
constexpr int CONSUMER_REGISTERS = FAIR > 240 ? 240 : FAIR;

static_assert(SLOTS % SHARERS == 0, "every warpgroup has as many strips");
static_assert(WARPGROUPS % PARTS == 0 && (PARTS == 1 || !PINGPONG), "every part has as many warpgroups");
static_assert(TILE_K <= W4_CHUNK_COLUMNS, "a stage lies in one chunk");
static_assert(COPY_BLOCKS * COPY_TOKENS * W4_BLOCK_COLUMNS * 2 * CLUSTER == A_BYTES &&
                  (COPY_TOKENS == TILE_M || BLOCKS == 1) && A_BYTES / CLUSTER % W4_SM90_ALIGNMENT == 0,
              "each CTA of a cluster copies as much, in one piece; the swizzle repeats every 1024 bytes");

/** Where things lie in shared memory, by 32-bit address: barriers, what the warps turn their results over in,
 * activations, slots of weights. */
struct Shared {
    uint32_t barriers; /* aligned to 1024 */
    uint32_t codes, slot_bytes;
    __device__ Shared(const void *memory, const w4_sm90_gemm_params &params) {
        barriers = (shared_address(memory) + W4_SM90_ALIGNMENT - 1) / W4_SM90_ALIGNMENT * W4_SM90_ALIGNMENT;
        slot_bytes = params.slot_bytes;
        codes = activations(params.ring);
    }
    __device__ uint32_t full(int stage) const { return barriers + stage * 16; }
    __device__ uint32_t empty(int stage) const { return empty_of(full(stage)); }
    static __device__ uint32_t empty_of(uint32_t full) { return full + 8; }
    /* Of split tiles: gemm_split.cuh. */
    __device__ uint32_t ready() const { return barriers + W4_SM90_MOST_STAGES * 16; }
    __device__ uint32_t arrived() const { return ready() + 8; }
    /* `full` of no stage: to arrive at its `empty`, the last barrier, where there is nothing to give back. */
    __device__ uint32_t nowhere() const { return arrived(); }
    __device__ uint32_t staging(int warp) const {
        return barriers + W4_SM90_BARRIER_BYTES + warp * W4_SM90_STAGING_BYTES(TILE_M, STORING_WARPS);
    }
    __device__ uint32_t activations(int stage) const {
        return barriers + w4_sm90_fixed_bytes(4 * WARPGROUPS, TILE_N, TILE_M, PARTS) - W4_SM90_ALIGNMENT +
               stage * A_BYTES;
    }
    __device__ uint32_t part(int part) const {
        return activations(0) - w4_sm90_part_bytes(TILE_N, TILE_M, PARTS) + part * (TILE_N * TILE_M * 4);
    }
    __device__ uint32_t slot(int stage, int slot) const { return codes + (stage * SLOTS + slot) * slot_bytes; }
};

/** Where a thread is in the ring of stages. */
struct Position {
    int stage = 0;
    uint32_t phase = 0;
    /** By at most a round. */
    __device__ __forceinline__ void hop(int stages, int ring) {
        stage += stages;
        wrap(stage, phase, ring); /* no branch: this is in the loop that multiplies */
    }
    __device__ __forceinline__ void hop_back(int stages, int ring) {
        stage -= stages;
        if (stage < 0) {
            stage += ring;
            phase ^= 1;
        }
    }
    __device__ void skip(int stages, int ring) {
        stage += stages;
        phase ^= stage / ring & 1;
        stage %= ring;
    }
};

/** A CTA's tile: its first token and first strip. */
struct Tile {
    int m, strip;
    __device__ Tile(const w4_schedule &schedule, int index, int rank) {
        int tile_m = 0, tile_n = index;
        if (schedule.tiles_m > 1) w4_schedule_place(&schedule, index, &tile_m, &tile_n); /* else without a division */
        m = tile_m * TILE_M;
        strip = (tile_n * CLUSTER + rank) * SLOTS;
    }
};

/** A CTA's pieces of work, one after another. */
struct Worklist {
    const w4_schedule &schedule;
    w4_work_cursor cursor;
    w4_work work;
    bool more;
    __device__ __forceinline__ Worklist(const w4_schedule &schedule_, int worker) : schedule(schedule_) {
        /* A kernel begins with this: no division where none is needed, and registers suffice to say so. */
        cursor = {0, 0, worker};
        if (SPLITTABLE && schedule.split) {
            work = w4_schedule_half(&schedule, worker);
            cursor.whole = INT32_MAX; /* no more */
            more = true;
            return;
        }
        if (CROWDED || schedule.split_tiles) cursor = w4_schedule_begin(&schedule, worker);
        next();
    }
    __device__ __forceinline__ void next() { more = w4_schedule_next(&schedule, &cursor, &work); }
};

/** Each warp waits here, when it has prepared what it can, until all barriers are there. */
__device__ __forceinline__ void start() {
    if (CLUSTER > 1) cluster_wait();
    roles_sync(START_BARRIER, THREADS);
}

#include "gemm_load.cuh"

#include "gemm_multiply.cuh"

#include "gemm_multiply_any.cuh"

#include "gemm_parts.cuh"

#include "gemm_split.cuh"

#include "gemm_store.cuh"

template <class Codes, int GROUP_BLOCKS>
__device__ __forceinline__ void consume(const CUtensorMap *c, const w4_sm90_gemm_params &params, const Shared &shared,
                                        int worker, int rank) {
    int warpgroup = threadIdx.x / 128 - 1;
    const int part = warpgroup / SHARERS % PARTS;
    int first_slot = PINGPONG ? 0 : (PARTS > 1 ? warpgroup % SHARERS : warpgroup) * STRIPS;
    const bool shared_k = SPLITTABLE && params.schedule.split;
    Consumer<Codes, GROUP_BLOCKS> consumer(params, shared, first_slot, part);
    Parts parts(shared, part);
    Worklist list(params.schedule, worker);
    const auto find_strip = [&] {
        return list.more ? Tile(params.schedule, list.work.tile, rank).strip + first_slot : 0;
    };
    int first_strip = find_strip(); /* this warpgroup's first; found before there is anything to wait for */
    start();
    if (ORDERED && warpgroup == 1) consumer.order_pass(); /* the first turn is the other's */
    for (int turn = 0; list.more; list.next(), turn++) {
        const w4_work work = list.work;
        if (PINGPONG && turn % WARPGROUPS != warpgroup) {
            consumer.at.skip(work.end - work.begin, params.ring);
            continue;
        }
        if (turn > 0) first_strip = find_strip();
        if constexpr (ANY_GROUP)
            AnyGroup<Codes>(consumer).multiply(work.begin, work.end);
        else
            consumer.multiply(first_strip, work.begin, work.end);
        /* The loader has waited, or nothing could have been multiplied; each thread that touches C or the workspace has
         * to, too. */
        grid_dependency_wait();
        /* Two more sets of sums leave no register to keep it in. */
        if (TWO_SETS && Codes::ZERO == W4_PARAM_ZERO_INTEGER && !Codes::IS_BF16) worker = block_index();
        const Split split(shared, worker);
        if (shared_k) split.done();
        consumer.scale_sums();
        if (part > 0) {
            parts.give(consumer.sums);
            continue;
        }
        parts.collect(consumer.sums);
        if (shared_k) {
            split.give(consumer.sums);
            split.collect(consumer.sums);
        } else {
            Share<w4_sm90_gemm_params, 128, CLUSTER * SHARERS> share(
                params, worker, rank * SHARERS + (PINGPONG ? 0 : warpgroup), 2 + warpgroup);
            if (work.begin > 0) {
                share.leave(consumer.sums);
                group_arrive(LEFT_BARRIER, LEAVING + 32);
                continue;
            }
            if (work.end < params.schedule.stages)
                share.collect<STRIPS * SUMS / 4, WARPGROUPS == 4 ? 8 : 16>(work.tile, consumer.sums);
        }
        const Tile tile(params.schedule, work.tile, rank);
        const Store store(c, params,
                          Split::IN_STAGING && shared_k ? split.staging()
                                                        : shared.staging((threadIdx.x / 32 - 4) % STORING_WARPS));
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++)
            if (!shared_k || split.mine(strip))
                store.rows(tile.m, (tile.strip + first_slot + strip) * W4_BLOCK_ROWS + threadIdx.x % 128 / 32 * 16,
                           consumer.sums[strip]);
    }
    Store::finish();
}

/** Of a warp that does nothing else: tell the worker that waits for them when the sums of a run's first piece have been
 * left; only that piece can begin within a tile. Telling waits for memory, which those that multiply need not. */
__device__ __forceinline__ void tell(const w4_sm90_gemm_params &params, int worker, int rank) {
    const w4_schedule &schedule = params.schedule;
    if (!schedule.split_tiles ||
        w4_schedule_run_begin(&schedule, w4_schedule_run(&schedule, worker)) % schedule.stages == 0)
        return;
    group_sync(LEFT_BARRIER, LEAVING + 32);
    grid_dependency_wait();
    const int sharer = threadIdx.x % 32;
    if (sharer < SHARERS)
        Share<w4_sm90_gemm_params, 128, CLUSTER * SHARERS>(params, worker, rank * SHARERS + sharer, 0).tell();
}

/** Have a part of the kernel's parameters fetched, 64 bytes: each part's first use waits for memory, and so they wait
 * together. */
__device__ __forceinline__ void touch(const uint32_t *params, int part) {
    if (part * 64 < (int)sizeof(w4_sm90_gemm_params)) read_for_nothing(params[part * 16]);
}

/** All warps make barriers, each those of other stages: making one takes a warp some 30 clocks. */
__device__ __forceinline__ void make_barriers(const CUtensorMap *a, const CUtensorMap *c,
                                              const w4_sm90_gemm_params &params, const Shared &shared, int warp) {
    if (elect_one()) {
#pragma unroll 1
        for (int stage = warp; stage < params.ring; stage += WARPS) {
            barrier_init(shared.full(stage), LOADERS);
            barrier_init(shared.empty(stage), EMPTY_ARRIVALS);
        }
        if (warp == 2) {
            prefetch_tensor_map(a);
            if (W4_SM90_STORES_TENSOR(TILE_M) && params.store_whole) prefetch_tensor_map(c);
        }
        if (warp == 3 && SPLITTABLE && params.schedule.split) Split::begin(shared);
        if (warp == 4) barrier_init(shared.empty_of(shared.nowhere()), MOST_ARRIVALS);
        barrier_init_fence();
    }
    __syncwarp();
}

/** OWN_BLOCKS: of a group that there is code of its own for, beside the code for any: 2, or 1. With both in one entry
 * point, a call for groups of 128 took up to 0.7 us more where weights are cold. */
template <bool BF16, int ZERO, int OWN_BLOCKS = 2>
__device__ __forceinline__ void gemm(const CUtensorMap *a, const CUtensorMap *c, const w4_sm90_gemm_params &params) {
    extern __shared__ uint8_t memory[];
    const Shared shared(memory, params);
    const int rank = CLUSTER > 1 ? blockIdx.x % CLUSTER : 0, worker = blockIdx.x / CLUSTER;
    const int warp =
        (int)__shfl_sync(0xffffffff, threadIdx.x / 32, 0); /* so that the compiler knows it is one for all */
    const bool shared_k = SPLITTABLE && params.schedule.split;
    if (params.schedule.split_tiles) grid_launch_dependents();
    if (warp >= 3) touch((const uint32_t *)&params, warp - 3);
    make_barriers(a, c, params, shared, warp);
    if (CLUSTER > 1 || shared_k) cluster_arrive();
    if (threadIdx.x < 128) {
        if (CONSUMER_REGISTERS > EQUAL_SHARE) registers_give_back<LOADER_REGISTERS>();
        if (warp == 0) {
            load_activations(a, params, shared, worker, rank);
        } else if (warp == 1) {
            load_weights(params, shared, worker, rank);
            grid_launch_dependents();
        } else {
            start();
            if (warp == 2) tell(params, worker, rank);
        }
        __syncwarp();
        if (shared_k) cluster_wait(); /* as all threads do that have arrived */
    } else {
        if (CONSUMER_REGISTERS > EQUAL_SHARE) registers_take<CONSUMER_REGISTERS>();
        constexpr bool own_code = OWN_CODE<BF16, ZERO>;
        constexpr bool exact = ANY_GROUP || (ZERO == W4_PARAM_ZERO_INTEGER && W4_SM90_SCALES_SUMS(EQUAL_SHARE, PARTS));
        using Codes = typename GemmCodes<exact, BF16, ZERO, false>::Type;
        constexpr bool own_exact = exact || (TWO_SETS && ZERO == W4_PARAM_ZERO_INTEGER);
        using OwnCodes = typename GemmCodes<own_exact, BF16, ZERO, own_code && !CROWDED>::Type;
        if (own_code && params.group_blocks == OWN_BLOCKS &&
            (!OwnCodes::PAIRS || params.gemm.scale_dtype == W4_PARAM_FP16)) {
            consume<OwnCodes, own_code ? OWN_BLOCKS : 0>(c, params, shared, worker, rank);
        } else {
            consume<Codes, 0>(c, params, shared, worker, rank);
        }
    }
    if (CLUSTER > 1) cluster_sync(); /* nobody leaves while the other may still write into its shared memory */
}

} // namespace

#define W4_ENTRY_NAME(name, suffix) w4_##name##_##suffix
#define W4_ENTRY(name, suffix, ...)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, W4_RESIDENT)                                                 \
        W4_ENTRY_NAME(name, suffix)(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap c,      \
                                    const __grid_constant__ w4_sm90_gemm_params params) {                              \
        gemm<__VA_ARGS__>(&a, &c, params);                                                                             \
    }
#include "common_gpu/entries.cuh"
#if W4_GROUP_64
W4_ENTRY(W4_CONFIG_NAME, fp16_group_64, false, W4_PARAM_SYMMETRIC, 1)
#endif
