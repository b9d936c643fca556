"""Cycles of a kernel's resident blocks on one SM: of an iteration of the main loop, and of everything else."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...cuda.device import Device
from ...cuda.sass import Program
from ...plan import MainLoop
from . import roles, trace
from .cast import Cast
from .constants import architecture
from .costs import CAUSES, FETCH, LATENCY, UNITS, Costs, alone, meet
from .fetch import fetch_cycles
from .lanes import KernelLanes
from .player import Played, play
from .roles import Specialised

FIRST, LAST = 12, 24
"""The pace is taken between these iterations: earlier ones still fill queues."""


@dataclass(frozen=True, eq=False)
class Pace:
    """``passed``: cycles until the first iterations are done, from none (0) on; ``tail``: from the last one's end to
    the end of the blocks; ``iteration``: of one of the later ones. ``causes``: of an iteration, by CAUSES,
    ``rest_causes``: of everything else. ``shares``: of the main loop's time that each unit works."""

    passed: NDArray[np.float64]
    tail: float
    iteration: float
    causes: NDArray[np.float64]
    rest_causes: NDArray[np.float64]
    shares: NDArray[np.float64]

    def cycles(self, trips: float) -> float:
        """Of blocks that run the loop ``trips`` times: the first iterations as played, the others at the steady
        pace."""
        known = len(self.passed) - 1
        if trips >= known:
            return float(self.passed[known] + (trips - known) * self.iteration + self.tail)
        done = int(trips)
        before, after = self.passed[done : done + 2].tolist()
        return (after - before) * (trips - done) + before + self.tail

    @property
    def rest(self) -> float:
        """Cycles of everything but steady iterations."""
        known = len(self.passed) - 1
        return max(0.0, self.cycles(known) - known * self.iteration)

    def between(self, other: Pace, share: float) -> Pace:
        """The pace at ``share`` of the way to ``other``."""
        known = max(len(self.passed), len(other.passed))
        pairs = zip(vars(self._to(known)).values(), vars(other._to(known)).values())
        return Pace(*(a + share * (b - a) for a, b in pairs))

    def _to(self, known: int) -> Pace:
        """The same with ``known`` passed times."""
        more = self.passed[-1] + self.iteration * np.arange(1, known - len(self.passed) + 1)
        return replace(self, passed=np.concatenate([self.passed, more]))


@dataclass(frozen=True, eq=False)
class Wave:
    """Cycles of resident blocks from start to end, by CAUSES; of one step of their loop, and what its units work."""

    cycles: float
    causes: NDArray[np.float64]
    iteration: float
    shares: NDArray[np.float64]


