"""The products behind a convolution's gradients on tensor cores, and how their operands get to shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....space.knob import Constraint
from ....workload import ITEMSIZE, Conv2d
from .loader import Loader, loader
from .tiles import Operand, Problem, copy_width, operand

Config = Mapping[str, Any]
SHALLOW = Constraint(
    "block_k_supported",
    ("block_k",),
    lambda c, w, d: c["block_k"] <= 128,
    "a stage holds at most 256 bytes of K a row, and no gradient is of 8-bit data",
)


def channels(w: Conv2d) -> tuple[int, int]:
    """Input and output channels of one group."""
    return w.c // w.groups, w.k // w.groups


def filter_problem(w: Any) -> Problem:
    """wgrad: filters x channels over pixels of dy, for every group and filter tap (taps vary fastest)."""
    cg, kg = channels(w)
    return Problem(kg, cg, w.n * w.p * w.q, w.groups * w.r * w.s)


def filter_operands(c: Config, w: Any) -> tuple[Operand, Operand]:
    """dy and the gathered x: rows of both are pixels, along which the product sums."""
    cg, kg = channels(w)
    return operand("dy", c["block_m"], c, w, kg, False), operand("pixels", c["block_n"], c, w, cg, False)


@dataclass(frozen=True)
class PixelRows:
    """How a tile of x is copied for a wgrad: its rows are the pixels that a tap of the filter meets, one for each pixel
    of dy; ``rows`` says how vectors are shared out among threads. ``wide``: offsets need 64 bits."""

    rows: Loader
    workload: Conv2d
    wide: bool
    gathers: bool = False

    @property
    def operand(self) -> Operand:
        return self.rows.operand

    @property
    def channels(self) -> int:
        return self.workload.c // self.workload.groups

    @property
    def taps(self) -> int:
        return self.workload.r * self.workload.s


def pixel_rows(op: Operand, threads: int, w: Conv2d) -> PixelRows:
    pixels, cg = w.n * w.p * w.q, channels(w)[0]
    border = (max(w.padding) + w.dilation[0] * w.r + w.dilation[1] * w.s) * w.w * w.c
    rows = loader(op, threads, w, w.c, (pixels, cg))
    return PixelRows(rows, w, wide=w.n * w.h * w.w * w.c + border >= 2**31)


def refusal(w: Conv2d, size: int, what: str) -> str:
    """Why no gradient of ``w`` is copied: ``size`` channels (``what``) must lie side by side in copies of 4 bytes.

    Empty where it is.
    """
    if w.layout != "nhwc":
        return f"copies channels that lie side by side: layout nhwc, not {w.layout}"
    if ITEMSIZE[w.dtype] == 1:
        return f"takes 16- and 32-bit data, not {w.dtype}"
    if w.dtype == "float32" and not {"tf32", "tf32x3"} & set(w.math):
        return "computes float32 data only as TF32 or 3xTF32, and math permits neither 'tf32' nor 'tf32x3'"
    if copy_width(16, size * ITEMSIZE[w.dtype], w.alignment) < 4:
        return f"copies 4 bytes or more: {what} of a group ({size}) are no multiple of that, or not aligned to it"
    return ""


def forward(w: Conv2d) -> Conv2d:
    """The forward convolution that a dgrad of stride 1 is: of dy, with filters flipped in rows and columns and c and k
    exchanged. Its operations are those of ``w``."""
    (dh, dw), (top, bottom, left, right) = w.dilation, w.padding
    rows, columns = dh * (w.r - 1), dw * (w.s - 1)
    return replace(
        w,
        c=w.k,
        h=w.p,
        w=w.q,
        k=w.c,
        padding=(rows - top, rows - bottom, columns - left, columns - right),
        direction="fprop",
    )


def image_problem(w: Any) -> Problem:
    """dgrad: pixels x channels of x over channels of dy and filter taps, for every group."""
    cg, kg = channels(w)
    return Problem(w.n * w.h * w.w, cg, kg * w.r * w.s, w.groups)


def image_operands(c: Config, w: Any) -> tuple[Operand, Operand]:
    """The gathered dy, whose rows are pixels of x, and the filters, whose rows are channels of dy."""
    cg, kg = channels(w)
    return operand("dy", c["block_m"], c, w, kg), operand("filters", c["block_n"], c, w, cg, False)


@dataclass(frozen=True)
class FilterRows:
    """How a tile of the filters is copied for a dgrad: ``rows`` of a matrix, one for each channel of dy at one tap.

    Taps come last one first, ``tap_stride`` elements apart, ``channels`` rows each.
    """

    rows: Loader
    channels: int
    taps: int
    tap_stride: int
    gathers: bool = False

    @property
    def operand(self) -> Operand:
        return self.rows.operand


def filter_rows(op: Operand, threads: int, w: Conv2d) -> FilterRows:
    cg, kg = channels(w)
    rows = loader(op, threads, w, w.r * w.s * cg, (kg, cg))
    return FilterRows(rows, kg, w.r * w.s, cg)
