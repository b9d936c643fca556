"""The child that owns a GPU's context: it verifies and times what its parent sends, one request after another.

Everything that can take a process down happens here and nowhere else. After an error that costs the context it answers
with ``lost`` set, and its parent replaces it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..cuda import driver, memory, nvml
from ..cuda.driver import DriverError
from ..errors import GpuTuneError, InvalidInput
from ..reference.numerics import Numerics
from ..trial import Policy
from ..workload import Workload, from_dict
from .check import Checker
from .device_data import DeviceData, LoadedKernel
from .timing import WARM_UP, Flush, Stopwatch, estimate_runtime, interleave, is_much_slower, repeat, unstable, warm_up

Note = Callable[[str], None]
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
    gpu = Gpu(int(setup["ordinal"]))
    return gpu.answer


class Gpu:
    """One GPU: its context, and the arrays of the workload that was last asked for."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        driver.use_context(ordinal)
        self.device = driver.describe(ordinal)
        self.bus = driver.bus_id(ordinal)
        self.stream = memory.Stream()
        size = 3 * max(self.device.l2_bytes, 1 << 20)
        self.flush = Flush(memory.allocate(size), size)
        self._data: tuple[Any, DeviceData, Checker] | None = None

    def answer(self, request: Mapping[str, Any], note: Note) -> Any:
        """The reply to one request; ``do`` names the method."""
        known = {"environment": self.environment, "trial": self.trial, "confirm": self.confirm, "winner": self.winner}
        return known[request["do"]](request, note)

    def environment(self, request: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """What the numbers were taken on."""
        return {
            "gpu": self.device.product,
            "chip": self.device.chip,
            "ordinal": self.ordinal,
            "bus_id": self.bus,
            "driver": nvml.driver_version(),
            "cuda": ".".join(map(str, driver.version())),
            "host": platform.node(),
            "l2": "three times the L2 rotated or overwritten when cold",
        }

    def trial(self, request: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """Verify, then time: ``status``, ``reason``, ``samples``, ``warm``, ``error``, ``seconds``, ``lost``."""
        policy, seconds, kernel = Policy(**request["policy"]), {"verify": 0.0, "time": 0.0}, None
        stage, start = "launch_error", time.perf_counter()
        try:
            note("inputs")
            data, checker = self._inputs(request)
            note("load")
            kernel = LoadedKernel(request, data, policy.pdl)
            note("launch")
            stage = "run_error"
            result = checker.check(kernel, note)
            seconds["verify"] = time.perf_counter() - start
            if result.status != "ok":
                return _reply(result.status, result.reason, error=result.error, seconds=seconds)
            note("time")
            start = time.perf_counter()
            before = nvml.read(self.bus)
            kernel.prepare_to_time(self.stream)
            best, once = float(request.get("best") or 0.0), estimate_runtime(kernel, self.stream)
            if is_much_slower(once, best):
                seconds["time"] = time.perf_counter() - start
                return _reply("ok", samples=(once,), warm=(once,), error=result.error, seconds=seconds)
            note("time")
            watch = Stopwatch(kernel, policy, self.stream, self.flush, self.device.l2_bytes)
            warm_up([watch], WARM_UP)
            first, second = (watch.cold, watch.warm) if policy.l2 == "cold" else (watch.warm, watch.cold)
            samples = repeat(_noted(note, first), policy.repeats, best)
            warm = repeat(_noted(note, second), max(1, min(5, policy.repeats)))
            self.stream.synchronize()
            watch.close()
            seconds["time"] = time.perf_counter() - start
            clocks = {"before": before, "after": nvml.read(self.bus)}
            if unstable(samples):
                return _reply(
                    "unstable",
                    f"{len(samples)} samples from {min(samples):.3g} s to {max(samples):.3g} s",
                    seconds=seconds,
                    clocks=clocks,
                )
            return _reply(
                "ok",
                samples=samples,
                warm=warm if policy.l2 == "cold" else samples,
                error=result.error,
                seconds=seconds,
                clocks=clocks,
            )
        except DriverError as error:
            launch = error.call in ("cuLaunchKernelEx", "cuModuleLoadData", "cuFuncSetAttribute", "cuModuleGetFunction")
            status = "launch_error" if launch and not error.sticky else stage
            if error.code == driver.OUT_OF_MEMORY:
                self._forget()
                return _reply(status, f"out of device memory ({error})", seconds=seconds)
            return _reply("run_error" if error.sticky else status, str(error), seconds=seconds, lost=error.sticky)
        except InvalidInput as error:  # a tensor map that the hardware refuses
            return _reply("launch_error", str(error), seconds=seconds)
        finally:
            self._close(kernel)

    def confirm(self, request: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """Check every entry afresh and re-time all that hold, and the baselines, in interleaved rounds.

        ``contenders``: by name, ``status``, ``reason``, ``samples``, ``again``, ``warm``, ``label`` and ``checks``.
        """
        policy, rounds = Policy(**request["policy"]), int(request["rounds"])
        replies: dict[str, dict[str, Any]] = {}
        running: list[tuple[str, Any]] = []
        current = ""
        try:
            data, checker = self._inputs(request)
            for entry in request["entries"]:
                current = entry["name"]
                note(f"check {current}|load")
                kernel = LoadedKernel(entry, data, policy.pdl)
                running.append((current, kernel))
                named = _named_note(note, current)
                found = checker.check(kernel, named)
                checks = {"inputs of the search": (found.status == "ok", found.reason)}
                replies[current] = _reply(found.status, found.reason, checks=checks)
            running = [(name, k) for name, k in running if replies[name]["status"] == "ok"]
            current = ""
            libraries, missing = self._baselines(request, data, checker, note)
            for library in libraries:
                running.append((library.name, library))
                replies[library.name] = _reply("ok", label=library.label)
            replies.update({name: _reply("invalid", why) for name, why in missing.items()})
            note("rounds")
            before = nvml.read(self.bus)
            watches, names = [], []
            for current, contestant in running:
                if isinstance(contestant, LoadedKernel):
                    contestant.prepare_to_time(self.stream)
                try:
                    watches.append(Stopwatch(contestant, policy, self.stream, self.flush, self.device.l2_bytes))
                    names.append(current)
                except Exception as error:  # a library that cannot be captured; its errors have no common root
                    if isinstance(contestant, LoadedKernel) or (isinstance(error, DriverError) and error.sticky):
                        raise
                    replies[current] = _reply("launch_error", f"cannot be timed in a graph: {error}")
            current = ""
            rng = np.random.default_rng(int(request["seed"]))
            warm_up(watches, SETTLE)
            twice = [*watches, *watches]  # the second series gives the noise floor
            samples = interleave(twice, rounds, lambda r: [int(i) for i in rng.permutation(len(twice))], policy.l2)
            other = "warm" if policy.l2 == "cold" else "cold"
            warm = interleave(watches, min(rounds, 5), lambda r: range(len(watches)), other)
            for i, name in enumerate(names):
                replies[name].update(samples=samples[i], again=samples[len(names) + i], warm=warm[i])
            self.stream.synchronize()
            for watch in watches:
                watch.close()
            return {"contenders": replies, "clocks": {"before": before, "after": nvml.read(self.bus)}, "lost": False}
        except (DriverError, InvalidInput) as error:
            lost = isinstance(error, DriverError) and error.sticky
            return {"contenders": replies, "failed": current, "reason": str(error), "lost": lost, "clocks": {}}
        finally:
            for _, contestant in running:
                self._close(contestant)

    def winner(self, request: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """Check one entry on new inputs, exactly on integers, and with infinities: ``checks`` by name, (ok, reason)."""
        kernel = None
        try:
            note(f"check {request['name']}|inputs")
            data, checker = self._inputs(request)
            kernel = LoadedKernel(request, data, False)
            fresh, named = int(request["seed"]) + 1, _named_note(note, request["name"])
            found = checker.check_winner(kernel, fresh, named)
            return {"checks": {n: (v.status == "ok", v.reason) for n, v in found.items()}, "lost": False}
        except DriverError as error:
            return {"checks": {"new inputs": (False, str(error))}, "lost": error.sticky}
        finally:
            self._close(kernel)

    def _baselines(
        self, request: Mapping[str, Any], data: DeviceData, checker: Checker, note: Note
    ) -> tuple[Sequence[Any], Mapping[str, str]]:
        if not request.get("baselines"):
            return (), {}
        from . import baselines

        return baselines.prepare(request["baselines"], data, checker, self.stream, self.device, note)

    def _inputs(self, request: Mapping[str, Any]) -> tuple[DeviceData, Checker]:
        key = (repr(sorted(request["workload"].items())), request["seed"])
        if self._data is None or self._data[0] != key:
            self._forget()
            workload: Workload = from_dict(request["workload"])
            data = DeviceData(workload, int(request["seed"]), self.device.l2_bytes)
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
                self.stream.synchronize()
                kernel.close()


def request_of(build: Any, numerics: Numerics) -> dict[str, Any]:
    """What the child needs of a build."""
    view = build.view
    own = build.workload.arrays()
    return {
        "cubin": build.cubin,
        "plan": build.plan.to_json(),
        "numerics": asdict(numerics),
        "buffers": {n: view.origin(n) if view is not None else n for n in own},
    }


def _named_note(note: Note, name: str) -> Note:
    return lambda text: note(f"check {name}|{text}")


def _noted(note: Note, sample: Callable[[], float]) -> Callable[[], float]:
    """``sample``, each with the time limit for itself: many runs of a slow kernel are no hang."""

    def noted() -> float:
        note("time")
        return sample()

    return noted


def _reply(status: str, reason: str = "", **more: Any) -> dict[str, Any]:
    return {"status": status, "reason": reason, "lost": False, **more}
