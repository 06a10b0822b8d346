/* SPDX-License-Identifier: Apache-2.0
 * Runs the source of an sm80 kernel on the CPU: each thread of a CTA is a fiber, and what the lanes of a warp or the
 * threads of a CTA do together (mma, ldmatrix, barriers) is a meeting point. This file stands in for the kernels'
 * ptx.cuh and for what nvcc knows by itself. Copies into shared memory are made when they are started, or as late as
 * the kernel allows, when it waits for them: with both, a stage that is read too early or overwritten too early shows.
 */
#ifndef W4A16_TESTS_EMULATE_H
#define W4A16_TESTS_EMULATE_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

/* ---- What emulate.cpp gives ---------------------------------------------------------------------------------- */

struct emulated_index {
    unsigned x;
};
extern emulated_index threadIdx, blockIdx, gridDim;

/** Wait until all lanes of the warp have come here; the last one runs `work` on what each has brought. */
void emulate_meet_warp(void (*work)(void *const brought[32]), void *mine);
/** Wait until `threads` threads of the CTA have come to this barrier. */
void emulate_meet_threads(int barrier, int threads);
/** One CTA after another, those of lower index first; each thread runs `thread(arguments)`. late: copies are made when
 * they are waited for. */
void emulate_launch(unsigned grid, unsigned threads, bool late, void (*thread)(const void *arguments),
                    const void *arguments, void (*begin_cta)());

void emulate_copy(void *target, const void *source, uint32_t bytes);
void emulate_commit();
void emulate_wait(int pending);

/* ---- What nvcc knows by itself ------------------------------------------------------------------------------- */

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#undef __align__
#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline
#define __align__(bytes)

static inline int max(int a, int b) {
    return a > b ? a : b;
}
static inline int min(int a, int b) {
    return a < b ? a : b;
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    auto one = [](__half x, __half y, __half z) {
        return __double2half((double)__half2float(x) * (double)__half2float(y) + (double)__half2float(z));
    };
    return __half2{one(a.x, b.x, c.x), one(a.y, b.y, c.y)};
}
static inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
    auto one = [](__nv_bfloat16 x, __nv_bfloat16 y, __nv_bfloat16 z) {
        return __double2bfloat16((double)__bfloat162float(x) * (double)__bfloat162float(y) +
                                 (double)__bfloat162float(z));
    };
    return __nv_bfloat162{one(a.x, b.x, c.x), one(a.y, b.y, c.y)};
}
template <class T> static inline T __ldg(const T *address) {
    return *address;
}
template <class T> static inline T __ldcg(const T *address) {
    return *address;
}
template <class T> static inline void __stcg(T *address, T value) {
    *address = value;
}
static inline float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) result |= (uint32_t)(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return result;
}
static inline void __syncthreads_of(int threads) {
    emulate_meet_threads(0, threads);
}
static inline void __syncwarp() {
    emulate_meet_warp([](void *const *) {}, nullptr);
}
static inline bool __any_sync(uint32_t, bool mine) {
    emulate_meet_warp(
        [](void *const brought[32]) {
            bool any = false;
            for (int i = 0; i < 32; i++) any |= *(const bool *)brought[i];
            for (int i = 0; i < 32; i++) *(bool *)brought[i] = any;
        },
        &mine);
    return mine;
}

/* ---- kernels/common_gpu/ptx.cuh ------------------------------------------------------------------------------- */

#define W4_GPU_PTX_CUH

