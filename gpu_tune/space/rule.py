"""Rules: predicates over value indices, remembered where they were asked. Plain NumPy."""

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
_FLAT = 1 << 62
"""A rule of more points is remembered by rows: their numbers outgrow 64 bits."""


@dataclass
class Rule:
    """A predicate over the value indices in ``columns``, remembered in a table that fills as it is asked."""

    name: str
    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    holds: Callable[[tuple[int, ...]], bool]
    _table: NDArray[np.int8] | None = field(default=None, repr=False)
    _dict: dict[int | bytes, bool] = field(default_factory=dict, repr=False)

    @property
    def points(self) -> int:
        """Assignments of its columns."""
        return math.prod(self.sizes)

    def check(self, rows: Rows, columns: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Which rows keep the rule; ``columns`` says where in ``rows`` its columns are (default: the grid's)."""
        places = self.columns if columns is None else columns
        if self.points > _FLAT:
            return self._check_rows(np.ascontiguousarray(rows[:, list(places)], dtype=np.uint16))
        return self.check_flat(np.ravel_multi_index(tuple(rows[:, c] for c in places), self.sizes))

    def check_flat(self, flat: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The same for flat (row-major) indices over its own columns."""
        if self.points > _TABLE:
            unique, back = np.unique(flat, return_inverse=True)
            keys = unique.tolist()
            missing = [i for i in keys if i not in self._dict]
            self._dict.update(zip(missing, self._call(missing)))
            return np.array([self._dict[i] for i in keys], dtype=np.bool_)[back]
        if self._table is None:
            self._table = np.full(self.points, -1, dtype=np.int8)
        missing = np.unique(flat[self._table[flat] < 0]).tolist()
        if missing:
            self._table[missing] = self._call(missing)
        return self._table[flat] == 1

    @property
    def unmet(self) -> bool:
        """Whether it is known that no assignment of its columns keeps it: all were asked."""
        return self._table is not None and not (self._table != 0).any()

    def broken(self, draws: int, rng: np.random.Generator) -> float:
        """The share of random points that break the rule."""
        if self.points <= _FLAT:
            return float(np.mean(~self.check_flat(rng.integers(0, self.points, draws))))
        return float(np.mean(~self._check_rows(rng.integers(0, self.sizes, (draws, len(self.sizes)), dtype=np.uint16))))

    def _check_rows(self, rows: Rows) -> NDArray[np.bool_]:
        keys = [row.tobytes() for row in rows]
        self._dict.update((k, bool(self.holds(tuple(r.tolist())))) for k, r in zip(keys, rows) if k not in self._dict)
        return np.array([self._dict[k] for k in keys], dtype=np.bool_)

    def _call(self, flat: list[int]) -> list[bool]:
        points = np.stack(np.unravel_index(np.array(flat, dtype=np.int64), self.sizes), axis=1)
        return [bool(self.holds(tuple(point))) for point in points.tolist()]
