# SPDX-License-Identifier: Apache-2.0
"""Decode and encode the golden packed files from docs/packed-file.md alone, with numpy.

Each file must decode to the formulas below (tests/pack/golden.h states them in C), and this script's own encoding of
those formulas must be the file, byte for byte. It shares no code with the library."""
import os
import struct
import sys

import numpy as np

SCALE_DTYPES = {1: np.dtype("<f2"), 2: None, 3: np.dtype("<f4")}  # 2: bf16, which numpy does not have
ZERO_DTYPES = {0: None, 1: np.dtype("u1"), 2: np.dtype("<f4")}
CASES = [
    # name, n, k, group size, scale dtype, zero kind, k_order
    ("symmetric_fp16_g128", 70, 200, 128, 1, 0, 0),
    ("integer_bf16_g32", 5, 33, 32, 2, 1, 0),
    ("float_fp32_row_order", 65, 97, 97, 3, 2, 1),
    ("integer_fp16_g96_order", 3, 300, 96, 1, 1, 1),
]


def stated_arrays(n, k, group_size, zero_kind, has_order):
    groups = -(-k // group_size)
    row, column = np.arange(n)[:, None], np.arange(k)[None, :]
    codes = (row * 7 + column * 13 + row * column % 11) % 16
    i = np.arange(n * groups)
    scales = np.where(i % 3 == 0, -1, 1) * (i % 13 + 1) / 64.0
    zeros = {0: None, 1: i * 5 % 17, 2: (i % 29) * 0.5 - 3.25}[zero_kind]
    order = (np.arange(k) * 7 + 3) % k if has_order else None
    shape = (n, groups)
    return codes, scales.reshape(shape), None if zeros is None else zeros.reshape(shape), order


def scale_bytes(values, dtype):
    if dtype == 2:  # the upper half of fp32; the golden scales are exact
        bits = values.astype("<f4").view("<u4")
        assert (bits & 0xFFFF == 0).all()
        return (bits >> 16).astype("<u2")
    return values.astype(SCALE_DTYPES[dtype])


def scale_values(raw, dtype):
    if dtype == 2:
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(float)
    return np.frombuffer(raw, SCALE_DTYPES[dtype]).astype(float)


def checksum(data, data_bytes):
    runs = data[:72], data[80:256], data[256:256 + data_bytes], data[256 + data_bytes:]
    h = 14695981039346656037
    for run in runs:
        run = run + b"\0" * (-len(run) % 8)
        for (word,) in struct.iter_unpack("<Q", run):
            h = (h ^ word) * 1099511628211 % 2**64
    return h


class Layout:
    def __init__(self, n, k, group_size, scale_dtype, zero_kind):
        self.strips, self.blocks = -(-n // 64), -(-k // 64)
        self.chunks = -(-self.blocks // 4)
        if group_size >= k or group_size % 256 == 0:
            self.lines = 1
        elif 256 % group_size == 0:
            self.lines = 256 // group_size
        else:
            self.lines = 254 // group_size + 2
        self.scale_size = {1: 2, 2: 2, 3: 4}[scale_dtype]
        self.zero_size = {0: 0, 1: 1, 2: 4}[zero_kind]

    def pieces(self):
        """(offset, kind, strip, block or chunk) of each piece, and the end."""
        offset = 0
        for strip in range(self.strips):
            for chunk in range(self.chunks):
                for block in range(4 * chunk, min(4 * chunk + 4, self.blocks)):
                    yield offset, "block", strip, block
                    offset += 2048
                yield offset, "scales", strip, chunk
                offset += self.lines * 64 * self.scale_size
                if self.zero_size:
                    yield offset, "zeros", strip, chunk
                    offset += self.lines * 64 * self.zero_size
        yield offset, "end", 0, 0


def block_places():
    """byte[64, 64] and shift[64, 64] of the codes in a block."""
    row, column = np.arange(64)[:, None], np.arange(64)[None, :]
    thread = row // 16 * 32 + row % 8 * 4 + column % 8 // 2
    nibble = row % 16 // 8 + 2 * (column % 16 // 8) + 4 * (column % 2)
    return 16 * thread + 4 * (column // 16) + nibble // 2, nibble % 2 * 4


def decode(data):
    assert data[:8] == b"W4A16PAK"
    version, header = struct.unpack_from("<II", data, 8)
    n, k, group_size = struct.unpack_from("<qqq", data, 16)
    scale_dtype, zero_kind, has_order, nothing = struct.unpack_from("<IIII", data, 40)
    data_bytes, order_bytes, stored = struct.unpack_from("<QQQ", data, 56)
    assert (version, header, nothing) == (1, 256, 0) and data[80:256] == bytes(176)
    assert len(data) == 256 + data_bytes + order_bytes and order_bytes == (4 * k if has_order else 0)
    assert checksum(data, data_bytes) == stored
    layout, groups = Layout(n, k, group_size, scale_dtype, zero_kind), -(-k // group_size)
    packed = np.frombuffer(data, np.uint8, data_bytes, 256)
    codes = np.full((layout.strips * 64, layout.blocks * 64), -1)
    scales = np.full((layout.strips * 64, groups), np.nan)
    zeros = np.full((layout.strips * 64, groups), np.nan)
    byte, shift = block_places()
    for offset, kind, strip, index in layout.pieces():
        rows = slice(64 * strip, 64 * strip + 64)
        if kind == "block":
            codes[rows, 64 * index:64 * index + 64] = packed[offset + byte] >> shift & 15
        elif kind == "end":
            assert offset == data_bytes
        else:
            size = layout.scale_size if kind == "scales" else layout.zero_size
            raw = packed[offset:offset + layout.lines * 64 * size].tobytes()
            lines = (scale_values(raw, scale_dtype) if kind == "scales"
                     else np.frombuffer(raw, ZERO_DTYPES[zero_kind]).astype(float)).reshape(layout.lines, 64)
            last = (min(k, 256 * index + 256) - 1) // group_size
            for line in range(layout.lines):
                group = 256 * index // group_size + line
                if group <= last:
                    (scales if kind == "scales" else zeros)[rows, group] = lines[line]
                else:
                    assert (lines[line] == (1 if kind == "scales" else 8)).all()
    assert (codes[n:] == 8).all() and (codes[:, k:] == 8).all() and (scales[n:] == 1).all()
    order = np.frombuffer(data, "<i4", offset=256 + data_bytes) if has_order else None
    shape = (n, k, group_size, scale_dtype, zero_kind, has_order)
    return shape, codes[:n, :k], scales[:n], zeros[:n] if zero_kind else None, order


def encode(n, k, group_size, scale_dtype, zero_kind, has_order):
    codes, scales, zeros, order = stated_arrays(n, k, group_size, zero_kind, has_order)
    layout = Layout(n, k, group_size, scale_dtype, zero_kind)
    padded = np.full((layout.strips * 64, layout.blocks * 64), 8)
    padded[:n, :k] = codes
    packed = bytearray()
    byte, shift = block_places()
    for _, kind, strip, index in layout.pieces():
        if kind == "block":
            block = np.zeros(2048, np.uint8)
            np.add.at(block, byte, (padded[64 * strip:64 * strip + 64, 64 * index:64 * index + 64] << shift)
                      .astype(np.uint8))
            packed += block.tobytes()
        elif kind != "end":
            lines = np.full((layout.lines, 64), 1.0 if kind == "scales" else 8.0)
            source = scales if kind == "scales" else zeros
            rows = min(n, 64 * strip + 64) - 64 * strip
            for line in range(layout.lines):
                group = 256 * index // group_size + line
                if group <= (min(k, 256 * index + 256) - 1) // group_size:
                    lines[line, :rows] = source[64 * strip:64 * strip + rows, group]
            packed += (scale_bytes(lines, scale_dtype) if kind == "scales"
                       else lines.astype(ZERO_DTYPES[zero_kind])).tobytes()
    tail = order.astype("<i4").tobytes() if has_order else b""
    header = bytearray(256)
    header[:8] = b"W4A16PAK"
    struct.pack_into("<IIqqqIIIIQQ", header, 8, 1, 256, n, k, group_size, scale_dtype, zero_kind, has_order, 0,
                     len(packed), len(tail))
    data = bytes(header) + bytes(packed) + tail
    struct.pack_into("<Q", header, 72, checksum(data, len(packed)))
    return bytes(header) + bytes(packed) + tail


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
    present = sorted(name for name in os.listdir(folder) if name.endswith(".w4a16"))
    assert present == sorted(case[0] + ".w4a16" for case in CASES), present
    for name, *shape in CASES:
        with open(os.path.join(folder, name + ".w4a16"), "rb") as file:
            data = file.read()
        found, codes, scales, zeros, order = decode(data)
        assert found == tuple(shape), (name, found)
        n, k, group_size, _, zero_kind, has_order = shape
        stated = stated_arrays(n, k, group_size, zero_kind, has_order)
        for what, got, expected in zip(("codes", "scales", "zeros", "k_order"), (codes, scales, zeros, order), stated):
            assert (got is None) == (expected is None), (name, what)
            assert expected is None or (got == expected).all(), (name, what)
        assert encode(*shape) == data, name
        print(f"{name}: {len(data)} bytes decode to the stated arrays and encode to the same bytes")


main()
