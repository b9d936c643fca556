"""What is published of a tuning: the winner, and its comparison with the default config and the vendor library."""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..cuda import nvrtc
from ..kernel.emit import duration, emit
from ..measure.finals import Finals
from ..measure.protocol import Build, Measurer
from ..store.winner import Compiler, Winner
from ..trial import Candidate, Policy
from .budget import Progress

if TYPE_CHECKING:
    from ..search.search import Tuner


def make_winner(
    tuner: Tuner, measurer: Measurer, finals: Finals, progress: Progress, ended: str, seed: int
) -> tuple[Winner, Build]:
    """What is published of finals that have a winner, and its build. ``ended``: why the search stopped."""
    chosen = finals.winner
    assert chosen is not None
    build, finalist = measurer.build(chosen), finals.finalist(chosen)
    told = next((m for m in tuner.observations if m.candidate == chosen and m.ok), None)
    winner = Winner.of(
        build.bound,
        chosen.config,
        build.rendered,
        measurer.published(build),
        source=progress.source,
        seconds=statistics.median(finalist.samples),
        samples=finalist.samples,
        host_seconds=finalist.host_seconds or None,
        verdict=verdict_of(finals, tuner.defaults),
        resources=build.resources,
        policy=told.policy if told else Policy(),
        compiler=Compiler("nvrtc", build.nvrtc),
        options=nvrtc.all_options(progress.device.arch),
        prediction=dict(told.prediction) if told else {},
        environment=dict(finals.environment or (told.environment if told else {})),
        finalists=tuple(c.candidate for c in finals.finalists if c.candidate is not None and c.ok),
        seed=seed,
        trials=progress.trials,
        spent=progress.seconds,
        complete=ended not in ("interrupted", "device lost"),
        budget={
            "trials": progress.budget.trials,
            "seconds": progress.budget.seconds,
            "effort": progress.budget.effort,
            "target": str(progress.budget.target) if progress.budget.target else None,
            "ended": ended,
        },
    )
    return replace(winner, code=emit(winner)), build


def verdict_of(finals: Finals, defaults: frozenset[Candidate] = frozenset()) -> dict[str, Any]:
    """What finals say, as plain data: ``text`` for people; ``ours`` against the vendor library is ``faster``,
    ``tied``, ``slower`` or ``unknown``; ``ratio`` with its interval; ``default``: the best default config, re-timed.
    What is compared is time on the device; the text says what issuing one run takes the host, where that was measured.
    """
    versus = finals.verdict
    ours = "unknown" if versus is None else "faster" if versus.faster else "slower" if versus.slower else "tied"
    host = finals.finalist(finals.winner).host_seconds if finals.winner is not None else 0.0
    issuing = f"; issuing a run takes the host {duration(host)}" if host else ""
    verdict: dict[str, Any] = {
        "text": f"{finals} (time on the device{issuing})" if versus is not None else str(finals),
        "ours": ours,
        "vendor": finals.vendor,
        "rule": finals.rule,
        "noise_floor": finals.noise_floor,
        "rounds": finals.rounds,
        "tied": len(finals.tied),
        "finalists": [
            {
                "name": c.name,
                "label": c.label,
                "seconds": statistics.median(c.samples) if c.samples else None,
                "status": c.status,
                "reason": c.reason,
            }
            for c in finals.finalists
        ],
        "checks": [asdict(check) for c in finals.finalists if c.candidate == finals.winner for check in c.checks],
    }
    if versus is not None:
        verdict.update(ratio=versus.ratio, low=versus.low, high=versus.high, confidence=versus.confidence)
    timed = [c for c in finals.finalists if c.candidate in defaults and c.ok]
    if timed:
        default = min(timed, key=lambda c: statistics.median(c.samples))
        against = finals.comparisons.get(default.name)
        verdict["default"] = {
            "name": default.name,
            "seconds": statistics.median(default.samples),
            "speedup": against.ratio if against else 1.0,
            "text": str(against) if against else "is the winner",
        }
    return verdict
