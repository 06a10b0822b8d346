# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal, and what interruption leaves behind: nothing, or the whole output."""

import os
import pty
import re
import signal
import subprocess
import time
import unittest

import numpy
from safetensors.numpy import save_file

from support import COMMAND, CommandTest, run


class Progress(CommandTest):
    def on_terminal(self, *arguments):
        """Run with stderr on a terminal. @return (exit code, stdout, what the terminal received)"""
        control, terminal = pty.openpty()
        with subprocess.Popen([COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=terminal) as process:
            os.close(terminal)
            received = b""
            while True:
                try:
                    part = os.read(control, 4096)
                except OSError:  # the other side is closed
                    break
                if not part:
                    break
                received += part
            process.wait(timeout=300)
        os.close(control)
        return process.returncode, received.decode()

    def setUp(self):
        super().setUp()
        w = numpy.random.default_rng(1).standard_normal((512, 1024)).astype(numpy.float32)
        save_file({"fc.weight": w}, self.folder / "in.safetensors")
        self.path = self.folder / "q.safetensors"
        self.succeed("quantize", self.folder / "in.safetensors", "-o", self.path)

    def test_long_work_shows_time_left(self):
        """As many repetitions as take three seconds; checked both on a terminal and off."""
        started = time.monotonic()
        self.succeed("verify", self.path, "-m", ",".join(["32"] * 20))
        each = (time.monotonic() - started) / 20
        tokens = ",".join(["32"] * max(20, int(3 / each)))
        exit_code, received = self.on_terminal("verify", self.path, "-m", tokens)
        self.assertEqual(exit_code, 0, received)
        self.assertRegex(received, r"\r\[#*\.+\] +\d+ %  about [\d.]+ (ms|s|min).* left  fc\x1b\[K")
        self.assertTrue(received.endswith("\r\x1b[K"), "the line was not removed")
        shares = [int(share) for share in re.findall(r"(\d+) %", received)]
        self.assertEqual(shares, sorted(shares))
        self.succeed("verify", self.path, "-m", tokens)  # silent on a pipe

    def test_tuning_shows_time_left(self):
        cache = self.folder / "tuned.json"
        exit_code, received = self.on_terminal("tune", "-n", "512", "-k", "1024", "-m", "1-8192", "--budget", "4",
                                               "--device", "cpu", "--cache", cache)
        self.assertEqual(exit_code, 0, received)
        self.assertRegex(received, r"\r\[#*\.*\] +\d+ %  about [\d.]+ (ms|s) left  512x1024 M=\d+ cpu_\w+\x1b\[K")
        self.assertTrue(received.endswith("\r\x1b[K"), "the line was not removed")

    def test_short_work_shows_nothing(self):
        started = time.monotonic()
        exit_code, received = self.on_terminal("verify", self.path, "-m", "1")
        if time.monotonic() - started < 1:
            self.assertEqual((exit_code, received), (0, ""))

    def test_errors_on_a_terminal(self):
        exit_code, received = self.on_terminal("verify", self.folder / "none")
        self.assertEqual(exit_code, 1)
        self.assertRegex(received, r"\Aw4a16 verify: [^\n]+\r\n\Z")


class Interruption(CommandTest):
    LAYERS = 24

    def setUp(self):
        super().setUp()
        w = numpy.random.default_rng(2).standard_normal((512, 1024)).astype(numpy.float32)
        self.model = self.folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        save_file({f"layers.{i:02}.fc.weight": w for i in range(self.LAYERS)}, self.model / "model.safetensors")
        self.output = self.folder / "out"

    def interrupt(self, number, delay):
        """Quantise, and send a signal `delay` seconds later. @return the exit code, None where it had finished"""
        with subprocess.Popen([COMMAND, "quantize", self.model, "-o", self.output], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay)
            process.send_signal(number)
            _, text = process.communicate(timeout=300)
        self.assertIn(process.returncode, (0, -number), text)
        return process.returncode

    def test_signals(self):
        """Early or late: no output or the whole output; INT and TERM also leave no temporary files."""
        started = time.monotonic()
        self.succeed("quantize", self.model, "-o", self.output)
        whole = time.monotonic() - started
        interrupted = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for part in (0.3, 0.6, 0.9, 0.97, 1.0):
                for path in self.folder.iterdir():
                    if path != self.model:
                        subprocess.run(["rm", "-r", path], check=True)
                exit_code = self.interrupt(number, whole * part)
                interrupted += exit_code != 0
                if exit_code == 0 or self.output.exists():
                    self.assertEqual(len(self.succeed_json("inspect", self.output)["modules"]), self.LAYERS)
                elif number != signal.SIGKILL:
                    self.assertEqual([path.name for path in self.folder.iterdir()], ["model"])
        self.assertGreater(interrupted, 0, "every run had finished before its signal")

    def test_after_a_kill_the_next_run_succeeds(self):
        self.interrupt(signal.SIGKILL, 0.1)
        if not self.output.exists():
            self.succeed("quantize", self.model, "-o", self.output)
        self.assertEqual(run("verify", self.output, "-m", "1").returncode, 0)


if __name__ == "__main__":
    unittest.main()
