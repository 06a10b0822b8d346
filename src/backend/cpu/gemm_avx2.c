/* SPDX-License-Identifier: Apache-2.0
 * AVX2 kernels. A line of a panel (16 rows of W, 8 columns) is two vectors; one vpmaddwd multiplies 8 rows by a pair
 * of activations, exactly, in integers.
 *
 * gemm_avx512.c is the same file for wider vectors: a change to the arithmetic of one is a change to both, and
 * w4_cpu_kernels says that results are the same bits. */
#include "backend/cpu/cpu.h"
#include "backend/cpu/unroll.h"

#include "core/half.h"

#include <immintrin.h>

enum { PREFETCH = 6144 /* bytes ahead of the line in use: 10.2 cycles a line at M = 1, 12.1 with 512 */ };

/* ---- Multiply-add -------------------------------------------------------------------------------------------- */

/** sum + the two products of each 16-bit pair. In assembly because gcc 12 moves the additions of a tile behind all of
 * its multiplications and then has more products than registers: half the speed. */
W4_INLINE __m256i multiply_add(__m256i sum, __m256i pairs, __m256i a) {
    __m256i products;
    __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(pairs), "x"(a));
    return sum;
}

/** The same for both halves of a panel and one pair of activations in memory. */
W4_INLINE void multiply_add_panel(__m256i sums[2], __m256i first, __m256i second, const int32_t *a) {
    __m256i products, others;
    __asm__("vpbroadcastd %6, %3\n\t"
            "vpmaddwd %4, %3, %2\n\t"
            "vpmaddwd %5, %3, %3\n\t"
            "vpaddd %2, %0, %0\n\t"
            "vpaddd %3, %1, %1"
            : "+x"(sums[0]), "+x"(sums[1]), "=&x"(products), "=&x"(others)
            : "x"(first), "x"(second), "m"(*a));
}

/* ---- Activations --------------------------------------------------------------------------------------------- */

static float power_of_two(int exponent) {
    return w4_bits_to_float((uint32_t)(exponent + 127) << 23);
}

static int32_t sum_lanes(__m256i v) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

W4_INLINE __m256 load_activations(const uint16_t *source, bool is_bf16) {
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)source);
    return is_bf16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)) : _mm256_cvtph_ps(half);
}

static float sum_floats(__m256 v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static w4_cpu_fit convert(const uint16_t *source, int64_t block, bool is_bf16, int32_t *pairs, int64_t stride,
                          float *scale, float *sum) {
    const __m256i magnitude = _mm256_set1_epi16(0x7fff), ones = _mm256_set1_epi16(1);
    __m256i largest = _mm256_setzero_si256(), total = _mm256_setzero_si256(), zeros = _mm256_setzero_si256();
    /* Magnitudes of fp16 and of bf16 order like their bits; Inf and NaN come last. */
    for (int64_t k = 0; k < block; k += 16) {
        __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(source + k));
        half = _mm256_and_si256(half, magnitude);
        largest = _mm256_max_epu16(largest, half);
        zeros = _mm256_sub_epi16(zeros, _mm256_cmpeq_epi16(half, _mm256_setzero_si256()));
    }
    __m128i narrow = _mm_max_epu16(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    narrow = _mm_minpos_epu16(_mm_xor_si128(narrow, _mm_set1_epi16(-1)));
    uint16_t bits = (uint16_t)~_mm_extract_epi16(narrow, 0);

    float value = is_bf16 ? w4_bf16_to_float(bits) : w4_fp16_to_float(bits);
    int exponent = (int)(w4_float_to_bits(value) >> 23) - 127;
    bool in_range = exponent >= W4_CPU_MIN_EXPONENT && exponent <= W4_CPU_MAX_EXPONENT;
    *scale = 0;
    *sum = 0;
    if (!in_range) {
        for (int64_t i = 0; i < block / 2; i++) pairs[i * stride] = 0;
        return bits == 0 ? W4_CPU_FITS : W4_CPU_OUT_OF_RANGE;
    }
    /* The largest value becomes 2^14 .. 32752: 16-bit products with codes up to 15 and their sums stay exact. */
    const __m256 multiplier = _mm256_set1_ps(power_of_two(14 - exponent)), sign = _mm256_set1_ps(-0.0f);
    __m256 magnitudes = _mm256_setzero_ps();
    for (int64_t k = 0; k < block; k += 16) {
        __m256 low = _mm256_mul_ps(load_activations(source + k, is_bf16), multiplier);
        __m256 high = _mm256_mul_ps(load_activations(source + k + 8, is_bf16), multiplier);
        __m256i fixed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
        fixed = _mm256_permute4x64_epi64(fixed, 0xd8);
        total = _mm256_add_epi32(total, _mm256_madd_epi16(fixed, ones));
        magnitudes = _mm256_add_ps(magnitudes, _mm256_andnot_ps(sign, low));
        magnitudes = _mm256_add_ps(magnitudes, _mm256_andnot_ps(sign, high));
        if (stride == 1) {
            _mm256_storeu_si256((__m256i *)(void *)(pairs + k / 2), fixed);
        } else {
            int32_t eight[8];
            _mm256_storeu_si256((__m256i *)(void *)eight, fixed);
            for (int64_t i = 0; i < 8; i++) pairs[(k / 2 + i) * stride] = eight[i];
        }
    }
    *scale = power_of_two(exponent - 14);
    *sum = (float)sum_lanes(total);
    float top = value * power_of_two(14 - exponent), others = sum_floats(magnitudes) - top;
    float count = (float)(block - sum_lanes(_mm256_madd_epi16(zeros, ones)) - 1);
    return top * count > W4_CPU_UNEVENNESS * others ? W4_CPU_UNEVEN : W4_CPU_FITS;
}

/* ---- Scales -------------------------------------------------------------------------------------------------- */

W4_INLINE __m256 load_scales(const void *scales, w4a16_dtype dtype, int64_t index) {
    if (dtype == W4A16_FP32) return _mm256_loadu_ps((const float *)scales + index);
    return load_activations((const uint16_t *)scales + index, dtype == W4A16_BF16);
}

W4_INLINE __m256 load_zeros(const void *zeros, w4a16_zero_kind kind, int64_t index) {
    if (kind == W4A16_ZERO_SYMMETRIC) return _mm256_set1_ps(8.0f);
    if (kind == W4A16_ZERO_FLOAT) return _mm256_loadu_ps((const float *)zeros + index);
    const __m128i *bytes = (const __m128i *)(const void *)((const uint8_t *)zeros + index);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes)));
}

