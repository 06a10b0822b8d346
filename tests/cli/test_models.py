# SPDX-License-Identifier: Apache-2.0
"""A model's way through quantize, inspect, verify, dequantize, convert and gemm, against numpy."""

import json
import os
import subprocess
import unittest

import numpy
from safetensors.numpy import load_file, save_file

from support import DECODERS, LAYERS, CommandTest, from_bf16, load_tensors, make_model, relative_error, run, to_bf16

FORMATS = ["compressed-tensors", "gptq", "awq"]
Q_PROJ = "model.layers.0.self_attn.q_proj"


class Models(CommandTest):
    def setUp(self):
        super().setUp()
        self.model = self.folder / "model"
        self.weights = make_model(self.model)

    def quantize(self, name, *options):
        """Quantise the model into the folder `name`."""
        output = self.folder / name
        return output, self.succeed_json("quantize", self.model, "-o", output, *options)

    def decode(self, path, kind):
        """The weights by the numpy decoders."""
        tensors = load_tensors(path)
        return {name: DECODERS[kind](tensors, name) for name in LAYERS}

    def dequantize(self, path, *options):
        output = self.folder / "decoded.safetensors"
        self.succeed("dequantize", path, "-o", output, "--force", *options)
        return load_file(output)

    def check_dequantize(self, path, decoded):
        """The command's decoding is the numpy decoders', bit for bit: 5 bits times the 11 of fp16 fit fp32."""
        tensors = self.dequantize(path)
        self.assertEqual(sorted(tensors), sorted(f"{name}.weight" for name in LAYERS))
        for name, w in decoded.items():
            self.assertEqual(tensors[f"{name}.weight"].dtype, numpy.float32)
            numpy.testing.assert_array_equal(tensors[f"{name}.weight"].astype(numpy.float64), w, name)

    def check_inspect(self, path, kind, group_size, asymmetric):
        report = self.succeed_json("inspect", path)
        self.assertEqual({m["name"]: (m["n"], m["k"]) for m in report["modules"]}, LAYERS)
        for module in report["modules"]:
            self.assertEqual(module["format"], kind)
            self.assertEqual(module["group_size"], module["k"] if group_size == -1 else group_size)
            self.assertEqual(module["zero_points"], "integer" if asymmetric else "symmetric")
            self.assertTrue(module["supported"], module["reason"])
            self.assertFalse(module["act_order"])
        self.assertEqual(report["totals"]["modules"], len(LAYERS))
        self.assertEqual(report["totals"]["parameters"], sum(n * k for n, k in LAYERS.values()))
        text = self.succeed("inspect", path)
        for name in LAYERS:
            self.assertRegex(text, rf"(?m)^{name} +{kind} ")
        self.assertIn("3 quantised layers, 3 of them supported", text)

    def check_verify(self, path):
        report = self.succeed_json("verify", path, "-m", "1,5")
        self.assertTrue(report["pass"])
        self.assertEqual(len(report["runs"]), 2 * len(LAYERS))
        for entry in report["runs"]:
            self.assertTrue(0 < entry["relative_error"] < 2e-3, entry)

    def test_all_formats(self):
        for kind in FORMATS:
            for asymmetric, group_size in ((False, 128), (True, 32), (True, -1)):
                with self.subTest(kind=kind, asymmetric=asymmetric, group_size=group_size):
                    options = ["--format", kind, "--group-size", group_size] + ["--asymmetric"] * asymmetric
                    path, report = self.quantize(f"{kind}-{asymmetric}-{group_size}", *options)
                    decoded = self.decode(path, kind)
                    self.check_sqnr(report, decoded)
                    self.check_carried_over(path)
                    # AWQ and asymmetric GPTQ always hold zero points: symmetric is integer 8 there.
                    zeros = {m["zero_points"] for m in self.succeed_json("inspect", path)["modules"]}
                    self.check_inspect(path, kind, group_size, zeros == {"integer"})
                    self.assertIn("integer" if asymmetric else zeros.pop(), ("integer", "symmetric"))
                    self.check_dequantize(path, decoded)
                    self.check_verify(path)

    def check_sqnr(self, report, decoded):
        """The reported signal to noise ratios are those of the weights that numpy decodes."""
        signal = noise = 0
        self.assertEqual(sorted(layer["name"] for layer in report["layers"]), sorted(LAYERS))
        for layer in report["layers"]:
            w, error = self.weights[layer["name"]], self.weights[layer["name"]] - decoded[layer["name"]]
            signal, noise = signal + (w**2).sum(), noise + (error**2).sum()
            self.assertAlmostEqual(layer["sqnr_db"], 10 * numpy.log10((w**2).sum() / (error**2).sum()), places=3)
            self.assertGreater(layer["sqnr_db"], 10)
        self.assertAlmostEqual(report["sqnr_db"], 10 * numpy.log10(signal / noise), places=3)
        self.assertLess(report["output_bytes"], report["input_bytes"])

    def check_carried_over(self, path):
        config = json.loads((path / "config.json").read_text())
        self.assertEqual((config["model_type"], config["hidden_size"]), ("llama", 256))
        self.assertIn("quant_method", config["quantization_config"])
        self.assertEqual((path / "tokenizer.json").read_text(), "{}")
        before, after = load_file(self.model / "model-00001-of-00002.safetensors"), load_tensors(path)
        for name in ("model.embed_tokens.weight", "model.norm.weight", f"{Q_PROJ}.bias"):
            self.assertEqual(before[name].dtype, after[name].dtype)
            numpy.testing.assert_array_equal(before[name], after[name])
        for name in LAYERS:
            self.assertNotIn(f"{name}.weight", after)

    def test_table_of_quantize(self):
        text = self.succeed("quantize", self.model, "-o", self.folder / "q")
        for name, (n, k) in LAYERS.items():
            self.assertRegex(text, rf"(?m)^{name} +{n} +{k} +\d+\.\d\d$")
        self.assertRegex(text, r"3 layers quantised to compressed-tensors, \d+ tensors copied, in [\d.]+ m?s\n")
        self.assertRegex(text, r"SQNR over all of them \d+\.\d\d dB\n")

    def test_methods(self):
        """The search beats rounding to nearest on every layer, symmetric or not."""
        for options in ([], ["--asymmetric"]):
            reports = [self.quantize(f"{method}{len(options)}", "--method", method, *options)[1]
                       for method in ("mse", "rtn")]
            for mse, rtn in zip(reports[0]["layers"], reports[1]["layers"]):
                self.assertGreater(mse["sqnr_db"], rtn["sqnr_db"])

    def test_include_and_exclude(self):
        for number, (options, expected) in enumerate([
            (["--include", "*.q_proj"], [Q_PROJ]),
            (["--include", "*.q_proj", "--include", "*.mlp.*"], [Q_PROJ, "model.layers.0.mlp.down_proj"]),
            (["--exclude", "*.self_attn.*", "--exclude", "*embed*"], ["model.layers.0.mlp.down_proj"]),
        ]):
            path, report = self.quantize(f"part{number}", *options)
            self.assertEqual(sorted(layer["name"] for layer in report["layers"]), sorted(expected))
            self.assertEqual(sorted(m["name"] for m in self.succeed_json("inspect", path)["modules"]), sorted(expected))

    def test_threads_and_reruns_change_nothing(self):
        one, _ = self.quantize("one", "--threads", "1")
        two, _ = self.quantize("two", "--threads", "2")
        for name in sorted(p.name for p in one.iterdir()):
            self.assertEqual((one / name).read_bytes(), (two / name).read_bytes(), name)

    def test_scale_dtypes(self):
        for dtype in ("fp32", "bf16"):
            path, _ = self.quantize(dtype, "--scale-dtype", dtype)
            self.assertEqual({m["scale_dtype"] for m in self.succeed_json("inspect", path)["modules"]}, {dtype})
            self.check_verify(path)

    def test_single_file_and_names(self):
        """A file gives a file; --tensor takes a layer's or a tensor's name; 16-bit output is the rounded fp32."""
        w = self.weights[Q_PROJ].astype(numpy.float32)
        save_file({"fc.weight": w, "other.weight": w[:, :128].copy()}, self.folder / "in.safetensors")
        output = self.folder / "q.safetensors"
        self.succeed("quantize", self.folder / "in.safetensors", "-o", output)
        self.assertTrue(output.is_file())
        whole = self.dequantize(output)
        self.assertEqual(sorted(whole), ["fc.weight", "other.weight"])
        for name in ("fc", "fc.weight", "fc.weight_packed"):
            self.assertEqual(list(self.dequantize(output, "--tensor", name)), ["fc.weight"])
        both = self.dequantize(output, "-t", "other", "-t", "fc", "-t", "fc")
        self.assertEqual(sorted(both), ["fc.weight", "other.weight"])
        half = self.dequantize(output, "--dtype", "fp16")["fc.weight"]
        numpy.testing.assert_array_equal(half, whole["fc.weight"].astype(numpy.float16))
        self.succeed("dequantize", output, "-o", self.folder / "b.safetensors", "--dtype", "bf16")
        raw = (self.folder / "b.safetensors").read_bytes()
        header = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])
        start, end = header["fc.weight"]["data_offsets"]
        data = raw[8 + int.from_bytes(raw[:8], "little"):][start:end]
        numpy.testing.assert_array_equal(numpy.frombuffer(data, numpy.uint16), to_bf16(whole["fc.weight"]).ravel())
        self.assertEqual(header["fc.weight"]["dtype"], "BF16")

    def test_round_trips(self):
        for options in ([], ["--asymmetric", "--group-size", "64"]):
            start, _ = self.quantize(f"start{len(options)}", *options)
            expected = self.decode(start, "compressed-tensors")
            here = start
            for step, kind in enumerate(["gptq", "awq", "compressed-tensors", "awq", "gptq", "compressed-tensors"]):
                there = self.folder / f"step{len(options)}{step}"
                report = self.succeed_json("convert", here, "-o", there, "--format", kind)
                self.assertEqual((report["format"], len(report["layers"])), (kind, len(LAYERS)))
                for name, w in self.decode(there, kind).items():
                    numpy.testing.assert_array_equal(w, expected[name], f"{kind} {name}")
                self.check_carried_over(there)
                self.check_dequantize(there, expected)
                here = there
            self.check_verify(here)
        text = self.succeed("convert", start, "-o", self.folder / "last", "--format", "awq")
        self.assertIn("3 layers converted to awq", text)

    def test_unquantised(self):
        text = self.succeed("inspect", self.model)
        self.assertEqual(text, f"{self.model} holds no quantised layers\n")
        report = self.succeed_json("inspect", self.model)
        self.assertEqual((report["modules"], report["totals"]["modules"]), ([], 0))
        for name, arguments in [("verify", []), ("dequantize", ["-o", self.folder / "o.safetensors"])]:
            self.refuse(1, name, self.model, *arguments, says=(self.model, "no quantised layers"))

    def test_force(self):
        output = self.folder / "q"
        self.succeed("quantize", self.model, "-o", output)
        before = self.succeed_json("inspect", output)
        self.refuse(1, "quantize", self.model, "-o", output, "--format", "awq", says=(output, "exists", "--force"))
        self.assertEqual(self.succeed_json("inspect", output), before)
        self.succeed("quantize", self.model, "-o", output, "--format", "awq", "--force")
        self.assertEqual({m["format"] for m in self.succeed_json("inspect", output)["modules"]}, {"awq"})


