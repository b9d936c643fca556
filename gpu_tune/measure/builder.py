"""What the measurers that really compile have in common: check and render a candidate, compile it, say how it ended."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .. import cubin as cubins
from .. import nvrtc, ptxas
from ..device import Device
from ..errors import CompileError
from ..plan import LaunchPlan
from ..templates.base import Estimate, Template, render
from ..trial import Candidate, Measurement, Policy, Resources
from ..workload import View, Workload
from .base import Build, Confirmation, Contender, resolve
from .compile import TIMEOUT, CompilePool, CompileResult, CompileStore


class Prepared(NamedTuple):
    """A candidate that was checked and rendered; ``seconds`` that took."""

    template: Template
    workload: Workload
    source: str
    view: View | None
    plan: LaunchPlan
    estimate: Estimate
    seconds: float


class Builder(ABC):
    """Base of the measurers that compile. ``seen`` are earlier measurements: their cubins are not timed again."""

    source = ""

    def __init__(
        self,
        workload: Workload,
        device: Device,
        *,
        policy: Policy | None = None,
        jobs: int | None = None,
        store: Path | None = None,
        templates: Mapping[str, Template] | None = None,
        seen: Iterable[Measurement] = (),
        compile_timeout: float = TIMEOUT,
        pool: CompilePool | None = None,
    ) -> None:
        self.workload, self.device = workload, device
        self.policy = policy or Policy()
        self.templates = templates
        self.store = store
        folder = CompileStore(store / "compiled") if store is not None else None
        self._own_pool = pool is None
        self.pool = pool or CompilePool(folder, jobs, compile_timeout)
        self.busy: dict[str, float] = {"render": 0.0, "compile": 0.0, "verify": 0.0, "time": 0.0}
        self._lock = threading.Lock()
        self._by_hash: dict[str, Measurement] = {}
        for measurement in seen:
            if measurement.ok and measurement.cubin_hash and measurement.source == self.source:
                self._by_hash.setdefault(measurement.cubin_hash, measurement)
        self._closed = False

    def build(self, candidate: Candidate) -> Build:
        """See :class:`~gpu_tune.measure.base.Measurer`."""
        prepared = self._prepare(candidate)
        compiled = self.pool.submit(prepared.source, self.device.arch).result()
        if compiled.status != "ok":
            raise CompileError(f"{candidate.key}: {compiled.status} ({compiled.reason})", compiled.log)
        return self._built(candidate, prepared, compiled, {"render": prepared.seconds})

    def close(self) -> None:
        """See :class:`~gpu_tune.measure.base.Measurer`."""
        if not self._closed:
            self._closed = True
            if self._own_pool:
                self.pool.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def confirm(self, candidates: Sequence[Candidate], *, rounds: int = 0) -> Confirmation:
        """See :class:`~gpu_tune.measure.base.Measurer`."""

    def vendors(self) -> Sequence[Contender]:
        """See :class:`~gpu_tune.measure.base.Measurer`."""
        return ()

    def _environment(self) -> dict[str, Any]:
        return {"nvrtc": ".".join(map(str, nvrtc.version())), "chip": self.device.chip}

    def _prepare(self, candidate: Candidate) -> Prepared:
        start = time.perf_counter()
        template, workload, view = resolve(candidate.template, self.workload, self.device, self.templates)
        template.check(candidate.config, workload, self.device)
        source = render(template, candidate.config, workload, self.device)
        plan = template.plan(candidate.config, workload, self.device).check()
        estimate = template.resources(candidate.config, workload, self.device)
        took = time.perf_counter() - start
        with self._lock:
            self.busy["render"] += took
        return Prepared(template, workload, source, view, plan, estimate, took)

    def _built(
        self, candidate: Candidate, prepared: Prepared, compiled: CompileResult, seconds: dict[str, float]
    ) -> Build:
        return Build(
            candidate,
            prepared.workload,
            self.device.arch,
            prepared.source,
            compiled.cubin,
            prepared.plan,
            resources(compiled, prepared.plan),
            prepared.estimate,
            compiled.log,
            prepared.view,
            ".".join(map(str, nvrtc.version())),
            {**seconds, "compile": 0.0 if compiled.cached else compiled.seconds},
            compiled.cached,
        )

    def _ended(
        self,
        candidate: Candidate,
        status: str,
        reason: str,
        seconds: Mapping[str, float] | None = None,
        build: Build | None = None,
    ) -> Measurement:
        return Measurement(
            candidate,
            status,
            self.source,
            reason,
            policy=self.policy,
            environment=self._environment(),
            resources=build.resources if build else None,
            cubin_hash=build.hash if build else "",
            seconds=dict(seconds or (build.seconds if build else {})),
        )


def resources(compiled: CompileResult, plan: LaunchPlan) -> Resources:
    """What the cubin takes, the largest over the plan's kernels; CompileError when it lacks one of them."""
    facts, reports = cubins.read(compiled.cubin).kernels, ptxas.read(compiled.log)
    missing = [step.kernel for step in plan.kernels if step.kernel not in facts]
    if missing:
        raise CompileError(
            f"the launch plan names a kernel {missing[0]!r} that the cubin lacks (it has {', '.join(facts)})"
        )
    used = [facts[step.kernel] for step in plan.kernels]
    told = [reports[step.kernel] for step in plan.kernels if step.kernel in reports]
    return Resources(
        registers=max(f.registers for f in used),
        spill_bytes=max((r.spill_bytes for r in told), default=0),
        stack_bytes=max(f.stack_bytes for f in used),
        static_shared_bytes=max(f.static_shared_bytes for f in used),
        threads=max(s.threads for s in plan.kernels),
        dynamic_shared_bytes=max(s.shared_bytes for s in plan.kernels),
        notes=tuple(dict.fromkeys(note for r in told for note in r.notes)),
    )
