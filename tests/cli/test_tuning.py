# SPDX-License-Identifier: Apache-2.0
"""tune, cache, --explain and --cost-model: what is measured is kept, shown and used."""

import csv
import json
import os
import signal
import subprocess
import time
import unittest

from support import COMMAND, CommandTest, make_model, run

SHAPE = ["-n", "64", "-k", "256", "--device", "cpu", "--threads", "1"]


class TuningTest(CommandTest):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "tuned.json"
        os.environ.pop("W4A16_CACHE", None)
        self.addCleanup(os.environ.pop, "W4A16_CACHE", None)

    def tune(self, *arguments):
        return self.succeed_json("tune", *SHAPE, "--cache", self.path, *arguments)

    def configs(self, m, *arguments):
        return self.succeed_json("configs", *SHAPE, "-m", m, *arguments)["configs"]

    def chosen(self, m, *arguments):
        chosen = [config for config in self.configs(m, *arguments) if config["chosen"]]
        self.assertEqual(len(chosen), 1)
        return chosen[0]

    def plant(self, m, config):
        """Let the file say that this config is the fastest at M."""
        cache = json.loads(self.path.read_text())
        for device in cache["devices"]:
            for problem in device["problems"]:
                for point in problem["points"]:
                    if point["m"] == m:
                        point["configs"] = [[config, 0.5]]
        self.path.write_text(json.dumps(cache))


