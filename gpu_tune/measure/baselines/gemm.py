"""cuBLAS and cuBLASLt as contenders for a matmul.

A row-major C = A B is the column-major C' = B' A' on the same memory, so B goes first.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...device import Device
from ...launch import Program
from ...reference import NUMPY
from ...workload import FP8, Matmul
from .. import cuda
from ..cuda import Event, Stream
from ..device_data import DeviceData
from ..verify import SCALARS
from . import blas, elementwise
from .call import Baseline, Run, Unavailable

FINALISTS = 5


@dataclass
class Variant:
    """One way to compute the workload: ``label`` tells how, ``run`` does it."""

    label: str
    run: Run
    roundings: int = 0


def make(name: str, w: Matmul, data: DeviceData, stream: Stream, device: Device) -> Baseline:
    """The fastest variant of library ``name`` (``cublas`` or ``cublaslt``); Unavailable when it has none."""
    workspace = cuda.allocate(blas.WORKSPACE)
    cleanup: list[Callable[[], None]] = [lambda: cuda.free(workspace)]
    scalars = {n: SCALARS[n] for n in w.scalars()}
    variants = _cublas(w, workspace, device, cleanup) if name == "cublas" else _lt(w, workspace, device, cleanup)
    timed = [(_quick(v.run, data, scalars, stream), i, v) for i, v in enumerate(variants)]
    finalists = [v for t, _, v in sorted(timed, key=lambda t: t[:2])[:FINALISTS] if t < float("inf")]
    if not finalists:
        for step in cleanup:
            step()
        raise Unavailable(f"offers nothing for {w.key}")
    best = min(finalists, key=lambda v: min(_quick(v.run, data, scalars, stream) for _ in range(5)))
    label = best.label + (f", fastest of {len(variants)} variants" if len(variants) > 1 else "")
    return Baseline(name, label, best.run, data, scalars, best.roundings, cleanup)


def _quick(run: Run, data: DeviceData, scalars: Mapping[str, float], stream: Stream) -> float:
    """Seconds of one run, the best of three series on rotating buffers; inf where the library refuses."""
    start, end = Event(), Event()
    try:
        run(data.timing[0], scalars, stream.handle)
        times = []
        for series in range(3):
            start.record(stream.handle)
            for i in range(4):
                run(data.timing[(4 * series + i) % data.sets], scalars, stream.handle)
            end.record(stream.handle)
            times.append(end.seconds_since(start) / 4)
        return min(times)
    except blas.BlasError:
        return float("inf")


def _operands(w: Matmul) -> dict[str, Any]:
    """The column-major view: B first, then A."""
    a_rows, b_rows = w.a_shape[0], w.b_shape[0]
    return {
        "ops": (int(w.layout[1] == "t"), int(w.layout[0] == "t")),
        "sizes": (w.n, w.m, w.k),
        "first": ("b", w.b_shape[1], b_rows, w.ldb, b_rows * w.ldb),
        "second": ("a", w.a_shape[1], a_rows, w.lda, a_rows * w.lda),
    }


def _compute(w: Matmul) -> str:
    if w.dtype == "int8":
        return "int32"
    if w.dtype == "float32" and "tf32" in w.math:
        return "tf32"
    return "fp16" if "fp16_accumulate" in w.math else "fp32"


def _plain(w: Matmul) -> bool:
    return not w.epilogue and w.scales == "none" and w.alpha == "1" and w.beta == "0"


def _given(w: Matmul) -> str:
    """dtype in which a library leaves the plain product when something is still to be done."""
    if w.dtype == "int8":
        return "int32"
    return w.out_dtype if w.out_dtype in ("float32", "float16", "bfloat16") else "float32"


def _finisher(
    w: Matmul, device: Device, cleanup: list[Callable[[], None]]
) -> tuple[Callable[[Mapping[str, int]], int], Run]:
    """(where the plain product goes, the elementwise kernel that finishes it)."""
    if w.scales == "block128":
        raise Unavailable("has no plain product for block scales")
    given = _given(w)
    program = Program(elementwise.compile_cubin(w, given, device), elementwise.plan(w, given))
    cleanup.append(program.unload)
    if given == w.out_dtype:
        return (lambda buffers: buffers["out"]), lambda buffers, scalars, stream: program.bind(
            {**buffers, "workspace": buffers["out"]}, scalars
        )(stream)
    scratch = cuda.allocate(w.batch * w.m * w.ldc * NUMPY[given].itemsize)
    cleanup.append(lambda: cuda.free(scratch))
    return (lambda buffers: scratch), lambda buffers, scalars, stream: program.bind(
        {**buffers, "workspace": scratch}, scalars
    )(stream)


def _numbers(compute: str) -> tuple[Any, Any]:
    kinds: dict[str, Any] = {"int32": ctypes.c_int32, "fp16": ctypes.c_uint16}
    kind = kinds.get(compute, ctypes.c_float)
    return kind(0x3C00 if compute == "fp16" else 1), kind(0)


def _cublas(w: Matmul, workspace: int, device: Device, cleanup: list[Callable[[], None]]) -> list[Variant]:
    if w.dtype in FP8:
        raise Unavailable("cublasGemmEx does not take float8")
    library = blas.GemmEx(workspace)
    cleanup.append(library.close)
    o, compute = _operands(w), _compute(w)
    one, zero = _numbers(compute)
    whole = _plain(w) and _given(w) == w.out_dtype
    target, finish = ((lambda buffers: buffers["out"]), None) if whole else _finisher(w, device, cleanup)
    given = w.out_dtype if whole else _given(w)

    def run(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        first, second = (
            blas.Operand(buffers[n], w.dtype, ld, stride) for n, _, _, ld, stride in (o["first"], o["second"])
        )
        result = blas.Operand(target(buffers), given, w.ldc, w.m * w.ldc)
        library.run(blas.COMPUTE[compute], o["ops"], o["sizes"], one, first, second, zero, result, w.batch, stream)
        if finish is not None:
            finish(buffers, scalars, stream)

    return [Variant(f"cublasGemmEx ({compute})" + ("" if whole else " and an elementwise kernel"), run, int(not whole))]


def _lt(w: Matmul, workspace: int, device: Device, cleanup: list[Callable[[], None]]) -> list[Variant]:
    variants: list[Variant] = []
    fusable = w.epilogue in blas.EPILOGUES and w.scales != "block128" and w.dtype != "int8"
    if fusable or (_plain(w) and w.out_dtype == "int32"):
        variants += _lt_fused(w, workspace, cleanup)
    if not _plain(w) and w.scales != "block128":
        target, finish = _finisher(w, device, cleanup)
        variants += _lt_split(w, workspace, cleanup, target, finish)
    return variants


def _lt_fused(w: Matmul, workspace: int, cleanup: list[Callable[[], None]]) -> list[Variant]:
    compute = _compute(w)
    per_row = w.scales == "row_col"

    def describe() -> blas.Gemm:
        gemm = _describe(w, compute, w.out_dtype, cleanup)
        if w.ops:
            gemm.set("epilogue", ctypes.c_int32(blas.EPILOGUES[w.epilogue]))
        if any(op.name == "bias" for op in w.ops):
            gemm.set("bias_type", ctypes.c_int32(blas.TYPES[w.vector_dtype]))
        if per_row:
            gemm.outer_vector_scales()
        if "fast_accumulate" in w.math:
            gemm.set("fast", ctypes.c_int8(1))
        return gemm

    if compute == "fp16" and (w.alpha != "1" or w.beta != "0"):
        return []  # its scalars are half-precision; the elementwise kernel takes them
    gemm = describe()
    one, zero = _numbers(compute)

    def numbers(scalars: Mapping[str, float]) -> tuple[Any, Any]:
        if compute != "fp32" and compute != "tf32":
            return one, zero
        beta = {"0": 0.0, "1": 1.0}.get(w.beta, scalars.get("beta", 0.0))
        return ctypes.c_float(scalars.get("alpha", 1.0)), ctypes.c_float(beta)

    names = [n for n in ("bias", "scale_a", "scale_b") if n in w.arrays()]
    current: dict[str, int] = {}

    def run(algorithm: blas.Algorithm) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            for name in names:
                if current.get(name) != buffers[name]:
                    swapped = {"scale_a": "scale_b", "scale_b": "scale_a"}.get(name, name)  # B goes first
                    gemm.set(swapped, ctypes.c_void_p(buffers[name]))
                    current[name] = buffers[name]
            alpha, beta = numbers(scalars)
            c = buffers.get("c", buffers["out"])
            gemm.run(algorithm, alpha, buffers["b"], buffers["a"], beta, c, buffers["out"], workspace, stream)

        return issue

    found = gemm.algorithms()
    fused = f" with fused {w.epilogue}" if w.epilogue else ""
    return [Variant(f"cublasLtMatmul ({compute}){fused}, algorithm {i}", run(a)) for i, a in enumerate(found)]


def _lt_split(
    w: Matmul,
    workspace: int,
    cleanup: list[Callable[[], None]],
    target: Callable[[Mapping[str, int]], int],
    finish: Run,
) -> list[Variant]:
    compute, given = _compute(w), _given(w)
    gemm = _describe(w, compute, given, cleanup)
    if "fast_accumulate" in w.math:
        gemm.set("fast", ctypes.c_int8(1))
    one, zero = _numbers(compute)

    def run(algorithm: blas.Algorithm) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            place = target(buffers)
            gemm.run(algorithm, one, buffers["b"], buffers["a"], zero, place, place, workspace, stream)
            finish(buffers, scalars, stream)

        return issue

    label = f"cublasLtMatmul ({compute}) and an elementwise kernel, algorithm "
    return [Variant(label + str(i), run(a), 1) for i, a in zip(itertools.count(), gemm.algorithms())]


def _describe(w: Matmul, compute: str, out_dtype: str, cleanup: list[Callable[[], None]]) -> blas.Gemm:
    scale = {"int32": blas.TYPES["int32"], "fp16": blas.TYPES["float16"]}.get(compute, blas.TYPES["float32"])
    gemm = blas.Gemm(blas.COMPUTE[compute], scale)
    cleanup.append(gemm.close)
    o = _operands(w)
    for name, op in zip(("transa", "transb"), o["ops"]):
        gemm.set(name, ctypes.c_int32(op))
    for name, (_, rows, columns, ld, stride) in (("A", o["first"]), ("B", o["second"])):
        gemm.matrix(name, w.dtype, rows, columns, ld, w.batch, stride)
    c_dtype = out_dtype if out_dtype not in FP8 else "bfloat16"
    gemm.matrix("C", c_dtype, w.n, w.m, w.ldc, w.batch, w.m * w.ldc)
    gemm.matrix("D", out_dtype, w.n, w.m, w.ldc, w.batch, w.m * w.ldc)
    return gemm
