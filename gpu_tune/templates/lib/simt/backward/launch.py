"""What both gradients declare alike: their knobs, resources and launches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .....cuda.device import Device
from .....plan import LaunchPlan, MainLoop
from .....space.knob import Knob
from .....workload import ITEMSIZE
from ....base import ResourceEstimate
from ... import knobs as shared
from ...phases import phases
from .. import launch
from . import tiles as tile
from .derived import derive


def knobs(rows: str, columns: str, depth: str, split_k: Knob = shared.SPLIT_K) -> tuple[Knob, ...]:
    """The knobs of a family; what its product's rows, columns and depth are is said in their meanings."""
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    return (
        Knob("block_m", sizes, f"{rows} that a block computes"),
        Knob("block_n", sizes, f"{columns} that a block computes"),
        Knob("block_k", (1, 2, 4, 8, 16, 32), f"{depth} of a shared-memory tile"),
        Knob("thread_m", (1, 2, 4, 8), f"{rows} that a thread computes"),
        Knob("thread_n", (1, 2, 4, 8), f"{columns} that a thread computes"),
        Knob("lanes", ("n", "m"), f"what neighbouring threads vary: n ({columns}) or m ({rows})", ordinal=False),
        Knob("padding_a", (0, 1, 2, 4), "32-bit words appended to each row of A's tile against bank conflicts"),
        Knob("padding_b", (0, 1, 2, 4), "32-bit words appended to each row of B's tile against bank conflicts"),
        Knob("vector_width_a", (1, 2, 4, 8, 16), "elements of A (dy) that one global load takes"),
        Knob("vector_width_b", (1, 2, 4, 8, 16), "elements of B that one global load takes"),
        Knob("vector_width_out", (1, 2, 4), "elements that one store takes"),
        replace(shared.STAGES, meaning="1 one tile, 2 next tile in registers"),
        Knob("unroll", (1, 2, 4, 8, 16, 32), "steps of the depth unrolled"),
        shared.RASTER_GROUP,
        split_k,
        shared.MIN_BLOCKS,
    )


def resources(name: str, c: Mapping[str, Any], w: Any, device: Device) -> ResourceEstimate:
    """Threads, shared memory, sums and workspace of a config of the family ``name``."""
    g, workspace = derive(c, w, device), launch.workspace_bytes(c["split_k"], w, tile.outputs(w))
    live, item = tile.live_sums(c, w), ITEMSIZE[w.dtype]
    steps = max(1, round(_mean_steps(c, w) / c["split_k"]))
    depth = steps * c["block_k"] * item
    loop = MainLoop(
        name,
        steps,
        macs=g.launch.threads * live * c["block_k"],
        tiles=(g.layout.tiles_m * tile.problems(w), g.layout.tiles_n, w.groups * c["split_k"]),
        reads=(c["block_m"] * depth, c["block_n"] * depth),
        band=c["raster_group"],
        stages=c["stages"],
    )
    return ResourceEstimate(g.launch.threads, g.storage.shared_bytes, live, workspace, loop)


def _mean_steps(c: Mapping[str, Any], w: Any) -> float:
    """Tiles along the depth, over all phases of a dgrad: every tap belongs to one residue, which a short axis may not
    have."""
    if w.direction == "wgrad":
        return tile.steps(c, w)
    share = math.prod(max(1.0, axis.taps / axis.count) for axis in phases(w))
    most = math.prod(axis.most_taps for axis in phases(w))
    return tile.steps(c, w) * min(1.0, share / most)


def plan(name: str, c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    """One launch, and with ``split_k`` a second one."""
    g, vector = derive(c, w, device), c["vector_width_out"]
    return launch.plan(name, g, w, w.inputs, tile.grid(c, w), c["split_k"], g.layout.outputs, vector)
