# SPDX-License-Identifier: Apache-2.0
"""Files that are missing, damaged or cannot be written: exit code 1, one line that names them, nothing left behind."""

import json
import os
import resource
import shutil
import unittest

import numpy
from safetensors.numpy import load_file, save_file

from support import CommandTest, make_model, run, write_raw

Q_PROJ = "model.layers.0.self_attn.q_proj"


class Inputs(CommandTest):
    def readers(self, path):
        """Every subcommand that reads a checkpoint, as (name, arguments)."""
        output = self.folder / "out.safetensors"
        return [
            ("inspect", [path]),
            ("inspect", [path, "--json"]),
            ("verify", [path]),
            ("dequantize", [path, "-o", output]),
            ("quantize", [path, "-o", output]),
            ("convert", [path, "-o", output, "--format", "awq"]),
            ("gemm", ["--weight", path, "--tensor", "x", "--input", path, "-o", output]),
        ]

    def refused_by_all(self, path, says):
        for name, arguments in self.readers(path):
            with self.subTest(name=name, path=path.name):
                self.refuse(1, name, *arguments, says=says)

    def test_missing(self):
        self.refused_by_all(self.folder / "no-model", self.folder / "no-model")

    def test_empty_folder(self):
        (self.folder / "empty").mkdir()
        self.refused_by_all(self.folder / "empty", self.folder / "empty")

    def test_damaged_files(self):
        good = self.folder / "good.safetensors"
        save_file({"a.weight": numpy.ones((32, 64), dtype=numpy.float32)}, good)
        data = good.read_bytes()
        for name, content in {
            "empty": b"",
            "short": data[:5],
            "text": b"this is no tensor file, but long enough to hold a header length",
            "no-data": data[:-1],
            "surplus": data + b"\0",
            "endless-header": (1 << 62).to_bytes(8, "little") + data[8:],
            "no-json": data[:8] + b"[" + data[9:],
        }.items():
            path = self.folder / f"{name}.safetensors"
            path.write_bytes(content)
            self.refused_by_all(path, path)

    def test_missing_shard(self):
        make_model(self.folder / "model")
        (self.folder / "model" / "model-00002-of-00002.safetensors").unlink()
        self.refused_by_all(self.folder / "model", "model-00002-of-00002.safetensors")

    def test_control_characters_stay_out_of_the_terminal(self):
        path = self.folder / "bell.safetensors"
        write_raw(path, {"x\x1b[2J\x07.qweight": ("I32", (1, 8), bytes(32)),
                         "x\x1b[2J\x07.weight_packed": ("I32", (1, 8), bytes(32))})
        for name, arguments in self.readers(path):
            result = run(name, *arguments)
            self.assertNotIn("\x1b", result.stdout + result.stderr)
            self.assertNotIn("\x07", result.stdout + result.stderr)


