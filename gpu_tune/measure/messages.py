"""What crosses the pipe between a GPU measurer and its worker: frozen dataclasses, requests down and replies up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..plan import LaunchPlan
from ..reference import Numerics
from ..trial import Policy
from ..workload import Workload
from .protocol import Build


@dataclass(frozen=True)
class KernelToLoad:
    """A build as the worker needs it. ``buffers`` maps the plan's buffer names to the tuned workload's."""

    name: str
    cubin: bytes
    plan: LaunchPlan
    numerics: Numerics
    buffers: Mapping[str, str]

    @classmethod
    def of(cls, build: Build) -> KernelToLoad:
        """The kernel of ``build``, named by its candidate."""
        bound, rendered = build.bound, build.rendered
        origin = bound.view.origin if bound.view is not None else str
        buffers = {name: origin(name) for name in bound.computed.arrays()}
        return cls(build.candidate.key, build.cubin, rendered.plan, rendered.numerics, buffers)


@dataclass(frozen=True)
class EnvironmentRequest:
    """Asks what the numbers are taken on; the reply is a :class:`WorkerFacts`."""


@dataclass(frozen=True)
class WorkerFacts:
    """The GPU as its worker sees it. ``cuda``: the newest version that its driver runs."""

    gpu: str
    chip: str
    ordinal: int
    bus_id: str
    driver: str
    cuda: str
    host: str
    l2: str


@dataclass(frozen=True)
class ProbeRequest:
    """Asks whether a kernel that is known to be right runs rightly: MeasureError where it does not. ``cubin``: of
    :data:`PROBE`, for the GPU."""

    cubin: bytes


PROBE = """extern "C" __global__ void known_good(unsigned* out) {
    const unsigned i = blockIdx.x * 128 + threadIdx.x;
    out[i] = i * 2654435761u + 1u;
}
"""
PROBED = 32
"""Blocks of the probe."""


@dataclass(frozen=True)
class TrialRequest:
    """Check ``kernel`` on the inputs of ``seed``, then time it. ``best``: seconds of the fastest so far (0: none)."""

    workload: Workload
    seed: int
    policy: Policy
    kernel: KernelToLoad
    best: float = 0.0


@dataclass(frozen=True)
class TrialReply:
    """How a trial ended; samples and ``seconds`` (by stage) in seconds. ``lost``: the context is gone. ``outside``: the
    machine, not the kernel, is the reason."""

    status: str
    reason: str = ""
    samples: tuple[float, ...] = ()
    warm_samples: tuple[float, ...] = ()
    error: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    clocks: Mapping[str, Any] = field(default_factory=dict)
    lost: bool = False
    outside: bool = False


@dataclass(frozen=True)
class FinalsRequest:
    """Check ``kernels`` afresh and re-time those that hold, and ``baselines``, in ``rounds`` interleaved rounds."""

    workload: Workload
    seed: int
    policy: Policy
    kernels: tuple[KernelToLoad, ...]
    baselines: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class FinalistReply:
    """How one finalist fared. ``again``: a second series of the same rounds. ``checks``: by name, (ok, reason).
    ``host_seconds``: of issuing one run."""

    status: str
    reason: str = ""
    samples: tuple[float, ...] = ()
    again: tuple[float, ...] = ()
    warm_samples: tuple[float, ...] = ()
    label: str = ""
    checks: Mapping[str, tuple[bool, str]] = field(default_factory=dict)
    host_seconds: float = 0.0


@dataclass(frozen=True)
class FinalsReply:
    """``finalists`` by name. Where the run broke off, ``failed`` is the finalist at fault ("": unknown), else None."""

    finalists: Mapping[str, FinalistReply]
    clocks: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None
    reason: str = ""
    lost: bool = False


@dataclass(frozen=True)
class WinnerRequest:
    """Check ``kernel`` on new inputs, exactly on integers, and with infinities."""

    workload: Workload
    seed: int
    kernel: KernelToLoad


@dataclass(frozen=True)
class WinnerReply:
    """``checks``: by name, (ok, reason)."""

    checks: Mapping[str, tuple[bool, str]]
    lost: bool = False
