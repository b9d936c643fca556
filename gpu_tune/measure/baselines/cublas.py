"""cuBLAS and cuBLASLt as baselines for a matmul.

A row-major C = A B is the column-major C' = B' A' on the same memory, so B goes first. Split-K's parts are added in
the output's dtype only where ``fp16_accumulate`` is permitted; pointers are as aligned as the workload says.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...cuda import cublas
from ...errors import Unavailable
from ...workload import FP8, Matmul
from .. import runtime
from ..check import Run
from .baseline import Algorithm, Session
from .unfused_epilogue import UnfusedEpilogue, is_plain, plain_product

log = logging.getLogger("gpu_tune.baselines")


def gemm_ex(session: Session) -> list[Algorithm]:
    """cublasGemmEx, which chooses an algorithm itself."""
    w = session.data.workload
    assert isinstance(w, Matmul)
    if w.dtype in FP8:
        raise Unavailable("cublasGemmEx does not take float8")
    product, compute = plain_product(w), _compute(w)
    library = cublas.GemmEx(session.allocate(cublas.WORKSPACE), _any_reduction(product))
    session.owned.callback(library.close)
    one, zero = _numbers(compute)
    operands = [(name, ld, stride) for name, _, _, ld, stride in _operands(w)]

    def run(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        first, second = (cublas.Operand(buffers[n], w.dtype, ld, stride) for n, ld, stride in operands)
        result = cublas.Operand(buffers["out"], product.out_dtype, w.ldc, w.m * w.ldc)
        sizes = (w.n, w.m, w.k)
        library.run(cublas.COMPUTE[compute], _ops(w), sizes, one, first, second, zero, result, w.batch, stream)

    algorithm = Algorithm(f"cublasGemmEx ({compute})", run)
    return [algorithm if product == w else UnfusedEpilogue(session).after(algorithm)]


def lt(session: Session) -> list[Algorithm]:
    """cublasLtMatmul with every algorithm that its heuristic proposes, fused and followed by an elementwise kernel."""
    w = session.data.workload
    assert isinstance(w, Matmul)
    workspace = session.allocate(cublas.WORKSPACE)
    found: list[Algorithm] = []
    if _fusable(w):
        try:
            found += lt_calls(session, w, workspace)
        except cublas.BlasError as error:  # a scale mode or an attribute that this version does not know
            log.info("cublasLt %s: %s", w.key, error)
    if not is_plain(w) and w.scales != "block128":
        epilogue = UnfusedEpilogue(session)
        found += map(epilogue.after, lt_calls(session, plain_product(w), workspace))
    return found


def lt_calls(session: Session, w: Matmul, workspace: int) -> list[Algorithm]:
    """cublasLtMatmul doing all of ``w``, with each algorithm. BlasError where this version does not know how."""
    compute = _compute(w)
    gemm = _describe(w, compute, session)
    if w.ops:
        gemm.set("epilogue", ctypes.c_uint32(cublas.EPILOGUES[w.epilogue]))
    if any(op.name in ("bias", "dbias") for op in w.ops):
        gemm.set("bias_type", ctypes.c_int32(cublas.TYPES[w.vector_dtype]))
    if "aux" in w.arrays():  # of a mask the library counts bits
        ld = 8 * w.arrays()["aux"].shape[-1] if any(op.bits for op in w.ops) else w.ldc
        gemm.set("aux_ld", ctypes.c_int64(ld))
        gemm.set("aux_stride", ctypes.c_int64(w.m * ld))
    # B goes first there: what the library calls A is our B
    modes = {"row_col": ("row_col", "row_col"), "block128": ("block128", "vector128")}.get(w.scales, ())
    for name, mode in zip(("mode_a", "mode_b"), modes):
        gemm.set(name, ctypes.c_int32(cublas.SCALE_MODES[mode]))
    scales = _block_scales(w, session) if w.scales == "block128" else {}
    names = {"bias": "bias", "dbias": "bias", "aux": "aux", "scale_a": "scale_b", "scale_b": "scale_a"}
    names = {n: attribute for n, attribute in names.items() if n in w.arrays()}
    current: dict[str, int] = {}
    one, zero = _numbers(compute)

    def point(buffers: Mapping[str, int]) -> None:
        for name, attribute in names.items():
            if current.get(name) != buffers[name]:
                gemm.set(attribute, ctypes.c_void_p(scales.get(buffers[name], buffers[name])))
                current[name] = buffers[name]

    def run(algorithm: cublas.Algorithm) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            point(buffers)
            alpha, beta = one, zero
            if compute in ("fp32", "tf32"):
                factor = {"0": 0.0, "1": 1.0}.get(w.beta, scalars.get("beta", 0.0))
                alpha, beta = ctypes.c_float(scalars.get("alpha", 1.0)), ctypes.c_float(factor)
            c = buffers["out" if w.beta == "0" else "c"]
            gemm.run(algorithm, alpha, buffers["b"], buffers["a"], beta, c, buffers["out"], workspace, stream)

        return issue

    point(session.data.verify)  # the heuristic reads the alignment of the bias from its address
    terms = compute + (", fast accumulation" if "fast_accumulate" in w.math else "")
    words = [f"fused {w.epilogue}"] if w.epilogue else []
    words += ["scales laid out for it beforehand"] if scales else []
    label = " with ".join([f"cublasLtMatmul ({terms})", *words])
    proposed = gemm.algorithms(w.alignment, _any_reduction(w))
    roundings = int("dbias" in w.outputs)  # it may sum before it casts
    return [Algorithm(f"{label}, algorithm {i}", run(a), roundings) for i, a in enumerate(proposed)]


def _ops(w: Matmul) -> tuple[int, int]:
    """Whether the library is to transpose B, and A."""
    return int(w.layout[1] == "t"), int(w.layout[0] == "t")


def _operands(w: Matmul) -> list[tuple[str, int, int, int, int]]:
    """(buffer, rows, columns, leading dimension, stride between batches) of the column-major view, B first."""
    shapes = (("b", w.b_shape, w.ldb), ("a", w.a_shape, w.lda))
    return [(name, columns, rows, ld, rows * ld) for name, (rows, columns), ld in shapes]


def _compute(w: Matmul) -> str:
    if w.dtype == "int8":
        return "int32"
    if w.dtype == "float32" and "tf32" in w.math:
        return "tf32"
    return "fp16" if "fp16_accumulate" in w.math else "fp32"


def _numbers(compute: str) -> tuple[Any, Any]:
    """One and zero as the library takes them."""
    kinds: dict[str, Any] = {"int32": ctypes.c_int32, "fp16": ctypes.c_uint16}
    kind = kinds.get(compute, ctypes.c_float)
    return kind(0x3C00 if compute == "fp16" else 1), kind(0)


def _any_reduction(w: Matmul) -> bool:
    """Whether parts of a sum may be added in the output's dtype."""
    return "fp16_accumulate" in w.math or w.out_dtype in ("float32", "int32")


