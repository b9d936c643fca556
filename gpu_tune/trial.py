"""Trials as plain data: candidates, statuses, policies, resources and measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

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
MEASURED, PREDICTED, REPLAYED = "measured", "predicted", "replayed"


@dataclass(frozen=True)
class Candidate:
    """A template (by name) and a config, picked to be tried."""

    template: str
    config: Config

    @property
    def key(self) -> str:
        """Canonical text, equal exactly for equal candidates."""
        return f"{self.template} {self.config.key}"


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

    ``source`` is ``measured``, ``predicted`` or ``replayed``. ``warm_samples``: the same with a warm L2, where taken.
    ``environment``: driver, NVRTC, clocks, power, temperature ... ``cubin_hash`` names the binary. ``seconds``: what
    each stage cost (``render``, ``compile``, ``verify``, ``time``).
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

    def __post_init__(self) -> None:
        if self.status not in STATUSES or self.source not in (MEASURED, PREDICTED, REPLAYED):
            raise ValueError(f"measurement status {self.status!r} / source {self.source!r} is unknown")
        if self.status == "ok" and not self.samples:
            raise ValueError("an ok measurement needs samples")
        if self.status not in ("ok", "duplicate") and self.samples:
            raise ValueError(f"a {self.status} measurement has no times")

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
        return {
            **asdict(self),
            "candidate": {"template": self.candidate.template, "config": dict(self.candidate.config)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Inverse of ``to_json``; TypeError, KeyError or ValueError when ``data`` is not such a dict."""
        body = dict(data)
        body["candidate"] = Candidate(str(data["candidate"]["template"]), Config(data["candidate"]["config"]))
        for name, value in body["candidate"].config.items():
            if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
                raise TypeError(f"knob {name} is neither a finite number, nor text, nor a boolean")
        body["policy"] = Policy(**data["policy"])
        if data.get("resources") is not None:
            body["resources"] = Resources(**{**data["resources"], "notes": tuple(data["resources"].get("notes", ()))})
            if any(type(v) is not int for n, v in vars(body["resources"]).items() if n != "notes"):
                raise TypeError("resources are not integers")
        for name in ("samples", "warm_samples"):
            body[name] = tuple(float(s) for s in data.get(name, ()))
            if not all(0 < s < math.inf for s in body[name]):
                raise ValueError(f"{name} are not positive seconds")
        for name in ("environment", "seconds", "error"):
            if not isinstance(data.get(name, {}), Mapping):
                raise TypeError(f"{name} is no object")
        for name in ("reason", "cubin_hash"):
            if not isinstance(data.get(name, ""), str):
                raise TypeError(f"{name} is not text")
        return cls(**body)
