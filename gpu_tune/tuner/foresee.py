"""Before the first batch of a workload without records on the chip: configs are compiled and played, from all over the
space and, where other records teach something, those that they expect most of.

What the performance model says of them is told to the search as data and kept among the predicted records, so that the
search stays a pure function of what it was told and a replay needs no compiler.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import StoreError
from ..measure.compiling import CompilingMeasurer, prediction_of
from ..measure.protocol import Build
from ..space.knob import Config
from ..space.space import Space
from ..store.records import Record, Records
from ..templates.bound import BoundTemplate
from ..trial import PREDICTED, Candidate, Measurement, Policy
from .budget import EFFORTS

if TYPE_CHECKING:
    from ..search.search import Search

MOST = 128
"""Configs played at most; half as many where records of the chip teach something already."""
SHARE = 0.25
"""Of a budget of seconds, at most, spent before the first config is timed."""
_DRAWN = 4
"""Configs drawn for each that is played, enough to choose tiles from; and configs played for each trial at most."""


def spread(
    spaces: Sequence[Space], most: int, seed: int, hopeful: Mapping[str, Sequence[Config]] | None = None
) -> list[Candidate]:
    """Up to ``most`` candidates, the spaces in turn: defaults and seeds, then random configs, each tile in turn, and
    every other one of those that are ``hopeful``, by space."""
    queues = []
    for space in spaces:
        rng = np.random.default_rng([seed, *space.name.encode()])
        named = [c for c in (space.default(), *space.seeds()) if c is not None]
        drawn = space.sample(_DRAWN * most // len(spaces), rng)
        tiles: dict[object, list[Candidate]] = {}
        for config in drawn:
            tiles.setdefault(space.tile(config), []).append(Candidate(space.name, config))
        rounds = [c for c in itertools.chain.from_iterable(itertools.zip_longest(*tiles.values())) if c is not None]
        better = [Candidate(space.name, c) for c in (hopeful or {}).get(space.name, ())]
        queues.append([Candidate(space.name, c) for c in named] + [c for c in _merged(better, rounds) if c is not None])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return list(dict.fromkeys(c for c in turns if c is not None))[:most]


def _merged(*queues: Sequence[Candidate]) -> Iterable[Candidate | None]:
    return itertools.chain.from_iterable(itertools.zip_longest(*queues))


def foresee(
    candidates: Sequence[Candidate], measurer: CompilingMeasurer, seconds: float
) -> dict[Candidate, Measurement]:
    """Predictions of as many ``candidates`` as compile within ``seconds``, as predicted trials."""
    found: dict[Candidate, Measurement] = {}
    for build in measurer.builds(candidates, seconds):
        trial = predicted_trial(build)
        if trial is not None:
            found[build.candidate] = trial
    return found


def predicted_trial(build: Build) -> Measurement | None:
    """What the performance model says of ``build``, as a trial; None where the device cannot run it."""
    prediction = prediction_of(build)
    if not prediction.resident:
        return None
    return Measurement(
        build.candidate,
        "ok",
        PREDICTED,
        samples=(prediction.seconds,),
        policy=Policy(mode="model", repeats=1),
        resources=build.resources,
        environment={"nvrtc": build.nvrtc, "chip": build.bound.device.chip},
        cubin_hash=build.hash,
        seconds=build.seconds,
        prediction=prediction.terms(),
    )


def keep(found: Iterable[Measurement], measurer: CompilingMeasurer, records: Records, run: str) -> None:
    """Append them to the records; StoreError when they cannot be written."""
    for m in found:
        bound = measurer.bound[m.candidate.template]
        records.append(Record(bound.computed, bound.device.chip, bound.hash, m, time.time(), run))


def known(measurer: CompilingMeasurer, records: Records) -> dict[Candidate, Measurement]:
    """What earlier runs predicted of exactly these bound templates."""
    now = {(b.hash, b.computed) for b in measurer.bound.values()}
    mine = (r for r in records.read(PREDICTED, chip=measurer.device.chip) if (r.template_hash, r.workload) in now)
    return {r.measurement.candidate: r.measurement for r in mine if r.measurement.ok}


def recorded(history: Iterable[Record], bound: Sequence[BoundTemplate], chip: str) -> tuple[bool, bool]:
    """Whether ``history`` has trials of these templates on ``chip``: of any workload, and of the bound one."""
    here = {r.workload for r in history if r.chip == chip and r.template_hash in {b.hash for b in bound}}
    return bool(here), not here.isdisjoint(b.computed for b in bound)


def expect(
    tuner: Search,
    measurer: CompilingMeasurer,
    records: Records,
    limits: tuple[float, float],
    *,
    taught: bool,
    tried: bool,
    run: str,
) -> None:
    """Tell ``tuner`` the terms of predicted times: of earlier runs where there are any, else played now and kept.

    ``limits``: trials and seconds that the search may take; ``taught``: the chip has records of other workloads.
    ``tried``: it has some of this one; then nothing is played, and a run that was cut short goes on where it was among
    what an earlier one predicted: the order is the same, and what was tried is not asked for again.
    """
    found = known(measurer, records)
    if tried and not found:
        return
    if not found:
        trials, seconds = limits
        most, seconds = int(min(MOST, _DRAWN * trials)), SHARE * min(seconds, EFFORTS["full"][1])
        if taught:
            most, seconds = most // 2, seconds / 2
        candidates = spread(tuner.spaces, most, tuner.seed, tuner.hopeful(most // 2))
        found = foresee(candidates, measurer, seconds)
        with contextlib.suppress(StoreError):  # the loop says so, once, when it keeps the first trial
            keep(found.values(), measurer, records, run)
    tuner.expect({candidate: m.prediction for candidate, m in found.items() if m.prediction})
