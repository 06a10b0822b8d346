#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fit the GPU cost model's constants to measured times.

tools/gpu_costs.py states the model. This reads tables that `w4a16 bench --profile --csv` wrote on one GPU, finds for every
config the four constants with the least squared relative error, where a point counts the more the nearer the config is to the
best one there, and prints the lines of src/backend/cuda/costs_GPU.def. So that a few points do not decide alone, each constant
is drawn to what others say: stage and saturated to those of the kernel's other configs, which multiply by the same code; call
and further to a line through those of the kind's other configs, by the tile's size. Where calls are long, what slows down all
configs of a point is taken off. --check also says how much slower than the
best config the model's choices are; --without leaves shapes out of the fit, and --check judges these alone then; with --in-turn
each is left out alone, and all others are fitted to. --beside names the constants of a GPU with the same SMs: what the two fits
do not share is chance more than the GPU, so that the result lies between them.
"""
import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from gpu_costs import (SOFT, Constants, Work, can_run, memory_floor, predict, read_constants, read_kernels, soft_maximum,
                       work_of)
from profile_table import TableError, geometric_mean, read_rows

# Cold memory is read by the decode kernels at most at this share of what the benchmark of reading alone reaches.
SHARE_OF_CEILING = 0.97
# What a point counts: (time of the best config there / this config's time) to this power. What is far from the best need not be
# predicted well.
CLOSENESS = 2
# How far the model is off, and how far stage and saturated are from a guess and from what others say, as relative errors; how
# far call and further are, in seconds.
MODEL_ERROR, GUESSED, DRAWN, CALL, FURTHER = 0.04, 0.5, 0.1, 1e-6, 0.3e-6
ROUNDS = 3
LONG = 100e-6  # seconds, from which on a call is long enough for the power limit; from 50 to 200 the choices are as good
TINY = 1e-12  # seconds, in place of zero
# The share of this GPU's own fit beside another's. Of an H100, with an H200 beside, choices on 14 shapes, each left out of both
# fits, were slower than the best config by 2.9 % with 1, 2.5 with 0.6, 2.0 with 0.2 and 1.8 with 0; on the points fitted to,
# 2.0, 1.6, 1.8 and 1.8.
OWN_SHARE = 0.2


class Points:
    """What a config was measured at: its work, as arrays, seconds, weights."""

    def __init__(self, kernel, times, best, without, memory_rate):
        self.shapes = shapes = [shape for shape in times if shape[1:] not in without]
        self.measured = self.seconds = np.array([times[shape] for shape in shapes])
        self.weights = np.array([(best[shape] / times[shape]) ** CLOSENESS for shape in shapes])
        self.work = Work(*np.array([work_of(kernel, *shape, memory_rate) for shape in shapes]).reshape(-1, len(Work._fields)).T)

    def errors(self, constants):
        return self.weights * (predict(Constants(*constants), self.work) / self.seconds - 1)

    def slopes(self, constants):
        """Of the errors, by each constant."""
        constants, work = Constants(*constants), self.work
        multiply = soft_maximum(work.stages * constants.stage, work.rows)
        run, saturated = work.fill + multiply, work.mean * constants.saturated
        whole = np.maximum(soft_maximum(run, saturated), TINY)
        of_run, of_saturated = (run / whole) ** (SOFT - 1), (saturated / whole) ** (SOFT - 1)
        of_stage = of_run * (work.stages * constants.stage / np.maximum(multiply, TINY)) ** (SOFT - 1)
        slopes = np.stack([np.ones_like(run), of_stage * work.stages, work.pieces, of_saturated * work.mean], 1)
        return slopes * (self.weights / self.seconds)[:, None]


def fit_config(points, drawn_to, pull, start):
    """The constants, none negative, with the least sum of squared errors and of squared distances from `drawn_to` times
    `pull`; and that sum. Gauss-Newton, with shorter steps where a whole one is too long."""

    def badness(constants):
        return float((points.errors(constants) ** 2).sum() + ((pull * (constants - drawn_to)) ** 2).sum())

    constants, least = start, badness(start)
    for _ in range(30):
        slopes = points.slopes(constants)
        downhill = -(slopes.T @ points.errors(constants) + pull**2 * (constants - drawn_to))
        step, before = np.linalg.solve(slopes.T @ slopes + np.diag(pull**2), downhill), least
        for _ in range(8):
            tried = np.maximum(constants + step, 0)
            if badness(tried) < least:
                constants, least = tried, badness(tried)
                break
            step = step / 2
        if least > before * (1 - 1e-9):
            break
    return constants, least


def guess(kernel):
    """Constants of a config by its tile alone."""
    if kernel.kind == "decode":
        return np.array([2e-6, 6e-9 * kernel.own_n, 0.3e-6 + 6e-9 * kernel.own_n, 2e-9 * kernel.tile_n])
    weights = kernel.own_n * kernel.tile_k / 1024
    stage = (230 + 7.3 * weights + 12 * weights * kernel.tile_m / 64) * 1e-9 / (1 + 0.2 * (kernel.parts - 1))
    call, further = {"whole": (2e-6, 0.5e-6), "streamk": (4e-6, 0.45e-6), "split": (0.8e-6, 0.75e-6)}[kernel.kind]
    return np.array([call, stage, further, stage * (1.05 if kernel.resident == 1 else 1.8)])


def pull_of(drawn_to, relative):
    return MODEL_ERROR / np.maximum([CALL, relative * drawn_to[1], FURTHER, relative * drawn_to[3]], TINY)


def first_fit(points, kernel):
    """From the guess; from several places, as a constant that decides at no point is not found."""
    guessed = guess(kernel)
    starts = [guessed * (1, 1, 1, factor * guessed[1] / guessed[3]) for factor in (1, 1.5, 2.4)]
    pull = pull_of(guessed, GUESSED)
    return min((fit_config(points, guessed, pull, start) for start in starts), key=lambda found: found[1])[0]


def what_others_say(kernels, points, constants):
    """{config: the constants that its own are drawn to}"""
    drawn_to, of_kernel, of_kind = {}, defaultdict(list), defaultdict(list)
    for name in constants:
        drawn_to[name] = constants[name].copy()
        of_kernel[kernels[name].base].append(name)
        of_kind[kernels[name].kind].append(name)
    for names in of_kernel.values():
        mean = np.average([constants[name] for name in names], 0, [len(points[name].seconds) for name in names])
        for name in names:
            drawn_to[name][[1, 3]] = mean[[1, 3]]
    for names in of_kind.values():
        sizes = np.array([(1, kernels[name].own_n * kernels[name].tile_m) for name in names])
        weights = np.sqrt([len(points[name].seconds) for name in names])[:, None]
        line = np.linalg.lstsq(sizes * weights, np.array([constants[name][[0, 2]] for name in names]) * weights, rcond=None)[0]
        for name, of_line in zip(names, sizes @ line):
            drawn_to[name][[0, 2]] = np.maximum(of_line, 0)
    return drawn_to


def level_clocks(points, constants, best):
    """Divide the times of each long point by how much slower than the model says its configs are in the mean. They were
    measured one after another; from point to point a GPU that reaches its power limit changes its clocks, and what all configs
    of a point share decides no choice."""
    found = defaultdict(list)
    for name in constants:
        of = points[name]
        slower = np.log(of.measured / predict(Constants(*constants[name]), of.work))
        for shape, one, weight in zip(of.shapes, slower, of.weights):
            if best[shape] > LONG:
                found[shape].append((one * weight, weight))
    clocks = {shape: math.exp(sum(one for one, _ in of) / sum(weight for _, weight in of)) for shape, of in found.items()}
    for name in constants:
        points[name].seconds = points[name].measured / np.array([clocks.get(shape, 1.0) for shape in points[name].shapes])


def fit(kernels, times, best, without, memory_rate):
    """{config: Constants}"""
    points = {name: Points(kernels[name], times[name], best, without, memory_rate) for name in kernels if name in times}
    points = {name: of for name, of in points.items() if len(of.seconds)}
    constants = {name: first_fit(of, kernels[name]) for name, of in points.items()}
    decode = {name: constants.pop(name) for name in points if kernels[name].kind == "decode"}
    for _ in range(ROUNDS):
        level_clocks(points, constants, best)
        drawn_to = what_others_say(kernels, points, constants)
        for name in constants:
            pull = pull_of(drawn_to[name], DRAWN)
            constants[name] = fit_config(points[name], drawn_to[name], pull, constants[name])[0]
    return {name: Constants(*of) for name, of in {**constants, **decode}.items()}


def between(own, beside):
    """{config: Constants}, where the other GPU has the config, too."""
    mean = {name: OWN_SHARE * np.array(constants) + (1 - OWN_SHARE) * np.array(beside.get(name, constants))
            for name, constants in own.items()}
    return {name: Constants(*constants) for name, constants in mean.items()}


def read_times(paths):
    """{config: {(m, n, k): seconds}}, and bytes a second of cold memory. Of other modes than the model's nothing is taken."""
    times, ceilings = defaultdict(dict), []
    try:
        for point, config, seconds, row in read_rows(paths):
            if (point.group_size, point.zeros, point.dtype) != (128, "symmetric", "fp16"):
                continue
            times[config][point.m, point.n, point.k] = seconds
            ceilings.append(float(row.get("read_ceiling_gbs") or "nan"))
    except (TableError, ValueError) as error:
        sys.exit(f"fit_gpu_costs: {error}")
    rate = SHARE_OF_CEILING * 1e9 * float(np.nanmedian(ceilings)) if not np.isnan(ceilings).all() else math.nan
    if not rate > 0:
        sys.exit("fit_gpu_costs: no row says what reading alone reaches (read_ceiling_gbs)")
    return times, float(f"{rate:.2e}")


