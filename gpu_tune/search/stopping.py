"""When to stop a search, and which compiled builds to leave out: rules on what was told, without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInput
from ..trial import Candidate, Measurement, Resources

GAIN = 0.005
"""Improvements smaller than this are not gains."""
LEAST = 96
"""Trials without a gain before any stop: time enough for every niche of a stalled search to have had its turn."""
PATIENCE = ((0.30, 0.5), (0.20, 1.5), (0.10, 3.0), (0.05, 5.0))
"""(risk, patience): stop when the trials since the last gain are ``patience`` times those until it. The risk is the
share of runs in which the best at that moment is more than 1 % slower than the best after 200 trials. The figures are
cautious: 43 cold runs on each of 11 development spaces lost 5.9, 5.1, 3.2 and 1.1 %. On spaces that hide a few far
better configs more runs lose. bench.search prints the measured share for any spaces."""
SPILL_BYTES = 64
"""Spilling more than this per thread is a kind of its own."""
KIND_TRIALS, KIND_FACTOR = 4, 1.25
"""A kind of build is left out when this many of it were timed and the best of them was slower than the best by this
factor.
"""


def patience(risk: float) -> float:
    """Trials since the last gain over trials until it at which a run is given up, for a risk in (0, 1); risks beyond
    the calibrated ones count as the nearest of those."""
    if not 0 < risk < 1:
        raise InvalidInput("plateau risk", risk, "is not between 0 and 1", "use 0.05")
    risks, patiences = zip(*reversed(PATIENCE))
    return float(np.interp(math.log(risk), np.log(risks), patiences))


def stopped(times: Sequence[float], risk: float) -> bool:
    """Whether a run with these times (seconds, inf or nan for failures, in order) has reached its plateau."""
    best, last = math.inf, 0
    for i, t in enumerate(times, 1):
        if t < best * (1 - GAIN):
            best, last = float(t), i
    return math.isfinite(best) and len(times) - last >= max(LEAST, patience(risk) * last)


@dataclass(frozen=True)
class KindPruner:
    """A second look at a build, after compiling and before running: '' to measure it, or why it is left out.

    A fixed answer to what was told when it was made, so that a run does not depend on which build is ready first.
    ``slow``: (template, kind of build, reason).
    """

    slow: tuple[tuple[str, str, str], ...] = ()

    def __call__(self, candidate: Candidate, resources: Resources) -> str:
        own = kinds(resources)
        return next((why for name, kind, why in self.slow if name == candidate.template and kind in own), "")

    @classmethod
    def of(cls, told: Sequence[Measurement]) -> KindPruner:
        """What trials say so far of the kinds of builds (spilling, serialised tensor-core instructions)."""
        timed = [(m.candidate.template, kinds(m.resources), m.time) for m in told if m.ok and m.resources is not None]
        best = min((t for _, _, t in timed), default=math.inf)
        groups: dict[tuple[str, str], list[float]] = {}
        for name, own, seconds in timed:
            for kind in own:
                groups.setdefault((name, kind), []).append(seconds)
        return cls(
            tuple(
                (
                    name,
                    kind,
                    f"{kind}: the best of {len(times)} such is {min(times) / best:.2f} times slower than the best",
                )
                for (name, kind), times in sorted(groups.items())
                if len(times) >= KIND_TRIALS and min(times) > KIND_FACTOR * best
            )
        )


def kinds(resources: Resources | None) -> frozenset[str]:
    """What is amiss with a build, as far as its compiler told; trials of one kind are judged together."""
    return frozenset() if resources is None else frozenset(kind for kind, has in _KINDS.items() if has(resources))


_KINDS = {
    "spills registers": lambda r: r.spill_bytes > SPILL_BYTES,
    "tensor-core instructions serialised (ptxas C75xx)": lambda r: bool(r.notes),
}
