"""Without a GPU: candidates are really rendered and compiled; their time is predicted from their machine code.

The performance model plays each variant (``model.performance``). A prediction is a pure function of cubin, launch plan
and device: there is no noise, and nothing to time twice. The winner is executed by the emulator.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..emulator import build as emulator_build
from ..emulator import unavailable_reason
from ..errors import CompilerMissing, EmulationError, GpuTuneError, MeasureError
from ..model.performance import Prediction
from ..templates.bound import BoundTemplate
from ..trial import PREDICTED, Candidate, Measurement, Policy
from . import emulated
from .compiling import CompilingMeasurer, prediction_of
from .finals import ROUNDS, Comparison, Finalist, Finals
from .protocol import Build

RULE = "least predicted time; of those predicted alike the first in alphabetical order"


class PredictedMeasurer(CompilingMeasurer):
    """Predictions in place of times; see the module. ``seed`` draws the inputs that the emulator runs a winner on."""

    source = PREDICTED
    in_order = True

    def __init__(
        self, bound: Sequence[BoundTemplate], *, seed: int = 0, policy: Policy | None = None, **options: Any
    ) -> None:
        super().__init__(bound, policy=policy or Policy(mode="model", repeats=1), **options)
        self.seed = seed

    def predict(self, build: Build, *, cold: bool | None = None) -> Prediction:
        """What ``build`` takes on the device; ``cold``: whether nothing lies in L2 (default: as the policy says)."""
        cold = self.policy.l2 == "cold" if cold is None else cold
        return prediction_of(build, cold=cold)

    def _time(self, build: Build) -> Measurement:
        start = time.perf_counter()
        reason = self._unlaunchable(build)
        if reason:
            return self._ended(build.candidate, "launch_error", reason, build=build)
        found, warm = self.predict(build), self.predict(build, cold=False)
        return self._ended(
            build.candidate,
            "ok",
            "",
            {**build.seconds, "time": time.perf_counter() - start},
            build,
            samples=(found.seconds,),
            warm_samples=(warm.seconds,),
            prediction=found.terms(),
            environment={**self._environment(), **judged(found)},
        )

    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """The least prediction wins, once the emulator has found its result right; until then the next one is tried.
        There are no baselines: a vendor's kernel cannot be predicted without its code."""
        finalists = {c: self._finalist(c) for c in dict.fromkeys(candidates)}
        with contextlib.suppress(CompilerMissing, EmulationError):  # which unavailable_reason() tells from now on
            emulator_build.library()
        environment = {**self._environment(), "emulator": unavailable_reason() or "the winner was executed"}
        while True:
            held = sorted((f for f in finalists.values() if f.ok), key=lambda f: (f.samples[0], f.name))
            if not held:
                return Finals(PREDICTED, tuple(finalists.values()), None, rule=RULE, environment=environment)
            best = held[0].candidate
            assert best is not None
            if not unavailable_reason() and not held[0].checks:
                check = emulated.check(self.build(best), self.seed)
                status, reason = ("ok", "") if check.ok else ("wrong", check.detail)
                finalists[best] = replace(finalists[best], status=status, reason=reason, checks=(check,))
                continue
            least = held[0].samples[0]
            ratios = {f.name: f.samples[0] / least for f in held[1:]}
            return Finals(
                PREDICTED,
                tuple(finalists.values()),
                best,
                tuple(f.candidate for f in held if f.candidate and f.samples[0] == least),
                RULE,
                {name: Comparison(ratio, ratio, ratio, 0) for name, ratio in ratios.items()},
                environment={**environment, **judged(self.predict(self.build(best)))},
            )

    def _finalist(self, candidate: Candidate) -> Finalist:
        found = Finalist(candidate.key, candidate)
        try:
            build = self.build(candidate)
        except (MeasureError, CompilerMissing):  # the environment's: says nothing of the candidate
            raise
        except GpuTuneError as error:
            return replace(found, status="compile_error", reason=str(error))
        reason = self._unlaunchable(build)
        if reason:
            return replace(found, status="launch_error", reason=reason)
        return replace(found, samples=(self.predict(build).seconds,))

    def _unlaunchable(self, build: Build) -> str:
        device, taken = self.device, build.resources
        for step in build.rendered.plan.kernels:
            shared = step.shared_bytes + taken.static_shared_bytes
            if step.shared_bytes and shared > device.shared_bytes_per_block:
                limit = device.shared_bytes_per_block
                return f"{step.kernel} takes {shared} bytes of shared memory, {device.name} has {limit} a block"
            if taken.registers * step.threads > device.registers_per_sm:
                limit = device.registers_per_sm
                return f"{step.kernel} takes {taken.registers} registers x {step.threads} threads, an SM has {limit}"
        needed = build.bound.computed.bytes + build.rendered.plan.workspace_bytes
        if needed > device.memory_bytes:
            return f"out of memory: {needed} bytes needed, {device.name} has {device.memory_bytes}"
        return "" if math.isfinite(self.predict(build).seconds) else f"no block fits on an SM of {device.name}"

    def _environment(self) -> dict[str, Any]:
        return {**super()._environment(), "device": self.device.name}


def judged(found: Prediction) -> Mapping[str, Any]:
    """What records and winners keep of how far a prediction may be believed; empty where its kind was not judged."""
    return {"judged": found.judged, "low": found.low, "high": found.high} if found.judged else {}
