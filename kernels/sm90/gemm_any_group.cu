/* SPDX-License-Identifier: Apache-2.0
 * The GEMM of gemm.cu for what that one leaves out: groups that are no whole number of blocks, and rows whose scales
 * lie too far apart for it. Slower. Compiled once a config of kernels.def.
 *
 * Which side is which: the kernel computes transposed tiles, C^T = W * A^T, because wgmma takes its left operand (64
 * rows) from registers, where the dequantised weights are. wgmma's M is our N (out features), wgmma's N is our M
 * (tokens).
 *
 * Roles: warpgroup 0 loads (one thread of it), warpgroups 1 and 2 multiply, each its own strip of 64 out features with
 * the same tokens (cooperative). CTAs stay and take tile after tile, the tokens' index running fastest, so that tiles
 * that share weights run at the same time.
 *
 * A stage, 64 columns of k: activations [TILE_M][64] as the copy engine writes them with the 128-byte swizzle, then one
 * packed block of 2048 bytes for each of the two strips.
 *
 * Barriers, for each stage: `full`, 1 arrival (the loader) plus the stage's bytes; `empty`, 8 arrivals (one for each
 * consumer warp, once its wgmmas have read the stage).
 *
 * Arithmetic: codes become q - z, exact integers in fp16 or bf16; wgmma sums a group's products in fp32; at the end of
 * the group its sum times the group's scale is added to the tile's sum in fp32. Weights are thus never rounded (with
 * float zero points q - z is rounded to fp16). One order over k for every config. */
#include "common_gpu/weights.cuh"
#include "params.h"
#include "ptx.cuh"
#include "shape.h"

namespace {

constexpr int TILE_N = W4_TILE_N, TILE_M = W4_TILE_M, TILE_K = W4_TILE_K, STAGES = W4_STAGES;
constexpr int STRIPS = TILE_N / W4_BLOCK_ROWS;
constexpr int SUMS = TILE_M / 2; /* accumulators of a thread: 64 * TILE_M / 128 */
constexpr uint32_t A_BYTES = TILE_M * TILE_K * 2, W_BYTES = W4_BLOCK_BYTES;
constexpr uint32_t STAGE_BYTES = A_BYTES + STRIPS * W_BYTES;
constexpr uint32_t EMPTY_ARRIVALS = 4 * W4_SM90_CONSUMERS;

static_assert(STRIPS == W4_SM90_CONSUMERS, "a strip for each consumer warpgroup");
static_assert(TILE_K == W4_BLOCK_COLUMNS, "a stage is one block of k");
static_assert(A_BYTES % W4_SM90_ALIGNMENT == 0, "the swizzle repeats every 1024 bytes");

/** Shared memory, from an address aligned to 1024. */
struct Shared {
    uint32_t base;
    __device__ uint32_t activations(int stage) const { return base + stage * A_BYTES; }
    __device__ uint32_t weights(int stage, int strip) const {
        return base + STAGES * A_BYTES + (stage * STRIPS + strip) * W_BYTES;
    }
    __device__ uint32_t full(int stage) const { return base + STAGES * STAGE_BYTES + stage * 8; }
    __device__ uint32_t empty(int stage) const { return full(stage) + STAGES * 8; }
};

/** Where a thread is in the ring of stages. */
struct Position {
    int stage = 0;
    uint32_t phase = 0;
    __device__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

struct Tile {
    int m, strip; /* first token, first strip */
    __device__ Tile(const w4_gemm_params &params, int index) {
        int tiles_m = (params.m + TILE_M - 1) / TILE_M;
        m = index % tiles_m * TILE_M;
        strip = index / tiles_m * STRIPS;
    }
    static __device__ int count(const w4_gemm_params &params) {
        return ((int)params.layout.strips + STRIPS - 1) / STRIPS * ((params.m + TILE_M - 1) / TILE_M);
    }
};

/* ---- Loading ------------------------------------------------------------------------------------------------- */

__device__ void load_tiles(const CUtensorMap *a, const w4_gemm_params &params, const Shared &shared) {
    Position at;
    for (int index = blockIdx.x; index < Tile::count(params); index += gridDim.x) {
        Tile tile(params, index);
        int strips = min(STRIPS, (int)params.layout.strips - tile.strip);
        for (int block = 0; block < (int)params.layout.blocks; block++) {
            barrier_wait(shared.empty(at.stage), at.phase ^ 1);
            barrier_arrive_expect(shared.full(at.stage), A_BYTES + strips * W_BYTES);
            copy_tensor(shared.activations(at.stage), a, block * TILE_K, tile.m, shared.full(at.stage));
            for (int strip = 0; strip < strips; strip++) {
                const uint8_t *source =
                    params.packed + w4_packed_block_offset(&params.layout, tile.strip + strip, block);
                copy_bulk(shared.weights(at.stage, strip), source, W_BYTES, shared.full(at.stage));
            }
            at.advance();
        }
    }
}

/* ---- Dequantising -------------------------------------------------------------------------------------------- */

/** Walks through the groups of one strip, loading a group ahead: what a load brings is looked at a group later, when it
 * has long arrived. */
struct GroupReader {
    const uint8_t *strip; /* where this strip begins in the packed layout */
    int column, line;     /* where the group that was loaded begins; its line in the chunk of that column */
    uint32_t scale[2], zero[2];

