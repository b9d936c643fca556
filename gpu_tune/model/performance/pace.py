"""How a kernel's resident blocks proceed: through the first iterations of the main loop, a later one, and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FIRST, LAST = 12, 24
"""The pace is taken between these iterations: earlier ones still fill queues."""


@dataclass(frozen=True, eq=False)
class Pace:
    """``passed``: cycles until the first iterations are done, from none (0) on; ``tail``: from the last one's end to
    the end of the blocks; ``iteration``: of one of the later ones. ``causes``: of an iteration, by CAUSES,
    ``rest_causes``: of everything else. ``shares``: of the main loop's time that each unit works."""

    passed: NDArray[np.float64]
    tail: float
    iteration: float
    causes: NDArray[np.float64]
    rest_causes: NDArray[np.float64]
    shares: NDArray[np.float64]

    def cycles(self, trips: float) -> float:
        """Of blocks that run the loop ``trips`` times: the first iterations as played, the others at the steady
        pace."""
        known = len(self.passed) - 1
        if trips >= known:
            return float(self.passed[known] + (trips - known) * self.iteration + self.tail)
        done = int(trips)
        before, after = self.passed[done : done + 2].tolist()
        return (after - before) * (trips - done) + before + self.tail

    @property
    def rest(self) -> float:
        """Cycles of everything but steady iterations."""
        known = len(self.passed) - 1
        return max(0.0, self.cycles(known) - known * self.iteration)

    def between(self, other: Pace, share: float) -> Pace:
        """The pace at ``share`` of the way to ``other``."""
        known = max(len(self.passed), len(other.passed))
        pairs = zip(vars(self._to(known)).values(), vars(other._to(known)).values())
        return Pace(*(a + share * (b - a) for a, b in pairs))

    def _to(self, known: int) -> Pace:
        """The same with ``known`` passed times."""
        if known == len(self.passed):
            return self
        more = self.passed[-1] + self.iteration * np.arange(1, known - len(self.passed) + 1)
        return replace(self, passed=np.concatenate([self.passed, more]))
