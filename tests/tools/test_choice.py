# SPDX-License-Identifier: Apache-2.0
"""tools/make_table.py and tools/choice_accuracy.py on small tables whose answers are known, and the shipped table."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["W4A16_SOURCE"])
NAMES = "device,m,n,k,group_size,zero_points,dtype,scale_dtype,config,chosen,microseconds\n"
A, B, C = "sm90_n64m32k256_coop", "sm90_n64m32k256_coop_streamk", "sm90_n64m64k128_coop_split2"


def row(m, n, config, microseconds, chosen=0, zeros="symmetric", k=4096):
    return f"cuda:0,{m},{n},{k},128,{zeros},fp16,fp16,{config},{chosen},{microseconds}\n"


class ToolTest(unittest.TestCase):
    script = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def run_script(self, *arguments):
        return subprocess.run([sys.executable, "-B", SOURCE / "tools" / self.script, *map(str, arguments)],
                              capture_output=True, text=True, timeout=120, check=False)

    def succeed(self, *arguments):
        result = self.run_script(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def refuse(self, *arguments, says):
        result = self.run_script(*arguments)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertRegex(result.stderr, rf"\A{self.script[:-3]}: [^\n]+\n\Z")
        for text in says:
            self.assertIn(text, result.stderr)


class MakeTable(ToolTest):
    script = "make_table.py"

    def test_the_fastest_of_each_point(self):
        table = self.write("a.csv", "# a remark\n" + NAMES + row(16, 64, A, 5) + row(16, 64, B, 4) + row(1, 64, A, 2) +
                           row(1, 64, "gone", 1) + row(1, 64, C, 3) + NAMES + row(1, 32, A, 7, zeros="integer") +
                           row(1, 32, B, 8, zeros="integer"))
        lines = [line for line in self.succeed(table, "--least", "2").splitlines() if line.startswith("W4_TUNED")]
        self.assertEqual([" ".join(line.split()) for line in lines], [
            f"W4_TUNED( 32, 4096, 128, FP16, FP16, INTEGER, 1, {A}, 7.00)",
            f"W4_TUNED( 64, 4096, 128, FP16, FP16, SYMMETRIC, 1, {A}, 2.00)",
            f"W4_TUNED( 64, 4096, 128, FP16, FP16, SYMMETRIC, 16, {B}, 4.00)"])
        self.refuse(table, says=["--least"])

    def test_later_tables_count(self):
        old = self.write("old.csv", NAMES + row(1, 64, A, 5) + row(1, 64, B, 4))
        new = self.write("new.csv", NAMES + row(1, 64, A, 6) + row(1, 64, B, 7))
        text = self.succeed(old, new, "--least", "2")
        self.assertIn(f"{A}, ", text)
        self.assertNotIn(f"{B}, ", text)
        self.assertIn(" *   old.csv\n *   new.csv\n", text)

    def test_other_modes_of_a_cache_are_left_out(self):
        names = NAMES.rstrip() + ",output_dtype,scales,flags\n"
        rows = "".join(row(1, 64, config, 5).rstrip() + rest + "\n" for config, rest in
                       ((A, ",fp16,even,"), (B, ",fp16,uneven,"), (B, ",bf16,even,"), (B, ",fp16,even,no-overlap")))
        text = self.succeed(self.write("c.csv", names + rows), "--least", "1")
        self.assertEqual(text.count("W4_TUNED( "), 1)
        self.assertIn(A, text)

    def test_damage(self):
        self.refuse(self.folder / "none.csv", says=["none.csv", "No such file"])
        self.refuse(self.write("a.csv", row(1, 64, A, 5)), says=["line 1", "heading"])
        self.refuse(self.write("a.csv", NAMES + "cuda:0,1\n"), says=["line 2", "2 fields"])
        self.refuse(self.write("a.csv", NAMES + row("x", 64, A, 5)), says=["line 2"])
        self.refuse(self.write("a.csv", NAMES + row(1, 64, A, 0)), says=["microseconds"])

    def test_the_shipped_tables_are_of_the_tables_here(self):
        """After new results or other configs: tools/make_table.py bench/results/*h200-configs*.csv > the file."""
        for gpu in ("h200", "h100"):
            tables = sorted((SOURCE / "bench/results").glob(f"*{gpu}-configs*.csv"))
            self.assertEqual(self.succeed(*tables), (SOURCE / f"src/backend/cuda/tuned_{gpu}.def").read_text(), gpu)


class ConfigNames(unittest.TestCase):
    def test_names_are_those_of_the_library(self):
        fake = pathlib.Path(os.environ["W4A16_BUILD"], "tests/cuda/fake")
        if not (fake / "libcuda.so.1").exists():
            self.skipTest("this build has no CUDA backend")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(fake), "W4A16_FAKE_CUDA": "sm_90"}
        result = subprocess.run([os.environ["W4A16_COMMAND"], "configs", "--json", "--device", "cuda:0"], text=True,
                                capture_output=True, check=True, env=environment)
        sys.path.insert(0, str(SOURCE / "tools"))
        from profile_table import config_names

        self.assertEqual({config["name"] for config in json.loads(result.stdout)["configs"]}, config_names())


class ChoiceAccuracy(ToolTest):
    script = "choice_accuracy.py"

    def test_means(self):
        table = self.write("a.csv", NAMES + row(1, 64, A, 5, 1) + row(1, 64, B, 4) + row(1, 32, A, 5, 1) +
                           row(1, 32, B, 10) + row(16, 64, B, 4, 1) + row(16, 64, A, 1) + row(2, 64, A, 1, 1))
        text = self.succeed(table)
        self.assertIn(f"\n| 1 | 2 | 1.118 | 1.250 | 1 | 64 x 4096, M = 1: `{A}`, best `{B}` |\n", text)
        self.assertIn(f"\n| 16 | 1 | 4.000 | 4.000 | 0 | 64 x 4096, M = 16: `{B}`, best `{A}` |\n", text)
        self.assertIn("\n| all | 3 | 1.710 | 4.000 | 1 | ", text)  # (1.25 * 1 * 4) ** (1/3)
        self.assertNotIn("| 2 |", text.replace("| 1 | 2 |", ""))  # one config leaves nothing to choose

    def test_points_without_a_choice_are_counted(self):
        table = self.write("a.csv", NAMES + row(1, 64, A, 5) + row(1, 64, B, 4) + row(1, 32, A, 5, 1) + row(1, 32, B, 9))
        self.assertIn("\n1 points are left out", self.succeed(table))
        self.refuse(self.write("b.csv", NAMES + row(1, 64, A, 5) + row(1, 64, B, 4)), says=["no point has a choice"])

    def test_asking_the_command(self):
        """The CPU's own choice is 2 where the table gives it twice the time of every other."""
        command = os.environ["W4A16_COMMAND"]
        listed = json.loads(subprocess.run([command, "configs", "--json", "--device", "cpu", "-m", "3", "-n", "64", "-k",
                                            "4096"], capture_output=True, text=True, check=True).stdout)["configs"]
        table = self.write("a.csv", NAMES + "".join(row(3, 64, c["name"], 2 if c["chosen"] else 1) for c in listed))
        for options in ((), ("--cost-model",)):
            text = self.succeed(table, "--ask", command, "--device", "cpu", *options)
            self.assertIn("\n| all | 1 | 2.000 | 2.000 | 0 | 64 x 4096, M = 3: ", text)
        self.refuse(table, "--ask", self.folder / "none", says=["none", "No such file"])
        self.refuse(table, "--ask", command, "--device", "tpu:0", says=["tpu:0"])


if __name__ == "__main__":
    unittest.main()
