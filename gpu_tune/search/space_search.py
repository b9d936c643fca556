"""One space's side of a search: what was tried there, and what to try next.

``sources`` says who fills the slots of a batch. While the search is stalled, a part of each batch is filled likewise
from where a value of the best trials is excluded (``observations.diversify``), and in the rest the shares are others:
what the models expect most of was tried by then, and a config that is better than all near it is met by trying what
lies densest among configs that both expect much of (``observations.densest``), once neither promises a gain elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ..model.gaussian_process import TrendProcess, relative_speed
from ..model.ranker import OWN, RANKED, Ranker
from ..model.transfer import HistoryGroup, TransferModel
from ..space.grid import Rows
from ..space.space import Space
from .observations import GAIN, ExcludedValue, Observations, densest, diversify, gain_that_matters, since_gain
from .sources import CHILDREN, DENSITY, HISTORY, SMOOTH, TREES, UNJUDGED, Sources, deal, without

GOLDEN, PLASTIC = 0.6180339887498949, 0.7548776662466927
"""Steps of two low-discrepancy sequences. Irrational steps keep the proportions over small batches; two that are no
multiples of each other keep the two divisions independent."""


@dataclass(frozen=True)
class Settings:
    """How a batch is filled; shares are of the slots left after the starts. Chosen on recorded spaces
    (bench.search).
    """

    initial: int = 12
    """Trials spread over a space before a model chooses; ``initial_of_several`` over each of several spaces, whose
    defaults and seeds tell the hopeless ones."""
    initial_of_several: int = 8
    spread: int = 32
    """Candidates drawn for each config of these; the one farthest from the others is taken."""
    gaussian_process: float = 0.5
    trees: float = 0.4
    children: float = 0.05
    stalled: tuple[float, float, float, float] = (0.15, 0.05, 0.75, 0.0)
    """The shares of Gaussian process, trees, density and children while the search is stalled."""
    expected_gain: float = GAIN / 2
    """The Gaussian process has density's slots as well for configs of which it expects this, as a share of the best:
    where it knows little of much of a space it expects it of many, where one config stands alone of none."""
    promising: int = 100
    """Configs, of those tried and those that may be, that the models expect most of together: density is theirs."""
    elite: int = 24
    steps: float = 0.25
    """Share of the children that are one step from a parent instead of a cross of two."""
    mutation: float = 0.1
    pool: int = 1024
    """Configs scored in a space that is not scored whole."""
    gaussian_process_trials: int = 160
    gaussian_process_pool: int = 256
    early: int = 8
    """Batch until ``early_until`` trials were told: what the first ones teach is worth more than their number."""
    early_until: int = 64
    prior_starts: float = 0.25
    """Share of the first configs that history picks, its winners aside. More are no better where it is right, and lost
    where it is of something else."""
    prior_weight: float = 0.5
    """Share of the trees' slots that history picks alone; it decays to none over ``prior_decay`` own trials."""
    prior_decay: int = 64
    matters: float = 0.02
    """A gain that matters, as a share of the way (in log time) from the median trial to the best."""
    stall: int = 24
    """Trials without a gain that matters after which the search is stalled: then the share ``diversify`` of each batch
    comes from where a value is excluded, ``diversify_turn`` trials for each of the first ``diversify_values`` values in
    turn."""
    diversify: float = 0.2
    diversify_turn: int = 16
    diversify_values: int = 2
    diversify_trials: int = 80
    diversify_pool: int = 4096
    """Trials of such a part that its Gaussian process learns from, and rows of a listed space that it chooses from: a
    part must not double what a batch costs."""
    leaders: int = 8
    """How many of the best trials say what they have in common."""

    def over(self, spaces: int) -> Settings:
        """These settings for each of so many spaces that are searched at once."""
        return self if spaces == 1 else replace(self, initial=min(self.initial, self.initial_of_several))


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
        self.sources = Sources()
        self._models: dict[str, Callable[[Rows], NDArray[np.float64]]] = {}
        self._listed: Pool | None = None
        self._place: dict[bytes, int] = {}
        self.prior = TransferModel.of(space, history, seed) if history else None

    def propose(self, n: int, rng: np.random.Generator) -> Rows:
        """At most ``n`` new rows, marked as taken; fewer only when the space runs out."""
        chosen: list[Rows] = []
        self._models = {}
        excluded = self._excluded()
        if excluded is not None:
            chosen = self._fill(int((self._sequence(n, PLASTIC) < self.settings.diversify).sum()), rng, excluded)
        chosen += self._fill(n - len(chosen), rng, None)
        rows = np.array(chosen, dtype=np.uint16).reshape(-1, len(self.space.knobs))
        for source, model in self._models.items() if len(rows) else ():
            self.sources.expect(source, rows, model(rows), len(self.taken))
        return rows

    def hopeful(self, n: int, rng: np.random.Generator) -> Rows:
        """At most ``n`` new rows, of a draw those that history expects most of; none is marked as taken."""
        pool = self._described(self.free(self.space.grid.sample(self.settings.pool, rng)))
        return pool.rows[:0] if pool.prediction is None else pool.rows[np.argsort(-pool.prediction, kind="stable")[:n]]

    def _sequence(self, n: int, step: float) -> NDArray[np.float64]:
        """A low-discrepancy sequence in 0..1 for the next ``n`` slots."""
        return np.asarray((np.arange(len(self.taken), len(self.taken) + n) * step) % 1.0)

    def _excluded(self) -> ExcludedValue | None:
        """The value whose turn it is to be excluded; None while the search is not stalled, or the best share none."""
        s = self.settings
        rows, times = self.measured()
        since = self._since_gain()
        if since < s.stall or not s.diversify:
            return None
        turn, spent = divmod(since - s.stall, s.diversify_turn)
        before = len(times) - spent  # what the turn's trials tell counts in the next turn
        values = diversify(self.space.knobs, rows[:before], times[:before], s.leaders)[: s.diversify_values]
        return values[turn % len(values)] if values else None

    def _stalled(self) -> bool:
        return self._since_gain() >= self.settings.stall

    def _since_gain(self) -> int:
        """Trials since the last gain that matters."""
        times = self.measured()[1]
        return since_gain(times, gain_that_matters(times, self.settings.matters))

    def _fill(self, n: int, rng: np.random.Generator, excluded: ExcludedValue | None) -> list[Rows]:
        """At most ``n`` new rows of the whole space, or of what is left of it, marked as taken."""
        rows, times = self.trials()
        own = slice(None) if excluded is None else excluded.allows(rows)
        part = Part(excluded, rows[own], times[own])
        lacking = n if np.isfinite(part.times).sum() < 2 else min(n, self.settings.initial - len(part.rows))
        chosen = self._first(lacking, rng, part) if excluded is None and lacking > 0 else []
        rest = n - len(chosen)
        if rest and (excluded is not None or lacking < n):
            slots = deal(self._shares(part), self._sequence(rest, GOLDEN))
            modelled = sum(slots.values()) - slots[CHILDREN]
            if excluded is not None and lacking > 0:
                chosen += self._spread(modelled, rng, part)
            elif modelled:
                chosen += self._by_model(slots, rng, part)
            chosen += self._children(slots[CHILDREN], rng, part)
        for draws in (4 * n, 4 * n + 2 * len(self.taken)):  # the second catches up where most of a space was taken
            if len(chosen) < n:
                drawn = part.inside(self.free(self.space.grid.sample(draws, rng)))
                chosen.extend(self.take_some(drawn, n - len(chosen)))
        if len(chosen) < n and self.space.grid.hiding:  # draws miss what the neighbours of told configs may be
            for row in part.rows[np.argsort(part.times, kind="stable")[: self.settings.elite]]:
                near = part.inside(self.free(self.space.steps(row)))
                chosen.extend(self.take_some(near, n - len(chosen)))
        return chosen

    def _first(self, n: int, rng: np.random.Generator, part: Part) -> list[Rows]:
        """At most ``n`` rows to begin with: some that history picks, the others spread over the space."""
        chosen: list[Rows] = []
        if self.prior is not None:
            chosen.extend(self._by_history(self._pool(rng, part), math.ceil(self.settings.prior_starts * n), rng))
        return chosen + self._spread(n - len(chosen), rng, part)

    def _shares(self, part: Part) -> dict[str, float]:
        """Each source's share of the next slots."""
        s = self.settings
        smooth, trees, dense, children = s.gaussian_process, s.trees, 0.0, s.children
        if part.excluded is not None:  # the Gaussian process needs fewer trials than the others
            return {SMOOTH: smooth + trees, TREES: 0.0, DENSITY: 0.0, CHILDREN: children}
        if self._stalled():
            smooth, trees, dense, children = s.stalled
        shares = {SMOOTH: smooth, TREES: trees, DENSITY: dense, CHILDREN: children}
        if self.prior is not None:
            history = s.prior_weight * max(0.0, 1.0 - len(part.times) / s.prior_decay)
            shares |= {TREES: trees * (1 - history), HISTORY: trees * history}
        return without(shares, [source for source in shares if source not in UNJUDGED and not self._trusted(source)])

    def _proposed(self, source: str, rows: Rows) -> Rows:
        """The rows, once it is noted who proposed them."""
        self.sources.note(source, rows)
        return rows

    def _pool(self, rng: np.random.Generator, part: Part) -> Pool:
        """What the models choose from: all free rows of a small space, else samples, children and neighbours of the
        best; of those, the part's.
        """
        space, s = self.space, self.settings
        every = space.grid.all(space.listing)
        if every is not None:
            if self._listed is None:
                self._listed = self._described(every)
                self._place = {row.tobytes(): i for i, row in enumerate(every)}
            free = np.ones(len(every), dtype=np.bool_)
            free[[self._place[key] for key in self.taken if key in self._place]] = False
            index = np.flatnonzero(free)
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

    def _by_model(self, slots: Mapping[str, int], rng: np.random.Generator, part: Part) -> list[Rows]:
        """The best of a pool: first what history alone would pick, then the Gaussian process's and the trees', and what
        lies densest among the best of both."""
        pool = self._pool(rng, part)
        if not len(pool.rows):
            return []
        chosen: list[Rows] = []
        if HISTORY in slots:
            chosen.extend(self._by_history(pool, slots[HISTORY], rng))
        dense = slots[DENSITY]
        if slots[SMOOTH] or dense or pool.features is None or not self._trusted(SMOOTH):
            more = dense if self._trusted(SMOOTH) else 0
            picks, short, mean = self._smooth(pool, slots[SMOOTH], more, rng, part)
            chosen.extend(self._proposed(SMOOTH, self.take_some(pool.rows[picks], len(picks))))
            dense -= max(0, len(picks) - slots[SMOOTH])
        if pool.features is not None:
            short = np.arange(len(pool.rows))  # a shortlist of the Gaussian process's would share its errors
        if slots[TREES] or slots[DENSITY] or (part.excluded is None and not self._trusted(TREES)):
            scores = self._by_trees(pool, short, rng, part)
            if scores is not None:
                chosen.extend(self._proposed(TREES, self._best(pool.rows[short], scores[: len(short)], slots[TREES])))
        if dense:
            expected = {SMOOTH: np.concatenate([mean[short], self._models[SMOOTH](part.rows)]), TREES: scores}
            trusted = [score for source, score in expected.items() if score is not None and self._trusted(source)]
            order = densest(pool.rows[short], part.rows, trusted, self.settings.promising)
            chosen.extend(self._proposed(DENSITY, self.take_some(pool.rows[short][order], dense)))
        return chosen

    def _by_history(self, pool: Pool, n: int, rng: np.random.Generator) -> Rows:
        """What history expects most of. Of configs that it cannot tell apart (it may lack knobs) it takes any: the
        first ones lie side by side."""
        told = pool.prediction
        score = None if told is None else told + 1e-9 * rng.random(len(told))
        return self._proposed(HISTORY, self._best(pool.rows, score, n))

    def _smooth(
        self, pool: Pool, n: int, more: int, rng: np.random.Generator, part: Part
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        """The Gaussian process's ``n`` picks of the pool, and up to ``more`` while it expects a gain of each; its
        shortlist; and what it expects of each of the pool."""
        s, trend = self.settings, self._trusted(HISTORY)
        y = relative_speed(part.times)
        some = self._subset(y, s.gaussian_process_trials if part.excluded is None else s.diversify_trials, rng)

        def told(rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
            return self.space.coordinates(rows), self._expected(rows) if trend else None

        own, by_history = told(part.rows[some])
        model = TrendProcess(own, y[some], by_history)
        if part.excluded is None:
            self._models[SMOOTH] = lambda rows: model.predict(*told(rows))
        expected = pool.prediction if trend else None
        mean = model.predict(pool.coordinates, expected)
        short = np.argsort(-mean, kind="stable")[: s.gaussian_process_pool]
        short = np.union1d(short, rng.permutation(len(mean))[: s.gaussian_process_pool // 2])
        shortened = None if expected is None else expected[short]
        near, best = pool.coordinates[short], float(y.max())
        picks = model.pick(near, n, best, shortened, *told(self.pending()), more=more, least=s.expected_gain)
        return short[picks], short, mean

    def _expected(self, rows: Rows) -> NDArray[np.float64]:
        """What history expects of rows."""
        assert self.prior is not None
        return self.prior.predict(self.space.describe(rows)[0])

    def _trusted(self, source: str) -> bool:
        """Whether ``source`` is there and has its share."""
        if source == HISTORY:
            if self.prior is None:
                return False
            rows = self.measured()[0]
            self.sources.expect(HISTORY, rows, self._expected(rows) if len(rows) else ())
        return self.sources.trusted(source, *self.measured())

    def _by_trees(
        self, pool: Pool, short: NDArray[np.intp], rng: np.random.Generator, part: Part
    ) -> NDArray[np.float64] | None:
        """The trees' scores of the shortlist, then of the part's trials; None where nothing can be learnt of these."""
        own, names = self.space.describe(part.rows)
        shape = OWN if self._stalled() else RANKED
        model = Ranker.fit(own, part.times, seed=int(rng.integers(1 << 30)), names=names, shape=shape)
        if model is None:
            return None
        if part.excluded is None:
            self._models[TREES] = lambda rows: model.score(self.space.describe(rows)[0])
        x = self.space.describe(pool.rows[short])[0] if pool.features is None else pool.features[short]
        return np.concatenate([model.score(x) + 1e-9 * rng.random(len(short)), model.score(own)])

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
        elite = self._elite(part) if n else part.rows[:0]
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
        near = cdist(c, self.space.coordinates(self.trials()[0]), "sqeuclidean").min(axis=1, initial=np.inf)
        left = np.ones(len(pool), dtype=np.bool_)
        chosen: list[Rows] = []
        while len(chosen) < n and left.any():
            draw = rng.permutation(np.flatnonzero(left))[: self.settings.spread]
            i = int(draw[np.argmax(near[draw])])
            left[i] = False
            near = np.minimum(near, cdist(c, c[i : i + 1], "sqeuclidean")[:, 0])
            chosen.extend(self.take_some(pool[i : i + 1], 1))
        return chosen