namespace {

enum { EMULATED_SHARED = 232448 };
alignas(1024) uint8_t memory[EMULATED_SHARED]; /* what the kernel calls `extern __shared__` */

inline uint8_t *shared_pointer(uint32_t address) {
    return memory + address;
}
inline uint32_t shared_address(const void *pointer) {
    return (uint32_t)((const uint8_t *)pointer - memory);
}
inline void group_sync(int barrier, int threads) {
    emulate_meet_threads(barrier, threads);
}
inline void grid_launch_dependents() {}
inline void grid_dependency_wait() {}
inline void flag_store(uint64_t *flag, uint64_t value) {
    *flag = value;
}
inline uint64_t flag_load(const uint64_t *flag) {
    return *flag;
}
template <class T> inline T shared_load(uint32_t address) {
    T value;
    if (address % sizeof value || address + sizeof value > EMULATED_SHARED) abort();
    memcpy(&value, shared_pointer(address), sizeof value);
    return value;
}
inline uint4 shared_load128(uint32_t address) {
    return shared_load<uint4>(address);
}
inline float4 shared_load_floats(uint32_t address) {
    return shared_load<float4>(address);
}
inline uint32_t shared_load32(uint32_t address) {
    return shared_load<uint32_t>(address);
}
inline uint32_t shared_load8(uint32_t address) {
    return shared_load<uint8_t>(address);
}
inline void shared_store128(uint32_t address, float4 value) {
    if (address % sizeof value || address + sizeof value > EMULATED_SHARED) abort();
    memcpy(shared_pointer(address), &value, sizeof value);
}
inline void prefetch(const void *) {}
inline float reciprocal(float value) {
    return 1.0f / value;
}
template <uint32_t MASK> inline uint32_t and_or(uint32_t word, uint32_t magic) {
    return (word & MASK) | magic;
}
inline uint32_t in_register(uint32_t value) {
    return value;
}

/* ---- kernels/sm80/ptx.cuh ------------------------------------------------------------------------------------- */

#define W4_SM80_PTX_CUH

struct lane_value {
    uint32_t value, result;
    int from;
};
inline uint32_t of_lane(uint32_t value, int lane) {
    lane_value mine = {value, 0, lane};
    emulate_meet_warp(
        [](void *const brought[32]) {
            for (int i = 0; i < 32; i++) {
                lane_value *it = (lane_value *)brought[i];
                it->result = ((const lane_value *)brought[it->from & 31])->value;
            }
        },
        &mine);
    return mine.result;
}
inline uint32_t kept(uint32_t value) {
    return value;
}
inline void copy16_part(uint32_t target, const void *source, uint32_t bytes) {
    if (target % 16 || (uintptr_t)source % 16 || bytes > 16 || target + 16 > EMULATED_SHARED) abort();
    emulate_copy(shared_pointer(target), source, bytes);
}
inline void copy16(uint32_t target, const void *source) {
    copy16_part(target, source, 16);
}
inline void copy16_if(uint32_t wanted, uint32_t target, const void *source) {
    if (wanted) copy16(target, source);
}
inline void copy16_or_zeros(uint32_t target, const void *source, uint32_t exists) {
    copy16_part(target, source, exists ? 16 : 0);
}
template <int TARGET_OFFSET, int SOURCE_OFFSET> inline void copy16_at(uint32_t target, const void *source) {
    copy16(target + TARGET_OFFSET, (const uint8_t *)source + SOURCE_OFFSET);
}
template <int TARGET_OFFSET, int SOURCE_OFFSET>
inline void copy16_part_at(uint32_t target, const void *source, uint32_t bytes) {
    copy16_part(target + TARGET_OFFSET, (const uint8_t *)source + SOURCE_OFFSET, bytes);
}
inline void copies_commit() {
    emulate_commit();
}
template <int PENDING> inline void copies_wait() {
    emulate_wait(PENDING);
}

inline unsigned thread_index() {
    return threadIdx.x;
}

struct matrix_lane {
    uint32_t address, values[4];
};
inline void load_matrices(uint32_t (&matrices)[4], uint32_t address) {
    matrix_lane mine = {address, {0, 0, 0, 0}};
    emulate_meet_warp(
        [](void *const brought[32]) {
            for (int lane = 0; lane < 32; lane++)
                for (int i = 0; i < 4; i++) {
                    uint32_t row = ((matrix_lane *)brought[8 * i + lane / 4])->address;
                    if (row % 16) abort();
                    ((matrix_lane *)brought[lane])->values[i] = shared_load<uint32_t>(row + lane % 4 * 4);
                }
        },
        &mine);
    memcpy(matrices, mine.values, sizeof mine.values);
}

inline uint32_t transpose_matrix(uint32_t matrix) {
    matrix_lane mine = {0, {matrix, 0, 0, 0}};
    emulate_meet_warp(
        [](void *const brought[32]) {
            for (int lane = 0; lane < 32; lane++) {
                uint32_t pair = 0;
                for (int i = 0; i < 2; i++) {
                    int row = lane % 4 * 2 + i, column = lane / 4; /* of the matrix that comes in */
                    uint32_t from = ((matrix_lane *)brought[4 * row + column / 2])->values[0];
                    pair |= (from >> 16 * (column % 2) & 0xffff) << 16 * i;
                }
                ((matrix_lane *)brought[lane])->values[1] = pair;
            }
        },
        &mine);
    return mine.values[1];
}
template <int COUNT, class Place>
inline void store_matrices_transposed(const uint32_t (&matrices)[COUNT], const Place &place) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < COUNT; i++) {
        const uint32_t pair = transpose_matrix(matrices[i]);
        memcpy(shared_pointer(place(i, lane / 4) + lane % 4 * 4), &pair, 4);
    }
}

inline void keep_order(uint32_t &) {}

struct mma_lane {
    float *d;
    const uint32_t *a, *b;
};
template <bool BF16> inline float number(uint32_t pair, int index) {
    const uint16_t bits = (uint16_t)(pair >> 16 * index);
    if (BF16) return __uint_as_float((uint32_t)bits << 16);
    __half_raw raw;
    raw.x = bits;
    return __half2float(__half(raw));
}
template <bool BF16, bool ADD> inline void mma(float *d, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_lane mine = {d, a, b};
    emulate_meet_warp(
        [](void *const brought[32]) {
            float left[16][16], right[16][8];
            for (int lane = 0; lane < 32; lane++) {
                const mma_lane *it = (const mma_lane *)brought[lane];
                for (int i = 0; i < 8; i++)
                    left[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] =
                        number<BF16>(it->a[i / 2], i % 2);
                for (int i = 0; i < 4; i++)
                    right[lane % 4 * 2 + i % 2 + i / 2 * 8][lane / 4] = number<BF16>(it->b[i / 2], i % 2);
            }
            for (int lane = 0; lane < 32; lane++) {
                float *sums = ((const mma_lane *)brought[lane])->d;
                for (int i = 0; i < 4; i++) {
                    double sum = ADD ? (double)sums[i] : 0;
                    for (int k = 0; k < 16; k++)
                        sum += (double)left[lane / 4 + i / 2 * 8][k] * (double)right[k][lane % 4 * 2 + i % 2];
                    sums[i] = (float)sum;
                }
            }
        },
        &mine);
}

} // namespace

#endif
