# SPDX-License-Identifier: Apache-2.0
"""tools/plot_speed.py on small tables whose means are known: what counts, what is left out."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(os.environ["W4A16_SOURCE"]) / "tools" / "plot_speed.py"
HEADING = "# w4a16 bench: one NVIDIA H200 (700 W), 2026-11-21\n"
NAMES = "device,m,n,k,group_size,zero_points,dtype,scale_dtype,config,chosen,microseconds\n"
PEERS = """N,K,M,cublas_fp16,marlin,machete,trtllm,humming,best_us,roofline_us
64,32,1,40,20,30,40,50,20,10
128,32,1,20,10,,20,25,10,5
64,32,16,40,30,20,40,50,20,10
128,32,16,20,10,20,20,25,10,5
"""


def row(m, n, config, chosen, microseconds, dtype="fp16"):
    return f"cuda:0,{m},{n},32,128,symmetric,{dtype},fp16,{config},{chosen},{microseconds}\n"


# Over the roofline at M = 1: 2 and 8 (mean 4) as chosen, 2 and 2 (mean 2) at best; the best peer has 2, cuBLAS 4.
M_1 = row(1, 64, "a", 1, 20) + row(1, 128, "a", 1, 40) + row(1, 128, "b", 0, 10)
M_16 = row(16, 64, "a", 1, 20) + row(16, 128, "a", 1, 40)


class PlotSpeedTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.table, self.peers = self.folder / "table.csv", self.folder / "peers.csv"

    def run_script(self, table, *options, peers=PEERS):
        self.table.write_text(table)
        self.peers.write_text(peers)
        command = [sys.executable, "-B", SCRIPT, self.table, "--peers", self.peers, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def succeed(self, table, *options, **keywords):
        result = self.run_script(table, *options, **keywords)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def refuse(self, table, *options, says, **keywords):
        result = self.run_script(table, *options, **keywords)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, r"\Aplot_speed: [^\n]+\n\Z")
        for text in says:
            self.assertIn(text, result.stderr)

    def test_means(self):
        text = self.succeed(HEADING + NAMES + M_16 + NAMES + M_1)
        self.assertIn("\n| 1 | 2 | 4.00 | 2.00 | 2.00 | 4.00 | 0.50 | 0.25 (128x32) | 1.00 | 0.50 (128x32) |\n", text)
        self.assertLess(text.index("\n| 1 | 2 |"), text.index("\n| 16 | 2 |"))
        self.assertIn("all 2 shapes count.", text)
        self.assertNotIn("Left out", text)

    def test_missing_points(self):
        """A point that one column lacks counts in none: no choice, no best peer, not measured at all."""
        alone = "| {} | 1 | 2.00 | 2.00 | 2.00 | 4.00 | 1.00 | 1.00 (64x32) | 2.00 | 2.00 (64x32) |\n"
        text = self.succeed(HEADING + NAMES + row(1, 64, "a", 1, 20) + row(1, 128, "b", 0, 10))
        self.assertIn(alone.format(1), text)
        self.assertIn("- M = 1: 1 of 2, without 128x32\n", text)
        self.assertIn("no time of a choice at any shape: M = 16.", text)
        text = self.succeed(HEADING + NAMES + M_16, peers=PEERS.replace("25,10,5", "25,,5"))
        self.assertIn(alone.format(16), text)
        text = self.succeed(HEADING + NAMES + M_1 + row(3, 64, "a", 1, 20) + row(1, 64, "a", 1, 9, dtype="bf16"))
        self.assertIn("not in the table of the peers: 1 points.", text)
        self.assertIn("not measured as the peers were: 1 rows.", text)
        self.assertNotIn("| 3 |", text)

    def test_errors(self):
        self.refuse(HEADING + NAMES.replace("chosen,", "") + "1\n", says=["no column chosen", "table.csv, line 2"])
        self.refuse(HEADING + NAMES + M_1, peers="N,K,M\n1,1,1\n", says=["peers.csv, line 1", "roofline_us"])
        self.refuse(HEADING + NAMES, says=["no rows"])
        self.refuse(HEADING + NAMES + "1,2\n", says=["line 3", "2 cells, expected 11"])
        self.refuse(HEADING + NAMES + row(1, 64, "a", 1, "nan"), says=["line 3", "microseconds is 'nan'"])
        self.refuse(HEADING + NAMES + row(1, 64, "a", 1, 5) * 2, says=["line 4", "a second time of a"])
        self.refuse(HEADING + NAMES + row(1, 64, "a", 1, 5) + row(1, 64, "b", 1, 5), says=["two chosen configs, a and b"])
        self.refuse(HEADING + NAMES + row(1, 64, "a", 1, 5, dtype="bf16"), says=["no row with group_size 128"])
        self.refuse(HEADING + NAMES + row(1, 64, "a", 0, 5), says=["no point with chosen 1"])

    def test_help(self):
        result = subprocess.run([sys.executable, "-B", SCRIPT, "--help"], capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0)
        self.assertIn("examples:\n  tools/plot_speed.py ", result.stdout)

    def test_table_needs_no_packages(self):
        self.table.write_text(HEADING + NAMES + M_1)
        self.peers.write_text(PEERS)
        command = [sys.executable, "-B", "-S", SCRIPT, self.table, "--peers", self.peers]
        self.assertEqual(subprocess.run([*command], capture_output=True, check=False).returncode, 0)


if __name__ == "__main__":
    unittest.main()
