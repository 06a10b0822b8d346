/* SPDX-License-Identifier: Apache-2.0
 * Loops over a tile's rows must be unrolled wholly, so that the accumulators they index live in registers. */
#ifndef W4_BACKEND_CPU_UNROLL_H
#define W4_BACKEND_CPU_UNROLL_H

#if defined(__clang__)
#define W4_UNROLL _Pragma("clang loop unroll(full)")
#else
#define W4_UNROLL _Pragma("GCC unroll 32")
#endif

#define W4_INLINE static inline __attribute__((always_inline))

#endif
