"""How long a kernel may run, and when the failures of a template have cost enough: time on a rented GPU is short."""

from __future__ import annotations

import threading
from collections import Counter

from ..workload import Workload

HANGS, LOSSES = 3, 8
"""A template is given up for a workload when so many of its configs hung, or took the child down, and a quarter did."""


def run_seconds(workload: Workload) -> float:
    """Seconds after which a kernel hangs: ten runs at 1 TFLOP/s, and 6 for all else; 20 at most."""
    return min(20.0, 6.0 + workload.flops / 1e11)


class Patience:
    """How the configs of each template ended, and whether any more of it are worth running."""

    def __init__(self) -> None:
        self._ran, self._hung, self._lost = Counter[str](), Counter[str](), Counter[str]()
        self._lock = threading.Lock()

    def note(self, template: str, *, lost: bool = False, hung: bool = False, count: int = 1) -> None:
        """``count`` configs of ``template`` were run; ``lost``: they took the child down, by hanging or otherwise."""
        with self._lock:
            self._ran[template] += count
            self._lost[template] += count * lost
            self._hung[template] += count * hung

    def over(self, template: str) -> str:
        """Why no more of ``template`` is run: one that hangs costs seconds, and it may be broken here. Else empty."""
        ran, hung, lost = self._ran[template], self._hung[template], self._lost[template]
        if (hung < HANGS and lost < LOSSES) or 4 * lost < ran:
            return ""
        return f"{lost} of {ran} configs of {template} hung or took their process down: no more of it are run here"
