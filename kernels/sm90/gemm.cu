/* SPDX-License-Identifier: Apache-2.0
 * GEMM for sm_90a, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n], weights of 4 bits in the packed layout. Compiled once a
 * config with W4_CONFIG_NAME, W4_TILE_N, W4_TILE_M, W4_TILE_K and W4_STAGES set (kernels.def).
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
#include "params.h"
#include "ptx.cuh"
#include "shape.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

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

__device__ __forceinline__ float load_number(const uint8_t *address, int dtype) {
    if (dtype == W4_PARAM_FP32) return __ldg((const float *)address);
    uint16_t bits = __ldg((const unsigned short *)address);
    return dtype == W4_PARAM_BF16 ? __uint_as_float((uint32_t)bits << 16) : __half2float(__ushort_as_half(bits));
}

/** Scales and zero points of one group, of the two rows that a thread's fragments hold. */
struct Group {
    float scale[2], zero[2];
    __device__ void load(const w4_gemm_params &params, int strip, int group, int row) {
        int64_t chunk = (int64_t)group * params.group_size / W4_CHUNK_COLUMNS;
        int64_t line = group - w4_packed_first_group(params.group_size, chunk);
        int64_t first = line * W4_BLOCK_ROWS + row;
        const uint8_t *scales = params.packed + w4_packed_scale_offset(&params.layout, strip, chunk);
        const uint8_t *zeros = params.packed + w4_packed_zero_offset(&params.layout, strip, chunk);
        for (int i = 0; i < 2; i++) {
            scale[i] = load_number(scales + (first + 8 * i) * params.layout.scale_size, params.scale_dtype);
            zero[i] = 8.0f;
            if (params.zero_kind == W4_PARAM_ZERO_INTEGER) zero[i] = (float)__ldg(zeros + first + 8 * i);
            if (params.zero_kind == W4_PARAM_ZERO_FLOAT) zero[i] = __ldg((const float *)zeros + first + 8 * i);
        }
    }
};

__device__ __forceinline__ uint32_t bits_of(__half2 value) { return *reinterpret_cast<uint32_t *>(&value); }
__device__ __forceinline__ uint32_t bits_of(__nv_bfloat162 value) { return *reinterpret_cast<uint32_t *>(&value); }
__device__ __forceinline__ __half2 half2_of(uint32_t bits) { return *reinterpret_cast<__half2 *>(&bits); }
__device__ __forceinline__ __nv_bfloat162 bfloat162_of(uint32_t bits) {
    return *reinterpret_cast<__nv_bfloat162 *>(&bits);
}

/** What is subtracted from a thread's two rows (kernels/common/dequantize.h has the tricks and their proof). */
template <bool BF16> struct Dequantizer;

template <> struct Dequantizer<false> {
    __half2 low, high, fraction[2]; /* 1024 + z of row 0; -(64 + z) of row 1; what is left of a float z */
    bool is_float;
    __device__ void set(const Group &group, int zero_kind) {
        is_float = zero_kind == W4_PARAM_ZERO_FLOAT;
        low = __float2half2_rn(1024.0f + (is_float ? 0.0f : group.zero[0]));
        high = __float2half2_rn(-64.0f - (is_float ? 0.0f : group.zero[1]));
        fraction[0] = __float2half2_rn(group.zero[0]);
        fraction[1] = __float2half2_rn(group.zero[1]);
    }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
        const __half2 sixteenth = __float2half2_rn(0.0625f);
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            __half2 first = __hsub2(half2_of((word & 0x000f000f) | 0x64006400), low);
            __half2 second = __hfma2(half2_of((word & 0x00f000f0) | 0x64006400), sixteenth, high);
            if (is_float) {
                first = __hsub2(first, fraction[0]);
                second = __hsub2(second, fraction[1]);
            }
            a[2 * pair] = bits_of(first);
            a[2 * pair + 1] = bits_of(second);
            word >>= 8;
        }
    }
};

template <> struct Dequantizer<true> {
    __nv_bfloat162 offset[2]; /* 128 + z of each row: exact, as z is an integer of at most 16 */
    __device__ void set(const Group &group, int) {
        offset[0] = __float2bfloat162_rn(128.0f + group.zero[0]);
        offset[1] = __float2bfloat162_rn(128.0f + group.zero[1]);
    }
    __device__ __forceinline__ void word(uint32_t word, uint32_t (&a)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[i] = bits_of(__hsub2(bfloat162_of((word & 0x000f000f) | 0x43004300), offset[i % 2]));
            word >>= 4;
        }
    }
};

/* ---- Multiplying --------------------------------------------------------------------------------------------- */

/** Add a finished group's sums, each times its row's scale, to the tile's. */
__device__ __forceinline__ void add_group(float (&total)[SUMS], const float (&sums)[SUMS], const Group &group) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) total[i] = fmaf(group.scale[i % 4 / 2], sums[i], total[i]);
}

/** 0 where a group begins at this column: its first product is not added to what the sums held. */
__device__ __forceinline__ int column_in_group(int column, int group_size) { return column % group_size != 0; }

/** Keep the compiler from moving the making of a fragment behind the fence: it would see registers of a running wgmma
 * change, and serialise all of them. */
