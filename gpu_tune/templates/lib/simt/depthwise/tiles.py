"""Sizes of a conv2d_depthwise config: what a thread and a block compute and read, registers, unrolled code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...common import ceil_div
from ..tiles import whole_vectors

CODE_LIMIT = 2048
"""Multiply-adds and loads that are unrolled, at most."""


def channels(c: Mapping[str, Any], w: Any) -> int:
    """Channels of one thread."""
    return int(c["vector_width"]) if w.layout == "nhwc" else 1


def threads(c: Mapping[str, Any]) -> int:
    return int(c["threads_c"] * c["threads_p"] * c["threads_q"])


def tiles(c: Mapping[str, Any], w: Any) -> tuple[int, int, int]:
    """Blocks along channels, rows and columns."""
    return (
        ceil_div(w.k, c["threads_c"] * channels(c, w)),
        ceil_div(w.p, c["threads_p"] * c["thread_p"]),
        ceil_div(w.q, c["threads_q"] * c["thread_q"]),
    )


def window(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Input rows and columns that a thread's outputs touch."""
    rows = (c["thread_p"] - 1) * w.stride[0] + (w.r - 1) * w.dilation[0] + 1
    return rows, (c["thread_q"] - 1) * w.stride[1] + (w.s - 1) * w.dilation[1] + 1


def sums(c: Mapping[str, Any], w: Any) -> int:
    return int(c["thread_p"] * c["thread_q"] * channels(c, w))


def registers(c: Mapping[str, Any], w: Any) -> int:
    rows = {"registers": w.r, "shared": 1, "memory": min(w.r, c["thread_p"])}[c["filters"]]  # as long as one is used
    kept = rows * w.s
    return int(sums(c, w) + channels(c, w) * (kept + window(c, w)[1]) + 40)


def code(c: Mapping[str, Any], w: Any) -> int:
    return int(sums(c, w) * w.r * w.s + math.prod(window(c, w)) * channels(c, w))


def shared_bytes(c: Mapping[str, Any], w: Any) -> int:
    """Bytes of the block's filters, rounded up to 16 (compilers widen loads up to there)."""
    return whole_vectors(4 * w.r * w.s * c["threads_c"] * channels(c, w)) if c["filters"] == "shared" else 0
