/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: a tile whose stages the two CTAs of a cluster have shared out. Each finishes some of the tile's
 * slices, the 16 out features of a warp and strip: its own sums and then the other's, which the other stores into this
 * CTA's shared memory, where the ring was. Nothing else is waited for: a barrier of all threads, and loads from the
 * other's shared memory, would take twice as long.
 *
 * Two barriers, each used once: `ready`, one arrival for each multiplying warp of the other CTA, when it has read its
 * last stage, says that its ring may be written to; `arrived` completes with the bytes of the other's sums. A CTA is
 * there until both have completed, so that nobody stores into, or arrives at, one that has ended. Before that all
 * threads pass cluster_wait: the other CTA has begun. */
struct Split {
    static constexpr int FOURS = SUMS / 4, SLICES = 4 * SHARERS * STRIPS;
    static constexpr uint32_t BYTES = TILE_N * TILE_M * 4 / 2; /* of the other's sums */
    const uint32_t ready, arrived;
    const uint32_t room; /* this lane's part of the first slice */
    const int rank;
    __device__ __forceinline__ Split(const Shared &shared, int worker)
        : ready(shared.ready()), arrived(shared.arrived()), room(shared.activations(0) + threadIdx.x % 32 * 16),
          rank(worker % 2) {}

    /** Of one thread, when the CTA begins. */
    static __device__ __forceinline__ void begin(const Shared &shared) {
        barrier_init(shared.ready(), 4 * WARPGROUPS);
        barrier_init(shared.arrived(), 1);
        barrier_arrive_expect(shared.arrived(), BYTES);
    }

    __device__ __forceinline__ int slice(int strip) const {
        return ((threadIdx.x / 128 - 1) * STRIPS + strip) * 4 + threadIdx.x % 128 / 32; /* of the first part */
    }
    /** Whether this CTA finishes this warp's slice of its strip `strip`. */
    __device__ __forceinline__ bool mine(int strip) const { return slice(strip) * 2 / SLICES == rank; }
    __device__ __forceinline__ uint32_t place(int strip, int four) const {
        return room + (slice(strip) * FOURS + four) * 512;
    }

    /** This warp has read its last stage. */
    __device__ __forceinline__ void done() const {
        cluster_wait();
        if (threadIdx.x % 32 == 0) barrier_arrive_cluster(ready, 1 - rank);
    }

    __device__ __forceinline__ void give(const float (&sums)[STRIPS][SUMS]) const {
        barrier_wait(ready, 0);
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            if (mine(strip)) continue;
#pragma unroll
            for (int i = 0; i < FOURS; i++) {
                const float *four = &sums[strip][i * 4];
                cluster_store(place(strip, i), 1 - rank, make_float4(four[0], four[1], four[2], four[3]), arrived);
            }
        }
    }

    __device__ __forceinline__ void collect(float (&sums)[STRIPS][SUMS]) const {
        barrier_wait_cluster(arrived, 0);
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            if (!mine(strip)) continue;
#pragma unroll
            for (int i = 0; i < FOURS; i++) {
                const uint4 more = shared_load128(place(strip, i));
                float *four = &sums[strip][i * 4];
                four[0] += __uint_as_float(more.x);
                four[1] += __uint_as_float(more.y);
                four[2] += __uint_as_float(more.z);
                four[3] += __uint_as_float(more.w);
            }
        }
    }
};
