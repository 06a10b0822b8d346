#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""w4a16 and PyTorch in one process: tensors' pointers and torch's streams go straight into w4a16_gemm, by ctypes.

Runs itself twice, because who comes first to the GPU matters: once with a w4a16 context made before torch has
initialised CUDA, once after. The library is $W4A16_LIBRARY, or libw4a16.so.0 beside this script. Exits with 77 where
PyTorch or a GPU that both can use is missing.

    python3 tests/cuda/test_torch.py
"""
import ctypes
import math
import os
import pathlib
import subprocess
import sys

SKIPPED = 77
FP16, BF16 = 1, 2  # w4a16_dtype
SYMMETRIC, INTEGER = 0, 1  # w4a16_zero_kind
GROUP = 128
LONG_WAIT = 100_000_000  # clock cycles: some 50 ms, in which a call on another stream would be long done

size_t, int64, pointer, text = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p


class DeviceInfo(ctypes.Structure):
    _fields_ = [("struct_size", size_t), ("id", ctypes.c_char * 16), ("name", ctypes.c_char * 128),
                ("architecture", ctypes.c_char * 64), ("usable", ctypes.c_int), ("automatic", ctypes.c_int),
                ("reason", ctypes.c_char * 256)]


class ContextOptions(ctypes.Structure):
    _fields_ = [("struct_size", size_t), ("device", text), ("threads", ctypes.c_int), ("cpu_instruction_set", text)]


class Canonical(ctypes.Structure):
    _fields_ = [("struct_size", size_t), ("n", int64), ("k", int64), ("group_size", int64), ("codes", pointer),
                ("scales", pointer), ("scale_dtype", ctypes.c_int), ("zero_kind", ctypes.c_int), ("zeros", pointer),
                ("k_order", pointer)]


class PlanOptions(ctypes.Structure):
    _fields_ = [("struct_size", size_t), ("m_min", int64), ("m_max", int64), ("a_dtype", ctypes.c_int),
                ("c_dtype", ctypes.c_int), ("alpha", ctypes.c_float), ("bias", pointer), ("bias_dtype", ctypes.c_int),
                ("config", text), ("flags", ctypes.c_uint32)]


class PlanInfo(ctypes.Structure):
    _fields_ = [("struct_size", size_t), ("config", text), ("threads", ctypes.c_int), ("workspace_bytes", size_t),
                ("workspace_alignment", size_t), ("predicted_seconds", ctypes.c_double), ("reason", ctypes.c_char * 256)]


def open_library():
    path = os.environ.get("W4A16_LIBRARY") or str(pathlib.Path(__file__).resolve().parent / "libw4a16.so.0")
    library = ctypes.CDLL(path)
    signatures = {
        "w4a16_last_error": (text, []),
        "w4a16_device_query": (ctypes.c_int, [ctypes.c_int, pointer]),
        "w4a16_context_options_init": (None, [pointer]),
        "w4a16_context_create": (ctypes.c_int, [pointer, pointer]),
        "w4a16_context_destroy": (None, [pointer]),
        "w4a16_canonical_init": (None, [pointer]),
        "w4a16_weight_create": (ctypes.c_int, [pointer, pointer, pointer]),
        "w4a16_weight_destroy": (None, [pointer]),
        "w4a16_plan_options_init": (None, [pointer]),
        "w4a16_plan_create": (ctypes.c_int, [pointer, pointer, pointer]),
        "w4a16_plan_query": (ctypes.c_int, [pointer, pointer]),
        "w4a16_plan_destroy": (None, [pointer]),
        "w4a16_gemm": (ctypes.c_int, [pointer, pointer, int64, pointer, int64, int64, pointer, size_t, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        getattr(library, name).restype = result
        getattr(library, name).argtypes = arguments
    for structure, initialise in ((ContextOptions, library.w4a16_context_options_init),
                                  (Canonical, library.w4a16_canonical_init),
                                  (PlanOptions, library.w4a16_plan_options_init)):
        made = structure()
        initialise(ctypes.byref(made))
        expect(made.struct_size == ctypes.sizeof(structure),
               f"{structure.__name__} has {ctypes.sizeof(structure)} bytes here, {made.struct_size} in the library")
    return library


def expect(condition, message):
    if not condition:
        raise SystemExit(f"failed: {message}")


class Library:
    """The calls that the tests need; a status other than 0 ends the test with the library's text."""

    def __init__(self):
        self.library = open_library()
        self.context = pointer()

    def check(self, status, call):
        expect(status == 0, f"{call}: status {status}: {self.library.w4a16_last_error().decode()}")

    def gpu(self):
        """Why cuda:0 cannot be used, or None."""
        info, index = DeviceInfo(struct_size=ctypes.sizeof(DeviceInfo)), 0
        while self.library.w4a16_device_query(index, ctypes.byref(info)) == 0:
            if info.id == b"cuda:0":
                return None if info.usable else info.reason.decode()
            index += 1
        return "this build of w4a16 has no CUDA backend"

    def open_context(self):
        options = ContextOptions()
        self.library.w4a16_context_options_init(ctypes.byref(options))
        options.device = b"cuda:0"
        self.check(self.library.w4a16_context_create(ctypes.byref(options), ctypes.byref(self.context)),
                   "w4a16_context_create")

    def close_context(self):
        self.library.w4a16_context_destroy(self.context)
        self.context = pointer()


