"""cuBLAS and cuBLASLt through ctypes: the libraries that CuPy's ``[ctk]`` extras or a CUDA toolkit bring.

Everything is column-major there; :func:`layout` says what a row-major matrix is then. Numbers are those of
``library_types.h``, ``cublas_api.h`` and ``cublasLt.h`` (the tests compare them with the headers).
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

from ..errors import Unavailable
from . import nvrtc

TYPES = {
    "float32": 0,
    "float16": 2,
    "int8": 3,
    "int32": 10,
    "bfloat16": 14,
    "float8_e4m3": 28,
    "float8_e5m2": 29,
}
COMPUTE = {"fp16": 64, "fp32": 68, "tf32": 77, "int32": 72}
EPILOGUES = {
    "": 1,
    "relu": 2,
    "bias": 4,
    "bias+relu": 6,
    "gelu_tanh": 32,
    "bias+gelu_tanh": 36,
    "relu(aux)": 130,
    "bias+relu(aux)": 134,
    "gelu_tanh(aux)": 160,
    "bias+gelu_tanh(aux)": 164,
    "drelu": 136,
    "drelu+dbias": 152,
    "dgelu_tanh+dbias": 208,
    "dgelu_tanh": 192,
}
WORKSPACE = 32 << 20
"""NVIDIA's figure for Hopper; older chips need less."""
ALGORITHMS = 100
_DESC = {
    "transa": 3,
    "transb": 4,
    "epilogue": 7,
    "bias": 8,
    "aux": 11,
    "aux_ld": 12,
    "aux_stride": 13,
    "scale_a": 17,
    "scale_b": 18,
    "fast": 25,
    "bias_type": 26,
    "mode_a": 31,
    "mode_b": 32,
}
_LAYOUT_BATCH, _LAYOUT_STRIDE = 5, 6
_PREF_WORKSPACE, _PREF_REDUCTIONS, _PREF_ALIGNMENT_A = 1, 3, 5
_REDUCE_IN_COMPUTE_TYPE, _REDUCE_ANYHOW = 2, 7
SCALE_MODES = {"tensor": 0, "row_col": 3, "vector128": 4, "block128": 5}
"""One; one a row of op(A) or column of op(B); one for 128 of K; one for 128x128 (the last three: cuBLAS 12.9)."""
_STRICT_REDUCTION = 16


class BlasError(RuntimeError):
    """A library call failed."""


class Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@functools.cache
def load(stem: str) -> ctypes.CDLL:
    """The library ``stem`` (cublas, cublasLt), found where NVRTC is; Unavailable when it is nowhere."""
    try:
        return nvrtc.load(stem)
    except OSError as error:
        tried = f" ({error})" if str(error) else ""
        raise Unavailable(f"lib{stem} was not found{tried}; install gpu_tune[cuda13]") from None


def call(stem: str, name: str, *arguments: Any) -> None:
    """Call ``name``; BlasError with its status when it fails."""
    status = getattr(load(stem), name)(*arguments)
    if status:
        raise BlasError(f"{name} failed with status {status}")


def _set(function: str, target: ctypes.c_void_p, attribute: int, value: Any) -> None:
    call("cublasLt", function, target, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))


