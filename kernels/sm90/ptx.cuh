/* SPDX-License-Identifier: Apache-2.0
 * Every PTX instruction that the sm90 kernels alone use, one function each. Source of meanings and constraints: PTX ISA
 * 8.x, chapters "mbarrier", "cp.async.bulk", "wgmma" and "setmaxnreg". Shared-memory addresses are 32-bit, of the
 * shared::cta window. */
#ifndef W4_SM90_PTX_CUH
#define W4_SM90_PTX_CUH

#include "common_gpu/ptx.cuh"

#include <cuda.h>

__device__ __forceinline__ unsigned thread_index() {
    return threadIdx.x;
}

/** blockIdx.x, read again each time: the compiler keeps no register for it. */
__device__ __forceinline__ int block_index() {
    int index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
}

/** Have a value loaded that nobody needs: only an instruction that could do something keeps ptxas from leaving it out.
 */
__device__ __forceinline__ void read_for_nothing(uint32_t value) {
    asm volatile("{\n\t"
                 ".reg .pred never;\n\t"
                 "setp.eq.u32 never, %0, 0x9e3779b9;\n\t"
                 "@never nanosleep.u32 0;\n\t"
                 "}" ::"r"(value));
}

/** Where `place` is at `ring` or past it: back by as much, and `phase` flipped. By predicates, where the compiler would
 * take twice as many instructions or a branch. */
__device__ __forceinline__ void wrap(int &place, uint32_t &phase, int ring) {
    asm("{\n\t"
        ".reg .pred again;\n\t"
        "setp.ge.s32 again, %0, %2;\n\t"
        "@again sub.s32 %0, %0, %2;\n\t"
        "@again xor.b32 %1, %1, 1;\n\t"
        "}"
        : "+r"(place), "+r"(phase)
        : "r"(ring));
}

/** Matrices of 8 x 8 elements of 16 bits, transposed: lane i gets rows i % 4 * 2 and the next of column i / 4. Lane
 * 8 m + r has the address of row r of matrix m, 16 bytes. */
__device__ __forceinline__ void load_transposed(uint32_t (&matrices)[2], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(matrices[0]), "=r"(matrices[1])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&matrices)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
}

/* ---- mbarrier ------------------------------------------------------------------------------------------------ */

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/** Make initialised barriers visible to the copy engine. */
__device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/** Arrive, and expect `bytes` more to be copied in this phase. */
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/** Wait until the phase of this parity has completed. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/** Whether the phase of this parity has completed; without waiting. */
__device__ __forceinline__ bool barrier_test(uint32_t barrier, uint32_t parity) {
    uint32_t completed;
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, done;\n\t"
                 "}"
                 : "=r"(completed)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return completed;
}

