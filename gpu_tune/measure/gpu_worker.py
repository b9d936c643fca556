"""The child that owns a GPU's context: it verifies and times what its parent sends, one request after another.

Everything that can take a process down happens here and nowhere else. After an error that costs the context it answers
with ``lost`` set, and its parent replaces it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..cuda import driver, nvml
from ..cuda.driver import DriverError
from ..cuda.launch import Program
from ..errors import GpuTuneError, InvalidInput, MeasureError
from ..plan import BufferArg, KernelStep, LaunchPlan
from ..trial import Policy
from . import runtime
from .check import Checker
from .device_data import DeviceData, LoadedKernel
from .messages import (
    PROBED,
    EnvironmentRequest,
    FinalistReply,
    FinalsReply,
    FinalsRequest,
    ProbeRequest,
    TrialReply,
    TrialRequest,
    WinnerReply,
    WinnerRequest,
    WorkerFacts,
)
from .timing import (
    WARM_UP,
    Flush,
    Stopwatch,
    estimate_runtime,
    interleave,
    is_much_slower,
    issue_seconds,
    repeat,
    unstable,
    warm_up,
)
from .worker import Note

SETTLE = 0.25
"""Seconds of untimed work before the rounds that decide."""
OVERRIDES = (
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUPY_TF32",
)
"""Variables that change, behind everybody's back, how libraries compute or how launches are issued."""


def handler(setup: Mapping[str, Any]) -> Callable[[Any, Note], Any]:
    """In the child: the handler of requests for GPU ``setup["ordinal"]``."""
    for name in OVERRIDES:  # before the driver and the libraries read them
        os.environ.pop(name, None)
    return Gpu(int(setup["ordinal"])).answer


def other_l2(policy: Policy) -> str:
    """The state of the L2 that ``policy`` does not ask for."""
    return "warm" if policy.l2 == "cold" else "cold"