/** The block's exact integer sum of q*a to sum + (sum(q*a) - z * sum(a)) * scale(a) * s. Scaling by a power of two
 * is exact, so that a block costs three roundings. Every kernel takes each element of C through this sequence. */
W4_INLINE __m256 add_block(__m256 sum, __m256i products, __m256 s, __m256 z, float a_scale, float a_sum) {
    __m256 centred = _mm256_fnmadd_ps(z, _mm256_set1_ps(a_sum), _mm256_cvtepi32_ps(products));
    return _mm256_fmadd_ps(_mm256_mul_ps(centred, _mm256_set1_ps(a_scale)), s, sum);
}

static void add_outliers(const w4_cpu_outlier_job *job) {
    for (int64_t i = 0; i < job->count; i++) {
        int64_t k = job->outliers[i].column, group = k / job->block / job->blocks_per_group;
        __m128i shift = _mm_cvtsi32_si128((int)(16 * (k % 2) + 4 * (k % W4_CPU_LINE_K / 2)));
        for (int half = 0; half < 2; half++) {
            int64_t index = group * W4_CPU_PANEL + half * 8;
            const uint8_t *line = job->codes + k / W4_CPU_LINE_K * W4_CPU_LINE;
            __m256i word = _mm256_load_si256((const __m256i *)(const void *)line + half);
            __m256 code = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(word, shift), _mm256_set1_epi32(15)));
            __m256 w = _mm256_mul_ps(_mm256_sub_ps(code, load_zeros(job->zeros, job->zero_kind, index)),
                                     load_scales(job->scales, job->scale_dtype, index));
            __m256 sum = _mm256_loadu_ps(job->sums + half * 8);
            _mm256_storeu_ps(job->sums + half * 8, _mm256_fmadd_ps(_mm256_set1_ps(job->outliers[i].value), w, sum));
        }
    }
}

/* ---- Direct -------------------------------------------------------------------------------------------------- */

