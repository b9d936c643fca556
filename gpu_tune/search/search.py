"""The search: batched, genetic, guided by models, over one or several spaces.

``ask`` for candidates, measure them however you like, ``tell`` how they ended. What is asked is a pure function of the
seed and of what was asked and told: no clock, no global state. It never asks for an invalid config or for one twice.
Trials flow to the space that earns them; a space whose best stays far behind is left after a few.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from ..cuda.device import DEFAULT, Device, by_name
from ..errors import InvalidConfig, InvalidInput, require
from ..model import foreseen
from ..model.transfer import HistoryGroup, gather, suggest
from ..space.knob import Config
from ..space.space import Space
from ..store.records import Record
from ..templates.base import Template
from ..templates.registry import bind
from ..trial import Candidate, Measurement
from ..workload import Workload, require_workload
from .history import History
from .observations import KindPruner, kinds, stopped
from .space_search import PIPELINED, Settings, SpaceSearch

log = logging.getLogger(__name__)
BATCH = 16
FINALISTS, REPEATS = 5, 3
"""How many of the fastest configs are confirmed, and by how many measurements each."""
FINAL_BEST, FINAL_WITHIN = 5, 0.03
"""How many of the best trials, and how near to the best, the last descent starts from."""
STARTS = 0.75
"""Share of a batch that defaults, seeds and other given starts may take; the models and chance have the rest."""
ALIKE = 0.25
"""Share of a batch that predictions may fill with one tile."""
_CURIOSITY = 0.3


_blas = functools.cache(ThreadpoolController)


def _one_thread() -> Any:
    """A context in which linear algebra takes one thread: matrices are small and compilers hold the other cores, so
    that threads waiting for each other cost a hundred times more; and sums are the same on any number of cores."""
    return _blas().limit(limits=1, user_api="blas")


class Search:
    """A search over ``spaces`` (distinct names), seeded.

    ``history``: records of any workload and chip, and :class:`History`; the models learn from those whose template (or
    name) has a space here. ``source``: only records of this source count (default: measured where there are
    any; predicted records never teach a search that has measured ones). ``starts``: further configs to try first, by
    space name.
    """

    def __init__(
        self,
        spaces: Sequence[Space],
        *,
        seed: int = 0,
        batch: int = BATCH,
        history: Iterable[Any] = (),
        source: str | None = None,
        starts: Mapping[str, Sequence[Config]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        single = f"a list: spaces=[{getattr(spaces, 'name', 'space')}]"
        listed = isinstance(spaces, Iterable) and not isinstance(spaces, Space)
        require(listed, "spaces", spaces, "are no list", f"give {single}")
        spaces = tuple(spaces)
        for space in spaces:
            require(isinstance(space, Space), "spaces", space, "is no space", "give gpu_tune.GridSpace(...) or others")
        names = [s.name for s in spaces]
        require(bool(names), "search spaces", names, "are none", "give one or more")
        require(len(names) == len(set(names)), "search spaces", names, "share a name", "name them apart")
        require(type(seed) is int and seed >= 0, "search seed", seed, "is not a non-negative integer", "give 0 or more")
        whole = type(batch) is int and batch > 0
        require(whole, "search batch", batch, "is not a positive integer", f"leave it out for {BATCH}")
        for space in spaces:
            none = space.workload is None and space.grid.none
            remedy = "loosen its constraints, which all values break together"
            require(not none, "search space", space.name, "has no valid config", remedy)
        self.spaces, self.seed, self.batch = tuple(spaces), seed, batch
        self.settings = settings or Settings()
        self.observations: list[Measurement] = []
        self._told: dict[Candidate, list[Measurement]] = {}
        self._cut = False
        groups = gather(_checked(history, spaces), spaces, source)
        each = self.settings.over(len(spaces))
        with _one_thread():
            self.space_searches = {s.name: SpaceSearch(s, each, seed, groups.get(s.name, ())) for s in spaces}
        self._groups = groups
        self._winners = {name: [c for g in own[:2] for c in g.winners(1)] for name, own in groups.items()}
        self._starts = self._queue(starts or {})

    def hopeful(self, n: int) -> dict[str, list[Config]]:
        """By space that has history: at most ``n`` new configs that it expects most of, of a draw; none is taken."""
        rng = np.random.default_rng([self.seed, n])
        with _one_thread():
            found = {name: own.hopeful(n, rng) for name, own in self.space_searches.items() if own.prior is not None}
        return {name: self.space_searches[name].space.configs(rows) for name, rows in found.items()}

    def expect(self, predictions: Mapping[Candidate, Mapping[str, float]]) -> None:
        """The terms of predicted times (``Prediction.terms``), told before the first batch is asked for: what promises
        most is tried first, after the defaults, one seed of each space and the winners of history, at most a share
        ``ALIKE`` of a batch of one tile. Within a space it is ordered as ``model.foreseen`` says."""
        spaces, chosen = {s.name: s for s in self.spaces}, list[Candidate]()
        alike: Counter[object] = Counter()
        seconds = self._ordered(predictions)
        for candidate in sorted(seconds, key=lambda c: (seconds[c], c.key)):
            space = spaces[candidate.template]
            tile = (space.name, space.tile(candidate.config))
            if alike[tile] < max(1, int(ALIKE * self.batch)):
                alike[tile] += 1
                chosen.append(candidate)
        firsts = []
        for space in self.spaces:
            default = space.default()
            seeds = [c for c in space.seeds() if c != default]
            firsts += [Candidate(space.name, c) for c in (default, *seeds[:1]) if c is not None]
        won = {Candidate(name, c) for name, configs in self._winners.items() for c in configs}
        winners = [c for c in self._starts if c in won]
        self._starts = list(dict.fromkeys([*firsts, *winners, *chosen[: self.batch], *self._starts]))

    def _ordered(self, predictions: Mapping[Candidate, Mapping[str, float]]) -> dict[Candidate, float]:
        """The predicted seconds of each space, dealt out anew in the order that its history corrects."""
        found: dict[Candidate, float] = {}
        for space in self.spaces:
            mine = (c for c in predictions if c.template == space.name and c.config in space)
            own = sorted(mine, key=lambda c: c.key)
            if not own:
                continue
            told, history = {c.config: predictions[c] for c in own}, self._groups.get(space.name, ())
            with _one_thread():
                score = foreseen.scores(space, told, history, self.seed)
            ranked = [own[i] for i in np.argsort(-score, kind="stable")]
            found.update(zip(ranked, sorted(predictions[c]["seconds"] for c in own)))
        return found

    def ask(self, n: int | None = None) -> list[Candidate]:
        """New candidates, at most a batch and at most ``n``; fewer at the start and the end of a space, none when all
        is asked. InvalidInput for an ``n`` that is no number from 0 on, or where a constraint hides all valid configs.
        """
        want = self._wanted(n)
        chosen: list[Candidate] = []
        while self._starts and len(chosen) < math.ceil(STARTS * want):
            start = self._starts.pop(0)
            own = self.space_searches[start.template]
            if own.take(own.space.rows([start.config])[0]):
                chosen.append(start)
        asked = sum(len(own.taken) for own in self.space_searches.values())
        rng = np.random.default_rng([self.seed, asked - len(chosen), len(self.observations)])
        if len(self.observations) < self.settings.early_until:
            want = min(want, max(len(chosen) + 2 * len(self.space_searches), self.settings.early))
        with _one_thread():
            chosen.extend(self._propose(want - len(chosen), rng))
        if want and not chosen:
            self._require_found()
        return chosen

    def _wanted(self, n: int | None) -> int:
        """How many candidates are asked for, at most a batch."""
        if n is None:
            return self.batch
        self._require_count(n)
        if n > self.batch and not self._cut:
            self._cut = True
            log.warning("ask(%d): a batch holds at most %d; make the tuner with batch=%d for more", n, self.batch, n)
        return min(int(n), self.batch)

    def _require_count(self, n: object) -> None:
        whole = isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0
        require(whole, "candidates to ask for", n, "is no whole number from 0 on", f"leave it out for {self.batch}")

    def _propose(self, n: int, rng: np.random.Generator) -> list[Candidate]:
        """``n`` new candidates; what a space that has run out leaves over, the others get."""
        chosen: list[Candidate] = []
        left, first = dict(self.space_searches), True
        while left and (first or len(chosen) < n):
            for name, count in self._allot(n - len(chosen), left).items():
                own = left[name]
                if first or count:
                    rows = own.propose(count, rng)
                    chosen.extend(Candidate(name, c) for c in own.space.configs(rows))
                    if len(rows) < count:
                        del left[name]
            first = False
        return chosen

    def _require_found(self) -> None:
        """When nothing new was found: raise InvalidInput where a constraint hides the valid configs of a space of which
        nothing is known, and say so where it may hide more of them."""
        for name, own in self.space_searches.items():
            hiding = max(own.space.grid.hiding, key=lambda rule: rule.points, default=None)
            if hiding is not None:
                told = f"over {len(hiding.columns)} knobs hides the valid configs: among thousands of points no new one"
                remedy = "split it into constraints of fewer knobs, or tell of valid configs first"
                error = InvalidInput(f"space {name}, constraint", hiding.name, told, remedy)
                if not own.taken:
                    raise error
                log.warning("%s", error)

    def tell(self, measurements: Iterable[Measurement]) -> None:
        """How candidates ended, failures included; also of candidates that were never asked for (a resumed run). Tell
        of repeats of one config as they come: they are pooled. InvalidInput, and nothing taken in, where one of them is
        no measurement, or of a config that is not in its space."""
        listed = isinstance(measurements, Iterable)
        require(listed, "what is told", measurements, "is no list of measurements", "tell of a batch: tell([...])")
        told = list(measurements)
        for m in told:
            self._require_member(m)
        for m in told:
            own = self.space_searches[m.candidate.template]
            row = own.space.rows([m.candidate.config])[0]
            if m.status == "pruned":
                own.prune(row, kinds(m.resources))
            else:
                own.tell(row, m.samples, kinds(m.resources))
            self.observations.append(m)
            self._told.setdefault(m.candidate, []).append(m)

    def _require_member(self, m: Measurement) -> None:
        remedy = "tell of Measurement.of(candidate, seconds) or Measurement.failed(candidate, reason)"
        require(isinstance(m, Measurement), "what is told", m, "is no measurement", remedy)
        own, key = self.space_searches.get(m.candidate.template), m.candidate.key
        if own is None:
            raise InvalidInput(
                "measurement of",
                m.candidate.template,
                "is of a space that is not searched",
                f"tell of {list(self.space_searches)}",
            )
        try:
            broken = own.space.violations(m.candidate.config)
        except InvalidConfig as error:
            raise InvalidInput(
                "measurement of", key, str(error), "tell of configs made of the space's knobs"
            ) from error
        require(not broken, "measurement of", key, "breaks " + "; ".join(broken), "tell of valid configs")

    def _pooled(self) -> list[Measurement]:
        """One measurement a config, in the order in which configs were first told: with the repeats of all that carry a
        time, else the last."""
        return [_pool(told) for told in self._told.values()]

    @property
    def best(self) -> Measurement | None:
        """The fastest config by the median of all that was told of it, None before one succeeds; of equals the first by
        key. Once configs were measured again (see ``finalists``) it is the fastest of these: of many single noisy
        times the least is the luckiest."""
        timed = [m for m in self._pooled() if m.ok]
        confirmed = [m for m in timed if sum(t.ok for t in self._told[m.candidate]) > 1]
        return min(confirmed or timed, key=_order, default=None)

    def finalists(self, n: int = FINALISTS, repeats: int = REPEATS) -> list[Candidate]:
        """Which of the ``n`` fastest configs to measure again, fastest first: those with fewer than ``repeats``
        measurements. Measure and tell until it is empty, then ``best`` is confirmed:

            while finalists := tuner.finalists():
                tuner.tell([measure(candidate) for candidate in finalists])
        """
        for what, value in (("finalists", n), ("repeats of a finalist", repeats)):
            require(type(value) is int and value > 0, what, value, "is not a positive integer", "leave it out")
        timed = sorted((m for m in self._pooled() if m.ok), key=_order)
        return [m.candidate for m in timed[:n] if len(self._told[m.candidate]) < repeats]

    def final(self, n: int | None = None) -> list[Candidate]:
        """The last descent: untried neighbours of the best trials, nearest first; no model has a say. Empty when the
        best ones have none left, which is when a caller may stop descending."""
        want = self.batch if n is None else n
        self._require_count(want)
        timed = sorted((m for m in self._pooled() if m.ok), key=_order)
        chosen: list[Candidate] = []
        for m in [m for m in timed if m.time <= timed[0].time * (1 + FINAL_WITHIN)][:FINAL_BEST]:
            own = self.space_searches[m.candidate.template]
            rows = own.take_some(own.space.steps(own.space.rows([m.candidate.config])[0]), want - len(chosen))
            chosen.extend(Candidate(own.space.name, c) for c in own.space.configs(rows))
        return chosen

    def plateau(self, risk: float = 0.05) -> bool:
        """Whether to stop: so long without a gain that going on as long again is expected to gain more than 1 % in at
        most a share ``risk`` of runs (calibrated as ``observations.PATIENCE`` says). Counted are configs, not repeats
        of them; where nothing works, some hundred failures are enough."""
        return stopped([m.time if m.ok else math.inf for m in self._pooled()], risk)

    def pruners(self, batch: Sequence[Candidate]) -> list[KindPruner | None]:
        """For each candidate just asked for, what may prune it after compiling and before running (call it with the
        candidate and its ``Resources``: '' to measure it, or why it is not worth it), None for one to measure in any
        case. The trials known until now decide, whichever build is ready first.

        A kind of build (that spills, whose tensor-core instructions are serialised) is pruned once several of it were
        timed and none came near the best. Every other candidate has no pruner: at least half of a batch is measured,
        and a wrong opinion of a kind comes to light. Tell of a pruned one with status ``pruned``: the models take it
        for an ordinary one of its kind, not for a failure."""
        pruner = KindPruner.of(self.observations)
        return [pruner if pruner.slow and i % 2 else None for i in range(len(batch))]

    def _queue(self, starts: Mapping[str, Sequence[Config]]) -> list[Candidate]:
        """Defaults, then seeds and given starts of the spaces in turn; distinct and valid."""
        lists = [
            [s.default(), *self._winners.get(s.name, ()), *s.seeds(), *suggest(s), *starts.get(s.name, ())]
            for s in self.spaces
        ]
        named = [[Candidate(s.name, c) for c in own if c is not None] for s, own in zip(self.spaces, lists)]
        queue = dict.fromkeys(itertools.chain.from_iterable(itertools.zip_longest(*named)))
        spaces = {s.name: s for s in self.spaces}
        return [c for c in queue if c is not None and c.config in spaces[c.template]]

    def _allot(self, n: int, among: Mapping[str, SpaceSearch]) -> dict[str, int]:
        """How many of ``n`` slots each space gets: its best against the best of all, plus a bonus for being little
        tried.
        """
        share = dict.fromkeys(among, 0)
        if len(share) == 1:
            return dict.fromkeys(share, n)
        best = min(own.best for own in self.space_searches.values())
        tried = {name: len(own.taken) for name, own in among.items()}
        for _ in range(n):
            curiosity = _CURIOSITY**2 * math.log(2 + sum(tried.values()))
            score = {
                name: (0.0 if math.isinf(own.best) else best / own.best) + math.sqrt(curiosity / (1 + tried[name]))
                for name, own in among.items()
            }
            name = max(score, key=lambda a: (score[a], a))
            share[name] += 1
            tried[name] += 1
        return share


def _order(m: Measurement) -> tuple[float, str]:
    return m.time, m.candidate.key


def _pool(told: Sequence[Measurement]) -> Measurement:
    timed = [m for m in told if m.ok]
    if len(timed) < 2:
        return timed[0] if timed else told[-1]
    return replace(timed[0], samples=tuple(itertools.chain.from_iterable(m.samples for m in timed)))


def _checked(history: Iterable[Any], spaces: Sequence[Space]) -> list[Any]:
    """The history as records and groups; InvalidInput for anything else."""
    listed = isinstance(history, Iterable) and not isinstance(history, str | bytes | Mapping | History)
    require(listed, "history", history, "is no list", "give [History.load(path), ...] or records")
    found: list[Any] = []
    for item in history:
        known = isinstance(item, Record | History | HistoryGroup)
        require(known, "history", item, "is no Record or History", "give History.load(path) or Records().read()")
        found += item.groups(spaces) if isinstance(item, History) else [item]
    return found


class Tuner(Search):
    """The open loop: ``ask`` for candidates, measure them however you like, ``tell`` how they ended.

    For a workload (then the spaces are those of every template that supports it or a view of it), or for any
    ``spaces``: a :class:`GridSpace` of your own, recorded ones included. Default configs and seeds come first.
    ``history``: records of any workload, and :class:`History` of your own spaces; the ranker learns from them.
    ``batch``: candidates of one ``ask`` at most (16). ``pipelined``: you ask for a batch before you tell of the one
    before it. Where times are noisy, measure the :meth:`finalists` again at the end.
    """

    def __init__(
        self,
        workload: Workload | None = None,
        *,
        device: Device | str | None = None,
        spaces: Sequence[Space] | None = None,
        seed: int = 0,
        batch: int | None = None,
        history: Iterable[Record] = (),
        templates: Mapping[str, Template] | None = None,
        pipelined: bool = False,
    ) -> None:
        if spaces is None:
            if workload is None:
                raise InvalidInput(
                    "Tuner", ..., "needs a workload or spaces", "pass gpu_tune.Matmul(...) or spaces=[...]"
                )
            require_workload(workload)
            device = by_name(device) if isinstance(device, str) else device or by_name(DEFAULT)
            spaces = [bound.space() for bound in bind(workload, device, templates)]
        settings = PIPELINED if pipelined else Settings()
        batch = BATCH if batch is None else batch
        super().__init__(spaces, seed=seed, batch=batch, history=history, settings=settings)
        self.workload, self.device = workload, device
        starts = [(s.name, s.default()) for s in self.spaces]
        self.defaults = frozenset(Candidate(name, config) for name, config in starts if config is not None)
