"""The reference of large workloads, in float64: products by CuPy on the GPU, bounds on all CPUs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..reference import NUMPY, Bounds, bounds, products
from ..reference.numerics import Numerics
from ..workload import Conv2d, Matmul, Workload

log = logging.getLogger(__name__)
_ON_DEVICE = 2e9
"""From this many FLOP on, the reference's products are computed by CuPy where it is installed."""
_PIECE = 1 << 16
"""Elements of a result whose bounds are computed at once: what is made on the way stays in a CPU's cache."""


def wide_products(workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``reference.products``; by CuPy in float64 where the workload is large and CuPy is installed."""
    if workload.flops >= _ON_DEVICE and workload.scales != "block128":
        try:
            import cupy

            try:
                return _cupy_products(cupy, workload, arrays)
            finally:  # CuPy keeps what it frees, and the candidates need it
                cupy.get_default_memory_pool().free_all_blocks()
        except Exception as error:  # CuPy's own errors have no common root, and NumPy does as well
            log.info("the reference is computed by NumPy, not by CuPy (%s)", error)
    return products(workload, arrays)


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
    if rows >= shape[0] or numerics.winograd:  # whose bound depends on the largest element of all
        return bounds(workload, arrays, scalars, numerics=numerics, exact=exact, products=known)
    like_rows = {"c", "residual"} | ({"row_bias"} if len(shape) == 2 else set())  # of every matrix of a batch otherwise
    lo, hi = (np.empty(shape, NUMPY[workload.out_dtype]) for _ in range(2))
    expected, error = (np.empty(shape) for _ in range(2))

    def fill(first: int) -> None:
        here = slice(first, first + rows)
        some = {n: a[here] if n in like_rows else a for n, a in arrays.items()}
        part = (known[0][here], known[1][here])
        made = bounds(workload, some, scalars, numerics=numerics, exact=exact, products=part)
        lo[here], hi[here], expected[here], error[here] = made.lo, made.hi, made.expected, made.error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fill, range(0, shape[0], rows)))
    return Bounds(lo, hi, expected, error)


def _cupy_products(cp: Any, workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    first, second = (
        np.asarray(arrays[n]).astype(np.float32) for n in workload.inputs
    )  # exact, and half the bytes to upload
    a, b = cp.asarray(first).astype(cp.float64), cp.asarray(second).astype(cp.float64)
    results = []
    for x, y in ((a, b), (cp.abs(a), cp.abs(b))):
        product = _cupy_matmul(x, y, workload) if isinstance(workload, Matmul) else _cupy_conv2d(cp, x, y, workload)
        results.append(cp.asnumpy(product))
    if workload.scales == "none":
        return results[0], results[1]
    scale_a, scale_b = (np.asarray(arrays[n]).astype(np.float64) for n in ("scale_a", "scale_b"))
    if isinstance(workload, Matmul):
        factor = scale_a[:, None] * scale_b if workload.scales == "row_col" else scale_a[0] * scale_b[0]
    else:
        factor = scale_a[0] * scale_b
        factor = factor[:, None, None] if workload.layout == "nchw" and workload.scales == "row_col" else factor
    return results[0] * factor, results[1] * np.abs(factor)


def _cupy_matmul(a: Any, b: Any, w: Matmul) -> Any:
    a = a if w.layout[0] == "n" else a.swapaxes(-1, -2)
    return a @ (b if w.layout[1] == "n" else b.swapaxes(-1, -2))


def _cupy_conv2d(cp: Any, x: Any, f: Any, w: Conv2d) -> Any:
    if w.layout == "nchw":
        x, f = x.transpose(0, 2, 3, 1), f.transpose(0, 2, 3, 1)
    top, bottom, left, right = w.padding
    x = cp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = w.stride, w.dilation
    cg, kg = w.c // w.groups, w.k // w.groups
    out = cp.zeros((w.n, w.p, w.q, w.groups, kg))
    for r in range(w.r):
        for s in range(w.s):
            patch = x[:, r * dh : r * dh + (w.p - 1) * sh + 1 : sh, s * dw : s * dw + (w.q - 1) * sw + 1 : sw]
            for g in range(w.groups):
                part = patch[..., g * cg : (g + 1) * cg] @ f[g * kg : (g + 1) * kg, r, s].T
                out[..., g, :] += part
    out = out.reshape(w.n, w.p, w.q, w.k)
    return out.transpose(0, 3, 1, 2) if w.layout == "nchw" else out