class Contents(CommandTest):
    """Checkpoints that parse but whose content is wrong."""

    def setUp(self):
        super().setUp()
        make_model(self.folder / "model")
        self.good = self.folder / "good"
        self.succeed("quantize", self.folder / "model", "-o", self.good, "--format", "gptq")

    def damage(self, name, change):
        """A copy of the good checkpoint with `change` applied to the tensors of the file that holds q_proj."""
        path = self.folder / name
        shutil.copytree(self.good, path)
        for file in path.glob("*.safetensors"):
            tensors = load_file(file)
            if f"{Q_PROJ}.qweight" in tensors:
                change(tensors)
                save_file(tensors, file)
        return path

    def check(self, name, change, says=()):
        """One damaged layer: verify names it, dequantize writes nothing."""
        path = self.damage(name, change)
        result = run("verify", path)
        self.assertEqual(result.returncode, 1)
        self.assertIn(Q_PROJ, result.stderr)
        for text in says:
            self.assertIn(text, result.stderr)
        self.refuse(1, "dequantize", path, "-o", self.folder / "d.safetensors", says=Q_PROJ)
        return result

    def test_scale(self):
        for value in (numpy.nan, numpy.inf, 0):
            def change(tensors, value=value):
                tensors[f"{Q_PROJ}.scales"][1, 3] = value
            result = self.check(f"scale-{value}", change)
            self.assertRegex(result.stdout, rf"(?m)^{Q_PROJ} .*FAIL")
            self.assertEqual(result.stdout.count(" pass\n"), 2)

    def test_too_narrow(self):
        """Weights that fp16 cannot hold are refused, not written as Inf."""
        w = numpy.random.default_rng(0).standard_normal((32, 64)) * 1e6
        save_file({"fc.weight": w.astype(numpy.float32)}, self.folder / "w.safetensors")
        path, output = self.folder / "w-q.safetensors", self.folder / "d.safetensors"
        self.succeed("quantize", self.folder / "w.safetensors", "-o", path, "--scale-dtype", "fp32")
        self.refuse(1, "dequantize", path, "-o", output, "--dtype", "fp16", says=("fc", "fp16 is too narrow"))
        self.succeed("dequantize", path, "-o", output)

    def test_group_index(self):
        def change(tensors):
            tensors[f"{Q_PROJ}.g_idx"][5] = 1000
        self.check("g_idx", change)

    def test_shapes(self):
        def change(tensors):
            tensors[f"{Q_PROJ}.scales"] = tensors[f"{Q_PROJ}.scales"][:, :-8].copy()
        self.check("shape", change)

    def test_json_of_a_failure(self):
        def change(tensors):
            tensors[f"{Q_PROJ}.scales"][1, 3] = numpy.nan
        result = run("verify", self.damage("nan", change), "--json")
        self.assertEqual(result.returncode, 1)
        report = json.loads(result.stdout)
        self.assertEqual((report["pass"], report["failed"]), (False, 1))
        self.assertEqual([layer["name"] for layer in report["layers"] if not layer["pass"]], [Q_PROJ])

    def test_float_model(self):
        """quantize refuses NaN and Inf, naming the tensor."""
        for value in (numpy.nan, numpy.inf):
            w = numpy.ones((32, 64), dtype=numpy.float32)
            w[3, 5] = value
            path = self.folder / f"{value}.safetensors"
            save_file({"fc.weight": w}, path)
            self.refuse(1, "quantize", path, "-o", self.folder / "o.safetensors", says="fc")

    def test_unsupported_variant(self):
        """Listed by inspect with the reason; refused, naming the variant, by all that would have to read it."""
        path = self.folder / "gemv"
        self.succeed("quantize", self.folder / "model", "-o", path, "--format", "awq", "--include", "*q_proj")
        config = (path / "config.json").read_text()
        self.assertIn('"gemm"', config)
        (path / "config.json").write_text(config.replace('"gemm"', '"gemv"'))
        report = self.succeed_json("inspect", path)
        self.assertEqual([(m["name"], m["supported"]) for m in report["modules"]], [(Q_PROJ, False)])
        self.assertIn("gemv", report["modules"][0]["reason"])
        self.assertEqual(report["totals"]["supported"], 0)
        self.assertRegex(self.succeed("inspect", path), rf"Not supported:\n.*\n{Q_PROJ} +awq gemv +.*gemv")
        result = run("verify", path)
        self.assertEqual(result.returncode, 1)
        self.assertIn("gemv", result.stderr)
        output = self.folder / "o.safetensors"
        self.refuse(1, "dequantize", path, "-o", output, says=(Q_PROJ, "gemv"))
        self.refuse(1, "convert", path, "-o", self.folder / "o", "--format", "gptq", says=(Q_PROJ, "gemv"))
        save_file({"input": numpy.ones((1, 256), dtype=numpy.float16)}, self.folder / "a.safetensors")
        self.refuse(1, "gemm", "-w", path, "-t", Q_PROJ, "-i", self.folder / "a.safetensors", "-o", output,
                    says=(Q_PROJ, "gemv"))

    def test_convert_that_cannot_be(self):
        """AWQ holds fp16 scales and needs N to be a multiple of 8."""
        save_file({"odd.weight": numpy.random.default_rng(0).standard_normal((12, 64)).astype(numpy.float32)},
                  self.folder / "odd.safetensors")
        path = self.folder / "odd-q.safetensors"
        self.succeed("quantize", self.folder / "odd.safetensors", "-o", path, "--group-size", "32")
        self.refuse(1, "convert", path, "-o", self.folder / "awq.safetensors", "--format", "awq", says="odd")


