"""One space's side of a search: what was tried there, and what to try next.

A batch is filled from four sources in fixed shares, so that no one of them can starve the rest: what a Gaussian process
finds most promising, the tree ranker's best, genetic children of the best trials (which no model may veto: they find
the narrow basins that a model fitted elsewhere expects nothing of), and random configs. While the search is stalled, a
third of each batch is filled likewise from the part of the space where a value of the best trials is excluded
(``observations.diversify``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.gaussian_process import GaussianProcess
from ..model.ranker import Ranker
from ..model.transfer import HistoryGroup, TransferModel
from ..space.grid import Rows
from ..space.space import Space
from .observations import ExcludedValue, Observations, diversify, since_gain

GOLDEN, PLASTIC = 0.6180339887498949, 0.7548776662466927
"""Steps of two low-discrepancy sequences. Irrational steps keep the proportions over small batches; two that are no
multiples of each other keep the two divisions independent."""


@dataclass(frozen=True)
class Settings:
    """How a batch is filled; shares are of the slots left after the starts. Chosen on recorded spaces
    (bench.search).
    """

    initial: int = 8
    spread: int = 8
    """Candidates drawn for each initial config; the one farthest from the others is taken."""
    gaussian_process: float = 0.5
    trees: float = 0.2
    children: float = 0.2
    elite: int = 24
    steps: float = 0.75
    """Share of the children that are one step from a parent instead of a cross of two."""
    mutation: float = 0.1
    pool: int = 1024
    """Configs scored in a space that is not scored whole."""
    gaussian_process_trials: int = 160
    gaussian_process_pool: int = 256
    early: int = 8
    """Batch until ``early_until`` trials were told: what the first ones teach is worth more than their number."""
    early_until: int = 64
    prior_weight: float = 0.5
    """Share of the trees' slots that history picks alone; it decays to none over ``prior_decay`` own trials."""
    prior_decay: int = 64
    min_own_trials: int = 16
    """Own trials after which history that does not correlate with them is left aside."""
    stall: int = 24
    """Trials without a gain after which the share ``diversify`` of each batch comes from where a value is excluded:
    ``diversify_turn`` trials for each of the first ``diversify_values`` values in turn."""
    diversify: float = 0.33
    diversify_turn: int = 16
    diversify_values: int = 4
    diversify_trials: int = 80
    diversify_pool: int = 4096
    """Trials of such a part that its Gaussian process learns from, and rows of a listed space that it chooses from: a
    part must not double what a batch costs."""
    leaders: int = 8
    """How many of the best trials say what they have in common."""


PIPELINED = Settings(early=4)
"""For a caller that asks for a batch before the previous one is told: then only half as many are under way at first."""


@dataclass(frozen=True)
class Pool:
    """Free rows, their coordinates, and (where the space is scored whole, or history needs them) features;
    ``prediction``: what history expects of them, where there is history."""

    rows: Rows
    coordinates: NDArray[np.float32]
    features: NDArray[np.float32] | None = None
    prediction: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Part:
    """What one division of a batch comes from, the whole space or what is left without a value, and its trials:
    models and parents are taken from these alone."""

    excluded: ExcludedValue | None
    rows: Rows
    times: NDArray[np.float64]

    def inside(self, rows: Rows) -> Rows:
        """The rows that lie in this part."""
        return rows if self.excluded is None else rows[self.excluded.allows(rows)]


