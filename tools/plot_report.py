#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draw a report of bench/report.py, and write its tables into the documents.

Plots (--plots FOLDER): speed.svg, time over the roofline against M, geometric means over the shapes; shapes.svg, the same
for each shape; roofline.svg; decode_chain.svg. The peers' times are published beside them (bench/peers_h200.csv): they
were measured on a GPU of the same kind, in November 2026, by the same rules, but in runs of their own. The roofline of a
point is the larger of its bytes (packed weight, A and C) over the report's best rate of reading cold memory, and its
operations over what the tensor cores alone reached right after that point.

Tables (--tables FILE.md ...): each text between `<!-- table NAME -->` and `<!-- end -->` becomes the report's table of that
name; --check only says whether it is. SVGs are the same bytes each time, have no background, and colours that can be
read on white and on black. Only --plots needs matplotlib.
"""
import argparse
import io
import json
import math
import pathlib
import re
import sys

from plot_speed import LINES, PEERS, Point, markdown, read_peers
from profile_table import TableError, geometric_mean

EXAMPLES = """examples:
  build/venv/bin/python tools/plot_report.py bench/results/2026-11-21-gpu-h200.json --plots docs/plots
  tools/plot_report.py bench/results/2026-11-21-gpu-h200.json --tables README.md docs/benchmarks.md
  tools/plot_report.py bench/results/2026-11-21-gpu-h200.json --tables README.md docs/benchmarks.md --check
