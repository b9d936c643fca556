"""Several workloads tuned with one budget: those of a model, each with how often one forward pass runs it.

Every workload gets a first slice of trials; each further slice goes where :mod:`.allot` expects the largest gain for
the pass. All trials are recorded as they end, so that an interrupted run goes on where it stopped, and a winner is
checked, re-timed and published for each.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import dispatch
from ..cuda import nvml
from ..cuda.device import Device
from ..emulator import build as emulator_build
from ..errors import CompilerMissing, EmulationError, GpuTuneError, StoreError, require
from ..kernel.kernel import TunedKernel
from ..store.records import Records, opened_records
from ..store.select import select_device
from ..store.store import Store, lookup, opened
from ..store.winner import Winner
from ..templates.base import Template
from ..workload import Workload
from . import allot
from .budget import Progress, check_settings
from .loop import RESERVED
from .resume import outdated, seconds_of
from .session import TOGETHER, JointBudget, Session, Settings

log = logging.getLogger(__name__)
FINALS = 3.0
"""Seconds kept for checking and re-timing the finalists of one workload; RESERVED of the budget at least."""
MOST_KEPT = 0.4
"""Share of the budget that is kept for the finalists at most."""


@dataclass
class JointProgress:
    """What is known while several workloads are tuned, for a callback: updated in place before each call.

    ``phase``: ``build`` (of the emulator, at its first use), ``search``, ``finals`` or ``done``. ``current``: of the
    workload under way, the ``number``-th of ``count`` (from 1). ``trials`` and ``seconds`` count recorded ones.
    ``speedup``: of a pass, the best found against the best default configs, over those of which both are known."""

    count: int
    budget: JointBudget
    source: str
    phase: str = "search"
    number: int = 0
    current: Progress | None = None
    trials: int = 0
    earlier_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    building: float = 0.0
    speedup: float | None = None

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started - self.building


OnJoint = Callable[[JointProgress], None]


@dataclass
class Joint:
    """What came out: ``kernels`` by workload; of those without one, why (``failed``). ``slices``: how many trials each
    workload got, in order. ``complete``: False when Ctrl-C or a lost device ended it early."""

    kernels: dict[Workload, TunedKernel] = field(default_factory=dict)
    failed: dict[Workload, str] = field(default_factory=dict)
    slices: list[tuple[Workload, int]] = field(default_factory=list)
    complete: bool = True
    seconds: float = 0.0
    trials: int = 0
    ended: str = ""


class Run:
    """One tuning of several workloads; :meth:`tune` is the whole of it.

    ``weights``: by workload, how often a pass runs it. ``explicit``: whether winners are looked for in ``store`` and
    the shipped ones alone. Unsupported where no template computes one of the workloads."""

    def __init__(self, weights: Mapping[Workload, float], settings: Settings, store: Store, explicit: bool) -> None:
        self.settings, self.store, self.explicit = settings, store, explicit
        self.joint = Joint()
        self.sessions = [Session(settings, w, weight) for w, weight in weights.items()]
        self.sessions.sort(key=lambda s: -s.estimate())
        self.progress = JointProgress(len(self.sessions), settings.budget, settings.source)

    def tune(self, tell: OnJoint) -> Joint:
        """Tune what the store has no winner for that had this budget; Ctrl-C ends the search, and a second one the
        finals, too. KeyboardInterrupt where nothing was found by then."""
        joint, asked = self.joint, [s for s in self.sessions if not self._answered(s)]
        if asked:
            self.store.prepare()
            self.settings.records.prepare()
            self._count_recorded(asked)
            self._build_emulator(tell)
            try:
                self._search(asked, tell)
            except KeyboardInterrupt:
                joint.complete, joint.ended = False, "interrupted"
            self._finals(asked, tell)
        self.progress.phase, self.progress.current = "done", None
        joint.seconds, joint.trials = self.progress.seconds, self.progress.trials
        tell(self.progress)
        if not joint.kernels and joint.ended == "interrupted":
            raise KeyboardInterrupt
        return joint

    def _answered(self, session: Session) -> bool:
        """Whether the store has a winner that had at least this budget."""
        found = None
        if not self.settings.force:
            found = lookup(
                session.workload,
                self.settings.device.chip,
                self.settings.source,
                store=self.store,
                user=not self.explicit,
            )
        if found is None:
            return False
        winner, place = found
        current = (winner.template, winner.template_hash) in {(b.name, b.hash) for b in session.bound}
        if not current or outdated(winner, self.settings.drivers):
            return False
        session.stored = winner
        enough = winner.complete and self.settings.budget.within(winner.budget.get(TOGETHER) or {})
        if enough:
            path = place.path(session.workload, self.settings.device.chip, self.settings.source)
            self.joint.kernels[session.workload] = TunedKernel(winner, path=path)
            self.progress.trials += winner.trials
            self.progress.earlier_seconds += winner.spent
        return enough

    def _build_emulator(self, tell: OnJoint) -> None:
        """Build the emulator where it is not there yet, before the clock of the budget runs."""
        with contextlib.suppress(CompilerMissing, EmulationError):  # which the verdicts tell
            if not emulator_build.ready():
                self.progress.phase, start = "build", time.monotonic()
                tell(self.progress)
                emulator_build.told()
                emulator_build.library()
                self.progress.building = time.monotonic() - start
        self.progress.phase = "search"

    def _count_recorded(self, asked: Sequence[Session]) -> None:
        """What earlier runs spent on these workloads counts."""
        now = {(b.hash, b.computed) for s in asked for b in s.bound}
        records = (
            []
            if self.settings.force
            else self.settings.records.read(self.settings.source, chip=self.settings.device.chip)
        )
        mine = [r for r in records if (r.template_hash, r.workload) in now]
        self.progress.earlier_seconds += seconds_of(mine)
        self.progress.trials += len({(r.workload, r.measurement.candidate) for r in mine})

    def _search(self, asked: Sequence[Session], tell: OnJoint) -> None:
        """Slices until the budget is used, nothing more is gained, or Ctrl-C (KeyboardInterrupt)."""
        progress, budget = self.progress, self.settings.budget
        unseen = list(asked)
        keep = max(RESERVED * (budget.seconds or 0.0), FINALS * len(asked))
        seconds = float("inf") if budget.seconds is None else budget.seconds - min(keep, MOST_KEPT * budget.seconds)
        while True:
            left = seconds - progress.seconds
            trials = float("inf") if budget.trials is None else budget.trials - progress.trials
            if (left <= 0 or trials <= 0) and not unseen:
                self.joint.ended = "seconds" if left <= 0 else "trials"
                return
            if unseen:  # each at least once, whatever the budget: something is to be found for every layer
                session = unseen.pop(0)
                session.open()
                if session.curve:
                    continue  # an earlier run began with it
                share, most = max(left, 0.0) / (len(unseen) + 1), allot.FIRST
                most = max(1, min(most, int(trials / (len(unseen) + 1)))) if trials < float("inf") else most
            else:
                standings = [s.standing() for s in asked]
                chosen = allot.choose(standings)
                if chosen is None:
                    self.joint.ended = "plateau"
                    return
                session, share = asked[chosen], left
                most = int(min(trials, allot.slice_of(standings[chosen])))
            self._slice(session, most, share, tell)
            if session.ended == "interrupted":
                raise KeyboardInterrupt
            if session.ended == "device lost":
                self.joint.complete, self.joint.ended = False, "device lost"
                return

    def _slice(self, session: Session, trials: int, seconds: float, tell: OnJoint) -> None:
        progress, before = self.progress, session.progress.trials
        progress.number, progress.current = self.sessions.index(session) + 1, session.progress
        known = progress.trials

        def told(own: Progress) -> None:
            progress.trials = known + own.trials - before
            progress.speedup = self._speedup()
            tell(progress)

        try:
            session.slice(trials, seconds, told)
        except GpuTuneError as error:  # a workload of which nothing works leaves the budget to the others
            session.over = True
            self.joint.failed[session.workload] = str(error)
        finally:
            progress.trials = known + session.progress.trials - before
            self.joint.slices.append((session.workload, session.progress.trials - before))

    def _speedup(self) -> float | None:
        """Of a pass, by the best found against the best defaults."""
        known = [(s.weight, s.progress) for s in self.sessions if s.progress.best and s.progress.default]
        best = sum(w * p.best.time for w, p in known if p.best)
        return sum(w * p.default.time for w, p in known if p.default) / best if best else None

    def _finals(self, asked: Sequence[Session], tell: OnJoint) -> None:
        """Winners of all that have trials, the largest part of the pass first."""
        progress = self.progress
        progress.phase = "finals"
        for number, session in enumerate(asked, 1):
            if session.tuner is None or not session.curve:
                why = "interrupted before its first trial" if session.tuner is None else "no config gave a time"
                self.joint.failed.setdefault(session.workload, why)
                continue
            progress.number, progress.current = self.sessions.index(session) + 1, session.progress
            try:
                winner = self._kept(session) or session.finals(lambda own: tell(progress), self.joint.complete)
                self.joint.kernels[session.workload] = TunedKernel(winner, path=self._published(winner))
                self.joint.failed.pop(session.workload, None)
            except KeyboardInterrupt:
                self.joint.complete, self.joint.ended = False, "interrupted"
                log.warning("interrupted: %d of %d workloads have their winners", number - 1, len(asked))
                return
            except GpuTuneError as error:
                self.joint.failed[session.workload] = str(error)

    def _kept(self, session: Session) -> Winner | None:
        """The stored winner where no trial came after it; it now has this budget."""
        stored = session.stored
        if stored is None or stored.trials < session.progress.trials or not self.joint.complete:
            return None
        return replace(stored, budget={**stored.budget, TOGETHER: self.settings.budget.allowed}, complete=True)

    def _published(self, winner: Winner) -> Path | None:
        try:
            return self.store.publish(winner)
        except StoreError as error:
            log.error("%s; the kernel was not kept", error)
            return None


def tune_together(
    weights: Mapping[Workload, float],
    *,
    device: Device | str | None = None,
    kind: str = "auto",
    seconds: float | None = None,
    trials: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    store: Store | Path | str | None = None,
    records: Records | Path | str | None = None,
    force: bool = False,
    templates: Mapping[str, Template] | None = None,
    on_trial: OnJoint | None = None,
) -> Joint:
    """Kernels for several workloads from one budget, published in the store. ``weights``: by workload, how often a pass
    of what they belong to runs it; the other arguments are those of :func:`gpu_tune.tune`, for all of them together.

    ``seconds`` or ``trials``, or both, bound the search; one of them must be given. Raises what ``tune`` raises, but
    for workloads of which no config is right: those are in ``failed``.
    """
    require(weights, "workloads", ..., "there are none to tune", "give some as a dict with their counts")
    rule, remedy = "bounds nothing", "give seconds or trials"
    require(seconds is not None or trials is not None, "budget", ..., rule, remedy)
    check_settings(seed, jobs, force, None, on_trial)
    budget, explicit = JointBudget(seconds, trials), opened(store)
    chosen, source = select_device(device, kind)
    records = opened_records(records)
    drivers = {nvml.display_version()}
    settings = Settings(chosen, source, budget, records, seed, jobs, force, drivers, templates)
    run = Run(weights, settings, explicit or Store(), explicit is not None)
    try:
        return run.tune(on_trial or (lambda progress: None))
    finally:
        records.close()
        dispatch.forget()
