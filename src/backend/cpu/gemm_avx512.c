/* SPDX-License-Identifier: Apache-2.0
 * AVX-512 kernels. A line of a panel (16 rows of W, 8 columns) is one vector; one vpdpwssd multiplies 16 rows by a pair
 * of activations and adds, exactly, in integers.
 *
 * The same file as gemm_avx2.c for wider vectors: a change to the arithmetic of one is a change to both, and
 * w4_cpu_kernels says that results are the same bits. Bringing activations to fixed point, outliers and
 * storing results are the AVX2 functions themselves. */
#include "backend/cpu/cpu.h"
#include "backend/cpu/unroll.h"

#include <immintrin.h>

enum { PREFETCH = 6144 /* as in gemm_avx2.c */ };

/* ---- Activations, results: as with AVX2 ---------------------------------------------------------------------- */

static w4_cpu_fit convert(const uint16_t *source, int64_t block, bool is_bf16, int32_t *pairs, int64_t stride,
                          float *scale, float *sum) {
    return w4_cpu_avx2_kernels.convert(source, block, is_bf16, pairs, stride, scale, sum);
}

static void add_outliers(const w4_cpu_outlier_job *job) {
    w4_cpu_avx2_kernels.add_outliers(job);
}

static void store(const float *sums, const float *bias, float alpha, void *c, bool is_bf16, int64_t count) {
    w4_cpu_avx2_kernels.store(sums, bias, alpha, c, is_bf16, count);
}

/* ---- Scales -------------------------------------------------------------------------------------------------- */

W4_INLINE __m512 load_scales(const void *scales, w4a16_dtype dtype, int64_t index) {
    if (dtype == W4A16_FP32) return _mm512_loadu_ps((const float *)scales + index);
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)scales + index));
    if (dtype == W4A16_BF16) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    return _mm512_cvtph_ps(half);
}

W4_INLINE __m512 load_zeros(const void *zeros, w4a16_zero_kind kind, int64_t index) {
    if (kind == W4A16_ZERO_SYMMETRIC) return _mm512_set1_ps(8.0f);
    if (kind == W4A16_ZERO_FLOAT) return _mm512_loadu_ps((const float *)zeros + index);
    const __m128i *bytes = (const __m128i *)(const void *)((const uint8_t *)zeros + index);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes)));
}

/** The block's exact integer sum of q*a to sum + (sum(q*a) - z * sum(a)) * scale(a) * s. Scaling by a power of two
 * is exact, so that a block costs three roundings. Every kernel takes each element of C through this sequence. */
W4_INLINE __m512 add_block(__m512 sum, __m512i products, __m512 s, __m512 z, float a_scale, float a_sum) {
    __m512 centred = _mm512_fnmadd_ps(z, _mm512_set1_ps(a_sum), _mm512_cvtepi32_ps(products));
    return _mm512_fmadd_ps(_mm512_mul_ps(centred, _mm512_set1_ps(a_scale)), s, sum);
}

/* ---- Direct -------------------------------------------------------------------------------------------------- */

/** sum + pairs * one pair of activations in memory. In assembly so that gcc broadcasts inside the instruction and does
 * not copy sums around. */
W4_INLINE __m512i multiply_add(__m512i sum, __m512i pairs, const int32_t *a) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(pairs), "m"(*a));
    return sum;
}