"""
INK = "#7b838c"  # text and lines: 3.9 to 1 against white, 4.8 to 1 against GitHub's black
NEEDED = {
    "points": ("n", "k", "m", "ours_us", "cublas_us", "weight_bytes", "read_alone_us", "peak_tflops", "config"),
    "limits": ("cold_read_bytes_per_second", "flop_per_second"),
}


# ---- Reading ---------------------------------------------------------------------------------------------------


class Report:
    """points[Point]: the row of the table, at group 128, symmetric, fp16."""

    def __init__(self, path, peers_path):
        try:
            self.data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TableError(f"{path} cannot be read: {error}") from error
        try:
            for name in ("date", "gpu", "driver", "cuda", "commit"):
                self.data[name] + ""
            for row in self.data["points"]:
                [row[column] for column in NEEDED["points"]]
            [self.data["limits"][name] + 0 for name in NEEDED["limits"]]
            self.points = {Point(row["m"], row["n"], row["k"]): row for row in self.data["points"]}
        except (KeyError, TypeError) as error:
            raise TableError(f"{path} is no report of bench/report.py: it lacks {error}") from error
        if not self.points:
            raise TableError(f"{path}: no points")
        self.name = pathlib.Path(path).name
        self.peers = read_peers(peers_path)
        self.tokens = sorted({point.m for point in self.points})
        self.shapes = list(dict.fromkeys((point.n, point.k) for point in self.points))

    def bytes_of(self, point):
        return self.points[point]["weight_bytes"] + 2 * point.m * (point.n + point.k)

    def roofline(self, point):
        """Microseconds."""
        memory = self.bytes_of(point) / self.data["limits"]["cold_read_bytes_per_second"]
        return 1e6 * max(memory, 2 * point.m * point.n * point.k / (self.points[point]["peak_tflops"] * 1e12))

    def time(self, point, line):
        """Microseconds of a line of the plots at a point, or None."""
        row = self.points.get(point)
        if row and line in ("ours", "cublas_fp16"):
            return row["ours_us" if line == "ours" else "cublas_us"]
        return self.peers.get(point, {}).get(line) if row else None

    def best_peer_by_cublas(self, point):
        """The best peer's time, were cuBLAS's in its run the same as in ours: both GPUs as hot. None without either."""
        peer, then = self.time(point, "best_us"), self.peers.get(point, {}).get("cublas_fp16")
        return peer * self.time(point, "cublas_fp16") / then if peer and then else None

    def over_roofline(self, points, line):
        """The geometric mean over the points; None where one has no time."""
        times = [self.time(point, line) for point in points]
        return geometric_mean([t / self.roofline(p) for t, p in zip(times, points)]) if points and all(times) else None

    def at(self, m):
        return [point for point in self.points if point.m == m]

    def source(self):
        data = self.data
        return f"{data['gpu']}, driver {data['driver']}, CUDA {data['cuda']}, {data['date']}, commit {data['commit']}"


# ---- Tables ----------------------------------------------------------------------------------------------------


def shape_text(shape):
    return f"{shape[0]} × {shape[1]}"


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def speed_table(report):
    rows = [["M", "ours", "best W4A16 peer", "cuBLAS fp16", "speed / cuBLAS's", "worst shape", "speed / best peer's", "worst shape"]]
    rows[0] += ["the same, by cuBLAS", "worst shape"]
    for m in report.tokens:
        points, row = report.at(m), [m]
        row += [number(report.over_roofline(points, line), 2) for line in ("ours", "best_us", "cublas_fp16")]
        for time in (lambda p: report.time(p, "cublas_fp16"), lambda p: report.time(p, "best_us"), report.best_peer_by_cublas):
            times = [time(point) for point in points]
            ratios = [t / report.time(p, "ours") for t, p in zip(times, points)] if all(times) else []
            row += [number(geometric_mean(ratios), 2), number(min(ratios), 2)] if ratios else ["", ""]
        rows.append(row)
    return markdown(rows)


def matrix(report, cell):
    rows = [["M", *map(shape_text, report.shapes)]]
    for m in report.tokens:
        points = [Point(m, *shape) for shape in report.shapes]
        rows.append([m, *(cell(point) if point in report.points else "" for point in points)])
    return markdown(rows)


def time_table(report):
    return matrix(report, lambda point: f"{report.time(point, 'ours'):.1f}")


def cublas_table(report):
    return matrix(report, lambda point: f"{report.time(point, 'cublas_fp16') / report.time(point, 'ours'):.2f}")


def roofline_table(report):
    return matrix(report, lambda point: f"{report.time(point, 'ours') / report.roofline(point):.2f}")


def config_table(report):
    return matrix(report, lambda point: f"`{report.points[point]['config']}`")


def limits_table(report):
    rows = [["shape", "packed MB", "read, overlapping: µs", "TB/s", "read, one by one: µs", "TB/s"]]
    for shape in report.shapes:
        row = next(row for point, row in report.points.items() if point[1:] == shape)
        cells = [shape_text(shape), f"{row['weight_bytes'] * 1e-6:.1f}"]
        for column in ("read_us", "read_alone_us"):
            time = row[column]
            cells += [f"{time:.2f}", f"{row['weight_bytes'] / time * 1e-6:.2f}"] if time else ["", ""]
        rows.append(cells)
    return markdown(rows)


def peaks_table(report):
    rows = [["M", "tensor cores alone, TFLOP/s: median", "least", "most"]]
    for m in report.tokens:
        peaks = sorted(report.points[point]["peak_tflops"] for point in report.at(m))
        rows.append([m, *(f"{value:.0f}" for value in (peaks[len(peaks) // 2], peaks[0], peaks[-1]))])
    return markdown(rows)


def mode_text(row):
    zeros = {"none": "symmetric", "integer": "integer zero points", "float": "floating zero points"}[row["zeros"]]
    group = "one group per row" if row["group"] == -1 else f"group {row['group']}"
    return f"{row['dtype']}, {zeros}, {group}"


def modes_table(report):
    rows = report.data.get("modes", [])
    tokens = sorted({row["m"] for row in rows})
    table = [["mode", *(f"M = {m}" for m in tokens)]]
    for mode in dict.fromkeys(map(mode_text, rows)):
        cells = {row["m"]: row for row in rows if mode_text(row) == mode}
        line = [mode]
        for m in tokens:
            row = cells.get(m)
            base = report.points.get(Point(m, row["n"], row["k"])) if row else None
            more = f"{100 * (row['ours_us'] / base['ours_us'] - 1):+.0f} %; " if base else ""
            line.append(f"{row['ours_us']:.1f} ({more}{row['cublas_us'] / row['ours_us']:.2f})" if row else "")
        table.append(line)
    return markdown(table)


def chain_table(report):
    table = [["model", "M", "µs a step", "TB/s", "of reading alone", "without overlap: µs", "overlap is faster by"]]
    for row in report.data.get("decode_chain", []):
        cells = [row["model"], row["m"], f"{row['seconds'] * 1e6:.0f}", f"{row['bytes'] / row['seconds'] * 1e-12:.2f}"]
        cells.append(f"{100 * row['bytes'] / row['seconds'] / report.data['limits']['cold_read_bytes_per_second']:.0f} %")
        alone = row.get("no_overlap_seconds")
        cells += [f"{alone * 1e6:.0f}", f"{100 * (alone / row['seconds'] - 1):.0f} %"] if alone else ["", ""]
        table.append(cells)
    return markdown(table)


OVERHEAD = [
    ("library", "load the library", 1e3),
    ("driver", "load the driver, cuInit", 1e3),
    ("primary", "the GPU's primary context", 1e3),
    ("context", "`w4a16_context_create`", 1e3),
    ("weight", "`w4a16_weight_create`", 1e3),
    ("first_plan", "the first `w4a16_plan_create`", 1e3),
    ("first_call", "the first `w4a16_gemm`, waited for", 1e3),
    ("total", "**all of these**", 1e3),
    ("plan", "a later `w4a16_plan_create`", 1e3),
    ("call", "`w4a16_gemm`, enqueued, **µs**", 1e6),
    ("waited_call", "`w4a16_gemm`, waited for, **µs**", 1e6),
    ("empty", "an empty kernel, enqueued by the driver, **µs**", 1e6),
]


def overhead_table(report):
    columns = [(device, plan) for device in report.data.get("overhead", []) for plan in device["plans"]]
    table = [["ms", *(f"{device['device']}, m_max {plan['m_max']}" for device, plan in columns)]]
    for name, text, unit in OVERHEAD:
        times = [plan.get(f"{name}_seconds") for _, plan in columns]
        if any(times):
            table.append([text, *("" if time is None else f"{time * unit:.2f}" for time in times)])
    return markdown(table)


def source_line(report):
    watts = report.data.get("power_limit_watts")
    # A part that was measured again names its commit.
    commits = {part: commit for part, commit in report.data.get("commits", {}).items() if commit != report.data["commit"]}
    others = "".join(f", {part} at {commit}" for part, commit in commits.items())
    text = f"{report.source()}{others}{f', {watts:.0f} W' if watts else ''}"
    return f"{text} ([{report.name}]({LINK}{report.name}))."


TABLES = {
    "source": source_line,
    "speed": speed_table,
    "times": time_table,
    "cublas": cublas_table,
    "roofline": roofline_table,
    "configs": config_table,
    "limits": limits_table,
    "peaks": peaks_table,
    "modes": modes_table,
    "decode_chain": chain_table,
    "overhead": overhead_table,
}
LINK = "LINK-TO-RESULTS/"  # from a document in docs/, or in the checkout's root
PLACE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text, path, report):
    for name in (match[2] for match in PLACE.finditer(text)):
        if name not in TABLES:
            raise TableError(f"{path}: no table is called {name}; there are {', '.join(TABLES)}")
    if not PLACE.search(text):
        raise TableError(f"{path}: no place for a table; expected <!-- table NAME --> and <!-- end --> on lines of their own")
    text = PLACE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]](report)}\n\n{match[3]}", text)
    return text.replace("(" + LINK, "(../bench/results/" if path.resolve().parent.name == "docs" else "(bench/results/")


# ---- Drawing ---------------------------------------------------------------------------------------------------


def colour_of(line):
    """The peers' best is a black line on white; here the ink of the text takes its place."""
    return INK if line[2] == "#000000" else line[2]


