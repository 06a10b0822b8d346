#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Registers, shared memory and occupancy of each sm80 config, as a Markdown table, from what ptxas said in a build."""
import argparse
import pathlib
import re
import sys

# Of an SM: bytes of shared memory, most of one block, threads. A block costs 1024 bytes more than it asks for.
LIMITS = {
    "sm_80": (167936, 166912, 2048),
    "sm_86": (102400, 101376, 1536),
    "sm_89": (102400, 101376, 1536),
    "sm_90": (233472, 232448, 2048),
}
FIXED, RESERVE, MOST_STAGES = 1024, 1024, 8  # kernels/sm80/shape.h
KERNEL = re.compile(r"^W4_SM80_(?:KERNEL|ANY_GROUP)\((\w+),([\d, ]+)\)", re.MULTILINE)


def kernels():
    text = (pathlib.Path(__file__).parent.parent / "kernels/sm80/kernels.def").read_text()
    for name, numbers in KERNEL.findall(text):
        yield (name, *map(int, numbers.split(",")))


def most_registers(log, architecture):
    """Of a log that may speak of several architectures: each entry point's lines begin with its name and the code's."""
    try:
        of_entries = re.split(r"Compiling entry function '\w+' for '(\w+)'", log.read_text())
    except OSError as error:
        sys.exit(f"kernel_table: {log}: {error.strerror}")
    used = [int(count) for code, text in zip(of_entries[1::2], of_entries[2::2]) if code == architecture
            for count in re.findall(r"Used (\d+) registers", text)]
    if not used:
        sys.exit(f"{log}: ptxas said nothing about registers of {architecture}")
    return max(used)


def share(architecture, tile_n, tile_m, tile_k, warps, resident):
    """Blocks on an SM and stages of each, for groups of 128 with fp16 scales: as configs.c shares an SM out."""
    of_sm, of_block, threads = LIMITS[architecture]
    stage = tile_m * tile_k * 2 + tile_n // 64 * (tile_k * 32 + max(tile_k // 128, 1) * 128)
    stage = (stage + 127) // 128 * 128
    for blocks in range(min(resident, threads // (32 * warps)), 0, -1):
        room = min(of_sm // blocks - RESERVE, of_block) - FIXED
        stages = min(room // stage, MOST_STAGES)
        if stages >= 3 or blocks == 1:
            return blocks, stages, FIXED + stages * stage


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: tools/kernel_table.py build/release/images")
    parser.add_argument("images", type=pathlib.Path, help="where a build keeps its images, and ptxas's words as *.log")
    known = ", ".join(LIMITS) + " (default: the first three)"
    parser.add_argument("architectures", nargs="*", metavar="architecture", help=known)
    arguments = parser.parse_args()
    images, architectures = arguments.images, arguments.architectures or ["sm_80", "sm_86", "sm_89"]
    for name in architectures:
        if name not in LIMITS:
            parser.error(f"architecture {name} is not one of {', '.join(LIMITS)}")
    if not images.is_dir():
        parser.error(f"{images} is no folder: build first (make build)")
    print("| config | warps |" + "".join(f" {name} |" for name in architectures))
    print("|---|---:|" + "---:|" * len(architectures))
    for name, tile_n, tile_m, tile_k, warps, _, _, resident, _ in kernels():
        cells = []
        for architecture in architectures:
            code = "8x" if architecture.startswith("sm_8") else architecture  # one log has all codes 8.x
            registers = most_registers(images / f"{name}.{code}.log", architecture)
            blocks, stages, shared = share(architecture, tile_n, tile_m, tile_k, warps, resident)
            cells.append(f"{registers}, {blocks} x {shared / 1024:.1f} KB, {stages}")
        print(f"| `{name}` | {warps} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
