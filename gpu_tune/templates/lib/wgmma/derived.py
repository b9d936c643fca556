"""What follows from a config of the wgmma families, in the order in which it is derived; see tiles for the terms.

:class:`Layout` says which tiles of which product each block computes, :class:`Storage` how operands and results lie in
shared memory and leave it, :class:`Pipeline` how the main loop runs, :class:`Launch` what is launched. Sources see all
four as one :class:`Derived` (``launch``; parts: ``g``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....cuda.device import Device
from ....plan.size import upper
from ....workload import ITEMSIZE, Workload
from ..common import ceil_div
from ..derived import DerivedOf
from ..partial_sums import PartialSums
from .launch import SUM_THREADS, Transposed, left_sums, target
from .tiles import (
    PROMOTED_K,
    Operand,
    Problem,
    blocks_of_64,
    box_bytes,
    box_owners,
    buffers,
    cluster_size,
    clusters,
    consumer_registers,
    instruction,
    operand,
    out_boxes,
    part_pad,
    promotes,
    right_rows,
    shared_bytes,
    shares_boxes,
    staging_bytes,
    sums_in_cluster,
)

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """The tiles of the output, of a cluster's size, and the work tiles.

    The main kernel writes ``rows`` x ``columns`` results (``n`` of the columns are the product's), ``batch`` times.
    ``tile``: rows and columns of a cluster. ``k_tiles``: of the whole K. ``cluster``: blocks; ``peers`` of them, and
    ``b_peers`` as a mask of those that share a tile of B. ``swap``: the product is transposed. ``cluster_sum``: the
    blocks of a cluster multiply a part of K each.
    """

    rows: int
    columns: int
    n: int
    batch: int
    tile: tuple[int, int]
    k_tiles: int
    split_k: int
    cluster: int
    peers: int
    b_peers: int
    swap: bool
    cluster_sum: bool

    def __str__(self) -> str:
        times = f"{self.batch} times " if self.batch > 1 else ""
        of = f" by clusters of {self.cluster} blocks" if self.cluster > 1 else ""
        split = f", K in {self.split_k} parts" if self.split_k > 1 else ""
        return f"{times}{self.rows} x {self.columns} in tiles of {self.tile[0]} x {self.tile[1]}{of}{split}"

    @property
    def partial(self) -> bool:
        """Whether the main kernel leaves parts of a K that a second kernel sums."""
        return self.split_k > 1 and not self.cluster_sum

    @property
    def ragged_m(self) -> bool:
        return self.rows % self.tile[0] != 0

    @property
    def ragged_n(self) -> bool:
        return self.columns % self.tile[1] != 0

    @property
    def tiles_m(self) -> int:
        return ceil_div(self.rows, self.tile[0])

    @property
    def tiles_n(self) -> int:
        return ceil_div(self.columns, self.tile[1])

    @property
    def tiles(self) -> int:
        """Tiles of one output."""
        return self.tiles_m * self.tiles_n

    @property
    def outputs(self) -> int:
        """Outputs of the main kernel: matrices of the batch, times the parts of K that are summed later."""
        return self.batch * (self.split_k if self.partial else 1)

    @property
    def work_tiles(self) -> int:
        return self.tiles * self.outputs


def layout(c: Config, device: Device, problem: Problem, columns: int) -> Layout:
    """Tiles of an output with ``columns`` columns."""
    return Layout(
        problem.m,
        columns,
        problem.n,
        problem.batch,
        tile=(c["block_m"] * c["cluster_m"], c["block_n"] * c["cluster_n"]),
        k_tiles=problem.k_tiles(c),
        split_k=c["split_k"],
        cluster=cluster_size(c),
        peers=c["cluster_m"] * c["cluster_n"],
        b_peers=sum(1 << i * c["cluster_n"] for i in range(c["cluster_m"])),
        swap=bool(c["swap_ab"]),
        cluster_sum=sums_in_cluster(c),
    )


@dataclass(frozen=True)
class Output:
    """The results of the main kernel and how the epilogue reaches them.

    ``target``: the workload whose epilogue the main kernel applies, in rows of ``ldc`` elements of ``itemsize`` bytes.
    ``vector``: results of a plain store. ``wide``: offsets of results need 64 bits. ``guarded``: the epilogue reads
    operands, or sums results, that end where the output ends, and a tile may reach past it. ``reads_at``: it needs the
    index of a result.
    """

    target: Any
    ldc: int
    itemsize: int
    vector: int
    wide: bool
    guarded: bool
    reads_at: bool

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


@dataclass(frozen=True)
class Storage:
    """Operands and results in shared memory, and how they come and go; ``total``: bytes of dynamic shared memory.

    ``loads``: the copies that the source needs (rank, multicast, im2col, L2 hint). ``hint``: they have L2
    policies. ``part_pad``: elements beside a row of a part in the cluster's sum. ``sums``: what the main kernel leaves
    for dbias.
    """

    a: Operand
    b: Operand
    hint: bool
    loads: tuple[tuple[int, bool, bool, bool], ...]
    output: Output
    staging: Staging
    part_pad: int
    total: int
    sums: PartialSums | None = None

    def __str__(self) -> str:
        return f"{self.a.bytes} + {self.b.bytes} bytes a stage, {self.staging}, {self.total} bytes in all"


def output(to: Any, ldc: int, tiles: Layout, staged: bool) -> Output:
    names = {op.name for op in to.ops}
    reads_matrix = to.beta != "0" or any(op.operand in ("residual", "aux") for op in to.ops)
    reads_vector = bool(names & {"bias", "row_bias", "scale"}) or to.scales == "row_col"
    widest = 4 if tiles.cluster_sum else 1 if tiles.swap else 2
    return Output(
        to,
        ldc,
        ITEMSIZE[to.out_dtype],
        vector=widest if tiles.columns % widest == 0 and ldc % widest == 0 else 1,
        wide=tiles.outputs * upper(tiles.rows) * ldc >= 2**31,
        guarded=(reads_matrix or reads_vector or "dbias" in to.outputs) and (tiles.ragged_m or tiles.ragged_n),
        reads_at=not staged or reads_matrix,
    )


def staging(c: Config, itemsize: int, tiles: Layout, offset: int) -> Staging:
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


def storage(c: Config, w: Workload, to: Any, ldc: int, tiles: Layout, mn_major: Mapping[str, bool]) -> Storage:
    """``to`` is the workload whose epilogue the main kernel applies, with rows of ``ldc``."""
    a, b = (operand(name, c, w.dtype, mn_major[name]) for name in ("a", "b"))
    rank, hint = 3 if w.batch > 1 else 2, c["l2_keep"] != "both"
    item = ITEMSIZE[to.out_dtype]
    staged = staging(c, item, tiles, c["stages"] * (a.bytes + b.bytes))
    return Storage(
        a,
        b,
        hint,
        loads=tuple((rank, shared, False, hint) for shared in sorted({a.share > 1, b.share > 1})),
        output=output(to, ldc, tiles, staged.used),
        staging=staged,
        part_pad=part_pad(c),
        total=shared_bytes(c, a.itemsize, item),
    )


@dataclass(frozen=True)
class Pipeline:
    """The main loop: the instructions of a k tile, and how producer and consumers take turns.

    ``left`` and ``right`` name the operands; a consumer issues ``mt`` instructions of ``shape`` (``n`` columns) for
    each of the ``k_blocks`` of a k tile. ``transpose``: of the left and right operand, for 16-bit data. ``promote``:
    k tiles after which sums leave the tensor cores (0: never). ``releases``: arrivals that free a stage.
    """

    left: str
    right: str
    mt: int
    n: int
    shape: str
    types: str
    acc: str
    transpose: tuple[int, int] | None
    k_blocks: int
    promote: int
    block_scales: bool
    pingpong: bool
    consumers: int
    releases: int
    promote_k: int = PROMOTED_K

    def __str__(self) -> str:
        order = "take turns" if self.pingpong else "share a tile" if self.consumers > 1 else "multiplies"
        return f"{self.mt} x {self.k_blocks} wgmma {self.shape} a k tile, {self.consumers} consumers: {order}"

    @property
    def consumer_rows(self) -> int:
        """Rows of the left operand that one consumer multiplies."""
        return 64 * self.mt

    @property
    def split_rows(self) -> bool:
        """Whether several consumers share the rows of a tile."""
        return self.consumers > 1 and not self.pingpong


def pipeline(c: Config, w: Workload, tiles: Layout, stored: Storage) -> Pipeline:
    types, instruction_k = instruction(w.dtype)
    left, right = (stored.b, stored.a) if tiles.swap else (stored.a, stored.b)
    narrow, pingpong = right_rows(c), c["schedule"] == "pingpong"
    return Pipeline(
        left.name,
        right.name,
        mt=blocks_of_64(c),
        n=narrow,
        shape=f"m64n{narrow}k{instruction_k}",
        types=types,
        acc="int" if w.dtype == "int8" else "float",
        transpose=(int(left.mn_major), int(right.mn_major)) if left.itemsize == 2 else None,
        k_blocks=c["block_k"] // instruction_k,
        promote=PROMOTED_K // c["block_k"] if promotes(w) else 0,
        block_scales=w.scales == "block128",
        pingpong=pingpong,
        consumers=c["consumers"],
        releases=(1 if pingpong else c["consumers"]) * tiles.peers,
    )


@dataclass(frozen=True)
class Launch:
    """What is launched: ``clusters`` of ``threads`` a block, and with ``sum_vector`` columns a thread the sum of parts.

    ``single_work_tile``: each cluster has one. ``out_ld``: elements from row to row of the final output.
    ``sum_wide``: its offsets need 64 bits.
    """

    kernel: str
    clusters: int
    threads: int
    consumer_registers: int
    single_work_tile: bool
    out_ld: int
    sum_vector: int
    sum_wide: bool
    sum_threads: int = SUM_THREADS

    def __str__(self) -> str:
        return f"{self.clusters} clusters of {self.threads} threads a block, {self.consumer_registers} registers each"


def launch(name: str, c: Config, device: Device, problem: Problem, tiles: Layout) -> Launch:
    launched = clusters(c, tiles.work_tiles, device)
    return Launch(
        name,
        launched,
        threads=128 * (c["consumers"] + 1),
        consumer_registers=consumer_registers(c, device),
        single_work_tile=launched == tiles.work_tiles and c["schedule"] != "pingpong",
        out_ld=problem.ldc,
        sum_vector=4 if problem.n % 4 == 0 and problem.ldc % 4 == 0 else 1,
        sum_wide=problem.batch * upper(problem.m) * problem.ldc >= 2**31,
    )


@dataclass(frozen=True)
class Scales:
    """Of a matmul with scales per 128 x 128: blocks along K, those of a tile's columns, and the width of offsets.

    ``of_parts``: the main kernel takes the scales although its target, a part of a sum, has none.
    """

    blocks: int
    columns: int
    wide: bool
    of_parts: bool


@dataclass(frozen=True)
class Derived(DerivedOf[Layout, Storage, Pipeline, Launch]):
    """``per_work_tile``: loads need coordinates of each work tile. ``transposed``: operands that are copied first."""

    per_work_tile: bool = False
    transposed: tuple[Transposed, ...] = ()
    scales: Scales | None = None


def derived(
    name: str,
    c: Config,
    w: Workload,
    device: Device,
    problem: Problem,
    mn_major: Mapping[str, bool],
    workspace: Any = 0,
) -> Derived:
    """Layout, storage, pipeline and launch of kernel ``name``, in this order. ``workspace``: bytes that others use."""
    to = target(c, w, problem)
    columns, ldc = (problem.n, problem.ldc) if to is w else (to.n, to.n)
    tiles = layout(c, device, problem, columns)
    stored = replace(storage(c, w, to, ldc, tiles, mn_major), sums=left_sums(c, to, tiles, workspace))
    return Derived(c, tiles, stored, pipeline(c, w, tiles, stored), launch(name, c, device, problem, tiles))
