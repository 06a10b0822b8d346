# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every supported layout, written by numpy: the library must decode and import exactly what was put in,
and name what it does not support or what contradicts itself."""
import os

from oracle_common import *

AWQ_CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}


def ct_config(symmetric, group_size, **more):
    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "group_size": None if group_size == -1 else group_size,
               "strategy": "channel" if group_size == -1 else "group", **more}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}}


def write_folder(folder, tensors, config, config_file="config.json"):
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    if config is not None:
        with open(os.path.join(folder, config_file), "w") as file:
            json.dump({"model_type": "x", "quantization_config": config} if config_file == "config.json" else config, file)
    return folder


def check(path, module, q, z, s, g_idx, format, variant, group_size):
    """Both ways of decoding against the numbers that went in."""
    n, k = q.shape
    groups = s.shape[1]
    symmetric = z is None or bool(np.all(z == 8))
    order = np.argsort(g_idx, kind="stable")
    with Checkpoint(path) as checkpoint:
        info = [entry for entry in checkpoint.modules() if entry.name.decode() == module][0]
        assert info.supported, info.reason
        assert (info.format, info.variant.decode(), info.n, info.k, info.groups) == (format, variant, n, k, groups)
        assert info.group_size == (k if group_size == -1 else group_size)
        assert info.zero_kind == (SYMMETRIC if symmetric else INTEGER), info.zero_kind
        assert info.act_order == (not np.array_equal(order, np.arange(k)))
        want = dequantise(q, z, s, g_idx)
        stride = k + 5
        got = checkpoint.dequantize(module, n, k, FP64, stride)
        assert np.array_equal(got[:, :k], want)
        assert np.all(got[:, k:] == 77), "elements beyond K were written"
        assert np.array_equal(checkpoint.dequantize(module, n, k, FP32), want.astype(np.float32))
        assert np.array_equal(checkpoint.dequantize(module, n, k, FP16), want.astype(np.float16))
        if np.array_equal(want.astype(np.float32), want):
            assert np.array_equal(checkpoint.dequantize(module, n, k, BF16), nearest_bf16(want))
        weight, codes, scales, zeros, k_order = checkpoint.load(module)
        assert (weight.n, weight.k, weight.groups) == (n, k, groups)
        assert weight.zero_kind == (SYMMETRIC if symmetric else INTEGER)
        assert weight.has_k_order == info.act_order
        assert np.array_equal(k_order, order)
        assert np.array_equal(codes, q[:, order])
        assert np.array_equal(scales, scale_bits(s))
        assert np.array_equal(zeros, np.full((n, groups), 8) if z is None else z)


def matrix(seed, n, k, group_size, dtype="float16", low=0, high=16):
    random = np.random.default_rng(seed)
    g_idx = group_index(k, group_size)
    groups = g_idx[-1] + 1
    return make_codes(random, n, k), random.integers(low, high, (n, groups)), make_scales(random, n, groups, dtype), g_idx


def shuffled(seed, g_idx):
    return np.random.default_rng(seed).permutation(g_idx)


# ---- AWQ -----------------------------------------------------------------------------------------------------------

def test_awq(folder):
    for seed, (n, k, g, dtype) in enumerate([(64, 256, 64, "float16"), (24, 96, 32, "bf16"), (8, 100, -1, "float16"),
                                             (136, 512, 128, "float32"), (16, 33, -1, "float16")]):
        q, z, s, g_idx = matrix(seed, n, k, g, dtype)
        write_folder(folder, awq_tensors("a.b", q, z, s), {**AWQ_CONFIG, "group_size": g})
        check(folder, "a.b", q, z, s, g_idx, AWQ, "gemm", g)


def test_awq_known_word(folder):
    q = np.tile(np.arange(8)[:, None], (1, 32))
    tensors = awq_tensors("m", q, np.full((8, 1), 3), np.ones((8, 1), np.float16))
    assert hex(tensors["m.qweight"][0, 0]) == "0x75316420"
    write_folder(folder, tensors, None)
    check(folder, "m", q, np.full((8, 1), 3), np.ones((8, 1), np.float16), np.zeros(32, int), AWQ, "gemm", 32)


def test_awq_zero_points_of_eight_are_symmetric(folder):
    q, z, s, g_idx = matrix(7, 16, 128, 64)
    z[:] = 8
    write_folder(folder, awq_tensors("m", q, z, s), AWQ_CONFIG)
    check(folder, "m", q, z, s, g_idx, AWQ, "gemm", 64)


def test_awq_own_config_file(folder):
    q, z, s, g_idx = matrix(8, 16, 128, 32)
    write_folder(folder, awq_tensors("m", q, z, s), {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"},
                 "quant_config.json")
    check(folder, "m", q, z, s, g_idx, AWQ, "gemm", 32)


# ---- GPTQ ----------------------------------------------------------------------------------------------------------

def test_gptq_versions(folder):
    for seed, (label, minus_one, variant) in enumerate([(None, True, "v1"), ("gptq", True, "v1"), ("gptq_v2", False, "v2")]):
        for dtype in ("float16", "bf16", "float32"):
            q, z, s, g_idx = matrix(seed, 40, 192, 64, dtype, 1, 16)
            config = dict(GPTQ_CONFIG)
            if label:
                config["checkpoint_format"] = label
            write_folder(folder, gptq_tensors("m", q, z, s, g_idx, minus_one), config)
            check(folder, "m", q, z, s, g_idx, GPTQ, variant, 64)


def test_gptq_short_last_group_and_no_g_idx(folder):
    for with_index in (True, False):
        q, z, s, g_idx = matrix(3, 16, 160, 64, low=1)
        write_folder(folder, gptq_tensors("m", q, z, s, g_idx if with_index else None), GPTQ_CONFIG)
        check(folder, "m", q, z, s, g_idx, GPTQ, "v1", 64)


def test_gptq_one_group(folder):
    q, z, s, g_idx = matrix(4, 16, 72, -1, low=1)
    for config in ({**GPTQ_CONFIG, "group_size": -1, "desc_act": True}, None):
        write_folder(folder, gptq_tensors("m", q, z, s, g_idx), config)
        check(folder, "m", q, z, s, g_idx, GPTQ, "v1", -1)
        os.path.exists(folder + "/config.json") and os.remove(folder + "/config.json")


def test_gptq_act_order(folder):
    for minus_one, label, k in ((True, "gptq", 256), (False, "gptq_v2", 256), (False, "gptq_v2", 160)):
        q, z, s, g_idx = matrix(5, 24, k, 64, low=1)
        g_idx = shuffled(6, g_idx)
        config = {**GPTQ_CONFIG, "desc_act": True, "checkpoint_format": label}
        write_folder(folder, gptq_tensors("m", q, z, s, g_idx, minus_one), config)
        check(folder, "m", q, z, s, g_idx, GPTQ, "v1" if minus_one else "v2", 64)


def test_gptq_symmetric_under_any_label(folder):
    q, _, s, g_idx = matrix(9, 16, 128, 64)
    eight = np.full(s.shape, 8)
    for label, variant in ((None, "v1"), ("gptq", "v1"), ("gptq_v2", "v2")):
        for stored_minus_one in (True, False):
            for sym in (True, None):
                config = {**GPTQ_CONFIG, "sym": sym, "checkpoint_format": label}
                tensors = gptq_tensors("m", q, eight, s, g_idx, stored_minus_one)
                word = np.uint32(0x77777777 if stored_minus_one else 0x88888888).view(np.int32)
                assert np.all(tensors["m.qzeros"] == word)
                write_folder(folder, tensors, config)
                check(folder, "m", q, None, s, g_idx, GPTQ, variant, 64)


def test_gptq_symmetric_with_both_values(folder):
    q, z, s, g_idx = matrix(10, 16, 128, 64, low=7, high=9)
    assert len(np.unique(z)) == 2
    write_folder(folder, gptq_tensors("m", q, z, s, g_idx, False), {**GPTQ_CONFIG, "sym": True})
    check(folder, "m", q, None, s, g_idx, GPTQ, "v1", 64)


def test_gptq_label_counts_where_stated_asymmetric(folder):
    q, _, s, g_idx = matrix(11, 16, 128, 64)
    for label, minus_one, value, variant in (("gptq_v2", False, 7, "v2"), ("gptq", True, 9, "v1")):
        z = np.full(s.shape, value)
        write_folder(folder, gptq_tensors("m", q, z, s, g_idx, minus_one), {**GPTQ_CONFIG, "checkpoint_format": label})
        check(folder, "m", q, z, s, g_idx, GPTQ, variant, 64)


def test_gptq_nibble_fifteen_is_sixteen(folder):
    q, z, s, g_idx = matrix(12, 16, 128, 64, low=1, high=17)
    assert np.any(z == 16)
    write_folder(folder, gptq_tensors("m", q, z, s, g_idx), GPTQ_CONFIG)
    log_lines.clear()
    check(folder, "m", q, z, s, g_idx, GPTQ, "v1", 64)
    warnings = [line for line in log_lines if "m.qzeros" in line and "16" in line]
    assert len(warnings) == 1, log_lines


def test_gptq_from_shapes_alone(folder):
    for with_index in (True, False):
        q, z, s, g_idx = matrix(13, 64, 256, 32, low=1)
        write_folder(folder, gptq_tensors("m", q, z, s, g_idx if with_index else None), None)
        check(folder, "m", q, z, s, g_idx, GPTQ, "v1", 32)
    for minus_one in (True, False):
        write_folder(folder, gptq_tensors("m", q, np.full(s.shape, 8), s, None, minus_one), None)
        check(folder, "m", q, None, s, g_idx, GPTQ, "v1", 32)


def test_gptq_own_config_file(folder):
    q, z, s, g_idx = matrix(14, 16, 128, 64, low=1)
    write_folder(folder, gptq_tensors("m", q, z, s, g_idx), {"bits": 4, "group_size": 64, "desc_act": False},
                 "quantize_config.json")
    check(folder, "m", q, z, s, g_idx, GPTQ, "v1", 64)


# ---- compressed-tensors --------------------------------------------------------------------------------------------

def test_compressed_tensors(folder):
    shapes = [(32, 128, 64), (7, 256, 128), (13, 96, 32), (9, 37, -1), (1, 32, 32), (17, 1001, -1)]
    for seed, (n, k, g) in enumerate(shapes):
        for dtype in ("float16", "bf16", "float32"):
            for symmetric in (True, False):
                q, z, s, g_idx = matrix(seed, n, k, g, dtype)
                z = None if symmetric else z
                if z is not None:
                    z[0, 0] = 3
                write_folder(folder, compressed_tensors("m", q, z, s), ct_config(symmetric, g))
                check(folder, "m", q, z, s, g_idx, COMPRESSED_TENSORS, "pack-quantized", g)


def test_compressed_tensors_act_order(folder):
    for symmetric in (True, False):
        q, z, s, g_idx = matrix(20, 24, 256, 64, "bf16")
        g_idx = shuffled(21, g_idx)
        z = None if symmetric else z
        write_folder(folder, compressed_tensors("m", q, z, s, g_idx), ct_config(symmetric, 64, actorder="group"))
        check(folder, "m", q, z, s, g_idx, COMPRESSED_TENSORS, "pack-quantized", 64)


def test_compressed_tensors_two_group_sizes(folder):
    a, b = matrix(22, 16, 256, 64), matrix(23, 16, 256, 128)
    config = ct_config(True, 64)
    config["config_groups"]["group_1"] = ct_config(True, 128)["config_groups"]["group_0"]
    write_folder(folder, {**compressed_tensors("a", a[0], None, a[2]), **compressed_tensors("b", b[0], None, b[2])}, config)
    check(folder, "a", a[0], None, a[2], a[3], COMPRESSED_TENSORS, "pack-quantized", 64)
    check(folder, "b", b[0], None, b[2], b[3], COMPRESSED_TENSORS, "pack-quantized", 128)


def test_compressed_tensors_from_shapes_alone(folder):
    q, z, s, g_idx = matrix(24, 10, 192, 64)
    for zeros in (z, None):
        write_folder(folder, compressed_tensors("m", q, zeros, s), None)
        check(folder, "m", q, zeros, s, g_idx, COMPRESSED_TENSORS, "pack-quantized", 64)


# ---- Files and folders ---------------------------------------------------------------------------------------------

def test_shards_that_split_a_module(folder):
    q, z, s, g_idx = matrix(30, 16, 128, 64)
    tensors = {**awq_tensors("x.a", q, z, s), **awq_tensors("x.b", q, z, s)}
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [{}, {}]
    for i, name in enumerate(tensors):
        parts[i % 2][name] = tensors[name]
    for name, part in zip(names, parts):
        write_safetensors(os.path.join(folder, name), part)
    weight_map = {tensor: name for name, part in zip(names, parts) for tensor in part}
    with open(folder + "/model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {"total_size": 1}, "weight_map": weight_map}, file)
    with open(folder + "/config.json", "w") as file:
        json.dump({"quantization_config": AWQ_CONFIG}, file)
    for name in ("x.a", "x.b"):
        check(folder, name, q, z, s, g_idx, AWQ, "gemm", 64)
    expect_failure(FORMAT, [names[0], "missing", "x.a"], Checkpoint, os.path.join(folder, names[0]))
    os.remove(os.path.join(folder, names[1]))
    expect_failure(NOT_FOUND, ["index.json", names[1], "missing"], Checkpoint, folder)


def test_any_alignment(folder):
    q, z, s, g_idx = matrix(31, 16, 128, 64, "float32", low=1)
    path = os.path.join(folder, "lone.safetensors")
    starts = set()
    for pad in range(8):
        tensors = {"odd": np.zeros(pad + 1, np.uint8), **gptq_tensors("m", q, z, s, g_idx)}
        write_safetensors(path, tensors, {"quantization_config": json.dumps(GPTQ_CONFIG)}, pad)
        with open(path, "rb") as file:
            starts.add((8 + struct.unpack("<Q", file.read(8))[0] + pad + 1) % 8)
        check(path, "m", q, z, s, g_idx, GPTQ, "v1", 64)
    assert len(starts) >= 4, starts


def test_config_beside_a_file(folder):
    q, z, s, g_idx = matrix(32, 16, 128, 64)
    write_folder(folder, gptq_tensors("m", q, z, s, g_idx, False), {**GPTQ_CONFIG, "checkpoint_format": "gptq_v2"})
    check(os.path.join(folder, "model.safetensors"), "m", q, z, s, g_idx, GPTQ, "v2", 64)
    os.chdir(folder)
    check("model.safetensors", "m", q, z, s, g_idx, GPTQ, "v2", 64)
    os.chdir("/")


# ---- What is refused -----------------------------------------------------------------------------------------------

def refuse(folder, tensors, config, variant, *words):
    write_folder(folder, tensors, config)
    with Checkpoint(folder) as checkpoint:
        info, = checkpoint.modules()
        assert not info.supported
        assert info.variant.decode() == variant, info.variant
        for word in words:
            assert word in info.reason.decode(), info.reason
        expect_failure(UNSUPPORTED, [info.name.decode(), *words], checkpoint.load, info.name.decode())
        expect_failure(UNSUPPORTED, [info.name.decode(), *words], checkpoint.dequantize, info.name.decode(), 1, 1)
    if os.path.exists(folder + "/config.json"):
        os.remove(folder + "/config.json")


def zeros32(*shape):
    return np.zeros(shape, np.int32)


def ones16(*shape):
    return np.ones(shape, np.float16)


def test_unsupported_variants(folder):
    gemv = {"m.qweight": zeros32(64, 32), "m.qzeros": zeros32(64, 2), "m.scales": ones16(64, 16)}
    refuse(folder, gemv, {**AWQ_CONFIG, "version": "gemv"}, "gemv", "gemv", "gemm")
    refuse(folder, gemv, {k: v for k, v in AWQ_CONFIG.items() if k != "version"}, "gemv", "gemv", "gemm")
    refuse(folder, gemv, None, "gemv", "gemv", "gemm")
    fast = {"m.qweight": np.zeros((16, 256), np.int16), "m.qzeros": ones16(4, 64), "m.scales": ones16(4, 64)}
    refuse(folder, fast, {**AWQ_CONFIG, "version": "gemv_fast"}, "gemv_fast", "gemv_fast", "gemm")
    refuse(folder, fast, None, "gemv_fast", "gemv_fast", "gemm")
    three = {"m.qweight": zeros32(24, 64), "m.qzeros": zeros32(4, 6), "m.scales": ones16(4, 64), "m.g_idx": zeros32(256)}
    refuse(folder, three, {**GPTQ_CONFIG, "bits": 3}, "v1", "3-bit", "4-bit")
    refuse(folder, three, None, "v1", "3-bit", "4-bit")
    eight = {"m.qweight": zeros32(64, 64), "m.qzeros": zeros32(4, 16), "m.scales": ones16(4, 64)}
    refuse(folder, eight, {**GPTQ_CONFIG, "bits": 8}, "v1", "8-bit", "4-bit")
    refuse(folder, eight, None, "v1", "8-bit", "4-bit")
    good = gptq_tensors("m", *matrix(40, 16, 128, 64, low=1)[:3])
    for label in ("gptq_p", "marlin", "bitblas"):
        refuse(folder, good, {**GPTQ_CONFIG, "checkpoint_format": label}, label, label, "gptq_v2")
    refuse(folder, good, {**GPTQ_CONFIG, "is_marlin_format": True}, "marlin", "marlin", "gptq_v2")
    refuse(folder, good, {"quant_method": "quip"}, "", "quip", "awq")
    refuse(folder, {"m.W_q": np.zeros((64, 64), np.uint8), "m.scale": ones16(128), "m.zero": ones16(128)}, None, "hqq", "HQQ")
    refuse(folder, {"m.B": zeros32(8, 128), "m.s": ones16(1, 64)}, None, "marlin", "Marlin")
    refuse(folder, {"m_blocks": np.zeros((2, 8, 4, 16), np.uint8), "m_scales": np.zeros((2, 8, 4), np.uint8)}, None,
           "mxfp4", "MXFP4")
    fp4 = {"m.weight_packed": np.zeros((8, 32), np.uint8), "m.weight_scale": np.zeros((8, 4), np.uint8)}
    refuse(folder, fp4, None, "mxfp4-pack-quantized", "mxfp4")
    refuse(folder, {**fp4, "m.weight_global_scale": np.ones(1, np.float32)}, None, "nvfp4-pack-quantized", "nvfp4")
    ct8 = {"m.weight_packed": zeros32(8, 16), "m.weight_scale": ones16(8, 1), "m.weight_shape": np.array([8, 64])}
    refuse(folder, ct8, None, "pack-quantized", "8-bit", "4-bit")
    refuse(folder, ct8, ct_config(True, -1, num_bits=8), "pack-quantized", "8-bit", "4-bit")
    small = awq_tensors("m", *matrix(41, 16, 64, 16)[:3])
    refuse(folder, small, {**AWQ_CONFIG, "group_size": 16}, "gemm", "group size 16", "32")
    refuse(folder, small, None, "gemm", "group size 16", "32")


def test_shapes_that_disagree(folder):
    path = os.path.join(folder, "model.safetensors")
    q, z, s, g_idx = matrix(42, 16, 128, 64, low=1)

    def lie(tensors, config, name, array, *words):
        changed = {k: (array if k == name else v) for k, v in tensors.items() if not (k == name and array is None)}
        write_folder(folder, changed, config)
        expect_failure(FORMAT, [path, name, *words], Checkpoint, folder)

    awq = awq_tensors("m", q, z, s)
    lie(awq, AWQ_CONFIG, "m.qzeros", zeros32(2, 3), "[2, 3]", "[2, 2]")
    lie(awq, AWQ_CONFIG, "m.qzeros", zeros32(1, 2), "[1, 2]", "[2, 2]")
    lie(awq, AWQ_CONFIG, "m.scales", ones16(2, 24), "[2, 24]", "[2, 16]")
    lie(awq, AWQ_CONFIG, "m.scales", zeros32(2, 16), "int32", "fp16")
    lie(awq, AWQ_CONFIG, "m.qweight", np.zeros((128, 2), np.int64), "int64", "int32")
    lie(awq, AWQ_CONFIG, "m.qweight", zeros32(128, 2, 1), "[128, 2, 1]")
    lie(awq, {**AWQ_CONFIG, "group_size": 32}, "m.scales", s.T.copy(), "group_size 32", "4")
    lie(awq, AWQ_CONFIG, "m.qzeros", None, "missing")
    lie(awq, AWQ_CONFIG, "m.scales", None, "missing")
    gptq = gptq_tensors("m", q, z, s, g_idx)
    lie(gptq, GPTQ_CONFIG, "m.g_idx", zeros32(127), "[127]", "[128]")
    lie(gptq, GPTQ_CONFIG, "m.scales", ones16(2, 8), "[2, 8]", "[2, 16]")
    lie(gptq, GPTQ_CONFIG, "m.qzeros", zeros32(3, 2), "[3, 2]", "[2, 2]")
    lie(gptq, {**GPTQ_CONFIG, "desc_act": True}, "m.g_idx", None, "missing")
    packed = compressed_tensors("m", q, z, s)
    lie(packed, ct_config(False, 64), "m.weight_packed", zeros32(16, 17), "[16, 17]", "[16, 16]")
    lie(packed, ct_config(False, 64), "m.weight_shape", np.array([15, 128]), "[15, 128]")
    lie(packed, ct_config(False, 64), "m.weight_shape", np.array([16, -1]), "[16, -1]")
    lie(packed, ct_config(False, 64), "m.weight_scale", ones16(16, 3), "64")
    lie(packed, ct_config(False, 64), "m.weight_zero_point", zeros32(16, 2), "[16, 2]", "[2, 2]")
    lie(packed, ct_config(False, 64), "m.weight_zero_point", None, "missing")
    lie(packed, ct_config(False, 64), "m.weight_shape", None, "missing")


def test_values_that_are_damaged(folder):
    q, z, s, g_idx = matrix(43, 16, 128, 64, low=1)
    for value, text in ((np.nan, "nan"), (np.inf, "inf"), (0, "0")):
        bad = s.copy()
        bad[5, 1] = value
        for tensors, config, name in ((awq_tensors("m", q, z, bad), AWQ_CONFIG, "m.scales"),
                                      (gptq_tensors("m", q, z, bad, g_idx), GPTQ_CONFIG, "m.scales"),
                                      (compressed_tensors("m", q, z, bad), ct_config(False, 64), "m.weight_scale")):
            write_folder(folder, tensors, config)
            with Checkpoint(folder) as checkpoint:
                expect_failure(FORMAT, ["model.safetensors", name, "n 5", "group 1", text], checkpoint.load, "m")
    for value in (-1, 2, 2**31 - 1, -2**31):
        index = g_idx.copy()
        index[77] = value
        write_folder(folder, gptq_tensors("m", q, z, s, index), GPTQ_CONFIG)
        with Checkpoint(folder) as checkpoint:
            words = ["model.safetensors", "m.g_idx", "[77]", str(value)]
            expect_failure(FORMAT, words, checkpoint.load, "m")
            expect_failure(FORMAT, words, checkpoint.dequantize, "m", 16, 128)
    index = g_idx.copy()
    index[0] = 1
    write_folder(folder, gptq_tensors("m", q, z, s, index), GPTQ_CONFIG)
    with Checkpoint(folder) as checkpoint:
        expect_failure(UNSUPPORTED, ["m.g_idx", "group 0", "63", "64"], checkpoint.load, "m")
        assert np.array_equal(checkpoint.dequantize("m", 16, 128), dequantise(q, z, s, index))


if __name__ == "__main__":
    run_tests(globals())
