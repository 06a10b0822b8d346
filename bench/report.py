#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measure everything that docs/benchmarks.md quotes, on this machine's GPU, and write it into bench/results/.

Runs cuda_compare (the seven shapes of Llama 3 8B and 70B at 14 M, then other modes at 8192 x 8192), decode_chain and
overhead, and writes DATE-gpu-NAME.json, with all of it, and DATE-gpu-NAME.csv, with the points; each appears only when it
is complete. tools/plot_report.py draws them. --parts measures some of it; --add takes the rest from the file of the same
date and GPU, so that a GPU that is free for a minute at a time will do; `commits` says what each was. Needs Python 3.9 and none of its packages, so that it runs where the
programs of the build's target `cuda_bundle` were copied to; about five minutes on an H200.
"""
import argparse
import csv
import datetime
import glob
import json
import os
import pathlib
import re
import site
import subprocess
import sys
import tempfile
import time

EXAMPLES = """examples:
  bench/report.py --programs build/release
  bench/report.py --shapes 8192x8192 --m 1,512 --parts points --results build
  ./report.py --cublas /usr/local/cuda/lib64 --results .       # in a copied cuda_bundle

exit codes: 0 done; 1 a point that failed, or an output that cannot be written; 2 the command line; 3 no GPU that w4a16
can use; 4 no libcublasLt.
"""
HERE = pathlib.Path(__file__).resolve().parent
SHAPES = "4096x4096,28672x4096,4096x14336,10240x8192,8192x8192,57344x8192,8192x28672"
TOKENS = "1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192"
MODE_SHAPE, MODE_TOKENS = "8192x8192", "1,16,128,512,2048"
MODES = [
    ["--dtype", "bf16"],
    ["--zeros", "integer"],
    ["--dtype", "bf16", "--zeros", "integer"],
    ["--group", "64"],
    ["--group", "32"],
    ["--group", "-1"],
]
PARTS = ["points", "modes", "decode_chain", "overhead"]
CHAIN_TOKENS = ["1", "4", "16"]
WHERE = {"cuda_compare": "bench", "overhead": "bench", "decode_chain": "tests/examples"}
HOW = "cold weights, graphs replayed in turn, medians; ratio = cublas_us / ours_us; limits: bench/cuda_compare --help"
NO_GPU, NO_CUBLAS = 3, 4


class Failure(Exception):
    """What to say, and the exit code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


def say(text):
    print(f"report: {text}", file=sys.stderr, flush=True)


def find_programs(folder):
    """{name: path}, in a copied bundle or in a build folder."""
    found = {}
    for name, below in WHERE.items():
        for path in (folder / name, folder / below / name):
            if path.is_file():
                found[name] = path.resolve()
    if "overhead" not in found:
        raise Failure(f"--programs {folder}: no program overhead there; give a build folder, or a copied cuda_bundle", 2)
    missing = [name for name in WHERE if name not in found]
    if missing:
        raise Failure(f"this build has no {', '.join(missing)}: it was made without nvcc, for the CPU alone", NO_GPU)
    return found


def find_cublas():
    """libcublasLt of a Python package; None: where the loader looks."""
    folders = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
    for folder in dict.fromkeys(folders):
        for below in ("nvidia/*/lib", "torch/lib"):
            for path in sorted(glob.glob(f"{glob.escape(folder)}/{below}/libcublasLt.so.1[23]"), reverse=True):
                return path
    return None


class Progress:
    """A line that is written over on a terminal; nothing elsewhere."""

    def __init__(self, total):
        self.total, self.done, self.begin = total, 0, time.monotonic()
        self.shown = sys.stderr.isatty()

    def step(self, text):
        self.done += 1
        if self.shown:
            left = (time.monotonic() - self.begin) / self.done * (self.total - self.done)
            line = f"report: {self.done} of {self.total}, about {left:.0f} s left: {text}"
            print(f"\r{line[:100]:<100}", end="", file=sys.stderr, flush=True)

    def end(self):
        if self.shown:
            print(f"\r{'':<100}\r", end="", file=sys.stderr, flush=True)


def run(command, what):
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise Failure(f"{what}: exit code {result.returncode}", NO_GPU if result.returncode == 3 else 1)
    return result.stdout


