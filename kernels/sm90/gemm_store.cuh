/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: partial sums of split tiles, and results. */

/** One warpgroup's view of the partial sums that workers leave for one another. */
struct Share {
    const w4_sm90_gemm_params &params;
    const int worker, rank, sharer;
    __device__ Share(const w4_sm90_gemm_params &params_, int worker_, int rank_, int sharer_)
        : params(params_), worker(worker_), rank(rank_), sharer(sharer_) {}

    __device__ int index(int of) const { return (of * CLUSTER + rank) * SHARERS + sharer; }
    __device__ float4 *partials(int of) const {
        return (float4 *)params.partials + (int64_t)index(of) * (STRIPS * SUMS / 4 * 128) + threadIdx.x % 128;
    }

    /** Leave these sums for the worker that finishes the tile. */
    __device__ __forceinline__ void give(const float (&sums)[STRIPS][SUMS]) const {
        float4 *target = partials(worker);
#pragma unroll
        for (int i = 0; i < STRIPS * SUMS / 4; i++) {
            const float *four = &sums[i / (SUMS / 4)][i % (SUMS / 4) * 4];
            __stcg(target + i * 128, make_float4(four[0], four[1], four[2], four[3]));
        }
        warpgroup_sync(1 + threadIdx.x / 128); /* the flag's release covers what all threads wrote before it */
        if (threadIdx.x % 128 == 0) flag_store(params.flags + index(worker), params.ticket);
    }

    /** Add what the other workers have of the tile, in the order of k. */
    __device__ __forceinline__ void collect(int tile, float (&sums)[STRIPS][SUMS]) const {
        int helpers = w4_schedule_helpers(&params.schedule, w4_schedule_run(&params.schedule, worker), tile);
        for (int helper = 1; helper <= helpers; helper++)
            while (flag_load(params.flags + index(worker - helper)) != params.ticket) {
            }
        /* As many helpers' sums on their way at once as registers are free. */
        constexpr int FOURS = STRIPS * SUMS / 4, AT_ONCE = FOURS < 16 ? 16 / FOURS : 1;
        for (int first = 1; first <= helpers; first += AT_ONCE) {
            float4 parts[AT_ONCE][FOURS];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const float4 *source = partials(worker - min(first + i, helpers));
#pragma unroll
                for (int j = 0; j < FOURS; j++) parts[i][j] = __ldcg(source + j * 128);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (first + i > helpers) break;
#pragma unroll
                for (int j = 0; j < FOURS; j++) {
                    float *four = &sums[j / (SUMS / 4)][j % (SUMS / 4) * 4];
                    four[0] += parts[i][j].x;
                    four[1] += parts[i][j].y;
                    four[2] += parts[i][j].z;
                    four[3] += parts[i][j].w;
                }
            }
        }
        warpgroup_sync(1 + threadIdx.x / 128); /* all have seen the flags */
        for (int helper = 1 + threadIdx.x % 128; helper <= helpers; helper += 128)
            params.flags[index(worker - helper)] = 0;
    }
};

/** A tile whose stages a cluster's CTAs have shared out: each leaves its sums in its shared memory, where the ring was,
 * and finishes some of the tile's slices, the 16 out features of one warp: its own sums and then the others' by rank.
 * Returns whether strip `strip` of this warp is this CTA's to store. All threads of the cluster pass `cluster_sync`
 * between the two. */
struct Split {
    static constexpr int FOURS = SUMS / 4, SLICES = 4 * SHARERS * STRIPS;
    const w4_sm90_gemm_params &params;
    uint32_t room; /* this lane's part of the first slice */
    int rank;
    __device__ Split(const w4_sm90_gemm_params &params_, const Shared &shared, int rank_)
        : params(params_), room(shared.activations(0) + threadIdx.x % 32 * 16), rank(rank_) {}

    __device__ int slice(int strip) const {
        return ((threadIdx.x / 128 - 1) * STRIPS + strip) * 4 + threadIdx.x % 128 / 32;
    }
    __device__ bool mine(int strip) const { return slice(strip) * params.schedule.split / SLICES == rank; }
    __device__ uint32_t place(int strip, int four) const { return room + (slice(strip) * FOURS + four) * 512; }