W4_INLINE void direct(const w4_cpu_direct *job, const int rows) {
    const __m256i low = _mm256_set1_epi32(0x000f000f), high = _mm256_set1_epi32(0x00f000f0);
    const uint8_t *codes = job->codes;
    const int32_t *a = job->a;
    int64_t group = 0, left = job->blocks_per_group;
    __m256 sums[W4_CPU_MAX_TILE_M][2];
    W4_UNROLL
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
    for (int64_t block = 0; block < job->blocks; block++) {
        /* With few rows, codes in the upper nibble of a byte are multiplied in place, to 16 times the product: that
         * saves two shifts of three, and 16 * 15 * 32752 * 64 still fits 32 bits. */
        __m256i products[W4_CPU_MAX_TILE_M][2], sixteen[2][2];
        W4_UNROLL
        for (int r = 0; r < rows; r++) products[r][0] = products[r][1] = _mm256_setzero_si256();
        sixteen[0][0] = sixteen[0][1] = sixteen[1][0] = sixteen[1][1] = _mm256_setzero_si256();
        for (int64_t line = 0; line < job->block / W4_CPU_LINE_K; line++) {
            _mm_prefetch((const char *)codes + PREFETCH, _MM_HINT_T0);
            W4_UNROLL
            for (int half = 0; half < 2; half++) {
                __m256i word = _mm256_load_si256((const __m256i *)(const void *)codes + half);
                W4_UNROLL
                for (int j = 0; j < 4; j++) {
                    bool in_place = rows <= 2 && j % 2;
                    __m256i pairs = _mm256_and_si256(word, in_place ? high : low);
                    W4_UNROLL
                    for (int r = 0; r < rows; r++) {
                        __m256i *sum = in_place ? &sixteen[r & 1][half] : &products[r][half];
                        *sum = multiply_add(*sum, pairs, _mm256_set1_epi32(a[j * rows + r]));
                    }
                    if (rows > 2) word = _mm256_srli_epi32(word, 4);
                    if (rows <= 2 && j == 1) word = _mm256_srli_epi32(word, 8);
                }
            }
            codes += W4_CPU_LINE;
            a += 4 * rows;
        }
        W4_UNROLL
        for (int half = 0; half < 2; half++) {
            int64_t index = group * W4_CPU_PANEL + half * 8;
            __m256 s = load_scales(job->scales, job->scale_dtype, index);
            __m256 z = load_zeros(job->zeros, job->zero_kind, index);
            W4_UNROLL
            for (int r = 0; r < rows; r++) {
                int64_t at = block * job->a_stride + r;
                __m256i exact = products[r][half];
                if (rows <= 2) exact = _mm256_add_epi32(exact, _mm256_srai_epi32(sixteen[r & 1][half], 4));
                sums[r][half] = add_block(sums[r][half], exact, s, z, job->a_scale[at], job->a_sum[at]);
            }
        }
        if (--left == 0) {
            group++;
            left = job->blocks_per_group;
        }
    }
    W4_UNROLL
    for (int r = 0; r < rows; r++) {
        _mm256_storeu_ps(job->sums + r * W4_CPU_PANEL, sums[r][0]);
        _mm256_storeu_ps(job->sums + r * W4_CPU_PANEL + 8, sums[r][1]);
    }
}

/* ---- Panel --------------------------------------------------------------------------------------------------- */

static void expand(const w4_cpu_expand *job) {
    const __m256i low = _mm256_set1_epi32(0x000f000f);
    const uint8_t *codes = job->codes;
    int32_t *w = job->w;
    /* Where a later call reads on in this panel: other panels come between, so that the hardware does not foresee it.
     */
    int64_t lines = job->blocks * job->block / W4_CPU_LINE_K;
    for (int64_t line = 0; line < lines; line++) {
        _mm_prefetch((const char *)codes + lines * W4_CPU_LINE, _MM_HINT_T1);
        __m256i first = _mm256_load_si256((const __m256i *)(const void *)codes);
        __m256i second = _mm256_load_si256((const __m256i *)(const void *)codes + 1);
        for (int j = 0; j < 4; j++) {
            _mm256_storeu_si256((__m256i *)(void *)w, _mm256_and_si256(first, low));
            _mm256_storeu_si256((__m256i *)(void *)(w + 8), _mm256_and_si256(second, low));
            first = _mm256_srli_epi32(first, 4);
            second = _mm256_srli_epi32(second, 4);
            w += job->tile_n;
        }
        codes += W4_CPU_LINE;
    }
    for (int64_t block = 0; block < job->blocks; block++) {
        int64_t group = (job->first_block + block) / job->blocks_per_group;
        for (int half = 0; half < 16; half += 8) {
            int64_t index = group * W4_CPU_PANEL + half, to = block * job->tile_n + half;
            _mm256_storeu_ps(job->w_scales + to, load_scales(job->scales, job->scale_dtype, index));
            _mm256_storeu_ps(job->w_zeros + to, load_zeros(job->zeros, job->zero_kind, index));
        }
    }
}

enum { STEP = 4 /* column pairs of one round: a loop's bookkeeping competes with the vector work for issue slots */ };

