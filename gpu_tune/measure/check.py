"""Is a kernel's result right? Checked on the device before any time is taken.

The output and guard bands around it are poisoned, so that what is not written or written beyond shows; every element
is compared with the float64 reference; a second run over another poison must give the same bits; beta = 0 must not
read C. The workspace starts as the launch plan says, and full of NaN where it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..cuda import memory
from ..cuda.device import Device
from ..cuda.driver import memset
from ..plan import LaunchPlan
from ..reference import Bounds, example_inputs
from ..reference.numerics import Numerics
from ..workload import ArraySpec, Workload
from .device_compare import Inspector
from .device_data import GUARD, SCALARS, DeviceData, elements
from .reference_products import wide_bounds, wide_products

_MODULI = (2, 4, 8, 16, 32, 64, 128, 256)


def where(wrong: np.ndarray, unwritten: np.ndarray | None = None) -> str:
    """Rows and columns of the True elements of ``wrong``; the last axis counts as columns, all others as rows.

    For each: the range, and the modulus that tells most, where they are at most half of its residues. ``unwritten``
    (the same shape): elements that still hold the poison.
    """
    flat = wrong.reshape(-1, wrong.shape[-1]) if wrong.ndim > 1 else wrong.reshape(1, -1)
    told = [f"{name} {_places(np.any(flat, axis=axis))}" for name, axis in (("rows", 1), ("columns", 0))]
    if unwritten is not None:
        told.append(f"{int((wrong & unwritten).sum())} of them not written")
    return ", ".join(told)


def _places(hit: np.ndarray) -> str:
    """``8-127 of 128 (8-15 mod 16)``-like words for the True elements of a vector."""
    at = np.flatnonzero(hit)
    if at.size == hit.size:
        return "all"
    if at.size < 2:
        return f"{', '.join(map(str, at))} of {hit.size}"
    residues = {m: np.unique(at % m) for m in _MODULI if 2 * m <= hit.size}
    best = min(residues, key=lambda m: residues[m].size / m, default=0)
    telling = best and 2 * residues[best].size <= best
    return f"{at[0]}-{at[-1]} of {hit.size}" + (f" ({_ranges(residues[best])} mod {best})" if telling else "")


def _ranges(numbers: np.ndarray) -> str:
    """Sorted integers as ranges, the first few of them: ``0-7,16-23``."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [f"{r[0]}-{r[-1]}" if r.size > 1 else f"{r[0]}" for r in runs[:6]]
    return ",".join(words) + (",..." if len(runs) > 6 else "")


POISONS = (0xFF, 0x55)
"""0xFF is a NaN in every float dtype; 0x55 a large number, so that an unwritten element differs between two runs."""


LARGE = 1 << 20
"""Output elements from which on they are compared on the device."""

Run = Callable[[Mapping[str, int], Mapping[str, float], int], None]
"""(addresses of the template's buffers, scalars, stream): issue the plan once."""


@dataclass(frozen=True)
class Verdict:
    """``status``: ok or wrong; ``reason`` says what was wrong; ``error``: figures of the comparison."""

    status: str
    reason: str = ""
    error: dict[str, float] = field(default_factory=dict)


