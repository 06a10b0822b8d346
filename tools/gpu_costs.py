# SPDX-License-Identifier: Apache-2.0
"""The GPU cost model, as src/backend/cuda/costs.c has it, for a GPU with 132 SMs and weights of groups of 128, symmetric,
fp16; a test holds the two together.

Each config has four constants, in seconds: call, stage, further, saturated. A call takes

    call + pieces * further + max(fill + max(stages * stage, rows), mean * saturated) + besides

and never less than reading cold memory. The maxima are soft ones: two limits that are near each other are slower together
than either alone.

stages   of the busiest worker; where `parts` take them in turns, whole turns of each tile. Of a decode config: steps of 128
         columns of the busiest warp, counted by how many of its slices are there.
pieces   a worker's tiles, and parts of tiles, after its first one, each of which begins with empty sums and ends with a result or
         with sums for another worker; and the further workers of a tile, whose sums its first one adds up. Where a kernel splits
         all tiles, the workers of one. Of a decode config: the steps once more, each in full, for a step costs something
         besides its weights.
fill     seconds: reading the weights with which the workers' rings are first filled, all at the same time: each byte once from
         memory, and through the L2 cache once for each worker that asks for it. Whichever takes longer counts. Rows of tiles
         ask for the same weights, but not at a lower price.
rows     seconds: loading the rows of activations of all tiles. Those past the last token, where the copy engine fills them with
         zeros, take longer than those that are there.
mean     stages of all tiles over all places for workers; where places are left, those on the busiest SM if that is more. A
         short run waits for latencies, a full GPU, or SM, for whatever the kernel saturates.
besides  seconds: of a decode config each pass over k after the first one costs a round of barriers and sums.
"""
import re
from collections import namedtuple

from profile_table import ROOT

PROCESSORS = 132
LEAST_RUN = 4  # as in src/backend/cuda/configs.c

# What all configs have in common: near where the errors of the predictions are least on the README's seven shapes, and where the
# choices on other shapes, each left out of the fit, stay as good with each of these 10 % more or less (docs/choosing.md).
ROW, EMPTY = 7e-12, 29e-12  # seconds for 128 bytes of a row of activations, and what more where there is no token
RING, FILL_SHARE = 200e3, 0.85  # bytes of an SM that are filled at first; the share of the memory's rate that this reaches
CACHE_RATE = 3.4e12  # bytes a second of weights through L2, when rings are first filled; from 3.2 to 4.0 the choices are as good
PASS, PASS_OF_TOKEN = 0.4e-6, 0.0375e-6  # seconds of a further pass of a decode config, and more for each token of its tile
SOFT = 4

Kernel = namedtuple("Kernel", "kind base tile_n own_n tile_m tile_k slots resident cluster parts number")
Work = namedtuple("Work", "stages pieces fill rows mean besides")
Constants = namedtuple("Constants", "call stage further saturated")


