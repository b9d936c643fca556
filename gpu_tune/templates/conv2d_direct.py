"""Direct convolution on the plain arithmetic units: every Conv2d, every device. The fallback of the convolutions.

A block computes ``block_k`` channels x ``block_p`` rows x ``block_q`` columns of one image and group, a thread
``thread_k`` x ``thread_p`` x ``thread_q``. Input patches with their halo and filters are staged in shared memory
``block_c`` channels at a time, or read from global memory at every use. ``stages`` 2 and 3 stage ahead with cp.async
(sm_80 and newer). With ``split_k`` > 1 the sums of parts of the input channels go to the workspace, and a second kernel
adds them in order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cuda.device import Device
from ..space.knob import Knob
from .base import Template
from .lib import knobs
from .lib.common import INDEX_LIMIT
from .lib.simt.direct import launch, seeds
from .lib.simt.direct.constraints import CONSTRAINTS
from .lib.simt.direct.derived import derive

KNOBS = (
    Knob("block_k", (1, 2, 4, 8, 16, 32, 64, 128), "output channels that a block computes"),
    Knob("block_p", (1, 2, 4, 7, 8, 14, 16), "output rows that a block computes"),
    Knob("block_q", (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 64), "output columns that a block computes"),
    Knob("block_c", (1, 2, 4, 8, 16, 32), "input channels staged at a time"),
    Knob("thread_k", (1, 2, 4, 8, 16), "output channels that a thread computes"),
    Knob("thread_p", (1, 2, 4, 7), "output rows that a thread computes"),
    Knob("thread_q", (1, 2, 4, 7, 8), "output columns that a thread computes"),
    Knob("columns", ("adjacent", "spread"), "a thread's columns: side by side, or block-wide apart", ordinal=False),
    Knob(
        "lanes",
        ("pixels", "channels"),
        "what neighbouring threads vary: pixels share their filters, channels their input",
        ordinal=False,
    ),
    Knob("stage_x", ("shared", "global"), "input patches pass through shared memory, or not", ordinal=False),
    Knob("stage_w", ("shared", "global"), "filters pass through shared memory, or not", ordinal=False),
    Knob("shared_x", ("c_outer", "c_inner"), "patch in shared memory: planes, or channels innermost", ordinal=False),
    Knob("shared_w", ("k_inner", "c_inner"), "filters in shared memory: k or c innermost", ordinal=False),
    Knob("shared_type", ("stored", "wide"), "shared memory holds elements as stored, or as float (int)", ordinal=False),
    Knob("padding_x", (0, 1, 2, 4), "32-bit words appended to each row of the patch against bank conflicts"),
    Knob("padding_w", (0, 1, 2, 4), "32-bit words appended to each row of filters against bank conflicts"),
    Knob("vector_width_x", (1, 2, 4, 8, 16), "input elements that one global load takes"),
    Knob("vector_width_w", (1, 2, 4, 8, 16), "filter elements that one global load takes"),
    Knob("vector_width_out", (1, 2, 4, 8, 16), "elements that one store takes"),
    replace(knobs.STAGES, meaning="buffers of staged data: 1 synchronous, more ahead by cp.async"),
    Knob("fragment_c", (1, 2, 4), "channels read at once"),
    Knob("reuse_row", (False, True), "a thread keeps an input row in registers for all filter columns", ordinal=False),
    Knob("unroll", ("none", "s", "rs"), "filter loops that are unrolled: columns, or rows and columns", ordinal=False),
    Knob("unroll_c", (1, 2, 4, 8), "steps of fragment_c unrolled"),
    knobs.RASTER_ALONG,
    knobs.SPLIT_K,
    knobs.MIN_BLOCKS,
)


def supports(workload: Any, device: Device) -> bool | str:
    """Every convolution with plain filters whose coordinates fit into 32 bits."""
    if workload.weights != "plain":
        return "reads plain filters, not pretransformed ones"
    if max(workload.h, workload.w) + 2**20 > INDEX_LIMIT // 2:
        return "image sides beyond 2^30 are not indexed"
    return True


TEMPLATE: Template = Template(
    name="conv2d_direct",
    op="conv2d",
    summary="direct convolution on plain arithmetic units, every layout, dtype, filter and group",
    knobs=KNOBS,
    tile=(("block_p", "block_q"), ("block_k",), ("block_c",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=launch.resources,
    plan=launch.plan,
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    open_sizes=("n",),
)
