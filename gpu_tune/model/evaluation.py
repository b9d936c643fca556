"""How good a ranking is, and what a search has learned: numbers for reports and for the benchmarks."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .ranker import Ranker

if TYPE_CHECKING:
    from ..search import Search
    from ..search_arm import Arm

FOLDS = 5


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


def explain(search: Search) -> dict[str, Any]:
    """What was tried and what was learned, as plain data.

    ``curve``: best seconds after each trial (None before one succeeds). ``statuses``: counts. ``reasons``: the first
    reason of each failing status. ``spaces``: for each, trials, best seconds and, once a model can be fitted,
    ``gain`` (share of LightGBM's split gain), ``shap`` (mean absolute SHAP contribution), both by knob or feature,
    largest first; ``predicted`` against ``measured`` rank of the trials by models that had not seen them, and the
    pairwise accuracy of those.
    """
    curve: list[float | None] = []
    best = math.inf
    for m in search.told:
        best = min(best, m.time if m.ok else math.inf)
        curve.append(best if math.isfinite(best) else None)
    reasons: dict[str, str] = {}
    for m in search.told:
        if m.reason:
            reasons.setdefault(m.status, m.reason)
    return {
        "trials": len(search.told),
        "curve": curve,
        "statuses": dict(Counter(m.status for m in search.told).most_common()),
        "reasons": reasons,
        "spaces": {name: _explain(arm) for name, arm in search.arms.items()},
    }


def _explain(arm: Arm) -> dict[str, Any]:
    rows, times = arm.trials()
    out: dict[str, Any] = {"trials": len(times), "best": arm.best if math.isfinite(arm.best) else None}
    model = arm.fit()
    if model is None or len(times) < 2 * FOLDS:
        return out
    x, names = arm.space.describe(rows)
    shap = np.abs(model.contributions(x)[:, :-1]).mean(axis=0)
    order = np.argsort(-shap, kind="stable")
    held = np.full(len(times), np.nan)
    fold = np.random.default_rng(arm.seed).permutation(len(times)) % FOLDS
    for f in range(FOLDS):
        part = Ranker.fit(x[fold != f], times[fold != f], seed=arm.seed)
        held[fold == f] = 0.0 if part is None else part.score(x[fold == f])
    known = np.isfinite(times)
    out.update(
        gain=model.gain(),
        shap={names[i]: float(shap[i]) for i in order if shap[i] > 0},
        predicted=np.argsort(np.argsort(-held[known], kind="stable"), kind="stable").tolist(),
        measured=np.argsort(np.argsort(times[known], kind="stable"), kind="stable").tolist(),
        pairwise_accuracy=pairwise_accuracy(held, times),
    )
    return out
