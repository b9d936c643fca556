"""The warps of one sub-partition of an SM, played: in order, as control codes, units, memory and barriers allow.

Every warp follows the same trace of instructions. An instruction issues when the issue slot, its unit and the memory
queue are free and the scoreboards that it waits for are clear. What the four sub-partitions share (memory pipe, L2)
has a quarter of its rate here. Cycles in which nothing issues are counted for what the next instruction waited for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...emulator import build
from ...errors import CompilerMissing, EmulationError
from .constants import Architecture
from .costs import (
    BARRIER,
    CAUSES,
    COMMIT,
    COMMIT_WAIT,
    COPY,
    DEPENDENCY,
    EXIT,
    GMMA,
    GMMA_WAIT,
    ISSUE,
    L2,
    LATENCY,
    MEMORY,
    SHARED,
    SYNC,
    TENSOR,
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


@dataclass(frozen=True)
class Slots:
    """The warps of one sub-partition: ``count``, of which every ``per_block`` belong to one block."""

    count: int
    per_block: int

    @classmethod
    def of(cls, warps: int, blocks: int) -> Slots:
        """For ``blocks`` resident blocks of ``warps`` warps, spread over four sub-partitions."""
        count = max(1, round(warps * blocks / 4))
        return cls(count, max(1, count // blocks) if warps >= 4 else 1)


def play(costs: Costs, trace: NDArray[np.int32], marks: NDArray[np.int32], slots: Slots, sm: Architecture) -> Played:
    """Play ``trace`` (indices of instructions) in every slot; ``marks``: places of the trace, ascending.

    In C++ where a compiler is there, otherwise in Python: the same result, slowly.
    """
    library = _library()
    if library is None:
        return play_in_python(costs, trace, marks, slots, sm)
    rows, ints, reals = 2 + len(CAUSES) + len(UNITS), costs.integers(), costs.reals()
    result = np.zeros(1 + (len(marks) + 1) * rows)
    constants = np.array([sm.queue, sm.barrier])
    numbers = (len(trace), marks.ctypes.data, len(marks), slots.count, slots.per_block)
    path, marks = np.ascontiguousarray(trace, np.int32), np.ascontiguousarray(marks, np.int32)
    library.perf_play(
        ints.ctypes.data, reals.ctypes.data, ints.shape[1], path.ctypes.data, *numbers, constants.ctypes.data,
        result.ctypes.data,
    )  # fmt: skip
    return _table(result[1:].reshape(-1, rows))


@functools.cache
def _library() -> Any:
    try:
        return build.library()
    except (CompilerMissing, EmulationError, OSError):
        return None


def _table(rows: NDArray[np.float64]) -> Played:
    return Played(rows[:, 0], rows[:, 1], rows[:, 2 : 2 + len(CAUSES)], rows[:, 2 + len(CAUSES) :])


def play_in_python(
    costs: Costs, trace: NDArray[np.int32], marks: NDArray[np.int32], slots: Slots, sm: Architecture
) -> Played:
    """What :func:`play` does, without a compiler."""
    table_of = zip(*costs.integers().tolist(), *costs.reals().tolist())
    rows = list(table_of)
    path, last = trace.tolist(), len(trace)
    mark_at = {place: i for i, place in enumerate(marks.tolist())}
    n = slots.count
    groups = -(-n // slots.per_block)
    ready, order, why, place = [0.0] * n, list(range(n)), [DEPENDENCY] * n, [0] * n
    board = [[0.0] * 8 for _ in range(n)]
    board_why = [[LATENCY] * 8 for _ in range(n)]
    copied, copied_why, copies = [0.0] * n, [LATENCY] * n, [[] for _ in range(n)]  # type: ignore[var-annotated]
    gmmas = [[] for _ in range(n)]  # type: ignore[var-annotated]
    waiting: list[list[int]] = [[] for _ in range(groups)]
    alive = [min(slots.per_block, n - g * slots.per_block) for g in range(groups)]
    free, busy, spent = [0.0] * len(UNITS), [0.0] * len(UNITS), [0.0] * len(CAUSES)
    to_pass, table = [n] * len(mark_at), [[0.0] * (2 + len(CAUSES) + len(UNITS)) for _ in range(len(mark_at) + 1)]
    running = set(range(n))
    issue = memory = l2_done = end = 0.0
    turn = n
    while running:
        w = min(running, key=lambda v: (ready[v], order[v]))
        kind, unit, cause, stall, wbar, rbar, wait, argument, interval, latency, l2 = rows[path[place[w]]]
        t, reason = (ready[w], why[w]) if ready[w] > issue else (issue, ISSUE)
        mine, mine_why = board[w], board_why[w]
        b = 0
        while wait:
            if wait & 1 and mine[b] > t:
                t, reason = mine[b], mine_why[b]
            wait >>= 1
            b += 1
        if kind == COMMIT_WAIT:
            while len(copies[w]) > argument:
                done, source = copies[w].pop(0)
                if done > t:
                    t, reason = done, source
        elif kind == GMMA_WAIT:
            while len(gmmas[w]) > argument:
                done = gmmas[w].pop(0)
                if done > t:
                    t, reason = done, TENSOR
        if free[unit] > t:
            t, reason = free[unit], SHARED if kind in (MEMORY, COPY) else cause
        if kind in (MEMORY, COPY) and memory - t > sm.queue:
            t, reason = memory - sm.queue, SHARED
        if t > ready[w] and t > issue and any(ready[v] < t for v in running if v != w):
            ready[w], why[w], order[w] = t, reason, turn
            turn += 1
            continue
        if t > issue:
            spent[reason] += t - issue
        spent[ISSUE] += 1.0
        issue = t + 1.0
        done = t
        source = cause
        if kind in (MEMORY, COPY):
            free[unit] = t + MEMORY_ISSUE
            memory = (memory if memory > t else t) + interval
            busy[unit] += interval
            done = memory
            read = t + COPY_READ if kind == COPY else memory
            if l2:
                l2_done = (l2_done if l2_done > t else t) + l2
                if l2_done > done:
                    done = l2_done
                    source = L2
            done += latency
            if kind == COPY and done > copied[w]:
                copied[w], copied_why[w] = done, source
            if rbar != 7 and read + AFTER_QUEUE > mine[rbar]:
                mine[rbar], mine_why[rbar] = read + AFTER_QUEUE, SHARED
        else:
            if unit:
                free[unit] = t + interval
                busy[unit] += interval
                done = t + interval + latency
            else:
                done = t + latency
            if kind == GMMA:
                if argument:
                    gmmas[w].append(done)
            elif kind == COMMIT:
                copies[w].append((copied[w], copied_why[w]))
            if rbar != 7 and t + SOURCES_READ > mine[rbar]:
                mine[rbar], mine_why[rbar] = t + SOURCES_READ, DEPENDENCY
            if done > end:
                end = done
        if wbar != 7 and done > mine[wbar]:
            mine[wbar], mine_why[wbar] = done, source
        mark = mark_at.get(place[w])
        if mark is not None:
            if to_pass[mark] == n:
                table[mark][0] = t
            to_pass[mark] -= 1
            if not to_pass[mark]:
                table[mark][1:] = [t, *spent, *busy]
        place[w] += 1
        after = t + stall
        group = w // slots.per_block
        if kind == EXIT or place[w] >= last:
            end = after if after > end else end
            running.discard(w)
            alive[group] -= 1
            after_barrier = after
        elif kind == SYNC:
            waiting[group].append(w)
            running.discard(w)
            after_barrier = t + sm.barrier
        else:
            ready[w], why[w], order[w] = after, DEPENDENCY, turn
            turn += 1
            continue
        if waiting[group] and len(waiting[group]) >= alive[group]:
            for v in waiting[group]:
                ready[v], why[v], order[v] = after_barrier, BARRIER, turn
                turn += 1
                running.add(v)
            waiting[group] = []
    if end > issue:
        spent[LATENCY] += end - issue
    table[-1] = [end, end, *spent, *busy]
    return _table(np.array(table))
