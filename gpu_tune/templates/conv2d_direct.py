"""Direct convolution on the plain arithmetic units: every Conv2d, every device. The fallback of the convolutions.

A block computes ``block_k`` channels x ``block_p`` rows x ``block_q`` columns of one image and group, a thread
``thread_k`` x ``thread_p`` x ``thread_q``. Input patches with their halo and filters are staged in shared memory
``block_c`` channels at a time, or read where they lie. ``stages`` 2 and 3 stage ahead with cp.async (sm_80 and newer).
With ``split_c`` > 1 slices of the input channels go to the workspace and a second kernel adds them in order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..device import Device
from ..plan import BufferArg, KernelStep, LaunchPlan
from ..space.constraint import Constraint
from ..space.knob import Config, Knob
from ..workload import ITEMSIZE
from .arguments import epilogue_args
from .base import Estimate, Template

STATIC_LIMIT = 49152  # CUDA's limit on statically declared shared memory; more is declared extern
REDUCE_THREADS = 256
INDEX_LIMIT = 2**31 - 2**20  # int indices up to here, with room for the last block's overhang

KNOBS = (
    Knob("block_k", (1, 2, 4, 8, 16, 32, 64, 128), "output channels that a block computes"),
    Knob("block_p", (1, 2, 4, 7, 8, 14, 16), "output rows that a block computes"),
    Knob("block_q", (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 64), "output columns that a block computes"),
    Knob("block_c", (1, 2, 4, 8, 16, 32), "input channels staged at a time"),
    Knob("thread_k", (1, 2, 4, 8, 16), "output channels that a thread computes"),
    Knob("thread_p", (1, 2, 4, 7), "output rows that a thread computes"),
    Knob("thread_q", (1, 2, 4, 7, 8), "output columns that a thread computes"),
    Knob("columns", ("adjacent", "spread"), "a thread's columns: side by side, or block-wide apart", ordinal=False),
    Knob(
        "lanes",
        ("pixels", "channels"),
        "what neighbouring threads vary: pixels share their filters, channels their input",
        ordinal=False,
    ),
    Knob("stage_x", ("shared", "global"), "input patches pass through shared memory, or not", ordinal=False),
    Knob("stage_w", ("shared", "global"), "filters pass through shared memory, or not", ordinal=False),
    Knob("shared_x", ("c_outer", "c_inner"), "patch in shared memory: planes, or channels innermost", ordinal=False),
    Knob("shared_w", ("k_inner", "c_inner"), "filters in shared memory: k or c innermost", ordinal=False),
    Knob("shared_type", ("stored", "wide"), "shared memory holds elements as stored, or as float (int)", ordinal=False),
    Knob("padding_x", (0, 1, 2, 4), "32-bit words appended to each row of the patch against bank conflicts"),
    Knob("padding_w", (0, 1, 2, 4), "32-bit words appended to each row of filters against bank conflicts"),
    Knob("vector_width_x", (1, 2, 4, 8, 16), "input elements that one global load takes"),
    Knob("vector_width_w", (1, 2, 4, 8, 16), "filter elements that one global load takes"),
    Knob("vector_width_out", (1, 2, 4, 8, 16), "elements that one store takes"),
    Knob("stages", (1, 2, 3), "buffers of staged data: 1 synchronous, more ahead by cp.async"),
    Knob("fragment_c", (1, 2, 4), "channels read at once"),
    Knob("reuse_row", (False, True), "a thread keeps an input row in registers for all filter columns", ordinal=False),
    Knob("unroll", ("none", "s", "rs"), "filter loops that are unrolled: columns, or rows and columns", ordinal=False),
    Knob("unroll_c", (1, 2, 4, 8), "steps of fragment_c unrolled"),
    Knob("raster", ("pixels", "channels"), "what neighbouring blocks vary: the pixels, or the channels", ordinal=False),
    Knob("split_c", (1, 2, 4, 8, 16), "slices of the input channels, summed in order by a second kernel"),
    Knob("min_blocks", (0, 1, 2, 3, 4), "blocks per SM that the compiler must leave registers for (0: no demand)"),
)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _threads(c: Mapping[str, Any]) -> int:
    return math.prod(max(1, c[f"block_{x}"] // c[f"thread_{x}"]) for x in "kpq")


def _channels(w: Any) -> tuple[int, int]:
    """Input and output channels of one group."""
    return w.c // w.groups, w.k // w.groups


def _nhwc(w: Any) -> bool:
    return bool(w.layout == "nhwc")


def _item(c: Mapping[str, Any], w: Any) -> int:
    return ITEMSIZE[w.dtype] if c["shared_type"] == "stored" else 4


def _shift(c: Mapping[str, Any], w: Any) -> int:
    """Columns that an NCHW patch starts early so that its vectors are aligned."""
    return 0 if _nhwc(w) else w.padding[2] * -1 % c["vector_width_x"]


def _patch_rows(c: Mapping[str, Any], w: Any) -> int:
    """Rows of an input patch, halo included."""
    return int((c["block_p"] - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1)


def _patch_columns(c: Mapping[str, Any], w: Any) -> int:
    """Columns of an input patch, halo included; whole vectors for NCHW."""
    columns = (c["block_q"] - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1
    v = 1 if _nhwc(w) else c["vector_width_x"]
    return int(_ceil(columns + _shift(c, w), v) * v)


def _x_pitch(c: Mapping[str, Any], w: Any) -> int:
    """Elements of one row of the patch in shared memory: a row of pixels, or the channels of one pixel."""
    row = c["block_c"] if c["shared_x"] == "c_inner" else _patch_columns(c, w)
    return int(row + 4 * c["padding_x"] // _item(c, w))


def _x_elements(c: Mapping[str, Any], w: Any) -> int:
    if c["stage_x"] == "global":
        return 0
    columns = _patch_columns(c, w) if c["shared_x"] == "c_inner" else c["block_c"]
    return int(_patch_rows(c, w) * _x_pitch(c, w) * columns)


def _w_pitch(c: Mapping[str, Any], w: Any) -> int:
    """Elements of one row of filters in shared memory: block_k channels, or all of one output channel."""
    row = c["block_k"] if c["shared_w"] == "k_inner" else c["block_c"] * w.r * w.s
    return int(row + 4 * c["padding_w"] // _item(c, w))


def _w_elements(c: Mapping[str, Any], w: Any) -> int:
    if c["stage_w"] == "global":
        return 0
    return _w_pitch(c, w) * (c["block_c"] * w.r * w.s if c["shared_w"] == "k_inner" else c["block_k"])


def _x_bytes(c: Mapping[str, Any], w: Any) -> int:
    """Bytes of all stages' patches, rounded up to 16 (compilers widen loads up to there)."""
    return _ceil(_x_elements(c, w) * _item(c, w) * c["stages"], 16) * 16


