"""Components of a grid: columns tied together by rules, and the valid rows of these. Plain NumPy.

One is explored breadth first, column by column, pruned as soon as a rule's columns are known. Where a level grows
beyond a limit, a uniform draw of it goes on: every valid row is then as likely as any other to be kept, and the product
of the ratios estimates how many there are (stochastic enumeration; Rubinstein, Ridder and Vaisman 2014, "Fast
Sequential Monte Carlo Methods", chapter 5).

A predicate over many knobs prunes nothing before all of them are known. Where hardly a point keeps it, valid rows are
looked for among the neighbours of those that are known, within a fixed number of calls (no clock has a say).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .rule import Rows, Rule

LISTED = 1 << 13
"""A component of at most this many valid rows (at every depth of its listing) is listed for sampling."""
_PROJECTED = 1 << 12
"""A rule of at most this many points is tabled whole, and prunes before all its columns are known."""
SPARSE = LISTED // 32
"""A component is sparse where listing draws leaves fewer valid rows than this."""
_TRIED = 1 << 15
"""Points that are tried for a sparse component's first valid rows, beyond those that listing draws tried."""
_KNOWN = 1 << 10
"""Valid rows of a sparse component that are kept to start from."""
_DRAWN = 1 << 12
"""Points that one draw from a sparse component tries."""
_PAIRS = 256
"""Points that are tried at a time: changes of two columns of known rows, and as many elsewhere."""

log = logging.getLogger(__name__)