    __device__ __forceinline__ void load(const w4_gemm_params &params, int row) {
        const w4_packed_layout &layout = params.layout;
        int chunk = column / W4_CHUNK_COLUMNS,
            blocks = min((int)layout.blocks - chunk * W4_CHUNK_BLOCKS, W4_CHUNK_BLOCKS);
        const uint8_t *lines = strip + chunk * layout.chunk_stride + blocks * W4_BLOCK_BYTES;
        const uint8_t *zeros = lines + layout.lines * W4_BLOCK_ROWS * layout.scale_size;
        int first = line * W4_BLOCK_ROWS + row;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int at = first + 8 * i;
            if (layout.scale_size == 4)
                scale[i] = __ldg((const unsigned int *)lines + at);
            else
                scale[i] = __ldg((const unsigned short *)lines + at);
            if (params.zero_kind == W4_PARAM_ZERO_INTEGER) zero[i] = __ldg(zeros + at);
            if (params.zero_kind == W4_PARAM_ZERO_FLOAT) zero[i] = __ldg((const unsigned int *)zeros + at);
        }
    }

    __device__ __forceinline__ void begin(const w4_gemm_params &params, int strip_index, int row) {
        strip = params.packed + strip_index * params.layout.strip_stride;
        column = line = 0;
        load(params, row);
    }

    /** Hand out the group that was loaded, and load the next, if there is one. */
    __device__ __forceinline__ Group next(const w4_gemm_params &params, int row) {
        Group group;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            group.scale[i] = params.scale_dtype == W4_PARAM_FP32   ? __uint_as_float(scale[i])
                             : params.scale_dtype == W4_PARAM_BF16 ? __uint_as_float(scale[i] << 16)
                                                                   : __half2float(__ushort_as_half(scale[i]));
            group.zero[i] = params.zero_kind == W4_PARAM_SYMMETRIC      ? 8.0f
                            : params.zero_kind == W4_PARAM_ZERO_INTEGER ? (float)zero[i]
                                                                        : __uint_as_float(zero[i]);
        }
        int before = column / W4_CHUNK_COLUMNS;
        if (column < params.k - params.group_size) {
            column += params.group_size;
            /* A new chunk's line 0 belongs to the group that holds its first column: this one, or the one before. */
            line = column / W4_CHUNK_COLUMNS == before ? line + 1 : column % W4_CHUNK_COLUMNS != 0;
            load(params, row);
        }
        return group;
    }
};

/* ---- Multiplying --------------------------------------------------------------------------------------------- */

/** Add a finished group's sums, each times its row's scale, to the tile's. */
__device__ __forceinline__ void add_group(float (&total)[SUMS], const float (&sums)[SUMS], const Group &group) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) total[i] = fmaf(group.scale[i % 4 / 2], sums[i], total[i]);
}

/** Keep the compiler from moving the making of a fragment behind the fence: it would see registers of a running wgmma
 * change, and serialise all of them. */
template <int STEPS> __device__ __forceinline__ void settle(uint32_t (&fragment)[STEPS][4]) {
#pragma unroll
    for (int i = 0; i < 4 * STEPS; i++) asm volatile("" : "+r"(fragment[i / 4][i % 4])::"memory");
}

/** The same for sums, around code that reads them. */
__device__ __forceinline__ void settle(float (&sums)[SUMS]) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

/** Start consecutive k16 steps on fragments that are ready, with one commit. */
template <int STEPS, class Codes>
__device__ __forceinline__ void multiply(uint32_t (&fragment)[STEPS][4], Codes &codes, uint32_t descriptor, int add,
                                         float (&sums)[SUMS]) {
    settle(fragment);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++)
        wgmma<TILE_M, Codes::IS_BF16>::run(sums, fragment[step], wgmma_descriptor(descriptor + 2 * step),
                                           step == 0 ? add : 1);
    if constexpr (Codes::RESIDUAL) {
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            wgmma<TILE_M, Codes::IS_BF16>::run(sums, codes.residual, wgmma_descriptor(descriptor + 2 * step), 1);
    }
    wgmma_commit();
}

