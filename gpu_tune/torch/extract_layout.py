"""How an operand lies in memory, in the words of a workload: transposed or not, elements between rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .extraction import NotAWorkload


class Placed(NamedTuple):
    """One operand as a batch of matrices. ``transposed``: its columns are contiguous, not its rows. ``ld``: elements
    between rows (or columns). ``copied``: no batch of matrices fits what lies there, a contiguous copy does."""

    transposed: bool
    ld: int
    copied: bool


def sizes(tensor: Any, dims: Sequence[int]) -> int:
    """The product of these dimensions; NotAWorkload where one depends on data, or is 0."""
    found = [tensor.shape[d] for d in dims]
    if not all(isinstance(size, int) for size in found):
        raise NotAWorkload("a size depends on data")
    if 0 in found:
        raise NotAWorkload("a size is 0")
    return math.prod(found)


def place(tensor: Any, batch: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> Placed:
    """How ``tensor`` lies as (batch, rows, columns), each made of some of its dimensions in this order."""
    count, r, c = (sizes(tensor, dims) for dims in (batch, rows, columns))
    across, down, along = (_joined(tensor, dims) for dims in (batch, rows, columns))
    last = max((*rows, *columns), default=0)
    turned = last in rows and tensor.shape[last] > 1  # of a contiguous copy, which keeps the order of dimensions
    copy = Placed(turned, r if turned else c, True)
    if across is None or down is None or along is None:
        return copy

    def fits(inner: int, outer: int, length: int, lines: int) -> int:
        """Elements between lines where those of ``length`` elements are contiguous; 0 where they are not."""
        ld = outer if lines > 1 else length
        whole = count == 1 or across == lines * ld
        return ld if (inner == 1 or length == 1) and ld >= length and whole else 0

    if ld := fits(along, down, c, r):
        return Placed(False, ld, False)
    if ld := fits(down, along, r, c):
        return Placed(True, ld, False)
    return copy


def _joined(tensor: Any, dims: Sequence[int]) -> int | None:
    """The stride of some dimensions taken as one; None where they do not lie so. Those of size 1 have no say."""
    told = [(tensor.shape[d], tensor.stride(d)) for d in dims if tensor.shape[d] > 1]
    for (_, outer), (size, inner) in itertools.pairwise(told):
        if outer != size * inner:
            return None
    return told[-1][1] if told else 1


def channels_last(tensor: Any) -> bool | None:
    """Whether a four-dimensional tensor lies as nhwc (True), as nchw (False), as both or neither (None: see
    :func:`contiguous`). Dimensions of size 1 have no say: their strides are arbitrary."""
    plain, last = contiguous(tensor, (0, 1, 2, 3)), contiguous(tensor, (0, 2, 3, 1))
    return last if plain != last else None


def contiguous(tensor: Any, order: Sequence[int]) -> bool:
    """Whether the dimensions of ``tensor``, in this order, lie contiguously."""
    expected = 1
    for d in reversed(order):
        if tensor.shape[d] > 1 and tensor.stride(d) != expected:
            return False
        expected *= tensor.shape[d]
    return True
