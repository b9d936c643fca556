"""The search: batched, genetic, guided by models, over one or several spaces.

``ask`` for candidates, measure them however you like, ``tell`` how they ended. What is asked is a pure function of the
seed and of what was asked and told: no clock, no global state. It never asks for an invalid config or for one twice.
Trials flow to the space that earns them; a space whose best stays far behind is left after a few.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from ..errors import InvalidConfig, InvalidInput
from ..model.suggestions import suggest
from ..model.transfer import gather
from ..space.knob import Config
from ..space.space import Space
from ..trial import Candidate, Measurement
from .space_search import Settings, SpaceSearch
from .stopping import KindPruner, kinds, stopped

BATCH = 16
FINAL_BEST, FINAL_WITHIN = 5, 0.03
"""How many of the best trials, and how near to the best, the last descent starts from."""
STARTS = 0.75
"""Share of a batch that defaults, seeds and other given starts may take; the models and chance have the rest."""
_CURIOSITY = 0.3


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _one_thread() -> Any:
    """A context in which linear algebra takes one thread: matrices are small and compilers hold the other cores, so
    that threads waiting for each other cost a hundred times more; and sums are the same on any number of cores."""
    return _blas().limit(limits=1, user_api="blas")


class Search:
    """A search over ``spaces`` (distinct names), seeded.

    ``history``: records of any workload and chip (or ``model.transfer.Past``); the models learn from those whose
    template has a space here. ``source``: only records of this source count (default: measured where there are any;
    predicted records never teach a search that has measured ones). ``starts``: further configs to try first, by space
    name.
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
        if not spaces or len({s.name for s in spaces}) != len(spaces):
            raise InvalidInput(
                "search spaces",
                [s.name for s in spaces],
                "are none, or two share a name",
                "give one or more, named apart",
            )
        if type(seed) is not int or seed < 0:
            raise InvalidInput("search seed", seed, "is not a non-negative integer", "give 0 or more")
        if type(batch) is not int or batch < 1:
            raise InvalidInput("search batch", batch, "is not a positive integer", f"leave it out for {BATCH}")
        self.spaces, self.seed, self.batch = tuple(spaces), seed, batch
        self.settings = settings or Settings()
        self.arms = {s.name: SpaceSearch(s, self.settings, seed) for s in spaces}
        self.observations: list[Measurement] = []
        past = gather(history, spaces, source)
        with _one_thread():
            for name, arm in self.arms.items():
                arm.learn(past.get(name, []))
        self._winners = {name: [c for p in pasts[:2] for c in p.winners(2)] for name, pasts in past.items()}
        self._starts = self._queue(starts or {})

    def ask(self, n: int | None = None) -> list[Candidate]:
        """New candidates, at most a batch and at most ``n``; fewer at the start and the end of a space, none when all
        is asked.
        """
        with _one_thread():
            return self._ask(n)

    def _ask(self, n: int | None) -> list[Candidate]:
        want = self.batch if n is None else min(n, self.batch)
        chosen: list[Candidate] = []
        while self._starts and len(chosen) < math.ceil(STARTS * want):
            start = self._starts.pop(0)
            if self._take(start):
                chosen.append(start)
        asked = sum(len(arm.taken) for arm in self.arms.values())
        rng = np.random.default_rng([self.seed, asked - len(chosen), len(self.observations)])
        if len(self.observations) < self.settings.early_until:
            want = min(want, max(len(chosen) + 2 * len(self.arms), self.settings.early))
        for name, count in self._allot(want - len(chosen)).items():
            arm = self.arms[name]
            rows = arm.propose(count, rng)
            chosen.extend(Candidate(name, c) for c in arm.space.configs(rows))
        return chosen

    def tell(self, measurements: Iterable[Measurement]) -> None:
        """How candidates ended, failures included; also of candidates that were never asked for (a resumed run)."""
        for m in measurements:
            arm = self.arms.get(m.candidate.template)
            if arm is None:
                raise InvalidInput(
                    "measurement of",
                    m.candidate.template,
                    "is of a space that is not searched",
                    f"tell of {list(self.arms)}",
                )
            try:
                row = arm.space.rows([m.candidate.config])[0]
            except InvalidConfig as error:
                raise InvalidInput(
                    "measurement of", m.candidate.key, str(error), "tell of configs made of the space's knobs"
                ) from error
            if m.status == "pruned":
                arm.prune(row, kinds(m.resources))
            else:
                arm.tell(row, m.time if m.ok else math.nan, kinds(m.resources))
            self.observations.append(m)

    @property
    def best(self) -> Measurement | None:
        """The fastest trial told, None before one succeeds; of equals the first by key."""
        return min((m for m in self.observations if m.ok), key=lambda m: (m.time, m.candidate.key), default=None)

    def final(self, n: int | None = None) -> list[Candidate]:
        """The last descent: untried neighbours of the best trials, nearest first; no model has a say. Empty when the
        best ones have none left, which is when a caller may stop descending."""
        want = self.batch if n is None else n
        timed = sorted((m for m in self.observations if m.ok), key=lambda m: (m.time, m.candidate.key))
        chosen: list[Candidate] = []
        for m in [m for m in timed if m.time <= timed[0].time * (1 + FINAL_WITHIN)][:FINAL_BEST]:
            space, arm = self.arms[m.candidate.template].space, self.arms[m.candidate.template]
            for row in space.steps(space.rows([m.candidate.config])[0]):
                if len(chosen) < want and arm.take(row):
                    chosen.append(Candidate(space.name, space.configs(row[None])[0]))
        return chosen

    def plateau(self, risk: float = 0.05) -> bool:
        """Whether to stop: so long without a gain that going on as long again is expected to gain more than 1 % in at
        most a share ``risk`` of runs (see ``search_stop``, where the calibration stands)."""
        return stopped([m.time if m.ok else math.inf for m in self.observations], risk)

    def pruners(self, batch: Sequence[Candidate]) -> list[KindPruner | None]:
        """A second look after compiling and before running: for each candidate just asked for the rule that judges its
        build (call it with the candidate and its ``Resources``: '' to measure it, or why it is not worth it), None
        for one to measure whatever comes out. What was told until now decides, whichever build is ready first.

        A kind of build (that spills, whose tensor-core instructions are serialised) is left out once several of it
        were timed and none came near the best. Every other candidate has no rule: at least half of a batch is
        measured, and a verdict on a kind that is wrong comes to light. Tell of one left out with status ``pruned``:
        the models take it for an ordinary one of its kind, not for a failure."""
        rule = KindPruner.of(self.observations)
        return [rule if rule.slow and i % 2 else None for i in range(len(batch))]

    def _queue(self, starts: Mapping[str, Sequence[Config]]) -> list[Candidate]:
        """Defaults, then seeds and given starts of the spaces in turn; distinct and valid."""
        lists = []
        for space in self.spaces:
            default = space.default()
            lists.append(
                [
                    *([default] if default is not None else []),
                    *self._winners.get(space.name, ()),
                    *space.seeds(),
                    *suggest(space),
                    *starts.get(space.name, ()),
                ]
            )
        queue = [
            Candidate(s.name, configs[i])
            for i in range(max(map(len, lists)))
            for s, configs in zip(self.spaces, lists)
            if i < len(configs)
        ]
        return [c for c in dict.fromkeys(queue) if c.config in self.arms[c.template].space]  # type: ignore[operator]

    def _take(self, candidate: Candidate) -> bool:
        arm = self.arms[candidate.template]
        return arm.take(arm.space.rows([candidate.config])[0])

    def _allot(self, n: int) -> dict[str, int]:
        """How many of ``n`` slots each space gets: its best against the best of all, plus a bonus for being little
        tried.
        """
        share = dict.fromkeys(self.arms, 0)
        if len(share) == 1:
            return dict.fromkeys(self.arms, n)
        top = min(arm.best for arm in self.arms.values())
        tried = {name: len(arm.taken) for name, arm in self.arms.items()}
        for _ in range(n):
            curiosity = _CURIOSITY**2 * math.log(2 + sum(tried.values()))
            worth = {
                name: (0.0 if math.isinf(arm.best) else top / arm.best) + math.sqrt(curiosity / (1 + tried[name]))
                for name, arm in self.arms.items()
            }
            name = max(worth, key=lambda a: (worth[a], a))
            share[name] += 1
            tried[name] += 1
        return share
