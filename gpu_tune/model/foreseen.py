"""What the performance model's word is worth beside records: the order of predicted configs, corrected by timed ones.

Trials that were timed carry the terms of the time that was predicted of them (``Prediction.terms``). A ranker of the
features learns from those of the same chip with these terms as further columns, and its score and that of the predicted
order are added: the sum follows the prediction where trials are few or of another kind, and the ranker where they are
many. Trials of other chips alone correct nothing: on public timings the predicted order itself is better then.
(``python -m bench.performance_model`` compares these ways; this one was chosen on its development shapes.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..space.knob import Config
from ..space.space import Space
from .ranker import POOLED, Ranker
from .transfer import HistoryGroup, predicted_columns

WEIGHT = 16.0
"""Of the predicted order in the sum, per unit of log time: a config that is predicted 6 % slower is one behind."""


def order_score(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The predicted order as a score, more being better; what was not predicted comes last."""
    worst = np.nanmax(columns[:, 0], initial=0.0)
    return np.asarray(-WEIGHT * math.log(2) * np.nan_to_num(columns[:, 0], nan=worst))


def scores(
    space: Space, predictions: Mapping[Config, Mapping[str, float]], history: Sequence[HistoryGroup], seed: int
) -> NDArray[np.float64]:
    """What to expect of configs of ``space``, more being better, from the terms of their predicted times and from what
    ``history`` timed on the same chip; (n,) in the order of ``predictions``."""
    columns = predicted_columns(list(predictions.values()))
    by_order = order_score(columns)
    x, names = space.describe(space.rows(predictions))
    rebased = (g.rebased(names) for g in history if g.chip and g.chip == getattr(space.device, "chip", None))
    groups = [g for g in rebased if g is not None and g.predicted is not None]
    if not groups:
        return by_order
    ranker = Ranker.fit(
        np.concatenate([np.hstack([g.features, g.predicted]) for g in groups if g.predicted is not None]),
        np.concatenate([g.times for g in groups]),
        [len(g.times) for g in groups],
        seed=seed,
        shape=POOLED,
    )
    return by_order if ranker is None else ranker.score(np.hstack([x, columns])) + by_order
