"""Cycles of a kernel's resident blocks on one SM: of an iteration of the main loop, and of everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...cuda.device import Device
from ...cuda.sass import Program
from ...plan import MainLoop
from . import native, roles
from .code import Code
from .code_in_cpp import CodeInCpp
from .constants import architecture
from .costs import FETCH, LATENCY, Costs, meet
from .fetch import fetch_cycles
from .lanes import KernelLanes
from .pace import Pace
from .roles import Specialised


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

    def __post_init__(self) -> None:
        self.roles = roles.find(self.program, self.loop)
        self.sm = architecture(self.program.cc)
        of = self.program, self.sm, self.device, self.warps, self.lanes, self.loop
        self._waves: dict[tuple[int, float, int, bool], Wave] = {}
        library = native.library()
        self.code = Code(*of) if library is None else CodeInCpp(library, *of)

    @property
    def work(self) -> float:
        """Multiply-adds of a warp in one iteration (0: there is no loop that multiplies)."""
        return self.code.work

    def wave(self, blocks: int, trips: float, units: int) -> Wave:
        """``blocks`` resident blocks, each of which walks over ``units`` units of work of ``trips`` iterations."""
        key = blocks, trips, units, self.roles is None
        found = self._waves.get(key)
        if found is None:
            found = self._waves[key] = self._wave(blocks, trips, units)
        return found

    def _wave(self, blocks: int, trips: float, units: int) -> Wave:
        if self.roles is not None and self.loop is not None:
            if blocks not in self.specialised:
                table = self.roles.costs(self._table(blocks), self.sm)
                self.specialised[blocks] = Specialised(self.roles, table, self.sm, blocks)
            return Wave(*self.specialised[blocks].cycles(units, self.loop.steps))
        pace = self.pace(blocks)
        causes = np.maximum(0.0, pace.causes * trips + pace.rest_causes)
        # bulk copies whose roles are unknown: nothing waits for them here, but a block's first products do
        fill = self.sm.dram if self.code.bulk else 0.0
        causes[LATENCY] += fill
        return Wave(units * (pace.cycles(trips) + fill), units * causes, pace.iteration, pace.shares)

    def _table(self, blocks: int) -> Costs:
        return self.code.costs().shared(self.warps * blocks)

    def pace(self, blocks: int) -> Pace:
        """At ``blocks`` resident blocks; beyond four, between the powers of two."""
        if blocks > 4 and blocks & (blocks - 1):
            low = 1 << int(math.log2(blocks))
            return self.pace(low).between(self.pace(2 * low), (blocks - low) / low)
        if blocks not in self.paces:
            self.paces[blocks] = self._fetched(self.code.pace(blocks), blocks)
        return self.paces[blocks]

    def _fetched(self, pace: Pace, blocks: int) -> Pace:
        """The pace where instructions come as fast as they can, each iteration as much longer."""
        body = self.code.body
        iteration = meet(pace.iteration, fetch_cycles(body, blocks, self.sm)) if body else pace.iteration
        longer = iteration - pace.iteration
        if not longer:
            return pace
        passed = pace.passed + longer * np.arange(len(pace.passed))
        causes = pace.causes.copy()
        causes[FETCH] += longer
        shares = pace.shares * pace.iteration / iteration
        return replace(pace, passed=passed, iteration=iteration, causes=causes, shares=shares)
