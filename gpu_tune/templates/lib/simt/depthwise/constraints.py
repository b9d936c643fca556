"""The constraints of the depthwise families, and which filters are small enough for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Constraint
from .....workload import ITEMSIZE
from ...common import INDEX_LIMIT, STATIC_LIMIT
from ..constraints import (
    fitting_constraint,
    grid_constraint,
    min_blocks_constraints,
    raster_constraint,
    registers_constraint,
    shared_constraint,
)
from ..tiles import loads
from . import tiles as tile
from .tiles import CODE_LIMIT


def _vector_fits(c: Mapping[str, Any], w: Any, device: Any) -> bool:
    v = c["vector_width"]
    if w.direction == "wgrad":
        return loads(v, w, w.k) if w.layout == "nhwc" else loads(v, w, w.q, c["thread_q"])
    columns, stride = (w.w, w.stride[1]) if w.direction == "dgrad" else (w.q, 1)
    divides = loads(v, w, w.k) if w.layout == "nhwc" else c["thread_q"] * stride % v == 0 and columns % v == 0
    return bool(v == 1 or (divides and min(16, v * ITEMSIZE[w.out_dtype]) <= w.alignment))


_THREADS = ("threads_c", "threads_p", "threads_q")
_TILE = (*_THREADS, "thread_p", "thread_q", "vector_width")
_FILTER = ("threads_c", "vector_width")


def _constraints(filters: tuple[str, ...], staged: str) -> tuple[Constraint, ...]:
    """Those of every direction; ``filters``: the knob of their place; ``staged``: what lies in shared memory."""
    shared = (*_FILTER, *filters)
    return (
        Constraint(
            "threads_fit",
            _THREADS,
            lambda c, w, d: 32 <= tile.threads(c) <= d.threads_per_block,
            "a block has 32 threads up to the device's limit",
        ),
        Constraint(
            "vector_width_aligned",
            ("vector_width", "thread_q"),
            _vector_fits,
            "a vector is at most 16 bytes and the alignment, and divides channels (nhwc) or columns (nchw)",
        ),
        Constraint(
            "block_c_useful",
            _FILTER,
            lambda c, w, d: c["threads_c"] == 1 or c["threads_c"] * tile.channels(c, w) < 2 * w.k,
            "at most half of the block's channels are idle",
        ),
        fitting_constraint(
            "p",
            ("threads_p", "thread_p"),
            lambda c, w: c["threads_p"] * c["thread_p"],
            lambda w: tile.pixels(w)[0],
            1,
            "rows",
        ),
        fitting_constraint(
            "q",
            ("threads_q", "thread_q"),
            lambda c, w: c["threads_q"] * c["thread_q"],
            lambda w: tile.pixels(w)[1],
            32,
            "columns",
        ),
        Constraint(
            "code_fits",
            ("thread_p", "thread_q", "vector_width"),
            lambda c, w, d: tile.code(c, w) <= CODE_LIMIT,
            f"at most {CODE_LIMIT} multiply-adds and loads are unrolled",
        ),
        registers_constraint(
            (*_TILE, *filters),
            tile.registers,
            tile.threads,
            "sums, filter and input row fit into the registers that a thread may have",
        ),
        shared_constraint(
            "shared_memory_fits",
            shared,
            tile.shared_bytes,
            f"{staged} fit into statically declared shared memory",
            STATIC_LIMIT,
        ),
        *min_blocks_constraints(_THREADS, tile.threads, shared, tile.shared_bytes),
    )


CONSTRAINTS = (
    *_constraints(("filters",), "the block's filters"),
    raster_constraint(_TILE, tile.tiles),
    grid_constraint(_TILE, lambda c, w: math.prod(tile.tiles(c, w)) * w.n),
)
FILTER_CONSTRAINTS = (
    *_constraints((), "the sums of the block's filters"),
    Constraint(
        "split_k_fits",
        ("split_k", "threads_p", "threads_q", "thread_p", "thread_q"),
        tile.split_fits,
        "every part has a tile of pixels, and the workspace fits into an eighth of memory",
    ),
)
"""Those of the filters' gradient."""


def supports(workload: Any, device: Device) -> bool | str:
    """Depthwise convolutions with filters small enough to unroll."""
    w = workload
    if w.weights != "plain":
        return "reads plain filters, not pretransformed ones"
    if not w.groups == w.c == w.k:
        return f"is for one filter a channel (groups = c = k), not groups={w.groups}, c={w.c}, k={w.k}"
    if max(w.h, w.w) > INDEX_LIMIT // 2:
        return "image sides beyond 2^30 are not indexed"
    smallest = {"thread_p": 1, "thread_q": 1, "vector_width": 1, "filters": "memory"}
    if tile.code(smallest, w) > CODE_LIMIT or tile.registers(smallest, w) > 255:
        stride = f" and stride {w.stride}" if w.direction == "dgrad" else ""
        return f"a filter of {w.r}x{w.s} with dilation {w.dilation}{stride} is too large to unroll"
    if w.direction == "wgrad" and w.n * w.p * w.q > INDEX_LIMIT:
        return "2^31 pixels of dy are not indexed"
    return True
