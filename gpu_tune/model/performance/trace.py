"""The path that a warp takes through a kernel: prologue, so many iterations of the main loop, epilogue."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...cuda.operations import PIPES
from ...cuda.sass import Program


@dataclass(frozen=True, eq=False)
class Path:
    """Indices of instructions. ``body``: one iteration of the main loop (empty where the code has none)."""

    head: NDArray[np.int32]
    body: NDArray[np.int32]
    tail: NDArray[np.int32]

    def trace(self, iterations: int) -> NDArray[np.int32]:
        return np.concatenate([self.head, *[self.body] * iterations, self.tail])

    def marks(self, iterations: int) -> NDArray[np.int32]:
        """The last place of each iteration in the trace."""
        size = len(self.body)
        return (len(self.head) + size * np.arange(1, iterations + 1) - 1).astype(np.int32)


def path(program: Program, whole: bool = False) -> Path:
    """The path through the hot loop: conditional branches forward are not taken unless nothing else leads there.

    ``whole``: that of a unit of work that is not split, around the atomics by which parts are counted.
    """
    loop = program.hot_loop
    if loop is None:
        return Path(walk(program, 0, len(program)), _none(), _none())
    head = walk(program, 0, loop[0])
    body = walk(program, loop[0], loop[1])
    if not len(body) or body[-1] != loop[1]:
        body = np.concatenate([body, [loop[1]]])
    tail = walk(program, loop[1] + 1, len(program), program.is_("ATOMG ATOM") if whole else None)
    return Path(head.astype(np.int32), body.astype(np.int32), tail.astype(np.int32))


def unrolled(program: Program, way: Path, copied: float) -> Path:
    """``way`` with the loops inside its body run as often as it takes a warp to copy ``copied`` bytes in an iteration;
    their own trips are not in the machine code."""
    loop = program.hot_loop
    inside = [s for s in program.loops if loop is not None and loop[0] <= s[0] and s[1] <= loop[1] and s != loop]
    nested = np.zeros(len(program), bool)
    for first, last in inside:
        nested[first : last + 1] = True
    moved = np.where(program.is_("LDGSTS LDG"), 32.0 * program.width, 0.0)[way.body]
    again = nested[way.body]
    each = moved[again].sum()
    times = round((copied - moved[~again].sum()) / each) if each else 1
    if times <= 1:
        return way
    edges = np.flatnonzero(np.diff(again.astype(np.int8))) + 1
    parts = [p for p in np.split(way.body, edges) for _ in range(times if nested[p[0]] else 1)]
    return Path(way.head, np.concatenate(parts).astype(np.int32), way.tail)


def _none() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


def walk(program: Program, start: int, stop: int, around: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """From ``start`` to just before ``stop``, or to the end of the kernel where ``stop`` lies behind all code.

    A conditional branch forward is taken where it leads past instructions of ``around``.
    """
    places, targets, certain = program.turns  # straight stretches lie between, so Python looks at branches alone
    parts: list[NDArray[np.int32]] = []
    untaken: list[tuple[int, int]] = []
    at, seen, tried = start, set[int](), set[int]()
    while start <= at < stop:
        nearest = bisect.bisect_left(places, at)
        place = places[nearest] if nearest < len(places) else len(program)
        upto = min(place + 1, stop)
        parts.append(np.arange(at, upto, dtype=np.int32))
        if place >= stop:
            break
        target = targets[nearest]
        if target < 0:
            if stop >= len(program) or not untaken:
                break
            at, kept = untaken.pop()
            tried.add(at)
            del parts[kept:]
        elif certain[nearest] and (target > place or target not in seen):
            seen.add(target)
            if target >= stop or target < start:
                break
            at = target
        elif around is not None and place < target <= stop and around[place:target].any():
            at = target
        else:
            if not certain[nearest] and place < target <= stop and target not in tried:  # that way led to an end
                untaken.append((target, len(parts)))
            at = place + 1
    return np.concatenate(parts) if parts else _none()


LANE_WORK = {"FFMA": 32, "HFMA2 HFMA2.MMA": 64, "IDP": 128, "DFMA": 32}
"""Multiply-adds of a warp instruction, by its operation; those of matrix instructions are in their bits."""


def lane_work(program: Program) -> NDArray[np.float64]:
    """Multiply-adds of each warp instruction: what tells how many steps of K one iteration of the code does."""
    work = np.zeros(len(program))
    for names, each in LANE_WORK.items():
        work[program.is_(names)] = each
    work[program.constant] = 0
    matrix = (program.pipe == PIPES.index("mma")) | (program.pipe == PIPES.index("gmma"))
    work[matrix] = program.macs[matrix]
    work[program.pipe == PIPES.index("gmma")] /= 4  # of a warpgroup's four warps
    work[program.never] = 0
    return work