class Weight:
    """Random codes, scales and zero points, w4a16's weight made of them, and the same decoded by torch in fp64."""

    def __init__(self, w4a16, torch, n, k, dtype, zero_kind):
        self.w4a16, self.torch, self.n, self.k, self.dtype = w4a16, torch, n, k, dtype
        random = torch.Generator().manual_seed(n + k)
        groups = -(-k // GROUP)
        codes = torch.randint(0, 16, (n, k), generator=random, dtype=torch.uint8)
        scales = ((0.5 + torch.rand((n, groups), generator=random)) * 0.2 / math.sqrt(k)).to(dtype)
        zeros = torch.randint(0, 16, (n, groups), generator=random, dtype=torch.uint8)
        packed = (codes[:, 0::2] | codes[:, 1::2] << 4).contiguous()
        canonical = Canonical()
        w4a16.library.w4a16_canonical_init(ctypes.byref(canonical))
        canonical.n, canonical.k, canonical.group_size = n, k, GROUP
        canonical.codes, canonical.scales = packed.data_ptr(), scales.data_ptr()
        canonical.scale_dtype = FP16 if dtype == torch.float16 else BF16
        canonical.zero_kind = zero_kind
        canonical.zeros = zeros.data_ptr() if zero_kind == INTEGER else None
        self.weight = pointer()
        w4a16.check(w4a16.library.w4a16_weight_create(w4a16.context, ctypes.byref(canonical),
                                                      ctypes.byref(self.weight)), "w4a16_weight_create")
        if zero_kind == SYMMETRIC:
            zeros.fill_(8)

        def spread(groups_of):
            return groups_of.double().repeat_interleave(GROUP, 1)[:, :k]

        self.exact = ((codes.double() - spread(zeros)) * spread(scales)).cuda()
        self.plans = {}

    def plan(self, m):
        """(plan, bytes of its workspace) for exactly m rows."""
        if m not in self.plans:
            library, options, plan = self.w4a16.library, PlanOptions(), pointer()
            library.w4a16_plan_options_init(ctypes.byref(options))
            options.m_min = options.m_max = m
            options.a_dtype = FP16 if self.dtype == self.torch.float16 else BF16
            self.w4a16.check(library.w4a16_plan_create(self.weight, ctypes.byref(options), ctypes.byref(plan)),
                             "w4a16_plan_create")
            info = PlanInfo(struct_size=ctypes.sizeof(PlanInfo))
            self.w4a16.check(library.w4a16_plan_query(plan, ctypes.byref(info)), "w4a16_plan_query")
            expect(info.workspace_alignment <= 256, f"torch does not align to {info.workspace_alignment} bytes")
            self.plans[m] = plan, info.workspace_bytes
        return self.plans[m]

    def gemm(self, a, c, workspace):
        """c = a W^T on torch's current stream."""
        m = a.shape[0]
        plan, _ = self.plan(m)
        expect(a.stride(1) == 1 and c.stride(1) == 1 and a.dtype == self.dtype, "the test's own tensors")
        stream = self.torch.cuda.current_stream().cuda_stream
        self.w4a16.check(self.w4a16.library.w4a16_gemm(plan, a.data_ptr(), a.stride(0), c.data_ptr(), c.stride(0), m,
                                                       workspace.data_ptr(), workspace.numel(), stream), "w4a16_gemm")

    def workspace(self, m):
        """Its content means nothing to w4a16: it is as bad as it can be."""
        return self.torch.full((max(self.plan(m)[1], 16),), 0xFF, dtype=self.torch.uint8, device="cuda")

    def output(self, m):
        return self.torch.full((m, self.n), math.nan, dtype=self.dtype, device="cuda")

    def activations(self, m, seed):
        random = self.torch.Generator(device="cuda").manual_seed(seed)
        return self.torch.randn((m, self.k), generator=random, device="cuda").to(self.dtype)

    def check(self, a, c, what):
        """c against fp64, and against torch's own product of 16-bit matrices."""
        torch = self.torch
        exact = a.double() @ self.exact.T
        dense = torch.matmul(a, self.exact.to(self.dtype).T)

        def distance(x, y):
            return ((x.double() - y.double()).norm() / exact.norm()).item()

        # What rounding the true result to the dtype costs: of bf16 that alone is near 2e-3.
        limit = max(2e-3, 1.1 * distance(exact.to(self.dtype), exact))
        error, difference = distance(c, exact), distance(c, dense)
        expect(error < limit, f"{what}: relative error {error:.3g} against fp64, the limit is {limit:.3g}")
        # torch rounds each weight and its result, we only the result.
        limit = limit if self.dtype == torch.float16 else 1.1 * math.hypot(limit, distance(dense, exact))
        expect(difference < limit, f"{what}: {difference:.3g} from torch.matmul, the limit is {limit:.3g}")
        return error

    def close(self):
        for plan, _ in self.plans.values():
            self.w4a16.library.w4a16_plan_destroy(plan)
        self.w4a16.library.w4a16_weight_destroy(self.weight)


def check_graph(torch, weight, m):
    """Captured between operations of torch, as the first call of its plan; replayed on new inputs."""
    plain, c, workspace = weight.activations(m, 1), weight.output(m), weight.workspace(m)
    _ = plain * 0.5, c.float() * 2  # torch's own kernels are loaded before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        a = plain * 0.5
        weight.gemm(a, c, workspace)
        doubled = c.float() * 2
    for seed in (2, 3, 4):
        plain.copy_(weight.activations(m, seed))
        c.fill_(math.nan)
        workspace.fill_(0xFF)
        graph.replay()
        weight.check(plain * 0.5, c, f"graph, M {m}, input {seed}")
        expect(torch.equal(doubled, c.float() * 2), f"graph, M {m}: what torch computed from C in the graph")


def check_stream(torch, weight, m, stream, what):
    """A is written late and C read at once, all on one stream and without waiting."""
    real = weight.activations(m, 5)
    a, c, workspace = torch.full_like(real, math.nan), weight.output(m), weight.workspace(m)
    weight.plan(m)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG_WAIT)
        a.copy_(real)
        weight.gemm(a, c, workspace)
        consumed = c.float() * 2
        in_flight = not stream.query()
    torch.cuda.synchronize()
    expect(in_flight, f"{what}: something waited for the GPU")
    error = weight.check(real, c, what)
    expect(torch.equal(consumed, c.float() * 2), f"{what}: what torch read from C right after the call")
    return error


