"""Grids: the valid index rows of a space, by constraint tables or from a list. Plain NumPy; knows no template.

A *row* holds one value index per knob (uint16). Columns that share a rule form a component; components are independent,
so their counts multiply and each is sampled by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .component import LISTED, Component
from .rule import Rows, Rule

COUNTED = 1 << 16
"""A component of at most this many valid rows (at every depth of its listing) is counted exactly."""


class Grid:
    """Valid rows of ``sizes[i]`` values per column under ``rules``; or, with ``rows``, exactly those rows."""

    def __init__(self, sizes: Sequence[int], rules: Sequence[Rule] = (), rows: Rows | None = None) -> None:
        self.sizes = tuple(sizes)
        self.rules = tuple(rules)
        self.empty = any(not rule.columns and not rule.holds(()) for rule in rules)
        self.parts = (
            [Component(range(len(sizes)), self.sizes, (), np.ascontiguousarray(rows, dtype=np.uint16))]
            if rows is not None
            else self._split()
        )
        self._all: Rows | None = None

    @property
    def none(self) -> bool:
        """Whether it is known that no row is valid: a component was listed, and has none."""
        return self.empty or any((rows := p.listed(LISTED)) is not None and not len(rows) for p in self.parts)

    @property
    def raw(self) -> int:
        """Points before any rule."""
        return math.prod(self.sizes)

    def valid(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows are valid; rows are (n, columns)."""
        ok = np.full(len(rows), not self.empty)
        for part in self.parts:
            index = np.flatnonzero(ok)
            if len(index):
                ok[index] = part.valid(rows[index])
        return ok

    def count(self, limit: int = COUNTED) -> tuple[bool, int]:
        """(exact, number of valid rows); components too large to list within ``limit`` are estimated."""
        exact, total = True, 0 if self.empty else 1
        for part in self.parts:
            sure, n = part.count(limit)
            exact, total = exact and sure, total * n
        return exact or total == 0, total

    def all(self, limit: int = LISTED) -> Rows | None:
        """Every valid row in a fixed order, or None when there are more than ``limit``."""
        if self.empty:
            return np.zeros((0, len(self.sizes)), dtype=np.uint16)
        if self._all is None:
            listed = [rows for part in self.parts if (rows := part.listed(limit)) is not None]
            if len(listed) < len(self.parts) or math.prod(map(len, listed)) > limit:
                return None
            out = np.zeros((1, len(self.sizes)), dtype=np.uint16)
            for part, rows in zip(self.parts, listed):
                out = np.repeat(out, len(rows), axis=0)
                out[:, list(part.columns)] = np.tile(rows, (len(out) // max(len(rows), 1), 1))
            self._all = out
        return self._all if len(self._all) <= limit else None  # whatever was listed before, under a larger limit

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """At most ``n`` distinct valid rows, near uniform; fewer only when the grid has fewer (or hides them, see
        ``Component.known``).
        """
        every = self.all()
        if every is not None:
            return every[rng.permutation(len(every))[:n]]
        found: dict[bytes, Rows] = {}
        for _ in range(2 if any(part.sparse for part in self.parts) else 20):
            want = n - len(found)
            if want <= 0:
                break
            draws = [part.draw(want + want // 4 + 1, rng) for part in self.parts]
            m = min(map(len, draws))
            rows = np.zeros((m, len(self.sizes)), dtype=np.uint16)
            for part, drawn in zip(self.parts, draws):
                rows[:, list(part.columns)] = drawn[rng.permutation(len(drawn))[:m]]
            for row in rows:
                found.setdefault(row.tobytes(), row)
        rows = np.array(list(found.values())[:n], dtype=np.uint16)
        return rows.reshape(-1, len(self.sizes))

    @property
    def hiding(self) -> list[Rule]:
        """The rules of sparse components: valid rows may be left that were not found."""
        return [rule for part in self.parts if part.sparse for rule in part.rules]

    def repair(self, row: Rows, rng: np.random.Generator) -> Rows | None:
        """A valid row near ``row`` (itself where valid; few columns changed, then small steps); None: none found."""
        if self.empty:
            return None
        out = row.copy()
        for part in self.parts:
            columns = list(part.columns)
            if (near := part.nearest(row[columns], rng)) is None:
                return None
            out[columns] = near
        return out

    def _split(self) -> list[Component]:
        groups = [{column} for column in range(len(self.sizes))]
        for columns in (set(rule.columns) for rule in self.rules if rule.columns):
            tied = [g for g in groups if g & columns]
            groups = [*(g for g in groups if g not in tied), columns.union(*tied)]
        return [
            Component(sorted(g), self.sizes, [r for r in self.rules if r.columns and r.columns[0] in g])
            for g in sorted(groups, key=min)
        ]
