/* SPDX-License-Identifier: Apache-2.0
 * Part of gemm.cu: results to C by the copy engine, which leaves out what lies beyond m and, in whole 16 bytes, beyond
 * n. A warp turns its results over in areas of its own, in turns. */
struct Store {
    static constexpr int TOKENS = W4_SM90_STORE_TOKENS(TILE_M); /* at a time */
    static constexpr int AREAS = W4_SM90_AREAS(TILE_M, STORING_WARPS);
    const CUtensorMap *map;
    const w4_sm90_gemm_params &params;
    const uint32_t area;
    __device__ __forceinline__ Store(const CUtensorMap *map_, const w4_sm90_gemm_params &params_, uint32_t area_)
        : map(map_), params(params_), area(area_) {}

    /** Store the sums of this warp's 16 out features, `n` and the next, of a tile whose first token is `m`. */
    __device__ __forceinline__ void rows(int m, int n, const float (&sums)[SUMS]) const {
        if (!W4_SM90_STORES_TENSOR(TILE_M) || !params.store_whole) return store_rows(params, area, m, n, sums);
        if (n >= params.gemm.n) return;
        const Bias bias(params.gemm, n);
        const bool first_lane = threadIdx.x % 32 == 0;
#pragma unroll
        for (int first = 0; first < TILE_M; first += TOKENS) {
            if (m + first >= params.gemm.m) break;
            const uint32_t own = area + first / TOKENS % AREAS * W4_SM90_AREA_BYTES(TILE_M);
            if (first_lane) { /* what that area last held has been read; whatever areas it was in the time before */
                if (first == 0)
                    stores_wait<0>();
                else
                    stores_wait<AREAS - 1>();
            }
            __syncwarp();
#pragma unroll
            for (int token = 0; token < TOKENS; token += 16)
                stage_results<16>(params.gemm, own + token * 32, first + token, bias, sums);
            copy_engine_fence();
            __syncwarp();
            if (first_lane) store_tensor(map, n, m + first, own);
        }
    }

    /** Before the end: shared memory must stay until it has been read. */
    static __device__ __forceinline__ void finish() {
        if (threadIdx.x % 32 == 0) stores_wait<0>();
    }
};
