/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: a tile whose stages the two CTAs of a cluster have shared out. Each finishes half of the tile's
 * slices, the 16 out features of a warp and strip: its own sums and then the other's, which the other stores into this
 * CTA's shared memory. Nothing else is waited for: a barrier of all threads, and loads from the other's shared memory,
 * would take twice as long.
 *
 * Up to 64 tokens the room for the other's sums is where the results are turned over, a slice's where its warp turns
 * over what becomes of it: nothing has been there before. Larger tiles have no such room, and take the ring's.
 *
 * Two barriers, each used once: `ready`, where the ring is taken, one arrival for each multiplying warp of the other
 * CTA, when it has read its last stage; `arrived` completes with the bytes of the other's sums. A CTA is there until
 * both have completed, so that nobody stores into, or arrives at, one that has ended. Before that all threads pass
 * cluster_wait: the other CTA has begun. */
struct Split {
    static constexpr int FOURS = SUMS / 4, SLICES = 4 * SHARERS * STRIPS;
    static constexpr uint32_t BYTES = TILE_N * TILE_M * 4 / 2; /* of the other's sums */
    static constexpr bool IN_STAGING =
        STRIPS == 1 && BYTES <= STORING_WARPS * W4_SM90_STAGING_BYTES(TILE_M, STORING_WARPS);
    static_assert(!IN_STAGING || FOURS * 512 >= W4_SM90_STAGING_BYTES(TILE_M, STORING_WARPS), "a slice has room");
    const uint32_t ready, arrived;
    const uint32_t room; /* for slices */
    const int rank;
    __device__ __forceinline__ Split(const Shared &shared, int worker)
        : ready(shared.ready()), arrived(shared.arrived()),
          room(IN_STAGING ? shared.staging(0) : shared.activations(0)), rank(worker % 2) {}

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
    /** Where this lane's sums of a slice go: the first half of the slices to one CTA, the second to the other. */
    __device__ __forceinline__ uint32_t place(int strip, int four) const {
        return room + (slice(strip) % (SLICES / 2) * FOURS + four) * 512 + threadIdx.x % 32 * 16;
    }
    /** Where the warp that finishes a slice may turn it over, once collected. */
    __device__ __forceinline__ uint32_t staging() const { return room + slice(0) % (SLICES / 2) * (FOURS * 512); }

    /** This warp has read its last stage. */
    __device__ __forceinline__ void done() const {
        cluster_wait();
        if (!IN_STAGING && threadIdx.x % 32 == 0) barrier_arrive_cluster(ready, 1 - rank);
    }

    __device__ __forceinline__ void give(const float (&sums)[STRIPS][SUMS]) const {
        if (!IN_STAGING) barrier_wait(ready, 0);
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
            for (int i = 0; i < FOURS; i++) add_four(&sums[strip][i * 4], shared_load_floats(place(strip, i)));
        }
        if (IN_STAGING) __syncwarp(); /* all lanes have read: the room is theirs to turn results over in */
    }
};
