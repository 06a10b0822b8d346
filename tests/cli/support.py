# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command share: running it, generated models, decoders written from the formats' definitions."""

import json
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

import numpy
from safetensors.numpy import load_file, save_file

COMMAND = os.environ["W4A16_COMMAND"]
SUBCOMMANDS = ["info", "inspect", "dequantize", "quantize", "convert", "gemm", "verify", "bench", "configs", "tune", "cache"]


def run(*arguments, **options):
    """Run the command with captured, decoded output; never waits longer than a few minutes."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    return subprocess.run([COMMAND, *map(str, arguments)], text=True, timeout=300, check=False, **options)


class CommandTest(unittest.TestCase):
    """A test with a folder of its own, which must hold nothing but what the test expects."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def succeed(self, *arguments):
        """Run and expect success with nothing on stderr (which is no terminal: no progress either)."""
        result = run(*arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""), f"w4a16 {arguments}: {result.stdout}")
        return result.stdout

    def succeed_json(self, *arguments):
        return json.loads(self.succeed(*arguments, "--json"))

    def refuse(self, exit_code, subcommand, *arguments, says=()):
        """Run and expect failure: exit code, one line "w4a16 SUBCOMMAND: ...", every text of `says` in it, nothing on
        stdout, and no new file in the test's folder."""
        before = sorted(self.folder.rglob("*"))
        result = run(subcommand, *arguments)
        self.assertEqual(result.returncode, exit_code, f"w4a16 {subcommand} {arguments}: {result.stderr}")
        self.assertRegex(result.stderr, rf"\Aw4a16 {subcommand}: [^\n]+\n\Z")
        for text in [says] if isinstance(says, (str, pathlib.Path)) else says:
            self.assertIn(str(text), result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(sorted(self.folder.rglob("*")), before, "left a file behind")
        return result.stderr


# ---- Models ----------------------------------------------------------------------------------------------------


def to_bf16(array):
    """float32 -> the bits of bf16, rounded to nearest even."""
    bits = numpy.ascontiguousarray(array, dtype=numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def from_bf16(bits):
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def write_raw(path, tensors):
    """A safetensors file from {name: (dtype text, shape, bytes)}: for dtypes that numpy lacks, and for bad files."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def random_weights(n, k, seed):
    """Weights with rows of different scale and a few outliers, as trained ones have."""
    generator = numpy.random.default_rng(seed)
    w = generator.standard_normal((n, k)) * 0.05 * generator.uniform(0.5, 2, (n, 1))
    w[generator.integers(0, n, n), generator.integers(0, k, n)] *= 6
    return w


LAYERS = {
    "model.layers.0.self_attn.q_proj": (64, 256),
    "model.layers.0.self_attn.k_proj": (32, 256),
    "model.layers.0.mlp.down_proj": (256, 384),
}


def make_model(folder, layers=None):
    """A model folder: config.json, a tokeniser file, linear layers in fp32, fp16 and (in a second shard) bf16, an
    embedding, a norm and a bias. Returns {layer: float64 weights as stored}."""
    folder.mkdir()
    layers = layers or LAYERS
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 256}))
    (folder / "tokenizer.json").write_text("{}")
    first, weights, last = {}, {}, list(layers)[-1]
    for number, (name, (n, k)) in enumerate(layers.items()):
        w = random_weights(n, k, number).astype(numpy.float32)
        if name == last:
            bits = to_bf16(w)
            write_raw(folder / "model-00002-of-00002.safetensors", {f"{name}.weight": ("BF16", (n, k), bits.tobytes())})
            weights[name] = from_bf16(bits).astype(numpy.float64)
            continue
        first[f"{name}.weight"] = w.astype(numpy.float16) if number % 2 else w
        weights[name] = first[f"{name}.weight"].astype(numpy.float64)
    first["model.embed_tokens.weight"] = random_weights(40, 256, 90).astype(numpy.float16)
    first["model.norm.weight"] = numpy.ones(256, dtype=numpy.float16)
    first["model.layers.0.self_attn.q_proj.bias"] = numpy.arange(64, dtype=numpy.float32)
    save_file(first, folder / "model-00001-of-00002.safetensors")
    places = {name: "model-00001-of-00002.safetensors" for name in first}
    places[f"{last}.weight"] = "model-00002-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return weights


def load_tensors(path):
    """All tensors of a file or folder (16-bit floats of bf16 aside, which numpy lacks, nothing here writes any)."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


# ---- Decoders: formats.md's formulas in numpy, sharing nothing with the library -------------------------------------


def unpack(words, axis):
    """int32 words -> their eight nibbles, lowest first, along `axis`."""
    nibbles = numpy.stack([(words.view(numpy.uint32) >> (4 * i)) & 15 for i in range(8)], axis=axis + 1)
    shape = list(words.shape)
    shape[axis] *= 8
    return nibbles.reshape(shape).astype(numpy.int64)


def decode_awq(tensors, name):
    order = numpy.array([0, 4, 1, 5, 2, 6, 3, 7])
    codes, zeros = (unpack(tensors[f"{name}.{kind}"], 1) for kind in ("qweight", "qzeros"))
    codes, zeros = (x.reshape(x.shape[0], -1, 8)[:, :, order].reshape(x.shape) for x in (codes, zeros))
    scales = tensors[f"{name}.scales"].astype(numpy.float64)
    group = numpy.arange(codes.shape[0]) // -(-codes.shape[0] // scales.shape[0])
    return ((codes - zeros[group]) * scales[group]).T


def decode_gptq(tensors, name):
    codes, zeros = unpack(tensors[f"{name}.qweight"], 0), unpack(tensors[f"{name}.qzeros"], 1)
    scales = tensors[f"{name}.scales"].astype(numpy.float64)
    group = tensors[f"{name}.g_idx"]
    return ((codes - zeros[group]) * scales[group]).T


def decode_compressed_tensors(tensors, name):
    n, k = tensors[f"{name}.weight_shape"]
    codes = unpack(tensors[f"{name}.weight_packed"], 1)[:, :k] - 8
    scales = tensors[f"{name}.weight_scale"].astype(numpy.float64)
    zeros = numpy.zeros_like(scales)
    if f"{name}.weight_zero_point" in tensors:
        zeros = unpack(tensors[f"{name}.weight_zero_point"], 0)[:n] - 8
    group = numpy.arange(k) // -(-k // scales.shape[1])
    return (codes - zeros[:, group]) * scales[:, group]


DECODERS = {"awq": decode_awq, "gptq": decode_gptq, "compressed-tensors": decode_compressed_tensors}


def relative_error(result, expected):
    return numpy.linalg.norm(result - expected) / numpy.linalg.norm(expected)
