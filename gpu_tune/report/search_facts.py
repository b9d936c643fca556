"""What a search tried and learned, as plain data, and sentences about it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from ..model.ranker import Ranker, pairwise_accuracy, top_k

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
        "spaces": {name: _explain(own) for name, own in search.space_searches.items()},
    }


def _explain(search: SpaceSearch) -> dict[str, Any]:
    rows, times = search.trials()
    out: dict[str, Any] = {"trials": len(times), "best": search.best if math.isfinite(search.best) else None}
    if len(times) < 2 * FOLDS:
        return out
    x, names = search.space.describe(rows)
    model = Ranker.fit(x, times, seed=search.seed, names=names)
    if model is None:
        return out
    shap = np.abs(model.contributions(x)[:, :-1]).mean(axis=0)
    order = np.argsort(-shap, kind="stable")
    held = np.full(len(times), np.nan)
    fold = np.random.default_rng(search.seed).permutation(len(times)) % FOLDS
    for f in range(FOLDS):
        part = Ranker.fit(x[fold != f], times[fold != f], seed=search.seed)
        score = np.zeros(int((fold == f).sum())) if part is None else part.score(x[fold == f])
        held[fold == f] = score - (0.0 if part is None else part.score(x[fold != f]).mean())  # models share no zero
    known = np.isfinite(times)
    predicted, measured = (stats.rankdata(v[known], method="ordinal").astype(int) - 1 for v in (-held, times))
    out.update(
        gain=model.gain(),
        shap={names[i]: float(shap[i]) for i in order if shap[i] > 0},
        predicted=predicted.tolist(),
        measured=measured.tolist(),
        rank_correlation=float(stats.spearmanr(predicted, measured).statistic) if len(predicted) > 1 else 0.0,
        pairwise_accuracy=pairwise_accuracy(held, times),
        top={str(k): top_k(held, times, k) for k in (1, 3, 5)},
    )
    return out


def ended(facts: Mapping[str, Any]) -> str:
    """How the trials ended, most frequent first."""
    return ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in facts["statuses"].items()) or "none yet"


def judgement(name: str, space: Mapping[str, Any]) -> str:
    """One line on how rightly the model of a space predicts trials that it had not seen."""
    first = ", ".join(f"{float(x):.3f} among its first {k}" for k, x in space["top"].items())
    return (
        f"{name}: of two unseen trials the model tells the faster in {space['pairwise_accuracy']:.0%}, "
        f"rank correlation {space['rank_correlation']:.2f}; best time / best it would have picked: {first}"
    )
