"""The search for one of several workloads that share a budget, which goes on from slice to slice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cuda.device import PEAK_KIND, Device
from ..measure.compiling import CompilingMeasurer
from ..measure.select import open_measurer
from ..store.records import Records
from ..store.winner import Winner
from ..templates.base import Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..trial import MEASURED
from ..workload import Workload
from . import allot
from .budget import Budget, OnTrial, Progress
from .foresee import expect, recorded
from .loop import RESERVED, Loop
from .publish import make_winner
from .resume import comparable, resume

if TYPE_CHECKING:
    from ..search.search import Tuner

TOGETHER = "together"
"""The entry of a winner's budget that says what all workloads were allowed together."""


@dataclass(frozen=True)
class JointBudget:
    """``seconds`` of wall time and ``trials`` of all workloads at most, recorded ones included; None: no such bound."""

    seconds: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        Budget(self.trials, self.seconds)  # refuses what are no such numbers

    @property
    def allowed(self) -> dict[str, float | None]:
        """What a winner keeps of it."""
        return {"seconds": self.seconds, "trials": self.trials}

    def within(self, other: Mapping[str, float | None]) -> bool:
        """Whether a winner that was allowed ``other`` had at least as much."""
        return (self.trials is not None and (other.get("trials") or 0) >= self.trials) or (
            self.seconds is not None and (other.get("seconds") or 0.0) >= self.seconds
        )


@dataclass(frozen=True)
class _Slice(Budget):
    """A budget that ends by the clock or when nothing more is gained; trials are counted by who gives slices."""

    @property
    def limits(self) -> tuple[float, float]:
        return float("inf"), self.seconds or float("inf")

    @property
    def open(self) -> bool:
        return True


@dataclass(frozen=True)
class Settings:
    """What all sessions of a run have in common."""

    device: Device
    source: str
    budget: JointBudget
    records: Records
    seed: int
    jobs: int | None
    force: bool
    drivers: Collection[str]
    templates: Mapping[str, Template] | None


class Session:
    """The search for one workload, which goes on from slice to slice."""

    def __init__(self, run: Settings, workload: Workload, weight: float) -> None:
        self.run, self.workload, self.weight = run, workload, weight
        self.bound: Sequence[BoundTemplate] = bind(workload, run.device, run.templates)
        self.progress = Progress(workload, run.device, run.source, _Slice())
        self.tuner: Tuner | None = None
        self.curve: list[tuple[int, float]] = []
        self.vendor: float | None = None
        self.ended = ""
        self.over = False
        self.first, self.taught, self.tried = True, False, False
        self.stored: Winner | None = None

    def estimate(self) -> float:
        """Seconds of its calls in one pass that no kernel beats: arithmetic at the chip's peak, bytes once."""
        w, device = self.workload, self.run.device
        peak = device.peak_flops(PEAK_KIND[w.dtype]) or device.peak_flops("fp32")
        return self.weight * max(w.flops / peak if peak else 0.0, w.bytes / device.bandwidth)

    def open(self) -> Tuner:
        """The tuner, which knows what was recorded until now, of the workloads before it, too."""
        if self.tuner is None:
            from ..search.search import Tuner  # LightGBM loads here, not where the store answers

            run, history = self.run, self.run.records.read(self.run.source)
            self.tuner = Tuner(spaces=[b.space() for b in self.bound], seed=run.seed, history=history, pipelined=True)
            if not run.force:
                told = [r for r in history if comparable(r.measurement, run.drivers, False)]
                resume(self.tuner, told, self.bound, self.progress)
            self.taught, self.tried = recorded(history, self.bound, run.device.chip)
            self._note()
        return self.tuner

    def slice(self, trials: int, seconds: float, tell: OnTrial) -> None:
        """``trials`` more, ``seconds`` long at most."""
        tuner, run, progress = self.open(), self.run, self.progress
        self._begin((progress.earlier_seconds + seconds) / (1 - RESERVED))
        with open_measurer(self.bound, run.source, jobs=run.jobs, seed=run.seed, seen=tuner.observations) as measurer:
            if run.source == MEASURED and self.vendor is None:
                timed = [statistics.median(f.samples) for f in measurer.vendors() if f.ok and f.samples]
                self.vendor = min(timed, default=None)
            loop = Loop(tuner, measurer, run.records, progress, tell)
            loop.most = trials
            if run.source == MEASURED and self.first and isinstance(measurer, CompilingMeasurer):
                limits, name = (float(trials), seconds), loop.name
                expect(tuner, measurer, run.records, limits, taught=self.taught, tried=self.tried, run=name)
            self.first = False
            try:
                progress.phase = "search"
                loop.run()
            finally:
                progress.earlier_seconds = progress.seconds
                progress.started = time.monotonic()
        self.ended = loop.ended
        self.over = loop.ended in ("exhausted", "plateau") or (not self.curve and progress.trials >= 2 * allot.FIRST)
        self._note()

    def finals(self, tell: OnTrial, complete: bool = True) -> Winner:
        """The winner: the fastest that holds when it is checked afresh and re-timed. WrongResult where none does."""
        tuner, run, progress = self.open(), self.run, self.progress
        self._begin(float("inf"))
        with open_measurer(self.bound, run.source, jobs=run.jobs, seed=run.seed, seen=tuner.observations) as measurer:
            loop = Loop(tuner, measurer, run.records, progress, tell)
            finals = loop.finals()
            ended = self.ended if self.ended in ("exhausted", "plateau", "interrupted", "device lost") else TOGETHER
            progress.budget = Budget()
            winner, _ = make_winner(tuner, measurer, finals, progress, ended, run.seed)
        progress.earlier_seconds, progress.started = progress.seconds, time.monotonic()
        return replace(winner, budget={**winner.budget, TOGETHER: run.budget.allowed}, complete=complete)

    def standing(self) -> allot.Standing:
        by_time = self.run.budget.trials is None
        cost = self.progress.earlier_seconds / max(1, self.progress.trials) if by_time else 1.0
        return allot.Standing(self.weight, tuple(self.curve), self.vendor, max(cost, 1e-6), self.over)

    def _begin(self, seconds: float) -> None:
        progress = self.progress
        progress.budget = _Slice(seconds=max(seconds, 1e-3) if seconds < 1e9 else None)
        progress.resumed, progress.started = progress.trials, time.monotonic()

    def _note(self) -> None:
        best = self.progress.best
        if best is not None and (not self.curve or self.curve[-1][0] < self.progress.trials):
            self.curve.append((self.progress.trials, best.time))
