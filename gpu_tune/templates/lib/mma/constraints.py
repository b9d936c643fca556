"""The constraints of the mma.sync families: what cannot run, would spill, or equals another config.

A family states its operands and the size of its product; the constraints follow from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....cuda.device import Device
from ....space.knob import Constraint
from ....workload import ITEMSIZE
from ....workload.epilogue import TRANSCENDENTAL
from .. import knobs
from ..common import ceil_div, register_limit
from .tiles import (
    STAGING_REGISTERS,
    Operand,
    Problem,
    Shape,
    promotes,
    resident_blocks,
    ring_bytes,
    slab_bytes,
    slice_bytes,
    tail_tiles,
    two_kernels,
)

Config = Mapping[str, Any]
Problems = Callable[[Any], Problem]
"""The product behind a workload."""
Operands = Callable[[Config, Any], tuple[Operand, Operand]]
"""A's and B's tiles of a config and workload."""
WARPS = ("block_m", "block_n", "warp_m", "warp_n", "slice_k")
_PROBE = {"block_m": 16, "block_n": 16, "block_k": 64, "shared_layout": "xor", "copy_bytes": 16}
"""For questions about an operand or a shape that do not depend on these."""


def constraints(
    problem: Problems, operands: Operands, atomics: Callable[[Any], bool], state: int = 0, split_tail: bool = False
) -> tuple[Constraint, ...]:
    """Every constraint. ``atomics`` says whether sums may be added to ``out`` itself, part by part.

    ``state``: registers of a thread in which the family's loaders keep where they are. ``split_tail``: whether the grid
    of that name is offered.
    """
    return (
        *_of_the_product(problem),
        *_WARP_TILES,
        *_of_registers(operands, state),
        *_of_shared_memory(operands),
        *_of_the_split(problem, atomics),
        *_of_the_order(problem),
        *_of_the_copies(operands),
        *_EPILOGUE,
        *(_of_the_tail(problem) if split_tail else ()),
        knobs.only(
            knobs.GRID, (*_GRIDS, "split_tail") if split_tail else _GRIDS, "blocks without clusters always run at once"
        ),
        *_SUPPORTED,
    )


def threads(config: Config) -> int:
    """Threads of a block; for constraints that know only the tile knobs."""
    return 32 * (config["block_m"] // config["warp_m"]) * (config["block_n"] // config["warp_n"]) * config["slice_k"]


def _of_the_product(problem: Problems) -> tuple[Constraint, ...]:
    return (
        Constraint(
            "arithmetic_permitted",
            ("arithmetic",),
            lambda c, w, d: c["arithmetic"] in w.math if c["arithmetic"] != "strict" else w.dtype != "float32",
            "arithmetic is a permission of the workload; strict exists for every dtype but float32",
        ),
        Constraint(
            "block_k_legal",
            ("block_k",),
            lambda c, w, d: (
                32 <= c["block_k"] * ITEMSIZE[w.dtype] <= 256 and (c["block_k"] <= 128 or not promotes(w, d))
            ),
            "a stage holds 32 to 256 bytes of K a row; sums that are promoted every 128 k need block_k <= 128",
        ),
        Constraint(
            "block_m_useful",
            ("block_m",),
            lambda c, w, d: c["block_m"] < 2 * max(problem(w).m, 16),
            "block_m is below twice m (a smaller tile does the same)",
        ),
        Constraint(
            "block_n_useful",
            ("block_n",),
            lambda c, w, d: c["block_n"] < 2 * max(problem(w).n, 16),
            "block_n is below twice n (a smaller tile does the same)",
        ),
        Constraint(
            "block_k_useful",
            ("block_k",),
            lambda c, w, d: c["block_k"] < 2 * max(problem(w).k, 64 // ITEMSIZE[w.dtype]),
            "block_k is below twice k (a shallower stage does the same)",
        ),
    )


_WARP_TILES = (
    Constraint(
        "warp_m_divides",
        ("block_m", "warp_m"),
        lambda c, w, d: c["block_m"] % c["warp_m"] == 0,
        "warp_m divides block_m",
    ),
    Constraint(
        "warp_n_divides",
        ("block_n", "warp_n"),
        lambda c, w, d: c["block_n"] % c["warp_n"] == 0,
        "warp_n divides block_n",
    ),
    Constraint(
        "warp_tile_fits",
        ("warp_m", "warp_n"),
        lambda c, w, d: c["warp_m"] * c["warp_n"] // 32 * (2 if promotes(w, d) else 1) <= 192,
        "a warp tile has at most 192 sums a thread (96 where they are promoted)",
    ),
    Constraint(
        "slice_k_divides",
        ("block_k", "slice_k"),
        lambda c, w, d: c["block_k"] * ITEMSIZE[w.dtype] // 32 % c["slice_k"] == 0,
        "slice_k divides the k steps of a stage",
    ),
    Constraint(
        "fragment_buffers_useful",
        ("block_k", "slice_k", "fragment_buffers"),
        lambda c, w, d: c["fragment_buffers"] == 1 or c["block_k"] * ITEMSIZE[w.dtype] // 32 // c["slice_k"] >= 2,
        "two fragment buffers need two k steps of a warp in a stage",
    ),
    Constraint("warps_fit", WARPS, lambda c, w, d: 1 <= threads(c) // 32 <= 16, "a block has 1 to 16 warps"),
    Constraint(
        "min_blocks_threads_fit",
        (*WARPS, "min_blocks"),
        lambda c, w, d: c["min_blocks"] <= d.blocks_per_sm and threads(c) * c["min_blocks"] <= d.threads_per_sm,
        "min_blocks blocks fit the threads of an SM",
    ),
)


def _of_registers(operands: Operands, state: int) -> tuple[Constraint, ...]:
    def fits(c: Config, w: Any, d: Device) -> bool:
        shape, tiles = Shape.of({**_PROBE, **c}, w.dtype, promotes(w, d)), operands(_PROBE, w)
        turned = 12 if any(op.transposes for op in tiles) else 0  # what a thread's squares take while they are turned
        needed = shape.registers(not all(op.copy for op in tiles), d, state + turned)
        return needed <= register_limit(shape.threads, c["min_blocks"], d)

    def staged(c: Config, w: Any, d: Device) -> bool:
        count = max(32, threads(c))
        return sum(op.staging_registers(count) for op in operands({**_PROBE, **c}, w)) <= STAGING_REGISTERS

    return (
        Constraint(
            "registers_fit",
            (*WARPS, "fragment_buffers", "min_blocks", "arithmetic"),
            fits,
            "accumulators, fragments and staging fit the registers that the launch bounds leave",
        ),
        Constraint(
            "staging_fits",
            (*WARPS, "block_k", "copy_bytes"),
            staged,
            f"data that goes through registers takes at most {STAGING_REGISTERS} of them a thread",
        ),
    )


def _fits(size: int, c: Config, d: Device) -> bool:
    """Whether each of ``min_blocks`` blocks of an SM has ``size`` bytes of shared memory."""
    each = (size + d.shared_reserved_per_block) * c["min_blocks"]
    return size <= d.shared_bytes_per_block and bool(each <= d.shared_bytes_per_sm)


def _of_shared_memory(operands: Operands) -> tuple[Constraint, ...]:
    return (
        Constraint(
            "stages_fit",
            ("block_m", "block_n", "block_k", "stages", "shared_layout", "min_blocks"),
            lambda c, w, d: _fits(ring_bytes(c["stages"], *operands({**_PROBE, **c}, w)), c, d),
            "the stages of min_blocks blocks fit shared memory",
        ),
        Constraint(
            "slices_fit",
            ("block_m", "block_n", "slice_k", "min_blocks"),
            lambda c, w, d: c["slice_k"] == 1 or _fits(slice_bytes(c), c, d),
            "the sums of a slice fit into shared memory, through which the slices are added",
        ),
        Constraint(
            "staged_rows_fit",
            ("block_m", "block_n", "warp_m", "epilogue_store", "min_blocks"),
            lambda c, w, d: c["epilogue_store"] == "direct" or _fits(slab_bytes(c), c, d),
            "the rows of the staged epilogue fit shared memory",
        ),
    )


def _of_the_split(problem: Problems, atomics: Callable[[Any], bool]) -> tuple[Constraint, ...]:
    def reduction(c: Config, w: Any, d: Device) -> bool:
        if c["reduction"] == "atomic":
            return c["split_k"] > 1 and atomics(w)
        return c["split_k"] > 1 or c["reduction"] == "workspace"

    def workspace(c: Config, w: Any, d: Device) -> bool:
        p = problem(w)
        if c["split_k"] == 1 or c["grid"] == "split_tail":  # a tail is less than a wave
            return True
        return bool(4 * p.m * p.n * p.batch * c["split_k"] <= d.memory_bytes // 32)

    return (
        Constraint(
            "stages_useful",
            ("block_k", "stages", "split_k"),
            lambda c, w, d: c["stages"] <= max(2, problem(w).k_tiles(c) // c["split_k"]),
            "there are as many k tiles as stages (or 2 stages)",
        ),
        Constraint(
            "split_k_fits",
            ("block_k", "split_k"),
            lambda c, w, d: c["split_k"] <= problem(w).k_tiles(c),
            "every split has a k tile",
        ),
        Constraint(
            "reduction_legal",
            ("split_k", "reduction"),
            reduction,
            "reduction is 'workspace' without a split; 'atomic' needs a plain int32 result, or a float32 one "
            "that need not be deterministic",
        ),
        Constraint(
            "workspace_fits",
            ("split_k", "grid"),
            workspace,
            "the parts of a split take at most 1/32 of the device's memory",
        ),
    )


def _of_the_order(problem: Problems) -> tuple[Constraint, ...]:
    return (
        Constraint(
            "grid_fits",
            ("block_m", "block_n", "split_k"),
            lambda c, w, d: problem(w).work_tiles(c) * c["split_k"] < 2**31,
            "there are fewer than 2^31 tiles",
        ),
        Constraint(
            "serial_legal",
            ("grid", "reduction"),
            lambda c, w, d: not (c["grid"] != "one_per_tile" and c["reduction"] == "serial"),
            "a serial sum waits for earlier blocks, so blocks must start in order: grid is one_per_tile",
        ),
        Constraint(
            "raster_useful",
            ("block_m", "block_n", "raster_group", "raster_along"),
            lambda c, w, d: (
                c["raster_group"] == 1
                or c["raster_group"] < 2 * problem(w).tiles(c)[0 if c["raster_along"] == "m" else 1]
            ),
            "a band of the raster is narrower than twice the tiles there are",
        ),
    )


def _of_the_copies(operands: Operands) -> tuple[Constraint, ...]:
    return (
        Constraint(
            "copy_bytes_aligned",
            ("copy_bytes",),
            lambda c, w, d: c["copy_bytes"] == max(4, *(op.copy for op in operands({**_PROBE, **c}, w))),
            "copy_bytes is a width that the alignment allows for an operand (4 when none is)",
        ),
        Constraint(
            "prefetch_bytes_useful",
            ("copy_bytes", "prefetch_bytes"),
            lambda c, w, d: c["prefetch_bytes"] == 0 or any(op.copy for op in operands({**_PROBE, **c}, w)),
            "only asynchronous copies carry a prefetch hint",
        ),
        Constraint(
            "copy_schedule_legal",
            ("block_k", "slice_k", "fragment_buffers", "copy_schedule"),
            lambda c, w, d: (
                c["copy_schedule"] == "together"
                or (c["fragment_buffers"] == 2 and c["block_k"] * ITEMSIZE[w.dtype] // 32 // c["slice_k"] >= 2)
            ),
            "copies are spread over two k blocks of a warp in a stage or more, with two fragment buffers",
        ),
        Constraint(
            "copy_schedule_useful",
            ("copy_bytes", "copy_schedule"),
            lambda c, w, d: c["copy_schedule"] == "together" or all(op.copy for op in operands({**_PROBE, **c}, w)),
            "copies are spread where both operands come by asynchronous copies",
        ),
    )


def _of_the_tail(problem: Problems) -> tuple[Constraint, ...]:
    def useful(c: Config, w: Any, d: Device) -> bool:
        if c["grid"] != "split_tail":
            return True
        blocks, tiles, tail = resident_blocks(c, d), problem(w).work_tiles(c), tail_tiles(c, problem(w), d)
        if not 0 < tail < tiles:
            return False
        rounds = (tiles - tail) // blocks + ceil_div(tail * c["split_k"], blocks) / c["split_k"]
        return bool(rounds < ceil_div(tiles, blocks))

    return (
        Constraint(
            "split_tail_legal",
            ("grid", "split_k", "reduction"),
            lambda c, w, d: c["grid"] != "split_tail" or (c["split_k"] > 1 and c["reduction"] == "last_arrival"),
            "grid split_tail needs a split K, whose parts the block adds that arrives last",
        ),
        Constraint(
            "split_tail_useful",
            ("block_m", "block_n", "split_k", "grid", "min_blocks"),
            useful,
            "there are whole waves of tiles, and parts of the tiles beyond them take less than a wave more",
        ),
    )


_GRIDS = ("one_per_tile", "all", "multiple_of_16", "min_waves")
_EPILOGUE = (
    Constraint(
        "direct_store_fits",
        ("warp_m", "warp_n", "split_k", "reduction", "epilogue_store"),
        lambda c, w, d: (
            two_kernels(c)
            or not any(op.name in TRANSCENDENTAL for op in w.ops)
            or c["epilogue_store"] == "staged"
            or c["warp_m"] * c["warp_n"] // 32 <= 32
        ),
        "gelu and silu are unrolled for every result that leaves directly: at most 32 of a thread",
    ),
    Constraint(
        "epilogue_store_legal",
        ("split_k", "reduction", "epilogue_store"),
        lambda c, w, d: not two_kernels(c) or c["epilogue_store"] == "direct",
        "parts that go to the workspace leave directly",
    ),
)
_SUPPORTED = (
    knobs.only(knobs.STAGES, knobs.STAGES.values[1:], "copies run ahead of the instructions: 2 stages or more"),
    knobs.only(
        knobs.REDUCTION, ("workspace", "serial", "last_arrival", "atomic"), "there are no clusters that could add parts"
    ),
    knobs.only(knobs.EPILOGUE_STORE, ("direct", "staged"), "results are staged in full rows"),
    knobs.only(knobs.MIN_BLOCKS, knobs.MIN_BLOCKS.values[1:], "the launch bounds demand a block or more"),
)