class Tune(TuningTest):
    def test_results_are_kept_and_used(self):
        report = self.tune("-m", "1,5,16")
        self.assertEqual([report[key] for key in ("points", "measured", "known", "left", "configs_failed")], [3, 3, 0, 0, 0])
        self.assertEqual([row["m"] for row in report["results"]], [1, 5, 16])
        for row in report["results"]:
            self.assertLessEqual(row["seconds"], row["seconds_before"])
        self.assertEqual(self.tune("-m", "1,5,16")["known"], 3)
        self.assertEqual(self.tune("-m", "1,5,16", "--again")["measured"], 3)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["tuned.json", "tuned.json.lock"])
        self.plant(5, "cpu_reference")
        self.assertNotEqual(self.chosen(5)["name"], "cpu_reference")  # nobody named the file
        os.environ["W4A16_CACHE"] = str(self.path)
        chosen = self.chosen(5)
        self.assertEqual((chosen["name"], chosen["source"]), ("cpu_reference", "cache"))
        self.assertAlmostEqual(chosen["measured_seconds"], 0.5e-6, places=12)
        self.assertEqual(self.chosen(6)["source"], "cost model")
        self.assertEqual(self.chosen(5, "--cost-model")["source"], "cost model")
        self.assertEqual(self.chosen(5, "--cost-model")["rank"], 1)
        self.assertEqual(self.chosen(5, "--asymmetric")["source"], "cost model")
        os.environ["OMP_NUM_THREADS"] = "1"
        self.addCleanup(os.environ.pop, "OMP_NUM_THREADS", None)
        info = self.succeed_json("info")
        if info["automatic"] == "cpu":
            self.assertEqual((info["tuned_results"], info["cache"]), (3, str(self.path)))
            self.assertIn(f"tuned results: 3, {self.path}\n", self.succeed("info"))

    def test_ranges_are_buckets(self):
        self.assertEqual([row["m"] for row in self.tune("-m", "5-14")["results"]], [6, 8, 12, 14])
        self.assertEqual([row["m"] for row in self.tune("-m", "7-7")["results"]], [7])
        text = self.succeed("tune", "--help")
        self.assertIn("1, 2, 3, 4, 6, 8, 12, 16, 24, 32", text)

    def test_table(self):
        text = self.succeed("tune", *SHAPE, "-m", "3", "--cache", self.path)
        self.assertRegex(text, r"\n *64  256    128  3  cpu_\w+ +[\d.]+ +1\.\d+ +cpu_\w+\n")
        self.assertIn("1 points on cpu", text)
        self.assertIn(f"W4A16_CACHE={self.path}", text)

    def test_model(self):
        """Every distinct shape of a real checkpoint, once."""
        model = self.folder / "model"
        make_model(model, {"layers.0.a_proj": (64, 256), "layers.1.a_proj": (64, 256), "layers.0.b_proj": (32, 384)})
        self.succeed("quantize", model, "-o", self.folder / "q", "--asymmetric", "--group-size", "64")
        report = self.succeed_json("tune", "--model", self.folder / "q", "-m", "2", "--device", "cpu", "--cache", self.path)
        self.assertEqual(sorted((row["n"], row["k"], row["group_size"], row["zero_points"]) for row in report["results"]),
                         [(32, 384, 64, "integer"), (64, 256, 64, "integer")])
        self.refuse(1, "tune", "--model", model, "-m", "2", "--cache", self.path, says="no quantised layers")

    def test_budget(self):
        report = self.tune("-m", "1-16", "--budget", "0.001")
        self.assertEqual(report["measured"] + report["left"], 8)
        self.assertGreater(report["left"], 0)
        self.assertEqual(self.tune("-m", "1-16")["known"], report["measured"])

    def test_wrong_usage(self):
        cache = ["--cache", str(self.path)]
        self.refuse(2, "tune", *cache, says="--model PATH, or -n N and -k K")
        self.refuse(2, "tune", "-n", "64", *cache, says="--model PATH, or -n N and -k K")
        self.refuse(2, "tune", "-n", "64", "-k", "64", says=("--cache FILE is missing", "W4A16_CACHE"))
        self.refuse(2, "tune", "--model", "x", "-n", "64", *cache, says="not both")
        for text, says in (("0-5", "0 is out of range"), ("5-1", "ends before it begins"), ("1-", "whole number"),
                           ("-5", "whole number"), ("1-2-3", "whole number"), ("1,2-3", "whole number")):
            self.refuse(2, "tune", *SHAPE, *cache, f"-m{text}", says=("-m: ", says) if "-5" != text else "-m: ")
        self.refuse(2, "tune", *SHAPE, *cache, "--budget", "-1", says="--budget")
        self.refuse(1, "tune", *SHAPE, "-m", "1", "--cache", self.folder / "none" / "x.json", says="none/x.json.lock")

    def test_damaged_files_stay(self):
        self.path.write_text("{")
        self.refuse(1, "tune", *SHAPE, "-m", "1", "--cache", self.path, says=("bad JSON", self.path))
        self.assertEqual(self.path.read_text(), "{")

    def test_interruption_keeps_what_is_there(self):
        with subprocess.Popen([COMMAND, "tune", *SHAPE, "-m", "1-8192", "--cache", self.path], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            time.sleep(3)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=120)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertIn("what was measured is kept", complaint)
        report = self.succeed_json("cache", self.path)
        self.assertGreater(len(report["results"]), 0)


class Refusals(TuningTest):
    def test_the_environment_says_why(self):
        self.path.write_text('{"format": "w4a16 cache", "version": 3, "devices": []}')
        os.environ["W4A16_CACHE"] = str(self.path)
        result = run("configs", *SHAPE, "-m", "5", "--explain")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stderr, r"\Aw4a16 configs: warning: cpu: W4A16_CACHE not used: [^\n]*version 3[^\n]*\n\Z")
        self.assertIn("W4A16_CACHE not used: ", result.stdout)
        os.environ["W4A16_CACHE"] = str(self.folder / "not yet")  # nothing to warn of
        self.assertIn("not yet", self.succeed("info"))


