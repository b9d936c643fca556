"""From interleaved rounds to a winner: the same rules for every measurer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from ..trial import Candidate, Resources

CONFIDENCE = 0.95
ROUNDS = 25
MIN_ROUNDS = 6
"""Fewer pairs than this cannot reach 95 % confidence whatever they say."""


@dataclass(frozen=True)
class Comparison:
    """How much faster one finalist is than another: ``ratio`` = time(other) / time(this), above 1 is faster.

    ``low`` .. ``high``: the ratio's interval at ``confidence``.
    ``rounds`` is 0 where both times are predicted. ``decided``: the interval excludes 1 and the
    difference exceeds ``noise_floor`` (relative); otherwise the two are tied.
    """

    ratio: float
    low: float
    high: float
    rounds: int
    noise_floor: float = 0.0
    confidence: float = CONFIDENCE

    @property
    def decided(self) -> bool:
        """Whether there is a difference; between predictions, which have no noise, any one counts."""
        if not self.rounds:
            return self.ratio != 1.0
        beyond = abs(math.log(self.ratio)) > self.noise_floor
        return self.rounds >= MIN_ROUNDS and beyond and not self.low <= 1.0 <= self.high

    @property
    def faster(self) -> bool:
        """Decidedly faster."""
        return self.decided and self.ratio > 1

    @property
    def slower(self) -> bool:
        """Decidedly slower."""
        return self.decided and self.ratio < 1

    def __str__(self) -> str:
        if not self.rounds:
            ratio, word = (self.ratio, "faster") if self.ratio >= 1 else (1 / self.ratio, "slower")
            return f"{word} by {100 * (ratio - 1):.1f} % as predicted"
        if not self.decided:
            within = 100 * max(self.noise_floor, self._width)
            return f"no difference ({100 * (self.ratio - 1):+.1f} % within {within:.1f} %)"
        ratio, word = (self.ratio, "faster") if self.ratio > 1 else (1 / self.ratio, "slower")
        return f"{word} by {100 * (ratio - 1):.1f} % ± {100 * self._width:.1f} %"

    @property
    def _width(self) -> float:
        return (self.high - self.low) / 2


def compare(
    this: Sequence[float], other: Sequence[float], *, noise_floor: float = 0.0, confidence: float = CONFIDENCE
) -> Comparison:
    """Compare ``this`` with ``other``: seconds of the same rounds, pair by pair (equal lengths, all positive)."""
    a, b = np.asarray(this, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0 or not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError(f"paired samples need equal lengths and positive seconds, not {a.shape} and {b.shape}")
    estimate, low, high = hodges_lehmann(np.log(b) - np.log(a), confidence)
    return Comparison(math.exp(estimate), math.exp(low), math.exp(high), a.size, noise_floor, confidence)


def hodges_lehmann(differences: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """(estimate, low, high): the median of the pairwise means of ``differences``, and its signed-rank interval.

    Exact critical values up to 40 differences, the normal approximation beyond.
    """
    n = differences.size
    i, j = np.triu_indices(n)
    walsh = np.sort((differences[i] + differences[j]) / 2)
    drop = max(0, _signed_rank_quantile(n, (1 - confidence) / 2) - 1)  # the quantile-th average is still inside
    return float(np.median(walsh)), float(walsh[drop]), float(walsh[walsh.size - 1 - drop])


def _signed_rank_quantile(n: int, tail: float) -> int:
    """The largest d with P(signed-rank statistic < d) <= tail: the interval ends at the d-th Walsh averages."""
    if n > 40:
        mean, deviation = n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return max(0, math.floor(mean + NormalDist().inv_cdf(tail) * deviation))
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] = counts[rank:] + counts[:-rank]
    cumulative = np.cumsum(counts) / 2.0**n
    return int(np.searchsorted(cumulative, tail, side="right"))


def noise_floor(first: Sequence[float], again: Sequence[float]) -> float:
    """Relative difference of two series of the *same* kernel: the estimated difference plus its half-interval."""
    c = compare(first, again)
    return abs(math.log(c.ratio)) + (math.log(c.high) - math.log(c.low)) / 2 if c.rounds > 1 else 0.0


def relative_width(samples: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Half-width of the median's distribution-free interval (order statistics), relative to the median; inf below 3."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    n = values.size
    if n < 3:
        return math.inf
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach) - 1 + (n % 2))
    return float((values[max(high, low)] - values[low]) / 2 / np.median(values))


def rank(samples: Mapping[str, Sequence[float]]) -> list[str]:
    """Names by their median over rounds of time relative to the round's geometric mean, fastest first."""
    names = list(samples)
    logs = np.log(np.array([samples[n] for n in names], dtype=np.float64))
    centred = np.median(logs - logs.mean(axis=0), axis=1)
    return [names[i] for i in np.lexsort((np.array(names), centred))]