def judge(kernels, constants, times, shapes, memory_rate):
    """{m: [time of the model's choice / of the best config]}, of configs that were timed there, and at how many points the
    choice among all would be one that was not; a line on stderr for each point."""
    ratios, not_timed = defaultdict(list), 0
    for shape in shapes:
        measured = {name: of[shape] for name, of in times.items() if shape in of and name in constants}
        floor = memory_floor(*shape, memory_rate)
        predicted = {name: max(predict(of, work_of(kernels[name], *shape, memory_rate)), floor)
                     for name, of in constants.items() if name in measured or can_run(kernels[name], *shape)}
        choice, of_all = min(measured, key=predicted.get), min(predicted, key=predicted.get)
        if predicted[of_all] < predicted[choice]:
            not_timed += 1
            print(f"{shape}: {of_all} was not timed, {predicted[of_all] * 1e6:.1f} us predicted, after it "
                  f"{predicted[choice] * 1e6:.1f}", file=sys.stderr)
        fastest = min(measured, key=measured.get)
        ratio = measured[choice] / measured[fastest]
        ratios[shape[0]].append(ratio)
        print(f"{shape}: {choice} {measured[choice] * 1e6:.1f} us, best {fastest} {measured[fastest] * 1e6:.1f}, {ratio:.3f}",
              file=sys.stderr)
    return ratios, not_timed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: tools/fit_gpu_costs.py --check bench/results/*h200-configs*.csv"
    )
    parser.add_argument("tables", nargs="+", help="CSV files of w4a16 bench --profile, all of one GPU")
    parser.add_argument("--check", action="store_true", help="also judge the model's choices")
    parser.add_argument("--without", action="append", default=[], metavar="NxK", help="a shape to leave out of the fit")
    parser.add_argument("--in-turn", action="store_true", help="with --check: leave out one of these shapes at a time")
    parser.add_argument("--beside", metavar="FILE", help="constants of a GPU with the same SMs (costs_GPU.def)")
    arguments = parser.parse_args()
    kernels, (times, memory_rate) = read_kernels(), read_times(arguments.tables)
    beside = read_constants(Path(arguments.beside).read_text())[1] if arguments.beside else {}
    without = [tuple(int(size) for size in text.split("x")) for text in arguments.without]
    best = {}
    for of in times.values():
        for shape, seconds in of.items():
            best[shape] = min(best.get(shape, math.inf), seconds)
    ratios, not_timed = defaultdict(list), 0
    for left_out in [[shape] for shape in without] if arguments.in_turn else [without]:
        constants = between(fit(kernels, times, best, left_out, memory_rate), beside)
        shapes = [shape for shape in sorted(best) if not left_out or shape[1:] in left_out]
        if arguments.check:
            found, more = judge(kernels, constants, times, shapes, memory_rate)
            not_timed += more
            for m, of in found.items():
                ratios[m] += of
    if not arguments.in_turn:
        print(f"W4_MEMORY_RATE({memory_rate:.2e})")
        for name in (name for name in kernels if name in constants):
            call, stage, further, saturated = (constant * 1e9 for constant in constants[name])
            print(f"W4_COST({name + ',':42s} {call:6.0f}, {stage:6.1f}, {further:6.1f}, {saturated:6.1f})")
    every = [ratio for of in ratios.values() for ratio in of]
    for m, of in sorted(ratios.items()):
        print(f"M {m}: choice / best {geometric_mean(of):.3f}, worst {max(of):.3f}", file=sys.stderr)
    if every:
        over = sum(ratio > 1.12 for ratio in every)
        print(f"all: choice / best {geometric_mean(every):.3f}, worst {max(every):.3f}, {over} over 1.12, {len(every)} points, "
              f"{not_timed} where a config that was not timed is predicted to be faster", file=sys.stderr)


if __name__ == "__main__":
    main()
