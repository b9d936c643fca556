"""The constraints that the wgmma families (sm_90a) share; the terms are those of tiles.

They exclude what fails or is slow on the GPU: more registers than there are (setmaxnreg would wait for ever), spills,
wgmmas that ptxas serialises or refuses, boxes that the driver rejects, stages that do not fit into shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....cuda.device import Device
from ....space.knob import Constraint
from ....workload import ITEMSIZE
from .. import knobs
from ..common import ceil_div
from .tiles import (
    INSTRUCTION_REGISTERS,
    MIN_REGISTERS,
    PROMOTED_K,
    SWIZZLE_BYTES,
    Problem,
    accumulators,
    blocks_of_64,
    box_bytes,
    consumer_registers,
    launch_registers,
    narrow_sizes,
    out_itemsize,
    part_pad,
    parts,
    promotes,
    right_rows,
    shared_bytes,
    shares_boxes,
    sums_in_cluster,
)

Config = Mapping[str, Any]
_SHAPE = ("block_m", "block_n", "consumers", "schedule", "swap_ab")
SPLIT_ROUNDS = 4
"""Rounds of blocks over the chip from which on there is nothing left that a split K could fill."""


def constraints(problem: Callable[[Any], Problem]) -> tuple[Constraint, ...]:
    """Every constraint but those of the family's operands. ``problem(workload)`` is the product behind it."""
    return (*_TILES, *_CLUSTERS, *_REGISTERS, *_SCALES, *_of_the_product(problem), *_SUPPORTED)


_TILES = (
    Constraint(
        "left_rows_legal",
        _SHAPE,
        lambda c, w, d: 1 <= blocks_of_64(c) <= 4,
        "a consumer multiplies 64, 128, 192 or 256 rows of the left operand (block_m; block_n when transposed)",
    ),
    Constraint(
        "right_rows_legal",
        ("block_m", "block_n", "swap_ab"),
        lambda c, w, d: right_rows(c) in narrow_sizes(w.dtype),
        "the right operand (block_n, or block_m when transposed) must be an n that wgmma takes: "
        "a multiple of 8 up to 256, for int8 8, 24 or a multiple of 16",
    ),
    Constraint(
        "box_rows_fit",
        ("block_m", "block_n"),
        lambda c, w, d: max(c["block_m"], c["block_n"]) <= 256,
        "a box of the copy engine has at most 256 rows",
    ),
    Constraint(
        "schedule_legal",
        ("consumers", "schedule"),
        lambda c, w, d: c["schedule"] != "pingpong" or c["consumers"] == 2,
        "pingpong is for two consumers, one storing while the other multiplies",
    ),
    Constraint(
        "block_k_legal",
        ("block_k",),
        lambda c, w, d: c["block_k"] * ITEMSIZE[w.dtype] in (SWIZZLE_BYTES, 2 * SWIZZLE_BYTES),
        "a k tile is one or two swizzles of 128 bytes",
    ),
)
_CLUSTERS = (
    Constraint(
        "cluster_fits",
        ("cluster_m", "cluster_n"),
        lambda c, w, d: c["cluster_m"] * c["cluster_n"] <= 4,
        "a cluster has at most 4 blocks",
    ),
    Constraint(
        "cluster_legal",
        ("split_k", "reduction", "cluster_m", "cluster_n", "schedule", "grid", "epilogue_store"),
        lambda c, w, d: (
            c["reduction"] == "workspace"
            or (
                c["split_k"] in (2, 4, 8)
                and (c["cluster_m"], c["cluster_n"]) == (1, 1)
                and (c["schedule"], c["grid"], c["epilogue_store"]) == ("cooperative", "one_per_tile", "direct")
            )
        ),
        "parts summed in a cluster are its 2, 4 or 8 blocks, which share one tile and no other",
    ),
    Constraint(
        "grid_useful",
        ("cluster_m", "cluster_n", "grid"),
        lambda c, w, d: c["grid"] != "co_resident" or c["cluster_m"] * c["cluster_n"] > 2,
        "blocks and clusters of two always fill the chip: co_resident differs from all for larger clusters alone",
    ),
    Constraint(
        "multicast_aligned",
        ("block_m", "block_n", "cluster_m", "cluster_n"),
        lambda c, w, d: c["block_m"] % (8 * c["cluster_n"]) == 0 and c["block_n"] % (8 * c["cluster_m"]) == 0,
        "blocks that share a tile load whole groups of 8 rows each",
    ),
)


def _accumulators_fit(c: Any, w: Any, d: Any) -> bool:
    held = accumulators(c, promotes(w))
    operands = sum(op.operand in ("scale", "bias", "residual", "aux") for op in w.ops)
    operands += (w.scales == "row_col") + (w.beta != "0")
    tight = blocks_of_64(c) > 1 or not c["producer_registers"]  # operands of the columns stay for the next 64 rows
    spare = (40 if c["producer_registers"] else 56) + (40 if held > 128 else 24 if tight else 0) * operands
    if w.scales == "block128" and c["swap_ab"]:
        spare += right_rows(c) // 2  # a factor for every row, and that of the next k tile
    return held + spare <= consumer_registers(c, d) and held <= (96 if c["swap_ab"] else 208)


def _enough_to_move(c: Any, w: Any, d: Any) -> bool:
    at_launch = launch_registers(c["consumers"], c["min_blocks"], d)
    consumer = consumer_registers(c, d)
    return not c["producer_registers"] or (
        c["producer_registers"] <= at_launch <= consumer
        and consumer >= MIN_REGISTERS
        and c["producer_registers"] + c["consumers"] * consumer <= (c["consumers"] + 1) * at_launch
    )