RULE = (
    "fastest by the median over rounds; among those no different from it: fewer spilled bytes, less shared memory, "
    "fewer registers, then the first in alphabetical order"
)


def conclude(
    source: str,
    finalists: Sequence[Finalist],
    again: Mapping[str, Sequence[float]],
    resources: Mapping[str, Resources | None],
    environment: Mapping[str, Any] | None = None,
) -> Finals:
    """The finals that ``finalists`` (with one sample a round each) give.

    ``again``: a second series of the same rounds for some finalists, by name; that of the fastest candidate gives the
    noise floor. Only finalists that are ``ok`` compete; nobody wins when none is.
    """
    held = {c.name: c for c in finalists if c.ok}
    ours = [c for c in held.values() if c.candidate is not None]
    if not ours:
        return Finals(source, tuple(finalists), None, rule=RULE, environment=dict(environment or {}))
    order = rank({c.name: c.samples for c in ours})
    fastest = held[order[0]]
    floor = noise_floor(fastest.samples, again[fastest.name]) if fastest.name in again else 0.0
    tied = [fastest] + [
        c for c in ours if c is not fastest and not compare(fastest.samples, c.samples, noise_floor=floor).decided
    ]

    def weight(finalist: Finalist) -> tuple[int, int, int, str]:
        taken = resources.get(finalist.name) or Resources()
        shared = taken.static_shared_bytes + taken.dynamic_shared_bytes
        return taken.spill_bytes, shared, taken.registers, finalist.name

    winner = min(tied, key=weight)
    comparisons = {
        c.name: compare(winner.samples, c.samples, noise_floor=floor) for c in held.values() if c is not winner
    }
    vendors = [c for c in held.values() if c.candidate is None]
    vendor = rank({c.name: c.samples for c in vendors})[0] if vendors else ""
    return Finals(
        source,
        tuple(finalists),
        winner.candidate,
        tuple(c.candidate for c in tied if c.candidate),
        RULE,
        comparisons,
        floor,
        len(fastest.samples),
        comparisons[vendor] if vendor else None,
        vendor,
        dict(environment or {}),
    )


@dataclass(frozen=True)
class Check:
    """One verification of a finalist: ``by`` ``emulator`` or ``gpu``, on which ``workload``, and how it ended."""

    name: str
    by: str
    ok: bool
    detail: str = ""
    workload: str = ""


@dataclass(frozen=True)
class Finalist:
    """One party of the finals: ours (``candidate``) or a baseline (``candidate`` None).

    ``samples``: seconds, one a round. ``label`` says what a baseline is, permissions and unfused steps included.
    ``status`` and ``reason`` as in a trial. ``host_seconds``: what issuing one run takes the host (0: not measured).
    """

    name: str
    candidate: Candidate | None = None
    samples: tuple[float, ...] = ()
    warm_samples: tuple[float, ...] = ()
    status: str = "ok"
    reason: str = ""
    label: str = ""
    checks: tuple[Check, ...] = ()
    host_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it was timed and every check held."""
        return self.status == "ok" and bool(self.samples) and all(c.ok for c in self.checks)


@dataclass(frozen=True)
class Finals:
    """Finalists and baselines re-timed in interleaved rounds.

    ``winner`` is the fastest candidate (None when none held); ``comparisons`` compares it with every other finalist
    by name. ``tied`` are the candidates no different from the fastest; ``rule`` says how the winner was taken among
    them. ``noise_floor``: relative difference that the fastest candidate shows against itself. ``verdict`` compares
    the winner with the fastest baseline (None without baselines).
    """

    source: str
    finalists: tuple[Finalist, ...]
    winner: Candidate | None
    tied: tuple[Candidate, ...] = ()
    rule: str = ""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    noise_floor: float = 0.0
    rounds: int = 0
    verdict: Comparison | None = None
    vendor: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    def finalist(self, candidate: Candidate) -> Finalist:
        """The finalist that ran ``candidate``; KeyError when it was none."""
        return next(c for c in self.finalists if c.candidate == candidate)

    def __str__(self) -> str:
        if self.winner is None:
            return "no candidate was confirmed"
        if self.verdict is None:
            failed = [f"{c.name} failed: {c.reason or c.status}" for c in self.finalists if c.candidate is None]
            why = f" ({'; '.join(failed)})" if failed else " (predicted times)" if self.source == "predicted" else ""
            return f"no vendor library to compare with{why}"
        return f"{self.verdict} than {self.vendor}" if self.verdict.decided else f"{self.verdict} to {self.vendor}"
