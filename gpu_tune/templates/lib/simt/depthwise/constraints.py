"""The constraints of conv2d_depthwise, and which filters are small enough for it."""

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
    divides = loads(v, w, w.k) if w.layout == "nhwc" else c["thread_q"] % v == 0 and w.q % v == 0
    return bool(v == 1 or (divides and min(16, v * ITEMSIZE[w.out_dtype]) <= w.alignment))


_THREADS = ("threads_c", "threads_p", "threads_q")
_TILE = (*_THREADS, "thread_p", "thread_q", "vector_width")
_SHARED = ("threads_c", "vector_width", "filters")

CONSTRAINTS = (
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
        ("threads_c", "vector_width"),
        lambda c, w, d: c["threads_c"] == 1 or c["threads_c"] * tile.channels(c, w) < 2 * w.k,
        "at most half of the block's channels are idle",
    ),
    fitting_constraint(
        "p", ("threads_p", "thread_p"), lambda c, w: c["threads_p"] * c["thread_p"], lambda w: w.p, 1, "rows"
    ),
    fitting_constraint(
        "q", ("threads_q", "thread_q"), lambda c, w: c["threads_q"] * c["thread_q"], lambda w: w.q, 32, "columns"
    ),
    Constraint(
        "code_fits",
        ("thread_p", "thread_q", "vector_width"),
        lambda c, w, d: tile.code(c, w) <= CODE_LIMIT,
        f"at most {CODE_LIMIT} multiply-adds and loads are unrolled",
    ),
    registers_constraint(
        (*_TILE, "filters"),
        tile.registers,
        tile.threads,
        "sums, filter and input row fit into the registers that a thread may have",
    ),
    shared_constraint(
        "shared_memory_fits",
        _SHARED,
        tile.shared_bytes,
        "the block's filters fit into statically declared shared memory",
        STATIC_LIMIT,
    ),
    *min_blocks_constraints(_THREADS, tile.threads, _SHARED, tile.shared_bytes),
    raster_constraint(_TILE, tile.tiles),
    grid_constraint(_TILE, lambda c, w: math.prod(tile.tiles(c, w)) * w.n),
)


def supports(workload: Any, device: Device) -> bool | str:
    """Depthwise convolutions with filters small enough to unroll."""
    w = workload
    if w.weights != "plain":
        return "reads plain filters, not pretransformed ones"
    if not w.groups == w.c == w.k:
        return f"is for one filter a channel (groups = c = k), not groups={w.groups}, c={w.c}, k={w.k}"
    if max(w.h, w.w) > INDEX_LIMIT // 2:
        return "image sides beyond 2^30 are not indexed"
    smallest = {"thread_p": 1, "thread_q": 1, "vector_width": 1}
    if tile.code(smallest, w) > CODE_LIMIT or tile.window(smallest, w)[1] + w.s + 41 > 255:
        return f"a filter of {w.r}x{w.s} with dilation {w.dilation} is too large to unroll"
    return True