def plain(axis):
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def over_m(axes, report, points_of, lowest=0.94):
    """Time over the roofline against M, for each line that has times."""
    from matplotlib.ticker import FixedLocator

    highest = 1
    for line in LINES:
        column, label, _, marker, properties = line
        values = [report.over_roofline(points_of(m), column) for m in report.tokens]
        if not any(values):
            continue
        highest = max(highest, *(value for value in values if value))
        properties = {"linewidth": 1.4, "markersize": 4, **properties}
        axes.plot(report.tokens, [math.nan if v is None else v for v in values], label=label, color=colour_of(line), marker=marker, **properties)
    axes.axhline(1, color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(lowest, highest * 1.08)
    axes.xaxis.set_major_locator(FixedLocator(report.tokens))
    axes.yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4, 6, 8, 12, 16]))
    plain(axes.xaxis)
    plain(axes.yaxis)


def legend(figure, axes, columns):
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def draw_speed(figure, report):
    axes = figure.add_subplot()
    over_m(axes, report, report.at)
    axes.set_xlabel("M (rows of activations)")
    axes.set_ylabel("time / roofline (lower is better)")
    title = f"W4A16 on one {report.data['gpu']}, {report.data['date']}: geometric mean over {len(report.shapes)} shapes"
    axes.set_title(title, fontsize=11, loc="left", pad=10)
    legend(figure, axes, 4)


