"""Sizes of a config of the gradients: the product behind them, its tiles, what a thread keeps and copies.

dgrad: rows are pixels of dx, columns channels of x, the depth is k times filter taps. wgrad: rows are filters, columns
taps and channels of a filter, the depth is pixels of dy. Both for each group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .....workload import ITEMSIZE
from ...common import ceil_div, channels
from ...phases import phases
from ..tiles import whole_vectors

Config = Mapping[str, Any]
PIECE = 4
"""Rows or columns of a thread that lie side by side, at most: what one access of shared memory reads."""


def problems(w: Any) -> int:
    """Dense products of each group."""
    return math.prod(axis.count for axis in phases(w)) if w.direction == "dgrad" else 1


def extents(w: Any) -> tuple[int, int]:
    """Rows (of the largest phase) and columns of one product."""
    if w.direction == "wgrad":
        return int(w.product[0]), int(w.product[1])
    return w.n * math.prod(axis.pixels for axis in phases(w)), channels(w)[0]


def steps(c: Config, w: Any) -> int:
    """Tiles along the depth of the product (of the phase with most taps)."""
    if w.direction == "wgrad":
        return ceil_div(w.product[2], c["block_k"])
    return math.prod(axis.most_taps for axis in phases(w)) * ceil_div(channels(w)[1], c["block_k"])


def parts(c: Config, w: Any) -> tuple[int, int]:
    """Tiles along the depth, and how many of them a part takes."""
    return steps(c, w), ceil_div(steps(c, w), c["split_k"])


def tiles(c: Config, w: Any) -> tuple[int, int]:
    """Tiles down and across one product."""
    rows, columns = extents(w)
    return ceil_div(rows, c["block_m"]), ceil_div(columns, c["block_n"])


def grid(c: Config, w: Any) -> int:
    """Blocks of the grid, parts not counted."""
    return math.prod(tiles(c, w)) * problems(w) * w.groups


def outputs(w: Any) -> int:
    """Elements of the result."""
    return math.prod(w.arrays()["out"].shape)


def threads(c: Config) -> int:
    """Threads of a block, one a thread tile."""
    return int(max(1, c["block_m"] // c["thread_m"]) * max(1, c["block_n"] // c["thread_n"]))


def piece(c: Config, x: str) -> int:
    """Neighbouring rows (m) or columns (n) of a thread."""
    return min(PIECE, c[f"thread_{x}"])


def along_depth(w: Any, which: str) -> bool:
    """Whether memory of operand ``which`` (a or b) runs along the product's depth: channels of dy (nhwc dgrad), or
    pixels (nchw wgrad)."""
    if w.direction == "dgrad":
        return which == "a" and w.layout == "nhwc"
    return w.layout == "nchw"


def pitch(c: Config, which: str) -> int:
    """Elements from one row of operand ``which`` in shared memory to the next: its rows are the tile's depth."""
    return int(c["block_m" if which == "a" else "block_n"] + c[f"padding_{which}"])


def operand_bytes(c: Config, which: str) -> int:
    """Bytes of all stages of an operand, as float (int), rounded up to 16: compilers widen loads up to there."""
    return whole_vectors(4 * pitch(c, which) * c["block_k"] * c["stages"])


def shared_bytes(c: Config, w: Any) -> int:
    return operand_bytes(c, "a") + operand_bytes(c, "b")


def copies(c: Config) -> tuple[int, int]:
    """Vectors of A's tile and of B's that one thread copies."""
    count = threads(c)
    a, b = c["block_m"] * c["block_k"] // c["vector_width_a"], c["block_n"] * c["block_k"] // c["vector_width_b"]
    return ceil_div(a, count), ceil_div(b, count)


def sums(c: Config) -> int:
    """Results of a thread."""
    return int(c["thread_m"] * c["thread_n"])


def live_sums(c: Config, w: Any) -> int:
    """Results of a thread that some thread has inside: sizes are compiled in, and the compiler drops all others.

    How many pixels a phase has is known where there is one phase alone. Where a block sums one tile of the depth, the
    compiler may finish one row of sums after the other.
    """
    total, blocks = 1, {"m": extents(w)[0], "n": extents(w)[1]}
    for x, extent in blocks.items():
        size, width = c[f"thread_{x}"], piece(c, x)
        if extent < c[f"block_{x}"] and (x == "n" or problems(w) == 1):
            lanes = c[f"block_{x}"] // size
            size = sum(min(width, max(0, extent - p * lanes * width)) for p in range(size // width))
        total *= size
    return total if steps(c, w) > c["split_k"] or c["block_k"] > 8 else min(total, c["thread_n"])


def registers(c: Config, w: Any) -> int:
    """Registers a thread is expected to need, on the high side: sums, fragments, copies and where they come from."""
    words = [max(1, c[f"vector_width_{x}"] * ITEMSIZE[w.dtype] // 4) for x in "ab"]
    moved = sum(n * (4 + size) for n, size in zip(copies(c), words))
    return sums(c) + c["thread_m"] + c["thread_n"] + moved + 44
