/* SPDX-License-Identifier: Apache-2.0
 * A timed multiplication, and how near it came to the machine's measured limits. */
#ifndef W4A16_CLI_MEASUREMENT_H
#define W4A16_CLI_MEASUREMENT_H

#include "cli.h"

#include <jansson.h>

typedef struct measurement {
    w4a16_problem problem;
    w4a16_profile_result result;
    bool chosen;            /* the config that a plan would choose */
    char *failure;          /* NULL, or why there is no time; on the heap */
    double flop_per_second; /* 2 m n k / time */
    double bytes_per_second;
    double share;   /* (the time that the ceilings would allow) / time */
    bool by_memory; /* which ceiling that is: reading, or arithmetic */
} measurement;

/** Bytes that a multiplication must move at least: codes, scales, zero points, A and C. */
double problem_bytes(const w4a16_problem *problem);

/** Fill in the figures that follow from `result`. */
void rate(measurement *self, const w4a16_ceilings *ceilings);

/** How one bench ended: what the output functions below print. */
typedef struct bench_output {
    const w4a16_device_info *device;
    const w4a16_ceilings *ceilings;
    const measurement *rows; /* by M, within one M the fastest first */
    size_t count;
    size_t shown_per_m; /* of the table; the chosen config is always shown */
    bool profile;
    json_t *explanations; /* of each M, or NULL */
} bench_output;

void print_bench_table(const bench_output *output);
int print_bench_json(const bench_output *output);
void write_bench_csv(const bench_output *output, FILE *stream);

#endif
