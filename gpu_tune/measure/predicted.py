"""Without a GPU: candidates are really rendered and compiled; only their time is predicted.

The estimate comes from the machine code's hottest loop, the resources in the cubin, the launch plan and
the chip's data sheet: arithmetic, issue, shared memory, L2 and DRAM each take their cycles (a roofline with more than
one roof), latency is hidden as far as resident warps allow, blocks run in waves. On top come constants of the chip,
interactions between knobs and noise that are drawn from a seed and that nothing outside this module can read. It has
the shape of the real problem, and none of its numbers say anything about a real GPU.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any, TypeGuard

import numpy as np

from ..cuda.cubin import Mix, mixes
from ..cuda.device import Device
from ..emulator import unavailable_reason
from ..errors import GpuTuneError
from ..plan import KernelStep, MemsetStep
from ..templates.bound import BoundTemplate
from ..trial import PREDICTED, Candidate, Measurement, Policy, Resources
from ..workload import ITEMSIZE, Workload
from . import emulated
from .compiling import CompilingMeasurer
from .finals import ROUNDS, Finalist, Finals, conclude
from .protocol import Build

LAUNCH = 2.2e-6
"""Seconds from one kernel of a plan to the next."""
_TILE_KNOBS = (("block_m", "block_n"), ("bm", "bn"), ("tile_m", "tile_n"), ("block_k", "block_pq"))
_SHARED_BYTES_PER_CLOCK = 128
_MMA_FLOPS = {
    "mma": 4096,
    "wgmma": 2 * 64 * 128 * 16,
    "ffma": 64,
    "hfma2": 128,
    "idp": 256,
    "imad": 64,
    "fadd": 32,
    "fmul": 32,
}

_HIDDEN = {
    "issue": (0.80, 0.95),  # of 4 warp instructions a clock
    "pipe": (0.86, 0.96),  # of the arithmetic peak that a perfect loop reaches
    "needed_warps": (7.0, 13.0),  # that hide half of the latency at ILP 1
    "l2_bytes": (28.0, 44.0),  # per clock and SM
    "dram": (0.84, 0.93),
    "latency": (450.0, 700.0),  # clocks to DRAM
    "barrier": (18.0, 40.0),
    "conflict": (0.6, 1.6),
    "cliff_shared": (0.45, 0.75),  # of an SM's shared memory, above which L1 suffers
    "drift": (0.008, 0.02),  # size of a pairwise interaction
    "roofs": (4.0, 7.0),  # how sharply the roofs meet
}
"""The range of each hidden constant of a chip; they are drawn in this order."""


class PredictedMeasurer(CompilingMeasurer):
    """Estimates in place of times; see the module. ``seed`` draws the hidden constants and the noise."""

    source = PREDICTED
    in_order = True

    def __init__(
        self, bound: Sequence[BoundTemplate], *, seed: int = 0, policy: Policy | None = None, **options: Any
    ) -> None:
        super().__init__(bound, policy=policy or Policy(mode="model", repeats=7), **options)
        self.seed = seed
        self._chip = _Chip(self.device, seed)

    def _time(self, build: Build) -> Measurement:
        start = time.perf_counter()
        reason = self._unlaunchable(build)
        if reason:
            return self._ended(build.candidate, "launch_error", reason, build=build)
        repeats = max(3, min(self.policy.repeats, 7))
        samples = self._noisy(self._chip.time(build, self.policy.l2 == "cold"), build.hash, repeats)
        warm = self._noisy(self._chip.time(build, False), build.hash + "warm", repeats)
        seconds = {**build.seconds, "time": time.perf_counter() - start}
        series = {"samples": tuple(samples.tolist()), "warm_samples": tuple(warm.tolist())}
        return self._ended(build.candidate, "ok", "", seconds, build, **series)

    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """Estimates of all in interleaved rounds, with shared drift as on a chip that warms up; the winner is executed
        on the emulator, and the next best takes its place when that finds it wrong. There are no baselines: a vendor's
        kernel's time cannot be predicted."""
        drift = np.exp(np.cumsum(_rng("drift", self.seed, self.device.chip).normal(0.0, 0.003, rounds)))
        finalists: dict[Candidate, Finalist] = {}
        again, taken = {}, dict[str, Resources | None]()
        for candidate in dict.fromkeys(candidates):
            finalists[candidate] = finalist = Finalist(candidate.key, candidate)
            try:
                build = self.build(candidate)
            except GpuTuneError as error:
                finalists[candidate] = replace(finalist, status="compile_error", reason=str(error))
                continue
            taken[finalist.name] = build.resources
            reason = self._unlaunchable(build)
            if reason:
                finalists[candidate] = replace(finalist, status="launch_error", reason=reason)
                continue
            seconds = self._chip.time(build, self.policy.l2 == "cold")
            first, second = (self._noisy(seconds, f"{build.hash} {tag}", rounds) * drift for tag in ("rounds", "again"))
            again[finalist.name] = tuple(second.tolist())
            finalists[candidate] = replace(finalist, samples=tuple(first.tolist()))
        environment = {**self._environment(), "emulator": unavailable_reason() or "the winner was executed"}
        while True:
            found = conclude(PREDICTED, list(finalists.values()), again, taken, environment)
            if found.winner is None or unavailable_reason() or found.finalist(found.winner).checks:
                return found
            check = emulated.check(self.build(found.winner), self.seed)
            status, reason = ("ok", "") if check.ok else ("wrong", check.detail)
            finalists[found.winner] = replace(finalists[found.winner], status=status, reason=reason, checks=(check,))

    def _noisy(self, seconds: float, name: str, count: int) -> np.ndarray:
        rng = _rng("noise", self.seed, name, self.device.chip)
        scatter = np.exp(rng.normal(0.0, 0.004, count)) + np.where(
            rng.random(count) < 0.02, rng.uniform(0.03, 0.2, count), 0.0
        )
        return np.asarray(seconds * scatter + np.abs(rng.normal(0.0, 15e-9, count)))

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
        return ""

    def _environment(self) -> dict[str, Any]:
        return {
            **super()._environment(),
            "device": self.device.name,
            "predicted": True,
            "model": 1,
            "seed": self.seed,
            "emulated": "times are estimates of an analytic model; rendering and compiling are real",
        }


