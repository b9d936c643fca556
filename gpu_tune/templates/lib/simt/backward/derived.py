"""What follows from a config of the gradients, in the order in which it is derived; sources see :class:`.DerivedOf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .....space import knob
from .....workload import ITEMSIZE
from ...common import INDEX_LIMIT, ceil_div
from ...derived import DerivedOf, SharedStorage
from ...phases import Phases, phases
from ..derived import Launch
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


@dataclass(frozen=True)
class Operand:
    """How an operand moves: ``chunks`` vectors of ``vector`` elements, ``count`` of them a thread, into rows of
    ``pitch`` elements in shared memory, one for each of the depth; ``size`` elements a stage, ``elements`` in all.

    ``along_depth``: vectors and neighbouring threads run along the depth, ``per_row`` vectors; else along the rows (or
    columns). ``aligned``: a vector's place is aligned to its store. ``wide``: offsets need 64 bits. In shared
    memory the depth is never innermost (``k_inner``).
    """

    block: int
    along_depth: bool
    vector: int
    bytes: int
    chunks: int
    count: int
    per_row: int
    pitch: int
    aligned: bool
    size: int
    elements: int
    wide: bool
    k_inner: bool = False

    def __str__(self) -> str:
        return f"{self.size} elements by {self.vector}"


def operand(c: Config, w: Any, which: str) -> Operand:
    block, v, pitch = c["block_m" if which == "a" else "block_n"], c[f"vector_width_{which}"], tile.pitch(c, which)
    along_depth, chunks = tile.along_depth(w, which), block * c["block_k"] // v
    source = w.arrays()[w.inputs["ab".index(which)]]
    return Operand(
        block,
        along_depth,
        v,
        bytes=v * ITEMSIZE[w.dtype],
        chunks=chunks,
        count=ceil_div(chunks, tile.threads(c)),
        per_row=(c["block_k"] if along_depth else block) // v,
        pitch=pitch,
        aligned=pitch % 4 == 0,
        size=pitch * c["block_k"],
        elements=tile.operand_bytes(c, which) // 4,
        wide=source.span > INDEX_LIMIT,
    )


@dataclass(frozen=True)
class Storage(SharedStorage):
    """Both operands; B's stages start at byte ``b_offset``."""

    a: Operand
    b: Operand
    b_offset: int

    def __str__(self) -> str:
        return f"{self.a} and {self.b}, {self.shared_bytes} bytes of shared memory"


def storage(c: Config, w: Any) -> Storage:
    return Storage(
        a=operand(c, w, "a"),
        b=operand(c, w, "b"),
        b_offset=tile.operand_bytes(c, "a"),
        shared_bytes=tile.shared_bytes(c, w),
        wide_out=tile.outputs(w) > INDEX_LIMIT,
    )


@dataclass(frozen=True)
class Pipeline:
    """``steps`` tiles along the depth (of the phase with most taps), ``per_part`` of them in a part of a split.

    ``chunks``: tiles of output channels for each filter tap of a dgrad.
    """

    steps: int
    per_part: int
    chunks: int
    sum_ctype: str
    dp4a: bool = False

    def __str__(self) -> str:
        return f"{self.per_part} of {self.steps} k tiles a part"


def pipeline(c: Config, w: Any) -> Pipeline:
    chunks, sum_ctype = ceil_div(tile.channels(w)[1], c["block_k"]), "int" if w.dtype == "int8" else "float"
    return Pipeline(*tile.parts(c, w), chunks, sum_ctype)


def launch(c: Config, w: Any) -> Launch:
    return Launch(tile.threads(c))


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


def derived(c: Config, w: Any) -> Derived:
    """Layout, storage, pipeline and launch, in this order; the config with what is no choice here but a knob of
    matmul_simt, whose multiply-adds these are."""
    pieces = {f"interleave_{x}": c[f"thread_{x}"] // tile.piece(c, x) for x in "mn"}
    config = knob.Config(**{**c, **pieces, "shared_type": "wide", "fragment_k": 1})
    return Derived(config, layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
