"""How good a ranking is, and what a search has learned: numbers for reports and for the benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def top_k(score: NDArray[np.floating], times: NDArray[np.floating], k: int) -> float:
    """Best time of all over the best among the ``k`` highest scores (1: found; 0: all of them failed). Failures are
    nan or inf.
    """
    ok = np.isfinite(times)
    if not ok.any():
        return 1.0
    chosen = np.argsort(-score, kind="stable")[:k]
    good = chosen[ok[chosen]]
    return float(times[ok].min() / times[good].min()) if len(good) else 0.0


def pairwise_accuracy(score: NDArray[np.floating], times: NDArray[np.floating]) -> float:
    """Share of pairs with different times that the scores order rightly (0.5: none the wiser; equal scores count
    half).
    """
    t = np.where(np.isfinite(times), times, np.inf)
    with np.errstate(invalid="ignore"):
        faster = t[:, None] < t[None]
    gap = score[:, None] - score[None]
    pairs = int(faster.sum())
    return float(((gap > 0)[faster].sum() + 0.5 * (gap == 0)[faster].sum()) / pairs) if pairs else 0.5


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's: 1 for the same order, -1 for the opposite one, 0 where one of them tells nothing apart."""
    x, y = (np.argsort(np.argsort(v, kind="stable"), kind="stable").astype(np.float64) for v in (a, b))
    if len(x) < 2:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
