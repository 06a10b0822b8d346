/* SPDX-License-Identifier: Apache-2.0
 * The list of backends that this build holds. */
#include "backend/backend.h"

const w4_backend *const w4_backends[] = {
#if W4A16_CUDA
    &w4_cuda_backend,
#endif
    &w4_cpu_backend,
    NULL,
};
