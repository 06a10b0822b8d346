/* SPDX-License-Identifier: Apache-2.0
 * Every PTX instruction that the sm80 kernels alone use, one function each. Source of meanings and constraints: PTX ISA
 * 8.x, chapters "cp.async", "ldmatrix", "movmatrix" and "mma". All of them exist from sm_80 on, so that the same code
 * serves every GPU since. Shared-memory addresses are 32-bit. */
#ifndef W4_SM80_PTX_CUH
#define W4_SM80_PTX_CUH

#include "common_gpu/ptx.cuh"

/** This thread's number in the CTA. Where sums take nearly all registers it is asked for again and again: the compiler
 * would keep it, and what follows from it. */
__device__ __forceinline__ unsigned thread_index() {
#if W4_TILE_N / 16 * W4_TILE_M / W4_WARPS < 128
    return threadIdx.x;
#else
    unsigned index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
#endif
}

/* ---- Lanes of a warp ----------------------------------------------------------------------------------------- */

/** What lane `lane` has as `value`. */
__device__ __forceinline__ uint32_t of_lane(uint32_t value, int lane) {
    uint32_t result;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(result) : "r"(value), "r"(lane));
    return result;
}

/** A value that the compiler keeps rather than works out again: for all it knows, another lane gives it. */
__device__ __forceinline__ uint32_t kept(uint32_t value) {
    return of_lane(value, (int)threadIdx.x % 32);
}

/* ---- Copies into shared memory ------------------------------------------------------------------------------- */

/** 16 bytes, both ends 16-byte aligned, past the L1 cache. */
__device__ __forceinline__ void copy16(uint32_t target, const void *source) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(target), "l"(source) : "memory");
}

/** The same, but only the first `bytes` (0 to 16) are read; zeros fill up the rest. */
__device__ __forceinline__ void copy16_part(uint32_t target, const void *source, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes)
                 : "memory");
}

/** copy16, but only where `wanted`, without a branch. */
__device__ __forceinline__ void copy16_if(uint32_t wanted, uint32_t target, const void *source) {
    asm volatile("{\n\t.reg .pred wanted;\n\tsetp.ne.b32 wanted, %0, 0;\n\t"
                 "@wanted cp.async.cg.shared.global.L2::128B [%1], [%2], 16;\n\t}" ::"r"(wanted),
                 "r"(target), "l"(source)
                 : "memory");
}

/** 16 bytes, or zeros where there are none to read. */
__device__ __forceinline__ void copy16_or_zeros(uint32_t target, const void *source, uint32_t exists) {
    asm volatile("{\n\t.reg .pred none;\n\tsetp.eq.u32 none, %2, 0;\n\t"
                 "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, none;\n\t}" ::"r"(target),
                 "l"(source), "r"(exists)
                 : "memory");
}

/** copy16 and copy16_part, from SOURCE_OFFSET bytes after `source` to TARGET_OFFSET bytes after `target`. */
template <int TARGET_OFFSET, int SOURCE_OFFSET>
__device__ __forceinline__ void copy16_at(uint32_t target, const void *source) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0 + %2], [%1 + %3], 16;" ::"r"(target), "l"(source),
                 "n"(TARGET_OFFSET), "n"(SOURCE_OFFSET)
                 : "memory");
}
template <int TARGET_OFFSET, int SOURCE_OFFSET>
__device__ __forceinline__ void copy16_part_at(uint32_t target, const void *source, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0 + %3], [%1 + %4], 16, %2;" ::"r"(target), "l"(source),
                 "r"(bytes), "n"(TARGET_OFFSET), "n"(SOURCE_OFFSET)
                 : "memory");
}

/** What this thread has copied since the last commit is one group. */
__device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* ---- Matrices of 8 x 8 16-bit values -------------------------------------------------------------------------- */

/** Load four: lane 8i + j gives the address of row j of matrix i, 16 bytes; a lane's register i receives the two values
 * of matrix i in row lane/4, columns 2 * (lane%4) and the next. */
__device__ __forceinline__ void load_matrices(uint32_t (&matrices)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ uint32_t transpose_matrix(uint32_t matrix) {
    uint32_t result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(matrix));
    return result;
}

__device__ __forceinline__ void shared_store32(uint32_t address, uint32_t value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

/** Store matrices, transposed: place(i, j) is the address for row j of matrix i, 16 bytes; registers as load_matrices
 * has them. */
template <int COUNT, class Place>
__device__ __forceinline__ void store_matrices_transposed(const uint32_t (&matrices)[COUNT], const Place &place) {
    const int lane = thread_index() % 32;
#pragma unroll
    for (int i = 0; i < COUNT; i++) shared_store32(place(i, lane / 4) + lane % 4 * 4, transpose_matrix(matrices[i]));
}

/** What made this register stays before the next mma, and after the last one: their order is fixed. */
__device__ __forceinline__ void keep_order(uint32_t &value) {
    asm volatile("" : "+r"(value));
}

/* ---- mma.sync ------------------------------------------------------------------------------------------------ */

#define W4_MMA(type, sum0, sum1, sum2, sum3)                                                                           \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                                \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                                                 \
                 "{%10, %11, %12, %13};"                                                                               \
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(sum0), "f"(sum1), "f"(sum2),  \
                   "f"(sum3))

/** d[16, 8] = a[16, 16] * b[16, 8] + (ADD ? d : 0); fp16 or bf16 operands, fp32 sums. d: four sums in a row, as
 * common_gpu/store.cuh has them. */
template <bool BF16, bool ADD>
__device__ __forceinline__ void mma(float *d, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (BF16 && ADD)
        W4_MMA("bf16", d[0], d[1], d[2], d[3]);
    else if constexpr (BF16)
        W4_MMA("bf16", 0.0f, 0.0f, 0.0f, 0.0f);
    else if constexpr (ADD)
        W4_MMA("f16", d[0], d[1], d[2], d[3]);
    else
        W4_MMA("f16", 0.0f, 0.0f, 0.0f, 0.0f);
}

#undef W4_MMA

#endif
