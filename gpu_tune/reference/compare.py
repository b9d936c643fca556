"""A result against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInput
from ..workload import Workload
from .numerics import Numerics
from .rounding import bounds


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

    def __str__(self) -> str:
        if self.ok:
            return (
                f"right ({self.total} elements, largest error {self.max_abs:.3g} absolute, {self.max_rel:.3g} relative)"
            )
        return (
            f"{self.wrong} of {self.total} elements wrong; worst at {self.index}: got {self.got:g}, expected "
            f"{self.expected:g} +- {self.allowed:.3g}"
        )


def compare(
    out: np.ndarray,
    workload: Workload,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float] | None = None,
    *,
    numerics: Numerics | None = None,
    exact: bool = False,
) -> Comparison:
    """Compare ``out`` with the reference: each element must lie between cast(reference - e) and cast(reference + e).

    ``e`` bounds rounding: ``(k_eps sqrt(K) eps + input_eps) |A|.|B|`` through the epilogue (each operation adds its own
    rounding; K counts as 32 at least: tensor cores cut the products of one instruction to the largest before they add);
    zero when ``exact`` (integer inputs and no transcendental). NaN must be NaN, infinities must agree.
    """
    with np.errstate(all="ignore"):
        limits = bounds(workload, arrays, scalars, numerics=numerics, exact=exact)
        expected, error = limits.expected, limits.error
        lo, hi = limits.lo.astype(np.float64), limits.hi.astype(np.float64)
        got = np.asarray(out).astype(np.float64)
        if got.shape != expected.shape:
            raise InvalidInput("result shape", got.shape, f"is not {expected.shape}")
        good = (got >= lo) & (got <= hi) | (np.isnan(got) & np.isnan(expected))
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
        )