W4_INLINE void panel(const w4_cpu_panel_tile *job, const int rows) {
    const int32_t *a = job->a, *w = job->w;
    for (int64_t block = 0; block < job->blocks; block++) {
        __m256i products[W4_CPU_MAX_TILE_M][2];
        W4_UNROLL
        for (int r = 0; r < rows; r++) products[r][0] = products[r][1] = _mm256_setzero_si256();
        for (int64_t pair = 0; pair < job->block / 2; pair += STEP) {
            W4_UNROLL
            for (int step = 0; step < STEP; step++) {
                __m256i first = _mm256_load_si256((const __m256i *)(const void *)(w + 16 * step));
                __m256i second = _mm256_load_si256((const __m256i *)(const void *)(w + 16 * step + 8));
                W4_UNROLL
                for (int r = 0; r < rows; r++) multiply_add_panel(products[r], first, second, &a[step * rows + r]);
            }
            a += STEP * rows;
            w += STEP * 16;
        }
        W4_UNROLL
        for (int half = 0; half < 2; half++) {
            __m256 s = _mm256_loadu_ps(job->scales + block * 16 + half * 8);
            __m256 z = _mm256_loadu_ps(job->zeros + block * 16 + half * 8);
            W4_UNROLL
            for (int r = 0; r < rows; r++) {
                int64_t at = block * job->a_stride + r;
                float *sum = job->sums + r * 16 + half * 8;
                __m256 added =
                    add_block(_mm256_loadu_ps(sum), products[r][half], s, z, job->a_scale[at], job->a_sum[at]);
                _mm256_storeu_ps(sum, added);
            }
        }
    }
}

/* ---- Results ------------------------------------------------------------------------------------------------- */

static __m128i round_to_bf16(__m256 value) {
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan));
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

static void store(const float *sums, const float *bias, float alpha, void *c, bool is_bf16, int64_t count) {
    uint16_t rounded[16];
    uint16_t *target = count == 16 ? c : rounded;
    for (int half = 0; half < 16; half += 8) {
        __m256 value =
            _mm256_fmadd_ps(_mm256_set1_ps(alpha), _mm256_loadu_ps(sums + half), _mm256_loadu_ps(bias + half));
        __m128i narrow =
            is_bf16 ? round_to_bf16(value) : _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(void *)(target + half), narrow);
    }
    if (target == rounded) memcpy(c, rounded, (size_t)count * sizeof *rounded);
}

/* ---- Ceilings ------------------------------------------------------------------------------------------------ */

static int64_t read_all(const uint8_t *data, size_t bytes) {
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t at = 0; at < bytes; at += 128) {
        W4_UNROLL
        for (int i = 0; i < 4; i++)
            sum[i] = _mm256_xor_si256(sum[i], _mm256_load_si256((const __m256i *)(const void *)(data + at) + i));
    }
    return sum_lanes(_mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3])));
}

static double multiply_adds(int64_t rounds, int32_t *sink) {
    __m256i sums[12], factor = _mm256_set1_epi32(*sink);
    W4_UNROLL
    for (int i = 0; i < 12; i++) sums[i] = _mm256_set1_epi32(i);
    for (int64_t round = 0; round < rounds; round++) {
        W4_UNROLL
        for (int i = 0; i < 12; i++) {
            /* Without this the compiler would see that the product never changes. */
            __asm__ volatile("" : "+x"(factor));
            sums[i] = multiply_add(sums[i], factor, factor);
        }
    }
    W4_UNROLL
    for (int i = 0; i < 12; i++) *sink ^= sum_lanes(sums[i]);
    return (double)rounds * 12 * 16 * 2;
}

#define DIRECT(rows)                                                                                                   \
    static void direct_##rows(const w4_cpu_direct *job) {                                                              \
        direct(job, rows);                                                                                             \
    }
#define PANEL(rows)                                                                                                    \
    static void panel_##rows(const w4_cpu_panel_tile *job) {                                                           \
        panel(job, rows);                                                                                              \
    }
DIRECT(1)
DIRECT(2)
DIRECT(3)
DIRECT(4)
PANEL(1)
PANEL(2)
PANEL(3)
PANEL(4)
PANEL(5)
PANEL(6)

const w4_cpu_kernels w4_cpu_avx2_kernels = {
    .convert = convert,
    .add_outliers = add_outliers,
    .direct = {NULL, direct_1, direct_2, direct_3, direct_4},
    .expand = expand,
    .panel = {NULL, panel_1, panel_2, panel_3, panel_4, panel_5, panel_6},
    .store = store,
    .read = read_all,
    .multiply_add = multiply_adds,
};
