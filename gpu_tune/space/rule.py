"""Predicates over value indices, remembered in tables. Plain NumPy; knows no template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint16]
"""Value indices, (rows, knobs)."""
_TABLE = 1 << 22
"""A rule of more points remembers in a dictionary, not in an array of them all."""


@dataclass
class Rule:
    """A predicate over the value indices in ``columns``, remembered in a table that fills as it is asked."""

    name: str
    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    holds: Callable[[tuple[int, ...]], bool]
    _table: NDArray[np.int8] | None = field(default=None, repr=False)
    _dict: dict[int, bool] = field(default_factory=dict, repr=False)

    @property
    def points(self) -> int:
        """Assignments of its columns."""
        return math.prod(self.sizes)

    def check(self, rows: Rows, columns: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Which rows keep the rule; ``columns`` says where in ``rows`` its columns are (default: the grid's)."""
        flat = np.zeros(len(rows), dtype=np.int64)
        for size, column in zip(self.sizes, self.columns if columns is None else columns):
            flat = flat * size + rows[:, column]
        return self.check_flat(flat)

    def check_flat(self, flat: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The same for flat (row-major) indices over its own columns."""
        if self.points > _TABLE:
            unique, back = np.unique(flat, return_inverse=True)
            known = np.fromiter((self._ask(int(i)) for i in unique), dtype=np.bool_, count=len(unique))
            return known[back]
        if self._table is None:
            self._table = np.full(self.points, -1, dtype=np.int8)
        missing = np.unique(flat[self._table[flat] < 0])
        for index in missing:
            self._table[index] = self._call(int(index))
        return self._table[flat] == 1

    def _ask(self, index: int) -> bool:
        if index not in self._dict:
            self._dict[index] = self._call(index)
        return self._dict[index]

    def _call(self, index: int) -> bool:
        values = []
        for size in reversed(self.sizes):
            index, value = divmod(index, size)
            values.append(value)
        return bool(self.holds(tuple(reversed(values))))
