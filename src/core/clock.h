/* SPDX-License-Identifier: Apache-2.0
 * The clock of timings: it never goes back. */
#ifndef W4_CORE_CLOCK_H
#define W4_CORE_CLOCK_H

/** Seconds since some moment. */
double w4_clock_now(void);

#endif
