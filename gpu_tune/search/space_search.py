"""One space's side of a search: what was tried there, and what to try next.

A batch is filled from four sources in fixed shares, so that no one of them can starve the rest: the smooth model's most
promising, the tree ranker's best, genetic children of the best trials (which no model may veto: they find the narrow
basins that a model fitted elsewhere denies), and random configs. While the search is stalled, a third of each batch
is filled likewise from a niche (``search_niche``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.gaussian_process import GaussianProcess
from ..model.ranker import Ranker
from ..model.transfer import Past, Prior
from ..space.grid import Rows
from ..space.space import Space
from .diversify import Niche, niches
from .observations import Observations

GOLDEN, PLASTIC = 0.6180339887498949, 0.7548776662466927
"""Steps of two low-discrepancy sequences: shares hold over many small batches, and the two do not beat."""


@dataclass(frozen=True)
class Settings:
    """How a batch is filled; shares are of the slots left after the starts. Chosen on recorded spaces
    (bench.search).
    """

    initial: int = 8
    spread: int = 8
    """Candidates drawn for each initial config; the one farthest from the others is taken."""
    smooth: float = 0.5
    trees: float = 0.2
    children: float = 0.2
    elite: int = 24
    steps: float = 0.75
    """Share of the children that are one step from a parent instead of a cross of two."""
    mutation: float = 0.1
    pool: int = 1024
    """Configs scored in a space that is not scored whole."""
    smooth_trials: int = 160
    smooth_pool: int = 256
    niche_trials: int = 80
    niche_pool: int = 4096
    """The same limit for a niche's model, and how many of the rows inside it chooses from: a niche must not
    double what a batch costs."""
    early: int = 8
    """Batch until ``early_until`` trials were told: what the first ones teach is worth more than their number."""
    early_until: int = 64
    trust: float = 0.5
    """Share of the trees' slots that history picks alone; it fades to none over ``fade`` own trials."""
    fade: int = 64
    doubt: int = 16
    """Own trials after which history that does not correlate with them is left aside."""
    gain: float = 0.005
    """The relative gain below which the best has not improved."""
    stall: int = 24
    """Trials without a gain after which part of each batch goes to niches, ``turn`` trials to each of the first
    ``niches`` in turn."""
    niche: float = 0.33
    turn: int = 16
    niches: int = 4
    leaders: int = 8
    """How many of the best trials say what they have in common."""


PIPELINED = Settings(early=4)
"""For a caller that asks for a batch before the previous one is told: then only half as many are under way at first."""


@dataclass(frozen=True)
class Pool:
    """Free rows, their coordinates, and (where the space is scored whole, or history needs them) features."""

    rows: Rows
    coordinates: NDArray[np.float32]
    features: NDArray[np.float32] | None
    hint: NDArray[np.float64] | None
    """What history expects, where there is history."""


