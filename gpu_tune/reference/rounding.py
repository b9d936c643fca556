"""Data types in NumPy, the reference in float64, and how far rounding may take a result from it."""

from __future__ import annotations

import functools
import importlib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np

from ..workload import Conv2d, Matmul, Workload
from ..workload.epilogue import DERIVATIVES, TRANSCENDENTAL, Op
from . import backward, winograd
from .derivatives import derivative, laid, packed, passes

NUMPY: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "int32": np.dtype(np.int32),
    "uint8": np.dtype(np.uint8),
    "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
"""NumPy dtype of each dtype name."""
EPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int32": 2.0**-24}
"""Unit roundoff of each compute type (int32 sums are exact; their float32 epilogue is not)."""
_FP8_MAX = {"float8_e4m3": 448.0, "float8_e5m2": 57344.0}


def cast(values: np.ndarray, out_dtype: str) -> np.ndarray:
    """float64 to ``out_dtype`` as the kernels do it: round to nearest even; int8, int32 and float8 saturate."""
    if out_dtype in ("int8", "int32"):
        info = np.iinfo(out_dtype)
        return np.clip(np.rint(np.nan_to_num(values, nan=0.0)), info.min, info.max).astype(NUMPY[out_dtype])
    if out_dtype in _FP8_MAX:
        values = np.clip(values, -_FP8_MAX[out_dtype], _FP8_MAX[out_dtype])
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(NUMPY[out_dtype])


@dataclass(frozen=True)
class Numerics:
    """How far a result may be from the float64 reference.

    ``|sum - reference| <= (k_eps * sqrt(K) * eps(compute) + input_eps) * |A|.|B|`` (element-wise), then through the
    epilogue: see ``gpu_tune.reference.compare``. ``input_eps``: relative error of one product where inputs are rounded
    (tf32: 2**-10). ``winograd``: output tile of a Winograd algorithm; the 2-norm of
    its transformed products then stands for ``|A|.|B|``. ``exact_integers``: small-integer
    inputs give exact results. ``propagates_nonfinite``: inf and nan come out where IEEE arithmetic puts them.
    """

    compute: str = "float32"
    k_eps: float = 4.0
    input_eps: float = 0.0
    winograd: int = 0
    exact_integers: bool = True
    propagates_nonfinite: bool = True


