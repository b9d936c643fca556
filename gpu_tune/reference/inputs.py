"""Example inputs of a call."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import require
from ..workload import ArraySpec, Workload
from .rounding import NUMPY, reduction_length

_LARGE, _PIECE = 1 << 24, 1 << 20
"""Elements from which on an array is drawn in pieces, each from a generator of its own, on all CPUs; and of a piece."""


POISON = 0xFF
"""Every byte of a result before a run: NaN in each float type, -1 in integers."""


def allocate(spec: ArraySpec, fill: float = 0) -> np.ndarray:
    """An array of ``spec``'s shape, dtype and strides, all ``fill``; its memory ends with its last element."""
    return elements(np.full(spec.span, fill, NUMPY[spec.dtype]), spec)


def empty_results(workload: Workload) -> dict[str, np.ndarray]:
    """Memory for every result of a call, by name, full of :data:`POISON` (gaps between rows, too)."""
    specs = {name: workload.arrays()[name] for name in workload.outputs}
    sizes = {name: spec.span * NUMPY[spec.dtype].itemsize for name, spec in specs.items()}
    return {name: elements(np.full(sizes[name], POISON, np.uint8), spec) for name, spec in specs.items()}


def elements(memory: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """The array that ``memory``, from the first element of ``spec`` to the last, holds."""
    dtype = NUMPY[spec.dtype]
    strides = tuple(s * dtype.itemsize for s in spec.element_strides)
    return np.ndarray(spec.shape, dtype, np.ascontiguousarray(memory), strides=strides)


def changed_gaps(raw: np.ndarray, spec: ArraySpec) -> int:
    """Elements between rows in the bytes ``raw`` that do not hold :data:`POISON` any more."""
    gaps = np.ones(spec.span, bool)
    np.ndarray(spec.shape, bool, gaps, strides=spec.element_strides)[...] = False
    return int((raw.reshape(spec.span, -1)[gaps] != POISON).any(axis=1).sum())


Draw = Callable[[Any, tuple[int, ...]], Any]
"""(generator, shape) -> values; the generator is NumPy's, or one with the same methods."""
DrawLarge = Callable[[Draw, int, tuple[int, ...], np.dtype], np.ndarray]
"""(draw, seed, shape, dtype) -> values in that dtype."""


def example_inputs(
    workload: Workload, seed: int = 0, kind: str = "normal", draw_large: DrawLarge | None = None
) -> dict[str, np.ndarray]:
    """Every input array of a call by buffer name (results are not among them), gaps between rows poisoned.

    ``normal``: standard normal (int8: uniform -127..127; scales uniform 0.5..1.5, for int8 sized so that an int8 result
    neither vanishes nor saturates). ``integer``: integers -2..2 and
    powers of two as scales, so that results are exact whatever the order of summation. ``draw_large`` makes the large
    arrays in place of this function.
    """
    require(kind in ("normal", "integer"), "example inputs", kind, "is not 'normal' or 'integer'")
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, spec in workload.arrays().items():
        if name not in workload.outputs:
            arrays[name] = allocate(spec, 77 if spec.dtype in ("int8", "int32", "uint8") else np.nan)
            _fill(arrays[name], rng, _drawing(workload, name, spec, kind), draw_large)
    return arrays


def _drawing(workload: Workload, name: str, spec: ArraySpec, kind: str) -> Draw:
    """What makes the values of array ``name``."""
    if spec.dtype == "uint8":
        return lambda rng, shape: rng.integers(0, 256, shape)
    scaling = name in ("scale", "scale_a", "scale_b")
    if kind == "integer":
        if scaling:
            return lambda rng, shape: rng.choice([0.5, 1.0, 2.0], shape)
        return lambda rng, shape: rng.integers(-2, 3, shape)
    if scaling:
        typical = 1.0 if name == "scale" else _typical_scale(workload)
        return lambda rng, shape: rng.uniform(0.5, 1.5, shape) * typical
    if spec.dtype in ("int8", "int32"):
        return lambda rng, shape: rng.integers(-127, 128, shape)
    return lambda rng, shape: rng.standard_normal(shape, dtype=np.float32)


def _fill(array: np.ndarray, rng: np.random.Generator, draw: Draw, draw_large: DrawLarge | None) -> None:
    if array.size < _LARGE:
        array[...] = draw(rng, array.shape).astype(array.dtype)
        return
    key, rows = int(rng.integers(2**63)), max(1, _PIECE * array.shape[0] // array.size)
    if draw_large is not None:
        array[...] = draw_large(draw, key, array.shape, array.dtype)
        return

    def piece(first: int) -> None:
        here = array[first : first + rows]
        here[...] = rounded(draw(np.random.default_rng([key, first]), here.shape), array.dtype).view(array.dtype)

    in_pieces(piece, array.shape[0], rows)


def in_pieces(piece: Callable[[int], None], size: int, step: int) -> None:
    """``piece`` of 0, ``step``, 2 ``step`` ... below ``size``, on all CPUs."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(piece, range(0, size, step)))


def rounded(values: Any, dtype: np.dtype) -> Any:
    """``values`` (finite; NumPy's or CuPy's) in ``dtype``; to bfloat16 as the bits of it, in uint16.

    By hand there: its own conversion lets one thread work at a time, and CuPy has none.
    """
    if dtype != NUMPY["bfloat16"]:
        return values.astype(dtype)
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def example_scalars(workload: Workload, kind: str = "normal") -> dict[str, float]:
    """Run-time scalars of a call: values that change the result, exact for ``integer``."""
    values = {"alpha": 2.0, "beta": -1.0} if kind == "integer" else {"alpha": 0.75, "beta": -1.25}
    return {name: values[name] for name in workload.scalars()}


def _typical_scale(workload: Workload) -> float:
    deviation = 127.0**2 / 3 * math.sqrt(reduction_length(workload))  # of a sum of products of uniform int8
    return math.sqrt(50.0 / deviation) if workload.dtype == "int8" else 1.0
