# SPDX-License-Identifier: Apache-2.0
"""What the format oracles share: the layouts on disk in plain numpy, a raw safetensors writer, and the library
through ctypes. None of it uses the library's own packing code."""
import ctypes
import json
import os
import struct
import sys
import tempfile

import numpy as np
import safetensors

FP16, BF16, FP32, FP64 = 1, 2, 3, 4
AWQ, GPTQ, COMPRESSED_TENSORS = 1, 2, 3
INVALID_ARGUMENT, UNSUPPORTED, NOT_FOUND, IO, FORMAT, EXISTS, CANCELLED = 1, 3, 4, 5, 6, 7, 10
SYMMETRIC, INTEGER = 0, 1
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


class Bf16:
    """bfloat16 bits; numpy has no such type."""

    def __init__(self, values):
        bits = np.asarray(values, np.float32).view(np.uint32)
        self.bits = (bits >> 16).astype(np.uint16)  # callers pass values that bf16 holds, or want truncation
        self.shape = self.bits.shape

    def numbers(self):
        return (self.bits.astype(np.uint32) << 16).view(np.float32)

    def tobytes(self):
        return self.bits.astype("<u2").tobytes()


DTYPE_TEXT = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "int16": "I16",
              "int8": "I8", "uint8": "U8", "bool": "BOOL"}


def dtype_text(array):
    return "BF16" if isinstance(array, Bf16) else DTYPE_TEXT[str(array.dtype)]


