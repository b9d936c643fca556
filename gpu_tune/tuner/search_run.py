"""One search for one workload: its models, its measurer, the loop and its finals."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cuda.device import Device
from ..errors import CompileError, InvalidConfig
from ..measure.compiling import CompilingMeasurer
from ..measure.finals import Finals
from ..measure.protocol import Build, Measurer
from ..measure.select import open_measurer
from ..store.records import Records
from ..store.winner import Winner
from ..templates.bound import BoundTemplate
from ..trial import MEASURED, PREDICTED, Candidate, Measurement
from .budget import Budget, OnTrial, Progress
from .foresee import expect, recorded
from .loop import Loop
from .publish import make_winner
from .resume import comparable, resume

if TYPE_CHECKING:
    from ..measure.cluster import Cluster
    from ..search.search import Tuner


@dataclass(frozen=True)
class Found:
    """What a search gave: its ``winner`` with its ``build``; ``timed``: builds and the seconds that each took, the
    winner and the fastest of its rivals; ``failed``: finalists that computed the wrong thing, or could not run."""

    winner: Winner
    build: Build
    timed: tuple[tuple[Build, float], ...] = ()
    failed: frozenset[Candidate] = frozenset()


@dataclass(frozen=True)
class SearchRun:
    """What a tuning runs on; :meth:`winner` is the search for one size."""

    device: Device
    source: str
    records: Records
    budget: Budget
    seed: int
    jobs: int | None
    force: bool
    drivers: Collection[str]
    cluster: Cluster | None

    def search(
        self,
        bound: Sequence[BoundTemplate],
        so_far: Progress,
        tell: OnTrial,
        stored: Winner | None = None,
        *,
        known: Sequence[Measurement] = (),
        rivals: int = 0,
    ) -> Found:
        """The fastest of ``bound`` that was found and checked; of ``stored``, whose times are outdated, the finalists
        are timed again. ``known``: what the performance model says of configs, without a trial of their own: trials
        where times are predicted, elsewhere what is tried first. ``rivals``: how many of the fastest trials come out
        beside the winner."""
        source, device, records, budget = self.source, self.device, self.records, so_far.budget
        history = records.read(source)  # of every chip: what is told apart is left to the models
        from ..search.search import Tuner  # LightGBM loads here, not where the store answers

        tuner = Tuner(spaces=[b.space() for b in bound], seed=self.seed, history=history, pipelined=True)
        if not self.force:
            elsewhere = self.cluster is not None
            told = [r for r in history if comparable(r.measurement, self.drivers, elsewhere)]
            resume(tuner, told, bound, so_far)
        with open_measurer(
            bound, source, cluster=self.cluster, jobs=self.jobs, seed=self.seed, seen=tuner.observations
        ) as measurer:
            loop = Loop(tuner, measurer, records, so_far, tell)
            searching = source == MEASURED and stored is None and self.cluster is None
            if known:
                _expect(tuner, known, source)
            elif searching and isinstance(measurer, CompilingMeasurer):
                taught, tried = recorded(history, bound, device.chip)
                expect(tuner, measurer, records, budget.limits, taught=taught, tried=tried, run=loop.name)
            if stored is None:
                if budget.target is not None:
                    vendors = measurer.vendors() if budget.target.ratio is not None else ()
                    so_far.goal = budget.target.goal(vendors)
                finals = loop.run_until_confirmed()
                return _found(tuner, measurer, finals, so_far, loop.ended, self.seed, rivals)
            # another driver: the search stands, the finalists are timed again
            finals = loop.finals(stored.finalists)
            ended = str(stored.budget.get("ended", ""))
            made = _found(tuner, measurer, finals, so_far, ended, stored.seed)
            before = dict(trials=stored.trials, spent=stored.spent, budget=stored.budget, complete=stored.complete)
            return replace(made, winner=replace(made.winner, **before))  # type: ignore[arg-type]

    def confirm(
        self,
        bound: Sequence[BoundTemplate],
        candidates: Sequence[Candidate],
        so_far: Progress,
        tell: OnTrial,
        known: Sequence[Measurement],
    ) -> Found:
        """The fastest of ``candidates``, verified and timed for the workload of ``bound`` as finalists are; none other
        is searched for. ``known``: what is known of them. WrongResult where none of them holds."""
        from ..search.search import Tuner

        tuner = Tuner(spaces=[b.space() for b in bound], seed=self.seed)
        tuner.tell(known)
        with open_measurer(bound, self.source, cluster=self.cluster, jobs=self.jobs, seed=self.seed) as measurer:
            loop = Loop(tuner, measurer, self.records, so_far, tell)
            finals = loop.finals(candidates)
            return _found(tuner, measurer, finals, so_far, "sizes", self.seed, len(candidates))


def _expect(tuner: Tuner, known: Sequence[Measurement], source: str) -> None:
    """Tell ``tuner`` what the performance model says of configs that it has not tried."""
    spaces, tried = {s.name: s for s in tuner.spaces}, {m.candidate for m in tuner.observations}
    new = [m for m in known if m.candidate not in tried and m.candidate.config in spaces[m.candidate.template]]
    if source == PREDICTED:
        tuner.tell(new)
    else:
        tuner.expect({m.candidate: m.prediction or {"seconds": m.time} for m in new})


def _found(
    tuner: Tuner, measurer: Measurer, finals: Finals, progress: Progress, ended: str, seed: int, rivals: int = 0
) -> Found:
    winner, build = make_winner(tuner, measurer, finals, progress, ended, seed)
    timed = {build.candidate: (build, winner.seconds)}
    if rivals:
        times = {m.candidate: m.time for m in sorted(tuner.observations, key=lambda m: m.candidate.key) if m.ok}
        times |= {f.candidate: statistics.median(f.samples) for f in finals.finalists if f.candidate and f.ok}
        for candidate in sorted(times, key=lambda c: (times[c], c.key))[:rivals]:
            with contextlib.suppress(CompileError, InvalidConfig):  # its trial went well, so it is the rarest of cases
                timed.setdefault(candidate, (measurer.build(candidate), times[candidate]))
    failed = frozenset(f.candidate for f in finals.finalists if f.candidate and not f.ok)
    return Found(winner, build, tuple(pair for c, pair in timed.items() if c not in failed), failed)