class Outputs(CommandTest):
    def setUp(self):
        super().setUp()
        make_model(self.folder / "model")
        self.quantized = self.folder / "q"
        self.succeed("quantize", self.folder / "model", "-o", self.quantized)
        save_file({"input": numpy.ones((200, 256), dtype=numpy.float16)}, self.folder / "a.safetensors")

    def writers(self, output):
        """Every subcommand that writes, as (name, arguments)."""
        return [
            ("quantize", [self.folder / "model", "-o", output]),
            ("convert", [self.quantized, "-o", output, "--format", "gptq"]),
            ("dequantize", [self.quantized, "-o", output]),
            ("gemm", ["-w", self.quantized, "-t", Q_PROJ, "-i", self.folder / "a.safetensors", "-o", output]),
            ("bench", ["-m", 1, "-n", 8, "-k", 32, "-s", 0, "--csv", output]),
        ]

    def test_existing(self):
        output = self.folder / "mine"
        output.write_text("keep me")
        for name, arguments in self.writers(output):
            self.refuse(1, name, *arguments, says=(output, "exists", "--force"))
            self.assertEqual(output.read_text(), "keep me")

    def test_no_such_folder(self):
        for name, arguments in self.writers(self.folder / "nowhere" / "out"):
            self.refuse(1, name, *arguments, says="nowhere/out")

    def test_read_only(self):
        """/proc takes no file from anybody; a folder's permissions would not stop root."""
        for name, arguments in self.writers("/proc/w4a16-out"):
            self.refuse(1, name, *arguments, says="/proc/w4a16-out")

    def test_empty_name(self):
        for name, arguments in self.writers(""):
            self.refuse(1, name, *arguments, says="empty")

    def test_devices_are_left_alone(self):
        """Renaming a finished file over /dev/full would destroy it: refused, with --force too."""
        for name, arguments in self.writers("/dev/full"):
            for options in ([], ["--force"]):
                self.refuse(1, name, *arguments, *options, says="/dev/full")
        with open("/dev/full", "wb", buffering=0) as device, self.assertRaises(OSError):
            device.write(b"x")

    def test_full_disk(self):
        """A limit on the size of files stands for the full disk."""
        for name, arguments in self.writers(self.folder / "out"):
            if name == "bench":
                continue  # its CSV is small
            with self.subTest(name):
                before = sorted(self.folder.rglob("*"))
                result = run(name, *arguments,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertRegex(result.stderr, rf"\Aw4a16 {name}: [^\n]+\n\Z")
                self.assertEqual(sorted(self.folder.rglob("*")), before, "left a file behind")

    def test_closed_standard_output(self):
        """The table that cannot be printed must not land in an output file that got stdout's number."""
        for number, (name, arguments) in enumerate(self.writers("PLACE")):
            output = self.folder / f"out{number}"
            arguments = [output if argument == "PLACE" else argument for argument in arguments]
            result = run(name, *arguments, stdout=None, preexec_fn=lambda: os.close(1))
            self.assertEqual(result.returncode, 1)
            self.assertIn("cannot write to standard output", result.stderr)
            again = self.folder / f"again{number}"
            self.succeed(name, *[again if argument == output else argument for argument in arguments])
            if name == "bench":
                self.assertEqual(len(output.read_text().splitlines()), 2)
                continue
            pairs = zip(sorted(output.iterdir()), sorted(again.iterdir())) if output.is_dir() else [(output, again)]
            for one, other in pairs:
                self.assertEqual(one.read_bytes(), other.read_bytes(), one)

    def test_overwriting_the_input(self):
        """quantize --force onto its own input is refused; the model stays as it was."""
        path = self.folder / "model"
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        self.refuse(1, "quantize", path, "-o", path, "--force", says=path)
        self.refuse(1, "convert", self.quantized, "-o", self.quantized, "--format", "awq", "--force", says=self.quantized)
        self.assertEqual({file.name: file.read_bytes() for file in path.iterdir()}, before)


if __name__ == "__main__":
    unittest.main()
