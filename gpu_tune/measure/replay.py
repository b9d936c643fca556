"""Answering from recorded measurements: search, measuring loop and statistics without a GPU and without a compiler.

Every repeat that was recorded of a candidate is kept, and finals draw from them: the noise is the recorder's.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from ..errors import InvalidInput, MeasureError
from ..templates.bound import BoundTemplate
from ..trial import REPLAYED, Candidate, Measurement, Pruner, Resources
from .finals import ROUNDS, Finalist, Finals, conclude
from .protocol import Build, Measurer


class ReplayMeasurer(Measurer):
    """A candidate that was not recorded ends as ``invalid``.

    ``recorded`` may hold a candidate more than once: samples are joined, and the last status counts. Replayed
    measurements say so (``source``), with ``environment["recorded"]`` telling what they were.
    """

    source = REPLAYED

    def __init__(self, bound: Sequence[BoundTemplate], recorded: Iterable[Measurement], *, seed: int = 0) -> None:
        self.bound = {b.name: b for b in bound}
        self.workload, self.device, self.seed = bound[0].workload, bound[0].device, seed
        self._recorded: dict[Candidate, Measurement] = {}
        for m in recorded:
            before = self._recorded.get(m.candidate)
            samples = (*before.samples, *m.samples) if before is not None and m.ok else m.samples
            environment = {**m.environment, "recorded": m.environment.get("recorded", m.source)}
            self._recorded[m.candidate] = replace(m, samples=samples, source=REPLAYED, environment=environment)
        if not self._recorded:
            raise InvalidInput("replay", ..., "has no recorded measurements", "name a file that holds trials")
        self._closed = False

    def submit(self, candidate: Candidate, pruner: Pruner | None = None) -> Future[Measurement]:
        """A future that is already done; nothing is built, so there is nothing to prune."""
        if self._closed:
            raise MeasureError("the measurer is closed; open another one")
        future: Future[Measurement] = Future()
        known = self._recorded.get(candidate)
        future.set_result(known or Measurement(candidate, "invalid", REPLAYED, "was not recorded"))
        return future

    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """Rounds drawn from each candidate's recorded samples; nothing is run, so there are no checks."""
        finalists, again, taken = [], {}, dict[str, Resources | None]()
        for candidate in dict.fromkeys(candidates):
            m = self.submit(candidate).result()
            name = candidate.key
            if not m.ok:
                finalists.append(Finalist(name, candidate, status=m.status, reason=m.reason))
                continue
            digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
            drawn = rng.choice(m.samples, (2, rounds))
            finalists.append(Finalist(name, candidate, tuple(map(float, drawn[0]))))
            again[name], taken[name] = tuple(map(float, drawn[1])), m.resources
        return conclude(REPLAYED, finalists, again, taken, {"replayed": True, "device": self.device.name})

    def build(self, candidate: Candidate) -> Build:
        """Rendered and compiled now, where the candidate's template is installed; InvalidInput where it is not."""
        from .compile import CompilePool
        from .compiling import build

        if candidate.template not in self.bound:
            raise InvalidInput("template", candidate.template, f"does not compute {self.workload.key}, or is unknown")
        with contextlib.closing(CompilePool(None, 1)) as pool:
            return build(self.bound[candidate.template], candidate, pool)

    def close(self) -> None:
        """Nothing to end; further submissions are refused."""
        self._closed = True
