#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the table of measured times that the library ships for a GPU.

    tools/make_table.py bench/results/*h200-configs*.csv > src/backend/cuda/tuned_h200.def

Reads tables of `w4a16 bench --profile --csv` (or `w4a16 cache --csv`) and writes one line for each shape, mode and number of
tokens: the fastest config and its time. Where several tables have the same point, the last one counts. Configs that are no
longer in kernels/*/kernels.def are left out, and so is a point whose table did not time at least --least of them: a run
of single configs says nothing about the best.
"""
import argparse
import sys
from collections import defaultdict
from pathlib import Path

from profile_table import TableError, config_names, read_profiles

ZEROS = {"symmetric": "SYMMETRIC", "integer": "INTEGER", "float": "FLOAT"}
HEAD = """/* SPDX-License-Identifier: Apache-2.0
 * Measured times, for src/backend/cuda/tables.c: the fastest config of each problem and number of tokens, as
 * tools/make_table.py takes it from
{sources}
 *
 * W4_TUNED(n, k, group_size, dtype, scale_dtype, zeros, m, config, microseconds) */
/* clang-format off */"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="+", help="CSV files of w4a16 bench --profile, the oldest first")
    parser.add_argument("--least", type=int, default=3, metavar="N", help="configs that a point needs (default 3)")
    arguments = parser.parse_args()
    known = config_names()
    measured, lost = defaultdict(dict), defaultdict(int)
    for path in arguments.tables:
        for point, times in read_profiles([path]).items():
            present = {config: seconds for config, seconds in times.items() if config in known}
            lost[path] += len(times) - len(present)
            measured[point].update(present)  # the newer time of a config stays
    best = {}
    for point, times in measured.items():
        if len(times) >= arguments.least:
            config = min(times, key=times.get)
            best[point] = config, times[config]
    if not best:
        raise TableError("no point with enough configs; see --least")
    for path, count in lost.items():
        if count:
            print(f"make_table: {path}: {count} times of configs that are gone are left out", file=sys.stderr)
    print(HEAD.format(sources="\n".join(f" *   {Path(path).name}" for path in arguments.tables)))
    width = max(len(config) for config, _ in best.values()) + 1
    for point in sorted(best, key=lambda p: (p.n, p.k, p.zeros, p.group_size, p.dtype, p.scale_dtype, p.m)):
        config, seconds = best[point]
        print(f"W4_TUNED({point.n:6d}, {point.k:6d}, {point.group_size:4d}, {point.dtype.upper()}, "
              f"{point.scale_dtype.upper()}, {ZEROS[point.zeros]}, {point.m:5d}, {config + ',':{width}s} "
              f"{seconds * 1e6:9.2f})")
    print("/* clang-format on */")


if __name__ == "__main__":
    try:
        main()
    except TableError as error:
        sys.exit(f"make_table: {error}")
