# SPDX-License-Identifier: Apache-2.0
"""bench/report.py on the fake driver and the fake cuBLAS: what it writes, adds, refuses, and says without a GPU."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(os.environ["W4A16_SOURCE"]) / "bench" / "report.py"
SMALL = ["--cublas", os.environ["W4A16_FAKE_CUBLAS_DIR"], "--seconds", "0", "--date", "2026-01-02", "--commit", "abc"]
POINTS = ["--parts", "points", "--shapes", "72x192,33x65", "--m", "1,3"]
CHAIN = ["--parts", "decode_chain", "--chain-options=-s", "--add"]
OVERHEAD = ["--parts", "overhead", "--overhead-options=-m 1 -s 64x1024 -r 1", "--add"]


class ReportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_script(self, *options, code=0, programs=os.environ["W4A16_BUILD"], **environment):
        command = [sys.executable, "-B", SCRIPT, "--programs", programs, "--results", self.folder, *SMALL, *options]
        environment = {**os.environ, **environment}
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    def read(self):
        return json.loads((self.folder / "2026-01-02-gpu-fake-h200.json").read_text())

    def test_parts(self):
        said = self.run_script(*POINTS).stdout
        self.assertIn("4 points and 0 of other modes", said)
        self.assertEqual(self.files(), ["2026-01-02-gpu-fake-h200.csv", "2026-01-02-gpu-fake-h200.json"])
        self.assertEqual(said.split()[-1], str(self.folder / self.files()[1]))
        first = self.read()
        self.assertEqual((first["gpu"], first["cuda"], first["commit"], first["date"]), ("Fake H200", "13.0", "abc", "2026-01-02"))
        self.assertEqual([(p["n"], p["k"], p["m"]) for p in first["points"]], [(72, 192, 1), (72, 192, 3), (33, 65, 1), (33, 65, 3)])
        for point in first["points"]:
            self.assertGreater(point["ours_us"], 0)
            self.assertGreater(point["read_us"], 0)
            self.assertGreater(point["peak_tflops"], 0)
            self.assertLess(point["rel_error"], 3e-3)
        self.assertGreater(first["limits"]["cold_read_bytes_per_second"], 0)
        lines = (self.folder / self.files()[0]).read_text().splitlines()
        self.assertTrue(lines[0].startswith("# Fake H200, driver "))
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        self.assertEqual([float(row["ours_us"]) for row in rows], [p["ours_us"] for p in first["points"]])

        self.assertIn("already there", self.run_script(*POINTS, code=2).stderr)
        self.run_script(*CHAIN, "--commit", "xyz")
        self.run_script(*OVERHEAD)
        self.run_script("--parts", "modes", "--mode-shape", "72x192", "--mode-m", "2", "--add")
        all_parts = self.read()
        self.assertEqual(all_parts["commits"], {"points": "abc", "modes": "abc", "decode_chain": "xyz", "overhead": "abc"})
        all_parts["driver"] = "another"
        (self.folder / self.files()[1]).write_text(json.dumps(all_parts))
        self.assertIn("has driver another, here it is", self.run_script(*CHAIN, code=2).stderr)
        self.assertEqual({key: all_parts[key] for key in ("points", "limits", "heading")}, {key: first[key] for key in ("points", "limits", "heading")})
        self.assertEqual([(row["m"], row["model"]) for row in all_parts["decode_chain"]][:2], [(1, "Llama 3 8B"), (1, "Llama 3 70B")])
        self.assertEqual([device["device"] for device in all_parts["overhead"]], ["cuda:0", "cpu"])
        for plan in all_parts["overhead"][0]["plans"]:
            self.assertEqual(plan["m_max"], 1)
            steps = ("library", "driver", "primary", "context", "weight", "first_plan", "first_call")
            self.assertAlmostEqual(plan["total_seconds"], sum(plan[f"{step}_seconds"] for step in steps), places=6)
            self.assertGreater(plan["call_seconds"], 0)
        modes = {(row["dtype"], row["group"], row["zeros"]) for row in all_parts["modes"]}
        self.assertEqual(len(modes), 6)
        self.assertIn(("bf16", 128, "integer"), modes)

    def test_a_failed_point_is_left_out(self):
        """It is said, with exit code 1; the others stay."""
        result = self.run_script(*POINTS, code=1, W4A16_FAKE_CUBLAS="wrong")
        self.assertIn("is wrong: relative error", result.stderr)
        self.assertIn("no point has a time", result.stderr)
        self.assertEqual(self.files(), [])

    def test_make_bench(self):
        """tools/bench.sh measures, and prints the table; plots need matplotlib, which this Python may lack."""
        command = [SCRIPT.parent.parent / "tools" / "bench.sh", "--results", self.folder, *SMALL, *POINTS]
        environment = {**os.environ, "W4A16_PYTHON": sys.executable}
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("4 points and 0 of other modes", result.stdout)
        self.assertIn("| M | ours |", result.stdout)
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)

    def test_without(self):
        self.assertIn("no GPU", self.run_script(code=3, W4A16_FAKE_CUDA="none").stderr)
        self.assertIn("libcublasLt not found", self.run_script(*POINTS, "--cublas", self.folder, code=4).stderr)
        self.assertIn("no program overhead there", self.run_script(programs=self.folder, code=2).stderr)
        self.assertIn("--add", self.run_script(*CHAIN, code=2).stderr)
        self.assertIn("--parts all", self.run_script("--parts", "all", code=2).stderr)
        self.assertIn("YYYY-MM-DD", self.run_script("--date", "today", code=2).stderr)
        self.assertIn("no such folder", self.run_script("--results", self.folder / "none", code=2).stderr)
        self.assertEqual(self.files(), [])


if __name__ == "__main__":
    unittest.main()
