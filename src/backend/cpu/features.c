/* SPDX-License-Identifier: Apache-2.0
 * Which instruction sets this processor and its operating system offer, found at run time. */
#include "backend/cpu/cpu.h"

#if W4_CPU_X86
#include <cpuid.h>

static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 29));
}

w4_cpu_level w4_cpu_detect(void) {
    /* __builtin_cpu_supports also asks whether the operating system saves the wide registers. */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return W4_CPU_REFERENCE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vnni"))
        return W4_CPU_AVX2;
    return W4_CPU_AVX512;
}

const w4_cpu_kernels *w4_cpu_kernels_of(w4_cpu_level level) {
    if (level == W4_CPU_AVX512) return &w4_cpu_avx512_kernels;
    return level == W4_CPU_AVX2 ? &w4_cpu_avx2_kernels : NULL;
}

#else

w4_cpu_level w4_cpu_detect(void) {
    return W4_CPU_REFERENCE;
}

const w4_cpu_kernels *w4_cpu_kernels_of(w4_cpu_level level) {
    (void)level;
    return NULL;
}

#endif

const char *w4_cpu_level_name(w4_cpu_level level) {
    static const char *const names[] = {"reference", "avx2", "avx512"};
    return names[level];
}
