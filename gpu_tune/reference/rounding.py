"""The reference and how far rounding may take a result from it, operation by operation."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..workload import Conv2d, Workload
from ..workload.epilogue import Op
from . import winograd
from .exact import products, reduction_length
from .numerics import Numerics, cast

LIPSCHITZ = {"relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "clamp": 1.0}
"""Largest slope of each."""


def activation(op: Op, y: np.ndarray) -> np.ndarray:
    """``op`` of every element."""
    if op.name == "relu":
        return np.where(np.isnan(y), y, np.maximum(y, 0.0))
    if op.name == "clamp":
        return np.clip(y, op.lo, op.hi)
    if op.name == "silu":
        return y / (1.0 + np.exp(-y))
    if op.name == "gelu_tanh":
        return 0.5 * y * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * y**3)))
    return 0.5 * y * (1.0 + _erf(y / math.sqrt(2.0)))


def _erf(x: np.ndarray) -> np.ndarray:
    """erf, within 1e-13: cubic Hermite interpolation of ``math.erf`` on a grid of 2^-10 (1 beyond 6)."""
    values, slopes = _erf_grid()
    with np.errstate(invalid="ignore"):
        place = np.minimum(np.abs(x), 6.0) * 1024.0
        at = np.minimum(np.nan_to_num(place).astype(np.int64), values.size - 2)
    t, h = place - at, 1.0 / 1024.0
    left, right = values[at], values[at + 1]
    rise = right - left
    curve = t * (1 - t) * ((1 - t) * (slopes[at] * h - rise) - t * (slopes[at + 1] * h - rise))
    return np.copysign(left + t * rise + curve, x)


@functools.cache
def _erf_grid() -> tuple[np.ndarray, np.ndarray]:
    grid = np.arange(6 * 1024 + 1) / 1024.0
    return np.array([math.erf(g) for g in grid]), 2.0 / math.sqrt(math.pi) * np.exp(-grid * grid)


EPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int32": 2.0**-24}
"""Unit roundoff of each compute type (int32 sums are exact; their float32 epilogue is not)."""
WINOGRAD_GROWTH = {2: 3.0, 4: 60.0}
"""2-norm of a Winograd algorithm's products over the image's largest ``|A|.|B| / sqrt(K)``, at most, for random data
(2.7 and 54.5 were seen). The largest counts: a border element sums few products but passes through whole tiles."""


def reference(
    workload: Workload, arrays: Mapping[str, np.ndarray], scalars: Mapping[str, float] | None = None
) -> np.ndarray:
    """The result in float64, before the cast to ``out_dtype``; shape of ``out``."""
    return _evaluate(workload, arrays, scalars or {}, Numerics())[0]


@dataclass(frozen=True)
class Bounds:
    """Where a result may lie: ``lo`` .. ``hi`` in ``out_dtype``; ``expected`` +- ``error`` before the cast, float64."""

    lo: np.ndarray
    hi: np.ndarray
    expected: np.ndarray
    error: np.ndarray


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
        expected, error = _evaluate(workload, arrays, scalars or {}, numerics or Numerics(), products)
        if exact and not any(op.name in ("gelu", "gelu_tanh", "silu") for op in workload.ops):
            error = np.zeros_like(expected)
        error = np.where(np.isfinite(expected), error, 0.0)
        return Bounds(
            cast(expected - error, workload.out_dtype), cast(expected + error, workload.out_dtype), expected, error
        )


def _evaluate(
    workload: Workload,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float],
    numerics: Numerics,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(reference, error bound), both float64."""
    heavy = (*workload.inputs, "scale_a", "scale_b", "out")
    wide = {n: np.asarray(a).astype(np.float64) for n, a in arrays.items() if n not in heavy}
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
        return (y + (wide["c"] if workload.beta != "0" else 0.0)), np.zeros_like(y)
    alpha = scalars["alpha"] if workload.alpha == "any" else 1.0
    y, error = y * alpha, error * abs(alpha) + 2 * EPS["float32"] * np.abs(y * alpha)
    if workload.beta != "0":
        addend = (scalars["beta"] if workload.beta == "any" else 1.0) * wide["c"]
        if not (workload.beta == "any" and scalars["beta"] == 0):
            y = y + addend
            error = error + 2 * EPS["float32"] * (np.abs(addend) + np.abs(y))
    for op in workload.ops:
        y, error = _apply(op, y, error, wide, workload)
    return y, error


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
    if op.name == "residual":
        y = y + wide["residual"]
        return y, error + 2 * eps * (np.abs(y) + np.abs(wide["residual"]))
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
