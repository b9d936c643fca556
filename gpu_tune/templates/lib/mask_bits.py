"""How the bits that ``relu(aux)`` saves get into bytes: whole ones where a thread, or lanes of a warp together, have
eight results of a row; elsewhere by atomics into zeros."""

from __future__ import annotations

from typing import Any

from ...workload import Matmul

BYTE = 8
"""Results whose bits share a byte."""


def saves_bits(w: Any) -> bool:
    return any(op.saves and op.bits for op in w.ops)


def lanes_apart(w: Any, vector: int, length: int, apart: int, whole_warps: bool) -> int:
    """How far apart the lanes are whose vectors make a byte; 0 where bits are added by atomics.

    ``vector``: results that a thread finishes at once. ``length``: results of a row of the product (of one group); they
    and the rows of ``out`` must be whole bytes. ``apart``: of lanes that finish the next ``vector`` results of a row
    together, from a multiple of eight results on; 0 for none. ``whole_warps``: all lanes of a warp finish results, or
    none; where some might not, lanes would have to find each other first, which is predicted to be slower than atomics.
    """
    if not saves_bits(w):
        return 0
    row = w.n if isinstance(w, Matmul) else w.arrays()["out"].shape[-1]
    if row % BYTE or length % BYTE:
        return 0
    return 1 if vector >= BYTE else apart * whole_warps
