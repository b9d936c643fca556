"""Cycles of a kernel's resident blocks on one SM: of an iteration of the main loop, and of everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ...cuda.device import Device
from ...cuda.sass import Program
from . import trace
from .constants import architecture
from .costs import CAUSES, UNITS, costs
from .lanes import KernelLanes
from .player import Slots, play

FIRST, LAST = 12, 24
"""The pace is taken between these iterations: earlier ones still fill queues."""


@dataclass(frozen=True)
class Pace:
    """``iteration``: cycles of one iteration; ``rest``: prologue and epilogue. ``causes``, ``rest_causes``: what they
    are made of, by CAUSES. ``shares``: of the main loop's time that each unit works."""

    iteration: float
    rest: float
    causes: tuple[float, ...]
    rest_causes: tuple[float, ...]
    shares: tuple[float, ...]

    def between(self, other: Pace, share: float) -> Pace:
        """The pace at ``share`` of the way to ``other``."""

        def mix(a: float, b: float) -> float:
            return a + share * (b - a)

        pairs = ((self.causes, other.causes), (self.rest_causes, other.rest_causes), (self.shares, other.shares))
        parts = (tuple(map(mix, a, b)) for a, b in pairs)
        return Pace(mix(self.iteration, other.iteration), mix(self.rest, other.rest), *parts)


@dataclass(eq=False)
class Kernel:
    """A kernel's program played at several numbers of resident blocks; each is played once."""

    program: Program
    device: Device
    warps: int
    lanes: KernelLanes | None = None
    paces: dict[int, Pace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = trace.path(self.program)
        self.sm = architecture(self.program.cc)
        work = trace.lane_work(self.program)
        self.work = float(work[self.path.body].sum())
        """Multiply-adds of a warp in one iteration (0: there is no loop that multiplies)."""
        self.rest_work = float(work[self.path.head].sum() + work[self.path.tail].sum())

    def pace(self, blocks: int) -> Pace:
        """At ``blocks`` resident blocks; beyond four, between the powers of two."""
        if blocks > 4 and blocks & (blocks - 1):
            low = 1 << int(math.log2(blocks))
            return self.pace(low).between(self.pace(2 * low), (blocks - low) / low)
        if blocks not in self.paces:
            self.paces[blocks] = self._play(blocks)
        return self.paces[blocks]

    def _play(self, blocks: int) -> Pace:
        table = costs(self.program, self.sm, self.device, self.warps * blocks, self.lanes)
        slots = Slots.of(self.warps, blocks)
        if not len(self.path.body):
            played = play(table, self.path.head, np.zeros(0, np.int32), slots, self.sm)
            none = (0.0,) * len(CAUSES)
            return Pace(0.0, played.end, none, tuple(played.causes.tolist()), (0.0,) * len(UNITS))
        few, many = (play(table, self.path.trace(n), self.path.marks(n), slots, self.sm) for n in (FIRST, LAST))
        count = LAST - FIRST
        one = max((many.end - few.end) / count, 1.0)
        causes = (many.causes - few.causes) / count
        rest = max(few.end - FIRST * one, 0.0)
        shares = (many.busy - few.busy) / count / one
        return Pace(
            one, rest, tuple(causes.tolist()), tuple((few.causes - FIRST * causes).tolist()), tuple(shares.tolist())
        )
