"""The warps of one sub-partition of an SM, played: in order, as control codes, units, memory and barriers allow.

Every warp follows its trace of instructions. An instruction issues when the issue slot, its unit and the memory
queue are free and the scoreboards that it waits for are clear. What the four sub-partitions share (memory pipe, L2)
has a quarter of its rate here. A producer fills the stages of its block's ring and consumers take and give them back;
consumers that work in turns pass the turn on. Cycles in which nothing issues are counted for what the next instruction
waited for.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...emulator import build
from ...errors import CompilerMissing, EmulationError
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

    ValueError where warps wait for each other forever: the traces do not fit together.
    """
    library = _library()
    if library is None:
        return play_in_python(costs, cast, sm)
    columns, ring = 2 + len(CAUSES) + len(UNITS), cast.ring
    ints, reals, warps = costs.integers(), costs.reals(), cast.integers()
    result = np.zeros((len(cast.marks) + 1) * columns)
    constants = np.array([sm.queue, sm.barrier, ring.release])
    numbers = np.array([ring.stages, ring.waits, ring.readers, ring.consumers, ring.interleaved], np.int32)
    pointers = (x.ctypes.data for x in (cast.trace, cast.marks, warps, numbers, constants, result))
    trace, marks, *rest = pointers
    sizes = (ints.shape[1], trace, len(cast.trace), marks, len(cast.marks))
    if not library.perf_play(ints.ctypes.data, reals.ctypes.data, *sizes, warps.shape[1], *rest):
        raise ValueError("the warps wait for each other forever")
    return _table(result.reshape(-1, columns))


