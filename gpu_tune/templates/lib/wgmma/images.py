"""Images that the copy engine gathers pixel by pixel (TMA im2col): what it takes, and the tensor map of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....plan import Im2Col, TensorMapArg
from ....workload import ITEMSIZE
from ..common import channels
from . import launch, tiles
from .derived import Storage
from .tiles import Operand


def gathered(w: Any) -> bool | str:
    """True, or why the copy engine does not gather the image of the forward convolution ``w``."""
    size = ITEMSIZE[w.dtype]
    top, bottom, left, right = w.padding
    if w.c * size % 16:
        return f"the copy engine needs channels at multiples of 16 bytes: c={w.c} is {w.c * size} bytes"
    if w.alignment < 16:
        return f"the copy engine needs base addresses at multiples of 16 bytes, alignment={w.alignment}"
    corners = (-top, -left, bottom - (w.r - 1) * w.dilation[0], right - (w.s - 1) * w.dilation[1])
    if any(not -128 <= c <= 127 for c in corners):
        return f"the copy engine's bounding box reaches -128..127 beyond the image, padding and filter need {corners}"
    if max((w.r - 1) * w.dilation[0], (w.s - 1) * w.dilation[1]) > 255:
        return "the copy engine's filter offsets end at 255"
    if max(w.stride) > 8:
        return f"the copy engine's stride ends at 8, stride={w.stride}"
    if w.n * w.p * w.q + 1024 >= 2**31:
        return "more than 2^31 output pixels"
    return True


def image_map(buffer: str, w: Any, operand: Operand) -> TensorMapArg:
    """The map of the image of the forward convolution ``w``: its copies are boxes of ``operand``, a row for each
    output pixel."""
    size = ITEMSIZE[w.dtype]
    top, bottom, left, right = w.padding
    return TensorMapArg(
        buffer,
        tiles.MAP_DTYPE[w.dtype],
        (w.c, w.w, w.h, w.n),
        (w.c * size, w.w * w.c * size, w.h * w.w * w.c * size),
        (),
        swizzle=operand.swizzle_bytes,
        element_strides=(1, w.stride[1], w.stride[0], 1),
        l2_promotion=launch.L2_PROMOTION,
        im2col=Im2Col(
            (-left, -top),
            (right - (w.s - 1) * w.dilation[1], bottom - (w.r - 1) * w.dilation[0]),
            operand.box_inner,
            operand.slice_rows,
        ),
    )


def filter_map(w: Any, operand: Operand) -> TensorMapArg:
    """The map of filters as they lie in memory: channels of a group, filter taps, filters."""
    size, taps, cg = ITEMSIZE[w.dtype], w.r * w.s, channels(w)[0]
    return TensorMapArg(
        "w",
        tiles.MAP_DTYPE[w.dtype],
        (cg, taps, w.k),
        (cg * size, taps * cg * size),
        (operand.box_inner, 1, operand.slice_rows),
        swizzle=operand.swizzle_bytes,
        l2_promotion=launch.L2_PROMOTION,
    )


def with_image(stored: Storage, image: str, rank: int) -> Storage:
    """With copies that gather operand ``image`` ("a" or "b") from an image; boxes of the other have ``rank`` sides."""

    def load(name: str, operand: Operand) -> tuple[int, bool, bool, bool]:
        gathers = name == image
        return 4 if gathers else rank, operand.share > 1, gathers, stored.hint

    return replace(stored, loads=(load("a", stored.a), load("b", stored.b)))
