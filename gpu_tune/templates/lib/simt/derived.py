"""What follows from a config of matmul_simt, in the order in which it is derived; sources see one :class:`Derived`.

:class:`Layout` says which results a block, a warp and a thread have, :class:`Storage` how operands move and where they
lie, :class:`Pipeline` how the main loop runs, :class:`Launch` what is launched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....plan.size import upper
from ..common import INDEX_LIMIT
from ..derived import DerivedOf, SharedStorage
from . import tiles as tile
from .launch import GRID_Z, REDUCE_THREADS
from .tiles import Operand, operand, shared_item

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Tiles of the output and of K (``per_part`` of them a part), and the lanes of a warp that share its part.

    A warp has ``lanes_m`` x ``lanes_n`` threads over ``warp_m`` rows, a block ``warps_n`` warps side by side; the rows
    and columns of a thread lie in pieces of ``piece_m`` and ``piece_n``. ``guard_*``: a tile may reach past the matrix.
    """

    tiles_m: int
    tiles_n: int
    tiles_k: int
    per_part: int
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
        return f"{self.tiles_m} x {self.tiles_n} tiles, {self.per_part} of {self.tiles_k} along K a part, {warp}"


def layout(c: Config, w: Any) -> Layout:
    lanes_n = c["warp_n"] // c["thread_n"]
    return Layout(
        *tile.tiles(c, w),
        *tile.parts(c, w),
        lanes_m=32 // lanes_n,
        lanes_n=lanes_n,
        warp_m=32 // lanes_n * c["thread_m"],
        warps_n=c["block_n"] // c["warp_n"],
        piece_m=c["thread_m"] // c["interleave_m"],
        piece_n=c["thread_n"] // c["interleave_n"],
        guard_m=w.m % c["block_m"] != 0,
        guard_n=w.n % c["block_n"] != 0,
    )


@dataclass(frozen=True)
class Storage(SharedStorage):
    """The operands' tiles in shared memory, all stages; B's start at byte ``b_offset``.

    ``a_elements``, ``b_elements``: as they are stored there. ``wide_sum``: offsets in the workspace need 64 bits.
    """

    a: Operand
    b: Operand
    b_offset: int
    a_elements: int
    b_elements: int
    wide_sum: bool

    def __str__(self) -> str:
        return f"{self.a} and {self.b}, {self.shared_bytes} bytes of shared memory"


def storage(c: Config, w: Any) -> Storage:
    (a_bytes, b_bytes), item = tile.shared_bytes(c, w), shared_item(c, w)
    return Storage(
        a=operand(c, w, "a"),
        b=operand(c, w, "b"),
        b_offset=a_bytes,
        shared_bytes=a_bytes + b_bytes,
        a_elements=a_bytes // item,
        b_elements=b_bytes // item,
        wide_out=upper(w.m) * w.ldc > INDEX_LIMIT,
        wide_sum=upper(w.m) * w.n > INDEX_LIMIT,
    )


@dataclass(frozen=True)
class Pipeline:
    """The main loop: ``stages`` of the knob, whether four products of bytes are summed at once (``dp4a``), and whether
    every 128 elements of K have their scales (``block_scales``)."""

    stages: int
    dp4a: bool
    block_scales: bool
    sum_ctype: str

    def __str__(self) -> str:
        return f"{self.stages} stages, {'dp4a' if self.dp4a else 'single products'}"


def pipeline(c: Config, w: Any) -> Pipeline:
    bytes_of_k = c["shared_type"] == "stored" and c["shared_a"] == c["shared_b"] == "k_inner"
    return Pipeline(
        c["stages"],
        dp4a=w.dtype == "int8" and bytes_of_k and c["fragment_k"] == 4,
        block_scales=w.scales == "block128",
        sum_ctype="int" if w.dtype == "int8" else "float",
    )


@dataclass(frozen=True)
class Launch:
    """``threads`` of a block, and of one of the second kernel; ``fold_batch``: more matrices than a grid's depth."""

    threads: int
    fold_batch: bool = False
    reduce_threads: int = REDUCE_THREADS

    def __str__(self) -> str:
        return f"{self.threads} threads a block"


def launch(c: Config, w: Any) -> Launch:
    return Launch(tile.threads(c), w.batch > GRID_Z)


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


def derived(c: Config, w: Any) -> Derived:
    """Layout, storage, pipeline and launch, in this order."""
    return Derived(c, layout(c, w), storage(c, w), pipeline(c, w), launch(c, w))
