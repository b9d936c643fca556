"""Comparisons say "faster" when there is something, and hold their tongue when there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpu_tune.measure import finals
from gpu_tune.measure.finals import Finalist, conclude
from gpu_tune.space.knob import Config
from gpu_tune.trial import Candidate, Resources

TRIALS = 400


def rounds(rng: np.random.Generator, factors: list[float], n: int = finals.ROUNDS, noise: float = 0.008) -> np.ndarray:
    """Times of finalists that are ``factors`` times a base: drift that all share, own noise, outliers now and then."""
    drift = np.exp(np.cumsum(rng.normal(0, 0.004, n)))
    own = np.exp(rng.normal(0, noise, (len(factors), n)))
    spikes = 1 + (rng.random((len(factors), n)) < 0.03) * rng.uniform(0.05, 0.5, (len(factors), n))
    return 1e-4 * np.array(factors)[:, None] * drift * own * spikes


def test_the_same_kernel_is_called_a_win_in_at_most_five_percent_of_trials():
    rng = np.random.default_rng(0)
    wins = 0
    for _ in range(TRIALS):
        a, again, b = rounds(rng, [1.0, 1.0, 1.0])
        wins += finals.compare(a, b, noise_floor=finals.noise_floor(a, again)).decided
    assert wins <= 0.05 * TRIALS


def test_a_planted_two_percent_is_found_in_at_least_ninety_percent_of_trials():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(TRIALS):
        a, again, slower = rounds(rng, [1.0, 1.0, 1.02], noise=0.004)
        found += finals.compare(a, slower, noise_floor=finals.noise_floor(a, again)).faster
    assert found >= 0.9 * TRIALS


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(TRIALS):
        a, b = rounds(rng, [1.0, 1.1])
        c = finals.compare(a, b)
        inside += c.low <= 1.1 <= c.high
    assert 0.92 * TRIALS <= inside <= TRIALS


def test_critical_values_are_those_of_the_signed_rank_tables():
    # Hollander, Wolfe and Chicken, table A.4: P(T+ <= 8) = 0.0244 for n = 10, P(T+ <= 52) = 0.0242 for n = 20
    assert finals._signed_rank_quantile(10, 0.025) == 9 and finals._signed_rank_quantile(20, 0.025) == 53
    assert finals._signed_rank_quantile(5, 0.025) == 0, "five pairs never reach 95 %"
    # the same tables: with six pairs the interval is the whole range of Walsh averages (96.9 %), with ten it goes from
    # the ninth to the ninth but last (95.1 %)
    assert finals.hodges_lehmann(np.arange(1.0, 7.0))[1:] == (1.0, 6.0)
    ten = 2.0 ** np.arange(10)
    walsh = np.sort([(a + b) / 2 for i, a in enumerate(ten) for b in ten[i:]])
    assert finals.hodges_lehmann(ten)[1:] == (walsh[8], walsh[-9])


def test_too_few_rounds_decide_nothing():
    assert not finals.compare([1.0] * 5, [2.0] * 5).decided
    assert finals.compare([1.0] * 6, [2.0] * 6).faster


def test_it_reads_as_a_sentence():
    fast, slow = [1.0, 1.01, 0.99] * 4, [1.1, 1.12, 1.09] * 4
    assert str(finals.compare(fast, slow)).startswith("faster by 10")
    assert str(finals.compare(slow, fast)).startswith("slower by 10")
    assert str(finals.compare(fast, fast, noise_floor=0.02)) == "no difference (+0.0 % within 2.0 %)"


@pytest.mark.parametrize("a, b", [([], []), ([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0]), ([1.0], [-1.0])])
def test_unpaired_or_impossible_samples_are_refused(a: list[float], b: list[float]):
    with pytest.raises(ValueError, match="paired samples"):
        finals.compare(a, b)


def test_the_width_of_the_median_shrinks_with_samples_and_ignores_an_outlier():
    rng = np.random.default_rng(3)
    few, many = (np.median([finals.relative_width(rng.normal(1, 0.01, n)) for _ in range(50)]) for n in (6, 60))
    assert many < few / 2
    assert finals.relative_width([1.0] * 19 + [5.0]) == 0.0 and finals.relative_width([1.0, 1.0]) == math.inf


def finalist(name: str, times: np.ndarray, **more: object) -> Finalist:
    candidate = None if name.startswith("lib") else Candidate("t", Config(name=name))
    return Finalist(name, candidate, tuple(map(float, times)), **more)  # type: ignore[arg-type]


def test_ties_go_to_the_lighter_kernel_and_the_vendor_is_the_fastest_library():
    rng = np.random.default_rng(4)
    a, b, slow, lib1, lib2, again = rounds(rng, [1.0, 1.0, 1.2, 1.3, 1.1, 1.0])
    entries = [finalist(n, t) for n, t in (("a", a), ("b", b), ("slow", slow), ("lib1", lib1), ("lib2", lib2))]
    taken = {"a": Resources(registers=64), "b": Resources(registers=32), "slow": Resources()}
    found = conclude("measured", entries, {"a": again, "b": again}, taken)
    assert found.winner == entries[1].candidate and set(found.tied) == {entries[0].candidate, entries[1].candidate}
    assert found.vendor == "lib2" and found.verdict is not None and found.verdict.faster
    assert str(found).startswith("faster by") and str(found).endswith("than lib2")
    assert not found.comparisons["a"].decided and found.comparisons["slow"].faster


def test_what_failed_does_not_compete_and_nobody_wins_when_all_failed():
    bad = finalist("fastest", np.full(9, 1e-9), status="wrong", reason="off by one")
    good = finalist("good", np.full(9, 1e-3))
    assert conclude("measured", [bad, good], {}, {}).winner == good.candidate
    assert conclude("measured", [bad], {}, {}).winner is None
