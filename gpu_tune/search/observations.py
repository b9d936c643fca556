"""What was observed, and what follows from it without a model: which rows are left to try, what a stalled search
excludes, which builds are pruned before they run, and when to stop. Rows are index rows; times are seconds.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..space.grid import Rows
from ..space.knob import Knob
from ..space.space import Space
from ..trial import Candidate, Measurement, Resources

GAIN = 0.005
"""Improvements smaller than this are not gains."""
LEAST = 96
"""Trials without a gain before any stop: time enough for a stalled search to exclude several values in turn."""
PATIENCE = ((0.30, 0.5), (0.20, 1.5), (0.10, 3.0), (0.05, 5.0))
"""(risk, patience): stop when the trials since the last gain are ``patience`` times those until it. The risk is the
share of runs in which the best at that moment is more than 1 % slower than the best after 200 trials. The figures are
cautious for ordinary spaces: 100 cold runs on each of 13 development spaces lost 4.5, 4.2, 3.4 and 2.1 %. Where one far
better config is hidden they are nearer: on 20 such spaces 25, 24, 14 and 4 % of runs lost. bench.search prints the
measured share for any spaces."""
TWO_KNOBS = 0.25
"""What a config two knobs away counts of one beside."""
SPILL_BYTES = 64
"""Spilling more than this per thread is a kind of its own."""
KIND_TRIALS, KIND_FACTOR = 4, 1.25
"""A kind of build is pruned when this many of it were timed and the best of them was slower than the best by this
factor.
"""
_KINDS = {
    "spills registers": lambda r: r.spill_bytes > SPILL_BYTES,
    "tensor-core instructions serialised (ptxas C75xx)": lambda r: bool(r.notes),
}


@dataclass(frozen=True)
class _Trial:
    """How a trial ended: ``samples`` in seconds, none for a failure and for a pruned build."""

    samples: tuple[float, ...]
    kinds: frozenset[str]
    pruned: bool = False

    @functools.cached_property
    def time(self) -> float:
        """The median of all repeats, nan without any."""
        return statistics.median(self.samples) if self.samples else math.nan


class Observations:
    """The rows of ``space`` that were asked for, and how the trials ended that are known of."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.taken: set[bytes] = set()
        self._trials: dict[bytes, _Trial] = {}

    @property
    def best(self) -> float:
        """Best time so far, inf without one."""
        return min((t.time for t in self._trials.values() if not math.isnan(t.time)), default=math.inf)

    def take(self, row: Rows) -> bool:
        """Mark a row as asked for; False when it already was."""
        key = row.tobytes()
        new = key not in self.taken
        self.taken.add(key)
        return new

    def take_some(self, rows: Rows, n: int) -> Rows:
        """The first ``n`` rows that were not asked for yet, marked as asked for."""
        return rows[list(itertools.islice((i for i, row in enumerate(rows) if self.take(row)), n))]

    def tell(self, row: Rows, times: float | Sequence[float], kinds: frozenset[str] = frozenset()) -> None:
        """A trial's end (a time or its repeats; nan or none: failed), and what is amiss with its build. The repeats of
        one config are pooled, and count where another attempt failed."""
        key = row.tobytes()
        self.taken.add(key)
        given = (times,) if isinstance(times, int | float) else tuple(times)
        samples = tuple(t for t in given if math.isfinite(t))
        known = self._trials.get(key)
        if known is not None and known.pruned:
            del self._trials[key]  # its place among the measured ones is the last
        elif known is not None:
            samples, kinds = known.samples + samples, kinds or known.kinds
        self._trials[key] = _Trial(samples, kinds)

    def prune(self, row: Rows, kinds: frozenset[str]) -> None:
        """A build of these kinds was pruned: a trial whose time is not known."""
        key = row.tobytes()
        self.taken.add(key)
        self._trials.setdefault(key, _Trial((), kinds, pruned=True))

    def trials(self) -> tuple[Rows, NDArray[np.float64]]:
        """Rows and times in an order that does not depend on when each was told. A pruned build counts with the median
        time of its kinds, and not at all where none of these was timed."""
        times: dict[bytes, float] = {}
        supposed = {t.kinds: self._median(t.kinds) for t in self._trials.values() if t.pruned}
        for key, trial in sorted(self._trials.items()):
            time = supposed[trial.kinds] if trial.pruned else trial.time
            if not (trial.pruned and math.isnan(time)):
                times[key] = time
        return self._matrix(times), np.array(list(times.values()))

    def _median(self, kinds: frozenset[str]) -> float:
        alike = [t.time for t in self._trials.values() if kinds & t.kinds and not math.isnan(t.time)]
        return float(np.median(alike)) if alike else math.nan

    def measured(self) -> tuple[Rows, NDArray[np.float64]]:
        """Rows and times of the measured trials, failures included, in the order they were told."""
        times = {key: t.time for key, t in self._trials.items() if not t.pruned}
        return self._matrix(times), np.array(list(times.values()))

    def pending(self) -> Rows:
        """Rows that were asked for and whose end is not known yet."""
        return self._matrix(sorted(self.taken - self._trials.keys()))

    def free(self, rows: Rows) -> Rows:
        """The distinct rows that were not asked for yet, in order."""
        fresh: dict[bytes, int] = {}
        for i, row in enumerate(rows):
            fresh.setdefault(row.tobytes(), i)
        return rows[[i for key, i in fresh.items() if key not in self.taken]]

    def _matrix(self, keys: Iterable[bytes]) -> Rows:
        return np.frombuffer(b"".join(keys), dtype=np.uint16).reshape(-1, len(self.space.knobs))