__device__ __forceinline__ void settle(uint32_t (&fragment)[2][4]) {
#pragma unroll
    for (int i = 0; i < 8; i++) asm volatile("" : "+r"(fragment[i / 4][i % 4])::"memory");
}

/** The same for sums, around code that reads them. */
__device__ __forceinline__ void settle(float (&sums)[SUMS]) {
#pragma unroll
    for (int i = 0; i < SUMS; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

/** 32 columns of k: two k16 steps. */
template <bool BF16>
__device__ __forceinline__ void multiply_half(const Dequantizer<BF16> &dequantizer, uint32_t first, uint32_t second,
                                              uint64_t descriptor, int add, uint32_t (&fragment)[2][4],
                                              float (&sums)[SUMS]) {
    dequantizer.word(first, fragment[0]);
    dequantizer.word(second, fragment[1]);
    settle(fragment);
    wgmma_fence();
    wgmma<TILE_M, BF16>::run(sums, fragment[0], descriptor, add);
    wgmma<TILE_M, BF16>::run(sums, fragment[1], descriptor + 2, 1);
    wgmma_commit();
}

/** One tile of one consumer. SHORT: the group size is an odd multiple of 32, so that groups may end inside a stage. */
template <bool BF16, bool SHORT>
__device__ __forceinline__ void multiply_tile(const w4_gemm_params &params, const Shared &shared, int strip,
                                              int consumer, Position &at, float (&total)[SUMS]) {
    const int thread = threadIdx.x % 128, row = thread / 32 * 16 + thread % 32 / 4;
    const int blocks = (int)params.layout.blocks, groups = (params.k + params.group_size - 1) / params.group_size;
    uint32_t fragment[2][2][4]; /* [half of a stage][k16 step] */
    float sums[SUMS];
    Group group, next;
    Dequantizer<BF16> dequantizer;
    int group_index = 0, group_end = params.group_size;
    group.load(params, strip, 0, row);
    next.load(params, strip, min(1, groups - 1), row);
    dequantizer.set(group, params.zero_kind);
#pragma unroll
    for (int i = 0; i < SUMS; i++) total[i] = 0.0f;
    auto end_group = [&] {
        wgmma_wait<0>();
        settle(sums);
        add_group(total, sums, group);
        group = next;
        group_index++;
        group_end += params.group_size;
        next.load(params, strip, min(group_index + 1, groups - 1), row);
        dequantizer.set(group, params.zero_kind);
    };
    for (int block = 0; block < blocks;) {
        int last = SHORT ? block + 1 : params.group_size >= params.k ? blocks : min(blocks, group_end / TILE_K), reading = -1, add = 0;
        for (; block < last; block++) {
            uint4 packed;
            barrier_wait(shared.full(at.stage), at.phase);
            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(packed.x), "=r"(packed.y), "=r"(packed.z), "=r"(packed.w)
                         : "r"(shared.weights(at.stage, consumer) + thread * 16));
            uint64_t descriptor = wgmma_descriptor(shared.activations(at.stage));
            /* Two halves are in flight at most: a half's registers were last read by the one before the last. */
            if (SHORT) add = column_in_group(block * TILE_K, params.group_size);
            wgmma_wait<1>();
            multiply_half<BF16>(dequantizer, packed.x, packed.y, descriptor, add, fragment[0], sums);
            if (SHORT && block * TILE_K + 32 == group_end) {
                end_group();
                add = 0;
            } else {
                add = 1;
                wgmma_wait<1>();
            }
            /* Now the stage before has been read. */
            if (reading >= 0 && thread % 32 == 0) barrier_arrive(shared.empty(reading));
            reading = at.stage;
            multiply_half<BF16>(dequantizer, packed.z, packed.w, descriptor + 4, add, fragment[1], sums);
            add = 1;
            at.advance();
        }
        if (!SHORT || block * TILE_K == group_end || block == blocks)
            end_group();
        else
            wgmma_wait<0>();
        if (thread % 32 == 0) barrier_arrive(shared.empty(reading));
    }
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

template <bool BF16> __device__ __forceinline__ void gemm(const CUtensorMap *a, const w4_gemm_params &params) {
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
            if (params.group_size % TILE_K && params.group_size < params.k)
                multiply_tile<BF16, true>(params, shared, exists ? strip : tile.strip, exists ? consumer : 0, at, total);
            else
                multiply_tile<BF16, false>(params, shared, exists ? strip : tile.strip, exists ? consumer : 0, at, total);
            if (exists) store_tile(params, tile, strip, total);
        }
    }
}

} // namespace

#define W4_ENTRY_NAME(name, dtype) w4_##name##_##dtype
#define W4_ENTRY(name, dtype, is_bf16)                                                                                 \
    extern "C" __global__ void __launch_bounds__(W4_SM90_THREADS, 1)                                                   \
        W4_ENTRY_NAME(name, dtype)(const __grid_constant__ CUtensorMap a, const __grid_constant__ w4_gemm_params params) { \
        gemm<is_bf16>(&a, params);                                                                                     \
    }

W4_ENTRY(W4_CONFIG_NAME, fp16, false)
W4_ENTRY(W4_CONFIG_NAME, bf16, true)