_REGISTERS = (
    Constraint(
        "producer_registers_fit",
        ("consumers", "min_blocks", "producer_registers"),
        _enough_to_move,
        "producer and consumers together may not take more registers than the launch gave: setmaxnreg would wait "
        "for ever",
    ),
    Constraint(
        "instruction_registers_fit",
        ("block_m", "block_n", "consumers", "swap_ab", "min_blocks"),
        lambda c, w, d: (
            right_rows(c) // 2 + INSTRUCTION_REGISTERS <= launch_registers(c["consumers"], c["min_blocks"], d)
        ),
        "ptxas assembles a wgmma only when its accumulators and 26 more registers fit what the launch bounds leave",
    ),
    Constraint(
        "accumulators_fit",
        (*_SHAPE, "min_blocks", "producer_registers"),
        _accumulators_fit,
        "accumulators (twice when promoted) and 40 registers of addresses must fit a consumer, or they spill (56 "
        "without setmaxnreg; there, and with several blocks of 64 rows, 24 more for each operand of the epilogue, "
        "or 40 above 128 accumulators); transposed, 96 at most",
    ),
)
_SCALES = (
    Constraint(
        "promotion_divides",
        ("block_k",),
        lambda c, w, d: not promotes(w) or PROMOTED_K % c["block_k"] == 0,
        f"sums that leave the tensor cores every {PROMOTED_K} elements of K need a block_k that divides these",
    ),
    Constraint(
        "block_scales_legal",
        ("block_k", "block_n", "swap_ab"),
        lambda c, w, d: (
            w.scales != "block128"
            or (c["block_k"] == 128 and (c["swap_ab"] or 128 % c["block_n"] == 0 or c["block_n"] % 128 == 0))
        ),
        "scales per 128 of K need block_k = 128 and, unless transposed, a block_n of a part or whole 128s",
    ),
)


def _of_the_product(problem: Callable[[Any], Problem]) -> tuple[Constraint, ...]:
    def fits(c: Config, w: Any, d: Device) -> bool:
        needed = shared_bytes(c, ITEMSIZE[w.dtype], out_itemsize(c, w))
        each = c["min_blocks"] * (needed + d.shared_reserved_per_block)
        return bool(needed <= d.shared_bytes_per_block and each <= d.shared_bytes_per_sm)

    def few(c: Config, w: Any, d: Device) -> bool:
        p = problem(w)
        blocks = ceil_div(p.m, c["block_m"]) * ceil_div(p.n, c["block_n"]) * p.batch * c["split_k"]
        return bool(c["split_k"] == 1 or blocks <= SPLIT_ROUNDS * d.sm_count * c["min_blocks"])

    def storable(c: Config, w: Any, d: Device) -> bool:
        if c["epilogue_store"] == "direct":
            return True
        if (c["swap_ab"] and c["epilogue_store"] == "staged_narrow") or not blocks_of_64(c):
            return False
        if shares_boxes(c) and c["schedule"] != "pingpong":
            return False
        item = out_itemsize(c, w)
        return box_bytes(c, item) > 0 and (parts(c) > 1 or problem(w).ldc * item % 16 == 0)

    return (
        Constraint(
            "swap_ab_useful",
            ("swap_ab",),
            lambda c, w, d: not c["swap_ab"] or problem(w).m <= 256,
            "the transposed product is for m up to 256",
        ),
        Constraint(
            "split_k_fits",
            ("block_k", "split_k"),
            lambda c, w, d: c["split_k"] <= problem(w).k_tiles(c),
            "every part of K has at least one k tile",
        ),
        Constraint(
            "split_k_useful",
            ("block_m", "block_n", "split_k", "min_blocks"),
            few,
            f"K is split where tiles are few: all parts in {SPLIT_ROUNDS} rounds of blocks at most",
        ),
        Constraint(
            "stages_useful",
            ("block_k", "schedule", "stages", "grid", "split_k", "reduction"),
            lambda c, w, d: (
                c["stages"] <= max(2, ceil_div(problem(w).k_tiles(c), c["split_k"]))
                or (c["grid"], c["schedule"]) != ("one_per_tile", "cooperative")
                or sums_in_cluster(c)
            ),
            "a block of a single tile has no more k tiles in flight than its part of K has (or 2); sums in a cluster "
            "need the ring's memory",
        ),
        Constraint(
            "part_fits",
            ("block_m", "block_n", "block_k", "stages", "swap_ab", "split_k", "reduction"),
            lambda c, w, d: (
                not sums_in_cluster(c)
                or 4 * c["block_m"] * (c["block_n"] + part_pad(c))
                <= c["stages"] * (c["block_m"] + c["block_n"]) * c["block_k"] * ITEMSIZE[w.dtype]
            ),
            "the sums of a part take the place of the ring, and must fit there",
        ),
        Constraint(
            "epilogue_store_legal",
            (*_SHAPE, "epilogue_store", "split_k", "reduction"),
            storable,
            "the copy engine stores boxes of 32, 64 or 128 bytes a row into rows at multiples of 16 bytes; use the "
            "direct epilogue; transposed, there is no narrow ring; boxes are shared by the consumers of a pingpong",
        ),
        Constraint(
            "shared_memory_fits",
            (*_SHAPE, "block_k", "stages", "epilogue_store", "split_k", "reduction", "min_blocks"),
            fits,
            "the ring, the staged output and the barriers must fit in shared memory, min_blocks times an SM",
        ),
    )


_SUPPORTED = (
    knobs.only(knobs.STAGES, knobs.STAGES.values[1:], "copies run ahead of the instructions: 2 stages or more"),
    knobs.only(knobs.REDUCTION, ("workspace", "cluster"), "parts are added by a second kernel or inside a cluster"),
    knobs.only(knobs.MIN_BLOCKS, (1, 2, 3, 4), "the launch bounds demand a block; of six the sums have no registers"),
)
