/* SPDX-License-Identifier: Apache-2.0
 * The median: what every timing here quotes, for one slow run among many does not move it. */
#ifndef W4_CORE_MEDIAN_H
#define W4_CORE_MEDIAN_H

#include <stddef.h>

/** The median of `count` numbers (at least one), which are sorted in place; of an even count the mean of the middle
 * two. None of them may be NaN. */
double w4_median(double *values, size_t count);

#endif
