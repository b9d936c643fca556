"""What follows from a config of a depthwise family, in the order in which it is derived; sources see it so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....cuda.device import Device
from .....plan.size import upper
from ...common import INDEX_LIMIT, derived_once
from ...derived import DerivedOf, SharedStorage
from ..derived import Launch as Threads
from ..derived import Loop
from . import tiles as tile

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Blocks along channels, rows and columns; ``channels`` of a thread, ``block_c`` of a block.

    ``channel_tail``: a block may reach past the channels. Rows and columns: ``pixels`` are dealt to threads,
    ``results`` are a thread's, ``image`` those of the array that they meet, ``out`` those of the image they make up.
    ``sharing_lanes`` of a warp have the same channels.
    """

    tiles_c: int
    tiles_p: int
    tiles_q: int
    channels: int
    block_c: int
    channel_tail: bool
    nhwc: bool
    pixels: tuple[int, int]
    results: tuple[int, int]
    image: tuple[int, int]
    out: tuple[int, int]
    sharing_lanes: int

    def __str__(self) -> str:
        return f"{self.tiles_c} x {self.tiles_p} x {self.tiles_q} blocks, {self.channels} channels a thread"


def layout(c: Config, w: Any) -> Layout:
    channels = tile.channels(c, w)
    block_c = c["threads_c"] * channels
    x, y = (w.h, w.w), (w.p, w.q)
    return Layout(
        *tile.tiles(c, w),
        channels,
        block_c,
        w.k % block_c > 0,
        w.layout == "nhwc",
        tile.pixels(w),
        tile.results(c, w),
        image=y if w.direction == "dgrad" else x,
        out=x if w.direction == "dgrad" else y,
        sharing_lanes=tile.sharing_lanes(c, w),
    )


@dataclass(frozen=True, kw_only=True)
class Storage(SharedStorage):
    """The window of ``rows`` x ``columns`` pixels that a thread reads; ``*_outside``: it may reach past the image.

    It starts at (``first_row``, ``first_column``), counted from the thread's own place. ``wide_x``, ``wide_dy``:
    offsets into one image of what windows lie in, and of dy in a wgrad, need 64 bits.
    """

    rows: int
    columns: int
    first_row: int
    first_column: int
    rows_outside: bool
    columns_outside: bool
    wide_x: bool
    wide_dy: bool

    def __str__(self) -> str:
        return f"a window of {self.rows} x {self.columns} pixels a thread"


def storage(c: Config, w: Any) -> Storage:
    image, (_, tiles_p, tiles_q) = layout(c, w).image, tile.tiles(c, w)
    results = w.k * w.r * w.s if w.direction == "wgrad" else upper(w.n) * w.k * math.prod(layout(c, w).out)
    (rows, columns), outside = tile.reach(c, w), []
    for axis, (met, count) in enumerate(((rows, tiles_p * c["threads_p"]), (columns, tiles_q * c["threads_q"]))):
        last = (count - 1) * c[("thread_p", "thread_q")[axis]] * (1 if w.direction == "dgrad" else w.stride[axis])
        outside.append(met.first < 0 or last + met.first + met.pixels > image[axis])
    return Storage(
        shared_bytes=tile.shared_bytes(c, w),
        wide_out=results > INDEX_LIMIT,
        rows=rows.pixels,
        columns=columns.pixels,
        first_row=rows.first,
        first_column=columns.first,
        rows_outside=outside[0],
        columns_outside=outside[1],
        wide_x=w.c * math.prod(image) > INDEX_LIMIT,
        wide_dy=w.k * w.p * w.q > INDEX_LIMIT,
    )


Pipeline = Loop


def pipeline(c: Config, w: Any) -> Pipeline:
    """Steps are tiles of pixels of a wgrad; elsewhere there is one: all taps of a filter, from registers."""
    steps, per_part = tile.parts(c, w) if w.direction == "wgrad" else (1, 1)
    return Pipeline(stages=1, steps=steps, per_part=per_part, dtype=w.dtype)


@dataclass(frozen=True, kw_only=True)
class Launch(Threads):
    """``sharers``: threads of the second kernel that share the parts of a result."""

    sharers: int


def launch(c: Config, w: Any) -> Launch:
    parts = c["split_k"] if w.direction == "wgrad" else 1
    return Launch(threads=tile.threads(c), sharers=min(32, 1 << (parts - 1).bit_length()))


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


@derived_once
def derive(c: Config, w: Any, device: Device) -> Derived:
    """Layout, storage, pipeline and launch, in this order."""
    return Derived(c, layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
