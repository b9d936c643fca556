"""What the project's ranker learns from timed shapes, with and without the static model's word.

Ways to use it: not at all (``features``), as columns beside the features (``+ static``), as the score that boosting
starts from and then corrects (``from static``), and as columns and with the score of its order added (``+ static +
order``), which is what a search does with trials of its own chip (``gpu_tune.model.foreseen``). A search that has
trials of other chips alone goes by the static model alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.performance_model.compiled import Predicted
from bench.transfer import autoheuristic
from bench.transfer.__main__ import pooled
from bench.transfer.autoheuristic import Shape
from gpu_tune.model.foreseen import WEIGHT, order_score
from gpu_tune.model.ranker import Ranker
from gpu_tune.model.transfer import predicted_columns

Array = NDArray[np.float64]
SHARPNESS = 8.0
"""Of the start score, in units of log time: that of two configs predicted 10 % apart the right one is first in 69 %."""


def columns(p: Predicted) -> Array:
    """Static columns of a shape's configs."""
    pairs = zip(p.seconds, p.terms)
    return predicted_columns([terms if math.isfinite(seconds) else {"seconds": math.inf} for seconds, terms in pairs])


class Learned:
    """Features of shapes, and rankers fitted on some of them and asked about others."""

    def __init__(self, shapes: Sequence[Shape], predicted: Sequence[Predicted]) -> None:
        features, _ = autoheuristic.describe(shapes)
        self.features = {id(s): np.asarray(x, float) for s, x in zip(shapes, features)}
        self.static = {id(s): columns(p) for s, p in zip(shapes, predicted)}
        self.order = {key: order_score(of) for key, of in self.static.items()}
        self.start = {key: of * (SHARPNESS / WEIGHT) for key, of in self.order.items()}

    def rows(self, train: Sequence[Shape], asked: Sequence[Shape], seed: int = 0) -> Mapping[str, list[Array]]:
        """By way of using the static model: what to expect of each asked shape's configs (smaller is faster)."""
        found = {}
        for name, with_static, from_static, with_order in (
            ("features", False, False, False),
            ("features + static", True, False, False),
            ("features, from static", False, True, False),
            ("features + static + order", True, False, True),
        ):
            times = np.concatenate([s.times() for s in train])
            model = Ranker.fit(
                np.concatenate([self._x(s, with_static) for s in train]),
                times,
                [len(s.runs) for s in train],
                seed=seed,
                shape=pooled(len(times)),
                start=np.concatenate([self.start[id(s)] for s in train]) if from_static else None,
            )
            if model is not None:
                more = self.start if from_static else self.order if with_order else None
                found[name] = [
                    -model.score(self._x(s, with_static)) - (0.0 if more is None else more[id(s)]) for s in asked
                ]
        return found

    def _x(self, s: Shape, with_static: bool) -> Array:
        if not with_static:
            return self.features[id(s)]
        return np.concatenate([self.features[id(s)], self.static[id(s)]], axis=1)
