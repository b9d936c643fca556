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
from ..mask_bits import lanes_apart
from ..partial_sums import PartialSums
from .launch import SUM_THREADS, Transposed, left_sums, target
from .results import Output, Staging, output, staging
from .tiles import (
    PROMOTED_K,
    Operand,
    Problem,
    blocks_of_64,
    cluster_size,
    clusters,
    consumer_registers,
    instruction,
    operand,
    part_pad,
    promotes,
    right_rows,
    shared_bytes,
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
    ``sum_wide``: its offsets need 64 bits; ``sum_byte_lanes``: see :mod:`..mask_bits`.
    """

    kernel: str
    clusters: int
    threads: int
    consumer_registers: int
    single_work_tile: bool
    out_ld: int
    sum_vector: int
    sum_wide: bool
    sum_byte_lanes: int
    sum_threads: int = SUM_THREADS

    def __str__(self) -> str:
        return f"{self.clusters} clusters of {self.threads} threads a block, {self.consumer_registers} registers each"


def launch(name: str, c: Config, w: Workload, device: Device, problem: Problem, tiles: Layout) -> Launch:
    launched = clusters(c, tiles.work_tiles, device)
    vector = 4 if problem.n % 4 == 0 and problem.ldc % 4 == 0 else 1
    items = problem.batch * problem.m * (problem.n // vector)
    return Launch(
        name,
        launched,
        threads=128 * (c["consumers"] + 1),
        consumer_registers=consumer_registers(c, device),
        single_work_tile=launched == tiles.work_tiles and c["schedule"] != "pingpong",
        out_ld=problem.ldc,
        sum_vector=vector,
        sum_wide=problem.batch * upper(problem.m) * problem.ldc >= 2**31,
        sum_byte_lanes=lanes_apart(w, vector, problem.n, 1, items % SUM_THREADS == 0),
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

    @property
    def byte_lanes(self) -> int:
        """Of the kernel that finishes the results; see :mod:`..mask_bits`."""
        return self.launch.sum_byte_lanes if self.layout.partial else self.storage.output.byte_lanes


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
    return Derived(c, tiles, stored, pipeline(c, w, tiles, stored), launch(name, c, w, device, problem, tiles))
