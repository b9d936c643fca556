"""Depthwise convolution: one filter for each channel; bound by memory, so inputs stay in registers.

A thread computes ``thread_p`` x ``thread_q`` outputs of its channels (``vector_width`` of them for NHWC). Input rows
slide through its registers: each is read once and used for every output row that it touches. What neighbouring threads
both read hits in L1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cuda.device import Device
from ..plan import BufferArg, KernelStep, LaunchPlan, MainLoop
from ..plan.size import upper
from ..space.knob import Config, Constraint, Knob
from ..workload import ITEMSIZE
from .base import ResourceEstimate, Template
from .lib import knobs
from .lib.common import INDEX_LIMIT, STATIC_LIMIT, ceil_div, epilogue_args
from .lib.simt.constraints import (
    fitting_constraint,
    grid_constraint,
    min_blocks_constraints,
    raster_constraint,
    registers_constraint,
    shared_constraint,
)
from .lib.simt.tiles import loads, whole_vectors

CODE_LIMIT = 2048  # multiply-adds and loads that are unrolled

KNOBS = (
    Knob("thread_p", (1, 2, 4, 7, 8), "output rows that a thread computes"),
    Knob("thread_q", (1, 2, 4, 7, 8), "output columns that a thread computes"),
    Knob("threads_c", (1, 2, 4, 8, 16, 32, 64, 128), "threads of a block along the channels"),
    Knob("threads_p", (1, 2, 4, 8, 16), "threads of a block along the rows"),
    Knob("threads_q", (1, 2, 4, 8, 16, 32, 64, 128), "threads of a block along the columns"),
    Knob("vector_width", (1, 2, 4, 8, 16), "channels of a thread (nhwc); outputs of one store (nchw)"),
    Knob("filters", ("registers", "shared", "memory"), "where a thread finds its filter at each use", ordinal=False),
    knobs.RASTER_ALONG,
    knobs.MIN_BLOCKS,
)


def _channels(c: Mapping[str, Any], w: Any) -> int:
    """Channels of one thread."""
    return int(c["vector_width"]) if w.layout == "nhwc" else 1


def _threads(c: Mapping[str, Any]) -> int:
    return int(c["threads_c"] * c["threads_p"] * c["threads_q"])


def _tiles(c: Mapping[str, Any], w: Any) -> tuple[int, int, int]:
    """Blocks along channels, rows and columns."""
    return (
        ceil_div(w.k, c["threads_c"] * _channels(c, w)),
        ceil_div(w.p, c["threads_p"] * c["thread_p"]),
        ceil_div(w.q, c["threads_q"] * c["thread_q"]),
    )


def _window(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Input rows and columns that a thread's outputs touch."""
    rows = (c["thread_p"] - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1
    return rows, (c["thread_q"] - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1


def _sums(c: Mapping[str, Any], w: Any) -> int:
    return int(c["thread_p"] * c["thread_q"] * _channels(c, w))


def _registers(c: Mapping[str, Any], w: Any) -> int:
    rows = {"registers": w.r, "shared": 1, "memory": min(w.r, c["thread_p"])}[c["filters"]]  # as long as one is used
    kept = rows * w.s
    return int(_sums(c, w) + _channels(c, w) * (kept + _window(c, w)[1]) + 40)


def _code(c: Mapping[str, Any], w: Any) -> int:
    return int(_sums(c, w) * w.r * w.s + math.prod(_window(c, w)) * _channels(c, w))


def _shared_bytes(c: Mapping[str, Any], w: Any) -> int:
    """Bytes of the block's filters, rounded up to 16 (compilers widen loads up to there)."""
    return whole_vectors(4 * w.r * w.s * c["threads_c"] * _channels(c, w)) if c["filters"] == "shared" else 0


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
        lambda c, w, d: 32 <= _threads(c) <= d.threads_per_block,
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
        lambda c, w, d: c["threads_c"] == 1 or c["threads_c"] * _channels(c, w) < 2 * w.k,
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
        lambda c, w, d: _code(c, w) <= CODE_LIMIT,
        f"at most {CODE_LIMIT} multiply-adds and loads are unrolled",
    ),
    registers_constraint(
        (*_TILE, "filters"),
        _registers,
        _threads,
        "sums, filter and input row fit into the registers that a thread may have",
    ),
    shared_constraint(
        "shared_memory_fits",
        _SHARED,
        _shared_bytes,
        "the block's filters fit into statically declared shared memory",
        STATIC_LIMIT,
    ),
    *min_blocks_constraints(_THREADS, _threads, _SHARED, _shared_bytes),
    raster_constraint(_TILE, _tiles),
    grid_constraint(_TILE, lambda c, w: math.prod(_tiles(c, w)) * w.n),
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
    if _code(smallest, w) > CODE_LIMIT or _window(smallest, w)[1] + w.s + 41 > 255:
        return f"a filter of {w.r}x{w.s} with dilation {w.dilation} is too large to unroll"
    return True


@dataclass(frozen=True)
class Layout:
    """Blocks along channels, rows and columns, and the ``channels`` of a thread."""

    tiles_c: int
    tiles_p: int
    tiles_q: int
    channels: int
    nhwc: bool

    def __str__(self) -> str:
        return f"{self.tiles_c} x {self.tiles_p} x {self.tiles_q} blocks, {self.channels} channels a thread"


@dataclass(frozen=True)
class Storage:
    """The window of ``rows`` x ``columns`` pixels that a thread reads; ``*_outside``: it may reach past the image.

    ``wide_*``: offsets need 64 bits.
    """

    rows: int
    columns: int
    rows_outside: bool
    columns_outside: bool
    wide_x: bool
    wide_out: bool

    def __str__(self) -> str:
        return f"a window of {self.rows} x {self.columns} pixels a thread"


@dataclass(frozen=True)
class Launch:
    threads: int

    def __str__(self) -> str:
        return f"{self.threads} threads a block"


@dataclass(frozen=True)
class Derived:
    """All that the source sees as ``launch``; there is no pipeline."""

    layout: Layout
    storage: Storage
    launch: Launch


def layout(c: Mapping[str, Any], w: Any) -> Layout:
    return Layout(*_tiles(c, w), _channels(c, w), w.layout == "nhwc")


def storage(c: Mapping[str, Any], w: Any, tiles: Layout) -> Storage:
    rows, columns = _window(c, w)
    last_row = (tiles.tiles_p * c["threads_p"] * c["thread_p"] - 1) * w.stride[0] - w.padding[0]
    last_column = (tiles.tiles_q * c["threads_q"] * c["thread_q"] - 1) * w.stride[1] - w.padding[2]
    return Storage(
        rows,
        columns,
        rows_outside=w.padding[0] > 0 or last_row + (w.r - 1) * w.dilation[0] >= w.h,
        columns_outside=w.padding[2] > 0 or last_column + (w.s - 1) * w.dilation[1] >= w.w,
        wide_x=w.c * w.h * w.w > INDEX_LIMIT,
        wide_out=upper(w.n) * w.k * w.p * w.q > INDEX_LIMIT,
    )


def derive(c: Mapping[str, Any], w: Any, device: Device) -> Derived:
    """Layout, storage and launch, in this order."""
    tiles = layout(c, w)
    return Derived(tiles, storage(c, w, tiles), Launch(_threads(c)))


def resources(config: Config, workload: Any, device: Device) -> ResourceEstimate:
    """Threads, shared memory and sums of ``config``."""
    # the compiler drops the sums that lie outside the output in every thread
    live = min(config["thread_p"], workload.p) * min(config["thread_q"], workload.q) * _channels(config, workload)
    w, c, (tiles_c, tiles_p, tiles_q) = workload, dict[str, Any](config), _tiles(config, workload)
    block = {"thread_p": c["threads_p"] * c["thread_p"], "thread_q": c["threads_q"] * c["thread_q"]}
    pixels = math.prod(_window(block, w))
    channel_bytes = c["threads_c"] * _channels(config, w) * ITEMSIZE[w.dtype]
    loop = MainLoop(
        "conv2d_depthwise",
        steps=1,
        macs=_threads(config) * live * w.r * w.s,
        tiles=(w.n * tiles_p * tiles_q, tiles_c, 1),
        reads=(pixels * channel_bytes, w.r * w.s * channel_bytes),
    )
    return ResourceEstimate(_threads(config), _shared_bytes(config, workload), live, loop=loop)


def plan(config: Config, workload: Any, device: Device) -> LaunchPlan:
    blocks = math.prod(_tiles(config, workload)) * workload.n
    args = (BufferArg("x"), BufferArg("w"), *epilogue_args(workload))
    return LaunchPlan((KernelStep("conv2d_depthwise", (blocks, 1, 1), (_threads(config), 1, 1), args),)).check()


def _choices(w: Any) -> list[dict[str, Any]]:
    """Thread tiles in the order of preference, spread over a block; the last ones fit every supported filter."""
    nhwc = w.layout == "nhwc"
    made = []
    for v in (8, 4, 2, 1):
        for p, q in ((4, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1)):
            if nhwc:
                tc = max(t for t in (1, 2, 4, 8, 16, 32) if t == 1 or t * v < 2 * w.k)
                tq = max(t for t in (1, 2, 4, 8, 16, 32) if t * tc <= 128 and (t * q < 2 * w.q or t * q <= 32))
            else:
                tq = max(t for t in (1, 2, 4, 8, 16, 32) if t * q < 2 * w.q or t * q <= 8)
                tc = 1
            tp = max(t for t in (1, 2, 4, 8) if t * tc * tq <= 128 and (t == 1 or t * p < 2 * w.p))
            while not nhwc and tc * tp * tq < 64 and tc < 64 and 2 * tc < 2 * w.k:
                tc *= 2
            for filters in ("registers", "shared", "memory"):
                made.append(
                    dict(
                        thread_p=p,
                        thread_q=q,
                        threads_c=tc,
                        threads_p=tp,
                        threads_q=tq,
                        vector_width=v,
                        filters=filters,
                    )
                )
    single: dict[str, Any] = dict(thread_p=1, thread_q=1, threads_p=1, vector_width=1, filters="memory")
    made += [dict(single, threads_c=tc, threads_q=tq) for tc, tq in ((1, 32), (32, 1), (1, 128))]
    return [dict(raster_along="n", min_blocks=1, **choice) for choice in made]


def default(workload: Any, device: Device) -> Config:
    """The first preferred tile that keeps every constraint, keeps all SMs busy and leaves registers for 16 warps an SM.

    Memory is the limit, and only many loads in flight reach it: a smaller tile with more warps beats one that reuses
    more, as long as L1 serves what tiles read twice: up to six loads an output.
    """

    def light(c: Mapping[str, Any]) -> bool:
        loads: float = math.prod(_window(c, workload)) / (c["thread_p"] * c["thread_q"])
        return loads <= 6 and _registers(c, workload) <= device.registers_per_sm // (16 * 32)

    valid = [c for c in map(Config, _choices(workload)) if not TEMPLATE.violations(c, workload, device)]
    busy = [c for c in valid if math.prod(_tiles(c, workload)) * workload.n >= device.sm_count]
    return next((c for c in busy if light(c)), (busy or valid)[0])


def seeds(workload: Any, device: Device) -> list[Config]:
    """Every preferred tile with its filter in registers."""
    chosen = [
        Config(c) for c in _choices(workload) if c["filters"] == "registers" and c["thread_p"] * c["thread_q"] > 1
    ]
    return [c for c in dict.fromkeys(chosen) if not TEMPLATE.violations(c, workload, device)][:6]


TEMPLATE = Template(
    name="conv2d_depthwise",
    op="conv2d",
    summary="depthwise convolution, input rows sliding through registers",
    knobs=KNOBS,
    tile=(("threads_p", "thread_p", "threads_q", "thread_q"), ("threads_c",), ()),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=resources,
    plan=plan,
    default=default,
    seeds=seeds,
    min_cc=75,
    open_sizes=("n",),
)
