"""Is a kernel's result right? Checked on the device before any time is taken.

The output and guard bands around it are poisoned, so that what is not written or written beyond shows; every element
is compared with the float64 reference; a second run over another poison must give the same bits; beta = 0 must not
read C. The workspace starts as the launch plan says, and full of NaN where it says nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..cuda.device import Device
from ..cuda.driver import memset
from ..plan import LaunchPlan
from ..reference import POISON, Bounds, Numerics, changed_gaps, elements, inside, observed
from ..workload import ITEMSIZE, ArraySpec, Workload
from . import runtime
from .device_compare import DeviceCompare, Found
from .device_data import DeviceData
from .reference_products import large_inputs, wide_bounds, wide_products
from .worker import Note, no_note

_MODULI = (2, 4, 8, 16, 32, 64, 128, 256)
SECOND_POISON = 0x55
"""A large number in every float dtype, so that an unwritten element differs between two runs."""
LARGE = 1 << 20
"""Output elements from which on they are compared on the device."""
Run = Callable[[Mapping[str, int], Mapping[str, float], int], None]
"""(addresses of the workload's buffers, scalars, stream): issue once."""


class Checkable(Protocol):
    """Something whose result is checked: ``run`` issues it once; ``workspace`` is the address of its plan's."""

    plan: LaunchPlan
    numerics: Numerics
    workspace: int

    def run(self, buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None: ...


@dataclass(frozen=True)
class CheckResult:
    """``status``: ok or wrong; ``reason`` says what was wrong; ``error``: figures of the comparison."""

    status: str
    reason: str = ""
    error: dict[str, float] = field(default_factory=dict)


class Checker:
    """Checks kernels of one workload on ``data``; references are computed once and kept."""

    def __init__(
        self, data: DeviceData, stream: runtime.Stream, device: Device | None = None, large: int = LARGE
    ) -> None:
        self.data, self.stream = data, stream
        self._compare: dict[str, HostCompare | DeviceCompare] = {}
        for name in data.workload.outputs:
            spec = data.specs[name]
            on_device = device is not None and math.prod(spec.shape) >= large and spec.dtype != "uint8"
            self._compare[name] = (
                DeviceCompare(spec, device.arch, device.sm_count, stream)
                if device is not None and on_device
                else HostCompare(spec)
            )
        self._bounds: dict[Any, dict[str, tuple[Bounds, Any]]] = {}
        self._loaded: Mapping[str, np.ndarray] = data.arrays

    def check(self, kernel: Checkable, note: Note) -> CheckResult:
        """``kernel`` on the ordinary inputs, twice where it must be deterministic, and with beta = 0."""
        result = self._case(kernel, self.data.arrays, self.data.scalars, note)
        if result.status == "ok" and self.data.workload.deterministic:
            note("second run")
            self._issue(kernel, self.data.scalars, SECOND_POISON)
            for name, compared in self._compare.items():
                differing, total = compared.differing(self.data.verify[name]), math.prod(self.data.specs[name].shape)
                if differing:
                    reason = (
                        f"{differing} of {total} {_elements(name)} differ between two runs (a race, or not written)"
                    )
                    return CheckResult("wrong", reason, result.error)
        if result.status == "ok" and self.data.workload.beta == "any":
            note("beta = 0")
            hostile = {**self.data.arrays, "c": np.full_like(self.data.arrays["c"], np.nan)}
            zero = self._case(kernel, hostile, {**self.data.scalars, "beta": 0.0}, note)
            self._put(self.data.arrays)
            if zero.status != "ok":
                return replace(zero, reason=f"with beta = 0 and NaN in C: {zero.reason}")
        return result

    def check_result(self, library: Checkable) -> CheckResult:
        """The result of one run alone."""
        return self._case(library, self.data.arrays, self.data.scalars, no_note)

    def check_winner(self, kernel: Checkable, seed: int, note: Note) -> dict[str, CheckResult]:
        """New random inputs; integers, exactly; infinities and NaN where the template says that they propagate."""
        workload, numerics = self.data.workload, kernel.numerics
        cases = {"new inputs": large_inputs(workload, seed)}
        if numerics.exact_integers:
            cases["integers, exactly"] = large_inputs(workload, seed, "integer")
        if numerics.propagates_nonfinite and workload.dtype in ("float32", "float16", "bfloat16"):
            cases["inf and nan"] = plant_nonfinite(workload, large_inputs(workload, seed + 1), seed)
        found = {}
        for name, arrays in cases.items():
            note(name)
            exact = name == "integers, exactly"
            scalars = dict.fromkeys(self.data.scalars, 1.0) if exact else self.data.scalars
            found[name] = self._case(kernel, arrays, scalars, note, exact, fresh=True)
        self._put(self.data.arrays)
        return found

    def close(self) -> None:
        for limits in self._bounds.values():
            self._release(limits)
        self._bounds.clear()
        for compared in self._compare.values():
            compared.close()

    def _place(self, limits: Bounds) -> dict[str, tuple[Bounds, Any]]:
        """The bounds of each result, and what its comparison keeps of them."""
        each = {"out": limits, **limits.second}
        return {name: (each[name], compared.place(each[name])) for name, compared in self._compare.items()}

    def _release(self, limits: Mapping[str, tuple[Bounds, Any]]) -> None:
        for name, (_, placed) in limits.items():
            self._compare[name].release(placed)

    @functools.cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray]:
        return wide_products(self.data.workload, self.data.arrays)

    def _case(
        self,
        kernel: Checkable,
        arrays: Mapping[str, np.ndarray],
        scalars: Mapping[str, float],
        note: Note,
        exact: bool = False,
        fresh: bool = False,
    ) -> CheckResult:
        """One run on ``arrays``; unless ``fresh``, their products are those of the ordinary inputs, and kept."""
        key = (kernel.numerics, tuple(sorted(scalars.items())))
        if fresh or key not in self._bounds:
            workload = self.data.workload
            note("reference")
            products = wide_products(workload, arrays) if fresh else self._products
            note("reference")
            limits = self._place(wide_bounds(workload, arrays, scalars, kernel.numerics, exact, products))
            if not fresh:
                self._bounds[key] = limits
        else:
            limits = self._bounds[key]
        self._put(arrays)
        plan = kernel.plan
        if plan.workspace_bytes:
            memset(kernel.workspace, 0xFF, plan.workspace_bytes, self.stream.ptr)
            if plan.zeroed_span:
                memset(kernel.workspace, 0, plan.zeroed_span, self.stream.ptr)
        note("first run")
        try:
            self._issue(kernel, scalars, POISON)
            return self._examine(kernel, limits)
        finally:
            if fresh:
                self._release(limits)

    def _examine(self, kernel: Checkable, limits: Mapping[str, tuple[Bounds, Any]]) -> CheckResult:
        """What is to be said of the results as they lie there."""
        changed = int((self.data.guards() != POISON).sum())
        if changed:
            return CheckResult("wrong", f"wrote outside the output ({changed} guard bytes changed)")
        if kernel.plan.zeroed_span and runtime.download(kernel.workspace, kernel.plan.zeroed_span).any():
            return CheckResult("wrong", "left a workspace that the launch plan says is zero after every run non-zero")
        error = {}
        for name, (wanted, placed) in limits.items():
            found = self._compare[name].inspect(self.data.verify[name], placed)
            if found.gaps:
                return CheckResult("wrong", f"wrote into the gaps between rows ({found.gaps} elements)")
            error["max_abs" if name == "out" else f"max_abs of {name}"] = found.distance
            if not found.wrong:
                continue
            at, got = found.first, self.data.element(name, found.first)
            reason = (
                f"{found.wrong} of {wanted.expected.size} {_elements(name)} wrong, first at {at}: got {got:g}, "
                f"expected {float(wanted.expected[at]):g} within {float(wanted.lo[at]):g} .. {float(wanted.hi[at]):g}; "
            )
            return CheckResult("wrong", reason + self._beginning(name, wanted), error)
        return CheckResult("ok", "", error)

    def _beginning(self, name: str, limits: Bounds) -> str:
        """Where the wrong elements lie in as much of a result's beginning as is quickly looked at."""
        spec = self.data.specs[name]
        count = max(1, min(spec.shape[0], LARGE * spec.shape[0] // limits.lo.size))
        some = ArraySpec((count, *spec.shape[1:]), spec.dtype, spec.element_strides)
        raw, parts = runtime.download(self.data.verify[name], some.span * limits.lo.dtype.itemsize), limits.lo.shape[0]
        count = count * parts // spec.shape[0]  # a mask of one dimension has eight bits a byte
        got, lo, hi = (comparable(a) for a in (observed(elements(raw, some)), limits.lo[:count], limits.hi[:count]))
        first = f"of the first {count}: " if count < parts else ""
        return first + describe_errors(~inside(got, lo, hi), np.isnan(got))

    def _issue(self, kernel: Checkable, scalars: Mapping[str, float], poison: int) -> None:
        self.data.poison(poison, self.stream.ptr)
        kernel.run(self.data.verify, scalars, self.stream.ptr)
        self.stream.synchronize()

    def _put(self, arrays: Mapping[str, np.ndarray]) -> None:
        if arrays is not self._loaded:
            self.data.load(arrays)
            self._loaded = arrays


class HostCompare:
    """Compares a small output on the host, as :class:`DeviceCompare` does with a large one where it lies."""

    def __init__(self, spec: ArraySpec) -> None:
        self.spec = spec
        self._kept = np.zeros(0, np.uint8)

    def place(self, limits: Bounds) -> Bounds:
        """The bounds in dtypes that compare fast."""
        return replace(limits, lo=comparable(limits.lo), hi=comparable(limits.hi))

    def inspect(self, out: int, limits: Bounds) -> Found:
        """Compare the output at address ``out`` with ``limits``, and keep a copy of it."""
        self._kept = self._bytes(out)
        got = comparable(observed(elements(self._kept, self.spec)))
        wrong = ~inside(got, limits.lo, limits.hi)
        with np.errstate(invalid="ignore"):
            off = np.abs(got - limits.expected)
        first = np.unravel_index(int(wrong.argmax()), wrong.shape) if wrong.any() else ()
        distance = float(off.max(initial=0.0, where=np.isfinite(off)))
        return Found(int(wrong.sum()), tuple(map(int, first)), changed_gaps(self._kept, self.spec), distance)

    def differing(self, out: int) -> int:
        """Elements in which the output at ``out`` differs from the copy that was kept."""
        word = f"u{ITEMSIZE[self.spec.dtype]}"
        first, second = (elements(raw, self.spec).view(word) for raw in (self._kept, self._bytes(out)))
        return int((first != second).sum())

    def _bytes(self, out: int) -> np.ndarray:
        return runtime.download(out, self.spec.span * ITEMSIZE[self.spec.dtype])

    def release(self, limits: Bounds) -> None:
        """Nothing is held outside."""

    def close(self) -> None:
        """Nothing is held outside."""


def _elements(name: str) -> str:
    return "elements" if name == "out" else f"elements of {name}"


def comparable(array: np.ndarray) -> np.ndarray:
    """``array`` in a dtype that compares fast and exactly: float32 for every float, integers as they are."""
    return array if array.dtype.kind in "iu" else array.astype(np.float32, copy=False)


def plant_nonfinite(workload: Workload, arrays: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """``arrays`` with an inf in one input and a NaN in the other."""
    rng = np.random.default_rng(seed)
    for name, value in zip(workload.inputs, (np.inf, np.nan)):
        array = arrays[name]
        array[tuple(int(rng.integers(d)) for d in array.shape)] = value
    return dict(arrays)


def describe_errors(wrong: np.ndarray, unwritten: np.ndarray | None = None) -> str:
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