/** One consumer's view of a tile in progress. */
template <class Codes> struct Consumer {
    const w4_gemm_params &params;
    const Shared &shared;
    int slot, thread, row; /* slot: of the stage's two blocks of W */
    int group_end;         /* column where the current group ends */
    Group group;
    GroupReader groups;
    Codes dequantizer;

    __device__ __forceinline__ Consumer(const w4_gemm_params &params_, const Shared &shared_, int strip, int slot_)
        : params(params_), shared(shared_), slot(slot_), thread(threadIdx.x % 128),
          row(thread / 32 * 16 + thread % 32 / 4), group_end(params_.group_size) {
        groups.begin(params, strip, row);
        group = groups.next(params, row);
        dequantizer.set(group);
        dequantizer.set_residual(group);
    }

    /** Wait for a stage and read this thread's 16 bytes of it. */
    __device__ __forceinline__ void read(const Position &at, uint32_t (&words)[4]) {
        barrier_wait(shared.full(at.stage), at.phase);
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                     : "r"(shared.weights(at.stage, slot) + thread * 16));
    }

    __device__ __forceinline__ void release(int stage) {
        __syncwarp(); /* the lane that arrives speaks for what all lanes have read */
        if (thread % 32 == 0) barrier_arrive(shared.empty(stage));
    }

    template <int STEPS>
    __device__ __forceinline__ void dequantise(const uint32_t *words, uint32_t (&fragment)[STEPS][4]) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) dequantizer.word(words[step], fragment[step]);
    }

    /** Turn to the next group; what is returned are the scales of the one that ends. */
    __device__ __forceinline__ Group turn() {
        Group ended = group;
        group = groups.next(params, row);
        group_end += params.group_size;
        dequantizer.set(group);
        return ended;
    }
};

/** Once all of a group's wgmmas are done: add its sums, scaled. The consumer has turned to the next group. */
template <class Codes>
__device__ __forceinline__ void end_group(Consumer<Codes> &consumer, float (&total)[SUMS], float (&sums)[SUMS],
                                          const Group &group) {
    wgmma_wait<0>();
    settle(sums);
    consumer.dequantizer.set_residual(consumer.group);
    add_group(total, sums, group);
}

/** One tile where groups are whole stages. While the wgmmas of a stage run, the next stage is dequantised into the
 * other fragment, across the ends of groups too, so that only the scaling of sums keeps the tensor cores waiting. */
template <class Codes>
__device__ __forceinline__ void multiply_whole(Consumer<Codes> &consumer, int blocks, Position &at,
                                               float (&total)[SUMS]) {
    uint32_t first[4][4], second[4][4], words[4];
    float sums[SUMS];
    int block = 0, add = 0, reading = -1; /* reading: the stage before, which wgmmas may still read */
    consumer.read(at, words);
    consumer.template dequantise<4>(words, first);
    /* `own` is ready; `other` is free once the stage before is done. */
    auto stage = [&](uint32_t(&own)[4][4], uint32_t(&other)[4][4]) {
        multiply<4>(own, consumer.dequantizer, wgmma_descriptor_low(consumer.shared.activations(at.stage)), add, sums);
        wgmma_wait<1>();
        if (reading >= 0) consumer.release(reading);
        reading = at.stage;
        at.advance();
        block++;
        bool ends = block * TILE_K == consumer.group_end || block == blocks;
        Group ended = consumer.group;
        if (ends) consumer.turn();
        if (block < blocks) {
            consumer.read(at, words);
            consumer.template dequantise<4>(words, other);
        }
        if (ends) end_group(consumer, total, sums, ended);
        add = !ends;
    };
    while (true) {
        stage(first, second);
        if (block == blocks) break;
        stage(second, first);
        if (block == blocks) break;
    }
    wgmma_wait<0>(); /* done since the last group's end, but the compiler wants to see it on this path */
    consumer.release(reading);
}

