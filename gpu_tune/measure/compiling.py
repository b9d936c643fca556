"""What the measurers that compile have in common: render and compile a candidate, time it, say how it ended."""

from __future__ import annotations

import contextlib
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cuda import cubin as cubins
from ..cuda import nvrtc
from ..emulator import unavailable_reason
from ..errors import (
    CompileError,
    CompilerMissing,
    EmulationError,
    EnvironmentFault,
    GpuTuneError,
    InvalidConfig,
    InvalidInput,
    MeasureError,
)
from ..model.performance import Lanes, Prediction, main_step, predict
from ..model.performance.lanes import l1_bytes, lanes_of
from ..plan import LaunchPlan
from ..templates.bound import BoundTemplate, Rendered
from ..trial import Candidate, Measurement, Policy, Pruner, Resources
from .compile import TIMEOUT, CompilePool, CompileResult, CompileStore
from .protocol import Build, Measurer


class CompilingMeasurer(Measurer):
    """Base of the measurers that compile: candidates compile side by side and are timed ``timers`` at once (one a GPU).

    Subclasses say how a build is timed, and how finalists are confirmed. ``bound`` are the templates that compute one
    workload on one device. ``seen`` are earlier measurements: their cubins are not timed again. With ``in_order``
    builds are timed in the order of submission, which makes everything but the seconds spent a pure function of the
    submissions.
    """

    source = ""
    in_order = False

    def __init__(
        self,
        bound: Sequence[BoundTemplate],
        *,
        policy: Policy | None = None,
        jobs: int | None = None,
        store: Path | None = None,
        seen: Iterable[Measurement] = (),
        compile_timeout: float = TIMEOUT,
        timers: int = 1,
    ) -> None:
        self.bound = {b.name: b for b in bound}
        self.workload, self.device = bound[0].workload, bound[0].device
        self.policy = policy or Policy()
        self.store = store
        folder = CompileStore(store / "compiled") if store is not None else None
        self.pool = CompilePool(folder, jobs, compile_timeout)
        self._lock = threading.Lock()
        self._by_hash: dict[str, Measurement] = {}
        self._finalists: dict[Candidate, Build] = {}
        for measurement in seen:
            if measurement.ok and measurement.cubin_hash and measurement.source == self.source:
                self._by_hash.setdefault(measurement.cubin_hash, measurement)
        self._timers = ThreadPoolExecutor(timers, thread_name_prefix="gpu_tune-time")
        self._waiting: Counter[Future[CompileResult]] = Counter()
        self._closed = False

    def build(self, candidate: Candidate) -> Build:
        """Made once: it is a finalist's."""
        known = self._finalists.get(candidate)
        if known is None:
            known = self._finalists[candidate] = build(self._bound(candidate), candidate, self.pool)
        return known

    def builds(self, candidates: Iterable[Candidate], seconds: float | None = None) -> Iterator[Build]:
        """Builds of ``candidates`` in the order in which they are made, until ``seconds`` have passed (None: all); what
        cannot be built is left out."""
        return builds_of(self._pairs(candidates), self.pool, seconds)

    def _pairs(self, candidates: Iterable[Candidate]) -> Iterator[tuple[BoundTemplate, Candidate]]:
        for candidate in candidates:
            with contextlib.suppress(GpuTuneError):
                yield self._bound(candidate), candidate

    def published(self, build: Build) -> bytes:
        try:
            plain = self.pool.submit(build.rendered.source, self.device.arch, ()).result()
        except (EnvironmentFault, CompilerMissing):  # it runs as well with its tables
            return build.cubin
        same = plain.status == "ok" and cubins.identity(plain.cubin) == cubins.identity(build.cubin)
        return plain.cubin if same else build.cubin

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.pool.close()
            self._timers.shutdown(wait=True, cancel_futures=True)

    def _environment(self) -> dict[str, Any]:
        return {"nvrtc": nvrtc.identity(), "chip": self.device.chip}

    def _bound(self, candidate: Candidate) -> BoundTemplate:
        """The template of ``candidate``; InvalidInput when it is none of the measurer's."""
        if candidate.template not in self.bound:
            rule = f"is none of those that compute {self.workload.key} on {self.device.name}"
            raise InvalidInput("template", candidate.template, rule, f"use one of {', '.join(sorted(self.bound))}")
        return self.bound[candidate.template]

    def _ended(
        self,
        candidate: Candidate,
        status: str,
        reason: str,
        seconds: Mapping[str, float] | None = None,
        build: Build | None = None,
        **more: Any,
    ) -> Measurement:
        """A trial's end; ``more`` are fields of the measurement."""
        known: dict[str, Any] = {"policy": self.policy, "environment": self._environment(), "seconds": seconds or {}}
        if build is not None:
            known |= {"resources": build.resources, "cubin_hash": build.hash, "seconds": seconds or build.seconds}
        return Measurement(candidate, status, self.source, reason, **{**known, **more})

    def submit(self, candidate: Candidate, pruner: Pruner | None = None) -> Future[Measurement]:
        if self._closed:
            raise MeasureError("the measurer is closed; open another one")
        result: Future[Measurement] = Future()
        start = time.perf_counter()
        try:
            bound = self._bound(candidate)
            rendered = bound.render(candidate.config)
        except GpuTuneError as error:
            status = "invalid" if isinstance(error, (InvalidConfig, InvalidInput)) else "compile_error"
            result.set_result(self._ended(candidate, status, str(error)))
            return result
        took = time.perf_counter() - start
        compiled = self.pool.submit(rendered.source, self.device.arch)
        self._share(compiled, result)

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(self._finish(candidate, bound, rendered, compiled.result(), took, pruner))
            except BaseException as error:
                known = isinstance(error, GpuTuneError)
                result.set_exception(error if known else MeasureError(f"measuring failed: {error!r}"))

        def queue(_: Any = None) -> None:
            try:
                self._timers.submit(run)
            except RuntimeError:  # closed meanwhile
                result.cancel()

        if self.in_order:
            queue()
        else:
            compiled.add_done_callback(queue)
        return result

    def _share(self, compiled: Future[CompileResult], result: Future[Measurement]) -> None:
        """Give up the compile once every trial that waits for it has been cancelled."""
        with self._lock:
            self._waiting[compiled] += 1

        def release(ended: Future[Measurement]) -> None:
            with self._lock:
                self._waiting[compiled] -= 1
                unwanted = not self._waiting[compiled]
                if unwanted:
                    del self._waiting[compiled]
            if unwanted and ended.cancelled():
                compiled.cancel()

        result.add_done_callback(release)

    @abstractmethod
    def _time(self, build: Build) -> Measurement:
        """Verify and time one build (in a timer thread)."""

    def _finish(
        self,
        candidate: Candidate,
        bound: BoundTemplate,
        rendered: Rendered,
        compiled: CompileResult,
        took: float,
        pruner: Pruner | None = None,
    ) -> Measurement:
        seconds = {"render": took, "compile": compiled.cost}
        if compiled.status != "ok":
            return self._ended(candidate, compiled.status, compiled.reason, seconds)
        try:
            build = build_of(candidate, bound, rendered, compiled, took)
        except GpuTuneError as error:
            return self._ended(candidate, "compile_error", str(error), seconds)
        reason = pruner(candidate, build.resources) if pruner is not None else ""
        if reason:  # before twins are looked for: which of two is timed first may be chance
            return self._ended(candidate, "pruned", reason, seconds, build)
        twin = self._by_hash.get(build.hash)
        if twin is not None:
            return replace(
                twin,
                candidate=candidate,
                status="duplicate",
                resources=build.resources,
                seconds=seconds,
                reason=f"same cubin and launch as {twin.candidate.key}",
            )
        measurement = self._time(build)
        if measurement.ok:
            if not measurement.prediction:  # kept beside a measured time: models learn from it, and people compare
                found = prediction_of(build, cold=self.policy.l2 == "cold")
                measurement = replace(measurement, prediction=found.terms() if found.resident else {})
            self._by_hash.setdefault(build.hash, measurement)
        return measurement


