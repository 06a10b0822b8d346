# SPDX-License-Identifier: Apache-2.0
"""info, configs and bench: what they print is what they say elsewhere, and adds up."""

import csv
import unittest

from support import CommandTest

SIZE = ["-n", "256", "-k", "512", "--seconds", "0.01"]


class Info(CommandTest):
    def test_report(self):
        report = self.succeed_json("info")
        text = self.succeed("info")
        self.assertIn(f"w4a16 {report['version']}", text)
        self.assertEqual(f"w4a16 {report['version']}\n", self.succeed("--version"))
        self.assertEqual([device["id"] for device in report["devices"] if device["id"] == "cpu"], ["cpu"])
        automatic = [device for device in report["devices"] if device["automatic"]]
        self.assertEqual([device["id"] for device in automatic], [report["automatic"]])
        self.assertTrue(automatic[0]["usable"])
        self.assertIn(f"auto picks {report['automatic']}: ", text)
        for device in report["devices"]:
            self.assertIn(device["name"], text)
            self.assertIn(device["architecture"], text)
        if not report["gpu_kernels"]:
            self.assertIn("holds no GPU kernels", text)
        self.assertGreaterEqual(report["threads"], 1)


class Configs(CommandTest):
    def test_lists(self):
        plain, asked = self.succeed_json("configs"), self.succeed_json("configs", "-m", 4, "-n", 96, "-k", 160)
        self.assertEqual([c["name"] for c in plain["configs"]], [c["name"] for c in asked["configs"]])
        self.assertEqual(len({c["name"] for c in plain["configs"]}), len(plain["configs"]))
        text = self.succeed("configs", "-m", 4, "-n", 96, "-k", 160)
        for config in asked["configs"]:
            self.assertEqual(config["feasible"], config["reason"] == "")
            self.assertEqual(config["feasible"], config["predicted_seconds"] is not None)
            self.assertRegex(text, rf"(?m)^{config['name']}( \*)? +{config['tile_m']} +{config['tile_n']} +"
                                   rf"{config['tile_k']} +{'yes' if config['feasible'] else 'no'} ")

    def test_threads(self):
        """A context's own number is the most; configs with fewer say so in their names."""
        for threads in (1, 2, 5):
            report = self.succeed_json("configs", "-d", "cpu", "--threads", threads, "-m", 4, "-n", 96, "-k", 160)
            for config in report["configs"]:
                kernel, _, number = config["name"].partition("_t")
                self.assertEqual(config["threads"], int(number or threads))
                self.assertLess(int(number or 0), threads)
                self.assertIn(kernel, [c["name"] for c in report["configs"]])
            row, = self.succeed_json("bench", "-d", "cpu", "--threads", threads, "-m", 4, *SIZE, "--config", "cpu_reference")["results"]
            self.assertEqual(row["threads"], threads)

    def test_instruction_set_limits(self):
        report = self.succeed_json("configs", "--instruction-set", "reference", "-m", 1, "-n", 8, "-k", 32, "-g", 32)
        self.assertEqual([c["name"] for c in report["configs"] if c["feasible"]], ["cpu_reference"])