@dataclass(frozen=True)
class ExcludedValue:
    """A tabu: the value of index ``value`` of the knob in ``column``."""

    column: int
    value: int

    def allows(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the rows have another value, (n,)."""
        return np.asarray(rows[:, self.column] != self.value)


def diversify(knobs: tuple[Knob, ...], rows: Rows, times: NDArray[np.float64], leaders: int) -> list[ExcludedValue]:
    """What a stalled search excludes by turns, given its trials (``rows`` (n, knobs), ``times`` (n,), nan for
    failures).

    When stalled, exclude a value that the best trials agree on and fit the models to the rest: a model fitted to all
    trials expects nothing outside their basin, and each further trial there makes it surer. Parents are taken from the
    rest as well, so that a narrow basin beside a broad plateau of near-equals is found. For each knob that was tried
    with two values, this is the commonest value among the ``leaders`` fastest: first those that most of them share,
    then those of knobs with few values.
    """
    timed = np.flatnonzero(np.isfinite(times))
    best = rows[timed[np.argsort(times[timed], kind="stable")[:leaders]]]
    found: list[tuple[int, int, ExcludedValue]] = []
    for column, knob in enumerate(knobs):
        if len(best) and len(np.unique(rows[timed, column])) > 1:
            values, counts = np.unique(best[:, column], return_counts=True)
            commonest = int(np.argmax(counts))
            found.append((-int(counts[commonest]), len(knob.values), ExcludedValue(column, int(values[commonest]))))
    return [excluded for *_, excluded in sorted(found, key=lambda f: f[:2])]


def density(rows: Rows, promising: Rows) -> NDArray[np.float64]:
    """How many of ``promising`` (m, knobs) lie near each of ``rows``, (n,): each that differs in at most one knob is
    one, each that differs in two is ``TWO_KNOBS``. A kernel density over unordered values (Aitchison and Aitken, 1976)
    that is cut off."""
    knobs = rows.shape[1]
    alike = np.zeros((len(rows), len(promising)), dtype=np.min_scalar_type(knobs))
    for own, theirs in zip(rows.T, promising.T):
        same = np.arange(int(own.max(initial=0)) + 1)[:, None] == theirs  # by value: fewer comparisons than by row
        alike += same.astype(alike.dtype)[own]
    near, nearer = (np.count_nonzero(alike >= knobs - most, axis=1) for most in (2, 1))
    return np.asarray(nearer + TWO_KNOBS * (near - nearer))


def densest(rows: Rows, tried: Rows, expected: Sequence[NDArray[np.float64]], promising: int) -> NDArray[np.intp]:
    """Order of ``rows``, those with most of the promising configs near them first; none where nothing is expected.
    Promising are the ``promising`` of ``rows`` and ``tried`` with the best mean rank by models: each model's
    ``expected`` has a score of every row, then of every one tried, more being better."""
    if not expected:
        return np.zeros(0, dtype=np.intp)
    every = np.concatenate([rows, tried])
    place = np.zeros(len(every))
    for score in expected:
        place[np.argsort(-score, kind="stable")] += np.arange(len(every))
    best = every[np.argsort(place, kind="stable")[:promising]]
    between = TWO_KNOBS / (len(expected) * len(every))  # places tell apart what is equally dense
    return np.argsort(between * place[: len(rows)] - density(rows, best), kind="stable")


@dataclass(frozen=True)
class KindPruner:
    """Says of a compiled build why it is not worth running, or '': ``slow`` are (template, kind of build, reason).

    It goes by the trials known when it was made, so that a run does not depend on which build is ready first.
    """

    slow: tuple[tuple[str, str, str], ...] = ()

    def __call__(self, candidate: Candidate, resources: Resources) -> str:
        own = kinds(resources)
        return next((why for name, kind, why in self.slow if name == candidate.template and kind in own), "")

    @classmethod
    def of(cls, observations: Sequence[Measurement]) -> KindPruner:
        """For the kinds of builds of which several were timed and none came near the best."""
        timed = [m for m in observations if m.ok and m.resources is not None]
        best = min((m.time for m in timed), default=math.inf)
        groups: dict[tuple[str, str], list[float]] = {}
        for m in timed:
            for kind in kinds(m.resources):
                groups.setdefault((m.candidate.template, kind), []).append(m.time)
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
    """What is amiss with a build, as far as its compiler said; trials of one kind are judged together."""
    return frozenset() if resources is None else frozenset(kind for kind, has in _KINDS.items() if has(resources))


def since_gain(times: Iterable[float], gain: float = GAIN) -> int:
    """Trials since the best last improved by the share ``gain``, from times in order (inf or nan: failed); all while
    none has a time."""
    since, best = 0, math.inf
    for time in times:
        since += 1
        if time < best * (1 - gain):
            best, since = time, 0
    return since


def gain_that_matters(times: NDArray[np.float64], share: float) -> float:
    """The least improvement that is more than a crumb: ``share`` of the way, in log time, from the median trial to the
    best, and at least ``GAIN``. Where configs differ by factors, half a percent is no reason to stay where one is."""
    timed = times[np.isfinite(times)]
    return max(GAIN, share * math.log(float(np.median(timed) / timed.min()))) if len(timed) else GAIN


def patience(risk: float) -> float:
    """Trials since the last gain over trials until it at which a run is given up, for a risk in (0, 1); risks beyond
    the calibrated ones count as the nearest of those."""
    require(isinstance(risk, int | float), "plateau risk", risk, "is no number", "use 0.05")
    require(0 < risk < 1, "plateau risk", risk, "is not between 0 and 1", "use 0.05")
    risks, patiences = zip(*reversed(PATIENCE))
    return float(np.interp(math.log(risk), np.log(risks), patiences))


def stopped(times: Sequence[float], risk: float) -> bool:
    """Whether a run with these times (one a config, in order, inf or nan: failed) has reached its plateau. Where
    everything failed, the patience is that of a gain after ``LEAST`` trials."""
    since = since_gain(times)
    return since >= max(LEAST, patience(risk) * (len(times) - since or LEAST))