def build(bound: BoundTemplate, candidate: Candidate, pool: CompilePool) -> Build:
    """Render and compile ``candidate``; CompileError, InvalidConfig or TemplateError when that fails."""
    start = time.perf_counter()
    rendered = bound.render(candidate.config)
    took = time.perf_counter() - start
    compiled = pool.submit(rendered.source, bound.device.arch).result()
    if compiled.status != "ok":
        raise CompileError(f"{candidate.key}: {compiled.status} ({compiled.reason})", compiled.log)
    return build_of(candidate, bound, rendered, compiled, took)


def builds_of(
    pairs: Iterable[tuple[BoundTemplate, Candidate]], pool: CompilePool, seconds: float | None = None
) -> Iterator[Build]:
    """Builds of candidates, each with its bound template, in the order in which they are made, until ``seconds`` have
    passed (None: all); what cannot be built is left out."""
    start = time.perf_counter()
    under_way: dict[Future[CompileResult], list[tuple[BoundTemplate, Candidate, Rendered]]] = {}
    for bound, candidate in pairs:
        with contextlib.suppress(GpuTuneError):
            rendered = bound.render(candidate.config)
            compiled = pool.submit(rendered.source, bound.device.arch)
            under_way.setdefault(compiled, []).append((bound, candidate, rendered))
    try:
        left = None if seconds is None else max(0.0, start + seconds - time.perf_counter())
        for compiled in as_completed(under_way, left):
            for bound, candidate, rendered in under_way[compiled]:
                with contextlib.suppress(GpuTuneError):
                    result = compiled.result()
                    if result.status == "ok":
                        yield build_of(candidate, bound, rendered, result, 0.0)
    except FutureTimeout:  # in Python 3.10 another class than TimeoutError
        pass
    finally:
        for compiled in under_way:
            compiled.cancel()