class Cache(TuningTest):
    def test_show_merge_export(self):
        self.tune("-m", "1,5")
        other = self.folder / "other.json"
        self.succeed("tune", *SHAPE, "-m", "5,9", "--asymmetric", "--dtype", "bf16", "--cache", other)
        both = self.folder / "both.json"
        report = self.succeed_json("cache", both, "--merge", self.path, "--merge", other)
        self.assertEqual([(row["zero_points"], row["m"]) for row in report["results"]],
                         [("symmetric", 1), ("symmetric", 5), ("integer", 5), ("integer", 9)])
        for row in report["results"]:
            self.assertRegex(row["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
            self.assertEqual((row["processors"], row["n"], row["k"], row["group_size"]), (1, 64, 256, 128))
        text = self.succeed("cache", both, "--csv", self.folder / "both.csv")
        self.assertIn("\n4 results\n", text)
        self.assertIn("integer bf16 fp16", text)
        with open(self.folder / "both.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.assertEqual([(row["m"], row["config"]) for row in rows],
                         [(str(row["m"]), row["config"]) for row in report["results"]])
        self.refuse(1, "cache", both, "--csv", self.folder / "both.csv", says=("both.csv", "--force"))
        self.refuse(1, "cache", self.folder / "none", says="none")
        self.refuse(2, "cache", says="FILE is missing")
        self.path.write_text("[]")
        self.refuse(1, "cache", both, "--merge", self.path, says=("no cache", self.path))


class Explain(TuningTest):
    def test_configs(self):
        text = self.succeed("configs", *SHAPE, "-m", "5", "--explain", "--instruction-set", "reference")
        self.assertRegex(text, r"M 5\.\.5: cpu_reference, \d+ threads? \(the cost model: no measured time for this problem\)")
        self.assertRegex(text, r"\n  \*   1  cpu_reference +[\d.]+ us predicted\n")
        self.assertRegex(text, r"\n  cannot run: needs AVX2[^\n]*: cpu_avx2_m1n16, ")
        listed = [config for config in self.configs(5) if config["feasible"]]
        self.assertEqual(sorted(config["rank"] for config in listed), list(range(1, len(listed) + 1)))
        report = self.succeed_json("configs", *SHAPE, "-m", "5", "--explain", "--instruction-set", "reference")
        self.assertEqual(report["explanation"], text)
        self.refuse(2, "configs", "--explain", says="--explain needs a multiplication")

    def test_bench(self):
        arguments = ["-n", "64", "-k", "256", "-m", "5", "--seconds", "0", "--device", "cpu"]
        text = self.succeed("bench", *arguments, "--explain", "--cost-model")
        self.assertIn("(the cost model alone, as asked)", text)
        self.assertIn("measured ceilings", text)
        report = self.succeed_json("bench", *arguments, "--explain")
        self.assertEqual(len(report["explanations"]), 1)
        self.assertIn("M 5..5: cpu_", report["explanations"][0])
        text = self.succeed("bench", *arguments, "--profile")
        self.assertRegex(text, r" RANK\n")
        report = self.succeed_json("bench", *arguments, "--profile")
        ranks = [row["rank"] for row in report["results"]]
        self.assertEqual(sorted(ranks), list(range(1, len(ranks) + 1)))
        self.assertEqual([row["rank"] for row in report["results"] if row["chosen"]], [1])

    def test_gemm(self):
        import numpy
        from safetensors.numpy import save_file

        save_file({"fc.weight": numpy.ones((32, 64), numpy.float32)}, self.folder / "in.safetensors")
        save_file({"input": numpy.ones((3, 64), numpy.float16)}, self.folder / "a.safetensors")
        self.succeed("quantize", self.folder / "in.safetensors", "-o", self.folder / "q.safetensors")
        text = self.succeed("gemm", "-w", self.folder / "q.safetensors", "-t", "fc", "-i", self.folder / "a.safetensors",
                            "-o", self.folder / "c.safetensors", "--explain", "--device", "cpu")
        self.assertRegex(text, r"\Aoutput \[3, 32\][^\n]*\n\ncpu \(")
        self.assertRegex(text, r"\nM 3\.\.3: cpu_\w+, \d+ threads? \(the cost model")


if __name__ == "__main__":
    unittest.main()
