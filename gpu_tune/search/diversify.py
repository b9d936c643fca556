"""Niches: where a stalled search looks besides.

A model fitted to the trials of one basin denies the others, and every further trial there makes it surer. So, once the
best has not improved for a while, part of each batch goes to configs that do *not* share what the best trials agree on:
one knob's commonest value among them is shut out, for each knob in turn, those first on which they agree most. Inside
such a niche models are fitted to its own trials alone, on the scale of its own best, and parents are its own: a narrow
basin beside a broad plateau of near-equals is found because the plateau, for once, is out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..space.grid import Rows
from ..space.knob import Knob


@dataclass(frozen=True)
class Niche:
    """The rows whose knob ``column`` does not have the value of index ``shut``."""

    column: int
    shut: int

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the rows lie inside, (n,)."""
        return np.asarray(rows[:, self.column] != self.shut)


def niches(knobs: tuple[Knob, ...], rows: Rows, times: NDArray[np.float64], leaders: int) -> list[Niche]:
    """The niches of a search whose trials ended like this (``rows`` (n, knobs), ``times`` (n,) seconds, nan for
    failures): one for each knob that was tried with two values, by how many of the ``leaders`` fastest share the value
    shut out, most first, then by how few values the knob has."""
    timed = np.flatnonzero(np.isfinite(times))
    best = rows[timed[np.argsort(times[timed], kind="stable")[:leaders]]]
    found: list[tuple[int, int, Niche]] = []
    for column, knob in enumerate(knobs):
        if len(best) and len(np.unique(rows[timed, column])) > 1:
            values, counts = np.unique(best[:, column], return_counts=True)
            commonest = int(np.argmax(counts))
            found.append((-int(counts[commonest]), len(knob.values), Niche(column, int(values[commonest]))))
    return [niche for *_, niche in sorted(found, key=lambda f: f[:2])]
