"""On which public timings the model was judged, and how well it did: the kinds of kernel whose seconds are told.

``judged.json`` beside this file is written by ``python -m bench.performance_model``; it holds what was measured there.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from ...text import from_json

FILE = Path(__file__).with_name("judged.json")


@dataclass(frozen=True)
class Interval:
    """Measured times lie between ``low`` and ``high`` times the predicted one where ``limiter`` is its largest cause
    ("": one that has no interval of its own): nine of ten of the timings that set the width, and ``coverage`` of the
    ``times`` that judged it."""

    limiter: str
    low: float
    high: float
    times: int
    coverage: float


@dataclass(frozen=True)
class Judgement:
    """How the model did on one kind of kernel.

    A kind: ``op`` on compute capability ``cc`` with inputs of one of ``dtypes``, whose arithmetic is ``instruction``
    (``mma``, ``wgmma`` or ``fma``) and whose operands are fetched by ``copies`` (``cp.async``, ``tma`` or ``plain``).
    Judged on ``shapes`` held-out (``split``) shapes of ``timings`` on ``chip``: best / best of the first k picks
    (``top1``, ``top3``, ``top5``: geometric means) and the mean ``rank_correlation``. ``intervals``: by what limits a
    predicted time. ``openings``: how often these shapes were judged, this time included; ``blind``: whether what the
    model says of this kind has not changed since the first time.
    """

    cc: int
    op: str
    instruction: str
    copies: str
    dtypes: tuple[str, ...]
    chip: str
    timings: str
    shapes: int
    split: str
    top1: float
    top3: float
    top5: float
    rank_correlation: float
    intervals: tuple[Interval, ...]
    date: str
    openings: int = 1
    blind: bool = True

    def interval(self, limiter: str) -> Interval | None:
        """Of times that ``limiter`` limits; None where none was judged."""
        rows = {row.limiter: row for row in self.intervals}
        return rows.get(limiter, rows.get(""))

    def words(self, limiter: str) -> str:
        """One sentence, for a prediction that ``limiter`` limits."""
        found = (
            f"judged on {self.shapes} shapes of {self.timings} on {self.chip}{self._seen()}: "
            f"first pick {self.top1:.2f} of the optimum, best of three {self.top3:.2f}, "
            f"rank correlation {self.rank_correlation:.2f}"
        )
        if (row := self.interval(limiter)) is None:
            return found
        where = f"where {row.limiter} limits, " if row.limiter else ""
        return (
            f"{found}; {where}measured times lie between {row.low:.2f} and {row.high:.2f} of the predicted ones in "
            f"{row.coverage:.0%}"
        )

    def _seen(self) -> str:
        return "" if self.blind else f" (not blind: judged {self.openings} times, and the model changed in between)"


@functools.cache
def judgements() -> tuple[Judgement, ...]:
    """All kinds that were judged."""
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    return tuple(from_json(Judgement, row, name="judgement") for row in rows)


def find(cc: int, op: str, instruction: str, copies: str, dtype: str) -> Judgement | None:
    """The judgement of a kind of kernel, None where it was not judged."""
    for row in judgements():
        if (row.cc, row.op, row.instruction, row.copies) == (cc, op, instruction, copies) and dtype in row.dtypes:
            return row
    return None
