"""What a confirmation comes to: the verdict as plain data, and the winner that is published with it."""

from __future__ import annotations

import statistics
import time
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


def make_winner(
    tuner: Tuner, measurer: Measurer, confirmation: Finals, progress: Progress, ended: str, seed: int
) -> Winner:
    """What is published of a confirmation that has a winner. ``ended``: why the search stopped."""
    chosen = confirmation.winner
    assert chosen is not None
    build, contender = measurer.build(chosen), confirmation.contender(chosen)
    variant, device = tuner.variants[chosen.template], progress.device
    seconds, created = statistics.median(contender.samples), time.time()
    options, verdict = nvrtc.all_options(build.arch), verdict_of(confirmation, tuner.defaults)
    code = emit(
        build.source,
        workload=progress.workload,
        computed=build.workload,
        template=chosen.template,
        template_hash=variant.template.hash(),
        config=chosen.config,
        plan=build.plan,
        chip=device.chip,
        arch=build.arch,
        options=options,
        source=progress.source,
        seconds=seconds,
        verdict=verdict["text"],
        created=created,
    )
    limits = progress.budget
    told = next((m for m in tuner.observations if m.candidate == chosen and m.ok), None)
    return Winner(
        workload=progress.workload,
        chip=device.chip,
        device=device.name,
        arch=build.arch,
        template=chosen.template,
        template_hash=variant.template.hash(),
        config=chosen.config,
        plan=build.plan,
        code=code,
        cubin=build.cubin,
        source=progress.source,
        seconds=seconds,
        samples=contender.samples,
        view=build.view,
        verdict=verdict,
        resources=build.resources,
        policy=told.policy if told else Policy(),
        compiler=Compiler("nvrtc", build.nvrtc),
        options=options,
        environment=dict(confirmation.environment or (told.environment if told else {})),
        finalists=tuple(c.candidate for c in confirmation.contenders if c.candidate is not None and c.ok),
        seed=seed,
        trials=progress.trials,
        spent=progress.seconds,
        complete=ended not in ("interrupted", "device lost"),
        created=created,
        budget={
            "trials": limits.trials,
            "seconds": limits.seconds,
            "effort": limits.effort,
            "target": str(limits.target) if limits.target else None,
            "ended": ended,
        },
    )


def verdict_of(confirmation: Finals, defaults: frozenset[Candidate] = frozenset()) -> dict[str, Any]:
    """What a confirmation says, as plain data: ``text`` for people; ``ours`` against the vendor library is ``faster``,
    ``tied``, ``slower`` or ``unknown``; ``ratio`` with its interval; ``default``: the best default config, re-timed."""
    versus = confirmation.verdict
    ours = "unknown" if versus is None else "faster" if versus.faster else "slower" if versus.slower else "tied"
    verdict: dict[str, Any] = {
        "text": str(confirmation),
        "ours": ours,
        "vendor": confirmation.vendor,
        "rule": confirmation.rule,
        "noise_floor": confirmation.noise_floor,
        "rounds": confirmation.rounds,
        "tied": len(confirmation.tied),
        "contenders": [
            {
                "name": c.name,
                "label": c.label,
                "seconds": statistics.median(c.samples) if c.samples else None,
                "status": c.status,
                "reason": c.reason,
            }
            for c in confirmation.contenders
        ],
        "checks": [
            {"name": k.name, "by": k.by, "ok": k.ok, "detail": k.detail, "workload": k.workload}
            for c in confirmation.contenders
            if c.candidate == confirmation.winner
            for k in c.checks
        ],
    }
    if versus is not None:
        verdict.update(ratio=versus.ratio, low=versus.low, high=versus.high, confidence=versus.confidence)
    timed = [c for c in confirmation.contenders if c.candidate in defaults and c.ok]
    if timed:
        default = min(timed, key=lambda c: statistics.median(c.samples))
        against = confirmation.comparisons.get(default.name)
        verdict["default"] = {
            "name": default.name,
            "seconds": statistics.median(default.samples),
            "speedup": against.ratio if against else 1.0,
            "text": str(against) if against else "is the winner",
        }
    return verdict
