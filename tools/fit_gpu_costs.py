#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fit the GPU cost model's constants to measured times.

For every config the model says: seconds = max(call + stages * stage + sharers * sharer, mean * saturated) + besides,
where `stages` is how many pipeline stages the busiest worker does, `sharers` how many workers share a tile, and `mean` the
stages of all tiles over all places for workers, or, where places are left, those on the busiest SM: a short run waits for
latencies, a full GPU, or SM, for whatever the kernel saturates. `besides` is said below (PASS, ALONE). Of a decode config
`stages` counts steps by how full they are, and `sharers` in full. This reads tables written by `w4a16 bench --profile
--csv`, finds for every config the four constants with the least relative squared error, where a point counts the more the
nearer the config is to the best one there, and prints the lines of src/backend/cuda/costs.def. --check also says how much
slower than the best config the model's choice is; --without leaves shapes out of the fit, and --check judges these alone
then.
"""
import argparse
import math
import re
import sys
from collections import defaultdict

import numpy as np

from profile_table import ROOT, TableError, geometric_mean, read_rows

PROCESSORS = 132
LEAST_RUN = 4  # as in src/backend/cuda/configs.c


# Seconds that are known besides: what a decode kernel takes for each pass over k after the first, a round of barriers
# (0.27 to 0.43 us at 28672 x 4096), and a GEMM kernel whose blocks fill SMs that hold several, so that the next one finds no
# room while it runs; of stream-K's that is always so. Chosen by what --without says of ALONE from 0 to 3 us.
PASS, ALONE = 0.35e-6, 2e-6


def read_kernels():
    """What work_of needs of each config: its kind, tile, places for workers, workers on an SM, and the kind's own number."""
    kernels = {}
    for line in (ROOT / "kernels/sm90/kernels.def").read_text().splitlines():
        fields = re.split(r"[(), ]+", line)
        if fields[0] in ("W4_SM90_KERNEL", "W4_SM90_ANY_GROUP"):
            n, m, k, _, cluster, _, resident, _, split = (int(field) for field in fields[2:11])
            tile = n * cluster, m, k, PROCESSORS * resident // cluster, resident
            kernels[fields[1]] = "whole", *tile, 0
            kernels[fields[1] + "_streamk"] = "streamk", *tile, 0
            if split:
                kernels[f"{fields[1]}_split{split}"] = "split", *tile, split
    for line in (ROOT / "kernels/sm80/kernels.def").read_text().splitlines():
        fields = re.split(r"[(), ]+", line)
        if fields[0] == "W4_SM80_DECODE":
            n, m, warps, row_warps = (int(field) for field in fields[2:6])
            kernels[fields[1]] = "decode", n, m, 128, PROCESSORS, 1, warps // row_warps
    return kernels


