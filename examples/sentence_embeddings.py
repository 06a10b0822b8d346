#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What 4 bits do to meaning: sentence embeddings of a trained encoder, original and quantised, side by side.

Quantises the MiniLM model that `make run` fetches, decodes it again with `w4a16 dequantize`, runs both through the same
encoder (numpy, fp32) and compares the embeddings and the similarities between sentences.

    make run
    python3 -m venv build/example && build/example/bin/pip install -r examples/requirements.txt
    build/example/bin/python examples/sentence_embeddings.py [--group-size G] [--asymmetric] [--method mse|rtn]
"""
import argparse
import json
import math
import pathlib
import subprocess
import tempfile

import numpy
import safetensors.numpy
import tokenizers

SENTENCES = [
    "The cat sleeps on the warm window sill.",
    "A kitten is napping in the sun by the window.",
    "Interest rates were raised by the central bank.",
    "The bank increased borrowing costs again this month.",
    "She repaired the engine of the old motorcycle.",
    "He fixed the motor of a vintage bike.",
    "Fresh basil and tomatoes make a simple pasta sauce.",
    "The recipe calls for ripe tomatoes, garlic and herbs.",
]

erf = numpy.vectorize(math.erf, otypes=[numpy.float32])


class Encoder:
    """A BERT encoder with mean pooling, one sentence at a time, in fp32."""

    def __init__(self, folder, weights):
        config = json.loads((folder / "config.json").read_text())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]
        self.weights = {name: value.astype(numpy.float32) for name, value in weights.items() if value.dtype.kind == "f"}
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()

    def linear(self, name, x):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def normalise(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / numpy.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def attend(self, name, x):
        def split(y):  # [tokens, width] -> [heads, tokens, width / heads]
            return y.reshape(len(y), self.heads, -1).transpose(1, 0, 2)

        query, key, value = (split(self.linear(f"{name}.{part}", x)) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = numpy.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return (shares @ value).transpose(1, 0, 2).reshape(x.shape)

    def embed(self, sentence):
        """A unit vector for `sentence`."""
        tokens = self.tokenizer.encode(sentence).ids
        table = "embeddings.{}_embeddings.weight"
        x = self.weights[table.format("word")][tokens] + self.weights[table.format("position")][: len(tokens)]
        x = self.normalise("embeddings.LayerNorm", x + self.weights[table.format("token_type")][0])
        for layer in range(self.layers):
            name = f"encoder.layer.{layer}"
            attended = self.linear(f"{name}.attention.output.dense", self.attend(f"{name}.attention.self", x))
            x = self.normalise(f"{name}.attention.output.LayerNorm", x + attended)
            inner = self.linear(f"{name}.intermediate.dense", x)
            inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
            x = self.normalise(f"{name}.output.LayerNorm", x + self.linear(f"{name}.output.dense", inner))
        mean = x.mean(0)
        return mean / numpy.linalg.norm(mean)


def quantised_weights(arguments, weights):
    """The model's tensors with every linear layer replaced by what its 4-bit form decodes to."""
    with tempfile.TemporaryDirectory() as folder:
        model, decoded = f"{folder}/model", f"{folder}/decoded.safetensors"
        options = ["--group-size", str(arguments.group_size), "--method", arguments.method]
        options += ["--asymmetric"] if arguments.asymmetric else []
        for line in (["quantize", str(arguments.model), "-o", model, *options], ["dequantize", model, "-o", decoded]):
            subprocess.run([str(arguments.command), *line], check=True, stdout=subprocess.DEVNULL)
        replaced = safetensors.numpy.load_file(decoded)
    for name, value in replaced.items():
        if weights[name].shape != value.shape:
            raise SystemExit(f"{name} came back as {value.shape}, it was {weights[name].shape}")
    return {**weights, **replaced}, len(replaced)


def print_side_by_side(original, quantised):
    print("\ncosine similarity between sentences")
    print(f"    {'original':<{6 * len(original) + 3}}4-bit")
    for i, (a, b) in enumerate(zip(original, quantised)):
        print(f"  {i + 1} " + " ".join(f"{x:5.2f}" for x in a) + "    " + " ".join(f"{x:5.2f}" for x in b))


def main():
    build = pathlib.Path(__file__).resolve().parent.parent / "build" / "release"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=build / "model" / "minilm", help="the model folder")
    parser.add_argument("--command", type=pathlib.Path, default=build / "cli" / "w4a16", help="the w4a16 command")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--method", choices=["mse", "rtn"], default="mse")
    arguments = parser.parse_args()
    if not (arguments.model / "model.safetensors").exists():
        raise SystemExit(f"{arguments.model} holds no model; `make run` fetches it")

    weights = safetensors.numpy.load_file(arguments.model / "model.safetensors")
    quantised, count = quantised_weights(arguments, weights)
    original = numpy.array([Encoder(arguments.model, weights).embed(sentence) for sentence in SENTENCES])
    reduced = numpy.array([Encoder(arguments.model, quantised).embed(sentence) for sentence in SENTENCES])

    kind = "asymmetric" if arguments.asymmetric else "symmetric"
    print(f"{count} linear layers in 4 bits: {arguments.method}, {kind}, group size {arguments.group_size}\n")
    print("cosine between the two models' embeddings of one sentence")
    agreement = (original * reduced).sum(1)
    for i, (cosine, sentence) in enumerate(zip(agreement, SENTENCES)):
        print(f"  {i + 1} {cosine:.4f}  {sentence}")
    print(f"    mean {agreement.mean():.4f}, lowest {agreement.min():.4f}")
    before, after = original @ original.T, reduced @ reduced.T
    print_side_by_side(before, after)
    numpy.fill_diagonal(before, -2)
    numpy.fill_diagonal(after, -2)
    same = int((before.argmax(1) == after.argmax(1)).sum())
    pairs = ~numpy.eye(len(SENTENCES), dtype=bool)
    change = numpy.abs(before - after)[pairs]
    print(f"\nmean change of a similarity {change.mean():.3f}, largest {change.max():.3f}")
    print(f"nearest other sentence unchanged for {same} of {len(SENTENCES)}")


if __name__ == "__main__":
    main()
