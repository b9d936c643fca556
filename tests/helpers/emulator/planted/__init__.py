"""Kernels with a planted bug (``BUG`` defined) and without it. ``// HERE`` marks the line that a report must name."""

from __future__ import annotations

from tests.helpers.emulator.planted import (
    barriers,
    bulk,
    clusters,
    memory,
    pipelines,
    races,
    sources,
    warpgroups,
    warps,
)
from tests.helpers.emulator.planted.bug import PLANTED, Planted

KINDS = (memory, races, barriers, pipelines, bulk, warpgroups, clusters, sources, warps)
"""The files whose bugs are in ``PLANTED``."""
__all__ = ["KINDS", "PLANTED", "Planted"]
