"""The warps of one sub-partition of an SM, played: in order, as control codes, units, memory and barriers allow.

Every warp follows its trace of instructions. An instruction issues when the issue slot, its unit and the memory
queue are free and the scoreboards that it waits for are clear. What the four sub-partitions share (memory pipe, L2)
has a quarter of its rate here. A producer fills the stages of its block's ring and consumers take and give them back;
consumers that work in turns pass the turn on. Cycles in which nothing issues are counted for what the next instruction
waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native
from .cast import Cast
from .constants import Architecture
from .costs import (
    ACQUIRE,
    BARRIER,
    CAUSES,
    COMMIT,
    COMMIT_WAIT,
    COPY,
    DEPENDENCY,
    EXIT,
    FILL,
    GIVE,
    GMMA,
    GMMA_WAIT,
    ISSUE,
    L2,
    LATENCY,
    MEMORY,
    PASS,
    SHARED,
    SYNC,
    TAKE,
    TENSOR,
    TURN,
    UNITS,
    Costs,
)  # fmt: skip

MEMORY_ISSUE = 2.0
"""Cycles between two memory instructions of a sub-partition."""
SOURCES_READ = 12.0
"""Cycles until an instruction has read its sources; a store's or copy's later ones follow below."""
AFTER_QUEUE = 8.0
COPY_READ = 16.0


class Stuck(ValueError):
    """Warps wait for each other forever."""


FOREVER = "the warps wait for each other forever"


@dataclass(frozen=True, eq=False)
class Played:
    """``first``, ``times``: when the first and the last warp passed each marked place of the trace; at last the end.
    ``causes``, ``busy``: for each of these times, the cycles by CAUSES (they add up to it) and those that each of UNITS
    worked until then."""

    first: NDArray[np.float64]
    times: NDArray[np.float64]
    causes: NDArray[np.float64]
    busy: NDArray[np.float64]


def play(costs: Costs, cast: Cast, sm: Architecture) -> Played:
    """Play the traces of all warps: in C++ where a compiler is there, otherwise in Python: the same result, slowly.

    Stuck where warps wait for each other forever: the traces do not fit together.
    """
    made = native.library()
    if made is None:
        return play_in_python(costs, cast, sm)
    columns, ring = 2 + len(CAUSES) + len(UNITS), cast.ring
    ints, reals, warps = costs.integers, costs.reals, cast.integers()
    result = np.zeros((len(cast.marks) + 1) * columns)
    constants = np.array([sm.queue, sm.barrier, ring.release])
    numbers = np.array([ring.stages, ring.waits, ring.readers, ring.consumers, ring.interleaved], np.int32)
    pointers = (x.ctypes.data for x in (cast.trace, cast.marks, warps, numbers, constants, result))
    trace, marks, *rest = pointers
    sizes = (ints.shape[1], trace, len(cast.trace), marks, len(cast.marks))
    if not made.perf_play(ints.ctypes.data, reals.ctypes.data, *sizes, warps.shape[1], *rest):
        raise Stuck(FOREVER)
    return _table(result.reshape(-1, columns))


def _table(rows: NDArray[np.float64]) -> Played:
    return Played(rows[:, 0], rows[:, 1], rows[:, 2 : 2 + len(CAUSES)], rows[:, 2 + len(CAUSES) :])


@dataclass(eq=False)
class _Warp:
    """A warp at ``place`` of the trace that may issue at ``ready``; equal ones go by ``order``."""

    place: int
    order: int
    ready: float = 0.0
    why: int = DEPENDENCY
    boards: list[float] = field(default_factory=lambda: [0.0] * 8)
    whys: list[int] = field(default_factory=lambda: [LATENCY] * 8)
    copied: tuple[float, int] = (0.0, LATENCY)
    copies: list[tuple[float, int]] = field(default_factory=list)
    gmmas: list[float] = field(default_factory=list)
    taken: int = 0
    given: int = 0
    turns: int = 0
    passes: list[float] = field(default_factory=list)


@dataclass(eq=False)
class _Slots:
    """The ring of a block: when fills were there, and when all their readers had released them."""

    acquired: int = 0
    pending: float = 0.0
    why: int = LATENCY
    filled: list[tuple[float, int]] = field(default_factory=list)
    released: dict[int, float] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    parked: list[int] = field(default_factory=list)


def play_in_python(costs: Costs, cast: Cast, sm: Architecture) -> Played:
    """What :func:`play` does, without a compiler."""
    return _Player(costs, cast, sm).run()


class _Player:
    """The state of a play; the twin of the class of the same name in C++."""

    def __init__(self, costs: Costs, cast: Cast, sm: Architecture) -> None:
        self.rows = list(zip(*costs.integers.tolist(), *costs.reals.tolist()))
        self.trace, self.ring, self.sm = cast.trace.tolist(), cast.ring, sm
        self.ends, self.groups, self.blocks, self.readers = (
            x.tolist() for x in (cast.end, cast.group, cast.block, cast.reader)
        )
        self.warps = [_Warp(place, order) for order, place in enumerate(cast.begin.tolist())]
        self.slots = [_Slots() for _ in range(max(self.blocks) + 1)]
        self.waiting: list[list[int]] = [[] for _ in range(max(self.groups) + 1)]
        self.alive = [self.groups.count(g) for g in range(len(self.waiting))]
        self.free, self.busy, self.spent = [0.0] * len(UNITS), [0.0] * len(UNITS), [0.0] * len(CAUSES)
        self.mark_at = {place: i for i, place in enumerate(cast.marks.tolist())}
        self.total = [sum(w.place <= m < e for w, e in zip(self.warps, self.ends)) for m in self.mark_at]
        self.to_pass = list(self.total)
        self.table = [[0.0] * (2 + len(CAUSES) + len(UNITS)) for _ in range(len(self.mark_at) + 1)]
        self.running, self.to_finish = set(range(len(self.ends))), sum(r >= 0 for r in self.readers)
        self.issue = self.memory = self.l2_done = self.end = 0.0
        self.t, self.reason, self.turn = 0.0, ISSUE, len(self.ends)

    def run(self) -> Played:
        while self.to_finish:
            if not self.running:
                raise Stuck(FOREVER)
            self.step()
        if self.end > self.issue:
            self.spent[LATENCY] += self.end - self.issue
        self.table[-1] = [self.end, self.end, *self.spent, *self.busy]
        return _table(np.array(self.table))

    def step(self) -> None:
        """The running warp that may issue first issues, or finds out how long it has to wait."""
        x = min(self.running, key=lambda v: (self.warps[v].ready, self.warps[v].order))
        w, mine = self.warps[x], self.slots[self.blocks[x]]
        row = self.rows[self.trace[w.place]]
        kind, unit, cause, stall, _, _, wait, argument, *_ = row
        self.t, self.reason = (w.ready, w.why) if w.ready > self.issue else (self.issue, ISSUE)
        for b in range(wait.bit_length()):
            if wait >> b & 1:
                self.later(w.boards[b], w.whys[b])
        if not self.waited(x, w, mine, kind, argument):
            self.running.discard(x)
            mine.parked.append(x)
            return
        moves = kind in (MEMORY, COPY)
        if kind != GMMA:
            self.later(self.free[unit], SHARED if moves else cause)
        if moves and self.memory - self.t > self.sm.queue:
            self.t, self.reason = self.memory - self.sm.queue, SHARED
        t = self.t
        if t > w.ready and t > self.issue and any(self.warps[v].ready < t for v in self.running if v != x):
            self.wake(x, t, self.reason)
            return
        if t > self.issue:
            self.spent[self.reason] += t - self.issue
        self.spent[ISSUE] += 1.0
        self.issue = t + 1.0
        told = self.execute(x, w, mine, row)
        self.pass_mark(w.place)
        if told:
            parked, mine.parked = mine.parked, []
            for v in parked:
                self.wake(v, max(self.warps[v].ready, t), BARRIER)
        self.advance(x, w, kind, t + stall)

    def later(self, time: float, why: int) -> None:
        if time > self.t:
            self.t, self.reason = time, why

    def wake(self, v: int, ready: float, why: int) -> None:
        self.warps[v].ready, self.warps[v].why, self.warps[v].order = ready, why, self.turn
        self.turn += 1
        self.running.add(v)

    def fill(self, x: int, count: int) -> int:
        """The number of the fill that warp ``x`` meets in its wait (or release) ``count``."""
        if not self.ring.interleaved:
            return count
        waits = self.ring.waits
        return (count // waits * self.ring.consumers + int(self.readers[x])) * waits + count % waits

    def waited(self, x: int, w: _Warp, mine: _Slots, kind: int, argument: int) -> bool:
        """Whether what the instruction waits for has a time yet; that time is then taken into account."""
        if kind == COMMIT_WAIT:
            while len(w.copies) > argument:
                self.later(*w.copies.pop(0))
        elif kind == GMMA_WAIT:
            while len(w.gmmas) > argument:
                self.later(w.gmmas.pop(0), TENSOR)
        elif kind == ACQUIRE and mine.acquired >= self.ring.stages:
            known = mine.released.get(mine.acquired - self.ring.stages)
            if known is None:
                return False
            self.later(known, BARRIER)
        elif kind == TAKE:
            number = self.fill(x, w.taken)
            if number >= len(mine.filled):
                return False
            self.later(*mine.filled[number])
        elif kind == TURN:
            needed = w.turns + (1 if self.readers[x] else 0)
            if len(w.passes) < needed:
                return False
            if needed:
                self.later(w.passes[needed - 1], BARRIER)
        return True

    def execute(self, x: int, w: _Warp, mine: _Slots, row: tuple[Any, ...]) -> bool:
        """The effects of an instruction at its time; whether somebody may have waited for them."""
        kind, unit, cause, _, wbar, rbar, _, argument, interval, latency, l2 = row
        t, moves = self.t, kind in (MEMORY, COPY)
        done, source, told = t, cause, False
        if moves or kind == FILL:
            self.free[unit] = t + MEMORY_ISSUE
            if moves:
                self.memory = max(self.memory, t) + interval
                self.busy[unit] += interval
                done = self.memory
            read = t + COPY_READ if kind == COPY else done
            if l2:
                self.l2_done = max(self.l2_done, t) + l2
                if self.l2_done > done:
                    done, source = self.l2_done, L2
            done += latency
            if kind == COPY and done > w.copied[0]:
                w.copied = done, source
            elif kind == FILL:
                if done > mine.pending:
                    mine.pending, mine.why = done, source
                if argument:
                    mine.filled.append((mine.pending, mine.why))
                    mine.pending, told = 0.0, True
            freed, freed_why = read + AFTER_QUEUE, SHARED
        else:
            if unit:
                start = self.free[unit] if kind == GMMA and self.free[unit] > t else t  # wgmma queues, its warp goes on
                self.free[unit] = start + interval
                self.busy[unit] += interval
                done = start + interval + latency
            else:
                done = t + latency
            told = self.signal(x, w, mine, kind, argument, done)
            freed, freed_why = t + SOURCES_READ, DEPENDENCY
            if done > self.end and self.readers[x] >= 0:
                self.end = done
        if rbar != 7 and freed > w.boards[rbar]:
            w.boards[rbar], w.whys[rbar] = freed, freed_why
        if wbar != 7 and done > w.boards[wbar]:
            w.boards[wbar], w.whys[wbar] = done, source
        return told

    def signal(self, x: int, w: _Warp, mine: _Slots, kind: int, argument: int, done: float) -> bool:
        """What groups and mbarriers note of an instruction; whether somebody may have waited for it."""
        if kind == GMMA and argument:
            w.gmmas.append(done)
        elif kind == COMMIT:
            w.copies.append(w.copied)
        elif kind == ACQUIRE:
            mine.acquired += 1
        elif kind == TAKE:
            w.taken += 1
        elif kind == TURN:
            w.turns += 1
        elif kind == GIVE:
            number = self.fill(x, w.given)
            w.given += 1
            mine.left[number] = mine.left.get(number, self.ring.readers) - 1
            if not mine.left[number]:
                mine.released[number] = self.t + self.ring.release
                return True
        elif kind == PASS:
            following = (self.readers[x] + 1) % self.ring.consumers
            for v, other in enumerate(self.warps):
                if self.blocks[v] == self.blocks[x] and self.readers[v] == following:
                    other.passes.append(self.t)
            return True
        return False

    def pass_mark(self, place: int) -> None:
        mark = self.mark_at.get(place)
        if mark is not None:
            if self.to_pass[mark] == self.total[mark]:
                self.table[mark][0] = self.t
            self.to_pass[mark] -= 1
            if not self.to_pass[mark]:
                self.table[mark][1:] = [self.t, *self.spent, *self.busy]

    def advance(self, x: int, w: _Warp, kind: int, resumes: float) -> None:
        """On to the next instruction, to a barrier or to the end."""
        w.place += 1
        group = self.groups[x]
        if kind == EXIT or w.place >= self.ends[x]:
            if self.readers[x] >= 0:
                self.end = max(self.end, resumes)
                self.to_finish -= 1
            self.running.discard(x)
            self.alive[group] -= 1
        elif kind == SYNC:
            self.waiting[group].append(x)
            self.running.discard(x)
            resumes = self.t + self.sm.barrier
        else:
            self.wake(x, resumes, DEPENDENCY)
            return
        if self.waiting[group] and len(self.waiting[group]) >= self.alive[group]:
            for v in self.waiting[group]:
                self.wake(v, resumes, BARRIER)
            self.waiting[group] = []
