"""``dbias``: sums of a result over all but its channels, by two kernels behind those of any family.

A warp adds some of the rows of some channels (of NCHW images: some of the pixels of one), always the same in the same
order, and leaves its sums in the workspace; the second kernel adds these in order. So results are bit-equal from run to
run. What is added are the elements as they are stored, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...cuda.device import Device
from ...plan import BufferArg, KernelStep, LaunchPlan
from ...plan.size import Size, ceil_div
from ...workload import ITEMSIZE, Matmul, Workload
from .common import size_args

NAME, PART, KERNELS = "dbias", "column_sums", ("sum_columns", "add_column_sums")
WARPS = 8
"""Warps of a block."""
PARTS = 64
"""Parts of a channel's sum at most: what a thread of the second kernel adds."""
WARPS_AN_SM = 8
"""Warps that the first kernel has for each SM, where channels and parts allow it."""
SOURCE = """
{% import "parts/common/column_sums.cuh.j2" as column_sums %}
{{ column_sums.kernels(sums, device) }}
"""


@dataclass(frozen=True)
class ColumnSums:
    """How the sums of a workload's result are taken.

    ``channels`` of them; ``rows``: how many elements each adds, ``ld`` apart (``area`` is 0) or in planes of ``area``
    side by side, one an image. A warp adds a part of the rows, of ``vector`` channels a lane or of one channel.
    ``open``: the size that rows are an expression over.
    """

    channels: int
    rows: int
    ld: int
    area: int
    vector: int
    parts: int
    out_dtype: str
    dtype: str
    open: Size | None

    @property
    def groups(self) -> int:
        """Warps that have all channels of one part."""
        return self.channels if self.area else ceil_div(self.channels, 32 * self.vector)

    @property
    def bytes(self) -> int:
        """Bytes of the parts."""
        return 4 * self.parts * self.channels


def column_sums(w: Workload, device: Device) -> ColumnSums | None:
    """The sums that ``w`` asks for; None where it asks for none."""
    if NAME not in w.outputs:
        return None
    if isinstance(w, Matmul):
        rows, channels, ld, area = w.batch * w.m, w.n, w.ldc, 0
    else:
        channels, pixels = (w.k, w.p * w.q) if w.direction == "fprop" else (w.c, w.h * w.w)
        rows, ld, area = w.n * pixels, channels, pixels if w.layout == "nchw" else 0
    item = ITEMSIZE[w.out_dtype]
    wide = 16 // item if not area and w.alignment >= 16 and channels % (16 // item) == ld % (16 // item) == 0 else 1
    one = ColumnSums(channels, rows, ld, area, wide, 1, w.out_dtype, w.vector_dtype, w.open)
    return replace(one, parts=max(1, min(PARTS, ceil_div(WARPS_AN_SM * device.sm_count, one.groups))))


def names(w: Workload, device: Device) -> dict[str, Any]:
    """What :data:`SOURCE` is rendered with."""
    return {"sums": column_sums(w, device), "device": device}


def with_sums(plan: LaunchPlan, w: Workload, device: Device) -> LaunchPlan:
    """``plan`` and behind it the two kernels, whose parts lie at the end of the workspace."""
    sums = column_sums(w, device)
    if sums is None:
        return plan
    start = ceil_div(plan.workspace_bytes, 256) * 256
    parts = BufferArg("workspace", start)
    first = ceil_div(sums.groups * sums.parts, WARPS)
    threads = (32 * WARPS, 1, 1)
    steps = (
        KernelStep(KERNELS[0], (first, 1, 1), threads, (BufferArg("out"), parts, *size_args(sums))),
        KernelStep(KERNELS[1], (ceil_div(sums.channels, 32 * WARPS), 1, 1), threads, (parts, BufferArg(NAME))),
    )
    zeroed = plan.zeroed_span if plan.workspace_zeroed else plan.zeroed_bytes
    return replace(plan, steps=(*plan.steps, *steps), workspace_bytes=start + sums.bytes, zeroed_bytes=zeroed)