class Gemm(CommandTest):
    def setUp(self):
        super().setUp()
        self.model = self.folder / "model"
        make_model(self.model)
        self.awq = self.folder / "awq"
        self.succeed("quantize", self.model, "-o", self.awq, "--format", "awq", "--asymmetric")
        self.w = DECODERS["awq"](load_tensors(self.awq), Q_PROJ)
        self.input, self.output = self.folder / "a.safetensors", self.folder / "c.safetensors"
        generator = numpy.random.default_rng(5)
        self.a = generator.standard_normal((7, self.w.shape[1]))

    def gemm(self, *options):
        return self.succeed("gemm", "--weight", self.awq, "--tensor", Q_PROJ, "--input", self.input, "-o", self.output,
                            "--force", *options)

    def test_input_dtypes(self):
        for dtype in (numpy.float16, numpy.float32, numpy.float64):
            a = self.a.astype(dtype)
            save_file({"input": a}, self.input)
            text = self.gemm()
            self.assertRegex(text, r"\Aoutput \[7, 64\] fp16 written to .+: M=7 N=64 K=256, config \w+ on cpu, ")
            tensors = load_file(self.output)
            self.assertEqual(list(tensors), ["output"])
            self.assertEqual((tensors["output"].shape, tensors["output"].dtype), ((7, 64), numpy.float16))
            expected = a.astype(numpy.float16).astype(numpy.float64) @ self.w.T
            self.assertLess(relative_error(tensors["output"].astype(numpy.float64), expected), 2e-3)

    def test_bf16(self):
        save_file({"input": self.a.astype(numpy.float32)}, self.input)
        self.gemm("--dtype", "bf16")
        raw = self.output.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        self.assertEqual((header["output"]["dtype"], header["output"]["shape"]), ("BF16", [7, 64]))
        result = from_bf16(numpy.frombuffer(raw[start:], numpy.uint16)).reshape(7, 64).astype(numpy.float64)
        expected = from_bf16(to_bf16(self.a)).astype(numpy.float64) @ self.w.T
        self.assertLess(relative_error(result, expected), 2e-3)

    def test_every_config(self):
        save_file({"input": self.a.astype(numpy.float16)}, self.input)
        expected = self.a.astype(numpy.float16).astype(numpy.float64) @ self.w.T
        report = self.succeed_json("configs", "-m", 7, "-n", 64, "-k", 256, "--asymmetric")
        feasible = [config["name"] for config in report["configs"] if config["feasible"]]
        self.assertIn("cpu_reference", feasible)
        for name in feasible:
            self.assertIn(f"config {name} on", self.gemm("--config", name))
            self.assertLess(relative_error(load_file(self.output)["output"].astype(numpy.float64), expected), 2e-3)
        for config in report["configs"]:
            if not config["feasible"]:
                self.output.unlink(missing_ok=True)
                self.refuse(1, "gemm", "-w", self.awq, "-t", Q_PROJ, "-i", self.input, "-o", self.output, "--config",
                            config["name"], says=config["name"])

    def test_reference_and_threads_agree(self):
        save_file({"input": self.a.astype(numpy.float16)}, self.input)
        expected = self.a.astype(numpy.float16).astype(numpy.float64) @ self.w.T
        for options in (["--instruction-set", "reference"], ["--threads", "1"], ["--device", "cpu"]):
            self.gemm(*options)
            self.assertLess(relative_error(load_file(self.output)["output"].astype(numpy.float64), expected), 2e-3)

    def test_overflow_is_told(self):
        self.a[0, 0] = 1e6
        save_file({"input": self.a}, self.input)
        result = run("gemm", "-w", self.awq, "-t", Q_PROJ, "-i", self.input, "-o", self.output)
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stderr, "w4a16 gemm: warning: 1 elements of 'input' are Inf or NaN as fp16\n")

    def test_refusals(self):
        base = ["--weight", self.awq, "--tensor", Q_PROJ, "--input", self.input, "-o", self.output]
        self.refuse(1, "gemm", *base, says=self.input)  # no such file
        for tensors, says in [
            ({"inputs": self.a.astype(numpy.float16)}, "'input'"),
            ({"input": self.a[:, :-1].astype(numpy.float16).copy()}, ("[7, 255]", "[M, 256]")),
            ({"input": self.a[0].astype(numpy.float16)}, "1 dimensions"),
            ({"input": self.a[:0].astype(numpy.float16)}, "[0, 256]"),
            ({"input": self.a.astype(numpy.int32)}, "int32"),
        ]:
            save_file(tensors, self.input)
            self.refuse(1, "gemm", *base, says=says)
        save_file({"input": self.a.astype(numpy.float16)}, self.input)
        self.refuse(1, "gemm", *base, "--config", "no_such_config", says="no_such_config")
        self.refuse(1, "gemm", *base, "--device", "cuda:9", says="cuda:9")
        self.refuse(1, "gemm", "-w", self.awq, "-t", "no.such.layer", "-i", self.input, "-o", self.output,
                    says="no.such.layer")
        self.refuse(1, "gemm", "-w", self.folder / "none", "-t", "x", "-i", self.input, "-o", self.output,
                    says=self.folder / "none")
        self.output.write_text("mine")
        self.refuse(1, "gemm", *base, says=("exists", self.output))
        self.assertEqual(self.output.read_text(), "mine")

    def test_example_in_c(self):
        """examples/awq_gemm.c multiplies ones: its first output is the sum of the first row."""
        program = os.path.join(os.environ["W4A16_BUILD"], "tests", "examples", "awq_gemm")
        result = subprocess.run([program, self.awq, Q_PROJ], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        head, value = result.stdout.strip().split("=")[:-1], float(result.stdout.strip().split("=")[-1])
        self.assertEqual(head[:2], [f"{Q_PROJ}: N", "64 K"])
        self.assertLess(abs(value - self.w[0].sum()), 2e-3 * numpy.abs(self.w[0]).sum())
        result = subprocess.run([program, self.awq, "nothing"], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("nothing", result.stderr)


class Verify(CommandTest):
    def setUp(self):
        super().setUp()
        make_model(self.folder / "model")
        self.path = self.folder / "q"
        self.succeed("quantize", self.folder / "model", "-o", self.path, "--group-size", "32", "--asymmetric")

    def test_table(self):
        text = self.succeed("verify", self.path)
        for name, (n, k) in LAYERS.items():
            self.assertRegex(text, rf"(?m)^{name} +{n} +{k} +2 +[\d.e-]+ +[\d.e-]+ +(1|33) +\w+ +pass$")
        self.assertRegex(text, r"\n3 layers, 6 multiplications on cpu \(.+\): worst relative error .+, limit 2e-03; pass\n")

    def test_every_config(self):
        report = self.succeed_json("verify", self.path, "--config", "all", "-m", "1,3,16,33")
        configs = {entry["config"] for entry in report["runs"]}
        problem = self.succeed_json("configs", "-m", 33, "-n", 64, "-k", 256, "-g", 32, "--asymmetric")
        feasible = {config["name"] for config in problem["configs"] if config["feasible"]}
        self.assertLessEqual(feasible, configs)
        for name in feasible:
            runs = self.succeed_json("verify", self.path, "--config", name, "-m", "4", "-t", Q_PROJ)["runs"]
            self.assertEqual([(entry["name"], entry["config"]) for entry in runs], [(Q_PROJ, name)])

    def test_bf16(self):
        report = self.succeed_json("verify", self.path, "--dtype", "bf16", "--config", "all", "-m", "1,33")
        for entry in report["runs"]:
            self.assertTrue(0 < entry["relative_error"] < max(2e-3, 1.1 * entry["rounding_error"]), entry)
            self.assertTrue(0 < entry["rounding_error"] < 2.0**-8, entry)

    def test_few_bf16_outputs(self):
        """Where rounding the exact result alone costs more than 2e-3, that is not held against the kernels."""
        w = numpy.random.default_rng(8).standard_normal((400, 64)).astype(numpy.float32)
        save_file({f"l{i:03}.weight": w[i:i + 1] for i in range(400)}, self.folder / "rows.safetensors")
        path = self.folder / "rows-q.safetensors"
        self.succeed("quantize", self.folder / "rows.safetensors", "-o", path, "--group-size", "32")
        report = self.succeed_json("verify", path, "--dtype", "bf16", "-m", "1")
        self.assertTrue(report["pass"])
        self.assertGreater(report["worst_relative_error"], 2e-3)

    def test_same_numbers_twice(self):
        self.assertEqual(self.succeed("verify", self.path), self.succeed("verify", self.path))

    def test_extreme_scales(self):
        """Weights so large or small that outputs leave fp16's range are still checked, through alpha."""
        w = numpy.random.default_rng(3).standard_normal((64, 256))
        for factor in (1e-6, 3e3):
            path = self.folder / f"{factor}.safetensors"
            save_file({"fc.weight": (w * factor).astype(numpy.float32)}, path)
            quantized = self.folder / f"{factor}-q.safetensors"
            self.succeed("quantize", path, "-o", quantized, "--scale-dtype", "fp32")
            self.assertTrue(self.succeed_json("verify", quantized)["pass"])

    def test_refusals(self):
        self.refuse(1, "verify", self.path, "--tensor", "no.such.layer", says="no.such.layer")
        self.refuse(1, "verify", self.path, "--config", "no_such_config", says=("no_such_config", "w4a16 configs"))
        self.refuse(1, "verify", self.path, "--device", "cuda:9", says="cuda:9")


if __name__ == "__main__":
    unittest.main()
