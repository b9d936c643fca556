"""What follows from a config of matmul_simt, in the order in which it is derived; sources see one :class:`Derived`.

:class:`Layout` says which results a block, a warp and a thread have, :class:`Storage` how operands move and where they
lie, :class:`Pipeline` how the main loop runs, :class:`Launch` what is launched. Layout is matmul_simt's own; what else
it shares with the families in ``direct`` and ``backward`` comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ....cuda.device import Device
from ....plan.size import upper
from ....workload import ITEMSIZE
from ....workload.epilogue import TRANSCENDENTAL
from .. import partial_sums
from ..common import INDEX_LIMIT, derived_once
from ..derived import DerivedOf, SharedStorage
from ..mask_bits import lanes_apart
from ..partial_sums import PartialSums
from . import tiles as tile
from .launch import GRID_Z, REDUCE_THREADS
from .tiles import shared_item

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Staged:
    """An operand's stages in shared memory: a block copies ``chunks`` of ``vector`` elements (``bytes``) into each.

    ``pitch``, ``size``: elements from row to row and of a stage; ``elements``: of all stages. ``aligned``: a vector's
    place there is aligned to its store. ``wide``: offsets in global memory need 64 bits.
    """

    vector: int
    bytes: int
    chunks: int
    pitch: int
    aligned: bool
    size: int
    elements: int
    wide: bool

    def __str__(self) -> str:
        return f"{self.size} elements by {self.vector}"


@dataclass(frozen=True, kw_only=True)
class Operand(Staged):
    """An operand of a product: ``block`` rows (of B: columns), whose tile has ``per_row`` vectors in a row.

    The depth of the product runs along a row of the tile in global memory (``k_contiguous``) and in shared memory
    (``k_inner``), or across the rows.
    """

    block: int
    per_row: int
    k_contiguous: bool
    k_inner: bool

    @property
    def same_order(self) -> bool:
        """Whether rows in shared memory are rows of the tile in global memory."""
        return self.k_contiguous == self.k_inner


OperandT = TypeVar("OperandT", bound=Operand)


@dataclass(frozen=True, kw_only=True)
class Tiles(SharedStorage, Generic[OperandT]):
    """The operands' tiles in shared memory, all stages; B's start at byte ``b_offset``."""

    a: OperandT
    b: OperandT
    b_offset: int

    def __str__(self) -> str:
        return f"{self.a} and {self.b}, {self.shared_bytes} bytes of shared memory"


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A main loop over ``steps`` tiles along the depth, ``per_part`` of them in each part of a split.

    ``stages``: of the knob. ``sum_ctype``: what products are summed in, of the workload's dtype. ``other_bank_first``:
    the order of a row's multiply-adds lets registers of one bank be reused.
    """

    stages: int
    steps: int
    per_part: int
    dtype: str
    other_bank_first: bool = False

    def __str__(self) -> str:
        return f"{self.per_part} of {self.steps} k tiles a part, {self.stages} stages"

    @property
    def sum_ctype(self) -> str:
        return "int" if self.dtype == "int8" else "float"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Tiles of the output and the lanes of a warp that share its part.

    A warp has ``lanes_m`` x ``lanes_n`` threads over ``warp_m`` rows, a block ``warps_n`` warps side by side; the rows
    and columns of a thread lie in pieces of ``piece_m`` and ``piece_n``. ``guard_*``: a tile may reach past the matrix.
    """

    tiles_m: int
    tiles_n: int
    lanes_m: int
    lanes_n: int
    warp_m: int
    warps_n: int
    piece_m: int
    piece_n: int
    guard_m: bool
    guard_n: bool

    @property
    def stride_m(self) -> int:
        """Rows from one piece of a thread to its next."""
        return self.lanes_m * self.piece_m

    @property
    def stride_n(self) -> int:
        return self.lanes_n * self.piece_n

    def __str__(self) -> str:
        warp = f"{self.lanes_m} x {self.lanes_n} lanes of {self.piece_m} x {self.piece_n}"
        return f"{self.tiles_m} x {self.tiles_n} tiles, {warp}"


def layout(c: Config, w: Any) -> Layout:
    (tiles_m, tiles_n), lanes_n = tile.tiles(c, w), c["warp_n"] // c["thread_n"]
    return Layout(
        tiles_m=tiles_m,
        tiles_n=tiles_n,
        lanes_m=32 // lanes_n,
        lanes_n=lanes_n,
        warp_m=32 // lanes_n * c["thread_m"],
        warps_n=c["block_n"] // c["warp_n"],
        piece_m=c["thread_m"] // c["interleave_m"],
        piece_n=c["thread_n"] // c["interleave_n"],
        guard_m=w.m % c["block_m"] != 0,
        guard_n=w.n % c["block_n"] != 0,
    )


@dataclass(frozen=True, kw_only=True)
class Matrix(Operand):
    """An operand that is a matrix: ``ld``, ``matrix`` are elements of a row and of the whole."""

    ld: int
    matrix: int


@dataclass(frozen=True, kw_only=True)
class Storage(Tiles[Matrix]):
    """Both matrices; ``wide_sum``: offsets of sums in the workspace need 64 bits."""

    wide_sum: bool


def operand(c: Config, w: Any, which: str) -> Matrix:
    """Operand ``a`` or ``b``: its global order, its tile in shared memory and the width of the copies."""
    block, vector = c["block_m" if which == "a" else "block_n"], c[f"vector_width_{which}"]
    k_contiguous, (rows, pitch) = tile.along_k(w, which), tile.tile_shape(c, w, which)
    shape, ld = (w.a_shape, w.lda) if which == "a" else (w.b_shape, w.ldb)
    return Matrix(
        block=block,
        k_contiguous=k_contiguous,
        k_inner=c[f"shared_{which}"] == "k_inner",
        vector=vector,
        bytes=vector * ITEMSIZE[w.dtype],
        per_row=(c["block_k"] if k_contiguous else block) // vector,
        chunks=block * c["block_k"] // vector,
        pitch=pitch,
        aligned=pitch % 4 == 0 if c["shared_type"] == "wide" else pitch % vector == 0,
        size=rows * pitch,
        elements=tile.operand_bytes(c, w, which) // shared_item(c, w),
        wide=upper(shape[0]) * upper(ld) > INDEX_LIMIT,
        ld=ld,
        matrix=shape[0] * ld,
    )


def _byte_lanes(c: Config, w: Any) -> int:
    """See :mod:`..mask_bits`. In the kernel, lanes are neighbours where a piece of a thread's columns is one vector."""
    vector, tiles = c["vector_width_out"], layout(c, w)
    if c["split_k"] > 1:
        return lanes_apart(w, vector, w.n, 1, w.m * w.n // vector % REDUCE_THREADS == 0)
    side_by_side = tiles.piece_n == vector and tiles.lanes_n * vector >= 8
    return lanes_apart(w, vector, w.n, int(side_by_side), not (tiles.guard_m or tiles.guard_n))


def _sums(c: Config, w: Any) -> PartialSums | None:
    """A row of sums for each warp. None where a second kernel finishes the results, and with exponentials or error
    functions: there the compiler was seen to allot the main loop's registers worse, for more than is gained."""
    if "dbias" not in w.outputs or c["split_k"] > 1 or any(op.name in TRANSCENDENTAL for op in w.ops):
        return None
    tiles = layout(c, w)
    return partial_sums.behind(0, w.batch * tiles.tiles_m * (c["block_m"] // tiles.warp_m), w.n)


def storage(c: Config, w: Any) -> Storage:
    return Storage(
        a=operand(c, w, "a"),
        b=operand(c, w, "b"),
        b_offset=tile.operand_bytes(c, w, "a"),
        shared_bytes=tile.shared_bytes(c, w),
        wide_out=upper(w.m) * w.ldc > INDEX_LIMIT,
        wide_sum=upper(w.m) * w.n > INDEX_LIMIT,
        sums=_sums(c, w),
        byte_lanes=_byte_lanes(c, w),
    )


@dataclass(frozen=True, kw_only=True)
class Pipeline(Loop):
    """The main loop; ``dp4a``: four products of bytes are summed at once; ``block_scales``: every 128 elements of K
    have their scales. ``moved_sums``: sums change registers before they are stored, so that no order is needed."""

    dp4a: bool
    block_scales: bool
    moved_sums: bool


YIELDS = frozenset({80})
"""Compute capabilities on which a multiply-add takes two cycles of its unit. ptxas lets every sixth of them yield to
another warp there, and what the yielding one read is not kept for reuse: of the 512 of a k tile of 128x128 results 50
to 55 read three registers of one bank in an order that relies on reuse, 0 to 3 where the sums move before they are
stored. A register file has two banks of 64 bits (Jia et al. 2018, arXiv 1804.06826, of Volta; Citadel's talk S33322 at
GTC 2021 finds it unchanged in an A100)."""
MANY_SUMS = 64
"""Of a thread, from which on ptxas has the registers for that: of 4 x 4 sums more read one bank than before."""


def pipeline(c: Config, w: Any, tiles: Layout, device: Device) -> Pipeline:
    bytes_of_k = c["shared_type"] == "stored" and c["shared_a"] == c["shared_b"] == "k_inner"
    steps, per_part = tile.parts(c, w)
    k_inner = "k_inner" in (c["shared_a"], c["shared_b"])
    vectors = w.dtype == "float32" and not k_inner and tiles.piece_m % 2 == 0 and tiles.piece_n % 2 == 0
    moved = vectors and device.cc in YIELDS and c["thread_m"] * c["thread_n"] >= MANY_SUMS and stores_sums(c, w)
    return Pipeline(
        stages=c["stages"],
        steps=steps,
        per_part=per_part,
        dtype=w.dtype,
        dp4a=w.dtype == "int8" and bytes_of_k and c["fragment_k"] == 4,
        block_scales=w.scales == "block128",
        other_bank_first=vectors and not moved,
        moved_sums=moved,
    )


def stores_sums(c: Config, w: Any) -> bool:
    """Whether the main kernel stores several of its sums at once, as they are: parts of a split K, or results without
    an epilogue."""
    plain = (w.alpha, w.beta, w.scales, w.out_dtype) == ("1", "0", "none", "float32") and not w.ops
    return bool(c["vector_width_out"] > 1 and (c["split_k"] > 1 or plain))


@dataclass(frozen=True, kw_only=True)
class Launch:
    """``threads`` of a block, and of one of the second kernel; ``fold_batch``: more matrices than a grid's depth."""

    threads: int
    reduce_threads: int = REDUCE_THREADS
    fold_batch: bool = False

    def __str__(self) -> str:
        return f"{self.threads} threads a block"


def launch(c: Config, w: Any) -> Launch:
    return Launch(threads=tile.threads(c), fold_batch=w.batch > GRID_Z)


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


@derived_once
def derive(c: Config, w: Any, device: Device) -> Derived:
    """Layout, storage, pipeline and launch, in this order."""
    tiles = layout(c, w)
    return Derived(c, tiles, storage(c, w), pipeline(c, w, tiles, device), launch(c, w))