def compare(program, options, progress, folder):
    """(heading, points, how many failed) of one run of cuda_compare; its rows move the progress on."""
    table = pathlib.Path(folder) / "points.csv"
    table.unlink(missing_ok=True)
    command = [program, *options, "--csv", table]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if re.match(r" *\d+ +\d+ +\d+ ", line):
                progress.step(" ".join(line.split()[:7]))
    if process.returncode in (NO_GPU, NO_CUBLAS):
        raise Failure("nothing was measured", process.returncode)
    if not table.is_file():
        raise Failure(f"cuda_compare {' '.join(options)}: exit code {process.returncode}")
    lines = table.read_text().splitlines()
    heading = [line.lstrip("# ") for line in lines if line.startswith("#")]
    points = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return heading, points, process.returncode != 0


def smi(field):
    """What nvidia-smi says of GPU 0, or None."""
    try:
        command = ["nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def commit_of(folder):
    """The commit that the programs were built from: of the file that the bundle has, or of the checkout."""
    note = folder / "commit"
    if note.is_file():
        return note.read_text().strip()
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


NUMBERS = {"n": int, "k": int, "m": int, "group": int, "weight_bytes": int}
TEXTS = ("dtype", "zeros", "config")


def number_of(column, text):
    return text if column in TEXTS else None if text == "" else NUMBERS.get(column, float)(text)


def limits_of(points):
    """The best rates that any point of the run saw; the hot rate of the tensor cores is the one at large M."""
    read = [p["weight_bytes"] / p["read_us"] * 1e6 for p in points if p["read_us"]]
    alone = [p["weight_bytes"] / p["read_alone_us"] * 1e6 for p in points]
    peaks = [p["peak_tflops"] * 1e12 for p in points]
    hot = sorted(p["peak_tflops"] * 1e12 for p in points if p["m"] >= 2048) or sorted(peaks)
    return {
        "cold_read_bytes_per_second": max(read or alone),
        "cold_read_alone_bytes_per_second": max(alone),
        "flop_per_second": max(peaks),
        "hot_flop_per_second": hot[len(hot) // 2],
    }


def write_aside(path, text):
    """The file takes its name when it is complete."""
    aside = path.with_name(path.name + ".partial")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise Failure(f"{path} cannot be written: {error.strerror}") from error


def points_csv(report):
    columns = list(report["points"][0])
    lines = [f"# {report['gpu']}, driver {report['driver']} (CUDA {report['cuda']}), {report['date']}, commit {report['commit']}"]
    lines += [f"# {line}" for line in report["heading"]]
    lines += [",".join(columns)]
    points = report["points"] + report["modes"]
    lines += [",".join("" if point[c] is None else str(point[c]) for c in columns) for point in points]
    return "\n".join(lines) + "\n"


def measure_points(arguments, programs, progress, report):
    """The table, and the other modes; false where a point failed."""
    cublas = arguments.cublas or find_cublas()
    common = ["--seconds", str(arguments.seconds), *(["--cublas", cublas] if cublas else [])]
    runs = [("points", options) for options in point_runs(arguments)] + [("modes", options) for options in mode_runs(arguments)]
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for part, options in runs:
            heading, points, failed = compare(programs["cuda_compare"], [*options, *common], progress, folder)
            if part == "points":  # where a library lay on this machine is nobody else's business
                report["heading"] = [re.sub(r"\(/[^)]*/", "(", line) for line in heading[:1]] + [HOW]
            points = [{column: number_of(column, text) for column, text in point.items()} for point in points]
            report.setdefault(part, []).extend(points)
            good = good and not failed
    return good


def point_runs(arguments):
    return [["--shapes", arguments.shapes, "--m", arguments.m]] if "points" in arguments.parts else []


def mode_runs(arguments):
    if "modes" not in arguments.parts:
        return []
    return [["--shapes", arguments.mode_shape, "--m", arguments.mode_m, *mode] for mode in MODES]


def measure(arguments, programs):
    """({part: what was measured, ...}, whether all points are good)."""
    runs = point_runs(arguments) + mode_runs(arguments)
    chains = CHAIN_TOKENS if "decode_chain" in arguments.parts else []
    devices = ["cuda:0", "cpu"] if "overhead" in arguments.parts else []
    progress = Progress(sum(len(r[1].split(",")) * len(r[3].split(",")) for r in runs) + len(chains) + len(devices))
    report = {}
    try:
        good = measure_points(arguments, programs, progress, report)
        for tokens in chains:
            lines = run([programs["decode_chain"], "-m", tokens, "--json", *arguments.chain_options], "decode_chain")
            report.setdefault("decode_chain", []).extend(json.loads(line) for line in lines.splitlines())
            progress.step(f"decode_chain, M = {tokens}")
        for device in devices:
            command = [programs["overhead"], "--device", device, "--json", *arguments.overhead_options]
            report.setdefault("overhead", []).append(json.loads(run(command, "overhead")))
            progress.step(f"overhead, {device}")
    finally:
        progress.end()
    if "points" in arguments.parts and not report["points"]:
        raise Failure("no point has a time")
    return report, good


def describe_machine(programs, arguments):
    command = [programs["overhead"], "--device", "cuda:0", "--name"]
    gpu = subprocess.run(command, capture_output=True, text=True, check=False)
    if gpu.returncode:
        raise Failure(gpu.stderr.strip() or "no GPU", NO_GPU)
    name, cuda = gpu.stdout.splitlines()
    watts = smi("power.limit")
    return {
        "date": arguments.date,
        "gpu": name,
        "power_limit_watts": float(watts) if watts and re.fullmatch(r"[\d.]+", watts) else None,
        "driver": smi("driver_version") or "unknown",
        "cuda": cuda,
        "commit": arguments.commit,
    }


def read_earlier(path, machine):
    """The report to add to."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"--add: {path} cannot be read: {error}", 2) from error
    for key in ("gpu", "driver"):
        if earlier.get(key) != machine[key]:
            raise Failure(f"--add: {path} has {key} {earlier.get(key)}, here it is {machine[key]}; measure all anew", 2)
    return earlier


def short_name(gpu):
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().replace("nvidia", "")).strip("-") or "gpu"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = HERE / "results" if (HERE / "results").is_dir() else pathlib.Path(".")
    parser.add_argument("--programs", type=pathlib.Path, default=HERE, help="build folder or bundle (default: this script's)")
    parser.add_argument("--results", type=pathlib.Path, default=results, help="folder to write to (default: bench/results)")
    parser.add_argument("--shapes", default=SHAPES, help="NxK,NxK,... (default: the seven)")
    parser.add_argument("--m", default=TOKENS, help="M,M,... (default: 1 to 8192)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time budget of each side of a point (default 0.3)")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ",".join(PARTS) + " (default: all)")
    parser.add_argument("--add", action="store_true", help="add these parts to the report of the same date")
    parser.add_argument("--mode-shape", default=MODE_SHAPE, help=f"of the modes (default {MODE_SHAPE})")
    parser.add_argument("--mode-m", default=MODE_TOKENS, help=f"of the modes (default {MODE_TOKENS})")
    parser.add_argument("--chain-options", type=str.split, default=[], help="more options for decode_chain, in one word")
    parser.add_argument("--overhead-options", type=str.split, default=[], help="the same for overhead")
    parser.add_argument("--cublas", help="libcublasLt or its folder (default: of a Python package, else of the system)")
    parser.add_argument("--commit", help="what the programs were built from (default: the bundle's, or git's)")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="YYYY-MM-DD (default: today)")
    parser.add_argument("--force", action="store_true", help="replace files of the same date (default: refuse)")
    arguments = parser.parse_args()
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", arguments.date):
        parser.error(f"--date {arguments.date}: give YYYY-MM-DD")
    if not arguments.results.is_dir():
        parser.error(f"--results {arguments.results}: no such folder")
    arguments.parts = arguments.parts.split(",")
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown or ("points" not in arguments.parts and not arguments.add):
        parser.error(f"--parts {','.join(arguments.parts)}: some of {','.join(PARTS)}; without --add points must be there")
    try:
        programs = find_programs(arguments.programs)
        arguments.commit = arguments.commit or commit_of(arguments.programs)
        # All that can be wrong without a measurement comes before it.
        machine = describe_machine(programs, arguments)
        stem = f"{arguments.date}-gpu-{short_name(machine['gpu'])}"
        table, whole = (arguments.results / f"{stem}{suffix}" for suffix in (".csv", ".json"))
        earlier = read_earlier(whole, machine) if arguments.add else {}
        taken = [str(path) for path in (table, whole) if path.exists()]
        if taken and not arguments.force and not arguments.add:
            raise Failure(f"{', '.join(taken)}: already there; --force replaces, --add adds, --date gives another name", 2)
        measured, good = measure(arguments, programs)
        report = {**machine, "commits": {}, "heading": [], **{part: [] for part in PARTS}, **earlier, **measured}
        report["commits"].update({part: arguments.commit for part in arguments.parts})
        report["commit"] = report["commits"]["points"]
        report["limits"] = limits_of(report["points"])
        write_aside(table, points_csv(report))
        write_aside(whole, json.dumps(report, indent=1) + "\n")
    except Failure as failure:
        say(failure)
        return failure.code
    print(f"{len(report['points'])} points and {len(report['modes'])} of other modes: {table}, {whole}")
    if not good:
        say("some points failed and are left out")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
