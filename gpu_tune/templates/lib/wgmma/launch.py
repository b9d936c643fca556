"""How the wgmma families launch: the main kernel, the sum of a split-K, their tensor maps and workspace."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....plan import Arg, BufferArg, KernelStep, LaunchPlan, MainLoop, TensorMapArg
from ....plan.size import Size, divisor, greatest, open_size, upper
from ....workload import ITEMSIZE, Matmul, Workload
from ...base import ResourceEstimate
from .. import partial_sums
from ..common import ceil_div, epilogue_args, size_args
from ..partial_sums import PartialSums
from . import tiles

ALIGNMENT = 256
SUM_THREADS = 256
L2_PROMOTION = 256


@dataclass(frozen=True)
class Transposed:
    """Matrix ``name``, [batch][k][ld] as given; the workspace gets [batch][rows][out_ld] at ``offset`` bytes."""

    name: str
    rows: int
    k: int
    batch: int
    ld: int
    itemsize: int
    offset: int
    tile: int = 64
    threads: int = 256

    @property
    def pad(self) -> int:
        """Elements beside a row of a tile in shared memory."""
        return 4 // self.itemsize

    @property
    def open(self) -> Size | None:
        """The size that is open: of A's rows."""
        return open_size((self.rows, self.ld))

    @property
    def out_ld(self) -> int:
        """Elements from row to row of the copy: k, rounded up to 16 bytes."""
        return ceil_div(self.k * self.itemsize, 16) * 16 // self.itemsize

    @property
    def bytes(self) -> int:
        return self.batch * self.rows * self.out_ld * self.itemsize

    @property
    def shared_bytes(self) -> int:
        return self.tile * (self.tile + self.pad) * self.itemsize

    def step(self) -> KernelStep:
        blocks = ceil_div(self.rows, self.tile) * ceil_div(self.k, self.tile) * self.batch
        args: tuple[Arg, ...] = (BufferArg(self.name), BufferArg("workspace", self.offset), *size_args(self))
        return KernelStep(f"transpose_{self.name}", (blocks, 1, 1), (self.threads, 1, 1), args)


def transposed(w: Matmul, start: int = 0) -> dict[str, Transposed]:
    """The copies that ``w`` needs, in the workspace from byte ``start`` on."""
    found: dict[str, Transposed] = {}
    for name, rows, ld, wrong in (("a", w.m, w.lda, w.layout[0] == "t"), ("b", w.n, w.ldb, w.layout[1] == "n")):
        # by wgmma itself, from rows that TMA can read; those of A may be of open length, where it cannot
        turned = ITEMSIZE[w.dtype] == 2 and (name == "b" or divisor(ld) % 8 == 0)
        if wrong and not turned:
            start = ceil_div(start, ALIGNMENT) * ALIGNMENT
            found[name] = Transposed(name, rows, w.k, w.batch, ld, ITEMSIZE[w.dtype], start)
            start += found[name].bytes
    return found


def end(w: Matmul, start: int) -> int:
    """Bytes of a workspace whose first ``start`` bytes others use."""
    ends = (t.offset + t.bytes for t in transposed(w, start).values())
    return functools.reduce(greatest, ends, start)


@dataclass(frozen=True)
class Parts(Matmul):
    """The parts of a split K, as the main kernel stores them. ``size``: the open size of the whole workload, by which
    their rows are counted (``m`` is then the largest number of them)."""

    size: Size | None = None

    @property
    def open(self) -> Size | None:
        return self.size


def target(c: Mapping[str, Any], w: Workload, problem: tiles.Problem) -> Any:
    """Whose epilogue the main kernel applies: the workload's own, or of a split K none (rows of 16 bytes)."""
    if tiles.parts(c) == 1:
        return w
    wide: dict[str, Any] = {"dtype": "int8", "out_dtype": "int32"} if w.dtype == "int8" else {"dtype": "float32"}
    rows, columns, size = upper(problem.m), ceil_div(problem.n, 4) * 4, open_size(problem.m)
    return Parts(rows, columns, 1, problem.batch * c["split_k"], layout="nt", size=size, **wide)


def workspace_bytes(c: Mapping[str, Any], problem: tiles.Problem) -> int:
    """Bytes of the parts of a split-K."""
    row = ceil_div(problem.n, 4) * 4
    return 4 * problem.batch * c["split_k"] * problem.m * row if tiles.parts(c) > 1 else 0


