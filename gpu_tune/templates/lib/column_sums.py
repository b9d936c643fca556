"""``dbias``: sums of a result over all but its channels, by kernels behind those of any family.

Where the family's own kernel leaves sums of its rows (:mod:`.partial_sums`), one kernel adds these. Elsewhere there are
two: a warp adds some of the rows of some channels (of NCHW images: some of the pixels of one) and leaves its sums in
the workspace; the second kernel adds these. All add the same in the same order in every run, so results are bit-equal.
What is added are the elements as they are stored, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...cuda.device import Device
from ...plan import Arg, BufferArg, KernelStep, LaunchPlan
from ...plan.size import Size, ceil_div, upper
from ...workload import ITEMSIZE, Matmul, Workload
from .common import size_args
from .partial_sums import PartialSums

NAME, PART, KERNELS = "dbias", "column_sums", ("sum_columns", "add_column_sums")
WARPS = 8
"""Warps of a block."""
PARTS = 64
"""Parts of a channel's sum at most: what a thread of the second kernel adds."""
CHANNELS = 8
"""Channels of a block that adds parts that were left: their sums are 32 bytes side by side."""
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
    ``open``: the size that rows are an expression over. ``parts``: sums of a channel that are added last; where they
    are ``left`` by the family's kernel, nothing else is of importance.
    """

    channels: int
    rows: int
    ld: int
    area: int
    vector: int
    parts: Any
    out_dtype: str
    dtype: str
    open: Size | None
    left: bool = False

    @property
    def groups(self) -> int:
        """Warps that have all channels of one part."""
        return self.channels if self.area else ceil_div(self.channels, 32 * self.vector)

    @property
    def bytes(self) -> Any:
        """Bytes of the parts."""
        return 4 * self.parts * self.channels

    @property
    def threads(self) -> int:
        """Of a block that adds parts that were left, of ``CHANNELS`` channels: where there are many, each adds eight or
        more."""
        return max(32, min(1024, 1 << int(upper(self.parts)).bit_length() - 1))


def column_sums(w: Workload, device: Device, left: PartialSums | None = None) -> ColumnSums | None:
    """The sums that ``w`` asks for, of which its kernel leaves ``left``; None where it asks for none."""
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
    if left is not None:
        return replace(one, parts=left.rows, left=True)
    return replace(one, parts=max(1, min(PARTS, ceil_div(WARPS_AN_SM * device.sm_count, one.groups))))


def names(w: Workload, device: Device, left: PartialSums | None = None) -> dict[str, Any]:
    """What :data:`SOURCE` is rendered with."""
    return {"sums": column_sums(w, device, left), "device": device}


def with_sums(plan: LaunchPlan, w: Workload, device: Device, left: PartialSums | None = None) -> LaunchPlan:
    """``plan`` and behind it one kernel, which adds what the plan's leave, or two, whose parts lie at the end of the
    workspace."""
    sums = column_sums(w, device, left)
    if sums is None:
        return plan
    if left is not None:
        blocks, size = ceil_div(sums.channels, CHANNELS), size_args(sums) if isinstance(left.rows, Size) else ()
        args: tuple[Arg, ...] = (BufferArg("workspace", left.start), BufferArg(NAME), *size)
        step = KernelStep(KERNELS[1], (blocks, 1, 1), (sums.threads, 1, 1), args)
        return replace(plan, steps=(*plan.steps, step))
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