def write_safetensors(path, tensors, metadata=None, pad=None):
    """pad: bytes of spaces after the header; None: none at all, so that the data may start at any address."""
    header, offset = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, array in tensors.items():
        size = len(array.tobytes())
        header[name] = {"dtype": dtype_text(array), "shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (pad or 0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())


def read_safetensors(path):
    """Through the reference package: name -> numpy array or Bf16. Its header check is part of the test."""
    with open(path, "rb") as file:
        entries = safetensors.deserialize(file.read())
    types = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
    result = {}
    for name, entry in entries:
        data = bytes(entry["data"])
        if entry["dtype"] == "BF16":
            array = Bf16(np.zeros(entry["shape"], np.float32))
            array.bits = np.frombuffer(data, "<u2").reshape(entry["shape"])
        else:
            array = np.frombuffer(data, types[entry["dtype"]]).reshape(entry["shape"])
        result[name] = array
    return result


# ---- Layouts. q: codes [N, K]; z: zero points [N, G]; s: scales [N, G]; g_idx [K] ------------------------------------

def pack_last(values, order=range(8)):
    """Eight neighbours of the last axis to one int32; nibble i holds column order[i]. Padded with zeros."""
    values = np.asarray(values, np.uint32)
    short = -values.shape[-1] % 8
    values = np.concatenate([values, np.zeros(values.shape[:-1] + (short,), np.uint32)], axis=-1)
    groups = values.reshape(values.shape[:-1] + (-1, 8))
    words = np.zeros(groups.shape[:-1], np.uint32)
    for i, column in enumerate(order):
        words |= groups[..., column] << np.uint32(4 * i)
    return words.view(np.int32)


def unpack_last(words, count, order=range(8)):
    words = np.ascontiguousarray(words).view(np.uint32)
    result = np.zeros(words.shape + (8,), np.int64)
    for i, column in enumerate(order):
        result[..., column] = words >> np.uint32(4 * i) & 15
    return result.reshape(words.shape[:-1] + (-1,))[..., :count]


def transposed(array):
    if isinstance(array, Bf16):
        result = Bf16(np.zeros(array.shape[::-1], np.float32))
        result.bits = np.ascontiguousarray(array.bits.T)
        return result
    return np.ascontiguousarray(array.T)


def awq_tensors(name, q, z, s):
    return {name + ".qweight": pack_last(q.T, AWQ_ORDER), name + ".qzeros": pack_last(z.T, AWQ_ORDER),
            name + ".scales": transposed(s)}


def gptq_tensors(name, q, z, s, g_idx=None, minus_one=True):
    stored = (z.T - 1 if minus_one else z.T).astype(np.uint32)
    tensors = {name + ".qweight": np.ascontiguousarray(pack_last(q).T), name + ".qzeros": pack_last(stored),
               name + ".scales": transposed(s)}
    if g_idx is not None:
        tensors[name + ".g_idx"] = np.asarray(g_idx, np.int32)
    return tensors


def compressed_tensors(name, q, z, s, g_idx=None):
    tensors = {name + ".weight_packed": pack_last(q), name + ".weight_scale": s,
               name + ".weight_shape": np.array(q.shape, np.int64)}
    if z is not None:
        tensors[name + ".weight_zero_point"] = np.ascontiguousarray(pack_last(z.T).T)
    if g_idx is not None:
        tensors[name + ".weight_g_idx"] = np.asarray(g_idx, np.int32)
    return tensors


def numbers(scales):
    return (scales.numbers() if isinstance(scales, Bf16) else scales).astype(np.float64)


def dequantise(q, z, s, g_idx):
    """w[n, k] = (q - z) * s with the group of column k; exact in float64."""
    zero = np.full(s.shape, 8.0) if z is None else np.asarray(z, np.float64)
    return (q - zero[:, g_idx]) * numbers(s)[:, g_idx]


def nearest_bf16(values):
    """The bits of bf16 nearest to values that fp32 holds, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return (bits + 0x7fff + (bits >> 16 & 1) >> 16).astype(np.uint16)


def make_codes(random, n, k):
    return random.integers(0, 16, (n, k))


def make_scales(random, n, groups, dtype="float16"):
    values = random.uniform(0.001, 0.05, (n, groups)) * random.choice([-1, 1], (n, groups))
    return Bf16(values) if dtype == "bf16" else values.astype(dtype)


def group_index(k, group_size):
    return np.arange(k) // (k if group_size == -1 else group_size)


# ---- The library ---------------------------------------------------------------------------------------------------

class ModuleInfo(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("name", ctypes.c_char_p), ("format", ctypes.c_int),
                ("variant", ctypes.c_char_p), ("n", ctypes.c_int64), ("k", ctypes.c_int64),
                ("group_size", ctypes.c_int64), ("groups", ctypes.c_int64), ("scale_dtype", ctypes.c_int),
                ("zero_kind", ctypes.c_int), ("act_order", ctypes.c_int), ("bytes", ctypes.c_uint64),
                ("supported", ctypes.c_int), ("reason", ctypes.c_char_p)]


class WeightInfo(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("n", ctypes.c_int64), ("k", ctypes.c_int64),
                ("group_size", ctypes.c_int64), ("groups", ctypes.c_int64), ("scale_dtype", ctypes.c_int),
                ("zero_kind", ctypes.c_int), ("has_k_order", ctypes.c_int), ("device_bytes", ctypes.c_size_t),
                ("kernel_zero_kind", ctypes.c_int), ("uneven_scales", ctypes.c_int)]


class ContextOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("device", ctypes.c_char_p), ("threads", ctypes.c_int),
                ("cpu_instruction_set", ctypes.c_char_p)]


class Progress(ctypes.Structure):
    _fields_ = [("tensor", ctypes.c_char_p), ("n", ctypes.c_int64), ("k", ctypes.c_int64), ("sqnr_db", ctypes.c_double),
                ("signal", ctypes.c_double), ("noise", ctypes.c_double), ("done_bytes", ctypes.c_uint64),
                ("total_bytes", ctypes.c_uint64)]


PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Progress), ctypes.c_void_p)
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class ConvertOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("format", ctypes.c_int), ("overwrite", ctypes.c_int),
                ("progress", PROGRESS), ("user", ctypes.c_void_p)]


class QuantizeOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("method", ctypes.c_int), ("group_size", ctypes.c_int64),
                ("asymmetric", ctypes.c_int), ("scale_dtype", ctypes.c_int), ("threads", ctypes.c_int),
                ("format", ctypes.c_int), ("include", ctypes.POINTER(ctypes.c_char_p)),
                ("include_count", ctypes.c_size_t), ("exclude", ctypes.POINTER(ctypes.c_char_p)),
                ("exclude_count", ctypes.c_size_t), ("overwrite", ctypes.c_int), ("progress", PROGRESS),
                ("user", ctypes.c_void_p)]


library = ctypes.CDLL(os.environ["W4A16_LIBRARY"])
library.w4a16_last_error.restype = ctypes.c_char_p
library.w4a16_checkpoint_count.restype = ctypes.c_size_t

log_lines = []


@LOG
def keep_line(level, message, user):
    log_lines.append(message.decode())


library.w4a16_set_log_callback(keep_line, None)


class Failure(Exception):
    def __init__(self, status):
        self.status, self.text = status, library.w4a16_last_error().decode()
        super().__init__(f"status {status}: {self.text}")


def call(name, *arguments):
    status = getattr(library, name)(*arguments)
    if status:
        raise Failure(status)


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


class Checkpoint:
    def __init__(self, path):
        self.handle = ctypes.c_void_p()
        call("w4a16_checkpoint_open", str(path).encode(), ctypes.byref(self.handle))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        library.w4a16_checkpoint_close(self.handle)

    def modules(self):
        result = []
        for index in range(library.w4a16_checkpoint_count(self.handle)):
            info = ModuleInfo(struct_size=ctypes.sizeof(ModuleInfo))
            call("w4a16_checkpoint_module", self.handle, ctypes.c_size_t(index), ctypes.byref(info))
            result.append(info)
        return result

    def dequantize(self, module, n, k, dtype=FP64, stride=None):
        kinds = {FP64: np.float64, FP32: np.float32, FP16: np.float16, BF16: np.uint16}
        w = np.full((n, stride or k), 77, kinds[dtype])
        call("w4a16_checkpoint_dequantize", self.handle, module.encode(), dtype, pointer(w),
             ctypes.c_int64(w.shape[1]))
        return w

    def load(self, module):
        """The imported weight as (info, codes [n, k] in the order of the columns, scale bytes, zeros, k_order)."""
        options = ContextOptions(ctypes.sizeof(ContextOptions), b"cpu", 1, None)
        context, weight = ctypes.c_void_p(), ctypes.c_void_p()
        call("w4a16_context_create", ctypes.byref(options), ctypes.byref(context))
        try:
            call("w4a16_checkpoint_load", self.handle, context, module.encode(), ctypes.byref(weight))
        finally:
            library.w4a16_context_destroy(context)
        info = WeightInfo(struct_size=ctypes.sizeof(WeightInfo))
        call("w4a16_weight_query", weight, ctypes.byref(info))
        packed = np.zeros((info.n, (info.k + 1) // 2), np.uint8)
        scales = np.zeros((info.n, info.groups), np.float32 if info.scale_dtype == FP32 else np.uint16)
        zeros = np.full((info.n, info.groups), 8, np.uint8)
        k_order = np.arange(info.k, dtype=np.int32)
        call("w4a16_weight_export", weight, pointer(packed), pointer(scales), pointer(zeros), pointer(k_order))
        library.w4a16_weight_destroy(weight)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(info.n, -1)[:, :info.k]
        return info, codes, scales, zeros, k_order


def scale_bits(s):
    """As the library exports them."""
    if isinstance(s, Bf16):
        return s.bits
    return s if s.dtype == np.float32 else s.view(np.uint16)


def expect_failure(status, parts, function, *arguments, **keywords):
    """`function` must fail with `status` and a text of one line that contains all `parts`."""
    try:
        function(*arguments, **keywords)
    except Failure as failure:
        assert failure.status == status, f"{failure}; status {status} expected"
        for part in parts:
            assert part in failure.text, f"'{part}' is missing in: {failure.text}"
        assert "\n" not in failure.text
        return
    raise AssertionError(f"no failure; status {status} with {parts} expected")


def run_tests(namespace):
    """Every function named test_* with an empty folder of its own."""
    failed = 0
    tests = [(name, value) for name, value in namespace.items() if name.startswith("test_")]
    for name, test in tests:
        with tempfile.TemporaryDirectory() as folder:
            log_lines.clear()
            try:
                test(folder)
                print("ok    ", name)
            except Exception:
                import traceback
                traceback.print_exc(file=sys.stdout)
                print("FAILED", name)
                failed += 1
    print(f"{len(tests) - failed} of {len(tests)} passed")
    sys.exit(1 if failed else 0)
