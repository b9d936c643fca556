"""Sizes of a depthwise config: what a thread and a block compute and read, registers, unrolled code.

``thread_p`` and ``thread_q`` count pixels of y or dy. The results of a thread are as many pixels of y; in a dgrad the
pixels of dx that a stride puts at each of them; in a wgrad the filters of its channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...common import ceil_div
from ...phases import phases
from ..tiles import whole_vectors

Config = Mapping[str, Any]
CODE_LIMIT = 2048
"""Multiply-adds and loads that are unrolled, at most."""


def channels(c: Config, w: Any) -> int:
    """Channels of one thread."""
    return int(c["vector_width"]) if w.layout == "nhwc" else 1


def threads(c: Config) -> int:
    return int(c["threads_c"] * c["threads_p"] * c["threads_q"])


def pixels(w: Any) -> tuple[int, int]:
    """Rows and columns that are dealt to threads: of y or dy; in a dgrad of dx, in strides."""
    if w.direction == "dgrad":
        return ceil_div(w.h, w.stride[0]), ceil_div(w.w, w.stride[1])
    return w.p, w.q


def tiles(c: Config, w: Any) -> tuple[int, int, int]:
    """Blocks along channels, rows and columns."""
    rows, columns = pixels(w)
    return (
        ceil_div(w.k, c["threads_c"] * channels(c, w)),
        ceil_div(rows, c["threads_p"] * c["thread_p"]),
        ceil_div(columns, c["threads_q"] * c["thread_q"]),
    )


class Reach(NamedTuple):
    """Along one axis, the ``pixels`` that a thread's tile meets; the first one lies ``first`` after the place of
    the tile's own first pixel: times the stride in an image, or in dy for a dgrad."""

    first: int
    pixels: int


def reach(c: Config, w: Any) -> tuple[Reach, Reach]:
    """Rows and columns of x (of dy in a dgrad) that a thread's tile meets.

    Pixel i of a dgrad's tile meets tap r at (i + padding - r dilation) / stride, where that is whole.
    """
    found = []
    for axis, (tile, taps) in enumerate(((c["thread_p"], w.r), (c["thread_q"], w.s))):
        stride, padding, span = w.stride[axis], w.padding[2 * axis], (taps - 1) * w.dilation[axis]
        if w.direction == "dgrad":
            first = ceil_div(padding - span, stride)
            found.append(Reach(first, (tile * stride - 1 + padding) // stride - first + 1))
        else:
            found.append(Reach(-padding, (tile - 1) * stride + span + 1))
    return found[0], found[1]


def window(c: Config, w: Any) -> tuple[int, int]:
    """Input rows and columns that a thread's tile touches."""
    rows, columns = reach(c, w)
    return rows.pixels, columns.pixels


def results(c: Config, w: Any) -> tuple[int, int]:
    """Rows and columns of pixels that a thread computes (in a wgrad: sums over)."""
    sh, sw = w.stride if w.direction == "dgrad" else (1, 1)
    return c["thread_p"] * sh, c["thread_q"] * sw


def live_sums(c: Config, w: Any) -> int:
    """Sums of a thread that the compiler must keep at once: it drops pixels outside the result, and those that no tap
    meets. Where blocks of a wgrad sum one tile of pixels, or pixels of a dgrad meet one tap each, it may finish one sum
    after the other.
    """
    if w.direction == "wgrad":
        return sums(c, w) if parts(c, w)[1] > 1 else channels(c, w)
    found = channels(c, w)
    axes = phases(w)
    for axis, tile in enumerate(results(c, w)):
        if w.direction == "fprop":
            found *= min(tile, (w.p, w.q)[axis])
        elif axes[axis].most_taps > 1:
            found *= sum(_meets_dy(c, w, axis, i) for i in range(min(tile, axes[axis].size)))
    return found


def _meets_dy(c: Config, w: Any, axis: int, pixel: int) -> bool:
    """Whether a tap puts ``pixel`` of a dgrad's tile on a pixel of dy, as far as the compiler knows."""
    place, stride, dilation = pixel + w.padding[2 * axis], w.stride[axis], w.dilation[axis]
    met = [
        (place - tap * dilation) // stride for tap in range((w.r, w.s)[axis]) if (place - tap * dilation) % stride == 0
    ]
    alone = tiles(c, w)[1 + axis] == c[("threads_p", "threads_q")[axis]] == 1
    return any(0 <= at < (w.p, w.q)[axis] for at in met) if alone else bool(met)


def sums(c: Config, w: Any) -> int:
    if w.direction == "wgrad":
        return int(w.r * w.s * channels(c, w))
    return int(math.prod(results(c, w)) * channels(c, w))


def registers(c: Config, w: Any) -> int:
    if w.direction == "wgrad":
        kept = c["thread_p"] * c["thread_q"]
    else:
        # as long as one is used
        rows = {"registers": w.r, "shared": 1, "memory": min(w.r, c["thread_p"])}[c["filters"]]
        kept = rows * w.s
    return int(sums(c, w) + channels(c, w) * (kept + window(c, w)[1]) + 40)


def code(c: Config, w: Any) -> int:
    macs = c["thread_p"] * c["thread_q"] * w.r * w.s
    return int((macs + math.prod(window(c, w))) * channels(c, w))


def shared_bytes(c: Config, w: Any) -> int:
    """Bytes of the block's filters (of a wgrad: their sums), rounded up to 16 (compilers widen loads up to there)."""
    staged = w.direction == "wgrad" or c["filters"] == "shared"
    return whole_vectors(4 * w.r * w.s * c["threads_c"] * channels(c, w)) if staged else 0


def steps(c: Config, w: Any) -> int:
    """Tiles of pixels that the blocks of a wgrad walk over."""
    rows = ceil_div(w.p, c["threads_p"] * c["thread_p"])
    return int(w.n * rows * ceil_div(w.q, c["threads_q"] * c["thread_q"]))


def parts(c: Config, w: Any) -> tuple[int, int]:
    """Tiles of pixels, and how many of them a part takes at most."""
    return steps(c, w), ceil_div(steps(c, w), c["split_k"])


def split_fits(c: Config, w: Any, device: Any) -> bool:
    """Whether every part has a tile of pixels, dealt evenly, and the sums of all parts fit into an eighth of memory."""
    return bool(c["split_k"] <= steps(c, w) and 4 * c["split_k"] * w.k * w.r * w.s <= device.memory_bytes // 8)


def sharing_lanes(c: Config, w: Any) -> int:
    """Lanes of a warp that have the same channels: they lie ``threads_c`` apart in nhwc, else side by side."""
    if w.layout == "nhwc":
        return int(max(1, 32 // c["threads_c"]))
    return int(min(32, c["threads_p"] * c["threads_q"]))