class Bench(CommandTest):
    def check_rows(self, report, rows):
        """Every figure follows from the time, the problem and the ceilings."""
        for row in rows:
            m, n, k, group = row["m"], report["n"], report["k"], report["group_size"]
            groups = 1 if group == -1 else -(-k // group)
            moved = n * k / 2 + n * groups * (2 + (report["zero_points"] == "integer")) + 2 * m * k + 2 * m * n
            flop = 2 * m * n * k
            self.assertGreater(row["seconds"], 0)
            self.assertAlmostEqual(row["flop_per_second"] * row["seconds"] / flop, 1, places=6)
            self.assertAlmostEqual(row["bytes_per_second"] * row["seconds"] / moved, 1, places=6)
            floors = {"memory": moved / report["ceilings"]["read_bytes_per_second"],
                      "arithmetic": flop / report["ceilings"]["flop_per_second"]}
            self.assertEqual(row["limit"], max(floors, key=floors.get))
            self.assertAlmostEqual(row["share_of_ceiling"] * row["seconds"] / max(floors.values()), 1, places=6)
            self.assertTrue(0 < row["relative_error"] < 2e-3)
            self.assertGreaterEqual(row["runs"], 1)

    def test_json(self):
        for options in ([], ["--asymmetric", "--group-size", "-1", "--dtype", "bf16"], ["--scale-dtype", "bf16"]):
            report = self.succeed_json("bench", "-m", "1,3,40", *SIZE, *options)
            self.assertEqual([row["m"] for row in report["results"]], [1, 3, 40])
            self.assertTrue(all(row["chosen"] for row in report["results"]))
            self.check_rows(report, report["results"])

    def test_table(self):
        text = self.succeed("bench", "-m", "2,16", *SIZE)
        self.assertIn("N=256 K=512 group 128 symmetric fp16 on cpu", text)
        self.assertRegex(text, r"measured ceilings: [\d.]+ GB/s read, [\d.]+ GFLOP/s\n")
        for m in (2, 16):
            self.assertRegex(text, rf"(?m)^ *{m}  \w+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ %  (memory|arithmetic) +[\d.e-]+ +\d+$")

    def test_named_config(self):
        report = self.succeed_json("bench", "-m", "5", *SIZE, "--config", "cpu_reference")
        self.assertEqual([(row["config"], row["chosen"]) for row in report["results"]], [("cpu_reference", False)])
        self.refuse(1, "bench", "-m", "5", *SIZE, "--config", "no_such_config", says="no_such_config")

    def test_no_overlap(self):
        for options, overlap in (((), True), (("--no-overlap",), False)):
            report = self.succeed_json("bench", "-m", "2", *SIZE, *options)
            self.assertIs(report["overlap"], overlap)
            text = self.succeed("bench", "-m", "2", *SIZE, *options)
            self.assertEqual("no overlap of calls" in text, not overlap)

    def test_batch_invariant(self):
        for options, invariant in (((), False), (("--batch-invariant",), True)):
            report = self.succeed_json("bench", "-m", "2", *SIZE, *options)
            self.assertIs(report["batch_invariant"], invariant)
            text = self.succeed("bench", "-m", "2", *SIZE, *options)
            self.assertEqual(", batch-invariant" in text, invariant)

    def test_profile(self):
        report = self.succeed_json("bench", "-m", "1,7", *SIZE, "--profile")
        for m in (1, 7):
            rows = [row for row in report["results"] if row["m"] == m]
            listed = self.succeed_json("configs", "-m", m, "-n", 256, "-k", 512)["configs"]
            self.assertEqual(sorted(row["config"] for row in rows), sorted(c["name"] for c in listed if c["feasible"]))
            self.assertEqual([row["seconds"] for row in rows], sorted(row["seconds"] for row in rows))
            self.assertEqual(sum(row["chosen"] for row in rows), 1)
            self.check_rows(report, rows)
        text = self.succeed("bench", "-m", "7", *SIZE, "--profile")
        self.assertEqual(text.count(" * "), 1)
        self.assertIn("* the config that the library chooses", text)

    def test_csv(self):
        path = self.folder / "results.csv"
        text = self.succeed("bench", "-m", "1,4", *SIZE, "--profile", "--csv", path)
        self.assertIn("measured ceilings", text)
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.assertEqual({row["m"] for row in rows}, {"1", "4"})
        for row in rows:
            self.assertEqual((row["device"], row["n"], row["k"], row["group_size"]), ("cpu", "256", "512", "128"))
            flop = 2 * int(row["m"]) * 256 * 512
            self.assertLess(abs(float(row["gflops"]) * float(row["microseconds"]) * 1e3 / flop - 1), 1e-4)
        self.assertEqual(sum(int(row["chosen"]) for row in rows), 2)
        before = path.read_bytes()
        self.refuse(1, "bench", "-m", "1", *SIZE, "--csv", path, says=(path, "exists", "--force"))
        self.assertEqual(path.read_bytes(), before)
        self.succeed("bench", "-m", "1", *SIZE, "--csv", path, "--force")
        self.assertEqual(len(path.read_text().splitlines()), 2)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["results.csv"])

    def test_failed_bench_leaves_no_csv(self):
        self.refuse(1, "bench", "-m", "1", *SIZE, "--config", "none", "--csv", self.folder / "r.csv", says="none")


if __name__ == "__main__":
    unittest.main()
