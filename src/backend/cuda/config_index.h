/* SPDX-License-Identifier: Apache-2.0
 * CONFIG_NAME: where each config stands in w4_cuda_configs; CONFIG_COUNT: how many there are. */
#ifndef W4_CUDA_CONFIG_INDEX_H
#define W4_CUDA_CONFIG_INDEX_H

enum {
#define W4_SM90_SPLIT_0(name)
#define W4_SM90_SPLIT_2(name) CONFIG_##name##_split2,
#define W4_SM90_KERNEL(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, split, parts, group_64)          \
    CONFIG_##name, CONFIG_##name##_streamk, W4_SM90_SPLIT_##split(name)
#define W4_SM90_ANY_GROUP(name, ...) CONFIG_##name, CONFIG_##name##_streamk,
#define W4_SM80_KERNEL(name, ...) CONFIG_##name, CONFIG_##name##_streamk,
#define W4_SM80_ANY_GROUP(name, ...) CONFIG_##name, CONFIG_##name##_streamk,
#define W4_SM80_DECODE(name, ...) CONFIG_##name,
#include "sm90/kernels.def"

#include "sm80/kernels.def"
#undef W4_SM90_SPLIT_0
#undef W4_SM90_SPLIT_2
#undef W4_SM90_KERNEL
#undef W4_SM90_ANY_GROUP
#undef W4_SM80_KERNEL
#undef W4_SM80_ANY_GROUP
#undef W4_SM80_DECODE
    CONFIG_COUNT
};

#endif
