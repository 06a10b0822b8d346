#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much slower than the best measured config the library's choices are: a Markdown table, by number of tokens.

    tools/choice_accuracy.py bench/results/*h200-configs*.csv
    tools/choice_accuracy.py TABLE.csv --ask build/release/cli/w4a16 [--cost-model] [--device cuda:0]

Reads tables of `w4a16 bench --profile --csv`. Without --ask the choice is the one that the table marks. With --ask this
command's own choice counts, as `w4a16 configs` states it: so a table, once measured, judges every later cost model and
shipped table. --cost-model asks for the choice without the shipped table (and without tuned results). The device must be of
the kind that the table was measured on; the simulated driver of the tests will do (LD_LIBRARY_PATH and W4A16_FAKE_CUDA).
Times of configs that the table does not have cannot be judged: such points are counted as left out.
"""
import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict

from profile_table import TableError, geometric_mean, read_rows

LEAST = 2  # configs of a point: fewer leave nothing to choose


def ask(arguments, point):
    """The config that the command's library chooses."""
    command = [arguments.ask, "configs", "--json", "--device", arguments.device, "-m", point.m, "-n", point.n, "-k",
               point.k, "--group-size", point.group_size, "--dtype", point.dtype, "--scale-dtype", point.scale_dtype]
    if point.zeros == "integer":
        command.append("--asymmetric")
    elif point.zeros != "symmetric":
        return None
    if arguments.cost_model:
        command.append("--cost-model")
    environment = {key: value for key, value in os.environ.items() if key != "W4A16_CACHE"}
    try:
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise TableError(f"{arguments.ask}: {error.strerror}") from error
    if result.returncode:
        raise TableError(f"{arguments.ask}: {result.stderr.strip() or f'exit code {result.returncode}'}")
    return next((c["name"] for c in json.loads(result.stdout)["configs"] if c["chosen"]), None)


def judge(arguments):
    """{m: [(chosen / best, point, chosen, best)]}, and how many points had to be left out."""
    times, marked = defaultdict(dict), {}
    for point, config, seconds, row in read_rows(arguments.tables):
        times[point][config] = seconds
        if row["chosen"] == "1":
            marked[point] = config
    ratios, left_out = defaultdict(list), 0
    for point, of in sorted(times.items()):
        if len(of) < LEAST:
            continue
        chosen = ask(arguments, point) if arguments.ask else marked.get(point)
        if chosen not in of:
            left_out += 1
            continue
        best = min(of, key=of.get)
        ratios[point.m].append((of[chosen] / of[best], point, chosen, best))
    return ratios, left_out


def line(name, ratios):
    mean = geometric_mean([ratio for ratio, *_ in ratios])
    worst, point, chosen, best = max(ratios)
    where = f"{point.n} x {point.k}, M = {point.m}: `{chosen}`, best `{best}`" if worst > 1 else "-"
    right = sum(ratio == 1 for ratio, *_ in ratios)
    return f"| {name} | {len(ratios)} | {mean:.3f} | {worst:.3f} | {right} | {where} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("tables", nargs="+", help="CSV files of w4a16 bench --profile")
    parser.add_argument("--ask", metavar="COMMAND", help="a w4a16 command whose choices to judge (default: the marked ones)")
    parser.add_argument("--cost-model", action="store_true", help="with --ask: its choices without a shipped table")
    parser.add_argument("--device", default="cuda:0", help="with --ask: the device to ask about (default cuda:0)")
    arguments = parser.parse_args()
    if arguments.cost_model and not arguments.ask:
        parser.error("--cost-model needs --ask: a table marks one choice alone")
    ratios, left_out = judge(arguments)
    if not ratios:
        raise TableError("no point has a choice that was measured")
    print("| M | points | chosen / best, mean | worst | best chosen | worst at |\n|---|---|---|---|---|---|")
    for m in sorted(ratios):
        print(line(m, ratios[m]))
    print(line("all", [entry for of in ratios.values() for entry in of]))
    if left_out:
        print(f"\n{left_out} points are left out: the choice was not measured there.")


if __name__ == "__main__":
    try:
        main()
    except TableError as error:
        sys.exit(f"choice_accuracy: {error}")
