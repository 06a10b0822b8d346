/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: a tile whose stages parts of the CTA's warpgroups take in turns. The first part adds up all sums,
 * and goes on with them; the others leave theirs in rooms of their own.
 *
 * Two named barriers, of all warpgroups that multiply: at READY the others arrive when their sums are there, at FREE
 * the first when it has read them. Each waits at the other one. */
struct Parts {
    static constexpr int READY = ORDER_BARRIER + 3, FREE = ORDER_BARRIER + 4, THREADS_OF_ALL = 128 * WARPGROUPS;
    const uint32_t room; /* this thread's first 16 bytes of its part's, or of the second part's */
    bool first = true;
    __device__ __forceinline__ Parts(const Shared &shared, int part)
        : room(shared.part(max(part - 1, 0)) + (threadIdx.x / 128 - 1) % SHARERS * (STRIPS * SUMS * 512) +
               threadIdx.x % 128 * 16) {}

    /** racecheck takes what is arrived at for unordered: for it everybody waits. */
    static __device__ __forceinline__ void arrive(int barrier) {
        if (ARRIVING_LANES > 1)
            group_sync(barrier, THREADS_OF_ALL);
        else
            group_arrive(barrier, THREADS_OF_ALL);
    }

    __device__ __forceinline__ void give(const float (&sums)[STRIPS][SUMS]) {
        if constexpr (PARTS > 1) {
            if (!first) group_sync(FREE, THREADS_OF_ALL);
            first = false;
#pragma unroll
            for (int i = 0; i < STRIPS * SUMS / 4; i++) {
                const float *four = &sums[i / (SUMS / 4)][i % (SUMS / 4) * 4];
                shared_store128(room + i * 2048, make_float4(four[0], four[1], four[2], four[3]));
            }
            arrive(READY);
        }
    }

    __device__ __forceinline__ void collect(float (&sums)[STRIPS][SUMS]) {
        if constexpr (PARTS > 1) {
            /* The others wait before they give for the second time; nobody would for a last arrival. */
            if (!first) arrive(FREE);
            first = false;
            group_sync(READY, THREADS_OF_ALL);
#pragma unroll
            for (int part = 0; part < PARTS - 1; part++)
#pragma unroll
                for (int i = 0; i < STRIPS * SUMS / 4; i++)
                    add_four(&sums[i / (SUMS / 4)][i % (SUMS / 4) * 4],
                             shared_load_floats(room + part * (TILE_N * TILE_M * 4) + i * 2048));
        }
    }
};
