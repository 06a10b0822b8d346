# SPDX-License-Identifier: Apache-2.0
"""Write the fuzzers' seeds: small valid inputs of every kind. Run it after a format changes:
W4A16_LIBRARY=build/libw4a16.so python3 tests/fuzz/make_seeds.py tests/fuzz/seeds"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "format"))
from oracle_common import *

ROOT = sys.argv[1]


def path(kind, name):
    os.makedirs(os.path.join(ROOT, kind), exist_ok=True)
    return os.path.join(ROOT, kind, name)


def module(seed, n, k, g, dtype="float16"):
    random = np.random.default_rng(seed)
    g_idx = group_index(k, g)
    groups = int(g_idx[-1]) + 1
    return make_codes(random, n, k), random.integers(1, 16, (n, groups)), make_scales(random, n, groups, dtype), g_idx


AWQ_CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
GPTQ_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
CT_CONFIG = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
    "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group",
                                       "group_size": 32, "actorder": "group"}}}, "ignore": ["lm_head"]}

q, z, s, g_idx = module(1, 8, 64, 32)
eight = np.full(z.shape, 8)
shuffled = np.random.default_rng(2).permutation(g_idx)
odd = module(3, 3, 5, -1, "bf16")
checkpoints = {
    "awq": (awq_tensors("m", q, z, s), AWQ_CONFIG),
    "awq_shapes": (awq_tensors("m", q, z, s), None),
    "gptq_v1": (gptq_tensors("m", q, z, s, g_idx), GPTQ_CONFIG),
    "gptq_v2": (gptq_tensors("m", q, z, s, shuffled, False), {**GPTQ_CONFIG, "checkpoint_format": "gptq_v2"}),
    "gptq_sym": (gptq_tensors("m", q, eight, s, None), {**GPTQ_CONFIG, "sym": True, "desc_act": False}),
    "gptq_shapes": (gptq_tensors("m", q, eight, s, None), None),
    "compressed": (compressed_tensors("m", q, z, s, shuffled), CT_CONFIG),
    "compressed_shapes": (compressed_tensors("m", q, None, s), None),
    "compressed_odd": (compressed_tensors("m", odd[0], odd[1], odd[2]), None),
    "hqq": ({"m.W_q": np.zeros((4, 4), np.uint8), "m.scale": np.ones(4, np.float16)}, None),
    "mxfp4": ({"m_blocks": np.zeros((1, 1, 1, 16), np.uint8), "m_scales": np.zeros((1, 1, 1), np.uint8)}, None),
}
for name, (tensors, config) in checkpoints.items():
    metadata = None if config is None else {"quantization_config": json.dumps(config)}
    write_safetensors(path("checkpoint", name), tensors, metadata)

write_safetensors(path("safetensors", "empty"), {})
write_safetensors(path("safetensors", "types"), {
    "a": np.zeros((2, 3), np.float16), "b": Bf16(np.ones((1,))), "c": np.zeros((0, 4), np.int64),
    "d": np.float64(1).reshape(()), "e": np.zeros(3, bool)}, {"format": "pt"}, 3)

texts = {
    "index": {"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                             "b": "model-00002-of-00002.safetensors"}},
    "awq": {"model_type": "x", "quantization_config": AWQ_CONFIG},
    "gptq": {"quantization_config": {**GPTQ_CONFIG, "dynamic": {"-:^a$": {}, "+:b": {"bits": 8}}}},
    "compressed": {"quantization_config": CT_CONFIG},
    "quant_config": {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"},
    "quantize_config": {"bits": 4, "group_size": -1, "desc_act": True, "checkpoint_format": "gptq_v2"},
}
for name, text in texts.items():
    with open(path("index", name), "w") as file:
        json.dump(text, file)

point = {"m": 16, "configs": [["sm90_a", 5.5], ["sm80_b", 6]], "timed": 9, "date": "2026-11-21T16:05:00Z"}
problem = {"n": 64, "k": 128, "group_size": 64, "zero_points": "integer", "scales": "even", "dtype": "bf16",
           "output_dtype": "fp16", "scale_dtype": "fp32", "flags": ["batch-invariant"], "points": [point]}
device = {"device": "GPU", "code": "sm_90a", "processors": 132, "memory_mhz": 3200, "library": "0123456789abcdef",
          "problems": [problem]}
other = {**device, "device": "CPU \\ \"x\"", "memory_mhz": 0, "problems": [
    {**problem, "group_size": -1, "flags": [], "scales": "uneven", "points": [point, {**point, "m": 3}]}]}
for name, devices in {"empty": [], "one": [device], "two": [other, device], "twice": [device, device]}.items():
    with open(path("cache", name), "w") as file:
        json.dump({"format": "w4a16 cache", "version": 1, "devices": devices}, file)

# The same with the bit that has the length mended, so that mutations may change the header's length.
for kind in ("safetensors", "checkpoint"):
    for name in os.listdir(os.path.join(ROOT, kind)):
        if name.endswith("_mended"):
            continue
        with open(path(kind, name), "rb") as file:
            data = bytearray(file.read())
        data[7] |= 0x80
        with open(path(kind, name + "_mended"), "wb") as file:
            file.write(data)

# Packed files are the library's own format: it writes them itself, from the checkpoints above.
options = ContextOptions(ctypes.sizeof(ContextOptions), b"cpu", 1, None)
context = ctypes.c_void_p()
call("w4a16_context_create", ctypes.byref(options), ctypes.byref(context))
for name in ("awq", "gptq_v2", "compressed_shapes", "compressed_odd"):
    weight = ctypes.c_void_p()
    file = path("checkpoint", name) + ".safetensors"
    os.rename(path("checkpoint", name), file)
    try:
        with Checkpoint(file) as checkpoint:
            call("w4a16_checkpoint_load", checkpoint.handle, context, b"m", ctypes.byref(weight))
            call("w4a16_weight_save", weight, path("packed_file", name).encode(), 1)
            library.w4a16_weight_destroy(weight)
    finally:
        os.rename(file, path("checkpoint", name))
library.w4a16_context_destroy(context)
