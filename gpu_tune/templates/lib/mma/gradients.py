"""The products behind a convolution's gradients on tensor cores, and how their operands get to shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....cuda.device import Device
from ....space.knob import Constraint
from ....workload import ITEMSIZE, Conv2d
from ..common import channels
from ..phases import Dense, convolutions, phases
from .loader import Loader, loader
from .tiles import Operand, Problem, copy_width, multiplies, operand

Config = Mapping[str, Any]
SHALLOW = Constraint(
    "block_k_supported",
    ("block_k",),
    lambda c, w, d: c["block_k"] <= 128,
    "a stage holds at most 256 bytes of K a row, and no gradient is of 8-bit data",
)


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


def copied(w: Conv2d, device: Device, size: int, what: str) -> bool | str:
    """Whether operands of ``w`` can be copied: ``size`` channels (``what``) lie side by side, in copies of 4 bytes or
    more. True, or why not."""
    if w.layout != "nhwc":
        return f"copies channels, which lie side by side in layout nhwc, not {w.layout}"
    if ITEMSIZE[w.dtype] == 1:
        return f"takes 16- and 32-bit data, not {w.dtype}: bytes that are read across rows are not turned here"
    if (answer := multiplies(w, device)) is not True:
        return answer
    if copy_width(16, size * ITEMSIZE[w.dtype], w.alignment) < 4:
        return f"copies 4 bytes or more: {what} of a group ({size}) are no multiple of that, or not aligned to it"
    return True


def phase_problem(one: Conv2d) -> Problem:
    """Pixels x channels of x over channels of dy and filter taps of a phase, for every group."""
    return Problem(one.n * one.p * one.q, one.k // one.groups, one.c // one.groups * one.r * one.s, one.groups)


def image_problem(w: Any) -> Problem:
    """The product of the phase with most work."""
    return phase_problem(convolutions(w)[0])


def image_operands(c: Config, w: Any) -> tuple[Operand, Operand]:
    """The gathered dy, whose rows are pixels of x, and the filters, whose rows are channels of dy."""
    cg, kg = channels(w)
    return operand("dy", c["block_m"], c, w, kg), operand("filters", c["block_n"], c, w, cg, False)


@dataclass(frozen=True)
class FilterRows:
    """How a tile of the filters is copied for a dgrad: ``rows`` of a matrix, one for each channel of dy at one tap.

    A phase meets ``taps`` of rows and columns of the filter, ``steps`` apart from ``first`` on; k takes the last one
    first. The filter has ``columns`` taps in a row, ``tap_stride`` elements apart, ``channels`` rows each.
    """

    rows: Loader
    channels: int
    taps: tuple[int, int]
    first: tuple[int, int]
    steps: tuple[int, int]
    columns: int
    tap_stride: int
    group_stride: int
    gathers: bool = False

    @property
    def operand(self) -> Operand:
        return self.rows.operand

    @property
    def last(self) -> int:
        """The filter's tap that k begins with."""
        row, column = (f + (n - 1) * s for f, n, s in zip(self.first, self.taps, self.steps))
        return row * self.columns + column


def filter_rows(op: Operand, threads: int, w: Conv2d, met: tuple[Dense, Dense]) -> FilterRows:
    cg, kg = channels(w)
    rows = loader(op, threads, w, w.r * w.s * cg, (kg, cg))
    steps = phases(w)[0].step, phases(w)[1].step
    taps, first = (met[0].taps, met[1].taps), (met[0].first_tap, met[1].first_tap)
    return FilterRows(rows, kg, taps, first, steps, w.s, cg, group_stride=kg * w.r * w.s * cg)
