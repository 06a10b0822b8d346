#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The steps of `make run`: quantise a model folder, verify it, multiply one of its layers, time the kernels; one screen.

Everything is done by the `w4a16` command; this script runs it, reads its JSON, and computes one thing of its own: the
fp32 layer's output, in double precision, to compare with. Needs no package.
"""
import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import time

import run_tensors

SENTENCE = (
    "A small library multiplies activations by weights of four bits, and the meaning of this sentence should survive."
)
GROUP_SIZE = 128
# Wide enough that weights come from memory, not from a cache; M = 1 meets the memory's limit, M = 512 the arithmetic's.
BENCH = ["-m", "1,16,512", "-n", "4096", "-k", "4096", "--seconds", "0.5"]


class Job:
    def __init__(self, arguments):
        self.command = str(arguments.command)
        self.model = arguments.model
        self.name = arguments.name
        self.work = arguments.work
        self.started = time.monotonic()

    def w4a16(self, *arguments):
        """Run the command; its error line, if any, is the user's to see."""
        arguments = [str(argument) for argument in arguments]
        result = subprocess.run([self.command, *arguments], stdout=subprocess.PIPE, text=True, check=False)
        if result.returncode:
            sys.exit(f"run: `w4a16 {' '.join(arguments)}` failed with exit code {result.returncode}")
        return result.stdout

    def json(self, *arguments):
        return json.loads(self.w4a16(*arguments, "--json"))

    def show(self, title, text):
        print(f"{title:<10} {text}", flush=True)

    def device(self):
        info = self.json("info")
        device = next(entry for entry in info["devices"] if entry["id"] == info["automatic"])
        self.show("device", f"{device['id']}: {device['name']}, {device['architecture']}")
        self.show("", f"{info['threads']} CPU threads; {device['reason']}")

    def quantize(self):
        """rtn and mse, to compare; mse stays for the steps that follow."""
        results = {}
        for method in ("rtn", "mse"):
            results[method] = self.json(
                "quantize", self.model, "-o", self.work / method, "--method", method, "--group-size", GROUP_SIZE
            )
        mse, rtn = results["mse"], results["rtn"]
        weights = sum(layer["n"] * layer["k"] for layer in mse["layers"])
        self.show("model", f"{self.name}: {weights / 1e6:.1f} M weights in {len(mse['layers'])} linear layers")
        self.show(
            "quantise",
            f"group {GROUP_SIZE}, symmetric; {mse['input_bytes'] / 1e6:.1f} MB -> {mse['output_bytes'] / 1e6:.1f} MB"
            f" with {mse['copied_tensors']} tensors left as they are",
        )
        self.show("  rtn", f"SQNR {rtn['sqnr_db']:.2f} dB, {rtn['seconds']:.2f} s   (round to nearest)")
        self.show("  mse", f"SQNR {mse['sqnr_db']:.2f} dB, {mse['seconds']:.2f} s   (search for the least squared error)")
        gain = mse["sqnr_db"] - rtn["sqnr_db"]
        self.show("", f"mse beats rtn by {gain:.2f} dB: {100 * (1 - 10 ** (-gain / 10)):.0f} % less noise")
        worst = min(mse["layers"], key=lambda layer: layer["sqnr_db"])
        best = max(mse["layers"], key=lambda layer: layer["sqnr_db"])
        self.show("", f"lowest {worst['sqnr_db']:.2f} dB {worst['name']}, highest {best['sqnr_db']:.2f} dB {best['name']}")
        if not gain > 0:
            sys.exit("run: mse should have beaten rtn")

    def verify(self):
        result = self.json("verify", self.work / "mse")
        layers, runs = len(result["layers"]), len(result["runs"])
        self.show(
            "verify",
            f"{layers} layers, {runs} multiplications against fp64: worst relative error"
            f" {result['worst_relative_error']:.1e}, limit {result['limit']:.0e}",
        )

    def multiply(self):
        """One layer on activations that this model really sees: 4 bits against the original in double precision."""
        if (self.model / "vocab.txt").exists():
            module, what = "encoder.layer.0.attention.self.query", "tokens of a sentence"
            activations = run_tensors.embed(self.model, SENTENCE)
        else:
            module, what = "model.layers.0.self_attn.q_proj", "rows of Gaussian activations"
            activations = run_tensors.gaussian_rows(24, 512, seed=2)
        m, k = len(activations), len(activations[0])
        source = self.work / "input.safetensors"
        run_tensors.write_tensors(source, {"input": ([m, k], [x for row in activations for x in row])})
        flat = run_tensors.read_tensor(source, "input")[1]  # as rounded to fp16
        activations = [flat[i : i + k] for i in range(0, m * k, k)]
        (n, _), weights = run_tensors.read_tensor(self.model / "model.safetensors", module + ".weight")
        exact = [x for row in run_tensors.multiply(activations, weights, k) for x in row]
        signal = math.fsum(x * x for x in exact)
        self.show("multiply", f"{module} [{n}, {k}] x {m} {what}, fp16")
        for method in ("rtn", "mse"):
            output = self.work / f"output-{method}.safetensors"
            self.w4a16("gemm", "--weight", self.work / method, "--tensor", module, "--input", source, "-o", output)
            values = run_tensors.read_tensor(output, "output")[1]
            noise = math.fsum((x - y) ** 2 for x, y in zip(values, exact))
            self.show(f"  {method}", f"output against the unquantised layer: relative error {math.sqrt(noise / signal):.4f}")
            if not noise < 0.1 * signal:
                sys.exit(f"run: the output of {module} is wrong")

    def bench(self):
        result = self.json("bench", *BENCH)
        limits = result["ceilings"]
        self.show(
            "speed",
            f"N={result['n']} K={result['k']}, group {result['group_size']}, cold weights, checked, on {result['device']}",
        )
        self.show(
            "  limits",
            f"{limits['read_bytes_per_second'] / 1e9:.1f} GB/s read,"
            f" {limits['flop_per_second'] / 1e9:.0f} GFLOP/s arithmetic (measured now)",
        )
        for row in result["results"]:
            if row["failure"]:
                sys.exit(f"run: M={row['m']}: {row['failure']}")
            self.show(
                f"  M={row['m']}",
                f"{row['seconds'] * 1e6:9.0f} us {row['flop_per_second'] / 1e9:7.1f} GFLOP/s"
                f" {row['bytes_per_second'] / 1e9:6.1f} GB/s  {100 * row['share_of_ceiling']:3.0f} % of the"
                f" {row['limit']} limit  {row['config']}",
            )

    def run(self):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        for step in (self.device, self.quantize, self.verify, self.multiply, self.bench):
            step()
        self.show("done", f"in {time.monotonic() - self.started:.1f} s; the 4-bit model is in {self.work / 'mse'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", type=pathlib.Path, required=True, help="the w4a16 command")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the model folder")
    parser.add_argument("--name", required=True, help="the model's name on the screen")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for results; emptied first")
    Job(parser.parse_args()).run()


if __name__ == "__main__":
    main()
