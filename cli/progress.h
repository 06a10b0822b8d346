/* SPDX-License-Identifier: Apache-2.0
 * One progress line on stderr, with an estimate of the time left; only on a terminal and only after a second. */
#ifndef W4A16_CLI_PROGRESS_H
#define W4A16_CLI_PROGRESS_H

/** Start the clock. */
void progress_begin(void);
/** The work ends after so many seconds at most, whatever the estimate says. */
void progress_limit(double seconds);
/** @param done, total in any one unit @param what the item at hand */
void progress_show(double done, double total, const char *what);
/** Remove the line, so that other output can follow. */
void progress_clear(void);

#endif