class Gpu:
    """One GPU: its context, and the arrays of the workload that was last asked for."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        runtime.start(ordinal)
        self.device = driver.describe(ordinal)
        self.bus = driver.bus_id(ordinal)
        self.stream = runtime.new_stream()
        size = 3 * max(self.device.l2_bytes, 1 << 20)
        self.flush = Flush(runtime.allocate(size), size)
        self._data: tuple[Any, DeviceData, Checker] | None = None

    def answer(self, request: Any, note: Note) -> Any:
        known: dict[type, Callable[[Any, Note], Any]] = {
            EnvironmentRequest: self.environment,
            ProbeRequest: self.probe,
            TrialRequest: self.trial,
            FinalsRequest: self.finals,
            WinnerRequest: self.winner,
        }
        return known[type(request)](request, note)

    def environment(self, request: EnvironmentRequest, note: Note) -> WorkerFacts:
        return WorkerFacts(
            gpu=self.device.product,
            chip=self.device.chip,
            ordinal=self.ordinal,
            bus_id=self.bus,
            driver=nvml.display_version(),
            cuda=".".join(map(str, driver.version())),
            host=platform.node(),
            l2="three times the L2 rotated or overwritten when cold",
        )

    def probe(self, request: ProbeRequest, note: Note) -> bool:
        """Run the kernel that is known to be right; MeasureError where the GPU does not."""
        step = KernelStep("known_good", (PROBED, 1, 1), (128, 1, 1), (BufferArg("out"),))
        expected = np.arange(128 * PROBED, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(1)
        address = 0
        try:
            address = runtime.allocate(expected.nbytes)
            runtime.upload(address, np.zeros_like(expected))
            program = Program(request.cubin, LaunchPlan((step,)), runtime.Module)
            program.run({"out": address}, self.stream.ptr)
            self.stream.synchronize()
            right = np.array_equal(runtime.download(address, expected.nbytes).view(np.uint32), expected)
            program.unload()
        except Exception as raised:
            found = runtime.driver_error(raised, "cuStreamSynchronize")
            if found is None:
                raise
            raise MeasureError(f"a kernel that is known to be right fails on it: {found}") from raised
        finally:
            if address:
                with contextlib.suppress(GpuTuneError):
                    runtime.free(address)
        if not right:
            raise MeasureError(
                "a kernel that is known to be right gives a wrong result on it; see nvidia-smi -q and dmesg"
            )
        return True

    def trial(self, request: TrialRequest, note: Note) -> TrialReply:
        policy, seconds, kernel = request.policy, {"verify": 0.0, "time": 0.0}, None
        reply = functools.partial(TrialReply, seconds=seconds)
        status, start = "launch_error", time.perf_counter()
        try:
            note("inputs")
            data, checker = self._inputs(request)
            note("load")
            kernel = LoadedKernel(request.kernel, data, policy.pdl)
            note("launch")
            status = "run_error"
            result = checker.check(kernel, note)
            seconds["verify"] = time.perf_counter() - start
            if result.status != "ok":
                return reply(result.status, result.reason, error=result.error)
            note("time")
            start = time.perf_counter()
            before = nvml.sensors(self.bus)
            kernel.prepare_to_time(self.stream)
            once = estimate_runtime(kernel, self.stream)
            if is_much_slower(once, request.best):
                seconds["time"] = time.perf_counter() - start
                return reply("ok", samples=(once,), warm_samples=(once,), error=result.error)
            note("time")
            watch = Stopwatch(kernel, policy, self.stream, self.flush, self.device.l2_bytes)
            warm_up([watch], WARM_UP)

            def sample(l2: str) -> float:
                note("time")  # a time limit for each: many runs of a slow kernel are no hang
                return watch.sample(l2)

            samples = repeat(lambda: sample(policy.l2), policy.repeats, request.best)
            other = repeat(lambda: sample(other_l2(policy)), max(1, min(5, policy.repeats)))
            self.stream.synchronize()
            watch.close()
            seconds["time"] = time.perf_counter() - start
            clocks = {"before": before, "after": nvml.sensors(self.bus)}
            if unstable(samples):
                reason = f"{len(samples)} samples from {min(samples):.3g} s to {max(samples):.3g} s"
                return reply("unstable", reason, clocks=clocks)
            warm = other if policy.l2 == "cold" else samples
            return reply("ok", samples=samples, warm_samples=warm, error=result.error, clocks=clocks)
        except InvalidInput as error:  # a tensor map that the hardware refuses
            return reply("launch_error", str(error))
        except Exception as raised:
            found = runtime.driver_error(raised, "cuStreamSynchronize")
            if found is None:
                raise
            if found.sticky:
                return reply("run_error", str(found), lost=True)
            if found.call in ("cuLaunchKernelEx", "cuModuleLoadData", "cuFuncSetAttribute", "cuModuleGetFunction"):
                status = "launch_error"
            if found.code != driver.OUT_OF_MEMORY:
                return reply(status, str(found))
            self._forget()
            others, total = runtime.held_elsewhere()
            outside = others > max(total // 4, 2 << 30)  # a context of our own takes up to a gigabyte
            held = f"; other processes hold {others / 2**30:.1f} of {total / 2**30:.1f} GiB" if outside else ""
            return reply(status, f"out of device memory ({found}){held}", outside=outside)
        finally:
            self._close(kernel)

    def finals(self, request: FinalsRequest, note: Note) -> FinalsReply:
        """Check every kernel afresh and re-time all that hold, and the baselines, in interleaved rounds."""
        policy, rounds = request.policy, request.rounds
        replies: dict[str, FinalistReply] = {}
        running: list[tuple[str, Any]] = []
        current = ""
        try:
            data, checker = self._inputs(request)
            for entry in request.kernels:
                current = entry.name
                note("load", current)
                kernel = LoadedKernel(entry, data, policy.pdl)
                running.append((current, kernel))
                found = checker.check(kernel, functools.partial(note, subject=current))
                checks = {"inputs of the search": (found.status == "ok", found.reason)}
                replies[current] = FinalistReply(found.status, found.reason, checks=checks)
            running = [(name, k) for name, k in running if replies[name].status == "ok"]
            current = ""
            if request.baselines:
                from . import baselines

                libraries, missing = baselines.prepare(request.baselines, data, checker, self.stream, self.device, note)
                running += [(library.name, library) for library in libraries]
                replies |= {library.name: FinalistReply("ok", label=library.label) for library in libraries}
                replies |= {name: FinalistReply("invalid", why) for name, why in missing.items()}
            note("rounds")
            before = nvml.sensors(self.bus)
            watches, names = [], []
            for current, contestant in running:
                if isinstance(contestant, LoadedKernel):
                    contestant.prepare_to_time(self.stream)
                try:
                    watches.append(Stopwatch(contestant, policy, self.stream, self.flush, self.device.l2_bytes))
                    names.append(current)
                except Exception as error:  # a library that cannot be captured; its errors have no common root
                    if isinstance(contestant, LoadedKernel) or runtime.is_fatal(error):
                        raise
                    replies[current] = FinalistReply("launch_error", f"cannot be timed in a graph: {error}")
            current = ""
            rng = np.random.default_rng(request.seed)
            warm_up(watches, SETTLE)
            twice = [*watches, *watches]  # the second series gives the noise floor
            samples = interleave(twice, rounds, lambda r: [int(i) for i in rng.permutation(len(twice))], policy.l2)
            warm = interleave(watches, min(rounds, 5), lambda r: range(len(watches)), other_l2(policy))
            for name, *series in zip(names, samples, samples[len(names) :], warm):
                first, again, other = map(tuple, series)
                replies[name] = replace(replies[name], samples=first, again=again, warm_samples=other)
            contestants = dict(running)
            for name in names:
                replies[name] = replace(replies[name], host_seconds=issue_seconds(contestants[name], self.stream))
            self.stream.synchronize()
            for watch in watches:
                watch.close()
            return FinalsReply(replies, {"before": before, "after": nvml.sensors(self.bus)})
        except InvalidInput as error:
            return FinalsReply(replies, failed=current, reason=str(error))
        except Exception as raised:
            failure = runtime.driver_error(raised, "cuStreamSynchronize")
            if failure is None:
                raise
            return FinalsReply(replies, failed=current, reason=str(failure), lost=failure.sticky)
        finally:
            for _, contestant in running:
                self._close(contestant)

    def winner(self, request: WinnerRequest, note: Note) -> WinnerReply:
        """Check one kernel on new inputs, exactly on integers, and with infinities."""
        kernel = None
        try:
            named = functools.partial(note, subject=request.kernel.name)
            named("inputs")
            data, checker = self._inputs(request)
            kernel = LoadedKernel(request.kernel, data, False)
            found = checker.check_winner(kernel, request.seed + 1, named)
            return WinnerReply({n: (v.status == "ok", v.reason) for n, v in found.items()})
        except Exception as raised:
            failed = runtime.driver_error(raised, "cuStreamSynchronize")
            if failed is None:
                raise
            return WinnerReply({"new inputs": (False, str(failed))}, failed.sticky)
        finally:
            self._close(kernel)

    def _inputs(self, request: TrialRequest | FinalsRequest | WinnerRequest) -> tuple[DeviceData, Checker]:
        key = (request.workload, request.seed)
        if self._data is None or self._data[0] != key:
            self._forget()
            data = DeviceData(request.workload, request.seed, self.device.l2_bytes)
            self._data = (key, data, Checker(data, self.stream, self.device))
        return self._data[1], self._data[2]

    def _forget(self) -> None:
        if self._data is not None:
            with contextlib.suppress(DriverError):
                self._data[2].close()
                self._data[1].close()
            self._data = None

    def _close(self, kernel: Any) -> None:
        if kernel is not None:
            with contextlib.suppress(GpuTuneError):
                runtime.synchronize()
                kernel.close()
