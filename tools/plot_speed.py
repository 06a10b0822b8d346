#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare a table of `w4a16 bench --csv` with the peers' times: a Markdown table, and the plot of the README.

A point is one M and one shape N x K; per M the numbers are geometric means over the shapes. A shape counts at an M only
where the library's choice, the best peer, cuBLAS and the roofline all have a time, so that every column is about the same
shapes. Several tables of `bench`, one after the other in one file, are one table; lines that begin with # are its heading.
Only what the peers were measured with counts: group 128, symmetric, fp16. Only --plot needs matplotlib.
"""
import argparse
import collections
import csv
import io
import math
import pathlib
import re
import sys

EXAMPLES = """examples:
  tools/plot_speed.py bench/results/2026-11-21-h200-sm90.csv
  tools/plot_speed.py table.csv --choices           # table.csv: of `w4a16 bench --profile`, which times every config
  build/venv/bin/python tools/plot_speed.py table.csv --plot speed.svg    # `make setup` makes build/venv
"""
PEERS = pathlib.Path(__file__).parent.parent / "bench" / "peers_h200.csv"
MEASURED_WITH = {"group_size": "128", "zero_points": "symmetric", "dtype": "fp16"}

# The lines of the plot, the last ones on top: column, label, colour (Okabe and Ito's, told apart by colour-blind readers
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


class TableError(Exception):
    """A table that cannot be used; the text names the file and what would be right."""


def shape_text(point):
    return f"{point.n}x{point.k}"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


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


def choices_table(results):
    """The fastest config of each point, and how much longer the library's choice takes."""
    shapes = sorted({(point.n * point.k, point.n, point.k) for point in results.times})
    rows = [["M", *(f"{n}x{k}" for _, n, k in shapes)]]
    for m in sorted({point.m for point in results.times}):
        row = [m]
        for _, n, k in shapes:
            point = Point(m, n, k)
            times = results.times.get(point)
            if not times:
                row.append("")
                continue
            best = min(times, key=times.get)
            if point not in results.chosen:
                row.append(f"{best} (no choice timed)")
            elif len(times) == 1:
                row.append(f"{best} (only one timed)")
            else:
                row.append(f"{best} {100 * (results.chosen_time(point) / times[best] - 1):+.1f} %")
        rows.append(row)
    return "The fastest config, and how much longer the chosen one takes:\n\n" + markdown(rows)


# ---- Drawing ---------------------------------------------------------------------------------------------------


def title_from(heading):
    gpu = re.search(r"NVIDIA \w+", heading)
    date = re.search(r"\d{4}-\d{2}-\d{2}", heading)
    if not gpu or not date:
        missing = " and ".join(what for what, found in (("GPU (NVIDIA ...)", gpu), ("date (YYYY-MM-DD)", date)) if not found)
        raise TableError(f"the heading of the table (its lines that begin with #) names no {missing}, which the plot shows")
    return gpu[0], date[0]


def draw(comparison, path):
    gpu, date = title_from(comparison.results.heading)
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
    except ImportError as error:
        raise TableError("--plot needs matplotlib: `make setup`, then build/venv/bin/python tools/plot_speed.py") from error
    counts = [len(points) for points in comparison.points.values()]
    shapes = f"{counts[0]} shapes" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} shapes"
    # The same bytes each time: neither the reader's matplotlibrc, nor random identifiers, nor today's date.
    settings = {**matplotlib.rcParamsDefault, "svg.hashsalt": "w4a16", "svg.fonttype": "path", "font.size": 10}
    settings.pop("backend", None)
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(25 / 3, 4.75), layout="constrained", facecolor="white")  # 600 points: 800 pixels
        axes = figure.add_subplot(facecolor="white")
        highest = 1
        for column, label, colour, marker, properties in LINES:
            line = []
            for m in comparison.points:
                time = comparison.results.chosen_time
                mean = comparison.over_roofline(m, time) if column == "ours" else comparison.peer_over_roofline(m, column)
                line.append(math.nan if mean is None else mean)  # a gap, where not every shape has a time
            highest = max(highest, *(value for value in line if not math.isnan(value)), 1)
            properties = {"linewidth": 1.4, "markersize": 5, **properties}
            axes.plot(list(comparison.points), line, label=label, color=colour, marker=marker, **properties)
        axes.axhline(1, color="#555555", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_ylim(0.94, highest * 1.08)
        axes.xaxis.set_major_locator(FixedLocator(list(comparison.points)))
        axes.yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="x", labelsize=9)
        axes.grid(color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("M (rows of activations)")
        axes.set_ylabel("time / roofline (lower is better)")
        axes.set_title(f"W4A16 on one {gpu}, {date}: geometric mean over {shapes}", fontsize=11, loc="left", pad=10)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", facecolor="white", metadata={"Date": None})
    # matplotlib ends lines of path data in spaces, which this project's text files do not.
    text = "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())
    try:
        pathlib.Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TableError(f"--plot {path} cannot be written: {error}") from error


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", metavar="TABLE.csv", help="the result of `w4a16 bench --csv`")
    parser.add_argument("--peers", metavar="CSV", default=PEERS, help="the peers' times (default: bench/peers_h200.csv)")
    parser.add_argument("--plot", metavar="FILE.svg", help="also draw time / roofline over M; the same bytes each time")
    parser.add_argument("--choices", action="store_true", help="also print the best config of each M and shape")
    arguments = parser.parse_args()
    if arguments.plot and not arguments.plot.endswith(".svg"):
        parser.error(f"--plot {arguments.plot}: only SVG is written; give a name that ends in .svg")
    try:
        results = Results(arguments.table)
        comparison = Comparison(results, read_peers(arguments.peers))
        if not comparison.points:
            raise TableError(f"{arguments.table}: no point with chosen 1 that {arguments.peers} has too")
        print(speed_table(comparison), coverage(comparison), sep="\n\n")
        if arguments.choices:
            print("", choices_table(results), sep="\n")
        if arguments.plot:
            draw(comparison, arguments.plot)
    except TableError as error:
        print(f"plot_speed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