class Verifier:
    """Checks kernels of one workload on ``data``; references are computed once and kept."""

    def __init__(
        self, data: DeviceData, stream: memory.Stream, device: Device | None = None, large: int = LARGE
    ) -> None:
        self.data, self.stream = data, stream
        self._inspector: Inspector | None = None
        spec = data.specs["out"]
        if device is not None and math.prod(spec.shape) >= large:
            self._inspector = Inspector(spec, device.arch, device.sm_count, stream)
        self._products: tuple[np.ndarray, np.ndarray] | None = None
        self._bounds: dict[Any, tuple[Any, Any, Bounds]] = {}
        self._loaded: Mapping[str, np.ndarray] = data.arrays

    def check(
        self, run: Run, plan: LaunchPlan, numerics: Numerics, workspace: int, note: Callable[[str], None]
    ) -> Verdict:
        """The kernel that ``run`` issues, on the ordinary inputs. ``workspace``: address of the plan's workspace."""
        workload = self.data.workload
        scalars = {n: SCALARS[n] for n in workload.scalars()}
        if self._products is None:
            note("reference")
            self._products = wide_products(workload, self.data.arrays)
        verdict, first = self._case(
            run, plan, numerics, workspace, scalars, self.data.arrays, False, note, self._products
        )
        if verdict.status != "ok":
            return verdict
        if workload.deterministic:
            note("second run")
            self._issue(run, scalars, POISONS[1])
            spec = self.data.specs["out"]
            differing = (
                self._inspector.differing(self.data.verify["out"])
                if self._inspector
                else _differing(first, self.data.output(), spec)
            )
            if differing:
                reason = (
                    f"{differing} of {math.prod(spec.shape)} elements differ between two runs (a race, or not written)"
                )
                return Verdict("wrong", reason, verdict.error)
        if workload.beta == "any":
            note("beta = 0")
            hostile = {**self.data.arrays, "c": np.full_like(self.data.arrays["c"], np.nan)}
            zero, _ = self._case(
                run, plan, numerics, workspace, {**scalars, "beta": 0.0}, hostile, False, note, self._products
            )
            self._put(self.data.arrays)
            if zero.status != "ok":
                return replace(zero, reason=f"with beta = 0 and NaN in C: {zero.reason}")
        return verdict

    def check_result(self, run: Run, numerics: Numerics) -> Verdict:
        """The result alone, of something that has no launch plan (a library's kernel)."""
        workload = self.data.workload
        scalars = {n: SCALARS[n] for n in workload.scalars()}
        if self._products is None:
            self._products = wide_products(workload, self.data.arrays)
        nothing = LaunchPlan(())
        verdict, _ = self._case(
            run, nothing, numerics, 0, scalars, self.data.arrays, False, lambda text: None, self._products
        )
        return verdict

    def check_winner(
        self, run: Run, plan: LaunchPlan, numerics: Numerics, workspace: int, seed: int, note: Callable[[str], None]
    ) -> dict[str, Verdict]:
        """New random inputs; integers, exactly; infinities and NaN where the template says that they propagate."""
        workload = self.data.workload
        scalars = {n: SCALARS[n] for n in workload.scalars()}
        cases = {"new inputs": (example_inputs(workload, seed), False)}
        if numerics.exact_integers:
            cases["integers, exactly"] = (example_inputs(workload, seed, "integer"), True)
        if numerics.propagates_nonfinite and workload.dtype in ("float32", "float16", "bfloat16"):
            cases["inf and nan"] = (plant_nonfinite(workload, example_inputs(workload, seed + 1), seed), False)
        found = {}
        for name, (arrays, exact) in cases.items():
            note(name)
            whole = dict.fromkeys(scalars, 1.0) if exact else scalars
            found[name], _ = self._case(run, plan, numerics, workspace, whole, arrays, exact, note, None)
        self._put(self.data.arrays)
        return found

    def _case(
        self,
        run: Run,
        plan: LaunchPlan,
        numerics: Numerics,
        workspace: int,
        scalars: Mapping[str, float],
        arrays: Mapping[str, np.ndarray],
        exact: bool,
        note: Callable[[str], None],
        known: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[Verdict, np.ndarray]:
        key = (numerics, tuple(sorted(scalars.items()))) if known is not None else None
        if key is None or key not in self._bounds:
            note("reference")
            workload = self.data.workload
            sums = known or wide_products(workload, arrays)
            made = self._ready(wide_bounds(workload, arrays, scalars, numerics, exact, sums))
            if key is not None:
                self._bounds[key] = made
        else:
            made = self._bounds[key]
        self._put(arrays)
        if plan.workspace_bytes:
            memset(workspace, 0xFF, plan.workspace_bytes, self.stream.handle)
            if plan.zeroed_span:
                memset(workspace, 0, plan.zeroed_span, self.stream.handle)
        note("first run")
        self._issue(run, scalars, POISONS[0])
        try:
            return self._examine(made, plan, workspace)
        finally:
            if key is None and self._inspector:
                for address in made[:2]:
                    memory.free(address)

    def _examine(self, made: tuple[Any, Any, Bounds], plan: LaunchPlan, workspace: int) -> tuple[Verdict, np.ndarray]:
        """The verdict on the output as it lies there; with it its bytes, where they were copied to the host."""
        spec, nothing = self.data.specs["out"], np.zeros(0, np.uint8)
        guards = self.data.guards()
        if not (guards == POISONS[0]).all():
            changed = int((guards != POISONS[0]).sum())
            return Verdict("wrong", f"wrote outside the output ({changed} guard bytes changed)"), nothing
        if plan.zeroed_span and memory.download(workspace, plan.zeroed_span).any():
            return Verdict(
                "wrong", "left a workspace that the launch plan says is zero after every run non-zero"
            ), nothing
        if self._inspector:
            found = self._inspector.inspect(self.data.verify["out"], made[:2])
            if found.gaps:
                return Verdict("wrong", f"wrote into the gaps between rows ({found.gaps} elements)"), nothing
            limits = made[2]
            if found.wrong:
                got = self.data.element(found.first)
                expected, error = float(limits.expected[found.first]), float(limits.error[found.first])
                reason = (
                    f"{found.wrong} of {limits.expected.size} elements wrong, first at {found.first}: "
                    f"got {got:g}, expected {expected:g} +- {error:.3g}; {self._beginning(limits)}"
                )
                return Verdict("wrong", reason, {"max_abs": found.distance}), nothing
            return Verdict("ok", "", {"max_abs": found.distance}), nothing
        raw = self.data.output()
        body = raw[GUARD:-GUARD]
        gaps = _gaps(body, spec.shape, spec.element_strides, elements(body, spec).dtype.itemsize)
        if not (gaps == POISONS[0]).all():
            return Verdict("wrong", f"wrote into the gaps between rows ({int((gaps != POISONS[0]).sum())} bytes)"), raw
        return judge(elements(body, spec), *made), raw

    def _beginning(self, limits: Bounds) -> str:
        """Where the wrong elements lie in as much of the output's beginning as is quickly looked at."""
        spec = self.data.specs["out"]
        count = max(1, min(spec.shape[0], LARGE * spec.shape[0] // limits.lo.size))
        some = ArraySpec((count, *spec.shape[1:]), spec.dtype, spec.element_strides)
        raw = memory.download(self.data.verify["out"], some.span * limits.lo.dtype.itemsize)
        got, lo, hi = (comparable(a) for a in (elements(raw, some), limits.lo[:count], limits.hi[:count]))
        with np.errstate(invalid="ignore"):
            wrong = ~((got >= lo) & (got <= hi)) & ~(np.isnan(lo) & np.isnan(got))
        return (f"of the first {count}: " if count < spec.shape[0] else "") + where(wrong, np.isnan(got))

    def _ready(self, limits: Bounds) -> tuple[Any, Any, Bounds]:
        """The bounds where they are compared: on the device (addresses) for large outputs, else on the host."""
        if self._inspector:
            return (*self._inspector.upload(np.ascontiguousarray(limits.lo), np.ascontiguousarray(limits.hi)), limits)
        return comparable(limits.lo), comparable(limits.hi), limits

    def _issue(self, run: Run, scalars: Mapping[str, float], poison: int) -> None:
        self.data.poison(poison, self.stream.handle)
        run(self.data.verify, scalars, self.stream.handle)
        self.stream.synchronize()

    def close(self) -> None:
        """Free what it keeps on the device."""
        if self._inspector:
            for lo, hi, _ in self._bounds.values():
                memory.free(lo)
                memory.free(hi)
            self._inspector.close()
            self._bounds, self._inspector = {}, None

    def _put(self, arrays: Mapping[str, np.ndarray]) -> None:
        if arrays is not self._loaded:
            self.data.load(arrays)
            self._loaded = arrays


def judge(out: np.ndarray, lo: np.ndarray, hi: np.ndarray, limits: Bounds) -> Verdict:
    """Whether every element of ``out`` lies within ``lo`` .. ``hi`` (NaN where the reference has NaN)."""
    with np.errstate(invalid="ignore"):
        got = comparable(out)
        good = (got >= lo) & (got <= hi)
        if not good.all():
            good |= np.isnan(limits.expected) & np.isnan(got)
        expected = limits.expected
        difference = np.abs(got - expected)
        finite = difference[np.isfinite(difference)]
        scale = float(np.abs(expected[np.isfinite(expected)]).mean()) if np.isfinite(expected).any() else 1.0
        error = {"max_abs": float(finite.max(initial=0.0)), "scale": scale}
        if good.all():
            return Verdict("ok", "", error)
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        reason = (
            f"{int((~good).sum())} of {good.size} elements wrong, first at {index}: got {float(got[index]):g}, "
            f"expected {float(expected[index]):g} within {float(lo[index]):g} .. {float(hi[index]):g}; "
            + where(~good, np.isnan(got) & ~np.isnan(expected))
        )
        return Verdict("wrong", reason, error)


def _differing(first: np.ndarray, second: np.ndarray, spec: ArraySpec) -> int:
    """Elements in which the bytes of two outputs (guard bands included) differ."""
    a, b = (np.ascontiguousarray(elements(raw[GUARD:-GUARD], spec)) for raw in (first, second))
    bits = f"u{a.dtype.itemsize}"
    return int((a.view(bits) != b.view(bits)).sum())


def comparable(array: np.ndarray) -> np.ndarray:
    """``array`` in a dtype that compares fast and exactly: float32 for every float, integers as they are."""
    if array.dtype.kind in "iu":
        return array
    return array if array.dtype == np.float32 else array.astype(np.float32)


def plant_nonfinite(workload: Workload, arrays: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """``arrays`` with an inf in one input and a NaN in the other."""
    rng = np.random.default_rng(seed)
    changed = dict(arrays)
    for name, value in zip(workload.inputs, (np.inf, np.nan)):
        array = changed[name]
        array[tuple(int(rng.integers(d)) for d in array.shape)] = value
    return changed


def _gaps(raw: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> np.ndarray:
    """The bytes of ``raw`` that belong to no element."""
    if raw.size == itemsize * int(np.prod(shape)):
        return raw[:0]
    taken = np.zeros(raw.size // itemsize, bool)
    np.lib.stride_tricks.as_strided(taken, shape, strides)[...] = True
    return raw.reshape(-1, itemsize)[~taken].reshape(-1)
