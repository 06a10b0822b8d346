/* SPDX-License-Identifier: Apache-2.0
 * The list of backends that this build holds. */
#include "backend/backend.h"

const w4_backend *const w4_backends[] = {&w4_cpu_backend, NULL};
