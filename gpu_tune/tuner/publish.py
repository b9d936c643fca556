"""What a finals comes to: the verdict as plain data, and the winner that is published with it."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..cuda import nvrtc
from ..kernel.emit import emit
from ..measure.finals import Finals
from ..measure.protocol import Measurer
from ..store.winner import Compiler, Winner
from ..trial import Candidate, Policy
from .budget import Progress

if TYPE_CHECKING:
    from ..search.tuner import Tuner


def make_winner(tuner: Tuner, measurer: Measurer, finals: Finals, progress: Progress, ended: str, seed: int) -> Winner:
    """What is published of finals that have a winner. ``ended``: why the search stopped."""
    chosen = finals.winner
    assert chosen is not None
    build, finalist = measurer.build(chosen), finals.finalist(chosen)
    told = next((m for m in tuner.observations if m.candidate == chosen and m.ok), None)
    limits = progress.budget
    winner = Winner.of(
        build.bound,
        chosen.config,
        build.rendered,
        build.cubin,
        source=progress.source,
        seconds=statistics.median(finalist.samples),
        samples=finalist.samples,
        verdict=verdict_of(finals, tuner.defaults),
        resources=build.resources,
        policy=told.policy if told else Policy(),
        compiler=Compiler("nvrtc", build.nvrtc),
        options=nvrtc.all_options(progress.device.arch),
        environment=dict(finals.environment or (told.environment if told else {})),
        finalists=tuple(c.candidate for c in finals.finalists if c.candidate is not None and c.ok),
        seed=seed,
        trials=progress.trials,
        spent=progress.seconds,
        complete=ended not in ("interrupted", "device lost"),
        budget={
            "trials": limits.trials,
            "seconds": limits.seconds,
            "effort": limits.effort,
            "target": str(limits.target) if limits.target else None,
            "ended": ended,
        },
    )
    return replace(winner, code=emit(winner))


def verdict_of(finals: Finals, defaults: frozenset[Candidate] = frozenset()) -> dict[str, Any]:
    """What finals say, as plain data: ``text`` for people; ``ours`` against the vendor library is ``faster``,
    ``tied``, ``slower`` or ``unknown``; ``ratio`` with its interval; ``default``: the best default config, re-timed."""
    versus = finals.verdict
    ours = "unknown" if versus is None else "faster" if versus.faster else "slower" if versus.slower else "tied"
    verdict: dict[str, Any] = {
        "text": str(finals),
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
        "checks": [
            {"name": k.name, "by": k.by, "ok": k.ok, "detail": k.detail, "workload": k.workload}
            for c in finals.finalists
            if c.candidate == finals.winner
            for k in c.checks
        ],
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
