"""What a config of conv2d_direct takes, and its launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....plan import LaunchPlan, MainLoop
from .....workload import ITEMSIZE
from ....base import ResourceEstimate
from .. import launch
from . import tiles as tile
from .derived import derive


def resources(c: Mapping[str, Any], w: Any, device: Device) -> ResourceEstimate:
    """Threads, shared memory, sums and workspace of a config."""
    g, workspace = derive(c, w, device), launch.workspace_bytes(c["split_k"], w, tile.outputs(w))
    depth, live = g.pipeline.per_part * c["block_c"] * ITEMSIZE[w.dtype], tile.live_sums(c, w)
    loop = MainLoop(
        "conv2d_direct",
        g.pipeline.per_part,
        macs=g.launch.threads * live * c["block_c"] * w.r * w.s,
        tiles=(w.n * g.layout.tiles_p * g.layout.tiles_q, g.layout.tiles_k, w.groups * c["split_k"]),
        reads=(g.storage.patch.rows * g.storage.patch.columns * depth, c["block_k"] * w.r * w.s * depth),
        stages=c["stages"],
    )
    return ResourceEstimate(g.launch.threads, g.storage.shared_bytes, live, workspace, loop)


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    """One launch, and with ``split_k`` a second one."""
    g, vector = derive(c, w, device), c["vector_width_out"]
    return launch.plan("conv2d_direct", g, w, ("x", "w"), tile.grid(c, w), c["split_k"], g.layout.outputs, vector)
