"""The convolution of a call's arrays: their shapes have its sizes, but for a pair that a gradient leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidInput, require
from ..plan.size import whole
from .conv2d import INPUTS, Conv2d

Shape = tuple[int, ...]
_OPEN = {"dgrad": ("image", "(h, w)"), "wgrad": ("filter", "(r, s)")}


def convolution(first: Shape, second: Shape, size: Any, out: Shape | None, **named: Any) -> Conv2d:
    """The Conv2d with fields ``named`` whose two operands (see :attr:`Conv2d.inputs`) have these shapes.

    ``size`` is what they leave open: rows and columns of the image (dgrad) or of a filter (wgrad). Where it is None,
    it is that of ``out``, the result's shape; without one it must follow from the operands: always for wgrad with
    dilation >= stride, and for dgrad with a stride of 1. InvalidInput elsewhere, and for shapes that do not agree.
    """
    direction, subject = named["direction"], ", ".join(f"{n}.shape" for n in INPUTS[named["direction"]])
    rule, remedy = "are not four-dimensional", "give images and filters in the order of the layout, nhwc or nchw"
    require(all(len(s) == 4 for s in (first, second)), subject, (first, second), rule, remedy)
    order = (0, 3, 1, 2) if str(named["layout"]).lower() == "nhwc" else (0, 1, 2, 3)
    (n, *one), (k, *two) = ([shape[i] for i in order] for shape in (first, second))
    if direction == "fprop":
        require(size is None, "size", size, "is for a gradient, not direction='fprop'", "leave it out")
        return Conv2d(n, one[0], one[1], one[2], k, two[1], two[2], **named)
    # the fields that are one number or several, resolved and checked, of a convolution that is always valid
    plain = Conv2d(1, 1, 1, 1, 1, 1, 1, **{name: named[name] for name in ("stride", "padding", "dilation")})
    groups = whole(named["groups"])
    sound = isinstance(groups, int) and groups >= 1
    require(sound, "groups", named["groups"], "is not a positive integer", "give 1, or a divisor of the channels")
    pads = plain.padding[0] + plain.padding[1], plain.padding[2] + plain.padding[3]
    axes = list(zip(one[1:], two[1:], plain.stride, pads, plain.dilation))
    if direction == "dgrad":
        found = [_images(*axis) for axis in axes]
    else:
        found = [_filters(*axis) for axis in axes]
    rows, columns = _settled(direction, size, None if out is None else tuple(out), order, found)
    if direction == "dgrad":
        return Conv2d(n, two[0] * groups, rows, columns, one[0], two[1], two[2], **named)
    return Conv2d(n, two[0], two[1], two[2], one[0], rows, columns, **named)


def _images(p: int, r: int, stride: int, pads: int, dilation: int) -> range:
    """Rows (or columns) of images whose result has ``p``: each stride's remainder is dropped, so as many as that."""
    least = (p - 1) * stride + dilation * (r - 1) + 1 - pads
    return range(max(1, least), least + stride)


def _filters(p: int, h: int, stride: int, pads: int, dilation: int) -> range:
    """Rows (or columns) of filters with which an image of ``h`` has a result of ``p``."""
    most = h + pads - 1 - (p - 1) * stride  # what dilation * (r - 1) may be: this, or less by no whole stride
    return range(max(0, -(-(most - stride + 1) // dilation)) + 1, most // dilation + 2)


def _settled(direction: str, size: Any, out: Shape | None, order: Sequence[int], found: Sequence[range]) -> Shape:
    """Rows and columns: as given, else those of ``out``, else the only ones there are."""
    what, names = _OPEN[direction]
    operands = " and ".join(INPUTS[direction])
    told = " and ".join(_told(r) + f" {name}" for r, name in zip(found, ("rows", "columns")))
    if not all(found):
        rule = f"are of no convolution with this stride, padding and dilation: its {what} would have {told}"
        raise InvalidInput(operands, ..., rule, "pass the arrays that the forward convolution had")
    subject, given = "size", size
    if size is None and out is not None:
        require(len(out) == 4, "out.shape", out, "is not four-dimensional", "pass an array of the result's shape")
        subject, given = "out.shape", tuple(out[i] for i in order[2:])
    if given is None:
        one = all(len(r) == 1 for r in found)
        require(one, subject, ..., f"is open: the {what} may have {told}", f"pass size={names}, or out=")
        return tuple(r[0] for r in found)
    pair = tuple(map(whole, given)) if isinstance(given, (tuple, list)) else (whole(given),) * 2
    valid = len(pair) == 2 and all(type(v) is int for v in pair)
    remedy = f"give size={names}, rows and columns of the {what}, or leave it out where they follow from {operands}"
    require(valid, subject, given, f"is no integer or pair {names}", remedy)
    fits = all(v in r for v, r in zip(pair, found))
    require(
        fits, subject, given, f"does not fit {operands}: the {what} has {told}", "give such a size, or leave it out"
    )
    return pair


def _told(found: range) -> str:
    if len(found) > 1:
        return f"{found[0]} to {found[-1]}"
    return str(found[0]) if found else "no"