def check_strides(torch, weight, m):
    """C with columns to its right that must stay; A as a slice of wider rows, aligned to 16 bytes and to 2."""
    for first in (8, 1):
        wide_a = torch.full((m, weight.k + 24), math.nan, dtype=weight.dtype, device="cuda")
        wide_c = torch.full((m, weight.n + 40), -7.0, dtype=weight.dtype, device="cuda")
        a, c = wide_a[:, first:first + weight.k], wide_c[:, :weight.n]
        a.copy_(weight.activations(m, 6))
        c.fill_(math.nan)
        weight.gemm(a, c, weight.workspace(m))
        what = f"M {m}, lda {a.stride(0)} from column {first}, ldc {c.stride(0)}"
        weight.check(a, c, what)
        expect(bool((wide_c[:, weight.n:] == -7.0).all()), f"{what}: columns beyond N were written")


def check_all(order):
    try:
        import torch
    except ImportError as error:
        print(f"skipped: no PyTorch for {sys.executable}: {error}")
        return SKIPPED
    if not torch.cuda.is_available():
        print("skipped: PyTorch has no GPU here")
        return SKIPPED
    w4a16 = Library()
    reason = w4a16.gpu()
    if reason:
        print(f"skipped: {reason}")
        return SKIPPED
    if order == "after":
        torch.zeros(1, device="cuda")
    expect(torch.cuda.is_initialized() == (order == "after"), "torch initialised CUDA at another time than it should")
    w4a16.open_context()
    # Sums in fp16 within torch.matmul would be torch's error, not ours.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    left, right = torch.randn(300, 200, device="cuda"), torch.randn(200, 100, device="cuda")
    product = left @ right
    for dtype, zero_kind in ((torch.float16, SYMMETRIC), (torch.bfloat16, SYMMETRIC), (torch.float16, INTEGER)):
        weight = Weight(w4a16, torch, 1536, 2048, dtype, zero_kind)
        errors = []
        for m in (1, 16, 33, 130, 600):
            check_graph(torch, weight, m)
            errors.append(check_stream(torch, weight, m, torch.cuda.default_stream(), f"{dtype}, M {m}"))
            check_stream(torch, weight, m, torch.cuda.Stream(), f"{dtype}, M {m}, side stream")
            check_strides(torch, weight, m)
        weight.close()
        zeros = "integer zero points" if zero_kind == INTEGER else "symmetric"
        print(f"{order}: {dtype}, {zeros}: relative error {max(errors):.2g} at most")
    w4a16.close_context()
    expect(torch.equal(left @ right, product), "torch.matmul gives other bits after w4a16's context was destroyed")
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    fresh = torch.ones(1 << 24, device="cuda")
    expect(fresh.sum().item() == 1 << 24, "torch's new memory after w4a16's context was destroyed")
    print(f"{order}: passed on {torch.cuda.get_device_name()}, torch {torch.__version__}")
    return 0


def main():
    if len(sys.argv) > 1:
        return check_all(sys.argv[1])
    # Libraries that libw4a16 needs may lie beside it, in a copied folder.
    library = os.environ.get("W4A16_LIBRARY") or str(pathlib.Path(__file__).resolve().parent / "libw4a16.so.0")
    if not os.path.exists(library):
        raise SystemExit(f"{library} is not there; set W4A16_LIBRARY to libw4a16.so.0")
    folders = [os.path.dirname(os.path.abspath(library)), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "W4A16_LIBRARY": library, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders))}
    for order in ("before", "after"):
        code = subprocess.run([sys.executable, "-B", __file__, order], env=environment, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
