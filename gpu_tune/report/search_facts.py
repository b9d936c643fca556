from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.metrics import pairwise_accuracy, rank_correlation, top_k
from ..model.ranker import Ranker

if TYPE_CHECKING:
    from ..search.search import Search
    from ..search.space_search import SpaceSearch


FOLDS = 5


def explain(search: Search) -> dict[str, Any]:
    """What was tried and what was learned, as plain data.

    ``curve``: best seconds after each trial (None before one succeeds). ``points``: each trial's space, status and
    seconds (None without a time). ``statuses``: counts. ``failures``: how often each kind of failure (status, and
    reason but for its numbers) came, with one ``reason`` as it was. ``spaces``: for each, trials, best seconds and,
    once a model can be fitted, ``gain`` (share of LightGBM's split gain), ``shap`` (mean absolute SHAP contribution),
    both by knob or feature, largest first; ``predicted`` and ``measured`` rank (0: the fastest) of the timed trials, in
    the same order, where each was predicted by a model that had not seen it (``FOLDS`` parts in turn); their
    ``rank_correlation``; ``pairwise_accuracy`` of the same predictions, failures included; ``top``: best time over the
    best among the 1, 3 and 5 that were predicted first.
    """
    curve: list[float | None] = []
    best = math.inf
    failures: dict[tuple[str, str], dict[str, Any]] = {}
    for m in search.observations:
        best = min(best, m.time if m.ok else math.inf)
        curve.append(best if math.isfinite(best) else None)
        if not m.ok:
            kind = m.status, re.sub(r"\d+", "#", m.reason.split("\n")[0])[:80]
            failures.setdefault(kind, {"status": m.status, "count": 0, "reason": m.reason})["count"] += 1
    return {
        "trials": len(search.observations),
        "curve": curve,
        "points": [
            {"space": m.candidate.template, "status": m.status, "seconds": m.time if m.ok else None}
            for m in search.observations
        ],
        "statuses": dict(Counter(m.status for m in search.observations).most_common()),
        "failures": sorted(failures.values(), key=lambda f: (-f["count"], f["status"], f["reason"])),
        "spaces": {name: _explain(arm) for name, arm in search.arms.items()},
    }


def _explain(arm: SpaceSearch) -> dict[str, Any]:
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
        score = np.zeros(int((fold == f).sum())) if part is None else part.score(x[fold == f])
        held[fold == f] = score - (0.0 if part is None else part.score(x[fold != f]).mean())  # models share no zero
    plain = dict(zip(model.names, names))  # LightGBM's spelling to ours
    known = np.isfinite(times)
    predicted = np.argsort(np.argsort(-held[known], kind="stable"), kind="stable")
    measured = np.argsort(np.argsort(times[known], kind="stable"), kind="stable")
    out.update(
        gain={plain[n]: share for n, share in model.gain().items()},
        shap={names[i]: float(shap[i]) for i in order if shap[i] > 0},
        predicted=predicted.tolist(),
        measured=measured.tolist(),
        rank_correlation=rank_correlation(predicted, measured),
        pairwise_accuracy=pairwise_accuracy(held, times),
        top={str(k): top_k(held, times, k) for k in (1, 3, 5)},
    )
    return out
