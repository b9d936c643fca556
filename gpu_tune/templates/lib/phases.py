"""A strided dgrad as dense problems: pixels of one axis of dx that lie a stride apart meet the same filter taps."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ...workload import Conv2d
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


@dataclass(frozen=True)
class Scatter:
    """Where the pixels of a phase lie in dx: ``rows`` x ``columns`` an image; from ``first`` on, ``stride`` apart."""

    rows: int
    columns: int
    first: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class Phase(Conv2d):
    """The forward convolution that a phase of a strided dgrad is; its results lie in dx as ``scatter`` says."""

    scatter: Scatter = Scatter(1, 1, (0, 0), (1, 1))


@dataclass(frozen=True)
class Problems:
    """The dense problems of a dgrad that have filter taps, the largest first; ``empty``: there are others."""

    convolutions: tuple[Conv2d, ...]
    taps: tuple[tuple[Dense, Dense], ...]
    empty: bool


@functools.lru_cache(maxsize=256)
def dense_problems(w: Conv2d) -> Problems | str:
    """Each phase as a convolution of dy with the taps that it meets, flipped, c and k exchanged; or why there is one
    that is none: dy would have to be cut."""
    rows, columns = phases(w)
    found, all_met = [], True
    for first in itertools.product(range(rows.count), range(columns.count)):
        met = rows.at(first[0]), columns.at(first[1])
        all_met = all_met and met[0].taps > 0 and met[1].taps > 0
        if not (met[0].taps and met[1].taps):
            continue
        padding: list[int] = []
        for axis, phase in zip((rows, columns), met):
            before = (phase.taps - 1) * axis.shift - phase.start
            padding += [before, phase.pixels - axis.outputs + phase.start]
        if min(padding) < 0:
            return "takes padding that leaves no part of dy out: here a pixel's taps begin or end inside of dy"
        common: dict[str, Any] = {f.name: getattr(w, f.name) for f in fields(w)}
        common.update(c=w.k, h=w.p, w=w.q, k=w.c, r=met[0].taps, s=met[1].taps, direction="fprop")
        common.update(stride=(1, 1), padding=tuple(padding), dilation=(rows.shift, columns.shift))
        scatter = Scatter(w.h, w.w, first, w.stride)
        one = Conv2d(**common) if w.stride == (1, 1) else Phase(**common, scatter=scatter)
        found.append((one, met))
    found.sort(key=lambda pair: -pair[0].flops)
    return Problems(tuple(one for one, _ in found), tuple(met for _, met in found), not all_met)


def convolutions(w: Conv2d) -> tuple[Conv2d, ...]:
    """Those of :func:`dense_problems`; none where there is a reason against them."""
    problems = dense_problems(w)
    return () if isinstance(problems, str) else problems.convolutions
