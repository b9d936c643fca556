"""The results of the wgmma families' main kernel, and how they leave: from registers, or staged in shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....plan.size import upper
from ....workload import ITEMSIZE
from ..mask_bits import lanes_apart
from .tiles import box_bytes, box_owners, buffers, out_boxes, right_rows, shares_boxes, staging_bytes

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Output:
    """The results of the main kernel and how the epilogue reaches them.

    ``target``: the workload whose epilogue the main kernel applies, in rows of ``ldc`` elements of ``itemsize`` bytes.
    ``vector``: results of a plain store. ``wide``: offsets of results need 64 bits. ``guarded``: the epilogue reads
    operands, or sums results, that end where the output ends, and a tile may reach past it. ``reads_at``: it needs the
    index of a result. ``byte_lanes``: see :mod:`..mask_bits`.
    """

    target: Any
    ldc: int
    itemsize: int
    vector: int
    wide: bool
    guarded: bool
    reads_at: bool
    byte_lanes: int

    def __str__(self) -> str:
        return f"rows of {self.ldc} x {self.itemsize} bytes, {self.vector} at once from registers"

    @property
    def stmatrix(self) -> bool:
        """Whether results are 16 bits wide, as stmatrix stores them."""
        return self.itemsize == 2


@dataclass(frozen=True)
class Staging:
    """Results on their way through shared memory, from where the copy engine stores them. Sizes and offsets are bytes.

    A consumer has ``boxes`` of them for a tile (0: plain stores from registers), ``buffers`` at once, each ``box_rows``
    rows of ``box_columns`` elements or ``box_bytes``. They lie at ``offset``, ``bytes`` for all ``owners`` (consumers,
    or 1 where these share boxes ``in_turn``).
    """

    boxes: int
    buffers: int
    box_rows: int
    box_columns: int
    box_bytes: int
    offset: int
    bytes: int
    owners: int
    in_turn: bool

    def __str__(self) -> str:
        shared = " that consumers share" if self.in_turn else ""
        return f"{self.bytes} bytes of results{shared}" if self.used else "results from registers"

    @property
    def used(self) -> bool:
        return self.boxes > 0

    @property
    def split(self) -> bool:
        """Whether several consumers have boxes of their own."""
        return self.used and self.owners > 1

    @property
    def bytes_each(self) -> int:
        return self.bytes // self.owners


def output(to: Any, ldc: int, tiles: Any, staged: bool) -> Output:
    names = {op.name for op in to.ops}
    reads_matrix = to.beta != "0" or any(op.operand in ("residual", "aux") for op in to.ops)
    reads_vector = bool(names & {"bias", "row_bias", "scale"}) or to.scales == "row_col"
    widest = 4 if tiles.cluster_sum else 1 if tiles.swap else 2
    vector = widest if tiles.columns % widest == 0 and ldc % widest == 0 else 1
    apart = 4 if tiles.swap and not tiles.cluster_sum else int(vector == widest)  # lanes of neighbouring results
    return Output(
        to,
        ldc,
        ITEMSIZE[to.out_dtype],
        vector,
        wide=tiles.outputs * upper(tiles.rows) * ldc >= 2**31,
        guarded=(reads_matrix or reads_vector or "dbias" in to.outputs) and (tiles.ragged_m or tiles.ragged_n),
        reads_at=not staged or reads_matrix,
        byte_lanes=lanes_apart(to, vector, tiles.columns, apart, not (tiles.ragged_m or tiles.ragged_n)),
    )


def staging(c: Config, itemsize: int, tiles: Any, offset: int) -> Staging:
    staged, width = c["epilogue_store"] != "direct", box_bytes(c, itemsize)
    return Staging(
        boxes=out_boxes(c, itemsize) if staged else 0,
        buffers=buffers(c, itemsize) if staged else 0,
        box_rows=right_rows(c) if tiles.swap else 64,
        box_columns=width // itemsize,
        box_bytes=width,
        offset=offset,
        bytes=staging_bytes(c, itemsize),
        owners=box_owners(c),
        in_turn=shares_boxes(c),
    )
