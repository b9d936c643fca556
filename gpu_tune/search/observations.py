"""What was asked and told of one space in a search. Rows are index rows; a time of nan is a failure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..space.grid import Rows
from ..space.space import Space


class Observations:
    """The rows of ``space`` that were asked for, and how those ended that were told. ``gain``: the smallest relative
    gain that ends a stall."""

    def __init__(self, space: Space, gain: float) -> None:
        self.space, self.gain = space, gain
        self.taken: set[bytes] = set()
        self._rows: dict[bytes, Rows] = {}
        self._times: dict[bytes, float] = {}
        self._kinds: dict[bytes, frozenset[str]] = {}
        self._pruned: dict[bytes, frozenset[str]] = {}

    @property
    def told(self) -> int:
        """Trials that ended."""
        return len(self._rows)

    @property
    def best(self) -> float:
        """Best time so far, inf without one."""
        return min((t for t in self._times.values() if not math.isnan(t)), default=math.inf)

    def take(self, row: Rows) -> bool:
        """Mark a row as asked for; False when it already was."""
        key = row.tobytes()
        if key in self.taken:
            return False
        self.taken.add(key)
        return True

    def tell(self, row: Rows, time: float, kinds: frozenset[str] = frozenset()) -> None:
        """A trial's end, and what was amiss with its build; the better of two tellings of one config counts."""
        key = row.tobytes()
        self.taken.add(key)
        self._rows[key] = row
        known = self._times.get(key, math.nan)
        self._times[key] = time if math.isnan(known) else known if math.isnan(time) else min(time, known)
        self._pruned.pop(key, None)
        if kinds:
            self._kinds[key] = kinds

    def prune(self, row: Rows, kinds: frozenset[str]) -> None:
        """A build of these kinds was left out unmeasured: a trial whose time is not known."""
        key = row.tobytes()
        self.taken.add(key)
        if key not in self._times:
            self._rows[key], self._pruned[key] = row, kinds

    def trials(self) -> tuple[Rows, NDArray[np.float64]]:
        """Rows and times told, in an order that does not depend on when each was told. A build that was left out counts
        with the median time of its kind, and not at all where nothing is known of that."""
        supposed = {kinds: self._supposed(kinds) for kinds in set(self._pruned.values())}
        keys = sorted(k for k in self._rows if k not in self._pruned or not math.isnan(supposed[self._pruned[k]]))
        times = np.array([supposed[self._pruned[k]] if k in self._pruned else self._times[k] for k in keys])
        return self._matrix(keys), times

    def _supposed(self, kinds: frozenset[str]) -> float:
        """The time taken for one left out: the median of the timed ones of its kinds, nan where there is none."""
        alike = [t for k, t in self._times.items() if not math.isnan(t) and kinds & self._kinds.get(k, frozenset())]
        return float(np.median(alike)) if alike else math.nan

    def first(self, n: int) -> tuple[Rows, NDArray[np.float64]]:
        """Rows and times of the first ``n`` that were told of a measurement, in that order."""
        keys = list(self._times)[:n]
        return self._matrix(keys), np.array([self._times[k] for k in keys])

    def stalled(self) -> tuple[int, int]:
        """Measurements told, and how many of them since the last gain."""
        since, best = 0, math.inf
        for t in self._times.values():
            if t < best * (1 - self.gain):
                best, since = t, 0
            else:
                since += 1
        return len(self._times), since

    def pending(self) -> Rows:
        """Rows that were asked for and whose end is not told yet."""
        return self._matrix([np.frombuffer(key, dtype=np.uint16) for key in sorted(self.taken - self._rows.keys())])

    def free(self, rows: Rows) -> Rows:
        """The distinct rows that were not asked for yet, in order."""
        fresh: dict[bytes, int] = {}
        for i, row in enumerate(rows):
            key = row.tobytes()
            if key not in self.taken:
                fresh.setdefault(key, i)
        return rows[list(fresh.values())]

    def _matrix(self, rows: list[bytes] | list[NDArray[np.uint16]]) -> Rows:
        found = [self._rows[r] if isinstance(r, bytes) else r for r in rows]
        return np.array(found, dtype=np.uint16).reshape(-1, len(self.space.knobs))
