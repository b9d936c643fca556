"""The measurers that time their builds in this process: compile ahead, time, recognise duplicates."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..device import Device
from ..errors import GpuTuneError, InvalidConfig, InvalidInput, MeasureError
from ..templates.base import Template
from ..trial import Candidate, Measurement, Rule
from ..workload import Workload
from .base import Build
from .builder import Builder, Prepared
from .compile import CompileResult


class Pipeline(Builder):
    """Candidates compile side by side and are timed ``timers`` at once (one a GPU); subclasses say how.

    With ``in_order`` builds are timed in the order of submission, which makes everything but the seconds spent a pure
    function of the submissions.
    """

    in_order = False

    def __init__(self, workload: Workload, device: Device, *, timers: int = 1, **options: Any) -> None:
        super().__init__(workload, device, **options)
        self._timers = ThreadPoolExecutor(timers, thread_name_prefix="gpu_tune-time")
        self._waiting: Counter[Future[CompileResult]] = Counter()

    def submit(self, candidate: Candidate, screen: Rule | None = None) -> Future[Measurement]:
        """See :class:`~gpu_tune.measure.base.Measurer`."""
        if self._closed:
            raise MeasureError("the measurer is closed; open another one")
        result: Future[Measurement] = Future()
        try:
            prepared = self._prepare(candidate)
        except (InvalidConfig, InvalidInput) as error:
            result.set_result(self._ended(candidate, "invalid", str(error)))
            return result
        except GpuTuneError as error:
            result.set_result(self._ended(candidate, "compile_error", str(error)))
            return result
        compiled = self.pool.submit(prepared.source, self.device.arch)
        self._share(compiled, result)

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(
                    self._finish(candidate, prepared, compiled.result(), {"render": prepared.seconds}, screen)
                )
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

    def close(self) -> None:
        """See :class:`~gpu_tune.measure.base.Measurer`."""
        super().close()
        self._timers.shutdown(wait=True, cancel_futures=True)

    @abstractmethod
    def _time(self, build: Build, template: Template) -> Measurement:
        """Verify and time one build (in a timer thread)."""

    def _finish(
        self,
        candidate: Candidate,
        prepared: Prepared,
        compiled: CompileResult,
        seconds: dict[str, float],
        screen: Rule | None = None,
    ) -> Measurement:
        seconds["compile"] = 0.0 if compiled.cached else compiled.seconds
        with self._lock:
            self.busy["compile"] += seconds["compile"]
        if compiled.status != "ok":
            return self._ended(candidate, compiled.status, compiled.reason, seconds)
        try:
            build = self._built(candidate, prepared, compiled, seconds)
        except GpuTuneError as error:
            return self._ended(candidate, "compile_error", str(error), seconds)
        reason = screen(candidate, build.resources) if screen is not None else ""
        if reason:  # before twins are looked for: which of two is timed first may be chance
            return self._ended(candidate, "screened", reason, seconds, build)
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
        measurement = self._time(build, prepared.template)
        with self._lock:
            for stage in ("verify", "time"):
                self.busy[stage] += measurement.seconds.get(stage, 0.0)
        if measurement.ok:
            self._by_hash.setdefault(build.hash, measurement)
        return measurement
