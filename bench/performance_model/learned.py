"""What the project's ranker learns from timed shapes, with and without the static model's word.

Three ways to use it: not at all (``features``), as columns beside the features (``+ static``), and as the score that
boosting starts from (``from static``), which it then corrects.
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
from gpu_tune.model.ranker import Ranker

Array = NDArray[np.float64]
OUT = 9.0
"""log2 of seconds over the best, for what does not fit."""
SHARPNESS = 8.0
"""Of the start score, in units of log time: that of two configs predicted 10 % apart the right one is first in 69 %."""


def columns(p: Predicted) -> Array:
    """Static columns of a shape's configs: log2 of the predicted seconds over the least, and of what they are made of,
    as far as it compares between shapes."""
    best = float(np.min(p.seconds))
    rows = []
    for seconds, terms in zip(p.seconds, p.terms):
        if not math.isfinite(seconds):
            rows.append([OUT] * 6)
            continue
        total = max(1.0, sum(v for k, v in terms.items() if k.endswith(" cycles") and k != "tail cycles"))
        rows.append(
            [
                math.log2(seconds / best),
                math.log2(max(1.0, terms["iteration"]) / max(1.0, terms["resident"])),
                terms["resident"],
                terms.get("tail cycles", 0.0) / total,
                terms.get("dram cycles", 0.0) / total,
                terms.get("latency cycles", 0.0) / total,
            ]
        )
    return np.array(rows)


def start(p: Predicted) -> Array:
    """The static model's order as a score: larger is faster."""
    log = np.log(np.where(np.isfinite(p.seconds), p.seconds, np.nanmin(p.seconds) * 2**OUT))
    return -SHARPNESS * (log - log.min())


class Learned:
    """Features of shapes, and rankers fitted on some of them and asked about others."""

    def __init__(self, shapes: Sequence[Shape], predicted: Sequence[Predicted]) -> None:
        features, _ = autoheuristic.describe(shapes)
        self.features = {id(s): np.asarray(x, float) for s, x in zip(shapes, features)}
        self.static = {id(s): columns(p) for s, p in zip(shapes, predicted)}
        self.start = {id(s): start(p) for s, p in zip(shapes, predicted)}

    def rows(self, train: Sequence[Shape], asked: Sequence[Shape], seed: int = 0) -> Mapping[str, list[Array]]:
        """By way of using the static model: what to expect of each asked shape's configs (smaller is faster)."""
        found = {}
        for name, with_static, from_static in (
            ("features", False, False),
            ("features + static", True, False),
            ("features, from static", False, True),
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
                found[name] = [
                    -model.score(self._x(s, with_static)) - (self.start[id(s)] if from_static else 0.0) for s in asked
                ]
        return found

    def _x(self, s: Shape, with_static: bool) -> Array:
        if not with_static:
            return self.features[id(s)]
        return np.concatenate([self.features[id(s)], self.static[id(s)]], axis=1)
