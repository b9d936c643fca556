"""Is a kernel's result right? Checked on the device before any time is taken.

The output and guard bands around it are poisoned, so that what is not written or written beyond shows; every element
is compared with the float64 reference; a second run over another poison must give the same bits; beta = 0 must not
read C. The workspace starts as the launch plan says, and full of NaN where it says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..driver import memset
from ..plan import LaunchPlan
from ..reference import Bounds, bounds, example_inputs, products
from ..templates.base import Numerics
from ..workload import Conv2d, Matmul, Workload
from . import cuda
from .device_data import GUARD, DeviceData, elements

log = logging.getLogger("gpu_tune.verify")
POISONS = (0xFF, 0x55)
"""0xFF is a NaN in every float dtype; 0x55 a large number, so that an unwritten element differs between two runs."""
SCALARS = {"alpha": 0.75, "beta": 0.5}
_ON_DEVICE = 2e9
"""From this many FLOP on, the reference's products are computed by CuPy where it is installed."""

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

    def __init__(self, data: DeviceData, stream: cuda.Stream) -> None:
        self.data, self.stream = data, stream
        self._products: tuple[np.ndarray, np.ndarray] | None = None
        self._bounds: dict[Any, tuple[np.ndarray, np.ndarray, Bounds]] = {}
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
            second = self._issue(run, scalars, POISONS[1])
            spec, inner = self.data.specs["out"], slice(GUARD, -GUARD)
            a, b = (elements(r[inner], spec) for r in (first, second))
            bits = f"u{a.dtype.itemsize}"
            differing = (
                int((a.view(bits) != b.view(bits)).sum())
                if spec.strides == ()
                else int((np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)).sum())
            )
            if differing:
                return Verdict(
                    "wrong",
                    f"{differing} of {a.size} elements differ between two runs (a race, or not written)",
                    verdict.error,
                )
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
        spec = self.data.specs["out"]
        key = (numerics, tuple(sorted(scalars.items()))) if known is not None else None
        if key is None or key not in self._bounds:
            note("reference")
            limits = bounds(
                self.data.workload,
                arrays,
                scalars,
                numerics=numerics,
                exact=exact,
                products=known or wide_products(self.data.workload, arrays),
            )
            made = (comparable(limits.lo), comparable(limits.hi), limits)
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
        raw = self._issue(run, scalars, POISONS[0])
        guards = np.concatenate([raw[:GUARD], raw[-GUARD:]])
        if not (guards == POISONS[0]).all():
            return Verdict(
                "wrong", f"wrote outside the output ({int((guards != POISONS[0]).sum())} guard bytes changed)"
            ), raw
        gaps = _gaps(
            raw[GUARD:-GUARD], spec.shape, spec.element_strides, elements(raw[GUARD:-GUARD], spec).dtype.itemsize
        )
        if not (gaps == POISONS[0]).all():
            return Verdict("wrong", f"wrote into the gaps between rows ({int((gaps != POISONS[0]).sum())} bytes)"), raw
        if plan.zeroed_span and cuda.download(workspace, plan.zeroed_span).any():
            return Verdict("wrong", "left a workspace that the launch plan says is zero after every run non-zero"), raw
        return judge(elements(raw[GUARD:-GUARD], spec), *made), raw

    def _issue(self, run: Run, scalars: Mapping[str, float], poison: int) -> np.ndarray:
        self.data.poison(poison, self.stream.handle)
        run(self.data.verify, scalars, self.stream.handle)
        self.stream.synchronize()
        return self.data.output()

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
            f"expected {float(expected[index]):g} within {float(lo[index]):g} .. {float(hi[index]):g}"
        )
        return Verdict("wrong", reason, error)


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


def wide_products(workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``reference.products``; by CuPy in float64 where the workload is large and CuPy is installed."""
    if workload.flops >= _ON_DEVICE and workload.scales != "block128":
        try:
            import cupy

            return _cupy_products(cupy, workload, arrays)
        except Exception as error:  # CuPy's own errors have no common root, and NumPy does as well
            log.info("the reference is computed by NumPy, not by CuPy (%s)", error)
    return products(workload, arrays)


def _cupy_products(cp: Any, workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    first, second = (
        np.asarray(arrays[n]).astype(np.float32) for n in workload.inputs
    )  # exact, and half the bytes to upload
    a, b = cp.asarray(first).astype(cp.float64), cp.asarray(second).astype(cp.float64)
    results = []
    for x, y in ((a, b), (cp.abs(a), cp.abs(b))):
        product = _cupy_matmul(x, y, workload) if isinstance(workload, Matmul) else _cupy_conv2d(cp, x, y, workload)
        results.append(cp.asnumpy(product))
    cp.get_default_memory_pool().free_all_blocks()
    if workload.scales == "none":
        return results[0], results[1]
    scale_a, scale_b = (np.asarray(arrays[n]).astype(np.float64) for n in ("scale_a", "scale_b"))
    if isinstance(workload, Matmul):
        factor = scale_a[:, None] * scale_b if workload.scales == "row_col" else scale_a[0] * scale_b[0]
    else:
        factor = scale_a[0] * scale_b
        factor = factor[:, None, None] if workload.layout == "nchw" and workload.scales == "row_col" else factor
    return results[0] * factor, results[1] * np.abs(factor)


def _cupy_matmul(a: Any, b: Any, w: Matmul) -> Any:
    a = a if w.layout[0] == "n" else a.swapaxes(-1, -2)
    return a @ (b if w.layout[1] == "n" else b.swapaxes(-1, -2))


def _cupy_conv2d(cp: Any, x: Any, f: Any, w: Conv2d) -> Any:
    if w.layout == "nchw":
        x, f = x.transpose(0, 2, 3, 1), f.transpose(0, 2, 3, 1)
    top, bottom, left, right = w.padding
    x = cp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = w.stride, w.dilation
    cg, kg = w.c // w.groups, w.k // w.groups
    out = cp.zeros((w.n, w.p, w.q, w.groups, kg))
    for r in range(w.r):
        for s in range(w.s):
            patch = x[:, r * dh : r * dh + (w.p - 1) * sh + 1 : sh, s * dw : s * dw + (w.q - 1) * sw + 1 : sw]
            for g in range(w.groups):
                part = patch[..., g * cg : (g + 1) * cg] @ f[g * kg : (g + 1) * kg, r, s].T
                out[..., g, :] += part
    out = out.reshape(w.n, w.p, w.q, w.k)
    return out.transpose(0, 3, 1, 2) if w.layout == "nchw" else out


def _gaps(raw: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> np.ndarray:
    """The bytes of ``raw`` that belong to no element."""
    if raw.size == itemsize * int(np.prod(shape)):
        return raw[:0]
    taken = np.zeros(raw.size // itemsize, bool)
    np.lib.stride_tricks.as_strided(taken, shape, strides)[...] = True
    return raw.reshape(-1, itemsize)[~taken].reshape(-1)
