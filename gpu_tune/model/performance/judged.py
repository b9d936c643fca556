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
class Judgement:
    """How the model did on one kind of kernel.

    A kind: ``op`` on compute capability ``cc`` with inputs of one of ``dtypes``, whose arithmetic is ``instruction``
    (``mma``, ``wgmma`` or ``fma``) and whose operands are fetched by ``copies`` (``cp.async``, ``tma`` or ``plain``).
    Judged on ``shapes`` held-out (``split``) shapes of ``timings`` on ``chip``: best / best of the first k picks
    (``top1``, ``top3``, ``top5``: geometric means) and the mean ``rank_correlation``. ``low`` and ``high``: factors of
    a predicted time between which measured ones lie, ``coverage`` of them.
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
    low: float
    high: float
    coverage: float
    date: str

    def __str__(self) -> str:
        return (
            f"judged on {self.shapes} shapes of {self.timings} on {self.chip}: first pick {self.top1:.2f} of the "
            f"optimum, best of three {self.top3:.2f}, rank correlation {self.rank_correlation:.2f}; measured times lie "
            f"between {self.low:.2f} and {self.high:.2f} of the predicted ones in {self.coverage:.0%}"
        )


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
