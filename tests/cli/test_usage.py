# SPDX-License-Identifier: Apache-2.0
"""--help, --version, wrong command lines, and stdout that cannot be written."""

import os
import pathlib
import re
import subprocess
import unittest

from support import COMMAND, SUBCOMMANDS, CommandTest, run


class Help(CommandTest):
    def test_every_subcommand_explains_itself(self):
        for name in SUBCOMMANDS:
            with self.subTest(name):
                text = self.succeed(name, "--help")
                self.assertTrue(text.startswith(f"Usage: w4a16 {name} "))
                self.assertRegex(text, rf"\nExamples:\n  w4a16 {name}\b")
                self.assertRegex(text, r"\nExit codes:\n  0  success\n  1  .+\n  2  wrong usage\n\Z")
                self.assertLessEqual(max(map(len, text.splitlines())), 100)
                self.assertEqual(self.succeed("help", name), text)
                self.assertEqual(self.succeed(name, "-h"), text)

    def test_defaults_are_stated(self):
        text = self.succeed("quantize", "--help")
        for default in ("default 128", "default mse", "default fp16", "and no output head"):
            self.assertIn(default, text)

    def test_overview(self):
        text = self.succeed("--help")
        for name in SUBCOMMANDS:
            self.assertRegex(text, rf"\n  {name} +\w")
        self.assertEqual(self.succeed("help"), text)
        self.assertRegex(self.succeed("--version"), r"\Aw4a16 \d+\.\d+\.\d+\n\Z")

    def test_no_arguments(self):
        result = run()
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn("Usage: w4a16 SUBCOMMAND", result.stderr)

    def test_examples_of_the_help_parse(self):
        """Every example line is a command line that the parser takes: it fails, if at all, on a missing file."""
        for name in SUBCOMMANDS:
            if name in ("bench", "configs", "info", "tune"):
                continue  # these would run
            examples = self.succeed(name, "--help").split("\nExamples:\n")[1].split("\n\nExit codes:")[0]
            for line in examples.replace("\\\n", " ").splitlines():
                with self.subTest(line):
                    result = subprocess.run(line.replace("w4a16", COMMAND, 1), shell=True, cwd=self.folder, text=True,
                                            capture_output=True, timeout=60, check=False)
                    self.assertEqual(result.returncode, 1, result.stderr)


