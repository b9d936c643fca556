"""Winograd's minimal filtering F(m x m, 3 x 3) in NumPy: matrices, filter transform, and the float64 algorithm.

One output tile of m x m is ``A^T [(G g G^T) * (B^T d B)] A`` summed over channels, with input tiles ``d`` of m + 2
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import require
from ..workload import Conv2d

INPUT = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
"""``B^T`` by output tile m."""
FILTER = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
"""``G`` by output tile m."""
OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
"""``A^T`` by output tile m."""


def transform_filters(w: np.ndarray, workload: Conv2d) -> np.ndarray:
    """``G g G^T`` of plain filters ``w`` (in the workload's layout), for a workload with pretransformed weights.

    Returns (alpha^2, k, c) in the workload's dtype, alpha = workload.winograd_tile + 2; computed in float64.
    """
    expected = (workload.k, 3, 3, workload.c) if workload.layout == "nhwc" else (workload.k, workload.c, 3, 3)
    require(w.shape == expected, "filters", w.shape, f"are not {expected} ({workload.layout})")
    return _filters(np.asarray(w).astype(np.float64), workload, workload.winograd_tile, False).astype(w.dtype)


def convolve(workload: Conv2d, arrays: Mapping[str, np.ndarray], tile: int, squared: bool = False) -> np.ndarray:
    """The convolution of float64 arrays by F(tile x tile, 3 x 3), in the layout of ``out``.

    With ``squared`` every coefficient is squared: fed with squares, the root is the size of the transformed products in
    the 2-norm, which rounding errors (independent of each other) scale with.
    """
    take = np.square if squared else np.asarray
    bt, at = (take(np.array(matrix[tile], dtype=np.float64)) for matrix in (INPUT, OUTPUT))
    x = arrays["x"] if workload.layout == "nhwc" else arrays["x"].transpose(0, 2, 3, 1)
    rows, columns, alpha = -(-workload.p // tile), -(-workload.q // tile), tile + 2
    top, _, left, _ = workload.padding
    padded = np.zeros((workload.n, rows * tile + 2, columns * tile + 2, workload.c))
    inside = x[:, : padded.shape[1] - top, : padded.shape[2] - left]
    padded[:, top : top + inside.shape[1], left : left + inside.shape[2]] = inside
    windows = np.lib.stride_tricks.sliding_window_view(padded, (alpha, alpha), (1, 2))[:, ::tile, ::tile]
    v = np.einsum("ia,nyxcab,jb->ijnyxc", bt, windows, bt, optimize=True)
    if workload.weights == "pretransformed":
        u = arrays["w"].reshape(alpha, alpha, workload.k, workload.c)
    else:
        u = _filters(arrays["w"], workload, tile, squared).reshape(alpha, alpha, workload.k, workload.c)
    product = np.einsum("ijnyxc,ijkc->ijnyxk", v, u, optimize=True)
    y = np.einsum("pi,ijnyxk,qj->nypxqk", at, product, at, optimize=True)
    y = y.reshape(workload.n, rows * tile, columns * tile, workload.k)[:, : workload.p, : workload.q]
    return y if workload.layout == "nhwc" else y.transpose(0, 3, 1, 2)


def _filters(w: np.ndarray, workload: Conv2d, tile: int, squared: bool) -> np.ndarray:
    g = np.array(FILTER[tile], dtype=np.float64)
    g = np.square(g) if squared else g
    krsc = w if workload.layout == "nhwc" else w.transpose(0, 2, 3, 1)
    return np.einsum("ir,krsc,js->ijkc", g, krsc, g, optimize=True).reshape(-1, workload.k, workload.c)
