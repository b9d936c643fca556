"""Spaces: the valid configs of a template for one workload on one device, or of any knobs and constraints.

:class:`Space` works on index rows (see ``grid``); its public face speaks configs. Recorded spaces are spaces as well.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidConfig, TemplateError, require
from .features import Encoder
from .grid import COUNTED, Grid, Rows, Rule
from .knob import Config, Constraint, Knob

if TYPE_CHECKING:
    from ..cuda.device import Device
    from ..workload import Workload


@dataclass(frozen=True)
class Count:
    """How many configs are valid, of ``raw`` points. ``exact`` is False for an estimate."""

    exact: bool
    valid: int
    raw: int


@dataclass(frozen=True)
class Removed:
    """How many of the raw points a constraint removes, taken by itself. ``exact`` is False for an estimate."""

    exact: bool
    points: int


class Space:
    """The valid configs of ``knobs`` under ``constraints`` (called with workload and device None), or exactly ``rows``.

    Rows are value indices, (n, knobs) uint16; all randomness comes from ``rng``. A space of at most ``listing`` configs
    is scored whole by a search; of a larger one a pool is drawn. InvalidInput where there are no knobs, or two share a
    name.
    """

    listing = 20_000

    def __init__(
        self,
        name: str,
        knobs: Sequence[Knob],
        constraints: Sequence[Constraint] = (),
        rows: Rows | None = None,
        workload: Workload | None = None,
        device: Device | None = None,
    ) -> None:
        self.name, self.knobs, self.constraints = name, tuple(knobs), tuple(constraints)
        require(self.knobs, f"knobs of space {name}", (), "are none", "give one or more")
        for knob in self.knobs:
            require(
                isinstance(knob, Knob), f"knob of space {name}", knob, "is no Knob", "give gpu_tune.Knob(name, values)"
            )
        names = [k.name for k in self.knobs]
        require(len(set(names)) == len(names), f"knobs of space {name}", names, "share a name", "name each apart")
        self.workload, self.device = workload, device
        self._index: list[dict[Any, int]] = [{(type(v), v): i for i, v in enumerate(k.values)} for k in self.knobs]
        self._place = {k.name: i for i, k in enumerate(self.knobs)}
        self.grid = Grid([len(k.values) for k in self.knobs], [self._rule(c) for c in constraints], rows)
        self.encoder = Encoder(self.knobs)

    # --- configs --------------------------------------------------------------------------------------------------

    def default(self) -> Config | None:
        """The config an expert would start from, None without one."""
        return None

    def seeds(self) -> list[Config]:
        """Further good starts, valid ones only."""
        return []

    def tile(self, config: Config) -> object:
        """What of ``config`` decides most: configs of one tile are alike. Here the whole of it."""
        return config

    def __contains__(self, config: object) -> bool:
        if not isinstance(config, Config):
            return False
        try:
            return bool(self.grid.valid(self.rows([config]))[0])
        except InvalidConfig:
            return False

    def violations(self, config: Config) -> list[str]:
        """The constraints that ``config``, made of the space's knobs, breaks, by name and sentence; [] where valid."""
        row = self.rows([config])
        if self.grid.valid(row)[0]:
            return []
        pairs = zip(self.constraints, self.grid.rules)
        broken = [c for c, rule in pairs if not (rule.check(row)[0] if rule.columns else rule.holds(()))]
        return [f"{c.name}: {c.message}" for c in broken] or ["it is none of the listed configs"]

    def sample(self, n: int, rng: np.random.Generator) -> list[Config]:
        """``n`` distinct valid configs, near uniform; fewer when the space has fewer."""
        return self.configs(self.grid.sample(n, rng))

    def count(self, limit: int = COUNTED) -> Count:
        """Valid configs: exact where at most ``limit`` partial assignments were needed, else an estimate."""
        exact, valid = self.grid.count(limit)
        return Count(exact, min(valid, self.grid.raw), self.grid.raw)

    def removed(self) -> dict[str, Removed]:
        """For each constraint, how many raw points break it (they overlap)."""
        rng = np.random.default_rng(0)
        found: dict[str, Removed] = {}
        for rule in self.grid.rules:
            exact = rule.points <= 1 << 13
            share = np.mean(~rule.check_flat(np.arange(rule.points))) if exact else rule.broken(1 << 12, rng)
            found[rule.name] = Removed(exact, round(float(share) * self.grid.raw))
        return found

    # --- rows -----------------------------------------------------------------------------------------------------

    def rows(self, configs: Iterable[Config]) -> Rows:
        """Index rows; InvalidConfig names an unknown knob or value."""
        out = []
        for config in configs:
            if len(config) != len(self.knobs) or any(name not in config for name in self._place):
                odd = set(config) ^ set(self._place)
                raise InvalidConfig(
                    f"{self.name} config {config.key}: unknown or missing knobs {sorted(odd)}; has {list(self._place)}"
                )
            try:
                out.append([index[(type(config[k.name]), config[k.name])] for k, index in zip(self.knobs, self._index)])
            except KeyError as error:
                bad = [
                    f"{k.name}={config.get(k.name)!r} is not one of {k.values}"
                    for k, index in zip(self.knobs, self._index)
                    if k.name not in config or (type(config[k.name]), config[k.name]) not in index
                ]
                raise InvalidConfig(f"{self.name} config {config.key}: " + "; ".join(bad)) from error
        return np.array(out, dtype=np.uint16).reshape(-1, len(self.knobs))

    def configs(self, rows: Rows) -> list[Config]:
        return [Config({k.name: k.values[i] for k, i in zip(self.knobs, row)}) for row in rows.tolist()]

    def describe(self, rows: Rows) -> tuple[NDArray[np.float32], list[str]]:
        """What a model sees (n, f), and its names: knob features, then hardware features where they are known."""
        return self.encoder(rows), list(self.encoder.names)

    def coordinates(self, rows: Rows) -> NDArray[np.float32]:
        """Rows as points of a unit cube (n, d), for distances and Gaussian processes."""
        return self.encoder.coordinates(rows)

    def vary(self, a: Rows, b: Rows, rng: np.random.Generator, rate: float = 0.1) -> Rows:
        """Valid children of paired parents: uniform crossover, then each knob redrawn with chance ``rate``; invalid
        ones dropped.
        """
        children = np.where(rng.random(a.shape) < 0.5, a, b).astype(np.uint16)
        draws = rng.random(a.shape)
        fresh = np.stack([v[(draws[:, i] * len(v)).astype(np.intp)] for i, v in enumerate(self._values_left)], axis=1)
        children = np.where(rng.random(a.shape) < rate, fresh, children)
        return children[self.grid.valid(children)]

    @functools.cached_property
    def _values_left(self) -> list[NDArray[np.uint16]]:
        """Of each knob the indices of its values that the constraints of this knob alone leave (all, where none)."""
        found = [np.arange(size, dtype=np.uint16) for size in self.grid.sizes]
        for rule in self.grid.rules:
            if len(rule.columns) == 1:
                left = found[rule.columns[0]]
                kept = left[rule.check(left[:, None], (0,))]
                found[rule.columns[0]] = kept if len(kept) else left
        return found

    def steps(self, row: Rows) -> Rows:
        """Valid neighbours, nearest first: one knob to a next value, one knob to any value, then (knobs tied by a
        constraint) two knobs by one step each, as in "tile up, threads up", which single steps cannot cross."""
        sizes = self.grid.sizes
        near: list[Rows] = []
        far: list[Rows] = []
        pairs: list[Rows] = []
        for column, size in enumerate(sizes):
            for value in range(size):
                distance = abs(value - int(row[column]))
                if distance:
                    (near if distance == 1 or not self.knobs[column].ordinal else far).append(
                        _changed(row, (column, value))
                    )
        tied = {pair for rule in self.grid.rules for pair in itertools.combinations(sorted(rule.columns), 2)}
        if not self.grid.rules:
            tied = set(itertools.combinations([i for i, s in enumerate(sizes) if s > 1], 2))
        for i, j in sorted(tied):
            for di, dj in itertools.product((-1, 1), repeat=2):
                vi, vj = int(row[i]) + di, int(row[j]) + dj
                if 0 <= vi < sizes[i] and 0 <= vj < sizes[j]:
                    pairs.append(_changed(row, (i, vi), (j, vj)))
        rows = np.array([*near, *far, *pairs], dtype=np.uint16).reshape(-1, len(sizes))
        return rows[self.grid.valid(rows)]

    def _rule(self, constraint: Constraint) -> Rule:
        unknown = set(constraint.knobs) - set(self._place)
        if unknown:
            raise TemplateError(
                f"{self.name} constraint {constraint.name!r} reads {sorted(unknown)}; knobs are {list(self._place)}"
            )
        columns = tuple(self._place[n] for n in constraint.knobs)
        values = [self.knobs[c].values for c in columns]
        workload, device = self.workload, self.device

        def holds(index: tuple[int, ...]) -> bool:
            seen = {name: v[i] for name, v, i in zip(constraint.knobs, values, index)}
            try:
                return bool(constraint.holds(seen, workload, device))
            except Exception as error:
                if isinstance(error, KeyError) and error.args[0] in self._place:
                    raise TemplateError(
                        f"{self.name} constraint {constraint.name!r} reads the knob {error}, which it does not "
                        f"declare; add it to its knobs {constraint.knobs}"
                    ) from error
                raise TemplateError(
                    f"{self.name} constraint {constraint.name!r} raised {type(error).__name__} ({error}) for {seen}; "
                    "it must answer True or False for every assignment of its knobs"
                ) from error

        return Rule(constraint.name, columns, tuple(len(v) for v in values), holds)


def _changed(row: Rows, *changes: tuple[int, int]) -> Rows:
    out = row.copy()
    for column, value in changes:
        out[column] = value
    return out
