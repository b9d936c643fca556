"""How long a tuning may take, how fast is fast enough, and what is known while it runs."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cuda.device import Device
from ..errors import InvalidInput, MeasureError, require
from ..measure.finals import Finalist, Finals
from ..trial import Candidate, Measurement
from ..workload import Workload

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
LEAST, MOST = 0.1, 10.0
"""Ratios to a vendor library outside these are taken for a slip (a time without its unit)."""


@dataclass(frozen=True)
class SpeedGoal:
    """Ours is to take at most ``seconds``, or at most the fastest vendor baseline's time / ``ratio``; one is None."""

    ratio: float | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, value: object) -> SpeedGoal:
        """From 1.03 or "1.03" (1.03 times as fast as the vendor library: beat it by 3 %), or a time such as "350us".
        InvalidInput on anything else."""
        text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
        found = re.fullmatch(r"(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)\s*(x|s|ms|us|µs|μs|ns)?", text)
        number = float(found[1]) if found else math.nan
        if found is None or not 0 < number < math.inf:
            raise InvalidInput(
                "target", value, "is neither a ratio to the vendor library nor a time", "use 1.03, or 350us"
            )
        if found[2] in UNITS:
            return cls(seconds=number * UNITS[found[2]])
        if not LEAST <= number <= MOST:
            rule = f"is a ratio to the vendor library's speed outside {LEAST:g} to {MOST:g}"
            raise InvalidInput(
                "target", value, rule, "use 1.03 to beat it by 3 %, or a time with its unit, as in 350us"
            )
        return cls(ratio=number)

    def __str__(self) -> str:
        return f"{self.seconds * 1e6:g}us" if self.seconds is not None else f"{self.ratio:g}"

    def goal(self, baselines: Sequence[Finalist]) -> float:
        """Seconds to reach, given the vendor baselines as timed now; MeasureError when a ratio has none to go by."""
        if self.seconds is not None:
            return self.seconds
        times = [statistics.median(c.samples) for c in baselines if c.ok]
        if not times or self.ratio is None:
            failed = "; ".join(f"{c.name}: {c.reason or c.status}" for c in baselines) or "none is installed"
            raise MeasureError(
                f"target {self} compares with a vendor library, and none could be timed ({failed}); "
                "give a time instead, as in 350us, or ask gpu-tune doctor what is missing"
            )
        return min(times) / self.ratio

    def reached(self, finals: Finals) -> float:
        """How far the re-timed winner came: at least 1 when it holds the target; 1 where nothing can be said."""
        if finals.winner is None or (self.ratio is not None and finals.verdict is None):
            return 1.0
        if self.ratio is not None and finals.verdict is not None:
            return finals.verdict.ratio / self.ratio
        assert self.seconds is not None
        return self.seconds / statistics.median(finals.finalist(finals.winner).samples)

    def met_by(self, seconds: float, verdict: Mapping[str, Any]) -> bool:
        """Whether a stored winner with this time and verdict holds it."""
        if self.seconds is not None:
            return seconds <= self.seconds
        return float(verdict.get("ratio") or 0.0) >= (self.ratio or math.inf)


EFFORTS: Mapping[str, tuple[float, float]] = {"quick": (100, 30.0), "full": (2000, 120.0)}
"""Trials and seconds at most, for callers who name neither."""


@dataclass(frozen=True)
class Budget:
    """When to stop: ``trials`` at most, ``seconds`` of wall time at most; both count what is already recorded. Sooner
    when ``target`` is reached (see :class:`SpeedGoal`)."""

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


def check_settings(seed: Any, jobs: Any, force: Any, progress: Any, on_trial: Any) -> None:
    """Raise InvalidInput unless a tuning's other arguments are what they are to be."""
    require(type(seed) is int and seed >= 0, "seed", seed, "is not a non-negative integer", "give 0 or more")
    counted = jobs is None or (type(jobs) is int and jobs >= 1)
    require(counted, "jobs", jobs, "is not a positive integer", "give the compiles at a time, or leave it out")
    rule = "is neither True nor False"
    require(isinstance(force, bool), "force", force, rule, "give one")
    require(progress is None or isinstance(progress, bool), "progress", progress, rule, "give one, or leave it out")
    called = on_trial is None or callable(on_trial)
    require(called, "on_trial", on_trial, "is no function", "give one that takes a Progress, or leave it out")


@dataclass
class Progress:
    """What is known while tuning, for a callback: updated in place before each call.

    ``trials`` counts those resumed from records (``resumed``) as well. ``default`` is the best of the templates'
    default configs, ``best`` the fastest measurement, ``curve`` its history as (trial, seconds a run). ``goal``: the
    seconds a run that a target asks for. ``size``: the one being tuned of a workload that leaves one open, as in m=512.
    ``phase``: ``build`` (of the emulator, at its first use), ``prepare``,
    ``search``, ``finals`` or ``done``. ``building``: seconds of the first, which are none of ``seconds``. Times come
    from ``source``: predicted ones are estimates.
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
    building: float = 0.0
    size: str = ""

    @property
    def seconds(self) -> float:
        """Wall time spent, earlier runs included."""
        return self.earlier_seconds + time.monotonic() - self.started - self.building

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.trials >= self.budget.limits[0] or self.seconds >= self.budget.limits[1]

    def note(self, m: Measurement, defaults: frozenset[Candidate]) -> None:
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


def silent(progress: Progress) -> None:
    """Tells nobody."""
