"""Comparing two kernels from interleaved rounds. Pure NumPy.

Every round times all contenders once, in an order that changes from round to round, so that drift of clocks and
temperature hits all alike; contenders are then compared round by round. The estimate is the Hodges-Lehmann median of
the paired log ratios and its interval that of the Wilcoxon signed-rank test (Hollander, Wolfe and Chicken,
Nonparametric Statistical Methods, 3.2-3.4): no assumption of normal noise, and a few outliers do no harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
ROUNDS = 25
MIN_ROUNDS = 6
"""Fewer pairs than this cannot reach 95 % confidence whatever they say."""


@dataclass(frozen=True)
class Comparison:
    """How much faster one contender is than another: ``ratio`` = time(other) / time(this), above 1 is faster.

    ``low`` .. ``high``: the ratio's interval at ``confidence``. ``decided``: the interval excludes 1 and the
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
        """Whether there is a difference."""
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