def _fusable(w: Matmul) -> bool:
    """Whether cuBLASLt is asked to do all of ``w`` in one call."""
    if w.epilogue not in cublas.EPILOGUES or (w.dtype == "int8" and plain_product(w) != w):
        return False
    if w.batch > 1 and "dbias" in w.outputs:
        return False  # it sums each matrix for itself
    if w.out_dtype in FP8 and w.beta != "0":
        return False  # its C is bfloat16 then
    half = _compute(w) == "fp16" and (w.alpha != "1" or w.beta != "0")
    return not half  # with half-precision scalars; the elementwise kernel takes float32


def _block_scales(w: Matmul, session: Session) -> dict[int, int]:
    """Copies of the block scales in the library's layout, by the address of ours, for every set of buffers.

    It wants the scales of a 128-vector of K with the rows contiguous, (ceil(k/128), m), and those of a 128x128 block
    with a row stride that is a multiple of 4 (cuBLAS documentation, "Scaling factors layouts"). A quantiser would write
    them like that, so the copy is not timed.
    """
    if w.m % 4 or w.n % 4:
        raise Unavailable("takes block scales only where m and n are multiples of 4")
    data, steps = session.data, -(-w.k // 128)
    rows, columns = data.arrays["scale_a"], data.arrays["scale_b"]
    padded = np.zeros((columns.shape[0], -(-steps // 4) * 4), np.float32)
    padded[:, :steps] = columns
    made: dict[int, int] = {}
    for name, array in (("scale_a", rows.T), ("scale_b", padded)):
        for buffers in (data.verify, *data.timing):
            made[buffers[name]] = session.allocate(array.nbytes)
            runtime.upload(made[buffers[name]], array)
    return made


def _describe(w: Matmul, compute: str, session: Session) -> cublas.Gemm:
    scale = {"int32": cublas.TYPES["int32"], "fp16": cublas.TYPES["float16"]}.get(compute, cublas.TYPES["float32"])
    gemm = cublas.Gemm(cublas.COMPUTE[compute], scale)
    session.owned.callback(gemm.close)
    if "fast_accumulate" in w.math:
        gemm.set("fast", ctypes.c_int8(1))
    for name, op in zip(("transa", "transb"), _ops(w)):
        gemm.set(name, ctypes.c_int32(op))
    for name, (_, rows, columns, ld, stride) in zip("AB", _operands(w)):
        gemm.matrix(name, w.dtype, rows, columns, ld, w.batch, stride)
    c_dtype = w.out_dtype if w.out_dtype not in FP8 else "bfloat16"
    gemm.matrix("C", c_dtype, w.n, w.m, w.ldc, w.batch, w.m * w.ldc)
    gemm.matrix("D", w.out_dtype, w.n, w.m, w.ldc, w.batch, w.m * w.ldc)
    return gemm
