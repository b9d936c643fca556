"""What follows from a config of conv2d_direct, in the order in which it is derived; sources see :class:`Derived`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....cuda.device import Device
from .....plan.size import upper
from .....workload import ITEMSIZE
from ...common import INDEX_LIMIT, derived_once
from ...derived import DerivedOf, SharedStorage
from ..derived import Launch, Loop, Staged
from ..tiles import shared_item
from . import tiles as tile

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Threads of a block and tiles of an image along channels, rows and columns; ``cg``, ``kg``: channels of a group.

    ``outputs``: results of the whole convolution. ``guard_*``: a tile may reach past the group's channels.
    ``column_step``: input columns between a thread's outputs.
    """

    threads_k: int
    threads_p: int
    threads_q: int
    tiles_k: int
    tiles_p: int
    tiles_q: int
    cg: int
    kg: int
    nhwc: bool
    outputs: int
    guard_c: bool
    guard_k: bool
    column_step: int

    def __str__(self) -> str:
        tiles = f"{self.tiles_k} x {self.tiles_p} x {self.tiles_q} tiles"
        return f"{tiles} by {self.threads_k} x {self.threads_p} x {self.threads_q} threads"


def layout(c: Config, w: Any) -> Layout:
    tiles_k, tiles_p, tiles_q = tile.tiles(c, w)
    cg, kg = tile.channels(w)
    return Layout(
        threads_k=c["block_k"] // c["thread_k"],
        threads_p=c["block_p"] // c["thread_p"],
        threads_q=c["block_q"] // c["thread_q"],
        tiles_k=tiles_k,
        tiles_p=tiles_p,
        tiles_q=tiles_q,
        cg=cg,
        kg=kg,
        nhwc=w.layout == "nhwc",
        outputs=tile.outputs(w),
        guard_c=cg % c["block_c"] != 0,
        guard_k=kg % c["block_k"] != 0,
        column_step=w.stride[1] * (1 if c["columns"] == "adjacent" else c["block_q"] // c["thread_q"]),
    )


@dataclass(frozen=True, kw_only=True)
class Operand(Staged):
    """The patch or the filters; ``staged``: whether they pass through shared memory, or threads read where they lie.

    ``c_inner``: channels are innermost in shared memory, where the stages start at byte ``offset``.
    """

    staged: bool
    c_inner: bool
    offset: int


@dataclass(frozen=True)
class Patch:
    """The input of a block, ``rows`` x ``columns`` pixels, which starts ``shift`` columns early for alignment.

    ``row_length``: columns that a thread reads of a row. ``*_outside``: the patch may reach past the image.
    """

    rows: int
    columns: int
    shift: int
    row_length: int
    rows_outside: bool
    columns_outside: bool


@dataclass(frozen=True, kw_only=True)
class Storage(SharedStorage):
    """The patch ``x`` and the filters ``w`` in shared memory."""

    patch: Patch
    x: Operand
    w: Operand

    def __str__(self) -> str:
        size = f"{self.patch.rows} x {self.patch.columns}"
        return f"a patch of {size} pixels, {self.shared_bytes} bytes of shared memory"


def patch(c: Config, w: Any) -> Patch:
    columns, shift = tile.patch_columns(c, w), tile.shift(c, w)
    _, tiles_p, tiles_q = tile.tiles(c, w)
    last_row = (tiles_p * c["block_p"] - 1) * w.stride[0] - w.padding[0] + (w.r - 1) * w.dilation[0]
    last_column = (tiles_q - 1) * c["block_q"] * w.stride[1] - w.padding[2] - shift + columns - 1
    return Patch(
        tile.patch_rows(c, w),
        columns,
        shift,
        row_length=tile.row_length(c, w),
        rows_outside=w.padding[0] > 0 or last_row >= w.h,
        columns_outside=w.padding[2] + shift > 0 or last_column >= w.w,
    )


def storage(c: Config, w: Any) -> Storage:
    area, (cg, kg), item = patch(c, w), tile.channels(w), shared_item(c, w)
    vx, vw = c["vector_width_x"], c["vector_width_w"]
    x = Operand(
        staged=c["stage_x"] == "shared",
        c_inner=c["shared_x"] == "c_inner",
        chunks=c["block_c"] * area.rows * area.columns // vx,
        vector=vx,
        bytes=vx * ITEMSIZE[w.dtype],
        aligned=tile.x_pitch(c, w) % (4 if c["shared_type"] == "wide" else vx) == 0,
        pitch=tile.x_pitch(c, w),
        size=tile.x_elements(c, w),
        elements=tile.x_bytes(c, w) // item,
        offset=0,
        wide=w.c * w.h * w.w > INDEX_LIMIT,
    )
    filters = Operand(
        staged=c["stage_w"] == "shared",
        c_inner=c["shared_w"] == "c_inner",
        chunks=c["block_k"] * c["block_c"] * w.r * w.s // vw,
        vector=vw,
        bytes=vw * ITEMSIZE[w.dtype],
        aligned=tile.w_pitch(c, w) % (4 if c["shared_type"] == "wide" else vw) == 0,
        pitch=tile.w_pitch(c, w),
        size=tile.w_elements(c, w),
        elements=tile.w_bytes(c, w) // item,
        offset=tile.x_bytes(c, w),
        wide=kg * cg * w.r * w.s > INDEX_LIMIT,
    )
    return Storage(
        patch=area,
        x=x,
        w=filters,
        shared_bytes=tile.shared_bytes(c, w),
        wide_out=upper(tile.outputs(w)) > INDEX_LIMIT,
    )


Pipeline = Loop


def pipeline(c: Config, w: Any) -> Pipeline:
    """The main loop over k tiles of input channels."""
    steps, per_part = tile.parts(c, w)
    return Pipeline(stages=c["stages"], steps=steps, per_part=per_part, dtype=w.dtype)


def launch(c: Config, w: Any) -> Launch:
    return Launch(threads=tile.threads(c))


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


@derived_once
def derive(c: Config, w: Any, device: Device) -> Derived:
    """Layout, storage, pipeline and launch, in this order."""
    return Derived(c, layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
