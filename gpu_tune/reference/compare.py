"""Whether results lie where rounding may have taken them from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..workload import Workload
from .derivatives import observed
from .rounding import Bounds, Numerics, bounds


def inside(out: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Where ``out`` lies within ``lo`` .. ``hi``, or is NaN as they are; dtypes that compare exactly."""
    with np.errstate(invalid="ignore"):
        return (out >= lo) & (out <= hi) | np.isnan(lo) & np.isnan(out)


@dataclass(frozen=True)
class Comparison:
    """How a result compares: ``worst`` is the largest excess over the bound's half-width, at ``index``.

    ``max_abs`` and ``max_rel`` are errors against the float64 reference; ``wrong`` counts elements outside the bound.
    """

    ok: bool
    wrong: int
    total: int
    max_abs: float
    max_rel: float
    index: tuple[int, ...]
    got: float
    expected: float
    allowed: float
    name: str = "out"

    def __str__(self) -> str:
        if self.ok:
            return (
                f"right ({self.total} elements, largest error {self.max_abs:.3g} absolute, {self.max_rel:.3g} relative)"
            )
        what = "elements" if self.name == "out" else f"elements of {self.name}"
        return (
            f"{self.wrong} of {self.total} {what} wrong; worst at {self.index}: got {self.got:g}, expected "
            f"{self.expected:g} +- {self.allowed:.3g}"
        )


def compare(
    out: np.ndarray | Mapping[str, np.ndarray],
    workload: Workload,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float] | None = None,
    *,
    numerics: Numerics | None = None,
    exact: bool = False,
) -> Comparison:
    """Compare ``out``, or each of the results by name, with the reference; of several the first wrong one is told of.

    Each element must lie between cast(reference - e) and cast(reference + e).

    ``e`` bounds rounding: ``(k_eps sqrt(K) eps + input_eps) |A|.|B|`` through the epilogue (each operation adds its own
    rounding; K counts as 32 at least: tensor cores cut the products of one instruction to the largest before they add);
    zero when ``exact`` (integer inputs and no transcendental). NaN must be NaN, infinities must agree.
    """
    found = out if isinstance(out, Mapping) else {"out": out}
    limits = bounds(workload, arrays, scalars, numerics=numerics, exact=exact)
    compared = [_compared(n, a, limits if n == "out" else limits.second[n]) for n, a in found.items()]
    return next((c for c in compared if not c.ok), compared[0])


def _compared(name: str, result: np.ndarray, limits: Bounds) -> Comparison:
    with np.errstate(all="ignore"):
        expected, error = limits.expected, limits.error
        lo, hi = limits.lo.astype(np.float64), limits.hi.astype(np.float64)
        got = observed(np.asarray(result)).astype(np.float64)
        require(
            got.shape == expected.shape,
            "result shape" if name == "out" else f"shape of {name}",
            got.shape,
            f"is not {expected.shape}",
        )
        good = inside(got, lo, hi)
        difference = np.abs(got - expected)
        finite = np.isfinite(difference)
        excess = np.where(good, -1.0, np.where(finite, difference / (error + 1e-300), np.inf))
        index = np.unravel_index(int(np.argmax(excess)), excess.shape) if excess.size else ()
        relative = difference / (
            np.abs(expected) + np.abs(expected)[np.isfinite(expected)].mean() if np.isfinite(expected).any() else 1.0
        )
        return Comparison(
            bool(good.all()),
            int((~good).sum()),
            got.size,
            float(difference[finite].max(initial=0.0)),
            float(relative[finite].max(initial=0.0)),
            tuple(int(i) for i in index),
            float(got[index]),
            float(expected[index]),
            float(max(error[index], (hi - lo)[index] / 2)),
            name,
        )