W4_INLINE void direct(const w4_cpu_direct *job, const int rows) {
    const __m512i low = _mm512_set1_epi32(0x000f000f), high = _mm512_set1_epi32(0x00f000f0);
    const uint8_t *codes = job->codes;
    const int32_t *a = job->a;
    int64_t group = 0, left = job->blocks_per_group;
    __m512 sums[W4_CPU_MAX_TILE_M];
    W4_UNROLL
    for (int r = 0; r < rows; r++) sums[r] = _mm512_setzero_ps();
    for (int64_t block = 0; block < job->blocks; block++) {
        /* With few rows, codes in the upper nibble of a byte are multiplied in place, to 16 times the product: that
         * saves two shifts of three, and 16 * 15 * 32752 * 64 still fits 32 bits. */
        /* Two sums for each row, because vpdpwssd takes five cycles and the sums of a few rows would wait for each
         * other; integers may be added in any order. */
        __m512i products[W4_CPU_MAX_TILE_M][2], sixteen[2][2];
        W4_UNROLL
        for (int r = 0; r < rows; r++) products[r][0] = products[r][1] = _mm512_setzero_si512();
        sixteen[0][0] = sixteen[0][1] = sixteen[1][0] = sixteen[1][1] = _mm512_setzero_si512();
        for (int64_t line = 0; line < job->block / W4_CPU_LINE_K; line++) {
            _mm_prefetch((const char *)codes + PREFETCH, _MM_HINT_T0);
            __m512i word = _mm512_load_si512(codes);
            W4_UNROLL
            for (int j = 0; j < 4; j++) {
                bool in_place = rows <= 2 && j % 2;
                __m512i pairs = _mm512_and_si512(word, in_place ? high : low);
                W4_UNROLL
                for (int r = 0; r < rows; r++) {
                    int which = rows <= 2 ? j / 2 : j % 2;
                    __m512i *sum = in_place ? &sixteen[r & 1][which] : &products[r][which];
                    *sum = multiply_add(*sum, pairs, &a[j * rows + r]);
                }
                if (rows > 2) word = _mm512_srli_epi32(word, 4);
                if (rows <= 2 && j == 1) word = _mm512_srli_epi32(word, 8);
            }
            codes += W4_CPU_LINE;
            a += 4 * rows;
        }
        __m512 s = load_scales(job->scales, job->scale_dtype, group * W4_CPU_PANEL);
        __m512 z = load_zeros(job->zeros, job->zero_kind, group * W4_CPU_PANEL);
        W4_UNROLL
        for (int r = 0; r < rows; r++) {
            int64_t at = block * job->a_stride + r;
            __m512i exact = _mm512_add_epi32(products[r][0], products[r][1]);
            if (rows <= 2) {
                __m512i high_sum = _mm512_add_epi32(sixteen[r & 1][0], sixteen[r & 1][1]);
                exact = _mm512_add_epi32(exact, _mm512_srai_epi32(high_sum, 4));
            }
            sums[r] = add_block(sums[r], exact, s, z, job->a_scale[at], job->a_sum[at]);
        }
        if (--left == 0) {
            group++;
            left = job->blocks_per_group;
        }
    }
    W4_UNROLL
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(job->sums + r * W4_CPU_PANEL, sums[r]);
}

/* ---- Panel --------------------------------------------------------------------------------------------------- */

static void expand(const w4_cpu_expand *job) {
    const __m512i low = _mm512_set1_epi32(0x000f000f);
    const uint8_t *codes = job->codes;
    int32_t *w = job->w;
    /* Where a later call reads on in this panel: other panels come between, so that the hardware does not foresee it.
     */
    int64_t lines = job->blocks * job->block / W4_CPU_LINE_K;
    for (int64_t line = 0; line < lines; line++) {
        _mm_prefetch((const char *)codes + lines * W4_CPU_LINE, _MM_HINT_T1);
        __m512i word = _mm512_load_si512(codes);
        for (int j = 0; j < 4; j++) {
            _mm512_storeu_si512(w, _mm512_and_si512(word, low));
            word = _mm512_srli_epi32(word, 4);
            w += job->tile_n;
        }
        codes += W4_CPU_LINE;
    }
    for (int64_t block = 0; block < job->blocks; block++) {
        int64_t index = (job->first_block + block) / job->blocks_per_group * W4_CPU_PANEL, to = block * job->tile_n;
        _mm512_storeu_ps(job->w_scales + to, load_scales(job->scales, job->scale_dtype, index));
        _mm512_storeu_ps(job->w_zeros + to, load_zeros(job->zeros, job->zero_kind, index));
    }
}

/** Both halves of a tile's columns and one pair of activations in memory. In assembly because gcc 13 loads all
 * activations of a step before it uses the first, and then has too few registers: 35 % of the peak. */
W4_INLINE void multiply_add_panel(__m512i sums[2], __m512i first, __m512i second, const int32_t *a) {
    __m512i both;
    __asm__("vpbroadcastd %5, %2\n\t"
            "vpdpwssd %3, %2, %0\n\t"
            "vpdpwssd %4, %2, %1"
            : "+v"(sums[0]), "+v"(sums[1]), "=&v"(both)
            : "v"(first), "v"(second), "m"(*a));
}