class Component:
    """Columns tied together by rules. ``rows`` are all its valid rows where they were given (in ``columns``' order)."""

    def __init__(
        self, columns: Sequence[int], sizes: Sequence[int], rules: Sequence[Rule], rows: Rows | None = None
    ) -> None:
        self.columns = tuple(columns)
        self.sizes = tuple(sizes[c] for c in columns)
        self.rules = tuple(rules)
        self.rows = rows
        self._keys = None if rows is None else {r.tobytes() for r in rows}
        self._explored: dict[int, tuple[Rows, float]] = {}
        self._known: Rows | None = None
        where = {column: i for i, column in enumerate(self.columns)}
        self._where = [tuple(where[c] for c in rule.columns) for rule in rules]
        self.order = self._ordered()
        self._tests = self._plan()

    def valid(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the grid's rows are valid here."""
        ok = np.ones(len(rows), dtype=np.bool_)
        for rule in self.rules:
            ok[ok] = rule.check(rows[ok])
        if self._keys is not None:
            own = np.ascontiguousarray(rows[:, list(self.columns)], dtype=np.uint16)
            ok = np.fromiter((r.tobytes() in self._keys for r in own), dtype=np.bool_, count=len(own))
        return ok

    def explore(self, limit: int) -> tuple[Rows, float]:
        """Valid rows, and how many each stands for: 1.0 when they are all, more when a level outgrew ``limit``."""
        if self.rows is not None:
            return self.rows, 1.0
        if limit not in self._explored:
            self._explored[limit] = self._explore(limit, np.random.default_rng(0))
        return self._explored[limit]

    def listed(self, limit: int) -> Rows | None:
        """Every valid row, or None when a level of the listing has more than ``limit``."""
        rows, scale = self.explore(LISTED)
        if scale > 1.0 and limit > LISTED and len(rows) * scale < 4 * limit:  # else a second, larger look is hopeless
            rows, scale = self.explore(limit)
        return rows if scale == 1.0 and len(rows) <= limit else None

    def count(self, limit: int) -> tuple[bool, int]:
        """(exact, valid rows)."""
        if not self.rules and self.rows is None:
            return True, math.prod(self.sizes)
        listed = self.listed(limit)
        if listed is not None:
            return True, len(listed)
        rows, scale = self.explore(LISTED)
        return scale == 1.0, round(len(rows) * scale)

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """Up to ``n`` valid rows, repeats possible; of a sparse component known ones and those near: less even."""
        if not self.rules and self.rows is None:
            return np.stack([rng.integers(0, s, n, dtype=np.uint16) for s in self.sizes], axis=1)
        rows, scale = self.explore(LISTED)
        if self.sparse:
            rows = np.concatenate([self.known, self._fresh(n, rng)])
        elif scale > 1.0 and n > len(rows) // 2:
            rows, scale = self._explore(max(LISTED, 4 * n), rng)
        return rows[rng.integers(0, len(rows), n)] if len(rows) else rows

    def nearest(self, row: Rows, rng: np.random.Generator) -> Rows | None:
        """A valid row near ``row``."""
        if not self.rules and self.rows is None:
            return row
        rows = self.rows if self.rows is not None else self.known if self.sparse else self.listed(LISTED)
        if rows is None:
            return self._search(row, rng)
        if not len(rows):
            return None
        steps = np.abs(rows.astype(np.int32) - row.astype(np.int32))
        distance = (steps > 0).sum(axis=1) + steps.sum(axis=1) / (1.0 + sum(self.sizes))
        ties = np.flatnonzero(distance == distance.min())
        return rows[ties[rng.integers(len(ties))]]

    @property
    def sparse(self) -> bool:
        """Whether hardly any of the points that listing draws are valid."""
        rows, scale = self.explore(LISTED)
        return scale > 1.0 and len(rows) < SPARSE

    @property
    def known(self) -> Rows:
        """Valid rows of a sparse component, distinct: found from random points by changing one column, then among the
        neighbours of those that are found. Always the same ones; none where they hide from ``_TRIED`` points."""
        if self._known is None:
            rng = np.random.default_rng(0)
            explored, _ = self.explore(LISTED)
            found, tried = {row.tobytes(): row for row in explored}, 0
            if not found and any(self._tests[:-1]):
                first = self._search(None, rng)
                found.update({} if first is None else {first.tobytes(): first})
            visited = 0  # of the rows found, in the order in which they were found
            while tried < _TRIED and len(found) < _KNOWN:
                rows = list(found.values())
                if visited < len(rows):
                    near, visited = self._around(rows[visited], rng), visited + 1
                elif rows:
                    near = self._beside(np.array(rows), rng)
                else:
                    near = self._around(rng.integers(0, self.sizes, dtype=np.uint16), rng)
                tried += len(near)
                for row in near[self._holds(near)]:
                    found.setdefault(row.tobytes(), row)
            self._known = np.array(list(found.values()), dtype=np.uint16).reshape(-1, len(self.sizes))
            wide = [rule for rule in self.rules if rule.points > _PROJECTED]
            log.warning(
                "%s: %d valid rows were found among some %d points; they and their neighbours are drawn from. Split it "
                "into constraints that read fewer knobs: one of at most %d points prunes before all knobs are known",
                " and ".join(f"constraint {rule.name!r} over {len(rule.columns)} knobs" for rule in wide),
                len(found),
                tried + LISTED,
                _PROJECTED,
            )
        return self._known

    def _around(self, row: Rows, rng: np.random.Generator) -> Rows:
        """A row's changes of one column, all of them, and some of two; not all valid."""
        ones = np.repeat(row[None], sum(self.sizes), axis=0)
        at = np.repeat(np.arange(len(self.sizes)), self.sizes)
        ones[np.arange(len(ones)), at] = np.concatenate([np.arange(s) for s in self.sizes])
        twos = self._changed(np.repeat(row[None], _PAIRS, axis=0), rng)
        return np.concatenate([ones, twos])

    def _changed(self, rows: Rows, rng: np.random.Generator) -> Rows:
        """The rows with one or two random columns redrawn."""
        out = rows.copy()
        for _ in range(2):
            at = rng.integers(0, len(self.sizes), len(out))
            out[np.arange(len(out)), at] = (rng.random(len(out)) * np.array(self.sizes)[at]).astype(np.uint16)
        return out

    def _beside(self, known: Rows, rng: np.random.Generator) -> Rows:
        """Points to try: changes of one or two columns of known rows, and as many random ones."""
        near = self._changed(known[rng.integers(0, len(known), _PAIRS)], rng)
        return np.concatenate([near, rng.integers(0, self.sizes, near.shape, dtype=np.uint16)])

    def _fresh(self, n: int, rng: np.random.Generator) -> Rows:
        """Up to ``n`` valid rows beside known ones and elsewhere; repeats possible."""
        found, tried = self.known[:0], 0
        while len(self.known) and len(found) < n and tried < _DRAWN:
            rows = self._beside(self.known, rng)
            found, tried = np.concatenate([found, rows[self._holds(rows)]]), tried + len(rows)
        return found

    def _holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of this component's rows keep all its rules."""
        ok = np.ones(len(rows), dtype=np.bool_)
        for rule, where in zip(self.rules, self._where):
            ok[ok] = rule.check(rows[ok], where)
        return ok

    def _explore(self, limit: int, rng: np.random.Generator) -> tuple[Rows, float]:
        rows, scale = np.zeros((1, len(self.columns)), dtype=np.uint16), 1.0
        for depth, position in enumerate(self.order):
            size = self.sizes[position]
            rows = np.repeat(rows, size, axis=0)
            rows[:, position] = np.tile(np.arange(size, dtype=np.uint16), len(rows) // size)
            rows = self._keep(rows, depth, tabled=True)
            if scale > 1.0 and len(rows) > limit:  # a draw already: spare predicates, which cost Python time
                rows, scale = _thinned(rows, scale, limit, rng)
            rows = self._keep(rows, depth, tabled=False)
            if len(rows) > limit or (scale > 1.0 and len(rows) > limit // 2):
                rows, scale = _thinned(rows, scale, limit // 2, rng)
        return rows, scale

    def _keep(self, rows: Rows, depth: int, tabled: bool | None = None) -> Rows:
        """The rows that pass the tests at ``depth``: the tabled ones, those that call predicates, or (None) all."""
        for rule, columns, table in self._tests[depth]:
            if tabled is not None and tabled != (table is not None):
                continue
            if table is None:
                rows = rows[rule.check(rows, columns)]
            else:
                rows = rows[table[tuple(rows[:, c] for c in columns)]]
        return rows

    def _plan(self) -> list[list[tuple[Rule, tuple[int, ...], NDArray[np.bool_] | None]]]:
        """The tests at each depth: rules whose columns are then known, and projections of small rules that are partly
        known.
        """
        plan: list[list[tuple[Rule, tuple[int, ...], NDArray[np.bool_] | None]]] = [[] for _ in self.order]
        depth_of = {position: depth for depth, position in enumerate(self.order)}
        for rule, where in zip(self.rules, self._where):
            depths = sorted(depth_of[p] for p in where)
            if rule.points > _PROJECTED:
                plan[depths[-1]].append((rule, where, None))
                continue
            table = rule.check_flat(np.arange(rule.points)).reshape(rule.sizes)
            for depth in depths:
                unknown = tuple(axis for axis, p in enumerate(where) if depth_of[p] > depth)
                known = tuple(p for p in where if depth_of[p] <= depth)
                projected: NDArray[np.bool_] = np.asarray(table.any(axis=unknown)) if unknown else table
                if not projected.all():
                    plan[depth].append((rule, known, projected))
        for tests in plan:
            tests.sort(key=lambda test: test[2] is None)  # tabled tests first: fewer rows reach the predicates
        return plan

    def _search(self, wish: Rows | None, rng: np.random.Generator, budget: int = 20_000) -> Rows | None:
        """Depth first with backtracking: values near ``wish`` first (random without one); None beyond ``budget``
        nodes.
        """
        row = np.zeros((1, len(self.columns)), dtype=np.uint16)
        stack: list[Iterator[int]] = []

        def choices(depth: int) -> Iterator[int]:
            size = self.sizes[self.order[depth]]
            noise = rng.random(size) * 0.5
            if wish is not None:
                noise += np.abs(np.arange(size) - int(wish[self.order[depth]]))
            return iter(np.argsort(noise, kind="stable").tolist())

        stack.append(choices(0))
        while stack and budget:
            depth = len(stack) - 1
            value = next(stack[-1], None)
            if value is None:
                stack.pop()
                continue
            budget -= 1
            row[0, self.order[depth]] = value
            if len(self._keep(row, depth)):
                if len(stack) == len(self.order):
                    return row[0].copy()
                stack.append(choices(len(stack)))
        return None

    def _ordered(self) -> list[int]:
        """Columns so that rules complete early: next the column that completes most, then sits in most, then is
        smallest.
        """
        order: list[int] = []

        def rank(p: int) -> tuple[float, ...]:
            known = {*order, p}
            shares = [len(known.intersection(w)) / len(w) for w in self._where if p in w]
            closeness = max((share for share in shares if share < 1), default=0.0)
            return (-shares.count(1), -closeness, self.sizes[p], p)

        while len(order) < len(self.columns):
            order.append(min(set(range(len(self.columns))).difference(order), key=rank))
        return order


def _thinned(rows: Rows, scale: float, limit: int, rng: np.random.Generator) -> tuple[Rows, float]:
    """``limit`` of the rows, uniformly drawn, and how many each then stands for."""
    return rows[np.sort(rng.permutation(len(rows))[:limit])], scale * len(rows) / limit
