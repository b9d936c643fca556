"""The sums of products that a workload asks for, in float64."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from ..workload import Conv2d, Matmul, Workload
from . import winograd


def reduction_length(workload: Workload) -> int:
    """Products summed for one output element."""
    return workload.k if isinstance(workload, Matmul) else (workload.c // workload.groups) * workload.r * workload.s


def products(workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The scaled product (or convolution) of the inputs, and that of their magnitudes; float64, before the epilogue."""
    wide = {
        n: np.asarray(arrays[n]).astype(np.float64) for n in (*workload.inputs, "scale_a", "scale_b") if n in arrays
    }
    return _product(workload, wide), _product(workload, {n: np.abs(a) for n, a in wide.items()})


def _product(workload: Workload, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return _matmul(workload, arrays) if isinstance(workload, Matmul) else _conv2d(workload, arrays)


def _matmul(w: Matmul, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    a = arrays["a"] if w.layout[0] == "n" else np.swapaxes(arrays["a"], -1, -2)
    b = arrays["b"] if w.layout[1] == "n" else np.swapaxes(arrays["b"], -1, -2)
    if w.scales == "block128":
        blocks = [slice(i, min(i + 128, w.k)) for i in range(0, w.k, 128)]
        columns = np.repeat(arrays["scale_b"], 128, axis=0)[: w.n]
        parts = (
            arrays["scale_a"][:, i, None] * columns[:, i] * (a[..., s] @ b[..., s, :]) for i, s in enumerate(blocks)
        )
        return functools.reduce(np.add, parts)
    y = a @ b
    if w.scales == "tensor":
        return y * arrays["scale_a"][0] * arrays["scale_b"][0]
    return y * arrays["scale_a"][:, None] * arrays["scale_b"] if w.scales == "row_col" else y


def _conv2d(w: Conv2d, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    x, f = arrays["x"], arrays["w"]
    if w.weights == "pretransformed":
        return winograd.convolve(w, arrays, w.winograd_tile)
    if w.layout == "nchw":
        x, f = x.transpose(0, 2, 3, 1), f.transpose(0, 2, 3, 1)
    top, bottom, left, right = w.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = w.stride, w.dilation
    cg, kg = w.c // w.groups, w.k // w.groups
    out = np.zeros((w.n, w.p, w.q, w.groups, kg))
    grouped = f.reshape(w.groups, kg, w.r, w.s, cg)
    for r in range(w.r):
        for s in range(w.s):
            patch = x[:, r * dh : r * dh + (w.p - 1) * sh + 1 : sh, s * dw : s * dw + (w.q - 1) * sw + 1 : sw]
            patch = patch.reshape(w.n, w.p, w.q, w.groups, 1, cg)
            out += (patch @ grouped[:, :, r, s].transpose(0, 2, 1))[..., 0, :]
    y = out.reshape(w.n, w.p, w.q, w.k)
    if w.scales != "none":
        y = y * arrays["scale_a"][0] * arrays["scale_b"]
    return y.transpose(0, 3, 1, 2) if w.layout == "nchw" else y
