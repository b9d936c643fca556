"""A kernel's machine code as the model needs it: the way of a warp, what instructions cost, and how blocks proceed."""

from __future__ import annotations

import functools

import numpy as np

from ...cuda.device import Device
from ...cuda.operations import PIPES
from ...cuda.sass import Program
from ...plan import MainLoop
from . import costs, trace
from .cast import Cast
from .constants import Architecture
from .lanes import KernelLanes
from .pace import FIRST, LAST, Pace
from .player import Played, play


class Code:
    """``program`` in blocks of ``warps`` warps on ``device``.

    ``work``: multiply-adds of a warp in one iteration of the main loop (0: there is no loop that multiplies); ``body``:
    instructions of that loop, each counted once; ``bulk``: whether there are bulk copies. ``kind``: what multiplies
    (``wgmma``, ``mma`` or ``fma``) and what fetches operands (``tma``, ``cp.async`` or ``plain``).
    """

    def __init__(
        self,
        program: Program,
        sm: Architecture,
        device: Device,
        warps: int,
        lanes: KernelLanes | None,
        loop: MainLoop | None,
    ) -> None:
        self._program, self._sm, self._device, self._warps, self._lanes = program, sm, device, warps, lanes
        self._path = trace.path(program, whole=loop is not None and loop.parts > 1)
        self.work = float(trace.lane_work(program)[self._path.body].sum())
        if loop is not None and self.work:
            steps = self.work * warps / loop.macs
            copied = sum(loop.reads) / loop.steps * steps / warps
            self._path = trace.unrolled(program, self._path, copied)
        self.body = len(np.unique(self._path.body))
        self.bulk = bool(program.is_("UTMALDG UBLKCP").any())
        pipes = np.bincount(program.pipe[~program.never], minlength=len(PIPES))
        multiplies = "wgmma" if pipes[PIPES.index("gmma")] else "mma" if pipes[PIPES.index("mma")] else "fma"
        self.kind = multiplies, "tma" if self.bulk else "cp.async" if program.is_("LDGSTS").any() else "plain"

    @functools.cached_property
    def _costs(self) -> costs.Costs:
        return costs.alone(self._program, self._sm, self._device, self._lanes)

    def costs(self) -> costs.Costs:
        """The table of a warp that contends with none."""
        return self._costs

    def path(self) -> trace.Path:
        """The way of a warp."""
        return self._path

    def pace(self, blocks: int) -> Pace:
        """At ``blocks`` resident blocks. Stuck where warps wait for each other forever."""
        count = LAST if len(self._path.body) else 0
        played = self._run(count, blocks)
        if not count:
            none, no_units = np.zeros(len(costs.CAUSES)), np.zeros(len(costs.UNITS))
            return Pace(np.zeros(1), float(played.times[-1]), 0.0, none, played.causes[-1], no_units)
        if played.times[FIRST - 1] - played.first[FIRST - 1] > played.times[FIRST - 1] / 4:
            return self._uneven(blocks, played)
        before, after = played.times[FIRST - 1], played.times[LAST - 1]
        one = max(float(after - before) / (LAST - FIRST), 1.0)
        causes, busy = ((x[LAST - 1] - x[FIRST - 1]) / (LAST - FIRST) for x in (played.causes, played.busy))
        tail = float(played.times[-1] - after)
        # what the whole run took beside the steady iterations, by cause
        rest = played.causes[-1] - LAST * causes
        return Pace(np.concatenate([[0.0], played.times[:LAST]]), tail, one, causes, rest, busy / one)

    def _run(self, count: int, blocks: int) -> Played:
        table = self._costs.shared(self._warps * blocks)
        return play(table, Cast.alike(self._path.trace(count), self._path.marks(count), self._warps, blocks), self._sm)

    def _uneven(self, blocks: int, many: Played) -> Pace:
        """Where some warps run far ahead of others, only whole runs tell the pace."""
        few = self._run(FIRST, blocks)
        one = max(float(many.times[-1] - few.times[-1]) / (LAST - FIRST), 1.0)
        causes, busy = ((a[-1] - b[-1]) / (LAST - FIRST) for a, b in ((many.causes, few.causes), (many.busy, few.busy)))
        start = max(0.0, float(few.times[-1]) - FIRST * one)
        return Pace(start + one * np.arange(LAST + 1.0), 0.0, one, causes, few.causes[-1] - FIRST * causes, busy / one)
