#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare a table of `w4a16 bench --csv` with the peers' times: a Markdown table. tools/plot_report.py draws.

A point is one M and one shape N x K; per M the numbers are geometric means over the shapes. A shape counts at an M only
where the library's choice, the best peer, cuBLAS and the roofline all have a time, so that every column is about the same
shapes. Several tables of `bench`, one after the other in one file, are one table; lines that begin with # are its heading.
Only what the peers were measured with counts: group 128, symmetric, fp16.
"""
import argparse
import collections
import csv
import math
import pathlib
import sys

from profile_table import TableError, geometric_mean

EXAMPLES = """examples:
  tools/plot_speed.py bench/results/2026-11-21-h200-sm90.csv
"""
PEERS = pathlib.Path(__file__).parent.parent / "bench" / "peers_h200.csv"
MEASURED_WITH = {"group_size": "128", "zero_points": "symmetric", "dtype": "fp16"}

# The lines of plots, the last ones on top: column, label, colour (Okabe and Ito's, told apart by colour-blind readers
# too), marker, further properties. All but `ours` are columns of the peers' table.
LINES = [
    ("cublas_fp16", "cuBLAS, dense fp16", "#0072B2", "s", {}),
    ("marlin", "Marlin", "#E69F00", "^", {}),
    ("machete", "Machete", "#009E73", "v", {}),
    ("trtllm", "TensorRT-LLM", "#CC79A7", "D", {}),
    ("humming", "Humming", "#56B4E9", "P", {}),
    ("best_us", "best W4A16 peer", "#000000", "", {"linestyle": "--", "linewidth": 1.8}),
    ("ours", "w4a16 (this library)", "#D55E00", "o", {"linewidth": 3, "markersize": 7}),
]

Point = collections.namedtuple("Point", "m n k")


def shape_text(point):
    return f"{point.n}x{point.k}"


# ---- Reading ---------------------------------------------------------------------------------------------------


def read_table(path, columns):
    """(heading without its #, [(line number, {column: text})]) of a CSV file that must have these columns."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read: {error}") from error
    heading, names, rows = [], None, []
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in next(csv.reader([line]), [])]
        if line.startswith("#"):
            heading.append(line.lstrip("# "))
        elif names is None and cells:
            names = cells
            missing = [column for column in columns if column not in names]
            if missing:
                raise TableError(f"{path}, line {number}: no column {', '.join(missing)}; it names {', '.join(names)}")
        elif cells and cells != names:  # where tables follow each other, so do their names of the columns
            if len(cells) != len(names):
                raise TableError(f"{path}, line {number}: {len(cells)} cells, expected {len(names)}")
            rows.append((number, dict(zip(names, cells))))
    if not rows:
        raise TableError(f"{path}: no rows; expected the columns {', '.join(columns)} and rows of them")
    return "\n".join(heading), rows


def parse(path, number, row, column, kind):
    try:
        value = kind(row[column])
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise TableError(f"{path}, line {number}: {column} is '{row[column]}'; expected a number above 0")
    return value


def parse_point(path, number, row, columns):
    return Point(*(parse(path, number, row, column, int) for column in columns))


class Results:
    """A table of `w4a16 bench --csv`. times[point][config]: microseconds; chosen[point]: the library's config."""

    def __init__(self, path):
        columns = ["m", "n", "k", *MEASURED_WITH, "config", "chosen", "microseconds"]
        self.heading, rows = read_table(path, columns)
        self.times, self.chosen, self.other_rows = {}, {}, 0
        for number, row in rows:
            if any(row[column] != value for column, value in MEASURED_WITH.items()):
                self.other_rows += 1
                continue
            point, config = parse_point(path, number, row, "mnk"), row["config"]
            where = f"{path}, line {number}: M={point.m} N={point.n} K={point.k}"
            if row["chosen"] not in ("0", "1"):
                raise TableError(f"{path}, line {number}: chosen is '{row['chosen']}'; expected 0 or 1")
            if config in self.times.setdefault(point, {}):
                raise TableError(f"{where} has a second time of {config}; expected one of each config")
            self.times[point][config] = parse(path, number, row, "microseconds", float)
            if row["chosen"] == "1" and self.chosen.setdefault(point, config) != config:
                raise TableError(f"{where} has two chosen configs, {self.chosen[point]} and {config}; expected one")
        if not self.times:
            expected = ", ".join(f"{column} {value}" for column, value in MEASURED_WITH.items())
            raise TableError(f"{path}: no row with {expected}, which is what the peers were measured with")

    def chosen_time(self, point):
        return self.times[point][self.chosen[point]] if point in self.chosen else None

    def best_time(self, point):
        return min(self.times[point].values())


