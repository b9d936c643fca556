"""The constraints of conv2d_direct: what cannot run, would spill, or equals another config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Constraint
from ...knobs import stages_useful
from ..constraints import (
    SHARED_TYPE,
    divides_constraint,
    fitting_constraint,
    fragment_constraint,
    grid_constraint,
    min_blocks_constraints,
    raster_constraint,
    registers_constraint,
    shared_constraint,
    split_constraint,
)
from ..tiles import copies_async, loads, parts_fit, shared_item, stores
from . import tiles as tile


def vector_x(c: Mapping[str, Any], w: Any, device: Device | None = None) -> bool:
    """Whether one load takes ``vector_width_x`` elements of the image: of channels (nhwc) or of a row."""
    runs = (tile.channels(w)[0], c["block_c"]) if w.layout == "nhwc" else (w.w, c["block_q"] * w.stride[1])
    return loads(c["vector_width_x"], w, *runs) and (c["vector_width_x"] == 1 or c["stage_x"] == "shared")


def vector_w(c: Mapping[str, Any], w: Any, device: Device | None = None) -> bool:
    """Whether one load takes ``vector_width_w`` elements of the filters: of channels (krsc), else of all taps."""
    taps = 1 if w.layout == "nhwc" else w.r * w.s
    fits = loads(c["vector_width_w"], w, tile.channels(w)[0] * taps, c["block_c"] * taps)
    return fits and (c["vector_width_w"] == 1 or c["stage_w"] == "shared")


def vector_out(c: Mapping[str, Any], w: Any, device: Device | None = None) -> bool:
    """Whether one store takes ``vector_width_out`` results."""
    v = c["vector_width_out"]
    if w.layout == "nhwc":
        return stores(v, w, c["thread_k"], tile.channels(w)[1])
    return stores(v, w, c["thread_q"], w.q, c["block_q"]) and (v == 1 or c["columns"] == "adjacent")


def _cp_async_x(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    v = c["vector_width_x"]
    same_order = (c["shared_x"] == "c_inner") == (w.layout == "nhwc")
    unstaged = c["stages"] == 1 or c["stage_x"] == "global"
    return unstaged or copies_async(c, w, device, v, same_order, tile.x_pitch(c, w) % v == 0)


def _cp_async_w(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    v = c["vector_width_w"]
    same_order = c["shared_w"] == "c_inner" and (w.layout == "nhwc" or w.r * w.s == 1)
    unstaged = c["stages"] == 1 or c["stage_w"] == "global"
    return unstaged or copies_async(c, w, device, v, same_order, tile.w_pitch(c, w) % v == 0)


def _code_is_short(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    steps = {"none": 1, "s": w.s, "rs": w.r * w.s}[c["unroll"]] * c["fragment_c"] * c["unroll_c"]
    reads = c["thread_k"] + c["thread_p"] * c["thread_q"]  # what the compiler hoists of them takes registers
    return bool(tile.sums(c) * steps <= 2048 and reads * steps <= 512)


def split_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    """Whether every part has channels, and the workspace fits."""
    return parts_fit(c["split_k"], tile.parts(c, w)[0], tile.outputs(w), device)


_X = ("block_p", "block_q", "block_c", "stage_x", "shared_x", "shared_type", "padding_x", "vector_width_x", "stages")
_W = ("block_k", "block_c", "stage_w", "shared_w", "shared_type", "padding_w", "stages")
_SHARED = tuple(dict.fromkeys(_X + _W))
_THREADS = ("block_k", "block_p", "block_q", "thread_k", "thread_p", "thread_q")

CONSTRAINTS = (
    divides_constraint("block_k", "thread_k", "a thread's channels divide the block's"),
    divides_constraint("block_p", "thread_p", "a thread's rows divide the block's"),
    divides_constraint("block_q", "thread_q", "a thread's columns divide the block's"),
    Constraint(
        "threads_fit",
        _THREADS,
        lambda c, w, d: 32 <= tile.threads(c) <= d.threads_per_block,
        "a block has 32 threads up to the device's limit",
    ),
    Constraint(
        "sums_fit",
        ("thread_k", "thread_p", "thread_q"),
        lambda c, w, d: tile.sums(c) <= 128,
        "a thread keeps at most 128 sums",
    ),
    fitting_constraint("k", ("block_k",), lambda c, w: c["block_k"], lambda w: tile.channels(w)[1], 8, "channels"),
    fitting_constraint("p", ("block_p",), lambda c, w: c["block_p"], lambda w: w.p, 2, "rows"),
    fitting_constraint("q", ("block_q",), lambda c, w: c["block_q"], lambda w: w.q, 8, "columns"),
    fitting_constraint(
        "c", ("block_c",), lambda c, w: c["block_c"], lambda w: tile.channels(w)[0], 4, "staged channels"
    ),
    Constraint(
        "columns_useful",
        ("columns", "thread_q"),
        lambda c, w, d: c["columns"] == "adjacent" or c["thread_q"] > 1,
        "only several columns can be spread",
    ),
    fragment_constraint("block_c", "fragment_c", "unroll_c"),
    Constraint(
        "shared_x_useful",
        ("stage_x", "shared_x", "padding_x"),
        lambda c, w, d: c["stage_x"] == "shared" or (c["shared_x"] == "c_outer" and c["padding_x"] == 0),
        "an input that is not staged has no shared layout",
    ),
    Constraint(
        "shared_w_useful",
        ("stage_w", "shared_w", "padding_w"),
        lambda c, w, d: c["stage_w"] == "shared" or (c["shared_w"] == "k_inner" and c["padding_w"] == 0),
        "filters that are not staged have no shared layout",
    ),
    Constraint(
        "padding_w_aligned",
        ("block_c", "shared_w", "shared_type", "padding_w"),
        lambda c, w, d: (
            c["padding_w"] == 0 or c["shared_w"] == "k_inner" or c["block_c"] * w.r * w.s * shared_item(c, w) % 4 == 0
        ),
        "rows of filters are whole words where padding follows them (compilers widen loads into it)",
    ),
    Constraint(
        "staging_useful",
        ("stage_x", "stage_w", "stages", "shared_type"),
        lambda c, w, d: "shared" in (c["stage_x"], c["stage_w"]) or (c["stages"] == 1 and c["shared_type"] == "stored"),
        "without anything staged there is one stage and no shared type",
    ),
    SHARED_TYPE,
    Constraint(
        "vector_x_aligned",
        ("vector_width_x", "stage_x", "block_c", "block_q"),
        vector_x,
        "one input load is at most 16 bytes and the alignment, and divides channels (nhwc) or columns (nchw)",
    ),
    Constraint(
        "vector_w_aligned",
        ("vector_width_w", "stage_w", "block_c"),
        vector_w,
        "one filter load is at most 16 bytes and the alignment, and divides what is contiguous",
    ),
    Constraint(
        "vector_out_aligned",
        ("vector_width_out", "thread_k", "thread_q", "block_q", "columns"),
        vector_out,
        "one store is at most 16 bytes and the alignment, and divides a thread's contiguous outputs",
    ),
    Constraint(
        "cp_async_x_supported",
        ("stages", "stage_x", "shared_x", "shared_type", "padding_x", "vector_width_x", "block_c", "block_q"),
        _cp_async_x,
        "cp.async needs sm_80 and moves 4, 8 or 16 bytes unconverted to aligned rows",
    ),
    Constraint(
        "cp_async_w_supported",
        ("stages", "stage_w", "shared_w", "shared_type", "padding_w", "vector_width_w", "block_c", "block_k"),
        _cp_async_w,
        "cp.async needs sm_80 and moves 4, 8 or 16 bytes unconverted to aligned rows",
    ),
    Constraint(
        "unroll_useful",
        ("unroll",),
        lambda c, w, d: {"none": True, "s": w.s > 1, "rs": w.r > 1}[c["unroll"]],
        "only loops of several steps are unrolled",
    ),
    Constraint(
        "reuse_row_legal",
        ("reuse_row", "unroll", "columns", "thread_p", "thread_q", "fragment_c"),
        lambda c, w, d: (
            not c["reuse_row"]
            or (
                w.s > 1
                and c["unroll"] != "none"
                and c["columns"] == "adjacent"
                and tile.row_length(c, w) * c["thread_p"] * c["fragment_c"] <= 64
            )
        ),
        "a kept row needs adjacent columns, unrolled filter columns and at most 64 registers",
    ),
    Constraint(
        "code_fits",
        ("thread_k", "thread_p", "thread_q", "fragment_c", "unroll", "unroll_c"),
        _code_is_short,
        "at most 2048 multiply-adds and 512 values read are unrolled",
    ),
    shared_constraint("shared_x_fits", _X, tile.x_bytes, "the patches fit into shared memory"),
    shared_constraint("shared_w_fits", _W, tile.w_bytes, "the filters fit into shared memory"),
    shared_constraint(
        "shared_memory_fits", _SHARED, tile.shared_bytes, "patches and filters fit into the shared memory of one block"
    ),
    registers_constraint(
        (*_THREADS, "fragment_c", "reuse_row"),
        tile.registers,
        tile.threads,
        "sums and fragments fit into the registers that a thread may have",
    ),
    *min_blocks_constraints(_THREADS, tile.threads, _SHARED, tile.shared_bytes),
    raster_constraint(("block_k", "block_p", "block_q"), tile.tiles),
    stages_useful("block_c", lambda c, w: tile.parts(c, w)[1]),
    split_constraint("block_c", "split_k", split_fits, "channels"),
    grid_constraint(("block_k", "block_p", "block_q"), tile.grid),
)
