# SPDX-License-Identifier: Apache-2.0
"""What the library writes, read back by numpy and the reference safetensors package: conversions between all formats,
quantised folders, their configs and everything that must be carried over."""
import os
import stat

from oracle_common import *

FORMATS = (COMPRESSED_TENSORS, GPTQ, AWQ)


def read_module(tensors, name, format):
    """(codes [N, K], zero points [N, G], scales [N, G], g_idx [K]) by the format's own layout."""
    if format == AWQ:
        words, scales = tensors[name + ".qweight"], tensors[name + ".scales"]
        assert scales.dtype == np.float16 and words.dtype == np.int32
        (k, columns), (groups, n) = words.shape, scales.shape
        assert columns * 8 == n and tensors[name + ".qzeros"].shape == (groups, n // 8)
        return (unpack_last(words, n, AWQ_ORDER).T, unpack_last(tensors[name + ".qzeros"], n, AWQ_ORDER).T, scales.T,
                np.arange(k) // -(-k // groups))
    if format == GPTQ:
        words, scales, g_idx = (tensors[name + suffix] for suffix in (".qweight", ".scales", ".g_idx"))
        k, n = words.shape[0] * 8, words.shape[1]
        assert g_idx.shape == (k,) and g_idx.dtype == np.int32
        return unpack_last(words.T, k), unpack_last(tensors[name + ".qzeros"], n).T, transposed(scales), g_idx
    shape = tensors[name + ".weight_shape"]
    assert shape.dtype == np.int64 and shape.shape == (2,)
    n, k = (int(extent) for extent in shape)
    words, scales = tensors[name + ".weight_packed"], tensors[name + ".weight_scale"]
    assert words.shape == (n, -(-k // 8)) and words.dtype == np.int32
    groups = scales.shape[1]
    zeros = tensors.get(name + ".weight_zero_point")
    zeros = np.full((n, groups), 8) if zeros is None else unpack_last(zeros.T, n).T
    g_idx = tensors.get(name + ".weight_g_idx", np.arange(k) // -(-k // groups))
    return unpack_last(words, k), zeros, scales, g_idx


def convert(source, target, format, overwrite=False, progress=None):
    options = ConvertOptions()
    library.w4a16_convert_options_init(ctypes.byref(options))
    options.format, options.overwrite = format, overwrite
    if progress:
        options.progress = PROGRESS(progress)
    call("w4a16_checkpoint_convert", str(source).encode(), str(target).encode(), ctypes.byref(options))


def bits(array):
    return array.bits if isinstance(array, Bf16) else array


def make_module(seed, n, k, group_size, dtype="float16", symmetric=False, act_order=False):
    random = np.random.default_rng(seed)
    g_idx = group_index(k, group_size)
    groups = int(g_idx[-1]) + 1
    z = np.full((n, groups), 8) if symmetric else random.integers(0, 16, (n, groups))
    if act_order:
        g_idx = random.permutation(g_idx)
    return make_codes(random, n, k), z, make_scales(random, n, groups, dtype), g_idx


def write_source(path, modules, extra=None, act_order=False):
    """A compressed-tensors file of {name: module}."""
    tensors = {}
    for name, (q, z, s, g_idx) in modules.items():
        tensors.update(compressed_tensors(name, q, None if np.all(z == 8) else z, s, g_idx if act_order else None))
    tensors.update(extra or {})
    write_safetensors(path, tensors, {"format": "pt", "note": "kept"})
    return path


def file_config(path):
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    return json.loads(metadata["quantization_config"]), metadata


def same_module(tensors, name, format, module):
    q, z, s, g_idx = module
    got_q, got_z, got_s, got_g = read_module(tensors, name, format)
    assert np.array_equal(got_q, q), "codes"
    assert np.array_equal(got_z, z), "zero points"
    assert np.array_equal(bits(got_s), bits(s)), "scales"
    assert np.array_equal(got_g, g_idx), "g_idx"


def test_convert_through_all_formats(folder):
    """compressed-tensors -> GPTQ -> AWQ -> compressed-tensors -> AWQ -> GPTQ: the numbers never change."""
    for seed, (n, k, g, symmetric) in enumerate([(16, 128, 64, False), (24, 256, 32, True), (8, 96, -1, False),
                                                 (64, 512, 128, False), (16, 64, -1, True)]):
        module = make_module(seed, n, k, g, symmetric=symmetric)
        extra = {"bias": np.arange(5, dtype=np.float32)}
        path = write_source(os.path.join(folder, f"{seed}.safetensors"), {"x.m": module}, extra)
        for step, format in enumerate((GPTQ, AWQ, COMPRESSED_TENSORS, AWQ, GPTQ)):
            target = os.path.join(folder, f"{seed}-{step}.safetensors")
            convert(path, target, format)
            tensors = read_safetensors(target)
            same_module(tensors, "x.m", format, module)
            assert np.array_equal(tensors["bias"], extra["bias"])
            config, metadata = file_config(target)
            assert metadata["note"] == "kept"
            if format == GPTQ:
                assert config == {"quant_method": "gptq", "bits": 4, "group_size": g, "desc_act": False, "sym": symmetric,
                                  "checkpoint_format": "gptq_v2", "lm_head": False}
                assert set(tensors) == {"x.m.qweight", "x.m.qzeros", "x.m.scales", "x.m.g_idx", "bias"}
            elif format == AWQ:
                assert config == {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": g,
                                  "zero_point": True, "modules_to_not_convert": None}
                assert set(tensors) == {"x.m.qweight", "x.m.qzeros", "x.m.scales", "bias"}
            else:
                weights = config["config_groups"]["group_0"]["weights"]
                assert weights["symmetric"] == symmetric and weights["num_bits"] == 4 and weights["type"] == "int"
                assert weights["strategy"] == ("channel" if g == -1 else "group")
                assert weights["group_size"] == (None if g == -1 else g)
                assert weights["actorder"] is None
                assert ("x.m.weight_zero_point" in tensors) == (not symmetric)
            path = target


def test_compressed_tensors_config(folder):
    path = write_source(folder + "/a.safetensors", {"m": make_module(1, 16, 128, 64)},
                        {"norm.weight": np.ones(16, np.float16), "head.weight": np.ones((4, 16), np.float16)})
    convert(path, folder + "/b.safetensors", COMPRESSED_TENSORS)
    config, _ = file_config(folder + "/b.safetensors")
    assert config["quant_method"] == "compressed-tensors"
    assert config["format"] == "pack-quantized"
    assert config["quantization_status"] == "compressed"
    assert config["kv_cache_scheme"] is None
    assert config["ignore"] == ["head", "lm_head"]
    group, = config["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["input_activations"] is None and group["output_activations"] is None
    assert group["weights"]["dynamic"] is False and group["weights"]["observer"] == "minmax"


def test_act_order(folder):
    for k in (256, 128):
        module = make_module(2, 16, k, 64, act_order=True)
        path = write_source(folder + "/a.safetensors", {"m": module}, act_order=True)
        for format, name in ((GPTQ, "g"), (COMPRESSED_TENSORS, "c")):
            target = f"{folder}/{name}.safetensors"
            convert(path, target, format, overwrite=True)
            same_module(read_safetensors(target), "m", format, module)
            config, _ = file_config(target)
            if format == GPTQ:
                assert config["desc_act"] is True
            else:
                assert config["config_groups"]["group_0"]["weights"]["actorder"] == "group"
        expect_failure(UNSUPPORTED, ["module 'm'", "act-order"], convert, path, folder + "/x.safetensors", AWQ)
        assert not os.path.exists(folder + "/x.safetensors")


def test_scale_types(folder):
    for dtype in ("bf16", "float32"):
        module = make_module(3, 16, 128, 64, dtype)
        path = write_source(folder + f"/{dtype}.safetensors", {"m": module})
        for format in (COMPRESSED_TENSORS, GPTQ):
            target = f"{folder}/{dtype}-{format}.safetensors"
            convert(path, target, format)
            same_module(read_safetensors(target), "m", format, module)
        if dtype == "float32":
            expect_failure(UNSUPPORTED, ["module 'm'", "n 0", "group 0", "fp16"], convert, path,
                           folder + "/x.safetensors", AWQ)
        else:
            convert(path, folder + "/y.safetensors", AWQ)
            got = read_module(read_safetensors(folder + "/y.safetensors"), "m", AWQ)
            assert np.array_equal(got[2].astype(np.float32), module[2].numbers())
    assert sorted(os.listdir(folder)) == sorted(
        ["bf16.safetensors", "float32.safetensors", "y.safetensors"] +
        [f"{d}-{f}.safetensors" for d in ("bf16", "float32") for f in (1, 2, 3) if f != AWQ])


def test_shapes_that_a_format_cannot_hold(folder):
    def refuse(format, n, k, g, *words):
        path = write_source(folder + "/a.safetensors", {"m": make_module(4, n, k, g)})
        expect_failure(UNSUPPORTED, ["module 'm'", *words], convert, path, folder + "/b.safetensors", format)
        assert os.listdir(folder) == ["a.safetensors"]

    refuse(AWQ, 12, 128, 64, "N = 12")
    refuse(GPTQ, 12, 128, 64, "N = 12")
    refuse(GPTQ, 16, 36, -1, "K = 36")


def test_zero_point_of_sixteen_is_refused(folder):
    q, z, s, g_idx = make_module(5, 16, 128, 64)
    z[3, 1] = 16
    z[z == 0] = 1
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}
    write_safetensors(folder + "/a.safetensors", gptq_tensors("m", q, z, s, g_idx),
                      {"quantization_config": json.dumps(config)})
    for format in FORMATS:
        expect_failure(UNSUPPORTED, ["module 'm'", "n 3", "group 1", "16"], convert, folder + "/a.safetensors",
                       folder + "/b.safetensors", format)
    assert os.listdir(folder) == ["a.safetensors"]


def test_all_zero_points_seven_stay_seven(folder):
    """0x77777777 looks symmetric under another label; the config that is written must settle it."""
    module = make_module(6, 16, 128, 64)
    module[1][:] = 7
    path = write_source(folder + "/a.safetensors", {"m": module})
    convert(path, folder + "/g.safetensors", GPTQ)
    convert(folder + "/g.safetensors", folder + "/c.safetensors", COMPRESSED_TENSORS)
    same_module(read_safetensors(folder + "/c.safetensors"), "m", COMPRESSED_TENSORS, module)


def test_group_sizes_that_differ(folder):
    modules = {"a": make_module(7, 16, 256, 64), "b": make_module(8, 16, 256, 128), "c": make_module(9, 16, 256, 64),
               "d": make_module(10, 16, 64, 64), "e": make_module(11, 16, 32, -1)}
    path = write_source(folder + "/a.safetensors", modules)
    convert(path, folder + "/c.safetensors", COMPRESSED_TENSORS)
    tensors = read_safetensors(folder + "/c.safetensors")
    for name, module in modules.items():
        same_module(tensors, name, COMPRESSED_TENSORS, module)
    config, _ = file_config(folder + "/c.safetensors")
    first, second = config["config_groups"]["group_0"], config["config_groups"]["group_1"]
    assert first["targets"] == ["Linear"] and first["weights"]["group_size"] == 64
    assert second["targets"] == ["b"] and second["weights"]["group_size"] == 128
    expect_failure(UNSUPPORTED, ["'a'", "64", "'b'", "128"], convert, path, folder + "/x.safetensors", GPTQ)


def test_tensors_are_aligned(folder):
    extra = {"mask": np.ones(3, bool), "tiny": np.ones(1, np.float16), "wide": np.ones(3, np.float64)}
    path = write_source(folder + "/a.safetensors", {"m": make_module(12, 7, 37, -1), "n": make_module(13, 3, 32, 32)}, extra)
    convert(path, folder + "/b.safetensors", COMPRESSED_TENSORS)
    with open(folder + "/b.safetensors", "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    assert length % 8 == 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = {"I64": 8, "F64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1}[entry["dtype"]]
            assert entry["data_offsets"][0] % size == 0, (name, entry)


def make_model(folder, shards=2):
    """A sharded folder of floats with what usually stands around it."""
    random = np.random.default_rng(14)
    tensors = {"model.embed_tokens.weight": random.normal(size=(32, 64)).astype(np.float16),
               "model.norm.weight": np.ones(64, np.float16)}
    for layer in range(2):
        for name, n, k in (("q_proj", 64, 64), ("down_proj", 64, 128), ("gate", 4, 64)):
            tensors[f"model.layers.{layer}.{name}.weight"] = random.normal(size=(n, k)).astype(np.float16)
        tensors[f"model.layers.{layer}.q_proj.bias"] = random.normal(size=64).astype(np.float16)
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    parts = [dict(list(tensors.items())[i::shards]) for i in range(shards)]
    os.makedirs(folder + "/sub/deep")
    for name, part in zip(names, parts):
        write_safetensors(os.path.join(folder, name), part, {"format": "pt"})
    files = {"model.safetensors.index.json": json.dumps({"metadata": {"total_size": 1}, "weight_map": {
                 tensor: name for name, part in zip(names, parts) for tensor in part}}),
             "config.json": json.dumps({"model_type": "tiny", "rms_norm_eps": 1e-05, "name": "Zürich",
                                        "quantization_config": None}),
             "quantize_config.json": "{}",
             "tokenizer.json": "{\"a\": [1, 2]}", "sub/deep/notes.txt": "hello", "empty": ""}
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    return tensors, names, files


def quantize(source, target, format=COMPRESSED_TENSORS, progress=None, include=(), exclude=(), **more):
    options = QuantizeOptions()
    library.w4a16_quantize_options_init(ctypes.byref(options))
    options.format, options.group_size = format, 32
    for name, patterns in (("include", include), ("exclude", exclude)):
        setattr(options, name, (ctypes.c_char_p * max(1, len(patterns)))(*[text.encode() for text in patterns]))
        setattr(options, name + "_count", len(patterns))
    for name, value in more.items():
        setattr(options, name, value)
    if progress:
        options.progress = PROGRESS(progress)
    call("w4a16_checkpoint_quantize", str(source).encode(), str(target).encode(), ctypes.byref(options))


def test_quantised_folder(folder):
    source, target = folder + "/in", folder + "/out"
    os.makedirs(source)
    tensors, names, files = make_model(source)
    steps = []

    def progress(entry, user):
        steps.append((entry[0].tensor.decode(), entry[0].done_bytes, entry[0].total_bytes, entry[0].sqnr_db))
        assert not os.path.exists(target)
        return 0

    quantize(source, target, progress=progress, exclude=("*embed*", "*.gate"))
    assert steps[-1][1] == steps[-1][2] == sum(len(t.tobytes()) for t in tensors.values())
    assert [step[1] for step in steps] == sorted(step[1] for step in steps) and len(steps) == len(tensors)
    assert all((step[3] > 10) == ("proj" in step[0] and "bias" not in step[0]) for step in steps), steps
    with open(target + "/model.safetensors.index.json") as file:
        index = json.load(file)
    found, total = {}, 0
    for name in names:
        part = read_safetensors(os.path.join(target, name))
        assert all(index["weight_map"][tensor] == name for tensor in part)
        total += sum(len(array.tobytes()) for array in part.values())
        found.update(part)
    assert index["metadata"]["total_size"] == total and set(index["weight_map"]) == set(found)
    quantised = [f"model.layers.{i}.{name}" for i in range(2) for name in ("q_proj", "down_proj")]
    for name, array in tensors.items():
        module = name.removesuffix(".weight")
        if module not in quantised:
            assert np.array_equal(found[name], array), name
            continue
        assert name not in found
        q, z, s, g_idx = read_module(found, module, COMPRESSED_TENSORS)
        want, got = array.astype(np.float64), dequantise(q, z, s, g_idx)
        assert np.linalg.norm(got - want) < 0.2 * np.linalg.norm(want)
    with open(target + "/config.json") as file:
        config = json.load(file)
    assert config["model_type"] == "tiny" and config["rms_norm_eps"] == 1e-05 and config["name"] == "Zürich"
    assert sorted(config["quantization_config"]["ignore"]) == sorted(
        ["lm_head", "model.embed_tokens", "model.layers.0.gate", "model.layers.1.gate"])
    for name, text in files.items():
        kept = name not in ("model.safetensors.index.json", "config.json", "quantize_config.json")
        if kept:
            with open(os.path.join(target, name)) as file:
                assert file.read() == text
    assert not os.path.exists(target + "/quantize_config.json")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o777 & ~mask
    with Checkpoint(target) as checkpoint:
        assert sorted(info.name.decode() for info in checkpoint.modules()) == sorted(quantised)
    for format in (GPTQ, AWQ):
        other = f"{folder}/{format}"
        convert(target, other, format)
        converted = {}
        for name in names:
            converted.update(read_safetensors(os.path.join(other, name)))
        for module in quantised:
            same_module(converted, module, format, read_module(found, module, COMPRESSED_TENSORS))
        with open(other + "/config.json") as file:
            config = json.load(file)["quantization_config"]
        left = ["model.embed_tokens", "model.layers.0.gate", "model.layers.1.gate"]
        if format == AWQ:
            assert sorted(config["modules_to_not_convert"]) == left
        else:
            assert sorted(config["dynamic"]) == ["-:^model\\.layers\\.0\\.gate$", "-:^model\\.layers\\.1\\.gate$"]
            with Checkpoint(other) as checkpoint:
                assert len(checkpoint.modules()) == 4


def test_outputs_that_are_refused(folder):
    source = folder + "/in"
    os.makedirs(source)
    make_model(source)
    before = sorted(os.listdir(source))
    expect_failure(INVALID_ARGUMENT, ["input itself"], quantize, source, source)
    expect_failure(INVALID_ARGUMENT, ["input itself"], quantize, source, folder + "/../" + os.path.basename(folder) + "/in/",
                   overwrite=1)
    expect_failure(INVALID_ARGUMENT, ["inside"], quantize, source, source + "/out")
    expect_failure(INVALID_ARGUMENT, ["inside"], quantize, source, folder, overwrite=1)
    os.makedirs(folder + "/there")
    expect_failure(EXISTS, ["there"], quantize, source, folder + "/there")
    expect_failure(NOT_FOUND, ["nowhere"], quantize, source, folder + "/nowhere/out")
    expect_failure(NOT_FOUND, [], quantize, source, folder + "/out", include=("nothing.like.this",))
    expect_failure(NOT_FOUND, ["no quantised module"], convert, source, folder + "/out", GPTQ)
    quantize(source, folder + "/there", overwrite=1)
    expect_failure(UNSUPPORTED, ["quantised already"], quantize, folder + "/there", folder + "/out")
    assert sorted(os.listdir(source)) == before
    assert sorted(os.listdir(folder)) == ["in", "there"]


def test_cancelling_leaves_nothing(folder):
    source = folder + "/in"
    os.makedirs(source)
    tensors, _, _ = make_model(source)
    for stop in range(len(tensors)):
        count = [0]

        def progress(entry, user):
            count[0] += 1
            return count[0] > stop

        expect_failure(CANCELLED, [], quantize, source, folder + "/out", progress=progress)
        assert os.listdir(folder) == ["in"]


def test_damage_leaves_nothing(folder):
    """A NaN scale shows only when its module is read, half-way through the output."""
    modules = {name: make_module(20 + i, 16, 128, 64) for i, name in enumerate("abc")}
    modules["b"][2][1, 1] = np.nan
    path = write_source(folder + "/a.safetensors", modules)
    expect_failure(FORMAT, ["b.weight_scale", "n 1", "group 1"], convert, path, folder + "/x.safetensors", GPTQ)
    os.makedirs(folder + "/in")
    os.rename(path, folder + "/in/model.safetensors")
    expect_failure(FORMAT, ["b.weight_scale", "n 1", "group 1"], convert, folder + "/in", folder + "/out", GPTQ)
    assert os.listdir(folder) == ["in"]


if __name__ == "__main__":
    run_tests(globals())