enum { STEP = 2 /* column pairs of one round */ };

W4_INLINE void panel(const w4_cpu_panel_tile *job, const int rows) {
    const int32_t *a = job->a, *w = job->w;
    for (int64_t block = 0; block < job->blocks; block++) {
        __m512i products[W4_CPU_MAX_TILE_M][2];
        W4_UNROLL
        for (int r = 0; r < rows; r++) products[r][0] = products[r][1] = _mm512_setzero_si512();
        for (int64_t pair = 0; pair < job->block / 2; pair += STEP) {
            W4_UNROLL
            for (int step = 0; step < STEP; step++) {
                __m512i first = _mm512_load_si512(w + 32 * step), second = _mm512_load_si512(w + 32 * step + 16);
                W4_UNROLL
                for (int r = 0; r < rows; r++) multiply_add_panel(products[r], first, second, &a[step * rows + r]);
            }
            a += STEP * rows;
            w += STEP * 32;
        }
        W4_UNROLL
        for (int half = 0; half < 2; half++) {
            __m512 s = _mm512_loadu_ps(job->scales + block * 32 + half * 16);
            __m512 z = _mm512_loadu_ps(job->zeros + block * 32 + half * 16);
            W4_UNROLL
            for (int r = 0; r < rows; r++) {
                int64_t at = block * job->a_stride + r;
                float *sum = job->sums + r * 32 + half * 16;
                __m512 added =
                    add_block(_mm512_loadu_ps(sum), products[r][half], s, z, job->a_scale[at], job->a_sum[at]);
                _mm512_storeu_ps(sum, added);
            }
        }
    }
}

/* ---- Ceilings ------------------------------------------------------------------------------------------------ */

static int64_t read_all(const uint8_t *data, size_t bytes) {
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t at = 0; at < bytes; at += 256) {
        W4_UNROLL
        for (int i = 0; i < 4; i++) sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(data + at + 64 * i));
    }
    return _mm512_reduce_add_epi64(
        _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3])));
}

static double multiply_adds(int64_t rounds, int32_t *sink) {
    __m512i sums[24], factor = _mm512_set1_epi32(*sink);
    W4_UNROLL
    for (int i = 0; i < 24; i++) sums[i] = _mm512_set1_epi32(i);
    for (int64_t round = 0; round < rounds; round++) {
        W4_UNROLL
        for (int i = 0; i < 24; i++) {
            /* Without this the compiler would see that the product never changes. */
            __asm__ volatile("" : "+v"(factor));
            sums[i] = _mm512_dpwssd_epi32(sums[i], factor, factor);
        }
    }
    W4_UNROLL
    for (int i = 0; i < 24; i++) *sink ^= _mm512_reduce_add_epi32(sums[i]);
    return (double)rounds * 24 * 32 * 2;
}

#define ROWS(rows)                                                                                                     \
    static void direct_##rows(const w4_cpu_direct *job) {                                                              \
        direct(job, rows);                                                                                             \
    }                                                                                                                  \
    static void panel_##rows(const w4_cpu_panel_tile *job) {                                                           \
        panel(job, rows);                                                                                              \
    }
#define PANEL(rows)                                                                                                    \
    static void panel_##rows(const w4_cpu_panel_tile *job) {                                                           \
        panel(job, rows);                                                                                              \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)
ROWS(7)
ROWS(8)
PANEL(9)
PANEL(10)
PANEL(11)
PANEL(12)

const w4_cpu_kernels w4_cpu_avx512_kernels = {
    .convert = convert,
    .add_outliers = add_outliers,
    .direct = {NULL, direct_1, direct_2, direct_3, direct_4, direct_5, direct_6, direct_7, direct_8},
    .expand = expand,
    .panel = {NULL, panel_1, panel_2, panel_3, panel_4, panel_5, panel_6, panel_7, panel_8, panel_9, panel_10, panel_11,
              panel_12},
    .store = store,
    .read = read_all,
    .multiply_add = multiply_adds,
};