/** Arrive at the barrier with the same address in the CTA `rank` of the cluster. */
__device__ __forceinline__ void barrier_arrive_cluster(uint32_t barrier, uint32_t rank) {
    asm volatile("{\n\t"
                 ".reg .b32 remote;\n\t"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n\t"
                 "}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

/** Wait until the phase of this parity has completed; then what other CTAs stored with it (cluster_store) is there. */
__device__ __forceinline__ void barrier_wait_cluster(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/** All threads of a cluster's CTAs arrive, and wait for one another. Arriving publishes nothing but barriers, after
 * barrier_init_fence. */
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/** Store to the same `address` in the shared memory of the CTA `rank` of the cluster; completes on its `barrier`, with
 * 16 bytes. */
__device__ __forceinline__ void cluster_store(uint32_t address, uint32_t rank, const float4 &value, uint32_t barrier) {
    asm volatile(
        "{\n\t"
        ".reg .b32 remote, signal;\n\t"
        "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
        "mapa.shared::cluster.u32 signal, %2, %1;\n\t"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [remote], {%3, %4, %5, %6}, [signal];\n\t"
        "}" ::"r"(address),
        "r"(rank), "r"(barrier), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
        : "memory");
}

/** Two warpgroups take turns: wait for the other to pass at this barrier. */
__device__ __forceinline__ void turn_wait(int barrier) {
    asm volatile("bar.sync %0, 256;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void turn_pass(int barrier) {
    asm volatile("bar.arrive %0, 256;" ::"r"(barrier) : "memory");
}

/** Wait for all `threads` threads of the CTA, each warp from an instruction of its own: bar.sync allows that, too, but
 * compute-sanitizer's synccheck takes it for divergence. */
__device__ __forceinline__ void roles_sync(int barrier, int threads) {
    asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/** Arrive at a barrier at which others wait (group_sync), for `threads` threads in all. */
__device__ __forceinline__ void group_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* ---- Shared memory ------------------------------------------------------------------------------------------- */

/** Store 8 x 8 matrices of 16-bit values, transposed: place(i, j) is the address for row j of matrix i, 16 bytes; a
 * lane's register i holds its two values of matrix i in row lane/4, columns 2 * (lane%4) and the next. */
template <class Place>
__device__ __forceinline__ void store_matrices_transposed(const uint32_t (&matrices)[4], const Place &place) {
    const uint32_t address = place(threadIdx.x % 32 / 8, threadIdx.x % 8);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
                 : "memory");
}

/* ---- Copies out of shared memory -----------------------------------------------------------------------------
 * The thread that starts a copy is the one that can wait for it. */

/** Make what this thread wrote to shared memory visible to the copy engine. */
__device__ __forceinline__ void copy_engine_fence() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/** Start a copy to the box at (x, y) of a two-dimensional tensor map: what lies out of bounds is not written. */
__device__ __forceinline__ void store_tensor(const CUtensorMap *map, int32_t x, int32_t y, uint32_t source) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];\n\t"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(x), "r"(y), "r"(source)
                 : "memory");
}

/** Wait until at most PENDING copies have not read all of their source yet. */
template <int PENDING> __device__ __forceinline__ void stores_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

/* ---- Copies into shared memory ------------------------------------------------------------------------------- */

/** A contiguous run of `bytes` (a multiple of 16, both ends 16-byte aligned); completes on `barrier`. */
__device__ __forceinline__ void copy_bulk(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
        "l"(source), "r"(bytes), "r"(barrier)
        : "memory");
}

/** The box at (x, y, z) of a three-dimensional tensor map; completes on `barrier` with the whole box's bytes. */
__device__ __forceinline__ void copy_tensor(uint32_t target, const CUtensorMap *map, int32_t x, int32_t y, int32_t z,
                                            uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
        "[%5];" ::"r"(target),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

/** The same, written to the same address of every CTA in `mask`, and completing on the barrier of each. */
__device__ __forceinline__ void copy_tensor_multicast(uint32_t target, const CUtensorMap *map, int32_t x, int32_t y,
                                                      int32_t z, uint32_t barrier, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(target),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(mask)
                 : "memory");
}

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/** True in one thread of a converged warp. */
__device__ __forceinline__ bool elect_one() {
    uint32_t elected;
    asm volatile("{\n\t"
                 ".reg .pred one;\n\t"
                 "elect.sync _|one, 0xffffffff;\n\t"
                 "selp.u32 %0, 1, 0, one;\n\t"
                 "}"
                 : "=r"(elected));
    return elected;
}

/* ---- Registers ----------------------------------------------------------------------------------------------- */

template <int COUNT> __device__ __forceinline__ void registers_give_back() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* ---- wgmma --------------------------------------------------------------------------------------------------- */

/** Before the first wgmma, and after registers that one reads were written by other instructions. */
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/** Wait until at most PENDING committed groups are still running. */
template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/** Descriptor of a K-major operand tile in shared memory: rows of 128 bytes, 128-byte swizzle, 8 rows to 1024 bytes.
 * The lower half holds the address (of 16 bytes each) and the leading offset, which this swizzle does not use; the
 * upper the 1024 bytes between groups of 8 rows, and the swizzle. */
__device__ __forceinline__ uint32_t wgmma_descriptor_low(uint32_t address) {
    return (address & 0x3ffff) >> 4 | 1 << 16;
}
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t low) {
    uint64_t descriptor;
    asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(low), "r"(1024 >> 4 | 1 << 30));
    return descriptor;
}

