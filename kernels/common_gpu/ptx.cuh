/* SPDX-License-Identifier: Apache-2.0
 * PTX instructions that the kernels of every architecture use, one function each. Shared-memory addresses are 32-bit.
 */
#ifndef W4_GPU_PTX_CUH
#define W4_GPU_PTX_CUH

#include <stdint.h>

__device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* ---- Threads of a CTA ---------------------------------------------------------------------------------------- */

/** Wait for `threads` threads, whole warps, at a barrier numbered 0 to 15; 0 is __syncthreads's. */
__device__ __forceinline__ void group_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* ---- Kernels in a row ---------------------------------------------------------------------------------------- */

/* From compute capability 9.0 on; elsewhere, and in PTX for all, a kernel starts when the one before it has ended. */

/** The next kernel in the stream may start, as far as it does not need what this one writes. */
__device__ __forceinline__ void grid_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/** Wait until the kernels before this one have ended and what they wrote is there. */
__device__ __forceinline__ void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- Flags between CTAs -------------------------------------------------------------------------------------- */

__device__ __forceinline__ void flag_store(uint64_t *flag, uint64_t value) {
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(flag), "l"(value) : "memory");
}
__device__ __forceinline__ uint64_t flag_load(const uint64_t *flag) {
    uint64_t value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(flag) : "memory");
    return value;
}

/* ---- Shared memory ------------------------------------------------------------------------------------------- */

__device__ __forceinline__ uint4 shared_load128(uint32_t address) {
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(address)
                 : "memory");
    return value;
}
__device__ __forceinline__ float4 shared_load_floats(uint32_t address) {
    const uint4 bits = shared_load128(address);
    return make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                       __uint_as_float(bits.w));
}
__device__ __forceinline__ uint32_t shared_load32(uint32_t address) {
    uint32_t value;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}
__device__ __forceinline__ uint32_t shared_load16(uint32_t address) {
    uint16_t value;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
    return value;
}
__device__ __forceinline__ uint32_t shared_load8(uint32_t address) {
    uint32_t value;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}

__device__ __forceinline__ void shared_store128(uint32_t address, float4 value) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x), "f"(value.y), "f"(value.z),
                 "f"(value.w)
                 : "memory");
}

/** Have a line of 128 bytes brought into the L2 cache. */
__device__ __forceinline__ void prefetch(const void *line) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

/* ---- Bits ---------------------------------------------------------------------------------------------------- */

/** (word & MASK) | magic in one instruction; two constants would make two, so `magic` must be a register. */
template <uint32_t MASK> __device__ __forceinline__ uint32_t and_or(uint32_t word, uint32_t magic) {
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "n"(MASK), "r"(magic));
    return result;
}

/** 1 / value, within one unit in the last place; exact for powers of two. Not for values that are denormal. */
__device__ __forceinline__ float reciprocal(float value) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}

/** A constant that the compiler keeps in a register. */
__device__ __forceinline__ uint32_t in_register(uint32_t value) {
    asm volatile("mov.u32 %0, %0;" : "+r"(value));
    return value;
}

#endif
