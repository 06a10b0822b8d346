# SPDX-License-Identifier: Apache-2.0
"""tools/plot_report.py on a small report whose means are known, and on the documents as they are."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

SOURCE = pathlib.Path(os.environ["W4A16_SOURCE"])
SCRIPT = SOURCE / "tools" / "plot_report.py"
PEERS = """N,K,M,cublas_fp16,marlin,machete,trtllm,humming,best_us,roofline_us
64,32,1,40,20,30,40,50,40,10
128,32,1,20,10,,20,25,10,5
64,32,16,50,30,20,40,50,20,10
"""


def point(m, n, ours, cublas):
    """Its roofline is 10 us: 1 TB/s and 10 MB less what A and C take."""
    weight = 10_000_000 - 2 * m * (n + 32)
    return {
        "n": n, "k": 32, "m": m, "dtype": "fp16", "group": 128, "zeros": "none", "config": "name", "ours_us": ours,
        "cublas_us": cublas, "weight_bytes": weight, "read_us": 10.0, "read_alone_us": 20.0, "peak_tflops": 500.0,
    }  # fmt: skip


def report():
    plan = {"m_max": 1, "library_seconds": 0.001, "total_seconds": 0.1, "plan_seconds": 1e-5, "call_seconds": 2.5e-6}
    return {
        "date": "2026-11-21", "gpu": "NVIDIA H200", "power_limit_watts": 700.0, "driver": "1.2", "cuda": "13.0", "commit": "abc",
        "points": [point(1, 64, 20.0, 40.0), point(1, 128, 80.0, 40.0), point(16, 64, 40.0, 10.0)],
        "modes": [{**point(16, 64, 50.0, 25.0), "dtype": "bf16"}],
        "limits": {"cold_read_bytes_per_second": 1e12, "flop_per_second": 5e14, "hot_flop_per_second": 4e14},
        "decode_chain": [{"model": "L", "m": 1, "bytes": 5e8, "seconds": 1e-3, "no_overlap_seconds": 1.5e-3}],
        "overhead": [{"device": "cuda:0", "plans": [plan]}],
    }  # fmt: skip


class PlotReportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "peers.csv").write_text(PEERS)

    def run_script(self, *options, data=None):
        path = self.folder / "report.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data or report()))
        command = [sys.executable, "-B", SCRIPT, path, "--peers", self.folder / "peers.csv", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def refuse(self, *options, says, **keywords):
        result = self.run_script(*options, **keywords)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, r"\Aplot_report: [^\n]+\n\Z")
        self.assertIn(says, result.stderr)

    def test_means(self):
        """At M = 1 over the roofline: ours 2 and 8, the best peer 4 and 1, cuBLAS 4 and 4."""
        result = self.run_script()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("\n| 1 | 4.00 | 2.00 | 4.00 | 1.00 | 0.50 | 0.50 | 0.12 | 0.71 | 0.25 |\n", result.stdout)
        self.assertIn("\n| 16 | 4.00 | 2.00 | 1.00 | 0.25 | 0.25 | 0.50 | 0.50 | 0.10 | 0.10 |\n", result.stdout)

    def test_arithmetic_is_a_limit_too(self):
        data = report()
        data["points"][0]["peak_tflops"] = 2 * 1 * 64 * 32 / 20e-6 * 1e-12  # 20 us of arithmetic, 10 of memory
        result = self.run_script(data=data)
        self.assertIn(f"\n| 1 | {8 ** 0.5:.2f} |", result.stdout)

    def test_tables(self):
        document = self.folder / "a.md"
        names = ["source", "speed", "times", "cublas", "roofline", "configs", "limits", "peaks", "modes", "decode_chain", "overhead"]
        document.write_text("top\n" + "".join(f"<!-- table {name} -->\nold {name}\n<!-- end -->\n" for name in names))
        self.assertEqual(self.run_script("--tables", document, "--check").returncode, 1)
        self.assertIn("old speed", document.read_text())
        self.assertEqual(self.run_script("--tables", document).returncode, 0)
        text = document.read_text()
        self.assertNotIn("old", text)
        self.assertTrue(text.startswith("top\n<!-- table source -->\n\nNVIDIA H200, driver 1.2, CUDA 13.0, 2026-11-21, commit abc, 700 W"))
        for row in [
            "| 1 | 20.0 | 80.0 |",  # times
            "| 16 | 40.0 |  |",
            "| 1 | 2.00 | 0.50 |",  # cublas
            "| 16 | 500 | 500 | 500 |",
            "| bf16, symmetric, group 128 | 50.0 (+25 %; 0.50) |",
            "| L | 1 | 1000 | 0.50 | 50 % | 1500 | 50 % |",
            "| `w4a16_gemm`, enqueued, **µs** | 2.50 |",
        ]:
            self.assertIn(row, text)
        self.assertEqual(self.run_script("--tables", document, "--check").returncode, 0)

    def test_errors(self):
        document = self.folder / "a.md"
        document.write_text("nothing\n")
        self.refuse("--tables", document, says="no place for a table")
        document.write_text("<!-- table no -->\n<!-- end -->\n")
        self.refuse("--tables", document, says="no table is called no")
        self.refuse("--tables", self.folder / "none.md", says="none.md cannot be read")
        self.refuse("--plots", self.folder / "none", says="no such folder")
        self.refuse(data="{", says="cannot be read")
        self.refuse(data={**report(), "points": []}, says="no points")
        self.refuse(data={**report(), "points": [{"m": 1}]}, says="no report of bench/report.py: it lacks 'n'")
        self.refuse(data={**report(), "limits": {}}, says="it lacks 'cold_read_bytes_per_second'")

    def test_plots(self):
        self.assertEqual(self.run_script("--plots", self.folder).returncode, 0)
        for name in ("speed", "shapes", "roofline", "decode_chain"):
            text = (self.folder / f"{name}.svg").read_text()
            root = xml.etree.ElementTree.fromstring(text)
            self.assertEqual(root.get("width"), "600pt")  # 800 pixels
            self.assertNotIn("dc:date", text)
            self.assertEqual([line for line in text.splitlines() if line != line.rstrip()], [])
            # Nothing is painted behind, and no ink is black or white: it would be lost on one of the two grounds.
            self.assertEqual(re.findall(r"(?:fill|stroke): #(?:000000|ffffff)", text), [])
            (self.folder / f"{name}.svg").rename(self.folder / f"{name}.first")
        # The settings of whoever runs it change no byte.
        (self.folder / "matplotlibrc").write_text("axes.edgecolor: red\nlines.linestyle: dotted\n")
        os.environ["MATPLOTLIBRC"] = str(self.folder)
        self.addCleanup(os.environ.pop, "MATPLOTLIBRC")
        self.assertEqual(self.run_script("--plots", self.folder).returncode, 0)
        for first in self.folder.glob("*.first"):
            self.assertEqual(first.with_suffix(".svg").read_text(), first.read_text())

    def test_documents(self):
        """The documents' tables and plots are what the report that they name says."""
        text = (SOURCE / "docs" / "benchmarks.md").read_text()
        path = SOURCE / re.search(r"\(\.\./(bench/results/[\w.-]+-gpu-[\w.-]+\.json)\)", text)[1]
        command = [sys.executable, "-B", SCRIPT, path]
        documents = [SOURCE / "README.md", SOURCE / "docs" / "benchmarks.md"]
        result = subprocess.run([*command, "--tables", *documents, "--check"], capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        if matplotlib.__version__ not in (SOURCE / "tools" / "requirements.txt").read_text():
            self.skipTest("another matplotlib than the pinned one draws other bytes")
        result = subprocess.run([*command, "--plots", self.folder], capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        for drawn in self.folder.glob("*.svg"):
            self.assertEqual(drawn.read_text(), (SOURCE / "docs" / "plots" / drawn.name).read_text(), drawn.name)


if __name__ == "__main__":
    try:
        import matplotlib
    except ImportError:
        print("needs matplotlib: run tools/setup.sh python, or set W4A16_PYTHON")
        sys.exit(1 if os.environ.get("CI") == "true" else 77)
    unittest.main()
