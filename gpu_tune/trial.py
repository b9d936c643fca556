"""Trials as plain data: candidates, statuses, policies, resources and measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import text
from .errors import InvalidInput, require
from .space.knob import Config

STATUSES = (
    "ok",
    "invalid",
    "duplicate",
    "compile_error",
    "compile_timeout",
    "launch_error",
    "run_error",
    "run_timeout",
    "wrong",
    "unstable",
    "quarantined",
    "pruned",
)
"""How a trial can end. ``duplicate``: same cubin as an earlier trial, whose samples it shares. ``pruned``: compiled,
but not run, because builds of its kind never came near the best; nothing is wrong with it. Only ``ok``
and ``duplicate`` (of an ok trial) carry samples."""
MEASURED, PREDICTED, REPLAYED = SOURCES = ("measured", "predicted", "replayed")


@dataclass(frozen=True)
class Candidate:
    """A template (by name) and a config, picked to be tried."""

    template: str
    config: Config

    @property
    def key(self) -> str:
        return f"{self.template} {self.config.key}"


def require_candidate(value: object) -> None:
    """InvalidInput unless ``value`` is a candidate."""
    remedy = "give what tuner.ask() gave, or Candidate(space name, config)"
    known = isinstance(value, Candidate) and isinstance(value.config, Config)
    require(known, "measurement of", value, "is no candidate with a Config", remedy)


@dataclass(frozen=True)
class Policy:
    """How time is taken. ``mode``: ``graph`` (CUDA graph of unrolled launches), ``eager`` (events) or ``model``.

    ``l2``: ``cold`` (rotating buffers) or ``warm``. ``repeats``: samples at most.
    ``pdl``: programmatic dependent launch.
    """

    mode: str = "graph"
    l2: str = "cold"
    repeats: int = 20
    pdl: bool = False


@dataclass(frozen=True)
class Resources:
    """What the compiled cubin takes, the largest over its kernels; bytes. ``notes``: ptxas C75xx notes."""

    registers: int = 0
    spill_bytes: int = 0
    stack_bytes: int = 0
    static_shared_bytes: int = 0
    threads: int = 0
    dynamic_shared_bytes: int = 0
    notes: tuple[str, ...] = ()


Pruner = Callable[[Candidate, Resources], str]
"""What looks at a build before it runs: '' to run it, or why not."""


@dataclass(frozen=True)
class Measurement:
    """One trial's end. ``samples`` are seconds per run of the whole launch plan; empty unless the status has times.

    Of a measuring loop of your own: :meth:`of` and :meth:`failed`. InvalidInput for times that are no positive seconds.

    ``source`` is ``measured``, ``predicted`` or ``replayed``. ``warm_samples``: the same with a warm L2, where taken.
    ``environment``: driver, NVRTC, clocks, power, temperature ... ``cubin_hash`` names the binary. ``seconds``: what
    each stage cost (``render``, ``compile``, ``verify``, ``time``). ``prediction``: the terms of a predicted time by
    name (see ``model.performance.Prediction.terms``), of a measured trial too where it was predicted before it ran.
    """

    candidate: Candidate
    status: str
    source: str
    reason: str = ""
    samples: tuple[float, ...] = ()
    warm_samples: tuple[float, ...] = ()
    policy: Policy = field(default_factory=Policy)
    resources: Resources | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    cubin_hash: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, float] = field(default_factory=dict)
    prediction: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        subject = "measurement"
        require(self.status in STATUSES, f"{subject} status", self.status, "is unknown", f"use one of {STATUSES}")
        require(self.source in SOURCES, f"{subject} source", self.source, "is unknown", f"use one of {SOURCES}")
        object.__setattr__(self, "samples", tuple(self.samples))
        require(self.status != "ok" or self.samples, subject, self.candidate.key, "needs samples", "it is ok")
        untimed = self.status not in ("ok", "duplicate")
        rule = f"has the status {self.status}, which has no times"
        require(not (untimed and self.samples), subject, self.candidate.key, rule, "leave them out")
        for second in (*self.samples, *self.warm_samples):
            positive = isinstance(second, int | float) and 0 < second < math.inf
            remedy = "tell of a failure by Measurement.failed(candidate, reason)"
            require(positive, "measured seconds", second, "are not positive and finite", remedy)

    @classmethod
    def of(cls, candidate: Candidate, seconds: float | Iterable[float], **more: Any) -> Measurement:
        """A measured time, or the repeats of one, in seconds; ``more`` fields as of the class."""
        require_candidate(candidate)
        try:
            single = isinstance(seconds, (str, bytes)) or not isinstance(seconds, Iterable)
            several: Any = (seconds,) if single else seconds
            given = tuple(several)
            told = any(isinstance(s, (str, bytes, bool)) or str(getattr(s, "dtype", "")) == "bool" for s in given)
            samples = None if told else tuple(map(float, given))
        except (TypeError, ValueError, OverflowError):
            samples = None
        if samples is None:
            raise InvalidInput("measured seconds", seconds, "are no number, nor several", "tell seconds")
        return cls(candidate, "ok", samples=samples, **{"source": MEASURED, **more})

    @classmethod
    def failed(cls, candidate: Candidate, reason: str = "", status: str = "run_error", **more: Any) -> Measurement:
        """A config that gave no time, and why; ``status`` is one of ``STATUSES``."""
        require_candidate(candidate)
        require(isinstance(reason, str), "reason", reason, "is no text", "say why, in a few words")
        return cls(candidate, status, reason=reason, **{"source": MEASURED, **more})

    @property
    def ok(self) -> bool:
        """Whether this measurement carries a time."""
        return bool(self.samples)

    @property
    def time(self) -> float:
        """Median seconds of one run. Only for ok measurements."""
        return statistics.median(self.samples)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; ``from_json`` inverts it."""
        return dict(text.to_json(self))

    @classmethod
    def from_json(cls, data: object) -> Measurement:
        """Inverse of ``to_json``; TypeError or ValueError when ``data`` is not such a dict."""
        found: Measurement = text.from_json(cls, data, READERS, "measurement")
        return found


def read_config(data: object) -> Config:
    """The config in a JSON object of words, booleans and finite numbers; TypeError on anything else."""
    return Config(text.from_json(Mapping[str, bool | int | float | str], data, name="config"))


READERS: text.Readers = {Config: read_config}
"""How JSON holds what is no dataclass."""
