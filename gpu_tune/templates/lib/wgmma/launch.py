"""How the wgmma families launch: the main kernel, the sum of a split-K, their tensor maps and workspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....cuda.device import Device
from ....plan import Arg, BufferArg, KernelStep, LaunchPlan, TensorMapArg
from ....space.knob import Constraint
from ....workload import ITEMSIZE, Matmul, Workload
from ...base import ResourceEstimate
from ..common import epilogue_args
from . import derived, tiles

ALIGNMENT = 256


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
    def out_ld(self) -> int:
        """Elements from row to row of the copy: k, rounded up to 16 bytes."""
        return -(-self.k * self.itemsize // 16) * 16 // self.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of the copy."""
        return self.batch * self.rows * self.out_ld * self.itemsize

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return self.tile * (self.tile + self.pad) * self.itemsize

    def step(self) -> KernelStep:
        """The launch that makes the copy."""
        blocks = -(-self.rows // self.tile) * -(-self.k // self.tile) * self.batch
        args = (BufferArg(self.name), BufferArg("workspace", self.offset))
        return KernelStep(f"transpose_{self.name}", (blocks, 1, 1), (self.threads, 1, 1), args)


def transposed(w: Matmul, start: int = 0) -> dict[str, Transposed]:
    """The copies that ``w`` needs, in the workspace from byte ``start`` on."""
    found: dict[str, Transposed] = {}
    for name, rows, ld, wrong in (("a", w.m, w.lda, w.layout[0] == "t"), ("b", w.n, w.ldb, w.layout[1] == "n")):
        if wrong and ITEMSIZE[w.dtype] != 2:
            start = -(-start // ALIGNMENT) * ALIGNMENT
            found[name] = Transposed(name, rows, w.k, w.batch, ld, ITEMSIZE[w.dtype], start)
            start += found[name].bytes
    return found


def end(w: Matmul, start: int) -> int:
    """Bytes of a workspace whose first ``start`` bytes others use."""
    return max([start, *(t.offset + t.bytes for t in transposed(w, start).values())])


SUM_THREADS = 256
L2_PROMOTION = 256
SPLIT_ROUNDS = 4
"""Rounds of blocks over the chip from which on there is nothing left that a split K could fill."""


def target(c: Mapping[str, Any], w: Workload, m: int, n: int) -> Workload:
    """Whose epilogue the main kernel applies: the workload's own, or with split-K bare sums in rows of 16 bytes."""
    if tiles.parts(c) == 1:
        return w
    wide: dict[str, Any] = {"dtype": "int8", "out_dtype": "int32"} if w.dtype == "int8" else {"dtype": "float32"}
    return Matmul(m, -(-n // 4) * 4, 1, w.batch * c["split_k"], layout="nt", **wide)


def workspace_bytes(c: Mapping[str, Any], w: Workload, m: int, n: int) -> int:
    """Bytes of the parts of a split-K."""
    return 4 * w.batch * c["split_k"] * m * (-(-n // 4) * 4) if tiles.parts(c) > 1 else 0


def geometry(
    c: Mapping[str, Any],
    w: Workload,
    device: Device,
    *,
    m: int,
    n: int,
    ldc: int,
    k_tiles: int,
    mn_major: Mapping[str, bool],
) -> dict[str, Any]:
    """``launch`` of a family: m x n outputs in rows of ``ldc``, ``k_tiles`` slices of K each."""
    to = target(c, w, m, n)
    split = tiles.parts(c) > 1
    g = derived.geometry(
        c,
        device,
        m=m,
        n=to.n if split else n,
        ldc=to.n if split else ldc,
        k_tiles=k_tiles,
        batch=w.batch,
        dtype=w.dtype,
        mn_major=mn_major,
        target=to,
        promoted=tiles.promotes(w),
        block_scales=w.scales == "block128",
    )
    vector = 4 if n % 4 == 0 and ldc % 4 == 0 else 1
    g.update(
        n_total=n,
        out_ld=ldc,
        ld_partial=to.n if split else 0,
        sum_vector=vector,
        sum_threads=SUM_THREADS,
        sum_wide=w.batch * m * ldc >= 2**31,
        scale_parameters="",
    )
    return g


def plan(
    c: Mapping[str, Any],
    w: Workload,
    g: Mapping[str, Any],
    maps: tuple[Arg, ...],
    scales: tuple[Arg, ...] = (),
    first: tuple[KernelStep, ...] = (),
    workspace: int = 0,
) -> LaunchPlan:
    """The steps: ``maps`` load A and B, ``scales`` are arguments of the main kernel beside its target's.

    ``first`` are steps before it, ``workspace`` the bytes that they need with those of a split-K.
    """
    split = tiles.parts(c) > 1
    buffer = "workspace" if split else "out"
    out: Arg = BufferArg(buffer)
    if g["store"] == "tma":
        size, deep = g["out_bytes"], g["outputs"] > 1
        row = g["ldc"] * size
        out = TensorMapArg(
            buffer,
            tiles.OUT_MAP_DTYPE[g["tile_workload"].out_dtype],
            (g["columns"], g["rows"], g["outputs"]) if deep else (g["columns"], g["rows"]),
            (row, g["rows"] * row) if deep else (row,),
            (g["box_columns"], g["box_rows"], 1) if deep else (g["box_columns"], g["box_rows"]),
            swizzle=g["box_bytes"],
            l2_promotion=0,
        )
    args = (*maps, out, *epilogue_args(g["tile_workload"])[1:], *scales)
    grid, block, cluster = (g["clusters"] * g["cluster"], 1, 1), (g["threads"], 1, 1), (g["cluster"], 1, 1)
    steps = [*first, KernelStep(g["kernel"], grid, block, args, g["shared"], cluster)]
    if split:
        items = w.batch * g["m"] * (g["n_total"] // g["sum_vector"])
        sum_args = (BufferArg("workspace"), *epilogue_args(w))
        steps.append(KernelStep("sum_parts", (-(-items // SUM_THREADS), 1, 1), (SUM_THREADS, 1, 1), sum_args))
    return LaunchPlan(tuple(steps), max(workspace, workspace_bytes(c, w, g["m"], g["n_total"]))).check()


def resources(c: Mapping[str, Any], w: Workload, m: int, n: int) -> ResourceEstimate:
    """What a config takes."""
    out_bytes = ITEMSIZE[target(c, w, m, n).out_dtype]
    blocks = tiles.blocks_of_64(c)
    inside = min(blocks, -(-(n if c["swap_ab"] else m) // 64))  # sums outside the output take no registers
    return ResourceEstimate(
        128 * (c["consumers"] + 1),
        tiles.shared_bytes(c, ITEMSIZE[w.dtype], out_bytes),
        tiles.accumulators(c, tiles.promotes(w)) // max(1, blocks) * inside,
        workspace_bytes(c, w, m, n),
    )


def constraints(ldc: Any, k_tiles: Any, rows: Any, columns: Any) -> tuple[Constraint, ...]:
    """Rules that need the operation: ``ldc(w)``, ``k_tiles(c, w)``, ``rows(w)`` and ``columns(w)`` say what it is."""
    shape = ("block_m", "block_n", "consumers", "schedule", "swap_ab")

    def out_bytes(c: Any, w: Any) -> int:
        return 4 if tiles.parts(c) > 1 else ITEMSIZE[w.out_dtype]

    def fits(c: Any, w: Any, d: Any) -> bool:
        needed = tiles.shared_bytes(c, ITEMSIZE[w.dtype], out_bytes(c, w))
        twice = c["min_blocks"] * (needed + d.shared_reserved_per_block)
        return bool(needed <= d.shared_bytes_per_block and twice <= d.shared_bytes_per_sm)

    def few(c: Any, w: Any, d: Any) -> bool:
        blocks = -(-rows(w) // c["block_m"]) * -(-columns(w) // c["block_n"]) * w.batch * c["split_k"]
        return bool(c["split_k"] == 1 or blocks <= SPLIT_ROUNDS * d.sm_count * c["min_blocks"])

    def storable(c: Any, w: Any, d: Any) -> bool:
        if c["epilogue"] == "direct":
            return True
        if (c["swap_ab"] and c["epilogue"] == "narrow_ring") or not tiles.blocks_of_64(c):
            return False
        size = out_bytes(c, w)
        return tiles.box_bytes(c, size) > 0 and (tiles.parts(c) > 1 or ldc(w) * size % 16 == 0)

    return (
        Constraint(
            "swap_short_m",
            ("swap_ab",),
            lambda c, w, d: not c["swap_ab"] or rows(w) <= 256,
            "the transposed product is for m up to 256",
        ),
        Constraint(
            "split_has_work",
            ("block_k", "split_k"),
            lambda c, w, d: c["split_k"] <= k_tiles(c, w),
            "every part of K has at least one slice",
        ),
        Constraint(
            "split_few_tiles",
            ("block_m", "block_n", "split_k", "min_blocks"),
            few,
            f"K is split where tiles are few: all parts in {SPLIT_ROUNDS} rounds of blocks at most",
        ),
        Constraint(
            "part_in_ring",
            ("block_m", "block_n", "block_k", "stages", "swap_ab", "split_k", "reduction"),
            lambda c, w, d: (
                not tiles.sums_in_cluster(c)
                or 4 * c["block_m"] * (c["block_n"] + tiles.part_pad(c))
                <= c["stages"] * (c["block_m"] + c["block_n"]) * c["block_k"] * ITEMSIZE[w.dtype]
            ),
            "the sums of a part take the place of the ring, and must fit there",
        ),
        Constraint(
            "tma_store",
            (*shape, "epilogue", "split_k", "reduction"),
            storable,
            "the copy engine stores boxes of 32, 64 or 128 bytes a row into rows at multiples of 16 bytes; use the "
            "direct epilogue; transposed, there is no narrow ring",
        ),
        Constraint(
            "shared_memory",
            (*shape, "block_k", "stages", "epilogue", "split_k", "reduction", "min_blocks"),
            fits,
            "the ring, the staged output and the barriers must fit in shared memory, min_blocks times an SM",
        ),
    )
