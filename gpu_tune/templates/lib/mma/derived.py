"""What follows from a config of the mma.sync families, in the order in which it is derived.

First the loaders of the operands, then :class:`Layout`, :class:`Storage`, :class:`Pipeline` and :class:`Launch`.
Sources see them as one :class:`Derived`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....cuda.device import Device
from ....plan.size import divisor, upper
from ....workload import ITEMSIZE, Matmul, Workload
from ....workload.epilogue import TRANSCENDENTAL
from .. import mask_bits, partial_sums
from ..common import ceil_div
from ..derived import DerivedOf
from ..knobs import blocks
from ..partial_sums import PartialSums
from .launch import counter_bytes, workspace_bytes
from .tiles import (
    INSTRUCTION,
    Operand,
    Problem,
    Shape,
    persistent,
    promotes,
    resident_blocks,
    shared_bytes,
    two_kernels,
)

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """The tiles of the output, ``m`` x ``n`` results ``batch`` times, and the blocks' shares of K.

    ``work_tiles``: tiles of the whole batch; ``work``: their parts of a split K. ``k_tiles``: of the whole K. ``wave``:
    tiles of a whole wave, of those beyond which alone K is split (0: that of all is).
    """

    m: int
    n: int
    batch: int
    block_m: int
    block_n: int
    block_k: int
    warp_m: int
    k_tiles: int
    split_k: int
    slices: int
    wave: int = 0

    def __str__(self) -> str:
        times = f"{self.batch} times " if self.batch > 1 else ""
        split = f", K in {self.split_k} parts" if self.split_k > 1 else ""
        return f"{times}{self.m} x {self.n} in tiles of {self.block_m} x {self.block_n} x {self.block_k}{split}"

    @property
    def tiles_m(self) -> int:
        return ceil_div(self.m, self.block_m)

    @property
    def tiles_n(self) -> int:
        return ceil_div(self.n, self.block_n)

    @property
    def tiles(self) -> int:
        """Tiles of one matrix of the batch."""
        return self.tiles_m * self.tiles_n

    @property
    def work_tiles(self) -> int:
        return self.tiles * self.batch

    @property
    def work(self) -> int:
        return self.whole_tiles + self.tail * self.split_k if self.wave else self.work_tiles * self.split_k

    @property
    def whole_tiles(self) -> int:
        """Tiles in whole waves; all where no wave counts."""
        return self.work_tiles // self.wave * self.wave if self.wave else self.work_tiles

    @property
    def tail(self) -> int:
        """Tiles beyond them."""
        return self.work_tiles % self.wave if self.wave else 0

    @property
    def guard_m(self) -> bool:
        """Whether a tile may reach past the last row."""
        return self.m % self.block_m != 0

    @property
    def guard_n(self) -> bool:
        return self.n % self.block_n != 0


def layout(c: Config, problem: Problem, device: Device) -> Layout:
    tile = c["block_m"], c["block_n"], c["block_k"]
    parts = problem.k_tiles(c), c["split_k"], c["slice_k"]
    wave = resident_blocks(c, device) if c["grid"] == "split_tail" else 0
    return Layout(problem.m, problem.n, problem.batch, *tile, c["warp_m"], *parts, wave)


@dataclass(frozen=True)
class Storage:
    """Where operands and results lie, and how they move. Sizes are bytes.

    ``load_a``, ``load_b``: the loaders. ``prefetch``: L2 hint of the copies. ``shared_bytes``: dynamic shared memory.
    ``staged``: results pass through it. ``vector``: results that leave in one store, ``along`` rows ("n") or columns;
    ``wide``: offsets of results need 64 bits. ``workspace_bytes``: of a split K, ``counter_bytes`` of them for counters
    at its start. ``sums``: what the kernel leaves for dbias. ``byte_lanes``: see :mod:`..mask_bits`.
    """

    load_a: Any
    load_b: Any
    prefetch: int
    shared_bytes: int
    staged: bool
    vector: int
    along: str
    wide: bool
    counter_bytes: int
    workspace_bytes: int
    sums: PartialSums | None = None
    byte_lanes: int = 0

    def __str__(self) -> str:
        out = f"{self.vector} at once {'from staged rows' if self.staged else 'from fragments'}"
        return f"{self.a.bytes} + {self.b.bytes} bytes a stage, {self.shared_bytes} bytes in all; results leave {out}"

    @property
    def loaders(self) -> tuple[Any, Any]:
        return self.load_a, self.load_b

    @property
    def a(self) -> Operand:
        found: Operand = self.load_a.operand
        return found

    @property
    def b(self) -> Operand:
        found: Operand = self.load_b.operand
        return found

    @property
    def itemsize(self) -> int:
        return self.a.itemsize

    @property
    def stage_bytes(self) -> int:
        return self.a.bytes + self.b.bytes

    @property
    def gathers(self) -> bool:
        """Whether single elements are read."""
        return any(x.gathers for x in self.loaders)

    @property
    def asynchronous(self) -> bool:
        return bool(self.a.copy or self.b.copy)

    @property
    def spread(self) -> bool:
        """Whether the copies of a tile start in parts, over the k blocks of another."""
        return self.a.spread

    @property
    def through_registers(self) -> bool:
        return not (self.a.copy and self.b.copy)


@dataclass(frozen=True)
class Out:
    """How results lie: ``side_by_side`` elements, ``along`` rows ("n") or columns ("m"); ``wide``: 64-bit offsets."""

    side_by_side: int
    wide: bool
    along: str = "n"


def storage(c: Config, w: Workload, device: Device, problem: Problem, loaders: tuple[Any, Any], out: Out) -> Storage:
    load_a, load_b = loaders
    staged = c["epilogue_store"] == "staged"
    aligned = max(1, w.alignment // ITEMSIZE[w.out_dtype])
    # results that leave in one store: at most 2 from fragments, from a staged row 16 bytes of at most 8, and 4 by the
    # second kernel; where 8 leave, no row ends within them
    eight = staged and not two_kernels(c) and ITEMSIZE[w.out_dtype] <= 2 and problem.n % 8 == 0
    most = 8 if eight else 4
    vector = math.gcd(most, divisor(problem.n) if two_kernels(c) else most if staged else 2, out.side_by_side, aligned)
    shared, counters = shared_bytes(c, load_a.operand, load_b.operand), counter_bytes(c, problem, device)
    results, workspace = (vector, out.along, out.wide), workspace_bytes(c, problem, device)
    sums = _sums(c, w, problem, out.along, workspace)
    bits = _byte_lanes(c, w, problem, vector)
    return Storage(load_a, load_b, c["prefetch_bytes"], shared, staged, *results, counters, workspace, sums, bits)


def _byte_lanes(c: Config, w: Workload, problem: Problem, vector: int) -> int:
    """See :mod:`..mask_bits`; lanes that finish the next vectors of a row are neighbours, where there are any."""
    if two_kernels(c):
        whole = problem.batch * problem.m * problem.n // vector % 256 == 0
        return mask_bits.lanes_apart(w, vector, problem.n, 1, whole)
    staged, shape = c["epilogue_store"] == "staged", Shape.of(c, w.dtype, False)
    whole = problem.m % c["block_m"] == problem.n % c["block_n"] == 0
    if staged:  # threads may be more than vectors, or leave a rest
        whole = whole and shape.slab_rows * (c["block_n"] // 4) % shape.threads == 0
    return mask_bits.lanes_apart(w, vector, problem.n, int(vector == (4 if staged else 2)), whole)


def _sums(c: Config, w: Workload, problem: Problem, along: str, workspace: int) -> PartialSums | None:
    """What the kernel leaves for dbias: a row of sums for each block, or each warp that stores from its fragments. None
    where another kernel finishes the results, or where staged rows are channels (nchw)."""
    staged = c["epilogue_store"] == "staged"
    if "dbias" not in w.outputs or two_kernels(c) or (along == "m" and staged):
        return None
    tiles_m, tiles_n = problem.tiles(c)
    tiles, warps = (tiles_m, c["block_m"] // c["warp_m"]) if along == "n" else (tiles_n, c["block_n"] // c["warp_n"])
    channels, rows = problem.n if along == "n" else problem.m, tiles * (1 if staged else warps)
    if isinstance(w, Matmul):
        rows = problem.batch * rows
    else:  # groups have channels of their own
        channels *= problem.batch
    return partial_sums.behind(workspace, rows, channels)


@dataclass(frozen=True)
class Pipeline:
    """The main loop: instructions, their order, and when sums move.

    ``sum_type``: PTX type of the accumulators. ``buffers``: register copies of the operands of a k step.
    ``promote_every``: k tiles after which sums move to float32 registers (``promote``), or are scaled
    (``block_scales``, ``scale_blocks`` along K). ``heavy``: the epilogue's code is long.
    """

    shape: Shape
    instruction: str
    operand_type: str
    sum_type: str
    tf32x3: bool
    serpentine: bool
    stages: int
    buffers: int
    promote_every: int
    block_scales: bool
    scale_blocks: int
    heavy: bool

    def __str__(self) -> str:
        tile = f"{self.shape.mmas_m} x {self.shape.mmas_n} x {self.shape.k_blocks}"
        return f"{self.stages} stages, {tile} mma.sync {self.instruction} a warp and stage, {self.buffers} buffers"

    @property
    def promote(self) -> bool:
        return self.shape.promote

    @property
    def rounds_ahead(self) -> bool:
        """Whether the fragments of the next k block are rounded to TF32 while this one is multiplied (two buffers).

        Rounded right before their own instructions, they would keep the tensor cores waiting.
        """
        return self.operand_type == "tf32" and not self.tf32x3 and self.buffers == 2

    @property
    def sum_ctype(self) -> str:
        return "int" if self.sum_type == "s32" else "float"


def pipeline(c: Config, w: Workload, device: Device, problem: Problem) -> Pipeline:
    shape, (instruction, operand_type) = Shape.of(c, w.dtype, promotes(w, device)), INSTRUCTION[w.dtype]
    return Pipeline(
        shape,
        instruction,
        operand_type,
        sum_type="s32" if w.dtype == "int8" else "f16" if c["arithmetic"] == "fp16_accumulate" else "f32",
        tf32x3=c["arithmetic"] == "tf32x3",
        serpentine=c["mma_order"] == "serpentine" and shape.mmas_m > 1,
        stages=c["stages"],
        buffers=c["fragment_buffers"],
        promote_every=max(1, 128 // c["block_k"]),
        block_scales=w.scales == "block128",
        scale_blocks=ceil_div(problem.k, 128),
        heavy=any(op.name in TRANSCENDENTAL for op in w.ops),
    )


@dataclass(frozen=True)
class Launch:
    """What is launched: ``grid`` blocks of kernel ``name``, and what becomes of the parts of a split K (``reduction``).

    ``persistent``: a block walks over several tiles; ``overlap``: it fills its stages for the next tile before its
    results leave. ``reduce_total``: threads of the second kernel.
    """

    name: str
    grid: int
    reduction: str
    two_kernels: bool
    persistent: bool
    overlap: bool
    reduce_total: int

    def __str__(self) -> str:
        return f"{self.grid} blocks{f', parts of K by {self.reduction}' if self.reduction else ''}"


def launch(name: str, c: Config, device: Device, tiles: Layout, stored: Storage) -> Launch:
    work = tiles.work
    grid = blocks(c["grid"], work, resident_blocks(c, device))
    return Launch(
        name,
        grid,
        reduction=c["reduction"] if tiles.split_k > 1 else "",
        two_kernels=two_kernels(c),
        persistent=persistent(c),
        overlap=persistent(c) and not stored.staged and tiles.split_k == 1 and upper(work) > upper(grid),
        reduce_total=tiles.batch * tiles.m * tiles.n // stored.vector,
    )


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


def derived(
    name: str, c: Config, w: Workload, device: Device, problem: Problem, loaders: tuple[Any, Any], out: Out
) -> Derived:
    """Layout, storage, pipeline and launch of kernel ``name``, in this order."""
    tiles, stored = layout(c, problem, device), storage(c, w, device, problem, loaders, out)
    return Derived(c, tiles, stored, pipeline(c, w, device, problem), launch(name, c, device, tiles, stored))