def read_peers(path):
    """{point: {column: microseconds}} of the peers' table; an empty cell is left out."""
    columns = [column for column, *_ in LINES if column != "ours"] + ["roofline_us"]
    _, rows = read_table(path, ["N", "K", "M", *columns])
    peers = {}
    for number, row in rows:
        point = parse_point(path, number, row, "MNK")
        if point in peers:
            raise TableError(f"{path}, line {number}: a second row for M={point.m} N={point.n} K={point.k}; expected one")
        peers[point] = {column: parse(path, number, row, column, float) for column in columns if row[column]}
    return peers


# ---- Comparing -------------------------------------------------------------------------------------------------


class Comparison:
    """points[m]: the points that count at this M, in the order of the peers' table."""

    def __init__(self, results, peers):
        self.results, self.peers = results, peers
        self.shapes = list(dict.fromkeys(shape_text(point) for point in peers))
        self.points = {}
        for point, row in peers.items():
            if results.chosen_time(point) and all(column in row for column in ("best_us", "cublas_fp16", "roofline_us")):
                self.points.setdefault(point.m, []).append(point)
        self.points = dict(sorted(self.points.items()))

    def over_roofline(self, m, time):
        """Mean of time(point) / roofline; None where one of the points has no time."""
        times = [(time(point), self.peers[point]["roofline_us"]) for point in self.points[m]]
        return geometric_mean([a / b for a, b in times]) if all(a for a, _ in times) else None

    def peer_over_roofline(self, m, column):
        return self.over_roofline(m, lambda point: self.peers[point].get(column))

    def speedup(self, m, column):
        """How many times as fast as that column the library is: (mean, the worst shape's, the worst shape)."""
        ratios = {point: self.peers[point][column] / self.results.chosen_time(point) for point in self.points[m]}
        worst = min(ratios, key=ratios.get)
        return geometric_mean(ratios.values()), ratios[worst], shape_text(worst)

    def left_out(self, m):
        counted = [shape_text(point) for point in self.points[m]]
        return [shape for shape in self.shapes if shape not in counted]


def markdown(rows):
    """The first row is the heading."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def speed_table(comparison):
    results = comparison.results
    rows = [["M", "shapes", "ours", "ours, best config", "best W4A16 peer", "cuBLAS fp16"]]
    rows[0] += ["speed / best peer's", "worst shape", "speed / cuBLAS's", "worst shape"]
    for m, points in comparison.points.items():
        row = [m, len(points)]
        row += [f"{comparison.over_roofline(m, time):.2f}" for time in (results.chosen_time, results.best_time)]
        row += [f"{comparison.peer_over_roofline(m, column):.2f}" for column in ("best_us", "cublas_fp16")]
        for column in ("best_us", "cublas_fp16"):
            mean, worst, shape = comparison.speedup(m, column)
            row += [f"{mean:.2f}", f"{worst:.2f} ({shape})"]
        rows.append(row)
    return markdown(rows)


def coverage(comparison):
    """Which shapes count, in sentences."""
    total = len(comparison.shapes)
    short = {m: left_out for m in comparison.points if (left_out := comparison.left_out(m))}
    lines = [f"Times are over the roofline, geometric means; all {total} shapes count" + (", except:" if short else ".")]
    lines += [f"- M = {m}: {total - len(shapes)} of {total}, without {', '.join(shapes)}" for m, shapes in short.items()]
    unknown = sum(point not in comparison.peers for point in comparison.results.times)
    absent = sorted({point.m for point in comparison.peers} - set(comparison.points))
    for note, count in [
        ("Left out, no time of a choice at any shape: M = " + ", ".join(map(str, absent)), len(absent)),
        (f"Left out, not in the table of the peers: {unknown} points", unknown),
        (f"Left out, not measured as the peers were: {comparison.results.other_rows} rows", comparison.results.other_rows),
    ]:
        if count:
            lines += ["", note + "."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", metavar="TABLE.csv", help="the result of `w4a16 bench --csv`")
    parser.add_argument("--peers", metavar="CSV", default=PEERS, help="the peers' times (default: bench/peers_h200.csv)")
    arguments = parser.parse_args()
    try:
        results = Results(arguments.table)
        comparison = Comparison(results, read_peers(arguments.peers))
        if not comparison.points:
            raise TableError(f"{arguments.table}: no point with chosen 1 that {arguments.peers} has too")
        print(speed_table(comparison), coverage(comparison), sep="\n\n")
    except TableError as error:
        print(f"plot_speed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