def left_sums(c: Mapping[str, Any], to: Any, layout: Any, workspace: Any) -> PartialSums | None:
    """What the main kernel leaves for dbias behind ``workspace`` bytes: a row of sums for each warp (transposed, for
    each block, whose warps have columns of their own). None where another kernel, or each block of a cluster a share,
    finishes the results. ``to``: the workload whose epilogue the main kernel applies."""
    if "dbias" not in to.outputs or layout.cluster_sum:
        return None
    warps = 1 if layout.swap else 4 * (c["consumers"] if c["schedule"] != "pingpong" else 1)
    rows = layout.batch * layout.tiles_m * c["cluster_m"] * warps
    return partial_sums.behind(workspace, rows, layout.columns)


def main_loop(name: str, c: Mapping[str, Any], w: Workload, problem: tiles.Problem) -> MainLoop:
    """The main loop of kernel ``name``; with pingpong a tile is the work of one consumer."""
    m, n, steps = c["block_m"], c["block_n"], ceil_div(problem.k_tiles(c), c["split_k"])
    down, across = (
        ceil_div(extent, block * cluster) * cluster
        for extent, block, cluster in ((problem.m, m, c["cluster_m"]), (problem.n, n, c["cluster_n"]))
    )
    depth = steps * c["block_k"] * ITEMSIZE[w.dtype]
    return MainLoop(
        name,
        steps,
        macs=m * n * c["block_k"],
        tiles=(down, across, c["split_k"] * problem.batch),
        reads=(m * depth, n * depth),
        band=c["raster_group"] * c["cluster_m"],
        stages=c["stages"],
        consumers=c["consumers"],
        in_turn=c["schedule"] == "pingpong",
        shares=(c["cluster_n"], c["cluster_m"]),
    )


def resources(name: str, c: Mapping[str, Any], w: Workload, problem: tiles.Problem) -> ResourceEstimate:
    blocks = tiles.blocks_of_64(c)
    inside = min(blocks, ceil_div(problem.n if c["swap_ab"] else problem.m, 64))  # sums outside take no registers
    promoted = tiles.promotes(w) and problem.k_tiles(c) > c["split_k"]  # of one k tile there is nothing to move
    return ResourceEstimate(
        128 * (c["consumers"] + 1),
        tiles.shared_bytes(c, ITEMSIZE[w.dtype], tiles.out_itemsize(c, w)),
        tiles.accumulators(c, promoted) // max(1, blocks) * inside,
        workspace_bytes(c, problem),
        main_loop(name, c, w, problem),
    )


def plan(
    c: Mapping[str, Any],
    w: Workload,
    problem: tiles.Problem,
    g: Any,
    maps: tuple[Arg, ...],
    scales: tuple[Arg, ...] = (),
    first: tuple[KernelStep, ...] = (),
    workspace: int = 0,
) -> LaunchPlan:
    """The steps that ``g`` (:class:`~.derived.Derived`) describes.

    ``maps`` load A and B, ``scales`` are arguments of the main kernel beside its target's. ``first`` are steps before
    it, ``workspace`` the bytes that they need with those of a split-K.
    """
    split = tiles.parts(c) > 1
    buffer = "workspace" if split else "out"
    out: Arg = BufferArg(buffer)
    tile, results, staging = g.layout, g.storage.output, g.storage.staging
    if staging.used:
        deep, row = tile.outputs > 1, results.ldc * results.itemsize
        out = TensorMapArg(
            buffer,
            tiles.OUT_MAP_DTYPE[results.target.out_dtype],
            (tile.columns, tile.rows, tile.outputs) if deep else (tile.columns, tile.rows),
            (row, tile.rows * row) if deep else (row,),
            (staging.box_columns, staging.box_rows, 1) if deep else (staging.box_columns, staging.box_rows),
            swizzle=staging.box_bytes,
            l2_promotion=0,
        )
    sums = g.storage.sums
    args = (*maps, out, *epilogue_args(results.target)[1:], *scales, *((sums.argument,) if sums else ()))
    grid, block = (g.launch.clusters * tile.cluster, 1, 1), (g.launch.threads, 1, 1)
    steps = [*first, KernelStep(g.launch.kernel, grid, block, args, g.storage.total, (tile.cluster, 1, 1))]
    if split:
        items = problem.batch * problem.m * (problem.n // g.launch.sum_vector)
        sum_args = (BufferArg("workspace"), *epilogue_args(w))
        steps.append(KernelStep("sum_parts", (ceil_div(items, SUM_THREADS), 1, 1), (SUM_THREADS, 1, 1), sum_args))
    return LaunchPlan(tuple(steps), sums.end if sums else greatest(workspace, workspace_bytes(c, problem))).check()