class _Chip:
    """The hidden constants of one chip and the time that they give a build."""

    def __init__(self, device: Device, seed: int) -> None:
        self.device, self.seed = device, seed
        rng = _rng("chip", seed, device.chip)
        self.hidden = SimpleNamespace(**{name: rng.uniform(*limits) for name, limits in _HIDDEN.items()})

    def time(self, build: Build, cold: bool) -> float:
        plan, code = build.rendered.plan, mixes(build.cubin)

        def arithmetic(step: KernelStep) -> tuple[float, int]:
            kind, count = code[step.kernel].math
            return count * _MMA_FLOPS.get(kind, 0), step.blocks * step.threads

        main = max(plan.kernels, key=arithmetic)
        total = 0.0
        for step in plan.steps:
            if isinstance(step, MemsetStep):
                total += 1.6e-6 + step.nbytes / (self.device.bandwidth * 0.7)
            elif step is main:
                total += self._main(build, step, code[step.kernel], cold)
            else:
                total += self._other(build, step)
        total += LAUNCH * (len(plan.steps) - 1) + 1.1e-6
        return total * math.exp(self._interactions(build))

    def _main(self, build: Build, step: KernelStep, mix: Mix, cold: bool) -> float:
        device, taken, w = self.device, build.resources, build.bound.computed
        shared = step.shared_bytes + taken.static_shared_bytes
        resident = max(1, device.resident_blocks(step.threads, taken.registers, shared))
        warps = -(-step.threads // 32)
        per_block = w.flops / step.blocks
        kind, count = mix.math
        peak: float = device.flops_per_clock.get(_rate(w, kind), 0) or device.flops_per_clock["fp32"]
        if kind == "mma" and device.cc == 90:
            peak *= 0.62  # mma.sync reaches no more of Hopper's tensor cores
        flops = max(1, count) * _MMA_FLOPS.get(kind, 64)
        if kind == "mma" and w.dtype == "float32":
            flops //= 2
        iterations = per_block / (flops * warps)  # of the loop, per warp
        wide = mix.counts["hfma2"] or mix.counts["mma"] or mix.counts["wgmma"]
        math_clocks = per_block / (peak * self.hidden.pipe)
        if kind in ("ffma", "imad") and not wide:
            math_clocks = max(math_clocks, per_block / (device.flops_per_clock["fp32"] * self.hidden.pipe))
        issue_clocks = iterations * warps * mix.instructions / (4 * self.hidden.issue)
        banks = self._bank_factor(build)
        shared_clocks = iterations * step.threads * mix.shared_bytes / _SHARED_BYTES_PER_CLOCK * banks
        l1_clocks = iterations * step.threads * mix.global_bytes / 64
        l2_clocks = self._tile_bytes(build, step) / self.hidden.l2_bytes * (1 + 0.5 * (w.alignment < 16))
        spill_clocks = taken.spill_bytes * step.threads * max(1.0, iterations / 8) / 64
        per_wave = []
        slots = resident * device.sm_count
        waves, rest = divmod(step.blocks, slots)
        ilp = (1 + 0.35 * math.log2(1 + count / 16)) * (6 if kind == "wgmma" else 1)
        for active in (resident, max(1, -(-rest // device.sm_count))):
            hidden = 1 - 0.5 ** (active * warps * ilp / self.hidden.needed_warps)
            roofs = [c * active for c in (math_clocks, issue_clocks, shared_clocks, l1_clocks, l2_clocks)]
            busy = sum(r**self.hidden.roofs for r in roofs) ** (1 / self.hidden.roofs) / hidden + spill_clocks * active
            per_wave.append(busy + self._exposed(build, mix, iterations, active))
        clocks = waves * per_wave[0] + (per_wave[1] if rest else 0.0)
        if shared * resident > self.hidden.cliff_shared * device.shared_bytes_per_sm and mix.counts["ldg"]:
            clocks *= 1.06
        if taken.notes:
            clocks *= 1.45
        clocks *= 1 + 0.04 * max(0.0, mix.code_bytes / 98304 - 1)  # instruction cache
        shorter, longer = sorted((clocks / (device.clock_mhz * 1e6), self._dram(build, step, cold)))
        return longer + 0.15 * shorter

    def _exposed(self, build: Build, mix: Mix, iterations: float, active: int) -> float:
        declared = build.candidate.config.get("stages")
        stages = int(declared) if _is_number(declared) else 1
        ahead = stages - 1 if (mix.counts["ldgsts"] or mix.counts["tma"]) else (0.6 if stages > 1 else 0.0)
        fill = self.hidden.latency * (2 + 0.25 * stages)  # prologue and epilogue of every block
        if not mix.counts["bar"] and not mix.counts["tma"]:
            iterations *= 0.25
        stall = self.hidden.latency / (1 + 1.6 * ahead) ** 2 + self.hidden.barrier * mix.counts["bar"]
        return fill + iterations * stall / (1 + 0.9 * (active - 1))

    def _tile_bytes(self, build: Build, step: KernelStep) -> float:
        """Bytes that one block draws through L2: its share of the operands for a tile of the output, and its result."""
        w, config = build.bound.computed, build.candidate.config
        area = max(32.0, float(build.rendered.estimate.accumulators * build.rendered.estimate.threads))
        tiles = [(config.get(a), config.get(b)) for a, b in _TILE_KNOBS]
        rows = next((float(m) / float(n) for m, n in tiles if _is_number(m) and _is_number(n)), 1.0)
        m = math.sqrt(area * rows)
        n = area / m
        products = w.flops / 2 / step.blocks  # area x depth of the block
        return products * (1 / m + 1 / n) * ITEMSIZE[w.dtype] + area * ITEMSIZE[w.out_dtype]

    def _bank_factor(self, build: Build) -> float:
        """How far shared memory is slowed by conflicts: unpadded power-of-two rows suffer, odd padding does not."""
        config, factor = build.candidate.config, 1.0
        for name, value in config.items():
            if "pad" in name and _is_number(value):
                factor += self.hidden.conflict * (0.55 if value == 0 else 0.02 * math.log2(1 + float(value)))
            elif "swizzle" in name:
                factor += self.hidden.conflict * (0.6 if value in (0, False, "none", "off") else 0.0)
            elif "vector" in name and _is_number(value):
                factor += 0.12 * (4 // max(1, min(4, int(value))) - 1)
        return factor

    def _dram(self, build: Build, step: KernelStep, cold: bool) -> float:
        w, device = build.bound.computed, self.device
        moved = float(w.bytes + 2 * build.rendered.plan.workspace_bytes)
        in_flight = 1 - 0.5 ** (step.blocks * build.resources.threads / (device.sm_count * 256))
        over = min(1.0, max(0.0, moved / device.l2_bytes - 0.5))
        reread = 0.25 * over * self._tile_bytes(build, step) * step.blocks / max(1.0, moved)
        share = 1.0 if cold else 0.25 + 0.75 * over
        return moved * (share + 0.1 * reread) / (device.bandwidth * self.hidden.dram * max(0.05, in_flight))

    def _other(self, build: Build, step: KernelStep) -> float:
        w = build.bound.computed
        moved = build.rendered.plan.workspace_bytes + w.arrays()["out"].nbytes
        filled = min(1.0, step.blocks * step.threads / (self.device.sm_count * 512))
        return 0.9e-6 + moved / (self.device.bandwidth * 1.5 * self.hidden.dram * max(0.02, filled))

    def _interactions(self, build: Build) -> float:
        config, total = build.candidate.config, 0.0
        pairs = list(combinations(sorted(config), 2))
        for a, b in pairs:
            total += _unit(self.seed, self.device.chip, build.candidate.template, a, config[a], b, config[b])
        return float(self.hidden.drift * total / math.sqrt(max(1, len(pairs))) * 3)


def _rate(workload: Workload, kind: str) -> str:
    if kind in ("ffma", "imad", "fadd", "fmul", ""):
        return "fp32"
    return {"float32": "tf32", "float16": "fp16", "bfloat16": "fp16", "int8": "int8"}.get(workload.dtype, "fp8")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def _rng(*parts: object) -> np.random.Generator:
    return np.random.default_rng(_digest(*parts))


def _unit(*parts: object) -> float:
    """Roughly standard normal, fixed by ``parts``."""
    bits = _digest(*parts)
    four = sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48)) / 65535
    return (four - 2) * math.sqrt(3)
