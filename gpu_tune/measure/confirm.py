"""From interleaved rounds to a winner: the same rules for every measurer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..trial import Resources
from . import statistics
from .base import Confirmation, Contender

RULE = (
    "fastest by the median over rounds; among those no different from it: fewer spilled bytes, less shared memory, "
    "fewer registers, then the first in alphabetical order"
)


def conclude(
    source: str,
    contenders: Sequence[Contender],
    again: Mapping[str, Sequence[float]],
    resources: Mapping[str, Resources | None],
    environment: Mapping[str, Any] | None = None,
) -> Confirmation:
    """The confirmation that ``contenders`` (with one sample a round each) give.

    ``again``: a second series of the same rounds for some contenders, by name; that of the fastest candidate gives the
    noise floor. Only contenders that are ``ok`` compete; nobody wins when none is.
    """
    held = {c.name: c for c in contenders if c.ok}
    ours = [c for c in held.values() if c.candidate is not None]
    rounds = len(ours[0].samples) if ours else 0
    if not ours:
        return Confirmation(source, tuple(contenders), None, rule=RULE, environment=dict(environment or {}))
    order = statistics.rank({c.name: c.samples for c in ours})
    fastest = held[order[0]]
    floor = statistics.noise_floor(fastest.samples, again[fastest.name]) if fastest.name in again else 0.0
    tied = [fastest] + [
        c
        for c in ours
        if c is not fastest and not statistics.compare(fastest.samples, c.samples, noise_floor=floor).decided
    ]
    winner = min(tied, key=lambda c: (_weight(resources.get(c.name)), c.name))
    comparisons = {
        c.name: statistics.compare(winner.samples, c.samples, noise_floor=floor)
        for c in held.values()
        if c is not winner
    }
    vendors = [c for c in held.values() if c.candidate is None]
    vendor = statistics.rank({c.name: c.samples for c in vendors})[0] if vendors else ""
    return Confirmation(
        source,
        tuple(contenders),
        winner.candidate,
        tuple(c.candidate for c in tied if c.candidate),
        RULE,
        comparisons,
        floor,
        rounds,
        comparisons[vendor] if vendor else None,
        vendor,
        dict(environment or {}),
    )


def _weight(taken: Resources | None) -> tuple[int, int, int]:
    if taken is None:
        return (0, 0, 0)
    return taken.spill_bytes, taken.static_shared_bytes + taken.dynamic_shared_bytes, taken.registers
