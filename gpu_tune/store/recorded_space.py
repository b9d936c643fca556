"""Recorded spaces: every trial of somebody's tuning run, as data and as a space that can be searched again."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptData, InvalidConfig
from ..space.knob import Config, Knob
from ..space.space import Space
from ..trial import REPLAYED, Candidate, Measurement, Policy


@dataclass(frozen=True)
class RecordedTrial:
    """One recorded config. ``time`` is its cost, less being better: seconds, or what ``Recorded.cost_of`` makes of
    another objective (None: failed, ``status`` says how). ``samples``: its repeats in seconds; ``seconds``: what the
    stages cost; ``extra``: other metrics, kept for export."""

    config: Config
    status: str
    time: float | None
    samples: tuple[float, ...] = ()
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    timestamp: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, m: Measurement) -> RecordedTrial:
        """A measurement as a recorded trial."""
        status, time = "ok" if m.status == "duplicate" else m.status, m.time if m.ok else None
        return cls(m.candidate.config, status, time, m.samples, m.reason, dict(m.seconds))


@dataclass(frozen=True)
class Recorded:
    """Trials of one kernel on one device. ``problem_size`` as the recorder wrote it. ``objective``: what the trials'
    times are, "time" or the name of a recorded metric, of which more is better where ``higher_is_better``."""

    kernel: str
    device: str
    knobs: tuple[Knob, ...]
    trials: tuple[RecordedTrial, ...]
    problem_size: tuple[int, ...] = ()
    objective: str = "time"
    higher_is_better: bool = False

    def cost_of(self, value: float) -> float:
        """What a trial's ``time`` is where the objective is ``value``, and the reverse: the inverse of what is
        maximised, so that ratios of costs are ratios of the metric."""
        return 1.0 / value if self.higher_is_better else value

    def __post_init__(self) -> None:
        if len({t.config.key for t in self.trials}) != len(self.trials):
            raise CorruptData(
                f"recorded space {self.kernel} on {self.device}: a config is recorded twice; keep one entry for each"
            )

    @property
    def best(self) -> RecordedTrial:
        """The fastest trial; CorruptData when none succeeded."""
        good = [t for t in self.trials if t.time is not None]
        if not good:
            raise CorruptData(
                f"recorded space {self.kernel} on {self.device}: no trial has a time; nothing can be searched"
            )
        return min(good, key=lambda t: t.time or 0.0)


class RecordedSpace(Space):
    """The space of exactly the recorded configs; ``measurement`` replays one."""

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(recorded.kernel, recorded.knobs, (), np.zeros((0, len(recorded.knobs)), dtype=np.uint16))
        self.recorded = recorded
        rows = self.rows(t.config for t in recorded.trials)
        super().__init__(recorded.kernel, recorded.knobs, (), rows)
        self._trials = {t.config.key: t for t in recorded.trials}

    def __len__(self) -> int:
        return len(self.recorded.trials)

    @property
    def optimum(self) -> float:
        """The least recorded cost: seconds where the objective is time."""
        return self.recorded.best.time or 0.0

    def times(self) -> NDArray[np.float64]:
        """Recorded times in seconds by row of ``grid.all()``; inf where the trial failed (for statistics, never
        stored).
        """
        return np.array([np.inf if t.time is None else t.time for t in self.recorded.trials])

    def trial(self, config: Config) -> RecordedTrial:
        """The recorded trial of ``config``; InvalidConfig when there is none."""
        found = self._trials.get(config.key)
        if found is None:
            raise InvalidConfig(f"{self.name} config {config.key}: not recorded; choose from the space's configs")
        return found

    @functools.cached_property
    def has_repeats(self) -> bool:
        """Whether every time recorded comes from its repeats, by one rule: mean, median or least. Where some do not (no
        repeats, or those of another run or tuner), none are used: the two kinds of time are not to be compared."""
        timed = [t for t in self.recorded.trials if t.time is not None]
        rules = (statistics.fmean, statistics.median, min)
        return all(t.samples for t in timed) and any(
            all(math.isclose(rule(t.samples), t.time or 0.0, rel_tol=1e-4) for t in timed) for rule in rules
        )

    def measurement(self, config: Config, repeats: bool = True) -> Measurement:
        """The recorded trial as a measurement; ``repeats`` False, or where not all have them (``has_repeats``): the
        single recorded time, not its repeats."""
        t = self.trial(config)
        samples = () if t.time is None else t.samples if repeats and self.has_repeats else (t.time,)
        return Measurement(
            Candidate(self.name, config),
            t.status,
            REPLAYED,
            t.reason,
            samples,
            policy=Policy(mode="eager", repeats=max(len(samples), 1)),
            seconds=dict(t.seconds),
            environment={"device": self.recorded.device},
        )
