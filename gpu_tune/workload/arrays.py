"""What a workload says of its arrays, and of other workloads that compute the same on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .dtypes import ITEMSIZE

if TYPE_CHECKING:
    from . import Workload


@dataclass(frozen=True)
class ArraySpec:
    """One array of a call: ``shape``, dtype name, ``strides`` in elements (empty: contiguous)."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] = ()

    @property
    def element_strides(self) -> tuple[int, ...]:
        """Strides in elements, contiguous ones filled in."""
        return self.strides or tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    @property
    def span(self) -> int:
        """Elements from the first to the last, gaps included."""
        return 1 + sum((d - 1) * s for d, s in zip(self.shape, self.element_strides))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements themselves, gaps not counted."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class View:
    """``workload`` computes the same on the same memory; ``buffers`` maps its buffer names to the origin's."""

    workload: Workload
    buffers: Mapping[str, str]

    def origin(self, buffer: str) -> str:
        """The origin's name of ``buffer``."""
        return self.buffers.get(buffer, buffer)