def _w_bytes(c: Mapping[str, Any], w: Any) -> int:
    """The same of the filters."""
    return _ceil(_w_elements(c, w) * _item(c, w) * c["stages"], 16) * 16


def _row_length(c: Mapping[str, Any], w: Any) -> int:
    """Input columns that a thread's outputs of one row touch."""
    return int((c["thread_q"] - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1)


def _registers(c: Mapping[str, Any], w: Any) -> int:
    pixels = c["thread_p"] * (_row_length(c, w) if c["reuse_row"] else c["thread_q"])
    return int(_sums(c) + c["fragment_c"] * (pixels + c["thread_k"]) + 44)


def _sums(c: Mapping[str, Any]) -> int:
    return int(c["thread_k"] * c["thread_p"] * c["thread_q"])


def _register_limit(c: Mapping[str, Any], device: Device) -> int:
    return min(255, device.registers_per_sm // (_ceil(_threads(c), 32) * 32 * max(1, c["min_blocks"])) // 8 * 8)


def _tiles(c: Mapping[str, Any], w: Any) -> tuple[int, int, int]:
    return _ceil(_channels(w)[1], c["block_k"]), _ceil(w.p, c["block_p"]), _ceil(w.q, c["block_q"])


def _slices(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Steps of block_c channels, and how many of them a slice takes."""
    steps = _ceil(_channels(w)[0], c["block_c"])
    return steps, _ceil(steps, c["split_c"])


def _out_elements(w: Any) -> int:
    return int(w.n * w.k * w.p * w.q)


def _vector_x(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    v = c["vector_width_x"]
    if v == 1:
        return True
    if c["stage_x"] == "global" or v * ITEMSIZE[w.dtype] > min(16, w.alignment):
        return False
    if _nhwc(w):
        return _channels(w)[0] % v == 0 and c["block_c"] % v == 0
    return bool(w.w % v == 0 and c["block_q"] * w.stride[1] % v == 0)


def _vector_w(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    v, channels = c["vector_width_w"], _channels(w)[0]
    if v == 1:
        return True
    if c["stage_w"] == "global" or v * ITEMSIZE[w.dtype] > min(16, w.alignment):
        return False
    run = 1 if _nhwc(w) else w.r * w.s
    return bool(channels * run % v == 0 and c["block_c"] * run % v == 0)


def _vector_out(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    v = c["vector_width_out"]
    if v == 1:
        return True
    if v * ITEMSIZE[w.out_dtype] > min(16, w.alignment):
        return False
    if _nhwc(w):
        return bool(c["thread_k"] % v == 0 and _channels(w)[1] % v == 0)
    return bool(c["thread_q"] % v == 0 and w.q % v == 0 and c["columns"] == "adjacent" and c["block_q"] % v == 0)


def _cp_async_x(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    if c["stages"] == 1 or c["stage_x"] == "global":
        return True
    size = c["vector_width_x"] * ITEMSIZE[w.dtype]
    same_order = (c["shared_x"] == "c_inner") == _nhwc(w)
    aligned = _x_pitch(c, w) % c["vector_width_x"] == 0
    return (
        device.cc >= 80
        and c["shared_type"] == "stored"
        and size >= 4
        and ((same_order and aligned) or c["vector_width_x"] == 1)
    )


def _cp_async_w(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    if c["stages"] == 1 or c["stage_w"] == "global":
        return True
    size = c["vector_width_w"] * ITEMSIZE[w.dtype]
    same_order = c["shared_w"] == "c_inner" and (_nhwc(w) or w.r * w.s == 1)
    aligned = _w_pitch(c, w) % c["vector_width_w"] == 0
    return (
        device.cc >= 80
        and c["shared_type"] == "stored"
        and size >= 4
        and ((same_order and aligned) or c["vector_width_w"] == 1)
    )


def _shared_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    return _x_bytes(c, w) + _w_bytes(c, w) <= device.shared_bytes_per_block


def _min_blocks_fit(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    shared = _x_bytes(c, w) + _w_bytes(c, w) + device.shared_reserved_per_block
    return bool(c["min_blocks"] * shared <= device.shared_bytes_per_sm)


def _unrolled(c: Mapping[str, Any], w: Any) -> int:
    taps = {"none": 1, "s": w.s, "rs": w.r * w.s}[c["unroll"]]
    return int(_sums(c) * c["fragment_c"] * c["unroll_c"] * taps)


def _split_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    if c["split_c"] == 1:
        return True
    steps, per_slice = _slices(c, w)
    return (c["split_c"] - 1) * per_slice < steps and 4 * c["split_c"] * _out_elements(w) <= device.memory_bytes // 8


def _grid(c: Mapping[str, Any], w: Any) -> int:
    return math.prod(_tiles(c, w)) * w.groups * w.n


_X = ("block_p", "block_q", "block_c", "stage_x", "shared_x", "shared_type", "padding_x", "vector_width_x", "stages")
_W = ("block_k", "block_c", "stage_w", "shared_w", "shared_type", "padding_w", "stages")
_SHARED = tuple(dict.fromkeys(_X + _W))
_THREADS = ("block_k", "block_p", "block_q", "thread_k", "thread_p", "thread_q")

CONSTRAINTS = (
    Constraint(
        "thread_k",
        ("block_k", "thread_k"),
        lambda c, w, d: c["block_k"] % c["thread_k"] == 0,
        "a thread's channels divide the block's",
    ),
    Constraint(
        "thread_p",
        ("block_p", "thread_p"),
        lambda c, w, d: c["block_p"] % c["thread_p"] == 0,
        "a thread's rows divide the block's",
    ),
    Constraint(
        "thread_q",
        ("block_q", "thread_q"),
        lambda c, w, d: c["block_q"] % c["thread_q"] == 0,
        "a thread's columns divide the block's",
    ),
    Constraint(
        "threads",
        _THREADS,
        lambda c, w, d: 32 <= _threads(c) <= d.threads_per_block,
        "a block has 32 threads up to the device's limit",
    ),
    Constraint(
        "sums", ("thread_k", "thread_p", "thread_q"), lambda c, w, d: _sums(c) <= 128, "a thread keeps at most 128 sums"
    ),
    Constraint(
        "fitting_k",
        ("block_k",),
        lambda c, w, d: c["block_k"] == 1 or c["block_k"] < 2 * _channels(w)[1] or c["block_k"] <= 8,
        "at most half of the block's channels are idle",
    ),
    Constraint(
        "fitting_p",
        ("block_p",),
        lambda c, w, d: c["block_p"] <= 2 or c["block_p"] < 2 * w.p,
        "at most half of the block's rows are idle",
    ),
    Constraint(
        "fitting_q",
        ("block_q",),
        lambda c, w, d: c["block_q"] <= 8 or c["block_q"] < 2 * w.q,
        "at most half of the block's columns are idle",
    ),
    Constraint(
        "fitting_c",
        ("block_c",),
        lambda c, w, d: c["block_c"] <= 4 or c["block_c"] < 2 * _channels(w)[0],
        "at most half of the staged channels are padding",
    ),
    Constraint(
        "columns",
        ("columns", "thread_q"),
        lambda c, w, d: c["columns"] == "adjacent" or c["thread_q"] > 1,
        "only several columns can be spread",
    ),
    Constraint(
        "fragment",
        ("block_c", "fragment_c", "unroll_c"),
        lambda c, w, d: c["fragment_c"] * c["unroll_c"] <= c["block_c"],
        "unrolled fragments fit into block_c",
    ),
    Constraint(
        "global_x",
        ("stage_x", "shared_x", "padding_x"),
        lambda c, w, d: c["stage_x"] == "shared" or (c["shared_x"] == "c_outer" and c["padding_x"] == 0),
        "an input that is not staged has no shared layout",
    ),
    Constraint(
        "global_w",
        ("stage_w", "shared_w", "padding_w"),
        lambda c, w, d: c["stage_w"] == "shared" or (c["shared_w"] == "k_inner" and c["padding_w"] == 0),
        "filters that are not staged have no shared layout",
    ),
    Constraint(
        "padding_w_words",
        ("block_c", "shared_w", "shared_type", "padding_w"),
        lambda c, w, d: (
            c["padding_w"] == 0 or c["shared_w"] == "k_inner" or c["block_c"] * w.r * w.s * _item(c, w) % 4 == 0
        ),
        "rows of filters are whole words where padding follows them (compilers widen loads into it)",
    ),
    Constraint(
        "staged",
        ("stage_x", "stage_w", "stages", "shared_type"),
        lambda c, w, d: "shared" in (c["stage_x"], c["stage_w"]) or (c["stages"] == 1 and c["shared_type"] == "stored"),
        "without anything staged there is one stage and no shared type",
    ),
    Constraint(
        "shared_type",
        ("shared_type",),
        lambda c, w, d: c["shared_type"] == "stored" or w.dtype != "float32",
        "float32 is stored wide already",
    ),
    Constraint(
        "vector_x",
        ("vector_width_x", "stage_x", "block_c", "block_q"),
        _vector_x,
        "one input load is at most 16 bytes and the alignment, and divides channels (nhwc) or columns (nchw)",
    ),
    Constraint(
        "vector_w",
        ("vector_width_w", "stage_w", "block_c"),
        _vector_w,
        "one filter load is at most 16 bytes and the alignment, and divides what is contiguous",
    ),
    Constraint(
        "vector_out",
        ("vector_width_out", "thread_k", "thread_q", "block_q", "columns"),
        _vector_out,
        "one store is at most 16 bytes and the alignment, and divides a thread's contiguous outputs",
    ),
    Constraint(
        "cp_async_x",
        ("stages", "stage_x", "shared_x", "shared_type", "padding_x", "vector_width_x", "block_c", "block_q"),
        _cp_async_x,
        "cp.async needs sm_80 and moves 4, 8 or 16 bytes unconverted to aligned rows",
    ),
    Constraint(
        "cp_async_w",
        ("stages", "stage_w", "shared_w", "shared_type", "padding_w", "vector_width_w", "block_c", "block_k"),
        _cp_async_w,
        "cp.async needs sm_80 and moves 4, 8 or 16 bytes unconverted to aligned rows",
    ),
    Constraint(
        "unroll",
        ("unroll",),
        lambda c, w, d: {"none": True, "s": w.s > 1, "rs": w.r > 1}[c["unroll"]],
        "only loops of several steps are unrolled",
    ),
    Constraint(
        "reuse_row",
        ("reuse_row", "unroll", "columns", "thread_p", "thread_q", "fragment_c"),
        lambda c, w, d: (
            not c["reuse_row"]
            or (
                w.s > 1
                and c["unroll"] != "none"
                and c["columns"] == "adjacent"
                and _row_length(c, w) * c["thread_p"] * c["fragment_c"] <= 64
            )
        ),
        "a kept row needs adjacent columns, unrolled filter columns and at most 64 registers",
    ),
    Constraint(
        "code_size",
        ("thread_k", "thread_p", "thread_q", "fragment_c", "unroll", "unroll_c"),
        lambda c, w, d: _unrolled(c, w) <= 2048,
        "at most 2048 multiply-adds are unrolled",
    ),
    Constraint(
        "shared_x_fits",
        _X,
        lambda c, w, d: _x_bytes(c, w) <= d.shared_bytes_per_block,
        "the patches fit into shared memory",
    ),
    Constraint(
        "shared_w_fits",
        _W,
        lambda c, w, d: _w_bytes(c, w) <= d.shared_bytes_per_block,
        "the filters fit into shared memory",
    ),
    Constraint("shared_memory", _SHARED, _shared_fits, "patches and filters fit into the shared memory of one block"),
    Constraint(
        "registers",
        (*_THREADS, "fragment_c", "reuse_row", "min_blocks"),
        lambda c, w, d: _registers(c, w) <= _register_limit(c, d),
        "sums and fragments fit into the registers that a thread may have",
    ),
    Constraint(
        "min_blocks_threads",
        (*_THREADS, "min_blocks"),
        lambda c, w, d: c["min_blocks"] * _ceil(_threads(c), 32) * 32 <= d.threads_per_sm,
        "the threads of the demanded blocks fit on one SM",
    ),
    Constraint(
        "min_blocks_shared", (*_SHARED, "min_blocks"), _min_blocks_fit, "the demanded blocks' tiles fit on one SM"
    ),
    Constraint(
        "raster",
        ("raster", "block_k", "block_p", "block_q"),
        lambda c, w, d: c["raster"] == "pixels" or (_tiles(c, w)[0] > 1 and math.prod(_tiles(c, w)[1:]) > 1),
        "channels come first only where both vary",
    ),
    Constraint(
        "split_c",
        ("block_c", "split_c"),
        _split_fits,
        "every slice has channels, and the workspace fits into an eighth of memory",
    ),
    Constraint(
        "grid",
        ("block_k", "block_p", "block_q"),
        lambda c, w, d: _grid(c, w) <= INDEX_LIMIT,
        "the grid has fewer than 2^31 blocks",
    ),
)


@functools.lru_cache(maxsize=256)
def _facts(config: Config, w: Any) -> dict[str, Any]:
    c: Mapping[str, Any] = config
    tiles_k, tiles_p, tiles_q = _tiles(c, w)
    steps, per_slice = _slices(c, w)
    rows, columns = _patch_rows(c, w), _patch_columns(c, w)
    cg, kg = _channels(w)
    v = c["vector_width_x"]
    last_row = (tiles_p * c["block_p"] - 1) * w.stride[0] - w.padding[0] + (w.r - 1) * w.dilation[0]
    last_column = (tiles_q - 1) * c["block_q"] * w.stride[1] - w.padding[2] - _shift(c, w) + columns - 1
    return {
        "threads": _threads(c),
        "threads_k": c["block_k"] // c["thread_k"],
        "threads_p": c["block_p"] // c["thread_p"],
        "threads_q": c["block_q"] // c["thread_q"],
        "tiles_k": tiles_k,
        "tiles_p": tiles_p,
        "tiles_q": tiles_q,
        "steps": steps,
        "per_slice": per_slice,
        "cg": cg,
        "kg": kg,
        "nhwc": _nhwc(w),
        "rows": rows,
        "columns": columns,
        "shift": _shift(c, w),
        "x_chunks": c["block_c"] * rows * columns // v,
        "w_chunks": c["block_k"] * c["block_c"] * w.r * w.s // c["vector_width_w"],
        "x_pitch": _x_pitch(c, w),
        "w_pitch": _w_pitch(c, w),
        "x_size": _x_elements(c, w),
        "w_size": _w_elements(c, w),
        "x_bytes": v * ITEMSIZE[w.dtype],
        "w_bytes": c["vector_width_w"] * ITEMSIZE[w.dtype],
        "rows_outside": w.padding[0] > 0 or last_row >= w.h,
        "columns_outside": w.padding[2] + _shift(c, w) > 0 or last_column >= w.w,
        "dynamic": _x_bytes(c, w) + _w_bytes(c, w) > STATIC_LIMIT,
        "w_offset": _x_bytes(c, w),
        "shared_bytes": _x_bytes(c, w) + _w_bytes(c, w),
        "x_elements": _x_bytes(c, w) // _item(c, w),
        "w_elements": _w_bytes(c, w) // _item(c, w),
        "row_length": _row_length(c, w),
        "wide_x": w.c * w.h * w.w > INDEX_LIMIT,
        "wide_w": kg * cg * w.r * w.s > INDEX_LIMIT,
        "wide_out": _out_elements(w) > INDEX_LIMIT,
        "reduce_threads": REDUCE_THREADS,
        "outputs": _out_elements(w),
    }


def derive(config: Config, workload: Any, device: Device) -> Mapping[str, Any]:
    """What the source sees as ``launch``."""
    return _facts(config, workload)


def resources(config: Config, workload: Any, device: Device) -> Estimate:
    """Threads, shared memory, sums and workspace of ``config``."""
    f = _facts(config, workload)
    return Estimate(f["threads"], f["shared_bytes"], _sums(config), _workspace(config, workload))


def _workspace(c: Mapping[str, Any], w: Any) -> int:
    return 4 * int(c["split_c"]) * _out_elements(w) if c["split_c"] > 1 else 0


def plan(config: Config, workload: Any, device: Device) -> LaunchPlan:
    """One launch, and with ``split_c`` a second one that adds the slices and runs the epilogue."""
    c: Mapping[str, Any] = config
    f = _facts(config, workload)
    inputs = (BufferArg("x"), BufferArg("w"))
    split = c["split_c"] > 1
    args = (*inputs, BufferArg("workspace")) if split else (*inputs, *epilogue_args(workload))
    grid = (_grid(c, workload), c["split_c"], 1)
    steps = [KernelStep("conv2d_direct", grid, (f["threads"], 1, 1), args, f["shared_bytes"] if f["dynamic"] else 0)]
    if split:
        blocks = _ceil(f["outputs"] // c["vector_width_out"], REDUCE_THREADS)
        arguments = (BufferArg("workspace"), *epilogue_args(workload))
        steps.append(KernelStep("conv2d_direct_reduce", (blocks, 1, 1), (REDUCE_THREADS, 1, 1), arguments))
    return LaunchPlan(tuple(steps), _workspace(c, workload)).check()


def _widest(rule: Any, name: str, c: dict[str, Any], w: Any) -> int:
    return max(v for v in (1, 2, 4, 8, 16) if rule({**c, name: v}, w, None))


def _complete(w: Any, device: Device, **chosen: Any) -> Config:
    """A config from the main choices: the widest legal copies, filter columns unrolled where they are few."""
    cg = _channels(w)[0]
    c: dict[str, Any] = dict(
        columns="adjacent",
        lanes="pixels",
        stage_x="shared",
        stage_w="shared",
        shared_x="c_outer",
        shared_w="k_inner",
        shared_type="stored" if w.dtype == "float32" else "wide",
        padding_x=0,
        padding_w=4,
        stages=1,
        fragment_c=1,
        reuse_row=False,
        unroll="none",
        unroll_c=1,
        raster="pixels",
        split_c=1,
        min_blocks=1,
    )
    c.update(chosen)
    while c["block_c"] > 1 and c["block_c"] >= 2 * cg:
        c["block_c"] //= 2
    if c["stage_w"] == "global":
        c["padding_w"] = 0
    if c["stage_x"] == c["stage_w"] == "global":
        c["shared_type"] = "stored"
    c["vector_width_x"] = _widest(_vector_x, "vector_width_x", c, w)
    c["vector_width_w"] = _widest(_vector_w, "vector_width_w", c, w)
    c["vector_width_out"] = _widest(_vector_out, "vector_width_out", c, w)
    for unroll, taps in (("s", w.s), ("rs", w.r * w.s)):
        if (
            (w.s if unroll == "s" else w.r) > 1
            and taps <= 16
            and _sums(c) * taps * c["fragment_c"] * c["unroll_c"] <= 1024
        ):
            c["unroll"] = unroll
    if c["reuse_row"] and (c["unroll"] == "none" or w.s == 1 or _row_length(c, w) * c["thread_p"] > 48):
        c["reuse_row"] = False
    return Config(c)


def _choices(w: Any, device: Device) -> Iterator[dict[str, Any]]:
    """Tiles in the order of preference; the last ones need no shared memory and fit every convolution."""
    kg = _channels(w)[1]
    q = min((v for v in (4, 7, 8, 14, 16, 28, 32) if v >= w.q), default=28 if w.q % 28 == 0 else 32 if w.q > 64 else 16)
    p = min((v for v in (1, 2, 4, 7, 8) if v >= w.p), default=4)
    blocks_k = [k for k in (64, 32, 16, 8, 4, 2, 1) if k < 2 * kg]
    for k in blocks_k:
        for tk in (8, 4, 2, 1):
            for tq in (4, 7, 2, 1):
                if k % tk == 0 and q % tq == 0 and 48 <= k // tk * p * (q // tq) <= 512:
                    yield dict(
                        block_k=k,
                        block_p=p,
                        block_q=q,
                        block_c=8,
                        thread_k=tk,
                        thread_p=1,
                        thread_q=tq,
                        reuse_row=True,
                    )
    for k in blocks_k:
        yield dict(block_k=k, block_p=max(1, 8 // k), block_q=16, block_c=4, thread_k=1, thread_p=1, thread_q=1)
    for bp, bq, tp in ((1, 32, 1), (8, 4, 1), (16, 64, 1), (16, 64, 4)):
        yield dict(
            block_k=1,
            block_p=bp,
            block_q=bq,
            block_c=1,
            thread_k=1,
            thread_p=tp,
            thread_q=1,
            stage_x="global",
            stage_w="global",
        )
    yield dict(
        block_k=8,
        block_p=1,
        block_q=4,
        block_c=1,
        thread_k=1,
        thread_p=1,
        thread_q=1,
        stage_x="global",
        stage_w="global",
    )
    yield dict(
        block_k=8,
        block_p=2,
        block_q=8,
        block_c=1,
        thread_k=1,
        thread_p=1,
        thread_q=1,
        stage_x="global",
        stage_w="global",
    )


def default(workload: Any, device: Device) -> Config:
    """The first preferred tile that keeps every rule, with the channels split where too few blocks would run."""
    for choice in _choices(workload, device):
        config = _complete(workload, device, **choice)
        if not TEMPLATE.violations(config, workload, device):
            blocks, steps = _grid(config, workload), _slices(config, workload)[0]
            wanted = min(device.sm_count // max(1, blocks), steps // 4)
            for split in (16, 8, 4, 2):
                candidate = config.replace(split_c=split)
                if split <= wanted and not TEMPLATE.violations(candidate, workload, device):
                    return candidate
            return config
    raise AssertionError(f"no default for {workload.key}")  # the contract test shows that the last choices always fit


def seeds(workload: Any, device: Device) -> list[Config]:
    """Bigger thread tiles, filters unstaged, and a cp.async pipeline beside the default."""
    w = workload
    nhwc = _nhwc(w)
    common: list[dict[str, Any]] = [
        dict(block_k=32, block_p=4, block_q=16, block_c=8, thread_k=8, thread_p=2, thread_q=2),
        dict(block_k=16, block_p=2, block_q=32, block_c=4, thread_k=4, thread_p=1, thread_q=4, reuse_row=True),
        dict(block_k=32, block_p=7, block_q=7, block_c=8, thread_k=4, thread_p=1, thread_q=7, reuse_row=True),
        dict(block_k=64, block_p=2, block_q=8, block_c=16, thread_k=8, thread_p=1, thread_q=4, stage_w="global"),
    ]
    if device.cc >= 80 and (w.dtype == "float32" or nhwc):
        inner = {"shared_x": "c_inner", "shared_w": "c_inner", "fragment_c": 4} if nhwc else {}
        common.append(
            dict(
                block_k=32,
                block_p=4,
                block_q=8,
                block_c=8,
                thread_k=4,
                thread_p=1,
                thread_q=4,
                stages=2,
                shared_type="stored",
                **inner,
            )
        )
    made = [_complete(w, device, **choice) for choice in common]
    return [c for c in dict.fromkeys(made) if not TEMPLATE.violations(c, w, device)]


def supports(workload: Any, device: Device) -> bool | str:
    """Every convolution with plain filters whose coordinates fit into 32 bits."""
    if workload.weights != "plain":
        return "reads plain filters, not pretransformed ones"
    if max(workload.h, workload.w) + 2**20 > INDEX_LIMIT // 2:
        return "image sides beyond 2^30 are not indexed"
    return True


TEMPLATE = Template(
    name="conv2d_direct",
    op="conv2d",
    summary="direct convolution on plain arithmetic units, every layout, dtype, filter and group",
    knobs=KNOBS,
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=resources,
    plan=plan,
    default=default,
    seeds=seeds,
    min_cc=75,
)