/** One tile where groups are odd multiples of 32, so that one may end inside a stage. Simple, not fast. */
template <class Codes>
__device__ __forceinline__ void multiply_halves(Consumer<Codes> &consumer, int blocks, Position &at,
                                                float (&total)[SUMS]) {
    uint32_t fragment[2][4], words[4];
    float sums[SUMS];
    int add = 0;
    for (int block = 0; block < blocks; block++) {
        consumer.read(at, words);
        uint32_t descriptor = wgmma_descriptor_low(consumer.shared.activations(at.stage));
#pragma unroll
        for (int half = 0; half < 2; half++) {
            consumer.template dequantise<2>(words + 2 * half, fragment);
            multiply<2>(fragment, consumer.dequantizer, descriptor + 4 * half, add, sums);
            add = 1;
            if (block * TILE_K + 32 * (half + 1) == consumer.group_end || (half == 1 && block == blocks - 1)) {
                Group ended = consumer.turn();
                end_group(consumer, total, sums, ended);
                add = 0;
            } else {
                wgmma_wait<0>();
            }
        }
        consumer.release(at.stage);
        at.advance();
    }
}

template <class Codes>
__device__ __forceinline__ void multiply_tile(const w4_gemm_params &params, const Shared &shared, int strip, int slot,
                                              Position &at, float (&total)[SUMS]) {
    Consumer<Codes> consumer(params, shared, strip, slot);
#pragma unroll
    for (int i = 0; i < SUMS; i++) total[i] = 0.0f;
    if (params.group_size % TILE_K && params.group_size < params.k)
        multiply_halves(consumer, (int)params.layout.blocks, at, total);
    else
        multiply_whole(consumer, (int)params.layout.blocks, at, total);
}

/* ---- Results ------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void store_tile(const w4_gemm_params &params, const Tile &tile, int strip,
                                           const float (&total)[SUMS]) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const int first = strip * W4_BLOCK_ROWS + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        int n = first + 8 * upper;
        if (n >= params.n) continue;
        float bias = 0.0f;
        if (params.bias)
            bias = load_number((const uint8_t *)params.bias + (int64_t)n * (params.bias_dtype == W4_PARAM_FP32 ? 4 : 2),
                               params.bias_dtype);
#pragma unroll
        for (int i = 0; i < SUMS / 4; i++) {
#pragma unroll
            for (int odd = 0; odd < 2; odd++) {
                int m = tile.m + 8 * i + lane % 4 * 2 + odd;
                if (m >= params.m) continue;
                float value = fmaf(params.alpha, total[4 * i + 2 * upper + odd], bias);
                uint16_t bits = params.c_dtype == W4_PARAM_BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value))
                                                                : __half_as_ushort(__float2half_rn(value));
                ((uint16_t *)params.c)[m * params.ldc + n] = bits;
            }
        }
    }
}

template <bool BF16, int ZERO>
__device__ __forceinline__ void gemm(const CUtensorMap *a, const w4_gemm_params &params) {
    extern __shared__ uint8_t memory[];
    Shared shared = {(shared_address(memory) + W4_SM90_ALIGNMENT - 1) / W4_SM90_ALIGNMENT * W4_SM90_ALIGNMENT};
    int warpgroup = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        prefetch_tensor_map(a);
        for (int stage = 0; stage < STAGES; stage++) {
            barrier_init(shared.full(stage), 1);
            barrier_init(shared.empty(stage), EMPTY_ARRIVALS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (warpgroup == 0) {
        registers_give_back<40>();
        if (threadIdx.x == 0) load_tiles(a, params, shared);
    } else {
        registers_take<232>();
        Position at;
        int consumer = warpgroup - 1;
        for (int index = blockIdx.x; index < Tile::count(params); index += gridDim.x) {
            Tile tile(params, index);
            int strip = tile.strip + consumer;
            /* The last tile may lack its second strip: that warpgroup computes the first one's again, so that every
             * stage gets its arrivals, and drops the result. */
            bool exists = strip < (int)params.layout.strips;
            float total[SUMS];
            int source = exists ? strip : tile.strip, slot = exists ? consumer : 0;
            multiply_tile<Dequantizer<BF16, ZERO>>(params, shared, source, slot, at, total);
            if (exists) store_tile(params, tile, strip, total);
        }
    }
}

} // namespace

#define W4_ENTRY_NAME(name, suffix) w4_##name##_##suffix
#define W4_ENTRY(name, suffix, is_bf16, zero)                                                                          \
    extern "C" __global__ void __launch_bounds__(W4_SM90_THREADS, 1) W4_ENTRY_NAME(name, suffix)(                      \
        const __grid_constant__ CUtensorMap a, const __grid_constant__ w4_gemm_params params) {                        \
        gemm<is_bf16, zero>(&a, params);                                                                               \
    }
#include "common_gpu/entries.cuh"
