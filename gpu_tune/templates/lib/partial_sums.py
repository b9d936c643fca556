"""``dbias`` inside an epilogue: sums that a family's own kernel leaves in the workspace, for another kernel to add.

Each warp, or block, adds the results of its rows in an order that is always the same, column by column, and writes one
row of sums. Nothing is added by atomics, so results are bit-equal from run to run, and the result is not read again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...plan import BufferArg
from .common import ceil_div

ALIGNMENT = 256
"""Bytes at whose multiples the sums begin."""


@dataclass(frozen=True)
class PartialSums:
    """``rows`` of ``channels`` floats from byte ``start`` of the workspace on; ``first``: the row of a kernel's first
    tile, where several kernels share them."""

    rows: Any
    channels: int
    start: Any
    first: Any = 0

    @property
    def bytes(self) -> Any:
        """Bytes of all rows."""
        return 4 * self.rows * self.channels

    @property
    def end(self) -> Any:
        """Bytes of the workspace up to their end."""
        return self.start + self.bytes

    @property
    def argument(self) -> BufferArg:
        """Of the kernel that writes them: where the row of its first tile begins."""
        return BufferArg("workspace", self.start + 4 * self.first * self.channels)


def behind(workspace_bytes: Any, rows: Any, channels: int) -> PartialSums:
    """Sums behind ``workspace_bytes`` of a family's own."""
    return PartialSums(rows, channels, ceil_div(workspace_bytes, ALIGNMENT) * ALIGNMENT)


def joined(parts: Sequence[PartialSums | None]) -> list[PartialSums | None]:
    """Those of several kernels that run after one another, as one array, in which each has a first row; none where one
    has none."""
    every = [one for one in parts if one is not None]
    if len(every) < len(parts):
        return [None] * len(parts)
    ends = [0, *itertools.accumulate(one.rows for one in every)]
    start = max(one.start for one in every)
    return [replace(one, rows=ends[-1], start=start, first=first) for one, first in zip(every, ends)]