class Gemm:
    """D = alpha op(A) op(B) + beta C, column-major, on strided batches: cublasLtMatmul, described once."""

    def __init__(self, compute: int, scale: int) -> None:
        self.handle, self.desc, self.preference = (ctypes.c_void_p() for _ in range(3))
        call("cublasLt", "cublasLtCreate", ctypes.byref(self.handle))
        call("cublasLt", "cublasLtMatmulDescCreate", ctypes.byref(self.desc), compute, scale)
        self.layouts: dict[str, ctypes.c_void_p] = {}

    def set(self, name: str, value: Any) -> None:
        """One attribute of the operation (a ctypes value)."""
        _set("cublasLtMatmulDescSetAttribute", self.desc, _DESC[name], value)

    def matrix(self, name: str, dtype: str, rows: int, columns: int, ld: int, batch: int, stride: int) -> None:
        """Describe matrix ``name`` (A, B, C or D)."""
        made = ctypes.c_void_p()
        sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(ld))
        call("cublasLt", "cublasLtMatrixLayoutCreate", ctypes.byref(made), TYPES[dtype], *sizes)
        self.layouts[name] = made
        if batch > 1:
            _set("cublasLtMatrixLayoutSetAttribute", made, _LAYOUT_BATCH, ctypes.c_int32(batch))
            _set("cublasLtMatrixLayoutSetAttribute", made, _LAYOUT_STRIDE, ctypes.c_int64(stride))

    def algorithms(self, alignment: int, any_reduction: bool, count: int = ALGORITHMS) -> list[Algorithm]:
        """What the heuristic proposes, its favourite first; empty when the library cannot do it.

        Only algorithms for pointers aligned to ``alignment`` bytes; those that add split-K's parts in the output's
        dtype only with ``any_reduction``.
        """
        call("cublasLt", "cublasLtMatmulPreferenceCreate", ctypes.byref(self.preference))
        reductions = _REDUCE_ANYHOW if any_reduction else _REDUCE_IN_COMPUTE_TYPE
        preferences = {_PREF_WORKSPACE: ctypes.c_size_t(WORKSPACE), _PREF_REDUCTIONS: ctypes.c_uint32(reductions)}
        preferences |= {_PREF_ALIGNMENT_A + matrix: ctypes.c_uint32(alignment) for matrix in range(4)}
        for attribute, value in preferences.items():
            _set("cublasLtMatmulPreferenceSetAttribute", self.preference, attribute, value)
        results, returned = (Algorithm * count)(), ctypes.c_int()
        try:
            call(
                "cublasLt",
                "cublasLtMatmulAlgoGetHeuristic",
                self.handle,
                self.desc,
                self.layouts["A"],
                self.layouts["B"],
                self.layouts["C"],
                self.layouts["D"],
                self.preference,
                count,
                results,
                ctypes.byref(returned),
            )
        except BlasError:
            return []
        return [results[i] for i in range(returned.value) if results[i].state == 0]

    def run(
        self, algorithm: Algorithm, alpha: Any, a: int, b: int, beta: Any, c: int, d: int, workspace: int, stream: int
    ) -> None:
        """Issue it into ``stream``; ``alpha`` and ``beta`` are ctypes values on the host."""
        call(
            "cublasLt",
            "cublasLtMatmul",
            self.handle,
            self.desc,
            ctypes.byref(alpha),
            ctypes.c_void_p(a),
            self.layouts["A"],
            ctypes.c_void_p(b),
            self.layouts["B"],
            ctypes.byref(beta),
            ctypes.c_void_p(c),
            self.layouts["C"],
            ctypes.c_void_p(d),
            self.layouts["D"],
            ctypes.byref(algorithm),
            ctypes.c_void_p(workspace),
            ctypes.c_size_t(WORKSPACE),
            ctypes.c_void_p(stream or None),
        )

    def close(self) -> None:
        for layout in self.layouts.values():
            load("cublasLt").cublasLtMatrixLayoutDestroy(layout)
        if self.preference:
            load("cublasLt").cublasLtMatmulPreferenceDestroy(self.preference)
        load("cublasLt").cublasLtMatmulDescDestroy(self.desc)
        load("cublasLt").cublasLtDestroy(self.handle)


@dataclass(frozen=True)
class Operand:
    """A matrix of :class:`GemmEx`: device ``address``, ``ld`` and ``stride`` (between batches) in elements."""

    address: int
    dtype: str
    ld: int
    stride: int


class GemmEx:
    """cublasGemmEx and cublasGemmStridedBatchedEx with the library's own choice of algorithm."""

    def __init__(self, workspace: int, any_reduction: bool) -> None:
        self.handle = ctypes.c_void_p()
        call("cublas", "cublasCreate_v2", ctypes.byref(self.handle))
        if not any_reduction:  # parts of a sum are not to be added in half precision
            call("cublas", "cublasSetMathMode", self.handle, _STRICT_REDUCTION)
        self.workspace = workspace
        self._stream = -1

    def run(
        self,
        compute: int,
        ops: tuple[int, int],
        sizes: tuple[int, int, int],
        alpha: Any,
        a: Operand,
        b: Operand,
        beta: Any,
        d: Operand,
        batch: int,
        stream: int,
    ) -> None:
        """Issue it into ``stream``; ``alpha`` and ``beta`` are ctypes values on the host."""
        if stream != self._stream:
            call("cublas", "cublasSetStream_v2", self.handle, ctypes.c_void_p(stream or None))
            size = ctypes.c_size_t(WORKSPACE)  # a workspace of the caller's: none is allocated during a capture
            call("cublas", "cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(self.workspace), size)
            self._stream = stream
        name = "cublasGemmEx" if batch == 1 else "cublasGemmStridedBatchedEx"
        arguments: list[Any] = [self.handle, *ops, *sizes, ctypes.byref(alpha)]
        for matrix, scalar in ((a, None), (b, beta), (d, None)):
            arguments += [ctypes.c_void_p(matrix.address), TYPES[matrix.dtype], matrix.ld]
            arguments += [ctypes.c_longlong(matrix.stride)] if batch > 1 else []
            arguments += [ctypes.byref(scalar)] if scalar is not None else []
        call("cublas", name, *arguments, *([batch] if batch > 1 else []), compute, -1)

    def close(self) -> None:
        load("cublas").cublasDestroy_v2(self.handle)