LIPSCHITZ = {"relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "clamp": 1.0}
"""Largest slope of each."""
WINOGRAD_GROWTH = {2: 3.0, 4: 60.0}
"""2-norm of a Winograd algorithm's products over the image's largest ``|A|.|B| / sqrt(K)``, at most, for random data
(2.7 and 54.5 were seen). The largest counts: a border element sums few products but passes through whole tiles."""


def reduction_length(workload: Workload) -> int:
    """Products summed for one output element."""
    return workload.k if isinstance(workload, Matmul) else workload.product[2]


def products(workload: Workload, arrays: Mapping[str, Any], xp: Any = np) -> tuple[Any, Any]:
    """The scaled product (or convolution) of the inputs, and that of their magnitudes; float64, before the epilogue.

    ``xp``: the library that computes them from arrays of its own: NumPy or CuPy.
    """
    names = [n for n in (*workload.inputs, "scale_a", "scale_b") if n in arrays]
    wide = {n: xp.asarray(arrays[n]).astype(xp.float64) for n in names}
    compute: Callable[..., Any] = _matmul if isinstance(workload, Matmul) else _CONVOLUTIONS[workload.direction]
    return compute(workload, wide, xp), compute(workload, {n: abs(a) for n, a in wide.items()}, xp)


def factors(w: Matmul, arrays: Mapping[str, Any]) -> tuple[Any, Any]:
    """A (m, k) and B (k, n) as they are multiplied: views of arrays of any library."""
    a, b = (arrays[n] if order == "n" else arrays[n].swapaxes(-1, -2) for n, order in zip("ab", w.layout))
    return a, b


def _matmul(w: Matmul, arrays: Mapping[str, Any], xp: Any) -> Any:
    a, b = factors(w, arrays)
    if w.scales == "block128":
        blocks = [slice(i, min(i + 128, w.k)) for i in range(0, w.k, 128)]
        columns = xp.repeat(arrays["scale_b"], 128, axis=0)[: w.n]
        parts = (
            arrays["scale_a"][:, i, None] * columns[:, i] * (a[..., s] @ b[..., s, :]) for i, s in enumerate(blocks)
        )
        return functools.reduce(operator.add, parts)
    y = a @ b
    if w.scales == "tensor":
        return y * arrays["scale_a"][0] * arrays["scale_b"][0]
    return y * arrays["scale_a"][:, None] * arrays["scale_b"] if w.scales == "row_col" else y


def _conv2d(w: Conv2d, arrays: Mapping[str, Any], xp: Any) -> Any:
    x, f = arrays["x"], arrays["w"]
    if w.weights == "pretransformed":
        return winograd.convolve(w, arrays, w.winograd_tile)
    if w.layout == "nchw":
        x, f = x.transpose(0, 2, 3, 1), f.transpose(0, 2, 3, 1)
    top, bottom, left, right = w.padding
    x = xp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = w.stride, w.dilation
    groups = f.reshape(w.groups, w.k // w.groups, w.r, w.s, w.c // w.groups)
    sums = xp.zeros((w.groups, w.n * w.p * w.q, w.k // w.groups))
    for r in range(w.r):
        for s in range(w.s):
            patch = x[:, r * dh : r * dh + (w.p - 1) * sh + 1 : sh, s * dw : s * dw + (w.q - 1) * sw + 1 : sw]
            pixels = patch.reshape(w.n * w.p * w.q, w.groups, w.c // w.groups)
            sums += pixels.swapaxes(0, 1) @ groups[:, :, r, s].swapaxes(1, 2)
    y = sums.swapaxes(0, 1).reshape(w.n, w.p, w.q, w.k)
    if w.scales != "none":
        y = y * arrays["scale_a"][0] * arrays["scale_b"]
    return y.transpose(0, 3, 1, 2) if w.layout == "nchw" else y


_CONVOLUTIONS: dict[str, Callable[..., Any]] = {
    "fprop": _conv2d,
    "dgrad": backward.image_gradient,
    "wgrad": backward.filter_gradient,
}


def activation(op: Op, y: Any, xp: Any = np) -> Any:
    """``op`` of every element of a floating-point array of ``xp``: NumPy or CuPy."""
    if op.name == "relu":
        return xp.where(xp.isnan(y), y, xp.maximum(y, 0.0))
    if op.name == "clamp":
        return xp.clip(y, op.lo, op.hi)
    if op.name == "silu":
        return y / (1.0 + xp.exp(-y))
    if op.name == "gelu_tanh":
        return 0.5 * y * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * y**3)))
    special = importlib.import_module("cupyx.scipy.special" if xp.__name__ == "cupy" else "scipy.special")
    return 0.5 * y * (1.0 + special.erf(y / math.sqrt(2.0)))


def reference(
    workload: Workload, arrays: Mapping[str, np.ndarray], scalars: Mapping[str, float] | None = None
) -> np.ndarray:
    """The result in float64, before the cast to ``out_dtype``; shape of ``out``."""
    return _evaluate(workload, arrays, scalars or {}, Numerics())[0]


def results(
    workload: Workload, arrays: Mapping[str, np.ndarray], scalars: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Every result of a call by name, in its dtype: ``out``, and what the epilogue writes beside it."""
    out, _, written = _evaluate(workload, arrays, scalars or {}, Numerics())
    found = {"out": cast(out, workload.out_dtype)}
    for op in workload.ops:
        if op.name == "dbias":
            summed = found["out"].astype(np.float64).sum(axis=summed_axes(workload, out.ndim))
            found["dbias"] = cast(summed, workload.vector_dtype)
        elif op.writes:
            given = written[op.writes][0]
            found[op.writes] = packed(workload, passes(given)) if op.bits else cast(given, workload.out_dtype)
    return found


@dataclass(frozen=True)
class Bounds:
    """Where a result may lie: ``lo`` .. ``hi`` in ``out_dtype``; ``expected`` +- ``error`` before the cast, float64.

    Of a mask's bits 0 and 1, as :func:`~.inputs.observed` sees them. ``second``: those of the results beside ``out``.
    """

    lo: np.ndarray
    hi: np.ndarray
    expected: np.ndarray
    error: np.ndarray
    second: Mapping[str, Bounds] = field(default_factory=dict)


def bounds(
    workload: Workload,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float] | None = None,
    *,
    numerics: Numerics | None = None,
    exact: bool = False,
    products: tuple[np.ndarray, np.ndarray] | None = None,
) -> Bounds:
    """What :func:`compare` compares with. ``products``: what :func:`products` gave, or the same computed elsewhere."""
    with np.errstate(all="ignore"):
        expected, error, written = _evaluate(workload, arrays, scalars or {}, numerics or Numerics(), products)
        second = {}
        for op in workload.ops:
            if op.writes in written:
                second[op.writes] = _limits(workload, *written[op.writes], exact, op.bits)
            exact = exact and op.name not in TRANSCENDENTAL
        return with_sums(workload, replace(_limits(workload, expected, error, exact), second=second), exact)


def summed_axes(workload: Workload, rank: int) -> tuple[int, ...]:
    """The axes of a result that ``dbias`` sums over: all but the channels'."""
    channels_first = isinstance(workload, Conv2d) and workload.layout == "nchw"
    return tuple(axis for axis in range(rank) if axis != (1 if channels_first else rank - 1))


def with_sums(workload: Workload, limits: Bounds, exact: bool) -> Bounds:
    """``limits`` of a whole result, with those of its sums where the workload has ``dbias``.

    What is added lies within ``limits``; float32 sums of ``count`` elements in some order err by
    ``4 sqrt(count) 2^-24`` of the sum of magnitudes (count at least 32; nothing when ``exact``: integers).
    """
    if "dbias" not in workload.outputs or "dbias" in limits.second:
        return limits
    with np.errstate(all="ignore"):
        lo, hi = (a.astype(np.float64) for a in (limits.lo, limits.hi))
        axes = summed_axes(workload, lo.ndim)
        expected = cast(limits.expected, workload.out_dtype).astype(np.float64).sum(axis=axes)
        count = lo.size // max(1, expected.size)
        relative = 0.0 if exact else 4 * math.sqrt(max(32, count)) * EPS["float32"]
        error = relative * np.maximum(np.abs(lo), np.abs(hi)).sum(axis=axes)
        error = np.where(np.isfinite(error), error, 0.0)
        low, high = lo.sum(axis=axes) - error, hi.sum(axis=axes) + error
        dtype = workload.vector_dtype
        sums = Bounds(cast(low, dtype), cast(high, dtype), expected, np.maximum(high - expected, expected - low))
        return replace(limits, second={**limits.second, "dbias": sums})


def _limits(workload: Workload, expected: np.ndarray, error: np.ndarray, exact: bool, bits: bool = False) -> Bounds:
    """``expected`` +- ``error`` as bounds; ``bits``: of the mask of where a ReLU that is given this passes."""
    error = np.zeros_like(expected) if exact else np.where(np.isfinite(expected), error, 0.0)
    if bits:
        lo, hi, right = (
            laid(workload, passes(given)).view(np.uint8) for given in (expected - error, expected + error, expected)
        )
        beyond = ~laid(workload, np.ones(expected.shape, bool))  # bits that pad a row mean nothing
        hi = hi | beyond.view(np.uint8)
        return Bounds(lo, hi, right.astype(np.float64), np.zeros(right.shape))
    return Bounds(
        cast(expected - error, workload.out_dtype), cast(expected + error, workload.out_dtype), expected, error
    )


def _evaluate(
    workload: Workload,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float],
    numerics: Numerics,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """(reference, error bound), both float64; and the same of what each array that the epilogue writes is made from."""
    heavy = (*workload.inputs, "scale_a", "scale_b", *workload.outputs)
    wide = {n: np.asarray(a) for n, a in arrays.items() if n not in heavy}
    wide = {n: a if a.dtype == np.uint8 else a.astype(np.float64) for n, a in wide.items()}
    y, magnitude = known or products(workload, arrays)
    if numerics.winograd and isinstance(workload, Conv2d):
        magnitude = _winograd_magnitude(workload, arrays, numerics.winograd, magnitude, known is not None)
    exact_sum = workload.dtype == "int8"
    per_sum = (
        0.0
        if exact_sum
        else numerics.k_eps * math.sqrt(max(reduction_length(workload), 32)) * EPS[numerics.compute]
        + numerics.input_eps
    )
    error = magnitude * (per_sum + (4 * EPS["float32"] if workload.scales != "none" else 0.0))
    if workload.out_dtype == "int32":
        return (y + (wide["c"] if workload.beta != "0" else 0.0)), np.zeros_like(y), {}
    alpha = scalars["alpha"] if workload.alpha == "any" else 1.0
    y, error = y * alpha, error * abs(alpha) + 2 * EPS["float32"] * np.abs(y * alpha)
    if workload.beta != "0":
        addend = (scalars["beta"] if workload.beta == "any" else 1.0) * wide["c"]
        if not (workload.beta == "any" and scalars["beta"] == 0):
            y = y + addend
            error = error + 2 * EPS["float32"] * (np.abs(addend) + np.abs(y))
    written = {}
    for op in workload.ops:
        if op.saves:
            written[op.writes] = (y, error)
        y, error = _apply(op, y, error, wide, workload)
    return y, error, written


def _apply(
    op: Op, y: np.ndarray, error: np.ndarray, wide: Mapping[str, np.ndarray], workload: Workload
) -> tuple[np.ndarray, np.ndarray]:
    eps = EPS["float32"]
    if op.name in ("scale", "bias", "row_bias"):
        vector = _broadcast(op.name, wide[op.name], workload)
        y, error = (
            (y * vector, error * np.abs(vector))
            if op.name == "scale"
            else (y + vector, error + 2 * eps * np.abs(vector))
        )
        return y, error + 2 * eps * np.abs(y)
    if op.name == "dbias":  # sums what is stored
        return y, error
    if op.name == "residual":
        y = y + wide["residual"]
        return y, error + 2 * eps * (np.abs(y) + np.abs(wide["residual"]))
    if op.name in DERIVATIVES:
        with np.errstate(invalid="ignore"):  # infinite saved values give NaN
            slope = derivative(workload, op, wide["aux"])
        if op.name not in TRANSCENDENTAL:  # a choice: what is not passed is zero, were it NaN
            return np.where(slope, y, 0.0), np.where(slope, error, 0.0)
        approximate = 2.0**-18 * (1.0 + np.abs(wide["aux"])) + 1e-7  # of the slope
        return y * slope, error * np.abs(slope) + np.abs(y) * approximate + 2 * eps * np.abs(y * slope)
    out = activation(op, y)
    transcendental = 0.0 if op.name in ("relu", "clamp") else 2.0**-18 * np.abs(y) + 1e-7
    return out, error * LIPSCHITZ[op.name] + transcendental


def _broadcast(name: str, vector: np.ndarray, workload: Workload) -> np.ndarray:
    if name == "row_bias":
        return vector[:, None]
    return vector[:, None, None] if isinstance(workload, Conv2d) and workload.layout == "nchw" else vector


def _winograd_magnitude(
    w: Conv2d, arrays: Mapping[str, np.ndarray], tile: int, magnitude: np.ndarray, rough: bool
) -> np.ndarray:
    """2-norm of the transformed products; ``rough``: from the plain sums, where the exact one would take too long."""
    if rough:
        largest = magnitude.max(initial=0.0, where=np.isfinite(magnitude))
        return np.full_like(magnitude, largest * WINOGRAD_GROWTH[tile] / math.sqrt(reduction_length(w)))
    squares = {n: np.square(arrays[n].astype(np.float64)) for n in ("x", "w")}
    return np.sqrt(winograd.convolve(w, squares, tile, squared=True))
