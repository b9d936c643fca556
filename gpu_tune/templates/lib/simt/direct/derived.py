"""What follows from a config of conv2d_direct, in the order in which it is derived; sources see :class:`Derived`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....workload import ITEMSIZE
from ...common import INDEX_LIMIT, STATIC_LIMIT
from ..launch import REDUCE_THREADS
from ..tiles import shared_item
from . import tiles as tile

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Threads of a block and tiles of an image along channels, rows and columns; ``cg``, ``kg``: channels of a group.

    ``outputs``: results of the whole convolution.
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
    )


@dataclass(frozen=True)
class Storage:
    """The patch of ``rows`` x ``columns`` pixels and the filters in shared memory, and how they get there.

    ``*_chunks``: vectors that a block copies, of ``*_bytes`` each; ``*_pitch``, ``*_size``: elements of a row and of a
    buffer, ``*_elements``: of all buffers; the filters lie at byte ``w_offset``. ``shift``: columns that the patch
    starts early for alignment. ``wide_*``: offsets need 64 bits. ``*_outside``: the patch may reach past the image.
    """

    rows: int
    columns: int
    shift: int
    x_chunks: int
    w_chunks: int
    x_pitch: int
    w_pitch: int
    x_size: int
    w_size: int
    x_bytes: int
    w_bytes: int
    dynamic: bool
    w_offset: int
    shared_bytes: int
    x_elements: int
    w_elements: int
    row_length: int
    wide_x: bool
    wide_w: bool
    wide_out: bool
    rows_outside: bool
    columns_outside: bool

    def __str__(self) -> str:
        return f"a patch of {self.rows} x {self.columns} pixels, {self.shared_bytes} bytes of shared memory"


def storage(c: Config, w: Any) -> Storage:
    rows, columns, (cg, kg) = tile.patch_rows(c, w), tile.patch_columns(c, w), tile.channels(w)
    _, tiles_p, tiles_q = tile.tiles(c, w)
    last_row = (tiles_p * c["block_p"] - 1) * w.stride[0] - w.padding[0] + (w.r - 1) * w.dilation[0]
    last_column = (tiles_q - 1) * c["block_q"] * w.stride[1] - w.padding[2] - tile.shift(c, w) + columns - 1
    v = c["vector_width_x"]
    return Storage(
        rows=rows,
        columns=columns,
        shift=tile.shift(c, w),
        x_chunks=c["block_c"] * rows * columns // v,
        w_chunks=c["block_k"] * c["block_c"] * w.r * w.s // c["vector_width_w"],
        x_pitch=tile.x_pitch(c, w),
        w_pitch=tile.w_pitch(c, w),
        x_size=tile.x_elements(c, w),
        w_size=tile.w_elements(c, w),
        x_bytes=v * ITEMSIZE[w.dtype],
        w_bytes=c["vector_width_w"] * ITEMSIZE[w.dtype],
        dynamic=tile.shared_bytes(c, w) > STATIC_LIMIT,
        w_offset=tile.x_bytes(c, w),
        shared_bytes=tile.shared_bytes(c, w),
        x_elements=tile.x_bytes(c, w) // shared_item(c, w),
        w_elements=tile.w_bytes(c, w) // shared_item(c, w),
        row_length=tile.row_length(c, w),
        wide_x=w.c * w.h * w.w > INDEX_LIMIT,
        wide_w=kg * cg * w.r * w.s > INDEX_LIMIT,
        wide_out=tile.outputs(w) > INDEX_LIMIT,
        rows_outside=w.padding[0] > 0 or last_row >= w.h,
        columns_outside=w.padding[2] + tile.shift(c, w) > 0 or last_column >= w.w,
    )


@dataclass(frozen=True)
class Pipeline:
    """Steps over the input channels, and how many of them a slice takes."""

    steps: int
    per_slice: int

    def __str__(self) -> str:
        return f"{self.per_slice} of {self.steps} steps a slice"


def pipeline(c: Config, w: Any) -> Pipeline:
    steps, per_slice = tile.slices(c, w)
    return Pipeline(
        steps=steps,
        per_slice=per_slice,
    )


@dataclass(frozen=True)
class Launch:
    """``threads`` of a block, and of one of the second kernel."""

    threads: int
    reduce_threads: int

    def __str__(self) -> str:
        return f"{self.threads} threads a block"


def launch(c: Config, w: Any) -> Launch:
    return Launch(
        threads=tile.threads(c),
        reduce_threads=REDUCE_THREADS,
    )


@dataclass(frozen=True)
class Derived:
    """All that the source sees as ``launch``."""

    layout: Layout
    storage: Storage
    pipeline: Pipeline
    launch: Launch


def derived(c: Config, w: Any) -> Derived:
    """Layout, storage, pipeline and launch, in this order."""
    return Derived(layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
