"""Sizes of a conv2d_direct config: patches and filters in shared memory, threads, registers, parts of K."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...common import ceil_div, channels
from ..tiles import shared_item, whole_vectors


def threads(c: Mapping[str, Any]) -> int:
    return math.prod(max(1, c[f"block_{x}"] // c[f"thread_{x}"]) for x in "kpq")


def shift(c: Mapping[str, Any], w: Any) -> int:
    """Columns that an NCHW patch starts early so that its vectors are aligned."""
    return 0 if w.layout == "nhwc" else w.padding[2] * -1 % c["vector_width_x"]


def patch_rows(c: Mapping[str, Any], w: Any) -> int:
    """Rows of an input patch, halo included."""
    return int((c["block_p"] - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1)


def patch_columns(c: Mapping[str, Any], w: Any) -> int:
    """Columns of an input patch, halo included; whole vectors for NCHW."""
    columns = (c["block_q"] - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1
    v = 1 if w.layout == "nhwc" else c["vector_width_x"]
    return int(ceil_div(columns + shift(c, w), v) * v)


def x_pitch(c: Mapping[str, Any], w: Any) -> int:
    """Elements of one row of the patch in shared memory: a row of pixels, or the channels of one pixel."""
    row = c["block_c"] if c["shared_x"] == "c_inner" else patch_columns(c, w)
    return int(row + 4 * c["padding_x"] // shared_item(c, w))


def x_elements(c: Mapping[str, Any], w: Any) -> int:
    """Elements of a stage's patch in shared memory."""
    if c["stage_x"] == "global":
        return 0
    columns = patch_columns(c, w) if c["shared_x"] == "c_inner" else c["block_c"]
    return int(patch_rows(c, w) * x_pitch(c, w) * columns)


def w_pitch(c: Mapping[str, Any], w: Any) -> int:
    """Elements of one row of filters in shared memory: block_k channels, or all of one output channel."""
    row = c["block_k"] if c["shared_w"] == "k_inner" else c["block_c"] * w.r * w.s
    return int(row + 4 * c["padding_w"] // shared_item(c, w))


def w_elements(c: Mapping[str, Any], w: Any) -> int:
    """Elements of a stage's filters in shared memory."""
    if c["stage_w"] == "global":
        return 0
    return w_pitch(c, w) * (c["block_c"] * w.r * w.s if c["shared_w"] == "k_inner" else c["block_k"])


def x_bytes(c: Mapping[str, Any], w: Any) -> int:
    """Bytes of all stages' patches, rounded up to 16 (compilers widen loads up to there)."""
    return whole_vectors(x_elements(c, w) * shared_item(c, w) * c["stages"])


def w_bytes(c: Mapping[str, Any], w: Any) -> int:
    """Bytes of a stage's filters in shared memory."""
    return whole_vectors(w_elements(c, w) * shared_item(c, w) * c["stages"])


def row_length(c: Mapping[str, Any], w: Any) -> int:
    """Input columns that a thread's outputs of one row touch."""
    return int((c["thread_q"] - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1)


def registers(c: Mapping[str, Any], w: Any) -> int:
    """Registers a thread is expected to need, on the high side."""
    pixels = c["thread_p"] * (row_length(c, w) if c["reuse_row"] else c["thread_q"])
    return int(sums(c) + c["fragment_c"] * (pixels + c["thread_k"]) + 44)


def sums(c: Mapping[str, Any]) -> int:
    """Outputs of a thread."""
    return int(c["thread_k"] * c["thread_p"] * c["thread_q"])


def live_sums(c: Mapping[str, Any], w: Any) -> int:
    """Outputs of a thread that some thread has inside: sizes are compiled in, and the compiler drops all others."""
    apart = c["block_q"] // c["thread_q"] if c["columns"] == "spread" else 1
    reach = {"k": channels(w)[1], "p": w.p, "q": ceil_div(w.q, apart)}
    return math.prod(min(c[f"thread_{x}"], reach[x]) for x in "kpq")


def tiles(c: Mapping[str, Any], w: Any) -> tuple[int, int, int]:
    """Blocks along channels, rows and columns."""
    return ceil_div(channels(w)[1], c["block_k"]), ceil_div(w.p, c["block_p"]), ceil_div(w.q, c["block_q"])


def parts(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """K tiles of block_c channels, and how many of them a part takes."""
    steps = ceil_div(channels(w)[0], c["block_c"])
    return steps, ceil_div(steps, c["split_k"])


def outputs(w: Any) -> Any:
    return w.n * w.k * w.p * w.q


def grid(c: Mapping[str, Any], w: Any) -> int:
    """Blocks of the grid, parts not counted."""
    return math.prod(tiles(c, w)) * w.groups * w.n


def shared_bytes(c: Mapping[str, Any], w: Any) -> int:
    return x_bytes(c, w) + w_bytes(c, w)