class SpaceSearch(Observations):
    """Trials and proposals of one space; ``history`` are trials of it for other workloads and chips."""

    def __init__(self, space: Space, settings: Settings, seed: int, history: Sequence[HistoryGroup] = ()) -> None:
        super().__init__(space)
        self.settings, self.seed = settings, seed
        self._listed: Pool | None = None
        self._keys: list[bytes] = []
        self.prior = TransferModel.of(space, history, seed) if history else None

    def propose(self, n: int, rng: np.random.Generator) -> Rows:
        """At most ``n`` new rows, marked as taken; fewer only when the space runs out."""
        chosen: list[Rows] = []
        excluded = self._excluded()
        if excluded is not None:
            chosen = self._fill(int((self._sequence(n, PLASTIC) < self.settings.diversify).sum()), rng, excluded)
        chosen += self._fill(n - len(chosen), rng, None)
        return np.array(chosen, dtype=np.uint16).reshape(-1, len(self.space.knobs))

    def _sequence(self, n: int, step: float) -> NDArray[np.float64]:
        """A low-discrepancy sequence in 0..1 for the next ``n`` slots."""
        return np.asarray((np.arange(len(self.taken), len(self.taken) + n) * step) % 1.0)

    def _excluded(self) -> ExcludedValue | None:
        """The value whose turn it is to be excluded; None while the search is not stalled, or the best share none."""
        s = self.settings
        rows, times = self.measured()
        since = since_gain(times)
        if since < s.stall or not s.diversify:
            return None
        turn, spent = divmod(since - s.stall, s.diversify_turn)
        before = len(times) - spent  # what the turn's trials tell counts in the next turn
        values = diversify(self.space.knobs, rows[:before], times[:before], s.leaders)[: s.diversify_values]
        return values[turn % len(values)] if values else None

    def _fill(self, n: int, rng: np.random.Generator, excluded: ExcludedValue | None) -> list[Rows]:
        """At most ``n`` new rows of the whole space, or of what is left of it, marked as taken."""
        rows, times = self.trials()
        own = slice(None) if excluded is None else excluded.allows(rows)
        part = Part(excluded, rows[own], times[own])
        few = len(part.rows) < self.settings.initial or np.isfinite(part.times).sum() < 2
        chosen: list[Rows] = []
        if few and excluded is None:
            if self.prior is not None:
                pool = self._pool(rng, part)
                chosen.extend(self._best(pool.rows, pool.prediction, math.ceil(0.75 * n)))
            chosen += self._spread(n - len(chosen), rng, part)
        elif n:
            process, trees, children = self._shares(n)
            if excluded is not None:
                process, trees = process + trees, 0  # a Gaussian process needs fewer trials
            if few:
                chosen += self._spread(process + trees, rng, part)
            elif process or trees:
                chosen += self._by_model(process, trees, rng, part)
            chosen += self._children(children, rng, part)
        for draws in (4 * n, 4 * n + 2 * len(self.taken)):  # the second catches up where most of a space was taken
            if len(chosen) < n:
                drawn = part.inside(self.free(self.space.grid.sample(draws, rng)))
                chosen.extend(self.take_some(drawn, n - len(chosen)))
        return chosen

    def _shares(self, n: int) -> tuple[int, int, int]:
        """Slots for Gaussian process, trees and children among the next ``n``, from a low-discrepancy sequence: a share
        holds over many small batches as it does in one large batch, and never rounds to nothing."""
        s = self.settings
        sources = np.searchsorted(
            np.cumsum([s.gaussian_process, s.trees, s.children]), self._sequence(n, GOLDEN), side="right"
        )
        return int((sources == 0).sum()), int((sources == 1).sum()), int((sources == 2).sum())

    def _pool(self, rng: np.random.Generator, part: Part) -> Pool:
        """What the models choose from: all free rows of a small space, else samples, children and neighbours of the
        best; of those, the part's.
        """
        space, s = self.space, self.settings
        every = space.grid.all(space.listing)
        if every is not None:
            if self._listed is None:
                self._listed = self._described(every)
                self._keys = [row.tobytes() for row in every]
            index = np.flatnonzero([key not in self.taken for key in self._keys])
            if part.excluded is not None:
                index = index[part.excluded.allows(every[index])]
                index = np.sort(rng.permutation(index)[: s.diversify_pool])
            whole = self._listed
            assert whole.features is not None
            prediction = None if whole.prediction is None else whole.prediction[index]
            return Pool(whole.rows[index], whole.coordinates[index], whole.features[index], prediction)
        parts = [space.grid.sample(s.pool // 3, rng)]
        elite = self._elite(part)
        if len(elite) > 1:
            parts += [self._cross(elite, 2 * s.pool // 3, rng), *(space.steps(row) for row in elite[:2])]
        rows = part.inside(self.free(np.concatenate([p for p in parts if len(p)])))
        return self._described(rows) if self.prior is not None else Pool(rows, space.coordinates(rows))

    def _described(self, rows: Rows) -> Pool:
        x = self.space.describe(rows)[0]
        return Pool(rows, self.space.coordinates(rows), x, None if self.prior is None else self.prior.predict(x))

    def _by_model(self, process: int, trees: int, rng: np.random.Generator, part: Part) -> list[Rows]:
        """The best of a pool: first what history alone would pick, then the Gaussian process's, then the trees'."""
        pool = self._pool(rng, part)
        if not len(pool.rows):
            return []
        s = self.settings
        chosen: list[Rows] = []
        prior = self.prior if self._prior_is_useful() else None
        if prior is not None:
            weight = s.prior_weight * max(0.0, 1.0 - len(part.times) / s.prior_decay)
            by_prior = int(weight * trees + rng.random())
            chosen.extend(self._best(pool.rows, pool.prediction, by_prior))
            trees -= by_prior
        y = relative_speed(part.times)
        some = self._subset(y, s.gaussian_process_trials if part.excluded is None else s.diversify_trials, rng)
        pending = self.pending()
        own, flying, c = self.space.coordinates(part.rows[some]), self.space.coordinates(pending), pool.coordinates
        target, trend = y[some], np.zeros(len(pool.rows))
        if prior is not None and pool.prediction is not None:
            mine, expected = (prior.predict(self.space.describe(r)[0]) for r in (part.rows[some], pending))
            slope = _slope(mine, target)
            target, trend = target - slope * mine, slope * pool.prediction
            own, flying, c = (
                np.concatenate([a, b[:, None]], axis=1)
                for a, b in ((own, mine), (flying, expected), (c, pool.prediction))
            )
        model = GaussianProcess(own, target)
        mean = model.predict(c) + trend
        short = np.argsort(-mean, kind="stable")[: s.gaussian_process_pool]
        short = np.union1d(short, rng.permutation(len(mean))[: s.gaussian_process_pool // 2])
        picks = short[model.pick(c[short], process, float(y.max()), trend[short], flying)]
        chosen.extend(self.take_some(pool.rows[picks], process))
        if pool.features is not None:
            short = np.arange(len(mean))  # all of them: a shortlist of the Gaussian process's would share its errors
        return chosen + self._by_trees(pool, short, trees, rng, part)

    def _prior_is_useful(self) -> bool:
        """Whether history is still used: until ``min_own_trials``, and then while it orders those rightly."""
        if self.prior is None:
            return False
        rows, times = self.trials()
        if len(times) < self.settings.min_own_trials:
            return True
        expected, y = self.prior.predict(self.space.describe(rows)[0]), relative_speed(times)
        spread = float(expected.std() * y.std())
        return spread > 0 and float(np.mean((expected - expected.mean()) * (y - y.mean()))) > 0.2 * spread

    def _by_trees(
        self, pool: Pool, short: NDArray[np.intp], n: int, rng: np.random.Generator, part: Part
    ) -> list[Rows]:
        if n < 1:
            return []
        own, names = self.space.describe(part.rows)
        model = Ranker.fit(own, part.times, seed=int(rng.integers(1 << 30)), names=names)
        if model is None:
            return []
        x = self.space.describe(pool.rows[short])[0] if pool.features is None else pool.features[short]
        return list(self._best(pool.rows[short], model.score(x) + 1e-9 * rng.random(len(short)), n))

    def _best(self, rows: Rows, score: NDArray[np.float64] | None, n: int) -> Rows:
        return rows[:0] if score is None else self.take_some(rows[np.argsort(-score, kind="stable")], n)

    @staticmethod
    def _subset(y: NDArray[np.float64], limit: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """The Gaussian process's trials: all, or the better half of its limit and a draw from the rest."""
        order = np.argsort(-y, kind="stable")
        if len(y) > limit:
            order = np.concatenate([order[: limit // 2], rng.permutation(order[limit // 2 :])[: limit - limit // 2]])
        return np.sort(order)

    def _elite(self, part: Part) -> Rows:
        """Parents: the best trials, and as many that are the best of their own neighbourhood (no better one within two
        knobs), so that a broad plateau of near-equals does not crowd out the basin beside it."""
        rows, times, half = part.rows, part.times, self.settings.elite // 2
        order = [i for i in np.argsort(times, kind="stable") if np.isfinite(times[i])][: 8 * self.settings.elite]
        heads: list[int] = []
        for i in order:
            if len(heads) < half and all((rows[i] != rows[h]).sum() > 2 for h in heads):
                heads.append(int(i))
        return rows[list(dict.fromkeys([*order[: self.settings.elite - len(heads)], *heads]))]

    def _cross(self, elite: Rows, n: int, rng: np.random.Generator) -> Rows:
        a, b = (elite[rng.integers(len(elite), size=n)] for _ in range(2))
        return self.space.vary(a, b, rng, self.settings.mutation)

    def _children(self, n: int, rng: np.random.Generator, part: Part) -> list[Rows]:
        chosen: list[Rows] = []
        elite = self._elite(part)
        for _ in range(4 * n if len(elite) else 0):
            if len(chosen) >= n:
                break
            if rng.random() < self.settings.steps:
                near = part.inside(self.free(self.space.steps(elite[rng.integers(len(elite))])))
                brood = near[rng.permutation(len(near))[:1]]
            else:
                brood = part.inside(self._cross(elite, 8, rng))
            chosen.extend(self.take_some(brood, 1))
        return chosen

    def _spread(self, n: int, rng: np.random.Generator, part: Part) -> list[Rows]:
        """Random rows far apart: each is the farthest, in knob coordinates, of a few draws."""
        pool = part.inside(self.free(self.space.grid.sample(max(64, n * self.settings.spread), rng)))
        c = self.space.coordinates(pool)
        near = distances(c, self.space.coordinates(self.trials()[0])).min(axis=1, initial=np.inf)
        left = np.ones(len(pool), dtype=np.bool_)
        chosen: list[Rows] = []
        while len(chosen) < n and left.any():
            draw = rng.permutation(np.flatnonzero(left))[: self.settings.spread]
            i = int(draw[np.argmax(near[draw])])
            left[i] = False
            near = np.minimum(near, distances(c, c[i : i + 1])[:, 0])
            chosen.extend(self.take_some(pool[i : i + 1], 1))
        return chosen


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Least squares of y on x, shrunk towards 0 as by four trials that show no effect, never negative."""
    dx = x - x.mean()
    return max(0.0, float(dx @ (y - y.mean())) / (float(dx @ dx) + 4.0 * float(np.var(x)) + 1e-9))


def relative_speed(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the Gaussian process learns: best / time, 0 for failures; it saturates on the long slow tail."""
    ok = np.isfinite(times)
    return np.divide(np.min(times[ok], initial=np.inf), times, out=np.zeros(len(times)), where=ok)


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared Euclidean distances (len(a), len(b))."""
    return np.asarray(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=-1))
