"""cuBLAS and cuBLASLt as contenders for a matmul.

A row-major C = A B is the column-major C' = B' A' on the same memory, so B goes first. Split-K's parts are added in
the output's dtype only where ``fp16_accumulate`` is permitted; pointers are as aligned as the workload says.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...cuda import cublas, memory
from ...cuda.device import Device
from ...cuda.memory import Stream
from ...errors import Unavailable
from ...workload import FP8, Matmul
from ..device_data import SCALARS, DeviceData
from .baseline import Baseline, Run, undone_on_failure
from .select import Variant, fastest, why_none
from .unfused_epilogue import Finisher, given, plain

log = logging.getLogger("gpu_tune.baselines")


def make(
    name: str, w: Matmul, data: DeviceData, stream: Stream, device: Device, note: Callable[[str], None]
) -> Baseline:
    """The fastest variant of library ``name`` (``cublas`` or ``cublaslt``); Unavailable when it has none."""
    workspace = memory.allocate(cublas.WORKSPACE)
    cleanup: list[Callable[[], None]] = [lambda: memory.free(workspace)]
    scalars = {n: SCALARS[n] for n in w.scalars()}
    with undone_on_failure(cleanup):
        of = _cublas if name == "cublas" else _lt
        variants = of(w, data, workspace, device, cleanup)
        best, _ = fastest(variants, data, scalars, stream, note)
        if best is None:
            raise Unavailable(f"offers nothing for {w.key}{why_none(variants)}")
    label = best.label + (f", fastest of {len(variants)} variants" if len(variants) > 1 else "")
    return Baseline(name, label, best.run, data, scalars, best.roundings, cleanup)


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


def _numbers(compute: str) -> tuple[Any, Any]:
    kinds: dict[str, Any] = {"int32": ctypes.c_int32, "fp16": ctypes.c_uint16}
    kind = kinds.get(compute, ctypes.c_float)
    return kind(0x3C00 if compute == "fp16" else 1), kind(0)


def _finisher(w: Matmul, device: Device, cleanup: list[Callable[[], None]]) -> Finisher:
    made = Finisher(w, device)
    cleanup.append(made.close)
    return made


def _cublas(
    w: Matmul, data: DeviceData, workspace: int, device: Device, cleanup: list[Callable[[], None]]
) -> list[Variant]:
    if w.dtype in FP8:
        raise Unavailable("cublasGemmEx does not take float8")
    library = cublas.GemmEx(workspace, _any_reduction(w))
    cleanup.append(library.close)
    o, compute = _operands(w), _compute(w)
    one, zero = _numbers(compute)
    finisher = None if plain(w) and given(w) == w.out_dtype else _finisher(w, device, cleanup)

    def run(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        first, second = (
            cublas.Operand(buffers[n], w.dtype, ld, stride) for n, _, _, ld, stride in (o["first"], o["second"])
        )
        target = buffers["out"] if finisher is None else finisher.target(buffers)
        result = cublas.Operand(target, given(w), w.ldc, w.m * w.ldc)
        library.run(cublas.COMPUTE[compute], o["ops"], o["sizes"], one, first, second, zero, result, w.batch, stream)
        if finisher is not None:
            finisher.run(buffers, scalars, stream)

    words = "" if finisher is None else " and an elementwise kernel"
    return [Variant(f"cublasGemmEx ({compute}){words}", run, int(finisher is not None))]


def _any_reduction(w: Matmul) -> bool:
    """Whether parts of a sum may be added in the output's dtype."""
    return "fp16_accumulate" in w.math or w.out_dtype in ("float32", "int32")


def _lt(
    w: Matmul, data: DeviceData, workspace: int, device: Device, cleanup: list[Callable[[], None]]
) -> list[Variant]:
    variants: list[Variant] = []
    if _fusable(w):
        try:
            variants += _lt_fused(w, data, workspace, cleanup)
        except cublas.BlasError as error:  # a scale mode or an attribute that this version does not know
            log.info("cublasLt %s: %s", w.key, error)
    if not plain(w) and w.scales != "block128":
        variants += _lt_split(w, data, workspace, cleanup, _finisher(w, device, cleanup))
    return variants


def _fusable(w: Matmul) -> bool:
    """Whether cuBLASLt is asked to do all of ``w`` in one call."""
    if w.epilogue not in cublas.EPILOGUES or (w.dtype == "int8" and not (plain(w) and w.out_dtype == "int32")):
        return False
    if w.out_dtype in FP8 and w.beta != "0":
        return False  # its C is bfloat16 then
    half = _compute(w) == "fp16" and (w.alpha != "1" or w.beta != "0")
    return not half  # with half-precision scalars; the elementwise kernel takes float32