@dataclass(eq=False)
class Kernel:
    """A kernel's program played at several numbers of resident blocks; each is played once."""

    program: Program
    device: Device
    warps: int
    lanes: KernelLanes | None = None
    loop: MainLoop | None = None
    paces: dict[int, Pace] = field(default_factory=dict)
    specialised: dict[int, Specialised] = field(default_factory=dict)
    _alone: Costs | None = None

    def __post_init__(self) -> None:
        self.path = trace.path(self.program, whole=self.loop is not None and self.loop.parts > 1)
        self.roles = roles.find(self.program, self.loop)
        self.sm = architecture(self.program.cc)
        work = trace.lane_work(self.program)
        self.work = float(work[self.path.body].sum())
        """Multiply-adds of a warp in one iteration (0: there is no loop that multiplies)."""
        if self.loop is not None and self.work:
            steps = self.work * self.warps / self.loop.macs
            copied = sum(self.loop.reads) / self.loop.steps * steps / self.warps
            self.path = trace.unrolled(self.program, self.path, copied)
        self.rest_work = float(work[self.path.head].sum() + work[self.path.tail].sum())

    def wave(self, blocks: int, trips: float, units: int) -> Wave:
        """``blocks`` resident blocks, each of which walks over ``units`` units of work of ``trips`` iterations."""
        if self.roles is not None and self.loop is not None:
            if blocks not in self.specialised:
                table = self.roles.costs(self._table(blocks), self.sm)
                self.specialised[blocks] = Specialised(self.roles, table, self.sm, blocks)
            return Wave(*self.specialised[blocks].cycles(units, self.loop.steps))
        pace = self.pace(blocks)
        causes = np.maximum(0.0, pace.causes * trips + pace.rest_causes)
        # bulk copies whose roles are unknown: nothing waits for them here, but a block's first products do
        fill = self.sm.dram if self.program.is_("UTMALDG UBLKCP").any() else 0.0
        causes[LATENCY] += fill
        return Wave(units * (pace.cycles(trips) + fill), units * causes, pace.iteration, pace.shares)

    def _table(self, blocks: int) -> Costs:
        if self._alone is None:
            self._alone = alone(self.program, self.sm, self.device, self.lanes)
        return self._alone.shared(self.warps * blocks)

    def pace(self, blocks: int) -> Pace:
        """At ``blocks`` resident blocks; beyond four, between the powers of two."""
        if blocks > 4 and blocks & (blocks - 1):
            low = 1 << int(math.log2(blocks))
            return self.pace(low).between(self.pace(2 * low), (blocks - low) / low)
        if blocks not in self.paces:
            self.paces[blocks] = self._fetched(self._play(blocks), blocks)
        return self.paces[blocks]

    def _fetched(self, pace: Pace, blocks: int) -> Pace:
        """The pace where instructions come as fast as they can, each iteration as much longer."""
        body = self._body
        iteration = meet(pace.iteration, fetch_cycles(body, blocks, self.sm)) if body else pace.iteration
        longer = iteration - pace.iteration
        if not longer:
            return pace
        passed = pace.passed + longer * np.arange(len(pace.passed))
        causes = pace.causes.copy()
        causes[FETCH] += longer
        shares = pace.shares * pace.iteration / iteration
        return replace(pace, passed=passed, iteration=iteration, causes=causes, shares=shares)

    @functools.cached_property
    def _body(self) -> int:
        """Instructions of the main loop, each counted once."""
        return len(np.unique(self.path.body))

    def _play(self, blocks: int) -> Pace:
        table = self._table(blocks)
        count = LAST if len(self.path.body) else 0
        played = self._run(table, count, blocks)
        if not count:
            none = np.zeros(len(CAUSES))
            return Pace(np.zeros(1), float(played.times[-1]), 0.0, none, played.causes[-1], np.zeros(len(UNITS)))
        if played.times[FIRST - 1] - played.first[FIRST - 1] > played.times[FIRST - 1] / 4:
            return self._uneven(table, blocks, played)
        before, after = played.times[FIRST - 1], played.times[LAST - 1]
        one = max(float(after - before) / (LAST - FIRST), 1.0)
        causes, busy = ((x[LAST - 1] - x[FIRST - 1]) / (LAST - FIRST) for x in (played.causes, played.busy))
        tail = float(played.times[-1] - after)
        # what the whole run took beside the steady iterations, by cause
        rest = played.causes[-1] - LAST * causes
        return Pace(np.concatenate([[0.0], played.times[:LAST]]), tail, one, causes, rest, busy / one)

    def _run(self, table: Costs, count: int, blocks: int) -> Played:
        return play(table, Cast.alike(self.path.trace(count), self.path.marks(count), self.warps, blocks), self.sm)

    def _uneven(self, table: Costs, blocks: int, many: Played) -> Pace:
        """Where some warps run far ahead of others, only whole runs tell the pace."""
        few = self._run(table, FIRST, blocks)
        one = max(float(many.times[-1] - few.times[-1]) / (LAST - FIRST), 1.0)
        causes, busy = ((a[-1] - b[-1]) / (LAST - FIRST) for a, b in ((many.causes, few.causes), (many.busy, few.busy)))
        start = max(0.0, float(few.times[-1]) - FIRST * one)
        return Pace(start + one * np.arange(LAST + 1.0), 0.0, one, causes, few.causes[-1] - FIRST * causes, busy / one)
