"""The ranker: LightGBM that learns to order candidates, not to predict milliseconds; and how good an order is.

``rank_xendcg`` (Bruch 2021, "An Alternative Cross Entropy Loss for Learning-to-Rank") over graded relevance: how
close a trial's time is to the best of its group. ``lambdarank`` (Burges 2010, "From RankNet to LambdaRank to
LambdaMART") costs twice as much and is a little better where trials are many. A group is one workload on one chip, so
times of different groups are never compared. Failed trials stay in, as the worst grade: a model that never saw a
failure proposes it again. Leaves are tiny because a run has tens of trials, where LightGBM's default of 20 rows a leaf
learns nothing.

Three habits of LightGBM's ranking objectives (4.7) are met before each fit. A query has at most 10,000 rows: larger
groups are cut. ``rank_xendcg`` draws its targets around the grades, so a group in which everything failed teaches
noise: such groups are left out. ``lambdarank`` keeps equal scores in the order of rows: the rows of pooled groups are
put into one order, however they were given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

MAX_QUERY_ROWS = 10_000
"""Most rows of one query (``kMaxPosition`` in LightGBM's source)."""
GRADES = 30
"""LightGBM's ranking objectives take at most 31 grades, 0 (failed or hopeless) to this."""


@dataclass(frozen=True)
class Shape:
    """How large a model is. ``power`` sharpens grades towards the best: grade = floor(GRADES * (best / time) **
    power). ``by_rank``: grades fall evenly with the rank instead, so that the best are told apart however near they
    are.
    """

    trees: int = 50
    leaves: int = 8
    min_rows: int = 2
    learning_rate: float = 0.1
    power: float = 1.0
    objective: str = "rank_xendcg"
    by_rank: bool = False


_OBJECTIVES: dict[str, dict[str, Any]] = {
    "rank_xendcg": {},
    # grades count as they are, not as 2^grade (near-equals differ by noise); pairs far from the top are left out
    "lambdarank": {"label_gain": list(range(GRADES + 1)), "lambdarank_truncation_level": 10},
}
OWN = Shape(trees=30, learning_rate=0.15)
"""For the trials of one run: 50 trees of 0.1 take longer to score a space and choose no better."""
RANKED = replace(OWN, by_rank=True)
"""The same, to choose the next ones."""
POOLED = Shape(trees=200, leaves=16, min_rows=5, power=2.0)
"""For the trials of many runs."""


def grades(times: NDArray[np.floating], power: float = 1.0) -> NDArray[np.int32]:
    """Relevance of one group's trials from their times in seconds; nan or inf marks a failure."""
    ok = np.isfinite(times)
    if not ok.any():
        return np.zeros(len(times), dtype=np.int32)
    share = np.divide(times[ok].min(), times, out=np.zeros(len(times)), where=ok)
    return np.floor(GRADES * share**power).astype(np.int32)


def ranks(times: NDArray[np.floating]) -> NDArray[np.int32]:
    """Relevance of one group's trials by rank alone: ``GRADES`` for the fastest, evenly down; failures are 0."""
    place = np.argsort(np.argsort(times, kind="stable"), kind="stable")
    return np.where(np.isfinite(times), np.floor(GRADES * (1 - place / max(len(times), 1))), 0).astype(np.int32)


class Ranker:
    """A fitted model of features ``names``. ``score`` orders rows of features; scores of different groups or models do
    not compare."""

    def __init__(self, booster: lightgbm.Booster, names: Sequence[str] | None = None) -> None:
        self._booster = booster
        self.names = list(names or booster.feature_name())

    @classmethod
    def fit(
        cls,
        x: NDArray[np.floating],
        times: NDArray[np.floating],
        groups: Sequence[int] | None = None,
        *,
        seed: int = 0,
        shape: Shape = OWN,
        names: Sequence[str] | None = None,
        start: NDArray[np.floating] | None = None,
    ) -> Ranker | None:
        """Learn from trials: ``x`` (n, features), ``times`` (n,) seconds with nan or inf for failures, ``groups`` the
        sizes of consecutive groups (default: one, whose rows have an order of their own). None when no group has two
        grades to tell apart. Same trials of each group, same model. ``start`` (n,): scores that the
        trees correct; ``score`` is the correction alone."""
        x, parts = np.asarray(x, dtype=np.float32), []
        for rows in np.split(np.arange(len(times)), np.cumsum([len(times)] if groups is None else list(groups))[:-1]):
            if np.isfinite(times[rows]).any():
                ordered = rows if groups is None else rows[np.lexsort((times[rows], *x[rows].T))]
                pieces = -(-len(rows) // MAX_QUERY_ROWS)
                label = ranks(times[ordered]) if shape.by_rank else grades(times[ordered], shape.power)
                parts += [(ordered[i::pieces], label[i::pieces]) for i in range(pieces)]
        if not any(len(np.unique(label)) > 1 for _, label in parts):
            return None
        order, label = np.concatenate([rows for rows, _ in parts]), np.concatenate([label for _, label in parts])
        x, first = x[order], None if start is None else start[order]
        sizes = [len(rows) for rows, _ in parts]
        parameters = {
            "objective": shape.objective,
            **_OBJECTIVES[shape.objective],
            "num_leaves": shape.leaves,
            "min_data_in_leaf": shape.min_rows,
            "learning_rate": shape.learning_rate,
            "min_data_in_bin": 1,
            "max_bin": 63,
            "feature_pre_filter": False,
            "seed": seed & 0x7FFFFFFF,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        for cautious in ({}, {"min_sum_hessian_in_leaf": 0.1, "min_data_in_leaf": max(5, shape.min_rows)}):
            data = lightgbm.Dataset(x, label, group=sizes, init_score=first, free_raw_data=True)
            # numerically empty splits (4.7: "left_count > 0") are an error; larger leaves avoid them
            with contextlib.suppress(lightgbm.basic.LightGBMError):
                booster = lightgbm.train({**parameters, **cautious}, data, shape.trees, keep_training_booster=True)
                return cls(booster, names)
        return None

    def score(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Larger is expected to be faster; (n,) for features (n, features)."""
        return np.asarray(self._booster.predict(np.asarray(x, dtype=np.float32), num_threads=1), dtype=np.float64)

    def gain(self) -> dict[str, float]:
        """Each feature's share of the total split gain, largest first, unused ones left out; equal names add up."""
        gains = self._booster.feature_importance("gain")
        found: dict[str, float] = {}
        for name, share in zip(self.names, (gains / (gains.sum() or 1.0)).tolist()):
            if share > 0:
                found[name] = found.get(name, 0.0) + share
        return dict(sorted(found.items(), key=lambda p: (-p[1], p[0])))

    def contributions(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """SHAP contributions (n, features + 1) of each feature to each score; the last column is the base value."""
        return np.asarray(
            self._booster.predict(np.asarray(x, dtype=np.float32), pred_contrib=True, num_threads=1), dtype=np.float64
        )


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
