"""What every measurer gives: builds, measurements, confirmations. The seam is ``concurrent.futures``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from ..device import Device
from ..errors import InvalidInput
from ..plan import LaunchPlan
from ..templates.base import Estimate, Template, registry
from ..trial import Candidate, Measurement, Resources, Rule
from ..workload import View, Workload
from .statistics import Comparison


@dataclass(frozen=True)
class Build:
    """A candidate, rendered and compiled. ``workload`` is what its template computes: the tuned one or a view of it.

    ``view`` maps the template's buffer names to the tuned workload's (None: they are the same). ``hash`` names the
    cubin together with its launch plan: equal builds run equally. ``log``: the compiler's words.
    """

    candidate: Candidate
    workload: Workload
    arch: str
    source: str
    cubin: bytes
    plan: LaunchPlan
    resources: Resources
    estimate: Estimate
    log: str = ""
    view: View | None = None
    nvrtc: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: bool = False

    @property
    def hash(self) -> str:
        """16 hex digits over the cubin and the launch plan."""
        plan = json.dumps(self.plan.to_json(), sort_keys=True)
        return hashlib.sha256(self.cubin + b"\0" + plan.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Check:
    """One verification of a contender: ``by`` ``emulator`` or ``gpu``, on which ``workload``, and how it ended."""

    name: str
    by: str
    ok: bool
    detail: str = ""
    workload: str = ""


@dataclass(frozen=True)
class Contender:
    """One party of a confirmation: ours (``candidate``) or a baseline (``candidate`` None).

    ``samples``: seconds, one a round. ``label`` says what a baseline is, permissions and unfused steps included.
    ``status`` and ``reason`` as in a trial.
    """

    name: str
    candidate: Candidate | None = None
    samples: tuple[float, ...] = ()
    warm_samples: tuple[float, ...] = ()
    status: str = "ok"
    reason: str = ""
    label: str = ""
    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it was timed and every check held."""
        return self.status == "ok" and bool(self.samples) and all(c.ok for c in self.checks)


@dataclass(frozen=True)
class Confirmation:
    """Finalists and baselines re-timed in interleaved rounds.

    ``winner`` is the fastest candidate (None when none held); ``comparisons`` compares it with every other contender
    by name. ``tied`` are the candidates no different from the fastest; ``rule`` says how the winner was taken among
    them. ``noise_floor``: relative difference that the fastest candidate shows against itself. ``verdict`` compares
    the winner with the fastest baseline (None without baselines).
    """

    source: str
    contenders: tuple[Contender, ...]
    winner: Candidate | None
    tied: tuple[Candidate, ...] = ()
    rule: str = ""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    noise_floor: float = 0.0
    rounds: int = 0
    verdict: Comparison | None = None
    vendor: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    def contender(self, candidate: Candidate) -> Contender:
        """The contender that ran ``candidate``; KeyError when it was none."""
        return next(c for c in self.contenders if c.candidate == candidate)

    def __str__(self) -> str:
        if self.winner is None:
            return "no candidate was confirmed"
        if self.verdict is None:
            failed = [f"{c.name} failed: {c.reason or c.status}" for c in self.contenders if c.candidate is None]
            why = f" ({'; '.join(failed)})" if failed else " (modelled device)" if self.source == "modelled" else ""
            return f"no vendor library to compare with{why}"
        return f"{self.verdict} than {self.vendor}" if self.verdict.decided else f"{self.verdict} to {self.vendor}"


class Measurer(Protocol):
    """Turns candidates into measurements. ``source`` is ``measured``, ``modelled`` or ``replayed``."""

    source: str
    device: Device
    workload: Workload

    def submit(self, candidate: Candidate, screen: Rule | None = None) -> Future[Measurement]:
        """A future of the candidate's trial. A bad candidate is a status, never an exception. ``screen`` looks at the
        build before it runs; where it gives a reason, the trial ends as ``screened`` and takes no GPU time."""
        ...

    def confirm(self, candidates: Sequence[Candidate], *, rounds: int = ...) -> Confirmation:
        """Finalists (and vendor baselines, where there are any) verified afresh and re-timed interleaved."""
        ...

    def vendors(self) -> Sequence[Contender]:
        """The vendor baselines alone, timed now, failed ones included; empty where there are none."""
        ...

    def build(self, candidate: Candidate) -> Build:
        """The candidate's source, cubin and plan. CompileError, InvalidConfig or TemplateError when there is none."""
        ...

    def close(self) -> None:
        """End every process and thread. Also done by leaving the ``with`` block."""
        ...

    def __enter__(self) -> Measurer: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def resolve(
    name: str, workload: Workload, device: Device, templates: Mapping[str, Template] | None = None
) -> tuple[Template, Workload, View | None]:
    """The template ``name`` and the workload it computes: ``workload`` itself, else the first view it supports.

    InvalidInput when there is no such template or it supports none of them.
    """
    known = registry() if templates is None else templates
    if name not in known:
        raise InvalidInput("template", name, "is unknown", f"use one of {', '.join(sorted(known)) or '(none)'}")
    template, reasons = known[name], []
    for candidate, view in ((workload, None), *((v.workload, v) for v in workload.views())):
        answer = template.supported(candidate, device)
        if answer is True:
            return template, candidate, view
        reasons.append(str(answer))
    raise InvalidInput("template", name, f"does not compute {workload.key} on {device.name}: {reasons[0]}")
