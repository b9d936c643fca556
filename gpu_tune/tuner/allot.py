"""Which of several workloads gets the next trials of one budget: the one from which they are expected to gain most.

A pure function of what is known of each. What further trials gain is expected by a law of how far the best of n trials
is from the best there is, read off searches of recorded spaces, and corrected by what the last trials of that very
workload did gain. Gains are seconds of the whole they belong to, a forward pass of a model: a workload that is called
often, or takes long, earns more of the budget; where the vendor's kernel is faster, ours gains nothing before it is
beaten.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

DISTANCE, AT, DECAY = 0.149, 25, 1.4
"""After AT trials the best is DISTANCE slower than the optimum, and that falls with trials**-DECAY: the search reached
0.87, 0.94 and 0.98 of the optimum's speed after 25, 50 and 100 trials of recorded spaces (mean over ten)."""
PRIOR = 0.02
"""Gain that the law is believed to have foreseen before anything was observed: what it weighs against observations."""
MEMORY = 0.5
"""How much an observed gain counts less for each slice that came after it."""
FIRST = 16
"""Trials of a workload's first slice, and of a later one at least."""
GROWTH = 0.5
"""A later slice, as a share of the trials so far: few slices, and none that goes on long without a gain."""
BEHIND = 0.05
"""What a gain counts while ours is not expected to pass the vendor's kernel: the expectation may be wrong."""


@dataclass(frozen=True)
class Standing:
    """What is known of one workload. ``weight``: its calls in one pass. ``curve``: (trials, seconds of the best) after
    each slice. ``vendor``: seconds of the fastest vendor kernel where it was timed. ``cost``: what a trial takes of the
    budget (seconds, or 1 where trials are counted). ``over``: nothing is left to try."""

    weight: float
    curve: tuple[tuple[int, float], ...] = ()
    vendor: float | None = None
    cost: float = 1.0
    over: bool = False

    @property
    def trials(self) -> int:
        return self.curve[-1][0] if self.curve else 0


def distance(trials: int) -> float:
    """How much slower the best of so many trials is than the optimum, as a share of the optimum's time."""
    return float(DISTANCE * (AT / max(trials, 1)) ** DECAY)


def correction(standing: Standing) -> float:
    """By what factor this workload gains more or less than the law says, judged by its slices, the last ones most."""
    expected = gained = PRIOR
    for (before, slow), (after, fast) in itertools.pairwise(standing.curve):
        expected = expected * MEMORY + _foreseen(before, after)
        gained = gained * MEMORY + (slow - fast) / slow
        expected, gained = expected + PRIOR * (1 - MEMORY), gained + PRIOR * (1 - MEMORY)
    return gained / expected


def gain(standing: Standing, trials: int) -> float:
    """Seconds of a pass that so many further trials are expected to gain."""
    if standing.over or not standing.curve:
        return 0.0
    now, best = standing.curve[-1]
    factor = correction(standing)
    final = best / (1 + factor * distance(now))
    part = 1 - distance(now + trials) / distance(now)  # of what is left to gain
    used = best if standing.vendor is None else min(best, standing.vendor)
    reachable = max(used - final, BEHIND * (best - final))
    return standing.weight * reachable * part


def slice_of(standing: Standing) -> int:
    """Trials of the next slice."""
    return max(FIRST, int(GROWTH * standing.trials))


def choose(standings: Sequence[Standing]) -> int | None:
    """The workload that gets the next slice: the most gain for what it costs; None where nothing is left to gain.

    A workload without a trial comes before all others, the first of several."""
    untried = next((i for i, s in enumerate(standings) if not s.curve and not s.over), None)
    if untried is not None:
        return untried
    worth = [gain(s, n) / (n * s.cost) for s, n in ((s, slice_of(s)) for s in standings)]
    best = max(range(len(worth)), key=lambda i: worth[i], default=None)
    return None if best is None or worth[best] <= 0 else best


def _foreseen(before: int, after: int) -> float:
    """The gain that the law foresees between two numbers of trials, as a share of the time before."""
    return (distance(before) - distance(after)) / (1 + distance(before))
