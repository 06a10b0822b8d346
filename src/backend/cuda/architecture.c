/* SPDX-License-Identifier: Apache-2.0
 * The table of architectures. A cubin runs on its own compute capability and on later ones of the same major version;
 * sm_90a code on 9.0 alone; PTX on everything from its own on. */
#include "backend/cuda/architecture.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
static const w4_cuda_architecture architectures[] = {
    /* first, last,      code,       PTX,   sm90,  overlaps, flop_per_clock */
    {80,      85,        "sm_80",      false, false, false,    2048},  /* A100, A30 */
    {86,      88,        "sm_86",      false, false, false,    1024},  /* A10, A40, RTX 30; Orin */
    {89,      89,        "sm_89",      false, false, false,    1024},  /* L4, L40S, RTX 40 */
    {90,      90,        "sm_90",      false, true,  true,     2560},  /* H100, H200, as mma.sync gets it */
    {91,      119,       "compute_80", true,  false, false,    2048},  /* B200, B300 */
    {120,     INT32_MAX, "compute_80", true,  false, false,    1024},  /* RTX 50, RTX PRO 6000 Blackwell */
};
/* clang-format on */

bool w4_cuda_architecture_find(int32_t capability, const char *forced, w4_cuda_architecture *found, char *reason,
                               size_t reason_size) {
    const bool sm80 = forced && strcmp(forced, "sm80") == 0, ptx = forced && strcmp(forced, "ptx") == 0;
    if (forced && *forced && !sm80 && !ptx) {
        snprintf(reason, reason_size,
                 "the environment's W4A16_CUDA_ARCH is '%.40s'; it must be 'sm80' or 'ptx' (for tests), or unset",
                 forced);
        return false;
    }
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (capability < architectures[i].first || capability > architectures[i].last) continue;
        *found = architectures[i];
        if (sm80 || ptx) found->sm90 = false;
        if (ptx) {
            found->code = "compute_80";
            found->is_ptx = true;
            found->overlaps = false;
        }
        return true;
    }
    snprintf(reason, reason_size,
             "compute capability %d.%d; there are kernels for 8.0 (Ampere), 8.6, 8.9 (Ada), 9.0 (Hopper) and, compiled "
             "by the driver, everything later",
             (int)(capability / 10), (int)(capability % 10));
    return false;
}
