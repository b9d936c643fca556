"""Warp-specialised kernels: a producer that copies tiles by TMA into a ring of stages, and consumers that run wgmma.

Found in the machine code: the loop that copies (UTMALDG) and the loop that multiplies (HGMMA and its kin), each perhaps
inside a loop over units of work. Waits and arrivals of mbarriers (SYNCS) get their meaning from where they stand: the
producer waits for a free stage, a consumer's main loop for a full one and arrives when it is done with the one before;
where consumers take turns, the wait before a unit's main loop is for the turn, and the first arrival behind it passes
the turn on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...cuda.operations import PIPES
from ...cuda.sass import Program
from ...plan import MainLoop
from .cast import Cast, Ring
from .constants import Architecture
from .costs import ACQUIRE, FILL, GIVE, PASS, PLAIN, TAKE, TURN, Costs
from .player import Played, play
from .trace import walk

Indices = NDArray[np.int32]
Run = tuple[float, NDArray[np.float64], NDArray[np.float64]]
REMOTE_ARRIVAL, LOCAL_ARRIVAL = 180.0, 20.0
"""Cycles for an arrival to reach a waiting thread: of another block of the cluster (Luo et al. 2024, distributed shared
memory), or of the own one."""
FEW, MANY = 16, 32
"""Iterations of the main loop that are played where a unit has more of them."""
UNITS_PLAYED = 4


@dataclass(frozen=True, eq=False)
class Part:
    """One role's way: ``head`` once, for each unit ``before``, ``body`` for every iteration and ``after``, then
    ``tail``.

    ``first``: the body in its first iteration.
    """

    head: Indices
    before: Indices
    body: Indices
    after: Indices
    tail: Indices
    first: Indices

    def trace(self, units: int, iterations: int) -> Indices:
        unit = [self.before, self.first, *[self.body] * (iterations - 1), self.after]
        return np.concatenate([self.head, *unit * units, self.tail]).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Roles:
    """The roles of a kernel whose main loop ``loop`` declares consumers. ``takes``: fills that a consumer waits for in
    an iteration, ``other_takes``: around its loop in a unit; ``fills``: of one iteration of the producer."""

    program: Program
    loop: MainLoop
    producer: Part
    consumer: Part
    meaning: dict[int, int]
    takes: int
    other_takes: int
    fills: int

    def iterations(self, steps: int) -> int:
        return max(1, round((steps - self.other_takes) / self.takes))

    def costs(self, table: Costs, sm: Architecture) -> Costs:
        """The table with the meaning of every mbarrier operation, and with the copies' share of L2 and latency."""
        found = Costs(table.integers.copy(), table.reals.copy())
        kind, argument = found.kind, found.argument
        kind[self.program.is_("SYNCS")] = PLAIN
        for index, meaning in self.meaning.items():
            kind[index] = meaning
        copies = _in(self.producer.body, self.program.is_("UTMALDG UBLKCP"))
        waits = _in(self.producer.body, self.program.is_("SYNCS") & (self.program.argument == 1))
        argument[copies] = 0
        for stop in [*waits[1:].tolist(), len(self.program)]:  # the last copy before the next wait completes a fill
            argument[copies[copies < stop].max()] = 1
        rows, columns = (r / self.loop.steps / s for r, s in zip(self.loop.reads, self.loop.shares))
        found.l2[copies] = (rows + columns) * self.fills / len(copies) / sm.l2_bytes
        found.latency[copies] = sm.dram
        return found

    def play(self, table: Costs, sm: Architecture, units: int, steps: int, blocks: int) -> Played:
        """``blocks`` resident blocks that each walk over ``units`` units of ``steps`` steps of K."""
        loop, iterations = self.loop, self.iterations(steps)
        waits = self.other_takes + iterations * self.takes
        traces = [self.producer.trace(units, math.ceil(waits / self.fills))]
        for reader in range(loop.consumers):
            mine = -(-(units - reader) // loop.consumers) if loop.in_turn else units
            traces.append(self.consumer.trace(max(0, mine), iterations))
        ends = np.cumsum([len(t) for t in traces])
        count = len(traces)
        remote = math.prod(loop.shares) > 1
        return play(
            table,
            Cast(
                np.concatenate(traces).astype(np.int32),
                begin=np.tile(ends - [len(t) for t in traces], blocks).astype(np.int32),
                end=np.tile(ends, blocks).astype(np.int32),
                group=np.arange(count * blocks, dtype=np.int32),
                block=np.repeat(np.arange(blocks, dtype=np.int32), count),
                reader=np.tile(np.arange(-1, loop.consumers, dtype=np.int32), blocks),
                marks=np.zeros(0, np.int32),
                ring=Ring(
                    loop.stages,
                    waits,
                    readers=1 if loop.in_turn else loop.consumers,
                    consumers=loop.consumers,
                    interleaved=loop.in_turn,
                    release=REMOTE_ARRIVAL if remote else LOCAL_ARRIVAL,
                ),
            ),
            sm,
        )


@dataclass(frozen=True, eq=False)
class Specialised:
    """Cycles of a kernel with roles, by what was played; nothing is played twice."""

    roles: Roles
    table: Costs
    sm: Architecture
    blocks: int
    runs: dict[tuple[int, int], Run] = field(default_factory=dict)

    def cycles(self, units: int, steps: int) -> tuple[float, NDArray[np.float64], float, NDArray[np.float64]]:
        """Of ``units`` units of ``steps`` steps in every block, and by CAUSES; those of one step; shares of UNITS."""
        few, many = min(FEW, steps), min(MANY, steps)
        total, causes, shares = self._units(units, many)
        pace = (total - self._units(units, few)[0]) / (many - few) / units if many > few else total / units / steps
        whole = total + units * (steps - many) * pace
        return whole, causes * (whole / total), pace, shares

    def _units(self, units: int, steps: int) -> Run:
        if units <= UNITS_PLAYED:
            return self._played(units, steps)
        known, causes, shares = self._played(UNITS_PLAYED, steps)
        each = (known - self._played(UNITS_PLAYED - 2, steps)[0]) / 2
        whole = known + (units - UNITS_PLAYED) * each
        return whole, causes * (whole / known), shares

    def _played(self, units: int, steps: int) -> Run:
        if (units, steps) not in self.runs:
            played = self.roles.play(self.table, self.sm, units, steps, self.blocks)
            total = float(played.times[-1])
            self.runs[units, steps] = total, played.causes[-1], played.busy[-1] / total
        return self.runs[units, steps]


def find(program: Program, loop: MainLoop | None) -> Roles | None:
    """The roles of ``program``; None where it has none, or has others than these."""
    if loop is None or not loop.consumers or program.hot_loop is None:
        return None
    copies = program.is_("UTMALDG UBLKCP")
    producing = [span for span in program.inner_loops if copies[span[0] : span[1] + 1].any()]
    if len(producing) != 1 or producing[0] == program.hot_loop:  # of a K of few steps only copying may be a loop
        return None
    syncs, stores = program.is_("SYNCS"), program.is_("STG UTMASTG")
    waits, arrivals = syncs & (program.argument == 1), syncs & (program.argument == 0)
    spans = producing[0], program.hot_loop
    # a K of few steps is unrolled: then the inner loop is that over units
    over_units = [
        len(_in(walk(program, s[0], s[1] + 1), waits)) >= loop.steps
        and bool(s == spans[0] or stores[s[0] : s[1]].any())
        for s in spans
    ]
    producer, consumer = (_part(program, span, whole) for span, whole in zip(spans, over_units))
    before, after = (_in(part, waits).tolist() for part in (consumer.before, consumer.after))
    given = _in(consumer.after, arrivals).tolist()
    meaning = dict.fromkeys(_in(producer.body, waits).tolist(), ACQUIRE)
    meaning |= dict.fromkeys(_in(producer.body, copies).tolist(), FILL)
    inside, gives = _in(consumer.body, waits).tolist(), _in(consumer.body, arrivals).tolist()
    if loop.in_turn:
        # a wait behind the last multiplication is for shared memory that results pass through, and the last arrival
        # passes that on. Its order is not played: stores are taken to hide behind the other consumer's main loop
        matrix = program.pipe == PIPES.index("gmma")
        for part, where, arrived in ((consumer.after, after, given), (consumer.body, inside, gives)):
            last = part[matrix[part]].max(initial=-1)
            if where and where[-1] > last and len(arrived) > 1:
                meaning |= {where.pop(): PLAIN, arrived.pop(): PLAIN}
        if over_units[1] and len(gives) > 1:
            meaning |= {inside.pop(0): TURN, gives.pop(-2): PASS}
        elif before and given:
            meaning |= {before.pop(0): TURN, given.pop(0): PASS}
        else:
            return None
    meaning |= dict.fromkeys([*before, *inside, *after], TAKE) | dict.fromkeys([*gives, *given], GIVE)
    if given and gives:  # an iteration releases the stage of the one before it: the first has nothing to release
        consumer = replace(consumer, first=consumer.body[consumer.body != gives[0]])
    other = len(before) + len(after)
    balanced = len(inside) == len(gives) and other + bool(given and gives) == len(given)
    fills = len(_in(producer.body, waits))
    if not (inside and fills and balanced):
        return None
    return Roles(program, loop, producer, consumer, meaning, len(inside), other, fills)


def _part(program: Program, inner: tuple[int, int], over_units: bool) -> Part:
    """The way through ``inner``, which is the loop ``over_units`` itself or perhaps stands in it."""
    outer = [s for s in program.loops if s != inner and s[0] <= inner[0] and inner[1] <= s[1] and program.guarded[s[1]]]
    unit = min(outer, key=lambda s: s[1] - s[0], default=inner)
    body = walk(program, inner[0], inner[1] + 1)
    before, after = walk(program, unit[0], inner[0]), walk(program, inner[1] + 1, unit[1] + 1)
    none = np.zeros(0, np.int32)
    if over_units:
        return Part(walk(program, 0, inner[0]), none, body, none, walk(program, inner[1] + 1, len(program)), body)
    if unit == inner:  # one unit: what surrounds the loop belongs to it
        return Part(none, walk(program, 0, inner[0]), body, walk(program, inner[1] + 1, len(program)), none, body)
    return Part(walk(program, 0, unit[0]), before, body, after, walk(program, unit[1] + 1, len(program)), body)


def _in(part: Indices, where: NDArray[np.bool_]) -> Indices:
    """The instructions of ``part`` that ``where`` marks, each once, in order."""
    return np.unique(part[where[part]])