def draw_shapes(figure, report):
    from matplotlib.ticker import FixedLocator

    columns = 2
    rows = (len(report.shapes) + columns - 1) // columns
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(report.shapes):
            axes.set_axis_off()
            continue
        n, k = report.shapes[index]
        over_m(axes, report, lambda m, n=n, k=k: [p for p in report.at(m) if (p.n, p.k) == (n, k)], 0.85)
        axes.set_title(f"N = {n}, K = {k}", fontsize=10, loc="left")
        axes.xaxis.set_major_locator(FixedLocator(report.tokens[::2]))
        axes.tick_params(axis="x", labelsize=8, labelbottom=True)
        axes.tick_params(axis="y", labelsize=8)
        if index % columns == 0:
            axes.set_ylabel("time / roofline", fontsize=9)
    figure.suptitle(f"W4A16 on one {report.data['gpu']}, {report.data['date']}; M along the axis", fontsize=11, x=0.01, ha="left")
    legend(figure, grid.flat[0], 4)


STYLES = [
    ("ours", {"marker": "o", "markersize": 4, "linewidth": 1.6}),
    ("cublas_fp16", {"marker": "s", "markersize": 3, "linewidth": 1, "linestyle": ":"}),
]


def draw_roofline(figure, report):
    limits = report.data["limits"]
    axes = figure.add_subplot()
    colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c6bb1"]
    intensities = []
    for (n, k), colour in zip(report.shapes, colours * 9):
        points = [Point(m, n, k) for m in report.tokens if Point(m, n, k) in report.points]
        flop = [2 * p.m * p.n * p.k for p in points]
        intensity = [f / report.bytes_of(p) for f, p in zip(flop, points)]
        intensities += intensity
        for line, style in STYLES:
            rates = [f / report.time(p, line) * 1e-6 for f, p in zip(flop, points)]
            label = f"{n} × {k}" if line == "ours" else None
            axes.plot(intensity, rates, color=colour, label=label, **style)
    read, peak = limits["cold_read_bytes_per_second"] * 1e-12, limits["flop_per_second"] * 1e-12
    hot = limits.get("hot_flop_per_second", 0) * 1e-12
    low, high = min(intensities) / 1.5, max(intensities) * 1.5
    axes.plot([low, peak / read, high], [low * read, peak, peak], color=INK, linewidth=1.4)
    # Along the line: on two logarithmic axes the angle is that of the ray through the text's own place.
    x, y = low * 1.5, low * 1.5 * read * 1.15
    along = {"rotation": math.degrees(math.atan2(y, x)), "rotation_mode": "anchor", "transform_rotates_text": True}
    axes.text(x, y, f"reading cold memory: {read:.2f} TB/s", fontsize=8, **along)
    text = f"tensor cores alone: {peak:.0f} TFLOP/s"
    if hot:
        axes.plot([hot / read, high], [hot, hot], color=INK, linewidth=1, linestyle="--")
        text += f" at best, {hot:.0f} hot"
    axes.text(high, peak * 1.07, text, fontsize=8, ha="right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of packed weight, A and C")
    axes.set_ylabel("TFLOP/s (higher is better)")
    axes.set_title(f"Roofline: one {report.data['gpu']}, {report.data['date']}; dotted: cuBLAS fp16, at the same places", fontsize=11, loc="left", pad=10)
    legend(figure, axes, 4)