class SpaceSearch(Observations):
    """Trials and proposals of one space."""

    def __init__(self, space: Space, settings: Settings, seed: int) -> None:
        super().__init__(space, settings.gain)
        self.settings, self.seed = settings, seed
        self._listed: Pool | None = None
        self._place: dict[bytes, int] = {}
        self.prior: Prior | None = None

    def learn(self, pasts: Sequence[Past]) -> None:
        """Take in history."""
        self.prior = Prior.of(self.space, pasts, self.seed) if pasts else None

    def propose(self, n: int, rng: np.random.Generator) -> Rows:
        """At most ``n`` new rows, marked as taken; fewer only when the space runs out."""
        chosen: list[Rows] = []
        niche = self._niche()
        if niche is not None:
            u = (np.arange(len(self.taken), len(self.taken) + n) * PLASTIC) % 1.0
            chosen = self._fill(int((u < self.settings.niche).sum()), rng, niche)
        chosen += self._fill(n - len(chosen), rng, None)
        return np.array(chosen, dtype=np.uint16).reshape(-1, len(self.space.knobs))

    def _niche(self) -> Niche | None:
        """The niche whose turn it is; None while the search is not stalled, or none can be told."""
        s = self.settings
        told, since = self.stalled()
        if since < s.stall or not s.niche:
            return None
        turn, spent = divmod(since - s.stall, s.turn)
        found = niches(self.space.knobs, *self.first(told - spent), s.leaders)[: s.niches]
        return found[turn % len(found)] if found else None

    def _fill(self, n: int, rng: np.random.Generator, niche: Niche | None) -> list[Rows]:
        """At most ``n`` new rows of the niche, or of the whole space, marked as taken."""
        seen = self._view(niche)[1]
        few = len(seen) < self.settings.initial or np.isfinite(seen).sum() < 2
        chosen: list[Rows] = []
        if few and niche is None:
            if self.prior is not None:
                chosen += self._hinted(self._pool(rng, None), math.ceil(0.75 * n))
            chosen += self._spread(n - len(chosen), rng, None)
        elif n:
            smooth, trees, children = self._shares(n)
            if niche is not None:
                smooth, trees = smooth + trees, 0  # the smooth model needs fewer trials
            if few:
                chosen += self._spread(smooth + trees, rng, niche)
            elif smooth or trees:
                chosen += self._by_model(smooth, trees, rng, niche)
            chosen += self._children(children, rng, niche)
        for draws in (4 * n, 4 * n + 2 * len(self.taken)):  # the second catches up where most of a space was taken
            if len(chosen) < n:
                drawn = self._inside(self.free(self.space.grid.sample(draws, rng)), niche)
                chosen += [row for row in drawn[: n - len(chosen)] if self.take(row)]
        return chosen

    def fit(self) -> Ranker | None:
        """The tree ranker on this arm's trials, None before two of them differ."""
        rows, times = self.trials()
        if len(times) < 4:
            return None
        x, names = self.space.describe(rows)
        return Ranker.fit(x, times, seed=self.seed, names=names)

    @staticmethod
    def _inside(rows: Rows, niche: Niche | None) -> Rows:
        return rows if niche is None else rows[niche.holds(rows)]

    def _view(self, niche: Niche | None) -> tuple[Rows, NDArray[np.float64]]:
        """What models and parents are taken from: all trials, or the niche's."""
        rows, times = self.trials()
        if niche is None:
            return rows, times
        mask = niche.holds(rows)
        return rows[mask], times[mask]

    def _shares(self, n: int) -> tuple[int, int, int]:
        """Slots for smooth model, trees and children among the next ``n``, from a low-discrepancy sequence: a share
        holds over many small batches as it does in one large batch, and never rounds to nothing."""
        s = self.settings
        edges = np.cumsum([s.smooth, s.trees, s.children])
        u = (np.arange(len(self.taken), len(self.taken) + n) * GOLDEN) % 1.0
        kinds = np.searchsorted(edges, u, side="right")
        return int((kinds == 0).sum()), int((kinds == 1).sum()), int((kinds == 2).sum())

    def _pool(self, rng: np.random.Generator, niche: Niche | None) -> Pool:
        """What the models choose from: all free rows of a small space, else samples, children and neighbours of the
        best; of those, the niche's.
        """
        space = self.space
        every = space.grid.all(space.listing)
        if every is not None:
            if self._listed is None:
                self._listed = self._described(every)
                self._place = {row.tobytes(): i for i, row in enumerate(every)}
            free = np.ones(len(every), dtype=np.bool_)
            free[[self._place[key] for key in self.taken if key in self._place]] = False
            if niche is not None:
                free &= niche.holds(every)
                inside = rng.permutation(np.flatnonzero(free))[: self.settings.niche_pool]
                free = np.zeros(len(every), dtype=np.bool_)
                free[inside] = True
            whole = self._listed
            assert whole.features is not None
            hint = None if whole.hint is None else whole.hint[free]
            return Pool(whole.rows[free], whole.coordinates[free], whole.features[free], hint)
        parts = [space.grid.sample(self.settings.pool // 3, rng)]
        elite = self._elite(niche)
        if len(elite) > 1:
            parts += [self._cross(elite, 2 * self.settings.pool // 3, rng), *(space.steps(row) for row in elite[:2])]
        rows = self._inside(self.free(np.concatenate([p for p in parts if len(p)])), niche)
        return self._described(rows) if self.prior is not None else Pool(rows, space.coordinates(rows), None, None)

    def _described(self, rows: Rows) -> Pool:
        x = self.space.describe(rows)[0]
        return Pool(rows, self.space.coordinates(rows), x, None if self.prior is None else self.prior.hint(x))

    def _by_model(self, smooth: int, trees: int, rng: np.random.Generator, niche: Niche | None) -> list[Rows]:
        """The best of a pool: first what history alone would pick, then the smooth model's, then the trees'."""
        pool = self._pool(rng, niche)
        rows, times = self._view(niche)
        if not len(pool.rows):
            return []
        chosen: list[Rows] = []
        direct = 0
        believed = self._believed()
        if believed:
            share = self.settings.trust * max(0.0, 1.0 - len(times) / self.settings.fade)
            direct = int(share * trees + rng.random())
            chosen += self._hinted(pool, direct)
        y = worth(times)
        some = self._subset(y, self.settings.smooth_trials if niche is None else self.settings.niche_trials, rng)
        pending = self.pending()
        mine, flying, c = self.space.coordinates(rows[some]), self.space.coordinates(pending), pool.coordinates
        told, trend = y[some], np.zeros(len(pool.rows))
        if believed and self.prior is not None and pool.hint is not None:
            own, expected = (self.prior.hint(self.space.describe(r)[0]) for r in (rows[some], pending))
            slope = _slope(own, told)
            told, trend = told - slope * own, slope * pool.hint
            mine, flying, c = (
                np.concatenate([a, b[:, None]], axis=1) for a, b in ((mine, own), (flying, expected), (c, pool.hint))
            )
        model = GaussianProcess(mine, told)
        mean = model.predict(c) + trend
        keep = self.settings.smooth_pool
        short = np.argsort(-mean, kind="stable")[:keep]
        short = np.union1d(short, rng.permutation(len(mean))[: keep // 2])
        for i in model.pick(c[short], smooth, float(y.max()), trend[short], flying):
            if self.take(pool.rows[short[i]]):
                chosen.append(pool.rows[short[i]])
        if pool.features is not None:
            short = np.arange(len(mean))  # all of them: a shortlist of the smooth model's would share its errors
        chosen += self._by_trees(pool, short, rows, times, trees - direct, rng)
        return chosen

    def _believed(self) -> bool:
        """Whether history is still listened to: until ``doubt`` own trials, and then while it orders those rightly."""
        if self.prior is None:
            return False
        rows, times = self.trials()
        if len(times) < self.settings.doubt:
            return True
        hint, y = self.prior.hint(self.space.describe(rows)[0]), worth(times)
        spread = float(hint.std() * y.std())
        return spread > 0 and float(np.mean((hint - hint.mean()) * (y - y.mean()))) > 0.2 * spread

    def _by_trees(
        self,
        pool: Pool,
        short: NDArray[np.intp],
        rows: Rows,
        times: NDArray[np.float64],
        n: int,
        rng: np.random.Generator,
    ) -> list[Rows]:
        if n < 1:
            return []
        own, names = self.space.describe(rows)
        model = Ranker.fit(own, times, seed=int(rng.integers(1 << 30)), names=names)
        if model is None:
            return []
        x = self.space.describe(pool.rows[short])[0] if pool.features is None else pool.features[short]
        score = model.score(x) + 1e-9 * rng.random(len(short))
        return self._best(pool.rows[short], score, n)

    def _hinted(self, pool: Pool, n: int) -> list[Rows]:
        return [] if pool.hint is None else self._best(pool.rows, pool.hint, n)

    def _best(self, rows: Rows, score: NDArray[np.float64], n: int) -> list[Rows]:
        chosen: list[Rows] = []
        for i in np.argsort(-score, kind="stable"):
            if len(chosen) >= n:
                break
            if self.take(rows[i]):
                chosen.append(rows[i])
        return chosen

    @staticmethod
    def _subset(y: NDArray[np.float64], limit: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """The smooth model's trials: all, or the better half of its limit and a draw from the rest."""
        order = np.argsort(-y, kind="stable")
        if len(y) > limit:
            order = np.concatenate([order[: limit // 2], rng.permutation(order[limit // 2 :])[: limit - limit // 2]])
        return np.sort(order)

    def _elite(self, niche: Niche | None) -> Rows:
        """Parents: the best trials, and as many that are the best of their own neighbourhood (no better one within two
        knobs), so that a broad plateau of near-equals does not crowd out the basin beside it."""
        rows, times = self._view(niche)
        order = [i for i in np.argsort(times, kind="stable") if np.isfinite(times[i])][: 8 * self.settings.elite]
        half = self.settings.elite // 2
        heads: list[int] = []
        for i in order:
            if len(heads) < half and all((rows[i] != rows[h]).sum() > 2 for h in heads):
                heads.append(int(i))
        return rows[list(dict.fromkeys([*order[: self.settings.elite - len(heads)], *heads]))]

    def _cross(self, elite: Rows, n: int, rng: np.random.Generator) -> Rows:
        a, b = (elite[rng.integers(len(elite), size=n)] for _ in range(2))
        return self.space.vary(a, b, rng, self.settings.mutation)

    def _children(self, n: int, rng: np.random.Generator, niche: Niche | None) -> list[Rows]:
        chosen: list[Rows] = []
        elite = self._elite(niche)
        for _ in range(4 * n if len(elite) else 0):
            if len(chosen) >= n:
                break
            if rng.random() < self.settings.steps:
                near = self._inside(self.free(self.space.steps(elite[rng.integers(len(elite))])), niche)
                brood = near[rng.permutation(len(near))[:1]]
            else:
                brood = self._inside(self._cross(elite, 8, rng), niche)
            for child in brood:
                if len(chosen) < n and self.take(child):
                    chosen.append(child)
                    break
        return chosen

    def _spread(self, n: int, rng: np.random.Generator, niche: Niche | None) -> list[Rows]:
        """Random rows far apart: each is the farthest, in knob coordinates, of a few draws."""
        pool = self._inside(self.free(self.space.grid.sample(max(64, n * self.settings.spread), rng)), niche)
        if not len(pool):
            return []
        c = self.space.coordinates(pool)
        done, _ = self.trials()
        near = np.full(len(pool), np.inf)
        if len(done):
            near = distances(c, self.space.coordinates(done)).min(axis=1)
        left = np.ones(len(pool), dtype=np.bool_)
        chosen: list[Rows] = []
        while len(chosen) < n and left.any():
            draw = rng.permutation(np.flatnonzero(left))[: self.settings.spread]
            i = int(draw[np.argmax(near[draw])])
            left[i] = False
            near = np.minimum(near, distances(c, c[i : i + 1])[:, 0])
            if self.take(pool[i]):
                chosen.append(pool[i])
        return chosen


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Least squares of y on x, shrunk towards 0 as by four trials that show no effect, never negative."""
    dx = x - x.mean()
    return max(0.0, float(dx @ (y - y.mean())) / (float(dx @ dx) + 4.0 * float(np.var(x)) + 1e-9))


def worth(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the smooth model learns: best / time, 0 for failures; it saturates on the long slow tail."""
    ok = np.isfinite(times)
    return np.divide(np.min(times[ok], initial=np.inf), times, out=np.zeros(len(times)), where=ok)


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared Euclidean distances (len(a), len(b))."""
    return np.asarray(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=-1))