/* The operands of wgmma, eight sums at a time: what stands in the instruction, and what the compiler binds to it. */
#define W4_SUMS_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define W4_SUMS_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define W4_SUMS_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define W4_SUMS_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define W4_SUMS_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define W4_SUMS_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define W4_SUMS_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define W4_SUMS_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define W4_SUMS_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define W4_SUMS_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define W4_SUMS_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define W4_SUMS_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define W4_SUMS_12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define W4_SUMS_13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define W4_SUMS_14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define W4_SUMS_15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define W4_BIND_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define W4_BIND_8(i) W4_BIND_4(i), W4_BIND_4(i + 4)
#define W4_BIND_16(i) W4_BIND_8(i), W4_BIND_8(i + 8)
#define W4_BIND_32(i) W4_BIND_16(i), W4_BIND_16(i + 16)
#define W4_BIND_64(i) W4_BIND_32(i), W4_BIND_32(i + 32)
#define W4_SUMS_TO_15 W4_SUMS_0 ", " W4_SUMS_1
#define W4_SUMS_TO_31 W4_SUMS_TO_15 ", " W4_SUMS_2 ", " W4_SUMS_3
#define W4_SUMS_TO_63 W4_SUMS_TO_31 ", " W4_SUMS_4 ", " W4_SUMS_5 ", " W4_SUMS_6 ", " W4_SUMS_7
#define W4_SUMS_TO_95 W4_SUMS_TO_63 ", " W4_SUMS_8 ", " W4_SUMS_9 ", " W4_SUMS_10 ", " W4_SUMS_11
#define W4_SUMS_TO_127 W4_SUMS_TO_95 ", " W4_SUMS_12 ", " W4_SUMS_13 ", " W4_SUMS_14 ", " W4_SUMS_15

/** d[64, N] = a[64, 16] * b[16, N] (+ d, if `add`): a in registers, b by descriptor; fp16 or bf16 operands, fp32 sums.
 * Asynchronous: d and a must be left alone until wgmma_wait. */
template <int N, bool BF16> struct wgmma;

#define W4_WGMMA(n, is_bf16, type, sums, a0, a1, a2, a3, descriptor, accumulate, ...)                                  \
    template <> struct wgmma<n, is_bf16> {                                                                             \
        static __device__ __forceinline__ void run(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int add) {   \
            asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, " accumulate                                        \
                         ", 0;\n\twgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" sums "}, {" a0   \
                         ", " a1 ", " a2 ", " a3 "}, " descriptor ", add, 1, 1, 0;\n\t}"                               \
                         : __VA_ARGS__                                                                                 \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add)                                \
                         : "memory");                                                                                  \
        }                                                                                                              \
    };
#define W4_WGMMA_BOTH(n, ...) W4_WGMMA(n, false, "f16", __VA_ARGS__) W4_WGMMA(n, true, "bf16", __VA_ARGS__)

W4_WGMMA_BOTH(16, W4_SUMS_0, "%8", "%9", "%10", "%11", "%12", "%13", W4_BIND_8(0))
W4_WGMMA_BOTH(32, W4_SUMS_TO_15, "%16", "%17", "%18", "%19", "%20", "%21", W4_BIND_16(0))
W4_WGMMA_BOTH(64, W4_SUMS_TO_31, "%32", "%33", "%34", "%35", "%36", "%37", W4_BIND_32(0))
W4_WGMMA_BOTH(128, W4_SUMS_TO_63, "%64", "%65", "%66", "%67", "%68", "%69", W4_BIND_64(0))
W4_WGMMA_BOTH(192, W4_SUMS_TO_95, "%96", "%97", "%98", "%99", "%100", "%101", W4_BIND_64(0), W4_BIND_32(64))
W4_WGMMA_BOTH(256, W4_SUMS_TO_127, "%128", "%129", "%130", "%131", "%132", "%133", W4_BIND_64(0), W4_BIND_64(64))

#endif