def build_of(
    candidate: Candidate, bound: BoundTemplate, rendered: Rendered, compiled: CompileResult, took: float
) -> Build:
    """The build of a compile that went well; CompileError when the cubin lacks a kernel of the plan.

    ``took``: seconds of rendering.
    """
    taken, seconds = resources(compiled, rendered.plan), {"render": took, "compile": compiled.cost}
    log, cached = compiled.log, compiled.cached
    return Build(candidate, bound, rendered, compiled.cubin, taken, log, nvrtc.identity(), seconds, cached)


def prediction_of(build: Build, *, cold: bool = True) -> Prediction:
    """What the performance model says of ``build`` on its device; ``cold``: nothing lies in L2."""
    rendered, bound = build.rendered, build.bound
    return predict(
        build.cubin, rendered.plan, rendered.estimate, bound.computed, bound.device, lanes=lanes_for(build), cold=cold
    )


_lanes: dict[str, Lanes] = {}
_MOST_LANES = 256


def lanes_for(build: Build) -> Lanes:
    """What the lanes of a build's accesses share, as the emulator finds it; empty where it cannot run here."""
    if unavailable_reason():
        return {}
    key = f"{build.bound.device.chip} {build.hash}"
    found = _lanes.get(key)
    if found is None:
        device, taken = build.bound.device, build.resources
        sizes = {name: array.nbytes for name, array in build.bound.computed.arrays().items()}
        shared = taken.static_shared_bytes + taken.dynamic_shared_bytes
        l1 = l1_bytes(device, shared, device.resident_blocks(taken.threads, taken.registers, shared))
        try:
            plan, main = build.rendered.plan, main_step(build.rendered.plan, build.rendered.estimate)
            found = lanes_of(build.cubin, plan, sizes, kernels={main.kernel}, l1_bytes=l1)
        except EmulationError:
            found = {}
        if len(_lanes) >= _MOST_LANES:
            _lanes.clear()
        _lanes[key] = found
    return found


def resources(compiled: CompileResult, plan: LaunchPlan) -> Resources:
    """What the cubin takes, the largest over the plan's kernels; CompileError when it lacks one of them."""
    facts, reports = cubins.read(compiled.cubin).kernels, cubins.read_log(compiled.log)
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
