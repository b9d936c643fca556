"""What tuning a workload with an open size does at one size: a search, finals alone, or seeds that are only played."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..cuda import nvrtc
from ..errors import CompilerMissing, StoreError
from ..measure.compiling import builds_of
from ..measure.predicted import PredictedMeasurer
from ..measure.protocol import Build
from ..paths import root
from ..store.records import Record
from ..templates.base import Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..trial import PREDICTED, Candidate, Measurement
from .budget import Budget, OnTrial, Progress
from .foresee import predicted_trial
from .search_run import Found, SearchRun
from .size_choice import SizedKernel, usual_error

RIVALS = 12
"""The fastest trials of a searched size that compete at other sizes."""


@dataclass(frozen=True)
class SizeRuns:
    """Searches and finals of one tuning, by size (see :class:`.sizes.SizeSearch`); their trials are added to those of
    all sizes ``together``."""

    run: SearchRun
    together: Progress
    templates: Mapping[str, Template] | None
    tell: OnTrial

    def bound(self, size: int) -> list[BoundTemplate]:
        return bind(self.together.workload, self.run.device, self.templates, size)

    def search(self, size: int, budget: Budget, known: Sequence[SizedKernel]) -> Found:
        bound, so_far = self.bound(size), self._progress(size, budget)
        own = [k for k in known if size not in k.timed and self.allows(size, k.candidate)]
        trials = sorted(self._known(size, own), key=lambda m: (-m.time, m.candidate.key))
        try:
            return self.run.search(bound, so_far, self.tell, known=trials, rivals=RIVALS)
        finally:
            self.together.trials += so_far.trials
            self.together.resumed += so_far.resumed
            self.together.statuses += so_far.statuses

    def confirm(self, size: int, kernels: Sequence[SizedKernel]) -> Found:
        progress = self._progress(size, self.run.budget)
        candidates = [k.candidate for k in kernels]
        return self.run.confirm(self.bound(size), candidates, progress, self.tell, list(self._known(size, kernels)))

    def allows(self, size: int, candidate: Candidate) -> bool:
        return any(b.name == candidate.template and not b.violations(candidate.config) for b in self.bound(size))

    def scouts(self, sizes: Sequence[int], known: Iterable[Candidate], most: int, seconds: float) -> list[Build]:
        """Nothing where kernels are compiled elsewhere, or not at all. What is predicted of them is recorded."""
        if self.run.cluster is not None or not nvrtc.available():
            return []
        proposed = list(itertools.islice(self._seeds(sizes, set(known)), most))
        found: list[Build] = []
        with PredictedMeasurer(self.bound(sizes[-1]), store=root(), jobs=self.run.jobs) as measurer:
            self.tell(self.together)
            with contextlib.suppress(CompilerMissing):
                found.extend(builds_of(proposed, measurer.pool, seconds))
        name = f"{time.time():.3f}-{uuid.uuid4().hex[:12]}"
        playable = []
        for build in sorted(found, key=lambda b: b.candidate.key):
            trial = predicted_trial(build)
            if trial is None:
                continue
            playable.append(build)
            with contextlib.suppress(StoreError):  # the searches have said so
                bound = build.bound
                self.run.records.append(Record(bound.computed, bound.device.chip, bound.hash, trial, time.time(), name))
        if self.run.source == PREDICTED:
            self.together.trials += len(playable)
            self.together.statuses["ok"] += len(playable)
        return playable

    def builds(self, pairs: Sequence[tuple[int, Candidate]]) -> list[Build]:
        """Nothing where kernels are compiled elsewhere, or not at all."""
        if self.run.cluster is not None or not nvrtc.available() or not pairs:
            return []
        bound = {(size, b.name): b for size in {size for size, _ in pairs} for b in self.bound(size)}
        known = [(bound[size, c.template], c) for size, c in pairs if (size, c.template) in bound]
        with PredictedMeasurer(self.bound(pairs[0][0]), store=root(), jobs=self.run.jobs) as measurer:
            return sorted(builds_of(known, measurer.pool), key=lambda b: b.candidate.key)

    def _seeds(self, sizes: Sequence[int], known: set[Candidate]) -> Iterator[tuple[BoundTemplate, Candidate]]:
        """Defaults and seeds for ``sizes``, new ones: the best of every size and family, then the next of each."""
        queues = []
        for size in sizes:
            for bound in self.bound(size):
                space = bound.space()
                named = [c for c in (space.default(), *space.seeds()) if c is not None]
                queues.append([(bound, Candidate(bound.name, c)) for c in dict.fromkeys(named)])
        for turn in itertools.zip_longest(*queues):
            for pair in turn:
                if pair is not None and pair[1] not in known:
                    known.add(pair[1])
                    yield pair

    def _known(self, size: int, kernels: Sequence[SizedKernel]) -> Iterator[Measurement]:
        """What is expected of ``kernels`` at ``size``, as trials that nobody records."""
        usual = usual_error(kernels)
        for kernel in kernels:
            seconds = kernel.expected(size, usual)
            if math.isfinite(seconds):
                yield Measurement(
                    kernel.candidate,
                    "ok",
                    self.run.source,
                    samples=(seconds,),
                    policy=kernel.policy,
                    resources=kernel.build.resources,
                    environment={"nvrtc": kernel.build.nvrtc, "chip": self.run.device.chip},
                    prediction=kernel.played(size).terms(),
                )

    def _progress(self, size: int, budget: Budget) -> Progress:
        workload = self.together.workload
        told = f"{workload.openable}={size}"
        return Progress(workload.at(size), self.run.device, self.run.source, budget, size=told)
