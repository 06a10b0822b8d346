# SPDX-License-Identifier: Apache-2.0
"""tools/gpu_costs.py and the library state the same cost model: predictions of the command on a simulated H200, against the
script's with the same constants; and the constants are those that the tables here give."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(os.environ["W4A16_SOURCE"])
sys.path.insert(0, str(SOURCE / "tools"))
sys.dont_write_bytecode = True

from gpu_costs import can_run, memory_floor, predict, read_constants, read_kernels, work_of

CONSTANTS = {gpu: SOURCE / f"src/backend/cuda/costs_{gpu}.def" for gpu in ("h200", "h100")}


class SameModel(unittest.TestCase):
    # Sizes that fill tiles, turns, waves and rings, and that do not; one with a row of 64 columns more than whole chunks.
    SHAPES = (1024, 4096), (2048, 2048), (7168, 2112), (4096, 11008), (12288, 4096), (28672, 4096), (152064, 3584), (8200, 8192)
    TOKENS = 1, 7, 12, 17, 33, 64, 100, 333, 1000, 3072

    def setUp(self):
        self.fake = pathlib.Path(os.environ["W4A16_BUILD"], "tests/cuda/fake")
        if not (self.fake / "libcuda.so.1").exists():
            self.skipTest("this build has no CUDA backend")
        self.rate, own = read_constants(CONSTANTS["h200"].read_text())
        self.constants = read_constants(CONSTANTS["h100"].read_text())[1] | own  # what one lacks is the other's
        self.kernels = read_kernels()

    def predictions(self, m, n, k):
        """Of the library, for the configs that were fitted and can run the problem."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.fake), "W4A16_FAKE_CUDA": "sm_90"}
        command = [os.environ["W4A16_COMMAND"], "configs", "--json", "--cost-model", "--device", "cuda:0", "-m", m, "-n", n,
                   "-k", k]
        result = subprocess.run(list(map(str, command)), text=True, capture_output=True, check=True, env=environment)
        return {config["name"]: config["predicted_seconds"] for config in json.loads(result.stdout)["configs"]
                if config["feasible"] and not config["rough"] and config["name"] in self.kernels}

    def test_predictions(self):
        compared = set()
        for n, k in self.SHAPES:
            for m in self.TOKENS:
                floor = memory_floor(m, n, k, self.rate)
                predictions = self.predictions(m, n, k)
                runnable = {name for name in self.constants if can_run(self.kernels[name], m, n, k)}
                self.assertEqual(set(predictions), runnable, f"{m} x {n} x {k}")
                for name, seconds in predictions.items():
                    compared.add(name)
                    work = work_of(self.kernels[name], m, n, k, self.rate)
                    expected = max(predict(self.constants[name], work), floor)
                    self.assertAlmostEqual(seconds / expected, 1, delta=1e-4, msg=f"{name}, {m} x {n} x {k}: {seconds}")
        self.assertEqual(compared, set(self.constants))


class SameConstants(unittest.TestCase):
    def test_the_constants_are_of_the_tables_here(self):
        """After new results, other configs or another model: the lines that tools/fit_gpu_costs.py prints."""
        if not importlib.util.find_spec("numpy"):
            self.skipTest("numpy is missing")
        for gpu, tables, beside in (("h200", "*h200-configs*.csv", ()),
                                    ("h100", "*h100-configs_2.csv", ("--beside", CONSTANTS["h200"]))):
            tables = sorted((SOURCE / "bench/results").glob(tables))
            script = [sys.executable, "-B", SOURCE / "tools/fit_gpu_costs.py", *beside, *tables]
            result = subprocess.run(script, text=True, capture_output=True, check=True)
            fitted = read_constants(result.stdout)
            shipped = read_constants(CONSTANTS[gpu].read_text())
            self.assertEqual(fitted[0], shipped[0], gpu)
            self.assertEqual(list(fitted[1]), list(shipped[1]), gpu)
            for name, constants in shipped[1].items():
                for now, before in zip(fitted[1][name], constants):
                    self.assertAlmostEqual(now, before, delta=1e-9 + 1e-3 * before, msg=f"{gpu}, {name}")


if __name__ == "__main__":
    unittest.main()