def draw_chain(figure, report):
    rows = report.data.get("decode_chain", [])
    axes = figure.add_subplot()
    read = report.data["limits"]["cold_read_bytes_per_second"] * 1e-12
    for index, row in enumerate(rows):
        ways = [("seconds", "overlapping kernels", "#D55E00", -0.2), ("no_overlap_seconds", "one kernel after another", "#0072B2", 0.2)]
        for key, label, colour, shift in ways:
            if row.get(key):
                rate = row["bytes"] / row[key] * 1e-12
                axes.bar(index + shift, rate, 0.38, color=colour, label=label if index == 0 else None)
                axes.text(index + shift, rate + read * 0.012, f"{rate:.2f}", ha="center", fontsize=8)
    axes.axhline(read, color=INK, linewidth=1.2, linestyle="--")
    axes.text(len(rows) - 0.55, read * 1.02, f"reading cold memory alone: {read:.2f}", ha="right", fontsize=8)
    axes.set_ylim(0, read * 1.15)
    axes.set_xticks(range(len(rows)), [f"{row['model']}\nM = {row['m']}" for row in rows], fontsize=8)
    axes.set_ylabel("TB/s (higher is better)")
    axes.set_title(f"The linear layers of a decode step in one graph: one {report.data['gpu']}, {report.data['date']}", fontsize=11, loc="left", pad=10)
    legend(figure, axes, 2)


# Width and height in inches at 72 points: 600 points are 800 pixels.
PLOTS = {
    "speed": (draw_speed, 25 / 3, 4.75),
    "shapes": (draw_shapes, 25 / 3, 10.5),
    "roofline": (draw_roofline, 25 / 3, 5.2),
    "decode_chain": (draw_chain, 25 / 3, 4),
}


def svg_of(name, report):
    import matplotlib
    from matplotlib.figure import Figure

    draw, width, height = PLOTS[name]
    # The same bytes each time: neither the reader's matplotlibrc, nor random identifiers, nor today's date.
    settings = {**matplotlib.rcParamsDefault, "svg.hashsalt": "w4a16", "svg.fonttype": "path", "font.size": 10}
    settings.pop("backend", None)
    settings.update({key: INK for key in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")})
    settings.update({"axes.grid": True, "grid.color": INK, "grid.alpha": 0.25, "grid.linewidth": 0.7, "axes.axisbelow": True})
    settings.update({"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none"})
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, report)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    # matplotlib ends lines of path data in spaces, which this project's text files do not.
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def write(path, text):
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise TableError(f"{path} cannot be written: {error.strerror}") from error


def make_plots(folder, report):
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise TableError("--plots needs matplotlib: `make setup`, then build/venv/bin/python tools/plot_report.py") from error
    if not folder.is_dir():
        raise TableError(f"--plots {folder}: no such folder")
    for name in PLOTS:
        if name != "decode_chain" or report.data.get("decode_chain"):
            write(folder / f"{name}.svg", svg_of(name, report))


def make_tables(paths, report, only_check):
    """False where a document is not what the report says, and was not to be changed."""
    good = True
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"{path} cannot be read: {error}") from error
        wanted = with_tables(text, path, report)
        if only_check and wanted != text:
            print(f"plot_report: {path} is not what {report.name} says; run it without --check", file=sys.stderr)
            good = False
        elif wanted != text:
            write(path, wanted)
    return good


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", metavar="REPORT.json", help="the result of bench/report.py")
    parser.add_argument("--peers", metavar="CSV", default=PEERS, help="the peers' times (default: bench/peers_h200.csv)")
    parser.add_argument("--plots", metavar="FOLDER", type=pathlib.Path, help="write the four SVGs there")
    parser.add_argument("--tables", metavar="FILE.md", type=pathlib.Path, nargs="+", default=[], help="fill in their tables")
    parser.add_argument("--check", action="store_true", help="with --tables: change nothing, exit 1 where one differs")
    arguments = parser.parse_args()
    try:
        report = Report(arguments.report, arguments.peers)
        if not arguments.plots and not arguments.tables:
            print(f"{source_line(report).replace(LINK, '')}\n\n{speed_table(report)}")
        if arguments.plots:
            make_plots(arguments.plots, report)
        return 0 if make_tables(arguments.tables, report, arguments.check) else 1
    except TableError as error:
        print(f"plot_report: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
