"""The constraints of the gradients: what cannot run, would spill, or equals another config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Constraint
from ... import knobs
from ..constraints import (
    band_constraint,
    divides_constraint,
    fitting_constraint,
    grid_constraint,
    min_blocks_constraints,
    registers_constraint,
    shared_constraint,
    split_constraint,
)
from ..tiles import loads, parts_fit, stores
from . import tiles as tile


def vector(which: str) -> Constraint:
    """How wide the loads of operand ``which`` (a or b) may be: along channels, or pixels of dy where no row matters."""
    block, knob = "block_m" if which == "a" else "block_n", f"vector_width_{which}"

    def holds(c: Mapping[str, Any], w: Any, device: Device | None = None) -> bool:
        v, (cg, kg) = c[knob], tile.channels(w)
        if w.layout == "nchw":
            run = w.p * w.q if which == "a" and w.direction == "wgrad" else 1
        else:
            run = kg if which == "a" else cg
        return loads(v, w, run, c["block_k" if tile.along_depth(w, which) else block])

    rule = "one load is at most 16 bytes and the alignment, and divides the channels (or pixels) and the tile"
    return Constraint(f"vector_{which}_aligned", (knob, "block_k", block), holds, rule)


VECTOR_A, VECTOR_B = vector("a"), vector("b")


def vector_out(c: Mapping[str, Any], w: Any, device: Device | None = None) -> bool:
    """Whether one store takes ``vector_width_out`` of the results that a thread has side by side."""
    run = 1 if (w.direction, w.layout) == ("dgrad", "nchw") else tile.extents(w)[1]
    return stores(c["vector_width_out"], w, tile.piece(c, "n"), run)


def split_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    """Whether every part has a step, and the workspace fits."""
    return parts_fit(c["split_k"], tile.steps(c, w), tile.outputs(w), device)


_THREADS = ("block_m", "block_n", "thread_m", "thread_n")
_SHARED = ("block_m", "block_n", "block_k", "padding_a", "padding_b", "stages")

CONSTRAINTS = (
    knobs.only(knobs.STAGES, (1, 2), "no more than the next tile is on its way, through registers"),
    divides_constraint("block_m", "thread_m", "a thread's rows divide the block's"),
    divides_constraint("block_n", "thread_n", "a thread's columns divide the block's"),
    Constraint(
        "threads_fit",
        _THREADS,
        lambda c, w, d: tile.threads(c) % 32 == 0 and 32 <= tile.threads(c) <= d.threads_per_block,
        "the block's threads, one per thread tile, are whole warps and within the device's limit",
    ),
    fitting_constraint("m", ("block_m",), lambda c, w: c["block_m"], lambda w: tile.extents(w)[0], 16, "rows"),
    fitting_constraint("n", ("block_n",), lambda c, w: c["block_n"], lambda w: tile.extents(w)[1], 16, "columns"),
    fitting_constraint(
        "k",
        ("block_k",),
        lambda c, w: c["block_k"],
        lambda w: tile.channels(w)[1] if w.direction == "dgrad" else w.product[2],
        4,
        "depth",
    ),
    Constraint(
        "lanes_useful",
        ("lanes", *_THREADS),
        lambda c, w, d: c["lanes"] == "n" or (c["block_m"] > c["thread_m"] and c["block_n"] > c["thread_n"]),
        "lanes run down the rows only where the block has threads in both directions",
    ),
    VECTOR_A,
    VECTOR_B,
    Constraint(
        "vector_out_aligned",
        ("vector_width_out", "thread_n"),
        vector_out,
        "one store is at most 16 bytes and the alignment, and divides the channels and what a thread has side by side",
    ),
    Constraint(
        "copies_fit",
        (*_THREADS, "block_k", "vector_width_a", "vector_width_b"),
        lambda c, w, d: max(tile.copies(c)) <= 8,
        "a thread copies at most 8 vectors of each tile",
    ),
    Constraint(
        "unroll_fits",
        ("block_k", "unroll"),
        lambda c, w, d: c["unroll"] <= c["block_k"],
        "no more is unrolled than there is",
    ),
    Constraint(
        "code_fits",
        ("thread_m", "thread_n", "unroll"),
        lambda c, w, d: tile.sums(c) * c["unroll"] <= 1024,
        "at most 1024 multiply-adds are unrolled",
    ),
    shared_constraint(
        "shared_memory_fits", _SHARED, tile.shared_bytes, "all stages fit into the shared memory of a block"
    ),
    registers_constraint(
        (*_THREADS, "block_k", "vector_width_a", "vector_width_b"),
        tile.registers,
        tile.threads,
        "sums, fragments and copies fit into the registers that a thread may have",
    ),
    *min_blocks_constraints(_THREADS, tile.threads, _SHARED, tile.shared_bytes),
    band_constraint(tile.tiles),
    split_constraint("block_k", "split_k", split_fits, "a tile of the depth"),
    grid_constraint(("block_m", "block_n"), tile.grid),
)


def supports(w: Any, device: Device) -> bool | str:
    """Every gradient whose pixels 32 bits count."""
    if max(w.h, w.w) + 2**20 > 2**29:
        return "image sides beyond 2^29 are not indexed"
    if max(w.n * w.h * w.w, w.n * w.p * w.q, math.prod(w.product[:2])) + 2**20 > 2**31:
        return "2^31 pixels, or filter elements of a group, are not indexed"
    return True
