"""What earlier runs measured, taken in by a new one, and whether a stored winner's times still hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from ..cuda import nvrtc
from ..store.records import Record
from ..store.winner import Winner
from ..templates.bound import BoundTemplate
from ..trial import MEASURED, Measurement
from .budget import Progress

if TYPE_CHECKING:
    from ..search.search import Tuner


def outdated(winner: Winner, drivers: Collection[str]) -> bool:
    """Whether a measured winner was timed under another driver than the ``drivers`` of where it would be timed."""
    then = winner.environment.get("driver", "")
    return winner.source == MEASURED and bool(winner.finalists) and bool(then) and then not in drivers


def comparable(m: Measurement, drivers: Collection[str], elsewhere: bool) -> bool:
    """Whether an earlier trial's time may stand beside new ones: the same driver and, where it was compiled here, the
    same NVRTC release. Those of other circumstances still teach the models.
    """
    driver, compiler = m.environment.get("driver", ""), m.environment.get("nvrtc", "")
    same = elsewhere or not compiler or compiler == nvrtc.identity()
    return same and (m.source != MEASURED or not driver or driver in drivers)


def resume(tuner: Tuner, history: Sequence[Record], bound: Sequence[BoundTemplate], progress: Progress) -> None:
    """Take in what earlier runs measured for exactly this choice: templates as they are now, this workload and chip."""
    now, chip = {(b.hash, b.computed) for b in bound}, progress.device.chip
    mine = [r for r in history if r.chip == chip and (r.template_hash, r.workload) in now]
    spaces = {s.name: s for s in tuner.spaces}
    last = {c: r for r in mine if (c := r.measurement.candidate).config in spaces[c.template]}
    for r in last.values():
        progress.note(r.measurement, tuner.defaults)
    progress.resumed = len(last)
    progress.earlier_seconds = seconds_of(last.values())
    tuner.tell(r.measurement for r in last.values())


def seconds_of(records: Iterable[Record]) -> float:
    """Wall time of the runs that made these records, each from its start to the last of them."""
    spans: dict[str, tuple[float, float]] = {}
    for r in records:
        begun = re.match(r"\d{1,12}(\.\d+)?(?=-)", r.run)
        start = min(float(begun[0]), r.time) if begun else r.time
        spans[r.run] = (start, max(r.time, spans.get(r.run, (0.0, 0.0))[1]))
    return sum(end - start for start, end in spans.values())