@functools.cache
def _library() -> Any:
    try:
        return build.library()
    except CompilerMissing:
        return None
    except (EmulationError, OSError) as error:
        warnings.warn(f"the performance model plays in Python, slowly: {error}", RuntimeWarning, stacklevel=2)
        return None


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
    rows = list(zip(*costs.integers().tolist(), *costs.reals().tolist()))
    trace, ring = cast.trace.tolist(), cast.ring
    ends, groups, blocks, readers = (x.tolist() for x in (cast.end, cast.group, cast.block, cast.reader))
    n = len(ends)
    warps = [_Warp(place, order) for order, place in enumerate(cast.begin.tolist())]
    slots = [_Slots() for _ in range(max(blocks) + 1)]
    waiting: list[list[int]] = [[] for _ in range(max(groups) + 1)]
    alive = [groups.count(g) for g in range(len(waiting))]
    free, busy, spent = [0.0] * len(UNITS), [0.0] * len(UNITS), [0.0] * len(CAUSES)
    mark_at = {place: i for i, place in enumerate(cast.marks.tolist())}
    total = [sum(w.place <= place < e for w, e in zip(warps, ends)) for place in mark_at]
    to_pass, table = list(total), [[0.0] * (2 + len(CAUSES) + len(UNITS)) for _ in range(len(mark_at) + 1)]
    running, to_finish = set(range(n)), sum(r >= 0 for r in readers)
    issue = memory = l2_done = end = 0.0
    turn = n

    def fill(x: int, count: int) -> int:
        """The number of the fill that warp ``x`` meets in its wait (or release) ``count``."""
        if not ring.interleaved:
            return count
        return (count // ring.waits * ring.consumers + readers[x]) * ring.waits + count % ring.waits

    while to_finish:
        if not running:
            raise ValueError("the warps wait for each other forever")
        x = min(running, key=lambda v: (warps[v].ready, warps[v].order))
        w, mine = warps[x], slots[blocks[x]]
        kind, unit, cause, stall, wbar, rbar, wait, argument, interval, latency, l2 = rows[trace[w.place]]
        t, reason = (w.ready, w.why) if w.ready > issue else (issue, ISSUE)
        b = 0
        while wait:
            if wait & 1 and w.boards[b] > t:
                t, reason = w.boards[b], w.whys[b]
            wait >>= 1
            b += 1
        known: float | None = 0.0
        known_why = BARRIER
        if kind == COMMIT_WAIT:
            while len(w.copies) > argument:
                done, source = w.copies.pop(0)
                if done > t:
                    t, reason = done, source
        elif kind == GMMA_WAIT:
            while len(w.gmmas) > argument:
                done = w.gmmas.pop(0)
                if done > t:
                    t, reason = done, TENSOR
        elif kind == ACQUIRE:
            known = mine.released.get(mine.acquired - ring.stages) if mine.acquired >= ring.stages else 0.0
        elif kind == TAKE:
            number = fill(x, w.taken)
            known, known_why = mine.filled[number] if number < len(mine.filled) else (None, LATENCY)
        elif kind == TURN:
            needed = w.turns + (1 if readers[x] else 0)
            known = None if len(w.passes) < needed else w.passes[needed - 1] if needed else 0.0
        if known is None:
            running.discard(x)
            mine.parked.append(x)
            continue
        if known > t:
            t, reason = known, known_why
        moves = kind in (MEMORY, COPY)
        if kind != GMMA and free[unit] > t:
            t, reason = free[unit], SHARED if moves else cause
        if moves and memory - t > sm.queue:
            t, reason = memory - sm.queue, SHARED
        if t > w.ready and t > issue and any(warps[v].ready < t for v in running if v != x):
            w.ready, w.why, w.order = t, reason, turn
            turn += 1
            continue
        if t > issue:
            spent[reason] += t - issue
        spent[ISSUE] += 1.0
        issue = t + 1.0
        done, source, told = t, cause, False
        if moves or kind == FILL:
            free[unit] = t + MEMORY_ISSUE
            if moves:
                memory = (memory if memory > t else t) + interval
                busy[unit] += interval
                done = memory
            read = t + COPY_READ if kind == COPY else done
            if l2:
                l2_done = (l2_done if l2_done > t else t) + l2
                if l2_done > done:
                    done = l2_done
                    source = L2
            done += latency
            if kind == COPY and done > w.copied[0]:
                w.copied = done, source
            elif kind == FILL:
                if done > mine.pending:
                    mine.pending, mine.why = done, source
                if argument:
                    mine.filled.append((mine.pending, mine.why))
                    mine.pending, told = 0.0, True
            if rbar != 7 and read + AFTER_QUEUE > w.boards[rbar]:
                w.boards[rbar], w.whys[rbar] = read + AFTER_QUEUE, SHARED
        else:
            if unit:
                start = free[unit] if kind == GMMA and free[unit] > t else t  # wgmma queues, its warp goes on
                free[unit] = start + interval
                busy[unit] += interval
                done = start + interval + latency
            else:
                done = t + latency
            if kind == GMMA:
                if argument:
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
                number = fill(x, w.given)
                w.given += 1
                mine.left[number] = mine.left.get(number, ring.readers) - 1
                if not mine.left[number]:
                    mine.released[number], told = t + ring.release, True
            elif kind == PASS:
                for v in range(n):
                    if blocks[v] == blocks[x] and readers[v] == (readers[x] + 1) % ring.consumers:
                        warps[v].passes.append(t)
                told = True
            if rbar != 7 and t + SOURCES_READ > w.boards[rbar]:
                w.boards[rbar], w.whys[rbar] = t + SOURCES_READ, DEPENDENCY
            if done > end and readers[x] >= 0:
                end = done
        if wbar != 7 and done > w.boards[wbar]:
            w.boards[wbar], w.whys[wbar] = done, source
        mark = mark_at.get(w.place)
        if mark is not None:
            if to_pass[mark] == total[mark]:
                table[mark][0] = t
            to_pass[mark] -= 1
            if not to_pass[mark]:
                table[mark][1:] = [t, *spent, *busy]
        if told:
            for v in mine.parked:
                warps[v].ready, warps[v].why, warps[v].order = max(warps[v].ready, t), BARRIER, turn
                turn += 1
                running.add(v)
            mine.parked = []
        w.place += 1
        resumes, group = t + stall, groups[x]
        if kind == EXIT or w.place >= ends[x]:
            if readers[x] >= 0:
                end = resumes if resumes > end else end
                to_finish -= 1
            running.discard(x)
            alive[group] -= 1
        elif kind == SYNC:
            waiting[group].append(x)
            running.discard(x)
            resumes = t + sm.barrier
        else:
            w.ready, w.why, w.order = resumes, DEPENDENCY, turn
            turn += 1
            continue
        if waiting[group] and len(waiting[group]) >= alive[group]:
            for v in waiting[group]:
                warps[v].ready, warps[v].why, warps[v].order = resumes, BARRIER, turn
                turn += 1
                running.add(v)
            waiting[group] = []
    if end > issue:
        spent[LATENCY] += end - issue
    table[-1] = [end, end, *spent, *busy]
    return _table(np.array(table))