def ceil_divide(a, b):
    return -(-a // b)


def read_kernels():
    """{config: Kernel}: its kind, the name of its kernel, what the tables of kernels say, out features of a block of a cluster
    or a row of warps, places for workers, and the kind's own number."""
    kernels = {}
    for line in (ROOT / "kernels/sm90/kernels.def").read_text().splitlines():
        fields = re.split(r"[(), ]+", line)
        if fields[0] in ("W4_SM90_KERNEL", "W4_SM90_ANY_GROUP"):
            name = fields[1]
            n, m, k, _, cluster, _, resident, _, split, parts = (int(field) for field in fields[2:12])
            tile = name, n * cluster, n, m, k, PROCESSORS * resident // cluster, resident, cluster, parts
            kernels[name] = Kernel("whole", *tile, 0)
            kernels[name + "_streamk"] = Kernel("streamk", *tile, 0)
            if split:
                kernels[f"{name}_split{split}"] = Kernel("split", *tile, split)
    for line in (ROOT / "kernels/sm80/kernels.def").read_text().splitlines():
        fields = re.split(r"[(), ]+", line)
        if fields[0] == "W4_SM80_DECODE":
            n, m, warps, row_warps = (int(field) for field in fields[2:6])
            kernels[fields[1]] = Kernel("decode", fields[1], n, n // row_warps, m, 128, PROCESSORS, 1, 1, 1, warps // row_warps)
    return kernels


def read_constants(text):
    """The memory's rate and {config: Constants} of the text of a costs_GPU.def."""
    rows = re.findall(r"^W4_COST\((\w+), +([\d.]+), +([\d.]+), +([\d.]+), +([\d.]+)\)$", text, re.MULTILINE)
    constants = {name: Constants(*(1e-9 * float(number) for number in numbers)) for name, *numbers in rows}
    return float(re.search(r"^W4_MEMORY_RATE\((.+)\)$", text, re.MULTILINE)[1]), constants


def weight_bytes(n, k):
    """As w4_packed_layout_make counts them: strips of 64 rows, blocks of 64 columns, scales of chunks of 256."""
    return ceil_divide(n, 64) * (ceil_divide(k, 64) * 2048 + ceil_divide(k, 256) * 256)


def memory_floor(m, n, k, memory_rate):
    return (weight_bytes(n, k) + 2 * m * (k + n)) / memory_rate


def decode_work(kernel, n, k):
    slices = ceil_divide(n, 16)
    slices = ceil_divide(slices, min(slices, kernel.slots))
    passes = ceil_divide(slices, kernel.tile_n // 16)
    steps = ceil_divide(ceil_divide(k, 128), kernel.number)
    mean = ceil_divide(n, kernel.tile_n) * ceil_divide(k, 128) / kernel.slots
    again = (PASS + PASS_OF_TOKEN * kernel.tile_m) * (passes - 1)
    return Work(steps * slices / (kernel.tile_n // 16), float(passes * steps), 0.0, 0.0, mean, again)


def schedule_of(kernel, tiles, stages):
    """Tiles that are shared out to all workers, and workers; as make_schedule in configs.c."""
    if kernel.kind == "split":
        return 0, tiles * kernel.number
    workers = min(tiles, kernel.slots)
    if kernel.kind == "whole" or tiles % kernel.slots == 0:
        return 0, workers
    whole_waves = tiles // kernel.slots - 1
    shared = tiles - whole_waves * kernel.slots if whole_waves > 0 else tiles
    runs = min(kernel.slots, max(shared * stages // LEAST_RUN, 1))
    if runs <= tiles and runs < kernel.slots:
        return 0, workers
    even = runs // tiles * tiles if whole_waves <= 0 else 0
    return shared, even if even * 8 > runs * 7 else runs


def can_run(kernel, m, n, k):
    """As w4_cuda_config_check in configs.c, of usual sizes."""
    if kernel.kind == "decode":
        return m <= kernel.tile_m
    tiles, stages = ceil_divide(m, kernel.tile_m) * ceil_divide(n, kernel.tile_n), ceil_divide(k, kernel.tile_k)
    if kernel.kind == "split":
        return tiles * kernel.number <= kernel.slots and stages >= kernel.number * 2 * kernel.parts
    return kernel.kind == "whole" or schedule_of(kernel, tiles, stages)[0] > 0


def busiest_of(kernel, tiles, stages):
    """Stages of the busiest worker, in whole turns too, and pieces."""
    shared, workers = schedule_of(kernel, tiles, stages)

    def turns(count):
        return ceil_divide(count, kernel.parts) * kernel.parts

    if kernel.kind == "split":
        busiest = ceil_divide(stages, kernel.number)
        return busiest, turns(busiest), float(kernel.number)
    whole, run = ceil_divide(tiles - shared, workers), ceil_divide(shared * stages, workers)
    busiest, in_turns = whole * stages + run, whole * turns(stages)
    if not shared:
        return busiest, in_turns, whole - 1.0
    if workers % shared == 0:  # a run is a part of one tile
        return busiest, in_turns + turns(run), whole + workers / shared - 1
    begun = ceil_divide(run - 1, stages) + 1  # tiles of a run, at most; of each half a turn is lost, in the mean
    helpers = ceil_divide(stages - 1, run)  # of a tile's first worker, at most
    return busiest, in_turns + run + begun * (kernel.parts - 1) / 2, float(whole + begun - 1 + helpers)


def fill_of(kernel, workers, busiest, n, k, memory_rate):
    """Seconds: the weights' share of the rings, or of the busiest worker's stages if they are fewer; from memory at most all
    weights."""
    weights = kernel.own_n // 64 * (kernel.tile_k // 64 * 2048 + max(kernel.tile_k // 128, 1) * 128)
    places = RING / kernel.resident / (weights + 2 * kernel.tile_m * kernel.tile_k)
    blocks, asked = workers * kernel.cluster, weights * min(places, busiest)
    cold = min(weight_bytes(n, k), blocks * weights * places) / (FILL_SHARE * memory_rate)
    return max(cold, blocks * asked / CACHE_RATE)


def rows_of(kernel, m, n, k):
    few = kernel.cluster == 1 and m <= kernel.tile_m // 4 * 3  # W4_SM90_FEW_TOKENS: no others are copied
    rows = m if few else ceil_divide(m, kernel.tile_m) * kernel.tile_m
    lines = ceil_divide(n, kernel.tile_n) * kernel.cluster * ceil_divide(k, 64)
    return lines * (rows * ROW + (rows - m) * EMPTY)


def work_of(kernel, m, n, k, memory_rate):
    """What a config has to do for a problem."""
    if kernel.kind == "decode":
        return decode_work(kernel, n, k)
    tiles, stages = ceil_divide(m, kernel.tile_m) * ceil_divide(n, kernel.tile_n), ceil_divide(k, kernel.tile_k)
    workers = schedule_of(kernel, tiles, stages)[1]
    busiest, turns, pieces = busiest_of(kernel, tiles, stages)
    together = ceil_divide(workers, kernel.slots // kernel.resident)
    mean = tiles * stages / kernel.slots
    if workers < kernel.slots or kernel.kind == "split":
        mean = max(mean, together / kernel.resident * busiest)
    fill = fill_of(kernel, workers, busiest, n, k, memory_rate)
    return Work(float(turns), pieces, fill, rows_of(kernel, m, n, k), mean, 0.0)


def soft_maximum(a, b):
    return (a**SOFT + b**SOFT) ** (1 / SOFT)


def predict(constants, work):
    """Seconds, but for the memory's floor; of numbers, or of arrays of them."""
    run = work.fill + soft_maximum(work.stages * constants.stage, work.rows)
    around = constants.call + work.pieces * constants.further + work.besides
    return around + soft_maximum(run, work.mean * constants.saturated)
