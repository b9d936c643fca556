"""The plain reference: the simplest searcher that does well, in one page, sharing no code with this project's search.

One LightGBM model of all trials (``rank_xendcg``, graded by rank) scores every config not measured yet; genetic
children of the best trials, which the model may not veto, and random configs fill the rest of each batch. Its settings
are pinned: it is what others are compared with, so it must not get better or worse.
"""

from __future__ import annotations

import itertools

import lightgbm
import numpy as np
from numpy.typing import NDArray

from gpu_tune.store.interchange import RecordedSpace

INITIAL, BATCH = 8, 16
"""Random configs at the start; configs in each batch after it."""
MODEL, CHILDREN = 0.6, 0.3
"""Shares of a batch: the model's best, genetic children; the rest is random."""
PARENTS, MUTATION = 24, 0.1
"""Best trials that children come from; chance of a knob to be drawn anew."""
ROUNDS = 50
PARAMETERS = {
    "objective": "rank_xendcg",
    "num_leaves": 8,
    "min_data_in_leaf": 2,
    "learning_rate": 0.1,
    "min_data_in_bin": 1,
    "max_bin": 63,
    "feature_pre_filter": False,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
GRADES = 30


def features(space: RecordedSpace, rows: NDArray[np.uint16]) -> NDArray[np.float32]:
    """log2 of every positive numeric knob, else the place of its value, then sums and differences of all pairs."""
    columns = []
    for i, knob in enumerate(space.knobs):
        values = np.arange(len(knob.values), dtype=np.float64)
        if all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in knob.values):
            values = np.log2(np.array(knob.values, dtype=np.float64))
        if len(values) > 1:
            columns.append(values[rows[:, i]])
    pairs = itertools.combinations(columns, 2)
    both = [(a + b, a - b) for a, b in pairs]
    return np.stack([*columns, *itertools.chain.from_iterable(both)], axis=1).astype(np.float32)


def grades(times: NDArray[np.float64]) -> NDArray[np.int32]:
    """Relevance by rank alone: ``GRADES`` for the fastest, evenly down to 0; failures (inf) are 0."""
    ranks = np.argsort(np.argsort(times, kind="stable"), kind="stable")
    return np.where(np.isfinite(times), np.floor(GRADES * (1 - ranks / len(times))), 0).astype(np.int32)


def plain(space: RecordedSpace, seed: int, budget: int) -> list[float]:
    """Times (seconds, inf for failures) of ``budget`` distinct configs in the order tried."""
    rng = np.random.default_rng(seed)
    rows = space.grid.all(len(space))
    assert rows is not None
    truth, x = space.times(), features(space, rows)
    place = {row.tobytes(): i for i, row in enumerate(rows)}
    sizes = np.array([len(k.values) for k in space.knobs])
    order: list[int] = []
    free = np.ones(len(rows), dtype=np.bool_)

    def take(candidates: NDArray[np.intp], n: int) -> None:
        for i in candidates:
            if n > 0 and free[i]:
                free[i] = False
                order.append(int(i))
                n -= 1

    take(rng.permutation(len(rows)), min(INITIAL, budget))
    while len(order) < min(budget, len(rows)):
        n = min(BATCH, budget - len(order))
        tried = np.array(order)
        times = truth[tried]
        label = grades(times)
        if len(np.unique(label)) > 1:
            data = lightgbm.Dataset(x[tried], label, group=[len(tried)])
            parameters = {**PARAMETERS, "seed": int(rng.integers(1 << 30))}
            model = lightgbm.train(parameters, data, ROUNDS)
            score = model.predict(x, num_threads=1) + 1e-9 * rng.random(len(rows))
            take(np.argsort(-score, kind="stable"), round(MODEL * n))
        parents = rows[tried[np.argsort(times, kind="stable")[:PARENTS]]]
        wanted = len(order) + round(CHILDREN * n)
        for _ in range(20 * n):
            if len(order) >= wanted:
                break
            a, b = parents[rng.integers(len(parents), size=2)]
            child = np.where(rng.random(len(sizes)) < 0.5, a, b)
            child = np.where(rng.random(len(sizes)) < MUTATION, rng.integers(sizes), child).astype(np.uint16)
            take(np.array([place[child.tobytes()]] if child.tobytes() in place else [], dtype=np.intp), 1)
        take(rng.permutation(len(rows)), min(budget, len(tried) + n) - len(order))
    return [float(t) for t in truth[order]]
