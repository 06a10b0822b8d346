#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tensors for `make run` without any package: safetensors files, sentences to activations, a layer to fall back on.

    tools/run_tensors.py FOLDER     writes a model folder with one generated Llama-shaped layer
"""
import array
import json
import math
import operator
import pathlib
import random
import struct
import sys


def read_header(path):
    """The tensors of a .safetensors file (name -> dtype, shape, data_offsets) and where its data starts."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def read_tensor(path, name):
    """One F32 or F16 tensor as (shape, flat sequence of floats)."""
    header, start = read_header(path)
    entry = header[name]
    first, last = entry["data_offsets"]
    with open(path, "rb") as file:
        file.seek(start + first)
        data = file.read(last - first)
    letter = {"F32": "f", "F16": "e"}[entry["dtype"]]
    return entry["shape"], struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)


def write_tensors(path, tensors):
    """Write {name: (shape, flat floats)} as F16."""
    header, offset = {}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + 2 * len(values)]}
        offset += 2 * len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(struct.pack(f"<{len(values)}e", *values))


def multiply(activations, weights, k):
    """Rows of activations [M][k] times weights (flat [N, k]) transposed, in double precision: [M][N]."""
    rows = [weights[i : i + k] for i in range(0, len(weights), k)]
    return [[sum(map(operator.mul, row, weight)) for weight in rows] for row in activations]


def word_pieces(text, vocabulary):
    """Lower-case words split greedily into the pieces of a BERT vocabulary, with its marks around them."""
    pieces = ["[CLS]"]
    for word in text.lower().replace(",", " , ").replace(".", " . ").split():
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocabulary:
                    break
            else:
                piece, end = "[UNK]", len(word)
            pieces.append(piece)
            start = end
    return [vocabulary[piece] for piece in pieces + ["[SEP]"]]


def embed(folder, text):
    """What the first layer of a BERT model sees for `text`: word + position + type embedding, normalised. [M][K]"""
    path = folder / "model.safetensors"
    vocabulary = {line.rstrip("\n"): i for i, line in enumerate(open(folder / "vocab.txt", encoding="utf-8"))}
    (_, k), words = read_tensor(path, "embeddings.word_embeddings.weight")
    positions = read_tensor(path, "embeddings.position_embeddings.weight")[1]
    types = read_tensor(path, "embeddings.token_type_embeddings.weight")[1][:k]
    gain = read_tensor(path, "embeddings.LayerNorm.weight")[1]
    bias = read_tensor(path, "embeddings.LayerNorm.bias")[1]
    epsilon = json.loads((folder / "config.json").read_text())["layer_norm_eps"]
    rows = []
    for position, token in enumerate(word_pieces(text, vocabulary)):
        row = [a + b + c for a, b, c in zip(words[token * k : token * k + k], positions[position * k : position * k + k], types)]
        mean = sum(row) / k
        deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / k + epsilon)
        rows.append([(x - mean) / deviation * g + b for x, g, b in zip(row, gain, bias)])
    return rows


def gaussian_rows(count, width, seed):
    """Rows of N(0, 1) activations, the same in every run."""
    generator = random.Random(seed)
    return [[generator.gauss(0, 1) for _ in range(width)] for _ in range(count)]


def generate_layer(folder):
    """A model folder with one decoder layer of a small Llama: Gaussian weights, rows of different size."""
    hidden, narrow, wide = 512, 128, 1408
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    generator = random.Random(1)
    tensors = {}
    for name, (n, k) in shapes.items():
        values = array.array("f")
        for _ in range(n):
            size = 0.02 * math.exp(generator.gauss(0, 0.25))
            values.extend(generator.gauss(0, size) for _ in range(k))
        tensors[f"model.layers.0.{name}.weight"] = ([n, k], values)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tensors(folder / "model.partial", tensors)
    (folder / "model.partial").rename(folder / "model.safetensors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    generate_layer(pathlib.Path(sys.argv[1]))