def _lt_fused(w: Matmul, data: DeviceData, workspace: int, cleanup: list[Callable[[], None]]) -> list[Variant]:
    compute = _compute(w)
    gemm = _describe(w, compute, w.out_dtype, cleanup)
    if w.ops:
        gemm.set("epilogue", ctypes.c_uint32(cublas.EPILOGUES[w.epilogue]))
    if any(op.name == "bias" for op in w.ops):
        gemm.set("bias_type", ctypes.c_int32(cublas.TYPES[w.vector_dtype]))
    # B goes first there: what the library calls A is our B
    modes = {"row_col": ("row_col", "row_col"), "block128": ("block128", "vector128")}.get(w.scales, ())
    for name, mode in zip(("mode_a", "mode_b"), modes):
        gemm.set(name, ctypes.c_int32(cublas.SCALE_MODES[mode]))
    scales = _block_scales(w, data, cleanup) if w.scales == "block128" else {}
    names = {n: {"scale_a": "scale_b", "scale_b": "scale_a"}.get(n, n) for n in ("bias", "scale_a", "scale_b")}
    names = {n: attribute for n, attribute in names.items() if n in w.arrays()}
    current: dict[str, int] = {}
    one, zero = _numbers(compute)

    def point(buffers: Mapping[str, int]) -> None:
        for name, attribute in names.items():
            if current.get(name) != buffers[name]:
                gemm.set(attribute, ctypes.c_void_p(scales.get(buffers[name], buffers[name])))
                current[name] = buffers[name]

    def numbers(scalars: Mapping[str, float]) -> tuple[Any, Any]:
        if compute not in ("fp32", "tf32"):
            return one, zero
        beta = {"0": 0.0, "1": 1.0}.get(w.beta, scalars.get("beta", 0.0))
        return ctypes.c_float(scalars.get("alpha", 1.0)), ctypes.c_float(beta)

    def run(algorithm: cublas.Algorithm) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            point(buffers)
            alpha, beta = numbers(scalars)
            c = buffers.get("c", buffers["out"])
            gemm.run(algorithm, alpha, buffers["b"], buffers["a"], beta, c, buffers["out"], workspace, stream)

        return issue

    point(data.verify)  # the heuristic reads the alignment of the bias from its address
    found = gemm.algorithms(w.alignment, _any_reduction(w))
    words = [f"fused {w.epilogue}"] if w.epilogue else []
    words += ["scales laid out for it beforehand"] if scales else []
    label = " with ".join([f"cublasLtMatmul ({_terms(w, compute)})", *words])
    return [Variant(f"{label}, algorithm {i}", run(a)) for i, a in enumerate(found)]


def _lt_split(
    w: Matmul, data: DeviceData, workspace: int, cleanup: list[Callable[[], None]], finisher: Finisher
) -> list[Variant]:
    compute = _compute(w)
    gemm = _describe(w, compute, given(w), cleanup)
    one, zero = _numbers(compute)

    def run(algorithm: cublas.Algorithm) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            place = finisher.target(buffers)
            gemm.run(algorithm, one, buffers["b"], buffers["a"], zero, place, place, workspace, stream)
            finisher.run(buffers, scalars, stream)

        return issue

    label = f"cublasLtMatmul ({_terms(w, compute)}) and an elementwise kernel, algorithm "
    found = gemm.algorithms(w.alignment, _any_reduction(w))
    return [Variant(label + str(i), run(a), 1) for i, a in enumerate(found)]


def _terms(w: Matmul, compute: str) -> str:
    return compute + (", fast accumulation" if "fast_accumulate" in w.math else "")


def _block_scales(w: Matmul, data: DeviceData, cleanup: list[Callable[[], None]]) -> dict[int, int]:
    """Copies of the block scales in the library's layout, by the address of ours, for every set of buffers.

    It wants the scales of a 128-vector of K with the rows contiguous, (ceil(k/128), m), and those of a 128x128 block
    with a row stride that is a multiple of 4 (cuBLAS documentation, "Scaling factors layouts"). A quantiser would write
    them like that, so the copy is not timed.
    """
    if w.m % 4 or w.n % 4:
        raise Unavailable("takes block scales only where m and n are multiples of 4")
    steps = -(-w.k // 128)
    rows, columns = data.arrays["scale_a"], data.arrays["scale_b"]
    padded = np.zeros((columns.shape[0], -(-steps // 4) * 4), np.float32)
    padded[:, :steps] = columns
    made: dict[int, int] = {}
    for name, array in (("scale_a", rows.T), ("scale_b", padded)):
        for buffers in (data.verify, *data.timing):
            made[buffers[name]] = memory.allocate(array.nbytes)
            cleanup.append(functools.partial(memory.free, made[buffers[name]]))
            memory.upload(made[buffers[name]], array)
    return made


def _describe(w: Matmul, compute: str, out_dtype: str, cleanup: list[Callable[[], None]]) -> cublas.Gemm:
    scale = {"int32": cublas.TYPES["int32"], "fp16": cublas.TYPES["float16"]}.get(compute, cublas.TYPES["float32"])
    gemm = cublas.Gemm(cublas.COMPUTE[compute], scale)
    cleanup.append(gemm.close)
    if "fast_accumulate" in w.math:
        gemm.set("fast", ctypes.c_int8(1))
    o = _operands(w)
    for name, op in zip(("transa", "transb"), o["ops"]):
        gemm.set(name, ctypes.c_int32(op))
    for name, (_, rows, columns, ld, stride) in (("A", o["first"]), ("B", o["second"])):
        gemm.matrix(name, w.dtype, rows, columns, ld, w.batch, stride)
    c_dtype = out_dtype if out_dtype not in FP8 else "bfloat16"
    gemm.matrix("C", c_dtype, w.n, w.m, w.ldc, w.batch, w.m * w.ldc)
    gemm.matrix("D", out_dtype, w.n, w.m, w.ldc, w.batch, w.m * w.ldc)
    return gemm