def work_of(kernel, m, n, k):
    """Stages of the busiest worker, workers that share a tile, mean stages, and seconds besides, which are not fitted; as
    fitted_run in costs.c counts them."""
    kind, tile_n, tile_m, tile_k, slots, resident, number = kernel
    tiles = -(-m // tile_m) * -(-n // tile_n)
    stages = -(-k // tile_k)
    mean = tiles * stages / slots
    if kind == "decode":
        slices = -(-n // 16)
        slices = -(-slices // min(slices, slots))
        passes = -(-slices // (tile_n // 16))
        steps = passes * -(-stages // number)
        return -(-stages // number) * slices / (tile_n // 16), float(steps), mean, PASS * (passes - 1)
    split, workers = 0, min(tiles, slots)
    if kind == "split":
        workers, busiest, sharers = tiles * number, -(-stages // number), float(number)
    else:
        if kind == "streamk" and tiles % slots:
            whole_waves = tiles // slots - 1
            split = tiles - whole_waves * slots if whole_waves > 0 else tiles
            workers = min(slots, max(split * stages // LEAST_RUN, 1))
            if workers <= tiles and workers < slots:
                split, workers = 0, min(tiles, slots)
        busiest = -(-(tiles - split) // workers) * stages + -(-split * stages // workers)
        sharers = workers / split if split else 0.0
    together = -(-workers // (slots // resident))
    if workers < slots or kind == "split":
        mean = max(mean, together / resident * busiest)
    return busiest, sharers, mean, ALONE if kind != "streamk" and together == resident > 1 else 0.0


def read_times(paths):
    """{config: {(m, n, k): seconds}}"""
    times = defaultdict(dict)
    try:
        for point, config, seconds, _ in read_rows(paths):
            times[config][point.m, point.n, point.k] = seconds
    except TableError as error:
        sys.exit(f"fit_gpu_costs: {error}")
    return times


def fit_short(points):
    """Least squares of weight * ((call + stage * s + sharer * h + besides) / t - 1) over (s, h, mean, besides, weight, t),
    no constant negative."""
    best, least = None, math.inf
    weights = np.array([weight for *_, weight, _ in points])
    wanted = np.array([1 - besides / t for *_, besides, _, t in points]) * weights
    for columns in ([0, 1, 2], [0, 1], [1, 2], [1]):
        features = np.array([(1, s, h) for s, h, *_ in points])[:, columns] / np.array([[t] for *_, t in points])
        solution = np.linalg.lstsq(features * weights[:, None], wanted, rcond=None)[0]
        if (solution < 0).any():
            continue
        error = float(((weights * (features @ solution) - wanted) ** 2).sum())
        if error < least - 1e-12:
            model = np.zeros(3)
            model[columns] = solution
            best, least = tuple(model), error
    return best


def predict(model, work):
    (call, stage, sharer, saturated), (stages, sharers, mean, besides) = model, work
    return max(call + stages * stage + sharers * sharer, mean * saturated) + besides


def fit(points):
    """The best of a plane for the short runs and a line through the origin for the long ones, wherever they part."""
    points = sorted(points, key=lambda point: point[2])
    best, least = None, math.inf
    for short in range(1, len(points) + 1):
        tail = points[short:]
        top = sum(weight**2 * mean / t * (1 - besides / t) for *_, mean, besides, weight, t in tail)
        saturated = top / sum((weight * mean / t) ** 2 for *_, mean, _, weight, t in tail) if tail else 0.0
        model = (*fit_short(points[:short]), saturated)
        error = sum((weight * (predict(model, work) / t - 1)) ** 2 for *work, weight, t in points)
        if error < least:
            best, least = model, error
    return best


# What a point counts where at most half of a large tile's tokens are there: tiles that are so empty take longer than
# full ones (the copy engine's zeros), and win nowhere.
EMPTY = 0.2
# What a point counts besides: (time of the best config there / this config's time) to this power. What is far from the best
# need not be predicted well.
CLOSENESS = 3


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: tools/fit_gpu_costs.py --check bench/results/*h200-configs*.csv"
    )
    parser.add_argument("tables", nargs="+", help="CSV files of w4a16 bench --profile")
    parser.add_argument("--check", action="store_true", help="also judge the model's choices")
    parser.add_argument("--without", action="append", default=[], metavar="NxK", help="a shape to leave out of the fit")
    arguments = parser.parse_args()
    kernels, times = read_kernels(), read_times(arguments.tables)
    without = {tuple(int(size) for size in text.split("x")) for text in arguments.without}
    best = {}
    for of in times.values():
        for shape, t in of.items():
            best[shape] = min(best.get(shape, math.inf), t)
    model, alike = {}, defaultdict(list)
    for name, kernel in kernels.items():
        points = []
        for shape, t in times.get(name, {}).items():
            if shape[1:] in without:
                continue
            weight = EMPTY if 2 * shape[0] <= kernel[2] and kernel[2] >= 64 else 1.0
            points.append((*work_of(kernel, *shape), weight * (best[shape] / t) ** CLOSENESS, t))
        if points:
            model[name] = fit(points)
            if len({point[0] for point in points}) == 1:
                alike[kernel[0]].append((name, points))
    # Points of one number of stages do not tell a call's cost from a stage's, nor either from what the kernel saturates:
    # the call is taken to cost what it does others of the kind, and a full GPU to take as long for as many out features.
    for kind, configs in alike.items():
        few = {name for name, _ in configs}
        others = [name for name in model if kernels[name][0] == kind and name not in few]
        rates = [model[name][3] / kernels[name][1] for name in others if model[name][3] > 0]
        for name, points in configs if others else ():
            call = float(np.median([model[other][0] for other in others]))
            stage = float(np.median([(point[-1] - point[3] - call) / point[0] for point in points]))
            if stage > 0:
                model[name] = (call, stage, model[name][2], float(np.median(rates)) * kernels[name][1] if rates else 0.0)
    for name in kernels:
        if name in model:
            call, stage, sharer, saturated = (constant * 1e9 for constant in model[name])
            print(f"W4_COST({name + ',':42s} {call:6.0f}, {stage:6.1f}, {sharer:6.1f}, {saturated:6.1f})")
    if not arguments.check:
        return
    ratios = defaultdict(list)
    for shape in sorted(best):
        if without and shape[1:] not in without:
            continue
        measured = {name: of[shape] for name, of in times.items() if shape in of and name in model}
        choice = min(measured, key=lambda name: predict(model[name], work_of(kernels[name], *shape)))
        fastest = min(measured, key=measured.get)
        ratios[shape[0]].append(measured[choice] / measured[fastest])
        print(f"{shape}: {choice} {measured[choice] * 1e6:.1f} us, best {fastest} {measured[fastest] * 1e6:.1f}", file=sys.stderr)
    every = [ratio for of in ratios.values() for ratio in of]
    print(f"all: choice / best {geometric_mean(every):.3f}, worst {max(every):.3f}, {len(every)} points", file=sys.stderr)
    for m, of in sorted(ratios.items()):
        print(f"M {m}: choice / best {geometric_mean(of):.3f}, worst {max(of):.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()
