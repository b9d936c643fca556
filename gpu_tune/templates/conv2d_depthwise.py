"""Depthwise convolution: one filter for each channel; bound by memory, so inputs stay in registers.

A thread computes ``thread_p`` x ``thread_q`` outputs of its channels (``vector_width`` of them for NHWC). Input rows
slide through its registers: each is read once and used for every output row that it touches. What neighbouring threads
both read hits in L1.
"""

from __future__ import annotations

import math
from typing import Any

from ..cuda.device import Device
from ..plan import BufferArg, KernelStep, LaunchPlan, MainLoop
from ..space.knob import Config, Knob
from ..workload import ITEMSIZE
from .base import ResourceEstimate, Template
from .lib import knobs
from .lib.common import epilogue_args
from .lib.simt.depthwise import seeds
from .lib.simt.depthwise import tiles as tile
from .lib.simt.depthwise.constraints import CONSTRAINTS, supports
from .lib.simt.depthwise.derived import derive

KNOBS = (
    Knob("thread_p", (1, 2, 4, 7, 8), "output rows that a thread computes"),
    Knob("thread_q", (1, 2, 4, 7, 8), "output columns that a thread computes"),
    Knob("threads_c", (1, 2, 4, 8, 16, 32, 64, 128), "threads of a block along the channels"),
    Knob("threads_p", (1, 2, 4, 8, 16), "threads of a block along the rows"),
    Knob("threads_q", (1, 2, 4, 8, 16, 32, 64, 128), "threads of a block along the columns"),
    Knob("vector_width", (1, 2, 4, 8, 16), "channels of a thread (nhwc); outputs of one store (nchw)"),
    Knob("filters", ("registers", "shared", "memory"), "where a thread finds its filter at each use", ordinal=False),
    knobs.RASTER_ALONG,
    knobs.MIN_BLOCKS,
)


def resources(config: Config, workload: Any, device: Device) -> ResourceEstimate:
    """Threads, shared memory and sums of ``config``."""
    # the compiler drops the sums that lie outside the output in every thread
    live = min(config["thread_p"], workload.p) * min(config["thread_q"], workload.q) * tile.channels(config, workload)
    w, c, (tiles_c, tiles_p, tiles_q) = workload, dict[str, Any](config), tile.tiles(config, workload)
    block = {"thread_p": c["threads_p"] * c["thread_p"], "thread_q": c["threads_q"] * c["thread_q"]}
    pixels = math.prod(tile.window(block, w))
    channel_bytes = c["threads_c"] * tile.channels(config, w) * ITEMSIZE[w.dtype]
    loop = MainLoop(
        "conv2d_depthwise",
        steps=1,
        macs=tile.threads(config) * live * w.r * w.s,
        tiles=(w.n * tiles_p * tiles_q, tiles_c, 1),
        reads=(pixels * channel_bytes, w.r * w.s * channel_bytes),
    )
    return ResourceEstimate(tile.threads(config), tile.shared_bytes(config, workload), live, loop=loop)


def plan(config: Config, workload: Any, device: Device) -> LaunchPlan:
    blocks = math.prod(tile.tiles(config, workload)) * workload.n
    args = (BufferArg("x"), BufferArg("w"), *epilogue_args(workload))
    return LaunchPlan((KernelStep("conv2d_depthwise", (blocks, 1, 1), (tile.threads(config), 1, 1), args),)).check()


TEMPLATE: Template = Template(
    name="conv2d_depthwise",
    op="conv2d",
    summary="depthwise convolution, input rows sliding through registers",
    knobs=KNOBS,
    tile=(("threads_p", "thread_p", "threads_q", "thread_q"), ("threads_c",), ()),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=resources,
    plan=plan,
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    open_sizes=("n",),
)
