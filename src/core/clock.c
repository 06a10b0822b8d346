/* SPDX-License-Identifier: Apache-2.0
 * The monotonic clock of POSIX. */
#include "core/clock.h"

#include <time.h>

double w4_clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}
