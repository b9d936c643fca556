"""When to stop a search, and which compiled builds to leave out: rules on what was told, without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .errors import InvalidInput
from .trial import Candidate, Measurement, Resources

GAIN = 0.005
"""Improvements smaller than this are not gains."""
LEAST = 96
"""Trials without a gain before any stop: the search forgets after half of them, and what it then finds must have
time.
"""
PATIENCE = ((0.30, 0.5), (0.20, 1.5), (0.10, 3.0), (0.05, 5.0))
"""(risk, patience): stop when the trials since the last gain are ``patience`` times those until it. The risk is the
share of runs in which the best at that moment is more than 1 % slower than the best after 200 trials: 29, 21 and 8 %
for patience 0.5, 1.5 and 3 in 24 cold runs on six recorded spaces; the last point is extrapolated. Provisional: on
spaces that hide a few far better configs more runs lose. bench/search.py prints the measured share for any spaces."""
SPILL_BYTES = 64
"""Spilling more than this per thread is a class of its own."""
CLASS_TRIALS, CLASS_FACTOR = 4, 1.25
"""A class of builds is left out when this many of it were timed and the best of them was slower than the best by this
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


def screened(builds: Sequence[tuple[Candidate, Resources]], told: Sequence[Measurement]) -> list[str]:
    """For each build '' or the reason not to measure it."""
    timed = [m for m in told if m.ok and m.resources is not None]
    if not timed:
        return [""] * len(builds)
    best = min(m.time for m in timed)
    reasons: list[str] = []
    for candidate, resources in builds:
        reason = ""
        for name, has in _CLASSES.items():
            peers = [
                m.time for m in timed if m.candidate.template == candidate.template and m.resources and has(m.resources)
            ]
            if has(resources) and len(peers) >= CLASS_TRIALS and min(peers) > CLASS_FACTOR * best:
                reason = f"{name}: the best of {len(peers)} is {min(peers) / best:.2f} times slower than the best"
        reasons.append(reason)
    allowed = len(builds) // 2
    for i, reason in enumerate(reasons):
        if reason and allowed == 0:
            reasons[i] = ""
        allowed -= bool(reason) and allowed > 0
    return reasons


_CLASSES = {
    "spills registers": lambda r: r.spill_bytes > SPILL_BYTES,
    "tensor-core instructions serialised (ptxas C75xx)": lambda r: bool(r.notes),
}
