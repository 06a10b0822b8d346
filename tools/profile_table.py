# SPDX-License-Identifier: Apache-2.0
"""What the tools on tables of `w4a16 bench --csv` share: reading those of --profile, names of
configs, means."""
import csv
import math
import re
from collections import defaultdict, namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

Point = namedtuple("Point", "n k group_size zeros dtype scale_dtype m")


class TableError(Exception):
    """A table or an argument that cannot be used; the text says why."""


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def config_names():
    """The GPU configs of this source tree, as src/backend/cuda/configs.c makes them from kernels/*/kernels.def."""
    names = set()
    for definition in ("sm90", "sm80"):
        for line in (ROOT / f"kernels/{definition}/kernels.def").read_text().splitlines():
            fields = re.split(r"[(), ]+", line)
            if not re.fullmatch(r"W4_SM[89]0_[A-Z_]+", fields[0]):
                continue
            names.add(fields[1])
            if not fields[0].endswith("_DECODE"):
                names.add(fields[1] + "_streamk")
            if fields[0] == "W4_SM90_KERNEL" and int(fields[10]):
                names.add(f"{fields[1]}_split{fields[10]}")
    return names


def rows_of(path):
    """The rows as dictionaries. Lines that begin with '#' are remarks; the heading may come again."""
    header = None
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or row[0].startswith("#"):
                    continue
                if row[0] == "device":
                    header = row
                elif header is None:
                    raise TableError(f"{path}: line {number}: the first line must be the heading of w4a16 bench --csv")
                elif len(row) != len(header):
                    raise TableError(f"{path}: line {number}: {len(row)} fields; the heading has {len(header)}")
                else:
                    yield number, dict(zip(header, row))
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: {error}") from error


def is_usual(row):
    """Whether a row of `w4a16 cache --csv` is of the plain mode; rows of the bench have none of these columns."""
    return (row.get("output_dtype", row["dtype"]) == row["dtype"] and row.get("scales", "even") == "even"
            and not row.get("flags"))


def read_rows(paths):
    """(Point, config, seconds, row) of each line, less those of modes that a Point cannot tell apart."""
    for path in paths:
        for number, row in rows_of(path):
            try:
                if not is_usual(row):
                    continue
                point = Point(int(row["n"]), int(row["k"]), int(row["group_size"]), row["zero_points"], row["dtype"],
                              row["scale_dtype"], int(row["m"]))
                seconds = float(row["microseconds"]) * 1e-6
                if not (seconds > 0 and math.isfinite(seconds)):
                    raise ValueError("microseconds must be above 0")
                yield point, row["config"], seconds, row
            except (KeyError, ValueError) as error:
                raise TableError(f"{path}: line {number}: {error}") from error


def read_profiles(paths):
    """{Point: {config: seconds}}; of a config that stands twice at a point, the later line counts."""
    times = defaultdict(dict)
    for point, config, seconds, _ in read_rows(paths):
        times[point][config] = seconds
    return times
