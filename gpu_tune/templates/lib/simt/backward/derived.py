"""What follows from a config of the gradients, in the order in which it is derived; sources see :class:`Derived`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....cuda.device import Device
from .....space import knob
from .....workload import ITEMSIZE
from ...common import INDEX_LIMIT, ceil_div, derived_once
from ...derived import DerivedOf
from ...phases import Phases, phases
from ..derived import Launch, Loop, Operand, Tiles
from . import tiles as tile

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """The product of a group (``rows`` x ``columns`` of the largest phase), its tiles, and a thread's share of one.

    ``phases``: of rows and columns of dx. A thread's rows lie in pieces of ``piece_m``, ``stride_m`` from each other;
    columns alike. ``threads_m`` x ``threads_n`` threads make a block.
    """

    nhwc: bool
    cg: int
    kg: int
    phases: tuple[Phases, Phases]
    rows: int
    columns: int
    tiles_m: int
    tiles_n: int
    threads_m: int
    threads_n: int
    piece_m: int
    piece_n: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.tiles_m} x {self.tiles_n} tiles of {self.rows} x {self.columns}"

    @property
    def tiles(self) -> int:
        """Tiles of one product."""
        return self.tiles_m * self.tiles_n

    @property
    def stride_m(self) -> int:
        return self.threads_m * self.piece_m

    @property
    def stride_n(self) -> int:
        return self.threads_n * self.piece_n


def layout(c: Config, w: Any) -> Layout:
    cg, kg = tile.channels(w)
    return Layout(
        w.layout == "nhwc",
        cg,
        kg,
        phases(w),
        *tile.extents(w),
        *tile.tiles(c, w),
        threads_m=c["block_m"] // c["thread_m"],
        threads_n=c["block_n"] // c["thread_n"],
        piece_m=tile.piece(c, "m"),
        piece_n=tile.piece(c, "n"),
        outputs=tile.outputs(w),
    )


@dataclass(frozen=True, kw_only=True)
class Gathered(Operand):
    """An operand that is gathered as it is read; a thread copies ``count`` vectors.

    In shared memory rows run along the block's rows (or columns), one for each of the depth: never ``k_inner``.
    """

    count: int


Storage = Tiles[Gathered]


def operand(c: Config, w: Any, which: str) -> Gathered:
    block, v, pitch = c["block_m" if which == "a" else "block_n"], c[f"vector_width_{which}"], tile.pitch(c, which)
    k_contiguous, chunks = tile.along_depth(w, which), block * c["block_k"] // v
    source = w.arrays()[w.inputs["ab".index(which)]]
    return Gathered(
        block=block,
        k_contiguous=k_contiguous,
        k_inner=False,
        vector=v,
        bytes=v * ITEMSIZE[w.dtype],
        per_row=(c["block_k"] if k_contiguous else block) // v,
        chunks=chunks,
        pitch=pitch,
        aligned=pitch % 4 == 0,
        size=pitch * c["block_k"],
        elements=tile.operand_bytes(c, which) // 4,
        wide=source.span > INDEX_LIMIT,
        count=ceil_div(chunks, tile.threads(c)),
    )


def storage(c: Config, w: Any) -> Storage:
    return Storage(
        a=operand(c, w, "a"),
        b=operand(c, w, "b"),
        b_offset=tile.operand_bytes(c, "a"),
        shared_bytes=tile.shared_bytes(c, w),
        wide_out=tile.outputs(w) > INDEX_LIMIT,
    )


@dataclass(frozen=True, kw_only=True)
class Pipeline(Loop):
    """The main loop over tiles of the depth (of the phase with most taps); ``chunks``: tiles of output channels for
    each filter tap of a dgrad. Elements are multiplied one by one, whatever the dtype: no ``dp4a``."""

    chunks: int
    dp4a: bool = False


def pipeline(c: Config, w: Any) -> Pipeline:
    (steps, per_part), chunks = tile.parts(c, w), ceil_div(tile.channels(w)[1], c["block_k"])
    return Pipeline(stages=c["stages"], steps=steps, per_part=per_part, dtype=w.dtype, chunks=chunks)


def launch(c: Config, w: Any) -> Launch:
    return Launch(threads=tile.threads(c))


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


@derived_once
def derive(c: Config, w: Any, device: Device) -> Derived:
    """Layout, storage, pipeline and launch, in this order; the config gets what is no choice here but a knob of
    matmul_simt, whose multiply-adds these are."""
    pieces = {f"interleave_{x}": c[f"thread_{x}"] // tile.piece(c, x) for x in "mn"}
    complete = knob.Config(**{**c, **pieces, "shared_type": "wide", "fragment_k": 1})
    return Derived(complete, layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
