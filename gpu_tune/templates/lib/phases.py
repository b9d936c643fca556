"""A strided dgrad as dense problems: pixels of one axis of dx that lie a stride apart meet the same filter taps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from .common import ceil_div


class Dense(NamedTuple):
    """One phase of an axis: pixels ``first``, ``first + stride`` ... (``pixels`` of them); taps ``first_tap``,
    ``first_tap + step`` ... (``taps``); the first pixel meets the first tap at dy[``start``]."""

    first: int
    pixels: int
    first_tap: int
    taps: int
    start: int


@dataclass(frozen=True)
class Phases:
    """How one axis of dx splits into dense problems.

    Pixel h of phase h0 = h mod stride (``count`` phases, of at most ``pixels`` pixels) has the residue a = (h0 +
    padding) mod stride. It meets the taps r with r * dilation = a (mod stride): none unless ``gcd`` of stride and
    dilation divides a; else r0 = (a / gcd) ``inverse`` mod ``step`` and every ``step``-th from there, and each next one
    meets dy ``shift`` earlier.
    """

    size: int
    taps: int
    outputs: int
    stride: int
    dilation: int
    padding: int

    @property
    def count(self) -> int:
        return min(self.stride, self.size)

    @property
    def pixels(self) -> int:
        return int(ceil_div(self.size, self.stride))

    @property
    def gcd(self) -> int:
        return math.gcd(self.stride, self.dilation)

    @property
    def step(self) -> int:
        return self.stride // self.gcd

    @property
    def shift(self) -> int:
        return self.dilation // self.gcd

    @property
    def inverse(self) -> int:
        """Of ``shift`` modulo ``step``."""
        return pow(self.shift, -1, self.step) if self.step > 1 else 0

    @property
    def most_taps(self) -> int:
        """Taps of the phase that meets most."""
        return int(ceil_div(self.taps, self.step))

    @property
    def dense(self) -> bool:
        """Whether there is one phase, which meets every tap."""
        return self.stride == 1

    def at(self, first: int) -> Dense:
        """The phase of pixel ``first``, which is below ``count``."""
        residue = (first + self.padding) % self.stride
        tap = residue // self.gcd * self.inverse % self.step if residue % self.gcd == 0 else self.taps
        taps = int(ceil_div(max(0, self.taps - tap), self.step))
        start = (first + self.padding - tap * self.dilation) // self.stride
        return Dense(first, int(ceil_div(self.size - first, self.stride)), tap, taps, start)


def phases(w: Any) -> tuple[Phases, Phases]:
    """Those of rows and of columns of a dgrad."""
    return (
        Phases(w.h, w.r, w.p, w.stride[0], w.dilation[0], w.padding[0]),
        Phases(w.w, w.s, w.q, w.stride[1], w.dilation[1], w.padding[2]),
    )
