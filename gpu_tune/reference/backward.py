"""The gradients of a convolution in float64: what direction dgrad and wgrad of a Conv2d compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..workload import Conv2d


class Taps(NamedTuple):
    """How one axis of an image meets one filter tap in a dgrad: pixels ``first``, ``first + stride`` ... (``pixels``)
    receive dy from ``start`` on, which may lie outside of it on either side."""

    first: int
    pixels: int
    start: int


def taps(size: int, tap: int, stride: int, dilation: int, padding: int) -> Taps:
    """Of an axis of ``size`` pixels: pixel h meets ``tap`` at dy[(h + padding - tap * dilation) / stride], where that
    is whole."""
    first = (tap * dilation - padding) % stride
    pixels = max(0, -(-(size - first) // stride))
    return Taps(first, pixels, (first + padding - tap * dilation) // stride)


def image_gradient(w: Conv2d, arrays: Mapping[str, Any], xp: Any) -> Any:
    """dx in the layout of x, float64: the sum over filter taps of dy times the tap, where dy is zero outside.

    A pixel meets only the taps of its residue modulo the stride: zeros between elements of dy are never multiplied, but
    those around it are (which tells where an infinite filter shows).
    """
    dy, f = arrays["dy"], arrays["w"]
    if w.layout == "nchw":
        dy, f = dy.transpose(0, 2, 3, 1), f.transpose(0, 2, 3, 1)
    f = f.reshape(w.groups, w.k // w.groups, w.r, w.s, w.c // w.groups)
    (sh, sw), (dh, dw), (top, _, left, _) = w.stride, w.dilation, w.padding
    rows = [taps(w.h, r, sh, dh, top) for r in range(w.r)]
    columns = [taps(w.w, s, sw, dw, left) for s in range(w.s)]
    before, after = [], []  # zeros around dy that the taps reach
    for axis, size in ((rows, w.p), (columns, w.q)):
        met = [t for t in axis if t.pixels]
        before.append(max(0, *(-t.start for t in met), 0))
        after.append(max(0, *(t.start + t.pixels - size for t in met), 0))
    dy = xp.pad(dy, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))
    dx = xp.zeros((w.n, w.h, w.w, w.groups, w.c // w.groups))
    for r, row in enumerate(rows):
        for s, column in enumerate(columns):
            if not row.pixels or not column.pixels:
                continue
            p, q = row.start + before[0], column.start + before[1]
            patch = dy[:, p : p + row.pixels, q : q + column.pixels]
            pixels = patch.reshape(math.prod(patch.shape[:3]), w.groups, w.k // w.groups).swapaxes(0, 1)
            part = (pixels @ f[:, :, r, s]).swapaxes(0, 1).reshape(*patch.shape[:3], w.groups, w.c // w.groups)
            dx[:, row.first :: sh, column.first :: sw] += part
    return _finished(w, dx.reshape(w.n, w.h, w.w, w.c), arrays)


def filter_gradient(w: Conv2d, arrays: Mapping[str, Any], xp: Any) -> Any:
    """dw in the layout of w, float64: for each tap the sum over pixels of dy times x, zero outside of the image."""
    dy, x = arrays["dy"], arrays["x"]
    if w.layout == "nchw":
        dy, x = dy.transpose(0, 2, 3, 1), x.transpose(0, 2, 3, 1)
    top, bottom, left, right = w.padding
    x = xp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = w.stride, w.dilation
    pixels = w.n * w.p * w.q
    lines = dy.reshape(pixels, w.groups, w.k // w.groups).transpose(1, 2, 0)
    gradient = xp.zeros((w.groups, w.k // w.groups, w.r, w.s, w.c // w.groups))
    for r in range(w.r):
        for s in range(w.s):
            patch = x[:, r * dh : r * dh + (w.p - 1) * sh + 1 : sh, s * dw : s * dw + (w.q - 1) * sw + 1 : sw]
            gradient[:, :, r, s] = lines @ patch.reshape(pixels, w.groups, w.c // w.groups).swapaxes(0, 1)
    return _finished(w, gradient.reshape(w.k, w.r, w.s, w.c // w.groups), arrays)


def _finished(w: Conv2d, y: Any, arrays: Mapping[str, Any]) -> Any:
    """``y`` with channels last, scaled and in the workload's layout."""
    if w.scales != "none":
        y = y * arrays["scale_a"][0] * arrays["scale_b"][0]
    return y.transpose(0, 3, 1, 2) if w.layout == "nchw" else y
