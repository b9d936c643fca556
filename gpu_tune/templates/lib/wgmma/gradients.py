"""What the gradients of a convolution need of the wgmma families: what they take, and tiles that lie along m or n."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....space.knob import Knob
from ....workload import ITEMSIZE, Conv2d
from ..knobs import SPLIT_K
from ..phases import dense_problems
from .tiles import KNOBS


def knobs(*along: str, split_k: Knob = SPLIT_K) -> tuple[Knob, ...]:
    """Those of every family, with what 16-bit operands can have that are contiguous along the blocks ``along``: whole
    swizzles of at least 32 bytes."""

    def of_gradients(knob: Knob) -> Knob:
        if knob.name in along:
            return replace(knob, values=tuple(v for v in knob.values if isinstance(v, int) and v % 16 == 0))
        if knob.name == "split_k":
            return split_k
        return replace(knob, values=(64, 128)) if knob.name == "block_k" else knob

    return tuple(map(of_gradients, KNOBS))


def sixteen_bits(w: Any) -> bool | str:
    """True, or why wgmma does not read the operands of this gradient: they are contiguous along m or n."""
    if w.layout != "nhwc":
        return "the copy engine gathers pixels of contiguous channels: layout 'nhwc' only"
    if ITEMSIZE[w.dtype] != 2:
        return f"wgmma reads 16-bit data alone along rows or columns of the product, not {w.dtype}"
    return True


def dense(w: Conv2d) -> Conv2d | str:
    """The forward convolution that a dgrad of stride 1 is, or why it is none."""
    problems = dense_problems(w)
    return problems if isinstance(problems, str) else problems.convolutions[0]


def width(groups: int, channels: int) -> int:
    """Columns of a plain tile: the widest of 64 that lie in one group, or in one filter tap."""
    return 64 if groups == 1 else next(n for n in (64, 32, 16) if channels % n == 0)
