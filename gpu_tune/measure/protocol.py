"""What every measurer gives: builds, measurements, finals. The seam is ``concurrent.futures``."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from ..cuda import cubin as cubins
from ..cuda.device import Device
from ..templates.bound import BoundTemplate, Rendered
from ..trial import Candidate, Measurement, Pruner, Resources
from ..workload import Workload
from .finals import ROUNDS, Finalist, Finals

T = TypeVar("T", bound="Measurer")


@dataclass(frozen=True)
class Build:
    """A candidate, rendered and compiled. ``hash`` names the cubin together with its launch plan: equal builds run
    equally. ``log``: the compiler's words. ``seconds``: what each stage cost; ``cached``: the compile cost nothing.
    """

    candidate: Candidate
    bound: BoundTemplate
    rendered: Rendered
    cubin: bytes
    resources: Resources
    log: str = ""
    nvrtc: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: bool = False

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits over what of the cubin runs and the launch plan."""
        plan = json.dumps(self.rendered.plan.to_json(), sort_keys=True)
        return hashlib.sha256(cubins.identity(self.cubin) + plan.encode()).hexdigest()[:16]


class Measurer(ABC):
    """Turns candidates into measurements. ``source`` is ``measured``, ``predicted`` or ``replayed``.

    ``bound``: by name, what candidates may be of. Leaving its ``with`` block closes it.
    """

    source: str
    device: Device
    workload: Workload
    bound: Mapping[str, BoundTemplate]

    @abstractmethod
    def submit(self, candidate: Candidate, pruner: Pruner | None = None) -> Future[Measurement]:
        """A future of the candidate's trial. A bad candidate is a status, never an exception. ``pruner`` looks at the
        build before it runs; where it gives a reason, the trial ends as ``pruned`` and takes no GPU time."""

    @abstractmethod
    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """Finalists (and vendor baselines, where there are any) verified afresh and re-timed interleaved."""

    @abstractmethod
    def build(self, candidate: Candidate) -> Build:
        """The candidate's source, cubin and plan. CompileError, InvalidConfig or TemplateError when there is none."""

    def published(self, build: Build) -> bytes:
        """The cubin of ``build`` to publish: the same code without line tables and PTX."""
        return build.cubin

    @abstractmethod
    def close(self) -> None:
        """End every process and thread."""

    def vendors(self) -> Sequence[Finalist]:
        """The vendor baselines alone, timed now, failed ones included; empty where there are none."""
        return ()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
