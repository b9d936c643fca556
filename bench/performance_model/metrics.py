"""How good an order of configs is: share of the optimum among the first k, rank correlation, chance, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import rankdata

Array = NDArray[np.float64]

FIRST = (1, 3, 5, 10)
MISS = 0.1
"""What a choice counts where everything chosen failed."""


def top(predicted: Array, times: Array, k: int) -> float:
    """Best time of all over the best among the ``k`` lowest predictions; MISS where all of those failed."""
    chosen = np.argsort(predicted, kind="stable")[:k]
    good = times[chosen][np.isfinite(times[chosen])]
    return max(MISS, float(np.nanmin(times) / good.min())) if len(good) else MISS


def rank_correlation(predicted: Array, times: Array) -> float:
    """Spearman's, over the configs that were timed; those predicted to fail come last. 0 where nothing differs."""
    ok = np.isfinite(times)
    p, t = predicted[ok], times[ok]
    finite = np.isfinite(p)
    if finite.sum() < 2:
        return 0.0
    p = np.where(finite, p, p[finite].max() * 10)
    if len(p) < 3 or np.ptp(p) == 0 or np.ptp(t) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(p), rankdata(t))[0, 1])


def chance(times: Array, k: int) -> float:
    """What ``top`` is for ``k`` random configs, as a geometric mean, exactly; failures are drawn too."""
    n = len(times)
    ordered = np.sort(np.where(np.isfinite(times), times, np.inf))
    share = np.maximum(MISS, ordered[0] / ordered)
    if k >= n:
        return 1.0
    i = np.arange(n - k + 1)  # the best of the k is the i-th: the other k - 1 come from the n - 1 - i behind it
    ways = _log_choose(n - 1 - i, k - 1) - _log_choose(n, k)
    return float(np.exp((np.exp(ways) * np.log(share[: len(i)])).sum()))


def _log_choose(n: Any, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


@dataclass(frozen=True)
class Scores:
    """One predictor on some shapes: ``top`` (shapes, len(FIRST)), ``correlation`` (shapes,)."""

    top: Array
    correlation: Array

    @classmethod
    def of(cls, predicted: Sequence[Array] | None, times: Sequence[Array]) -> Scores:
        """``predicted``: smaller is faster; None is chance."""
        if predicted is None:
            rows = [[chance(t, k) for k in FIRST] for t in times]
            return cls(np.array(rows).reshape(-1, len(FIRST)), np.zeros(len(times)))
        rows = [[top(p, t, k) for k in FIRST] for p, t in zip(predicted, times)]
        correlation = [rank_correlation(p, t) for p, t in zip(predicted, times)]
        return cls(np.array(rows).reshape(-1, len(FIRST)), np.array(correlation))

    def take(self, which: Sequence[int]) -> Scores:
        """Of some of the shapes."""
        return Scores(self.top[list(which)], self.correlation[list(which)])

    def row(self, name: str) -> dict[str, Any]:
        """A row of a table: geometric means and 5 % quantiles of each of FIRST, mean rank correlation."""
        found: dict[str, Any] = {"name": name, "shapes": len(self.top)}
        for j, k in enumerate(FIRST):
            found[f"top{k}"] = float(np.exp(np.log(self.top[:, j]).mean()))
            found[f"low{k}"] = float(np.quantile(self.top[:, j], 0.05))
        found["rank_correlation"] = float(self.correlation.mean())
        return found


def interval(values: Array, groups: Sequence[Any], seed: int = 0, draws: int = 2000) -> list[float]:
    """The 95 % bootstrap interval of the mean of ``values``; ``groups``: values of one group are drawn together (a
    product's sizes appear with several dtypes and layouts)."""
    _, group = np.unique([str(g) for g in groups], return_inverse=True)
    total, size = np.bincount(group, values), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(0, len(size), (draws, len(size)))
    means = total[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    return [float(q) for q in np.quantile(means, [0.025, 0.975])]


def paired(ours: Scores, theirs: Scores, groups: Sequence[Any]) -> dict[str, Any]:
    """Differences of log shares (and of correlations), ours minus theirs, with intervals."""
    found: dict[str, Any] = {}
    for j, k in enumerate(FIRST):
        gap = np.log(ours.top[:, j]) - np.log(theirs.top[:, j])
        found[f"top{k}"] = {"mean": float(gap.mean()), "interval": interval(gap, groups)}
    gap = ours.correlation - theirs.correlation
    found["rank_correlation"] = {"mean": float(gap.mean()), "interval": interval(gap, groups)}
    return found


def spread(predicted: Sequence[Array], times: Sequence[Array]) -> Array:
    """Measured over predicted of every config that was timed and predicted."""
    found = [t[ok] / p[ok] for p, t in zip(predicted, times) for ok in [np.isfinite(p) & np.isfinite(t)]]
    return np.concatenate(found) if found else np.zeros(0)
