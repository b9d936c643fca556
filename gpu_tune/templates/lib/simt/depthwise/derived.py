"""What follows from a config of conv2d_depthwise, in the order in which it is derived; sources see :class:`Derived`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....cuda.device import Device
from .....plan.size import upper
from ...common import INDEX_LIMIT, derived_once
from ...derived import DerivedOf
from ..derived import Launch, Loop
from . import tiles as tile

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Blocks along channels, rows and columns; ``channels`` of a thread, ``block_c`` of a block.

    ``channel_tail``: a block may reach past the channels.
    """

    tiles_c: int
    tiles_p: int
    tiles_q: int
    channels: int
    block_c: int
    channel_tail: bool
    nhwc: bool

    def __str__(self) -> str:
        return f"{self.tiles_c} x {self.tiles_p} x {self.tiles_q} blocks, {self.channels} channels a thread"


def layout(c: Config, w: Any) -> Layout:
    channels = tile.channels(c, w)
    block_c = c["threads_c"] * channels
    return Layout(*tile.tiles(c, w), channels, block_c, w.k % block_c > 0, w.layout == "nhwc")


@dataclass(frozen=True)
class Storage:
    """The window of ``rows`` x ``columns`` pixels that a thread reads; ``*_outside``: it may reach past the image.

    ``wide_*``: offsets need 64 bits.
    """

    rows: int
    columns: int
    rows_outside: bool
    columns_outside: bool
    wide_x: bool
    wide_out: bool

    def __str__(self) -> str:
        return f"a window of {self.rows} x {self.columns} pixels a thread"


def storage(c: Config, w: Any) -> Storage:
    (rows, columns), (_, tiles_p, tiles_q) = tile.window(c, w), tile.tiles(c, w)
    last_row = (tiles_p * c["threads_p"] * c["thread_p"] - 1) * w.stride[0] - w.padding[0]
    last_column = (tiles_q * c["threads_q"] * c["thread_q"] - 1) * w.stride[1] - w.padding[2]
    return Storage(
        rows,
        columns,
        rows_outside=w.padding[0] > 0 or last_row + (w.r - 1) * w.dilation[0] >= w.h,
        columns_outside=w.padding[2] > 0 or last_column + (w.s - 1) * w.dilation[1] >= w.w,
        wide_x=w.c * w.h * w.w > INDEX_LIMIT,
        wide_out=upper(w.n) * w.k * w.p * w.q > INDEX_LIMIT,
    )


Pipeline = Loop


def pipeline(c: Config, w: Any) -> Pipeline:
    """One step: all taps of a filter, from registers."""
    return Pipeline(stages=1, steps=1, per_part=1, dtype=w.dtype)


def launch(c: Config, w: Any) -> Launch:
    return Launch(threads=tile.threads(c))


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


@derived_once
def derive(c: Config, w: Any, device: Device) -> Derived:
    """Layout, storage, pipeline and launch, in this order."""
    return Derived(c, layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
