"""The constraints on the plain arithmetic units: those that several families share, then matmul_simt's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ....cuda.device import Device
from ....space.knob import Constraint
from ....workload import ITEMSIZE
from ..common import INDEX_LIMIT, ceil_div, register_limit
from ..knobs import stages_useful
from . import tiles as tile
from .tiles import copies_async, loads, parts_fit, stores

Config = Mapping[str, Any]


def divides_constraint(whole: str, part: str, message: str) -> Constraint:
    return Constraint(f"{part}_divides", (whole, part), lambda c, w, d: c[whole] % c[part] == 0, message)


def fitting_constraint(
    name: str,
    knobs: tuple[str, ...],
    size: Callable[[Config, Any], int],
    extent: Callable[[Any], int],
    small: int,
    what: str,
) -> Constraint:
    """At most half of what a block takes is outside; blocks of up to ``small`` may be larger than that."""

    return Constraint(
        f"block_{name}_useful",
        knobs,
        lambda c, w, d: size(c, w) <= small or size(c, w) < 2 * extent(w),
        f"at most half of the block's {what} are idle",
    )


def fragment_constraint(block: str, fragment: str, unroll: str) -> Constraint:
    """The unrolled steps are part of a block."""
    return Constraint(
        "fragment_fits",
        (block, fragment, unroll),
        lambda c, w, d: c[fragment] * c[unroll] <= c[block],
        f"unrolled fragments fit into {block}",
    )


def split_constraint(block: str, parts: str, fits: Callable[[Config, Any, Device], bool], what: str) -> Constraint:
    """Every part of a split K has work (``what``), and all parts have memory."""
    return Constraint(
        f"{parts}_fits", (block, parts), fits, f"every part has {what}, and the workspace fits into an eighth of memory"
    )


def raster_constraint(knobs: tuple[str, ...], tiles: Callable[[Config, Any], tuple[int, ...]]) -> Constraint:
    """``tiles`` counts the blocks along channels, then those along rows and columns."""

    return Constraint(
        "raster_useful",
        ("raster_along", *knobs),
        lambda c, w, d: c["raster_along"] == "n" or (tiles(c, w)[0] > 1 and math.prod(tiles(c, w)[1:]) > 1),
        "channels come first only where both vary",
    )


def band_constraint(tiles: Callable[[Config, Any], tuple[int, int]]) -> Constraint:
    """``tiles`` counts the tiles along m and n."""

    def useful(c: Config, w: Any, device: Device) -> bool:
        tiles_m, tiles_n = tiles(c, w)
        return bool(c["raster_group"] == 1 or (c["raster_group"] <= tiles_m and tiles_n > 1))

    rule = "a band of the raster has no more rows than there are tiles, and more than one column"
    return Constraint("raster_useful", ("block_m", "block_n", "raster_group"), useful, rule)


SHARED_TYPE = Constraint(
    "shared_type_useful",
    ("shared_type",),
    lambda c, w, d: c["shared_type"] == "stored" or w.dtype != "float32",
    "float32 is stored wide already",
)


def shared_constraint(
    name: str, knobs: tuple[str, ...], size: Callable[[Config, Any], int], message: str, limit: int = 2**31
) -> Constraint:
    """What is staged fits into the shared memory of one block (or ``limit``)."""
    return Constraint(name, knobs, lambda c, w, d: size(c, w) <= min(limit, d.shared_bytes_per_block), message)


def registers_constraint(
    knobs: tuple[str, ...], needed: Callable[[Config, Any], int], threads: Callable[[Config], int], message: str
) -> Constraint:
    """What a thread keeps fits into the registers that its launch bounds leave."""
    return Constraint(
        "registers_fit",
        (*knobs, "min_blocks"),
        lambda c, w, d: needed(c, w) <= register_limit(threads(c), c["min_blocks"], d),
        message,
    )


def min_blocks_constraints(
    thread_knobs: tuple[str, ...],
    threads: Callable[[Config], int],
    shared_knobs: tuple[str, ...],
    size: Callable[[Config, Any], int],
) -> tuple[Constraint, Constraint]:
    """The blocks that ``min_blocks`` demands fit on an SM, by threads and by shared memory."""
    return (
        Constraint(
            "min_blocks_threads_fit",
            (*thread_knobs, "min_blocks"),
            lambda c, w, d: c["min_blocks"] * ceil_div(threads(c), 32) * 32 <= d.threads_per_sm,
            "the threads of the demanded blocks fit on one SM",
        ),
        Constraint(
            "min_blocks_shared_fit",
            (*shared_knobs, "min_blocks"),
            lambda c, w, d: c["min_blocks"] * (size(c, w) + d.shared_reserved_per_block) <= d.shared_bytes_per_sm,
            "what the demanded blocks stage fits on one SM",
        ),
    )


def grid_constraint(knobs: tuple[str, ...], blocks: Callable[[Config, Any], int]) -> Constraint:
    return Constraint(
        "grid_fits", knobs, lambda c, w, d: blocks(c, w) <= INDEX_LIMIT, "the grid has fewer than 2^31 blocks"
    )


def _warp_tile_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    lanes_n = c["warp_n"] // c["thread_n"]
    if c["warp_n"] % c["thread_n"] or lanes_n > 32 or c["block_n"] % c["warp_n"]:
        return False
    return c["block_m"] % (32 // lanes_n * c["thread_m"]) == 0


def vector_constraint(which: str) -> Constraint:
    """How wide the loads of operand ``which`` (a or b) may be."""
    block = "block_m" if which == "a" else "block_n"

    def holds(c: Mapping[str, Any], w: Any, device: Device) -> bool:
        k_contiguous = tile.along_k(w, which)
        extent = w.k if k_contiguous else (w.m if which == "a" else w.n)
        ld = w.lda if which == "a" else w.ldb
        return loads(c[f"vector_width_{which}"], w, ld, extent, c["block_k" if k_contiguous else block])

    return Constraint(
        f"vector_{which}_aligned",
        (f"vector_width_{which}", "block_k", block),
        holds,
        f"one load of {which.upper()} is at most 16 bytes and the alignment, and divides extent, ld and tile",
    )


def _cp_async_constraint(which: str) -> Constraint:
    def holds(c: Mapping[str, Any], w: Any, device: Device) -> bool:
        if c["stages"] <= 2:
            return True
        v = c[f"vector_width_{which}"]
        same_order = tile.along_k(w, which) == (c[f"shared_{which}"] == "k_inner")
        return copies_async(c, w, device, v, same_order, 4 * c[f"padding_{which}"] % (v * ITEMSIZE[w.dtype]) == 0)

    return Constraint(
        f"cp_async_{which}_supported",
        ("stages", f"vector_width_{which}", f"shared_{which}", f"padding_{which}", "shared_type"),
        holds,
        "cp.async needs sm_80, moves 4, 8 or 16 bytes unconverted to aligned rows, and cannot transpose vectors",
    )


def split_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    """Whether every part of K has a tile, and the workspace fits."""
    return parts_fit(c["split_k"], tile.parts(c, w)[0], w.batch * w.m * w.n, device)


def vector_out(c: Mapping[str, Any], w: Any, device: Device | None = None) -> bool:
    """Whether one store takes ``vector_width_out`` of the results that a thread has side by side."""
    return stores(c["vector_width_out"], w, c["thread_n"] // c["interleave_n"], w.n, w.ldc)


_THREADS = ("block_m", "block_n", "thread_m", "thread_n")
_SHARED = ("block_m", "block_n", "block_k", "stages", "shared_a", "shared_b", "shared_type", "padding_a", "padding_b")

CONSTRAINTS = (
    Constraint(
        "threads_fit",
        _THREADS,
        lambda c, w, d: (
            c["thread_m"] <= c["block_m"]
            and c["thread_n"] <= c["block_n"]
            and tile.threads(c) % 32 == 0
            and 32 <= tile.threads(c) <= d.threads_per_block
        ),
        "the block's threads, one per thread tile, are whole warps and within the device's limit",
    ),
    Constraint(
        "warp_tile_divides",
        (*_THREADS, "warp_n"),
        _warp_tile_fits,
        "the warp tile is made of 32 thread tiles and divides the block tile",
    ),
    divides_constraint("thread_m", "interleave_m", "the pieces divide the thread's rows"),
    divides_constraint("thread_n", "interleave_n", "the pieces divide the thread's columns"),
    vector_constraint("a"),
    vector_constraint("b"),
    Constraint(
        "vector_out_aligned",
        ("vector_width_out", "thread_n", "interleave_n"),
        vector_out,
        "one store is at most 16 bytes and the alignment, and divides n, ldc and a piece of the thread's columns",
    ),
    fragment_constraint("block_k", "fragment_k", "unroll"),
    SHARED_TYPE,
    _cp_async_constraint("a"),
    _cp_async_constraint("b"),
    shared_constraint(
        "shared_memory_fits", _SHARED, tile.shared_bytes, "all stages fit into the shared memory of one block"
    ),
    Constraint(
        "copies_fit",
        (*_THREADS, "block_k", "vector_width_a", "vector_width_b"),
        lambda c, w, d: max(tile.copies(c)) <= 16,
        "a thread copies at most 16 vectors of each tile",
    ),
    Constraint(
        "code_fits",
        ("thread_m", "thread_n", "fragment_k", "unroll"),
        lambda c, w, d: c["thread_m"] * c["thread_n"] * c["fragment_k"] * c["unroll"] <= 2048,
        "at most 2048 multiply-adds are unrolled",
    ),
    Constraint(
        "accumulators_fit",
        ("thread_m", "thread_n"),
        lambda c, w, d: tile.accumulators(c, w) + c["thread_m"] + c["thread_n"] + 36 <= 255,
        "sums and one fragment fit into 255 registers",
    ),
    registers_constraint(
        (*_THREADS, "block_k", "vector_width_a", "vector_width_b", "fragment_k", "stages"),
        tile.registers,
        tile.threads,
        "accumulators, fragments and staged loads fit into the registers that a thread may have",
    ),
    *min_blocks_constraints(_THREADS, tile.threads, _SHARED, tile.shared_bytes),
    band_constraint(tile.tiles),
    stages_useful("block_k", lambda c, w: tile.parts(c, w)[1]),
    split_constraint("block_k", "split_k", split_fits, "a tile of K"),
    grid_constraint(("block_m", "block_n"), lambda c, w: math.prod(tile.tiles(c, w)) * w.batch),
)
