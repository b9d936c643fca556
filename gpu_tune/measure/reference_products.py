"""Inputs and reference of large workloads: drawn, and multiplied in float64, by CuPy on the GPU; bounds on all CPUs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from ..reference import Bounds, Numerics, bounds, example_inputs, products
from ..reference.inputs import Draw, in_pieces, rounded
from ..reference.rounding import with_sums
from ..workload import Workload
from ..workload.epilogue import TRANSCENDENTAL
from . import runtime

log = logging.getLogger(__name__)
_ON_DEVICE = 2e9
"""From this many FLOP on, the reference's products are computed by CuPy where it is installed."""
_PIECE = 1 << 16
"""Elements of a result whose bounds are computed at once: what is made on the way stays in a CPU's cache."""


def wide_products(workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``reference.products``; by CuPy in float64 where the workload is large and CuPy is installed."""
    if workload.flops >= _ON_DEVICE and workload.scales != "block128":
        try:
            return runtime.wide_products(workload, arrays)
        except Exception as error:  # CuPy's own errors have no common root, and NumPy does as well
            log.info("the reference is computed by NumPy, not by CuPy (%s)", error)
    return products(workload, arrays)


def large_inputs(workload: Workload, seed: int, kind: str = "normal") -> dict[str, np.ndarray]:
    """``reference.example_inputs``; large arrays are drawn on the GPU, where CuPy can."""

    def draw_large(draw: Draw, key: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        try:
            return runtime.draw(draw, key, shape, dtype)
        except Exception as error:  # no room beside what others hold, say: NumPy does as well
            log.info("inputs are drawn by NumPy, not by CuPy (%s)", error)
            drawn: np.ndarray = rounded(draw(np.random.default_rng(key), shape), dtype).view(dtype)
            return drawn

    return example_inputs(workload, seed, kind, draw_large)


def wide_bounds(
    workload: Workload,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float],
    numerics: Numerics,
    exact: bool,
    known: tuple[np.ndarray, np.ndarray],
) -> Bounds:
    """``reference.bounds`` with ``known`` products, same numbers: some rows of the result at a time on each CPU."""
    shape = known[0].shape
    rows = max(1, _PIECE * shape[0] // max(1, known[0].size))
    flat_bits = workload.op == "conv2d" and any(op.bits for op in workload.ops)
    if rows >= shape[0] or flat_bits or numerics.winograd:  # whose bound depends on the largest element of all
        return bounds(workload, arrays, scalars, numerics=numerics, exact=exact, products=known)
    like_rows = {"c", "residual", "aux"} | (
        {"row_bias"} if len(shape) == 2 else set()
    )  # of every matrix of a batch otherwise

    rest = workload.unsummed()  # sums are of the whole

    def of(first: int) -> Bounds:
        here = slice(first, first + rows)
        some = {n: a[here] if n in like_rows else a for n, a in arrays.items()}
        part = (known[0][here], known[1][here])
        return bounds(rest, some, scalars, numerics=numerics, exact=exact, products=part)

    whole = _room(of(0), shape[0])

    def fill(first: int) -> None:
        here, made = slice(first, first + rows), of(first)
        for into, part in ((whole, made), *((whole.second[n], made.second[n]) for n in made.second)):
            into.lo[here], into.hi[here] = part.lo, part.hi
            into.expected[here], into.error[here] = part.expected, part.error

    in_pieces(fill, shape[0], rows)
    return with_sums(workload, whole, exact and not any(op.name in TRANSCENDENTAL for op in workload.ops))


def _room(part: Bounds, rows: int) -> Bounds:
    """Bounds of ``rows`` rows, not yet filled, like those of some rows."""
    lo, hi, expected, error = (
        np.empty((rows, *a.shape[1:]), a.dtype) for a in (part.lo, part.hi, part.expected, part.error)
    )
    return Bounds(lo, hi, expected, error, {name: _room(second, rows) for name, second in part.second.items()})
