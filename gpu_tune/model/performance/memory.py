"""The way from an SM to L2: what the addresses of its loads cost beyond their bytes.

Two things depend on how operands lie in memory, not on the instructions. L1 asks L2 for lines of 128 bytes, one after
the other, and asks for a run of 32 or 64 contiguous bytes as for a whole line. Where this alone bounds what threads
fetch (the H100), L1 takes no bytes in while it asks: a whole line takes two clocks, half a line one and a half.
Elsewhere the bytes are bound by L2's bandwidth, which the player counts. And every page that a warp's load touches must
be translated: an SM holds 16 translations of 2 MB pages (Jia 2018: a reach of 32 MB), so blocks that walk rows more
than a few ten KB apart lack some all the time, and the translation unit that 16 SMs share sets the pace. Two figures
are not published and were read off the development shapes of public timings: one cycle to ask for a line (on the A100
and the H100), and 1.5 cycles of the shared unit for a translation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...plan import Walk
from .constants import Architecture

LINE_BYTES = 128
PAGE_BYTES = 2 << 20
WAYS = 4
"""Of the translation buffer: pages fall into sets by chance, and a set that has too many misses at each."""
LANE_BYTES, LANES = 16, 32
"""Bytes that a lane of a load moves, and lanes of a warp."""


def address_cycles(walks: Sequence[Walk], resident: int, sm: Architecture) -> float:
    """Cycles of the way to L2 for one step of one block, where ``resident`` blocks share the SM."""
    lines = sum(w.runs * max(1.0, w.run_bytes / LINE_BYTES) for w in walks)
    cycles = lines * sm.line
    if sm.lines_bound:
        cycles += sum(w.runs * w.run_bytes for w in walks) / sm.shared_bytes
    if sm.pages:
        pages = resident * sum(w.runs * w.stride / PAGE_BYTES + 1 for w in walks)
        cycles += sum(map(_translations, walks)) * _missing(pages, sm.pages) * sm.translation
    return cycles


def _translations(walk: Walk) -> float:
    """Pages that the warps' loads of a step touch, each counted for every load."""
    runs = LANES / min(LANES, max(1.0, walk.run_bytes / LANE_BYTES))
    loads = walk.runs / runs
    return loads * (1 + (runs * walk.stride / PAGE_BYTES if runs > 1 else 0.0))


def _missing(pages: float, entries: int) -> float:
    """The share of translations that are not held where ``pages`` are in use: those of sets that have more than their
    ways, with pages spread over the sets by chance (Poisson)."""
    mean = pages * WAYS / entries
    return 1 - sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(WAYS))
