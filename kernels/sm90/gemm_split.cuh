/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: a tile whose stages the CTAs of a cluster have shared out. Each leaves its sums in its shared
 * memory, where the ring was, and finishes some of the tile's slices, the 16 out features of a warp and strip: its own
 * sums and then the others' by rank. Between give and collect all threads of the cluster pass cluster_sync. */
struct Split {
    static constexpr int FOURS = SUMS / 4, SLICES = 4 * SHARERS * STRIPS;
    static constexpr int BARRIER = ORDER_BARRIER + 2;
    const w4_sm90_gemm_params &params;
    const uint32_t room; /* this lane's part of the first slice */
    const int rank;
    __device__ __forceinline__ Split(const w4_sm90_gemm_params &params_, const Shared &shared, int worker)
        : params(params_), room(shared.activations(0) + threadIdx.x % 32 * 16),
          rank(worker % max(params_.schedule.split, 1)) {}

    __device__ __forceinline__ int slice(int strip) const {
        return ((threadIdx.x / 128 - 1) * STRIPS + strip) * 4 + threadIdx.x % 128 / 32; /* of the first part */
    }
    /** Whether this CTA finishes this warp's slice of its strip `strip`. */
    __device__ __forceinline__ bool mine(int strip) const {
        return slice(strip) * params.schedule.split / SLICES == rank;
    }
    __device__ __forceinline__ uint32_t place(int strip, int four) const {
        return room + (slice(strip) * FOURS + four) * 512;
    }

    __device__ __forceinline__ void give(const float (&sums)[STRIPS][SUMS]) const {
        group_sync(BARRIER, 128 * SHARERS); /* nobody reads the ring any more */
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            if (mine(strip)) continue;
#pragma unroll
            for (int i = 0; i < FOURS; i++) {
                const float *four = &sums[strip][i * 4];
                shared_store128(place(strip, i), make_float4(four[0], four[1], four[2], four[3]));
            }
        }
    }

    __device__ __forceinline__ void collect(float (&sums)[STRIPS][SUMS]) const {
        /* So many loads on their way at once as registers are free. */
        constexpr int BATCH = FOURS < 8 ? FOURS : 8;
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            if (!mine(strip)) continue;
#pragma unroll 1
            for (int other = 0; other < params.schedule.split; other++) {
                if (other == rank) continue;
#pragma unroll
                for (int first = 0; first < FOURS; first += BATCH) {
                    float4 parts[BATCH];
#pragma unroll
                    for (int i = 0; i < BATCH; i++) parts[i] = cluster_load(place(strip, first + i), other);
#pragma unroll
                    for (int i = 0; i < BATCH; i++) {
                        float *four = &sums[strip][(first + i) * 4];
                        four[0] += parts[i].x;
                        four[1] += parts[i].y;
                        four[2] += parts[i].z;
                        four[3] += parts[i].w;
                    }
                    settle(sums[strip]);
                }
            }
        }
    }
};
