"""Who fills the slots of a batch: the sources, their shares and the two rules that change them.

============  ======================================================================================================
source        what it proposes
============  ======================================================================================================
starts        defaults, seeds, the winners of history and what the performance model expects most of: tried first
history       what a model of the trials of other devices and sizes expects most of; its share fades
smooth        what a Gaussian process of the own trials (history being its trend) finds most promising
trees         the best of a LightGBM ranker of the own trials
density       what has most configs near it that smooth and trees together expect much of, whatever they expect of it;
              only while the search is stalled, and judged by nobody
children      genetic children of the best trials; no model may veto them, and they are judged by nobody
random        what is left: any config
============  ======================================================================================================

The first rule: history, smooth and trees say before each trial what they expect of it, whoever proposed it. A source is
judged by the last ``WINDOW`` trials that it did not propose. Once there are ``LEAST``, and it orders them worse than
chance, the others have its share, in proportion; it goes on saying what it expects, and has its share back when it
orders them better again. Without history's share the smooth model forgets history too. Before anything can be judged
history picks three or four of the first eight configs, and one of the next four: where it is right, that is as good as
all of them.

The second: while the search is stalled, smooth has density's slots, too, for as long as it expects a gain of what it
would try. Where it knows little of a large part of the space it does; where one config stands alone it does not.

Shares are dealt out by a low-discrepancy sequence: they hold over many small batches as they do in one large batch, and
never round to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..space.grid import Rows

HISTORY, SMOOTH, TREES, DENSITY, CHILDREN = "history", "smooth", "trees", "density", "children"
UNJUDGED = (DENSITY, CHILDREN)
"""Sources that expect nothing of a trial, so that none of theirs can be wrong."""
LEAST, WINDOW = 16, 32
"""Trials that a source is judged by, at least and at most."""
CHANCE = 0.5
"""Share of pairs ordered rightly by one who knows nothing."""


class Sources:
    """What each source proposed and what it expected."""

    def __init__(self) -> None:
        self._proposed: dict[bytes, str] = {}
        self._expected: dict[str, dict[bytes, tuple[int, float]]] = {}

    def note(self, source: str, rows: Iterable[Rows]) -> None:
        """``source`` proposed these rows."""
        self._proposed.update((row.tobytes(), source) for row in rows)

    def expect(self, source: str, rows: Iterable[Rows], scores: Iterable[float], model: int = 0) -> None:
        """What ``source`` expects of rows that are tried next, more being better. Scores of different ``model`` numbers
        are not compared."""
        said = self._expected.setdefault(source, {})
        for row, score in zip(rows, scores):
            said.setdefault(row.tobytes(), (model, float(score)))

    def accuracy(self, source: str, rows: Rows, times: NDArray[np.float64]) -> float | None:
        """Share of pairs of trials (``times`` in seconds, nan for failures, in the order told) that ``source`` ordered
        rightly; None before ``LEAST`` can be judged."""
        said = self._expected.get(source, {})
        keys = [row.tobytes() for row in rows]
        some = [i for i, k in enumerate(keys) if k in said and self._proposed.get(k) != source][-WINDOW:]
        if len(some) < LEAST:
            return None
        model = np.array([said[keys[i]][0] for i in some])
        score = np.array([said[keys[i]][1] for i in some])
        time = np.where(np.isfinite(times[some]), times[some], np.inf)
        faster = (time[:, None] < time[None]) & (model[:, None] == model[None])
        gap = (score[:, None] - score[None])[faster]
        return float(np.mean((gap > 0) + 0.5 * (gap == 0))) if len(gap) else None

    def trusted(self, source: str, rows: Rows, times: NDArray[np.float64]) -> bool:
        """Whether ``source`` has its share."""
        accuracy = self.accuracy(source, rows, times)
        return accuracy is None or accuracy >= CHANCE


def deal(shares: Mapping[str, float], sequence: NDArray[np.float64]) -> dict[str, int]:
    """Slots of each source for the numbers in 0..1 of ``sequence``; what the shares leave of 1 is random's."""
    source = np.searchsorted(np.cumsum(list(shares.values())), sequence, side="right")
    return {name: int((source == i).sum()) for i, name in enumerate(shares)}


def without(shares: Mapping[str, float], lost: Iterable[str]) -> dict[str, float]:
    """The shares when some sources lost theirs: the others, random among them, have these in proportion."""
    gone = set(lost)
    left = 1.0 - sum(share for name, share in shares.items() if name in gone)
    return {name: 0.0 if name in gone else share / left for name, share in shares.items()}