    __device__ __forceinline__ void give(const float (&sums)[STRIPS][SUMS]) const {
        named_sync<128 * WARPGROUPS>(ORDER_BARRIER + 2); /* nobody reads the ring any more */
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
        constexpr int BATCH = FOURS < 8 ? FOURS : 8, AT_ONCE = 16 / BATCH;
        const int others = params.schedule.split - 1;
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            if (!mine(strip)) continue;
            for (int first = 0; first < others; first += AT_ONCE) {
#pragma unroll
                for (int batch = 0; batch < FOURS; batch += BATCH) {
                    float4 parts[AT_ONCE][BATCH];
#pragma unroll
                    for (int i = 0; i < AT_ONCE * BATCH; i++) {
                        const int other = min(first + i / BATCH, others - 1);
                        parts[i / BATCH][i % BATCH] =
                            cluster_load(place(strip, batch + i % BATCH), other + (other >= rank));
                    }
#pragma unroll
                    for (int i = 0; i < AT_ONCE * BATCH; i++) {
                        if (first + i / BATCH >= others) break;
                        const float4 part = parts[i / BATCH][i % BATCH];
                        float *four = &sums[strip][(batch + i % BATCH) * 4];
                        four[0] += part.x;
                        four[1] += part.y;
                        four[2] += part.z;
                        four[3] += part.w;
                    }
                    settle(sums[strip]);
                }
            }
        }
    }
};

__device__ __forceinline__ uint32_t pack_results(float first, float second, bool bf16) {
    return bf16 ? bits_of(__floats2bfloat162_rn(first, second)) : bits_of(__floats2half2_rn(first, second));
}

/** Round a strip's sums to C's type and store them. A warp has 16 out features of all tokens, two tokens in a register;
 * it turns them over in shared memory, some tokens at a time, so that 8 out features of a token go in one store. */
__device__ __forceinline__ void store_strip(const w4_sm90_gemm_params &params, const Shared &shared, int m, int strip,
                                            const float (&sums)[SUMS]) {
    const w4_gemm_params &gemm = params.gemm;
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    const int n = strip * W4_BLOCK_ROWS + warp * 16;
    if (n >= gemm.n) return;
    const bool bf16 = gemm.c_dtype == W4_PARAM_BF16;
    const uint32_t staging = shared.staging(threadIdx.x / 32 - 4);
    float bias[2] = {0.0f, 0.0f};
    if (gemm.bias)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int at = min(n + lane / 4 + 8 * i, gemm.n - 1);
            bias[i] = load_number((const uint8_t *)gemm.bias + (int64_t)at * (gemm.bias_dtype == W4_PARAM_FP32 ? 4 : 2),
                                  gemm.bias_dtype);
        }
    constexpr int TOKENS = TILE_M < 16 ? TILE_M : 16; /* at a time: 32 bytes of staging each */
    /* Where this lane's row of the four 8 x 8 matrices goes: 8 tokens x 2 halves of 8 out features, twice. */
    const int row = lane / 16 * 8 + lane % 8, half = lane / 8 % 2;
#pragma unroll
    for (int first = 0; first < TILE_M; first += TOKENS) {
        if (m + first >= gemm.m) break;
#pragma unroll
        for (int pair = 0; pair < TOKENS / 8; pair += 2) {
            uint32_t matrices[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *four = &sums[(first / 8 + pair + i / 2) * 4 % SUMS];
                matrices[i] = pack_results(fmaf(gemm.alpha, four[i % 2 * 2], bias[i % 2]),
                                           fmaf(gemm.alpha, four[i % 2 * 2 + 1], bias[i % 2]), bf16);
            }
            int token = pair * 8 + row;
            uint32_t target = staging + token * 32 + (half ^ token / 4 % 2) * 16;
            if (TOKENS == 8)
                store_matrices_transposed_2(staging + (lane % 8) * 32 + (half ^ lane % 8 / 4) * 16, matrices);
            else
                store_matrices_transposed(target, matrices);
        }
        __syncwarp();
#pragma unroll
        for (int piece = 0; piece < (TOKENS * 2 + 31) / 32; piece++) {
            int at = piece * 32 + lane, token = at / 2, column = n + at % 2 * 8;
            if (token < TOKENS && m + first + token < gemm.m && column < gemm.n) {
                uint4 eight = shared_load128(staging + token * 32 + (at % 2 ^ token / 4 % 2) * 16);
                uint16_t *target = (uint16_t *)gemm.c + (m + first + token) * gemm.ldc + column;
                if (params.store_whole && column + 8 <= gemm.n) {
                    *(uint4 *)target = eight;
                } else {
                    const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        if (column + i < gemm.n) target[i] = (uint16_t)(words[i / 2] >> 16 * (i % 2));
                }
            }
        }
        __syncwarp();
    }
}
