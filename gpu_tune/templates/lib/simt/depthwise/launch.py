"""What the depthwise families declare alike: their knobs, resources and launches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....plan import BufferArg, KernelStep, LaunchPlan, MainLoop
from .....space.knob import Knob
from .....workload import ITEMSIZE
from ....base import ResourceEstimate
from ...common import epilogue_args
from ...knobs import MIN_BLOCKS, RASTER_ALONG
from .. import launch
from . import tiles as tile
from .derived import derive

Config = Mapping[str, Any]


def knobs(rows: str, columns: str, vector: str, *own: Knob) -> tuple[Knob, ...]:
    """The knobs of every direction and a direction's ``own``; the texts say what a thread's rows and columns are."""
    return (
        Knob("thread_p", (1, 2, 4, 7, 8), f"{rows} that a thread computes"),
        Knob("thread_q", (1, 2, 4, 7, 8), f"{columns} that a thread computes"),
        Knob("threads_c", (1, 2, 4, 8, 16, 32, 64, 128), "threads of a block along the channels"),
        Knob("threads_p", (1, 2, 4, 8, 16), "threads of a block along the rows"),
        Knob("threads_q", (1, 2, 4, 8, 16, 32, 64, 128), "threads of a block along the columns"),
        Knob("vector_width", (1, 2, 4, 8, 16), f"channels of a thread (nhwc); {vector} (nchw)"),
        *own,
        MIN_BLOCKS,
    )


FILTERS = Knob(
    "filters", ("registers", "shared", "memory"), "where a thread finds its filter at each use", ordinal=False
)
PIXELS = (FILTERS, RASTER_ALONG)
"""What the directions whose results are pixels have besides."""


def resources(name: str, c: Config, w: Any, device: Device) -> ResourceEstimate:
    """Threads, shared memory, sums and workspace of a config of the family ``name``."""
    threads, live = tile.threads(c), tile.live_sums(c, w)
    tiles_c, tiles_p, tiles_q = tile.tiles(c, w)
    block = {"thread_p": c["threads_p"] * c["thread_p"], "thread_q": c["threads_q"] * c["thread_q"]}
    channel_bytes = c["threads_c"] * tile.channels(c, w) * ITEMSIZE[w.dtype]
    pixels = math.prod(tile.window(block, w)) * channel_bytes
    if w.direction == "wgrad":
        workspace = launch.workspace_bytes(c["split_k"], w, w.k * w.r * w.s)
        steps = tile.parts(c, w)[1]
        macs = threads * c["thread_p"] * c["thread_q"] * tile.sums(c, w)
        reads = (steps * pixels, steps * math.prod(block.values()) * channel_bytes)
        tiles = (c["split_k"], tiles_c, 1)
    else:
        workspace, steps, macs = 0, 1, threads * _multiplied(c, w)
        reads, tiles = (pixels, w.r * w.s * channel_bytes), (w.n * tiles_p * tiles_q, tiles_c, 1)
    loop = MainLoop(name, steps, macs=macs, tiles=tiles, reads=reads)
    shared = max(tile.shared_bytes(c, w), 4 * launch.REDUCE_THREADS if workspace else 0)
    return ResourceEstimate(threads, shared, live, workspace, loop=loop)


def _multiplied(c: Config, w: Any) -> int:
    """Multiply-adds of a thread that computes pixels: the compiler drops those of pixels outside."""
    if w.direction == "dgrad":
        return int(c["thread_p"] * c["thread_q"] * tile.channels(c, w) * w.r * w.s)
    return tile.live_sums(c, w) * int(w.r * w.s)


def plan(name: str, c: Config, w: Any, device: Device) -> LaunchPlan:
    """One launch, and with ``split_k`` a second one."""
    if w.direction == "wgrad":
        g, outputs = derive(c, w, device), w.k * w.r * w.s
        return launch.plan(name, g, w, w.inputs, g.layout.tiles_c, c["split_k"], outputs, 1, g.launch.sharers)
    blocks = math.prod(tile.tiles(c, w)) * w.n
    args = (*map(BufferArg, w.inputs), *epilogue_args(w))
    return LaunchPlan((KernelStep(name, (blocks, 1, 1), (tile.threads(c), 1, 1), args),)).check()
