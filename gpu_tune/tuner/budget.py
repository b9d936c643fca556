"""How long a tuning may take, and what is known while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..cuda.device import Device
from ..errors import InvalidInput
from ..trial import Candidate, Measurement
from ..workload import Workload
from .goal import SpeedGoal

EFFORTS: Mapping[str, tuple[float, float]] = {"quick": (100, 30.0), "full": (2000, 120.0)}
"""Trials and seconds at most, for callers who name neither."""


@dataclass(frozen=True)
class Budget:
    """When to stop: ``trials`` at most, ``seconds`` of wall time at most; both count what is already recorded. Sooner
    when ``target`` is reached (see :class:`~gpu_tune.tuner.goal.SpeedGoal`)."""

    trials: int | None = None
    seconds: float | None = None
    effort: str = "full"
    target: SpeedGoal | None = None

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise InvalidInput("effort", self.effort, "is unknown", f"use one of {', '.join(EFFORTS)}")
        if self.trials is not None and (type(self.trials) is not int or self.trials < 1):
            raise InvalidInput("trials", self.trials, "is not a positive integer", "give at least 1")
        number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if self.seconds is not None and not (number and 0 < self.seconds < 1e9):
            raise InvalidInput("seconds", self.seconds, "is not a positive number", "give the seconds to tune for")

    @property
    def limits(self) -> tuple[float, float]:
        """(trials, seconds); infinite where only the other was named."""
        if self.open:
            return EFFORTS[self.effort]
        return self.trials or float("inf"), self.seconds or float("inf")

    @property
    def open(self) -> bool:
        """Whether neither was named: then the search may end sooner, when it makes no more progress."""
        return self.trials is None and self.seconds is None

    def spent(self, trials: int, seconds: float) -> bool:
        """Whether that much is all of it."""
        most_trials, most_seconds = self.limits
        return trials >= most_trials or seconds >= most_seconds


@dataclass
class Progress:
    """What is known while tuning, for a callback: updated in place before each call.

    ``trials`` counts those resumed from records (``resumed``) as well. ``default`` is the best of the templates'
    default configs, ``best`` the fastest measurement, ``curve`` its history as (trial, seconds a run). ``goal``: the
    seconds a run that a target asks for. ``phase``: ``prepare``, ``search``, ``finals`` or ``done``. Times come from
    ``source``: predicted ones are estimates.
    """

    workload: Workload
    device: Device
    source: str
    budget: Budget
    started: float = field(default_factory=time.monotonic)
    earlier_seconds: float = 0.0
    trials: int = 0
    resumed: int = 0
    phase: str = "prepare"
    best: Measurement | None = None
    default: Measurement | None = None
    last: Measurement | None = None
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    goal: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time spent, earlier runs included."""
        return self.earlier_seconds + time.monotonic() - self.started

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.budget.spent(self.trials, self.seconds)

    def note(self, m: Measurement, defaults: frozenset[Candidate]) -> None:
        """Take one ended trial in."""
        self.trials += 1
        self.statuses[m.status] += 1
        self.last = m
        if not m.ok:
            self.reasons.setdefault(m.status, m.reason)
            return
        if m.candidate in defaults and (self.default is None or m.time < self.default.time):
            self.default = m
        if self.best is None or m.time < self.best.time:
            self.best = m
            self.curve.append((self.trials, m.time))


OnTrial = Callable[[Progress], None]