class WrongUsage(CommandTest):
    def test_overall(self):
        for arguments, says in {
            ("quantise",): "unknown subcommand 'quantise'",
            ("help", "nothing"): "unknown subcommand 'nothing'",
            ("help", "info", "gemm"): "one subcommand",
            ("--fast",): "unknown option --fast",
        }.items():
            result = run(*arguments)
            self.assertEqual((result.returncode, result.stdout), (2, ""))
            self.assertRegex(result.stderr, r"\Aw4a16: [^\n]+\n\Z")
            self.assertIn(says, result.stderr)

    def test_unknown_options(self):
        for name in SUBCOMMANDS:
            with self.subTest(name):
                self.refuse(2, name, "--nonsense", says=("--nonsense", f"w4a16 {name} --help"))
                self.refuse(2, name, "-Z", says="-Z")

    def test_missing_and_surplus(self):
        for name, arguments, says in [
            ("inspect", [], "PATH is missing"),
            ("quantize", ["model"], "-o OUT is missing"),
            ("quantize", ["model", "-o"], "--output: its value OUT is missing"),
            ("quantize", ["-o", "out"], "PATH is missing"),
            ("convert", ["model", "-o", "out"], "--format F is missing"),
            ("dequantize", ["model"], "-o OUT is missing"),
            ("gemm", ["--tensor", "x"], "--weight"),
            ("gemm", ["--weight", "x"], "--tensor"),
            ("gemm", ["--weight", "x", "--tensor", "x"], "--input"),
            ("gemm", ["--weight", "x", "--tensor", "x", "--input", "x"], "--output"),
            ("bench", ["-n", "8", "-k", "8"], "-m M[,M] is missing"),
            ("bench", ["-m", "8", "-k", "8"], "-n N is missing"),
            ("bench", ["-m", "8", "-n", "8"], "-k K is missing"),
            ("bench", ["-m", "1", "-n", "8", "-k", "32", "--profile", "--config", "x"], "--profile"),
            ("configs", ["-m", "8"], "give all of -m M, -n N and -k K"),
            ("info", ["what"], "unexpected argument 'what'"),
            ("inspect", ["one", "two"], "unexpected argument 'two'"),
            ("inspect", ["one", "--json=yes"], "takes no value"),
        ]:
            with self.subTest(name=name, arguments=arguments):
                self.refuse(2, name, *arguments, says=says)

    def test_numbers(self):
        sizes = ["-n", "64", "-k", "64"]
        self.refuse(2, "quantize", "m", "-o", "o", "--group-size", "abc",
                    says="--group-size: 'abc' is not a whole number; give a multiple of 32 or -1")
        for text in ("0", "48", "-32", "-2", "12.5", "", "128x", " 128", "0x80", "99999999999999999999"):
            self.refuse(2, "quantize", "m", "-o", "o", "--group-size", text, says="a multiple of 32 or -1")
        for text in ("0", "-1", "1,", ",1", "1,,2", "1e3", "nan", "16777217", "1;2"):
            self.refuse(2, "bench", "-m", text, *sizes, says=("-m: ", "whole number", "from 1 to 16777216"))
        for option in ("-n", "-k"):
            self.refuse(2, "bench", "-m", "1", *sizes, option, "0", says=f"{option}: 0 is out of range")
        self.refuse(2, "verify", "x", "-m", "4097", says="-m: 4097 is out of range")
        self.refuse(2, "verify", "x", "--threads", "many", says="--threads: 'many' is not a whole number")
        self.refuse(2, "verify", "x", "--threads=-1", says="--threads: -1 is out of range")
        for text in ("-1", "61", "nan", "inf", "1s", ""):
            self.refuse(2, "bench", "-m", "1", *sizes, "--seconds", text, says="seconds from 0 to 60")

    def test_words(self):
        self.refuse(2, "quantize", "m", "-o", "o", "--method", "gptq", says="--method: 'gptq' is unknown; give mse or rtn")
        self.refuse(2, "quantize", "m", "-o", "o", "--format", "gguf", says="compressed-tensors, gptq or awq")
        self.refuse(2, "convert", "m", "-o", "o", "--format", "AWQ", says="'AWQ' is unknown")
        self.refuse(2, "dequantize", "m", "-o", "o", "--dtype", "fp64", says="fp16, bf16 or fp32")
        self.refuse(2, "gemm", "--dtype", "fp32", says="fp16 or bf16")
        self.refuse(2, "verify", "m", "--instruction-set", "sse", says="reference, avx2 or avx512")

    def test_device(self):
        for name, arguments in [("configs", []), ("bench", ["-m", "1", "-n", "8", "-k", "32"])]:
            self.refuse(1, name, *arguments, "--device", "tpu:0", says="tpu:0")


class StandardOutput(CommandTest):
    """A table that did not arrive is a failure; no file may receive it either."""

    def test_closed(self):
        for name in ("info", "configs", "--version", "--help"):
            result = run(name, stdout=None, preexec_fn=lambda: os.close(1))
            self.assertEqual(result.returncode, 1, name)
            self.assertRegex(result.stderr, r"\Aw4a16( \w+)?: cannot write to standard output: [^\n]+\n\Z")

    def test_full(self):
        for name in ("info", "configs", "--help"):
            with open("/dev/full", "w", encoding="utf-8") as full:
                result = run(name, stdout=full)
            self.assertEqual(result.returncode, 1, name)
            self.assertIn("cannot write to standard output: No space left on device", result.stderr)

    def test_everything_closed(self):
        result = run("info", stdin=None, stdout=None, stderr=None,
                     preexec_fn=lambda: [os.close(descriptor) for descriptor in (0, 1, 2)])
        self.assertEqual(result.returncode, 1)

    def test_reader_leaves(self):
        """`w4a16 ... | head -1`: the first line, and no complaint."""
        for line in (f"{COMMAND} configs | head -1", f"{COMMAND} bench --help | head -1",
                     f"{COMMAND} info --json | true"):
            result = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True,
                                    timeout=60, check=False)
            self.assertEqual(result.stderr, "")
            self.assertIn(result.returncode, (0, 128 + 13))  # 13: SIGPIPE, where the reader left in time

    def test_reader_is_gone_already(self):
        reader, writer = os.pipe()
        os.close(reader)
        result = run("info", stdout=writer)
        os.close(writer)
        self.assertEqual((result.returncode, result.stderr), (-13, ""))


class ManualPage(CommandTest):
    def test_names_every_option_of_the_help(self):
        path = pathlib.Path(os.environ["W4A16_SOURCE"], "cli", "w4a16.1")
        page = path.read_text(encoding="utf-8").replace("\\-", "-")
        for name in SUBCOMMANDS:
            for option in re.findall(r"^  (?:-\w, )?(--[a-z-]+)", self.succeed(name, "--help"), re.MULTILINE):
                self.assertIn(option, page, f"{name}'s {option}")


if __name__ == "__main__":
    unittest.main()
