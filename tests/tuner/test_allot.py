"""Who gets the next trials of a joint budget: a pure function, held to what it promises on curves that are known."""

from __future__ import annotations

import pytest

from gpu_tune.tuner.allot import FIRST, Standing, choose, correction, distance, gain, slice_of


def curve(best, final, distances=1.0):
    """A search whose best falls as the law says, ``distances`` times as far from its end."""
    return tuple((n, final * (1 + distances * distance(n))) for n in (16, 32, 48))[:best]


def test_the_law_falls_with_trials_as_the_recorded_searches_did():
    assert distance(25) == pytest.approx(1 / 0.87 - 1, abs=0.001)
    assert distance(50) == pytest.approx(1 / 0.94 - 1, abs=0.01) and distance(100) == pytest.approx(
        1 / 0.98 - 1, abs=0.01
    )


def test_of_two_alike_the_larger_part_of_the_pass_comes_first():
    often, seldom = Standing(10, curve(1, 1e-3)), Standing(1, curve(1, 1e-3))
    long, short = Standing(1, curve(1, 5e-3)), Standing(1, curve(1, 1e-3))
    assert choose([seldom, often]) == 1 and choose([long, short]) == 0


def test_a_workload_without_a_trial_comes_before_all_others():
    assert choose([Standing(10, curve(1, 1.0)), Standing(1), Standing(5)]) == 1


def test_what_gained_nothing_lately_gives_way_and_what_gains_more_than_expected_goes_on():
    stuck = Standing(1, ((16, 1e-3), (32, 1e-3), (48, 1e-3)))
    usual, lucky = Standing(1, curve(3, 1e-3)), Standing(1, curve(3, 1e-3, 3.0))
    assert correction(stuck) < 0.3 < correction(usual) < correction(lucky)
    assert correction(usual) == pytest.approx(1.0, abs=0.15)
    assert choose([stuck, usual, lucky]) == 2 and choose([stuck, usual]) == 1


def test_a_dear_trial_counts_for_what_it_costs():
    assert choose([Standing(1, curve(1, 1e-3), cost=2.0), Standing(1, curve(1, 1e-3), cost=0.5)]) == 1


def test_behind_a_vendor_that_is_out_of_reach_little_is_gained():
    free, blocked = Standing(1, curve(2, 1e-3)), Standing(1, curve(2, 1e-3), vendor=5e-4)
    near = Standing(1, curve(2, 1e-3), vendor=1.02e-3)
    assert gain(blocked, 16) == pytest.approx(0.05 * gain(free, 16), rel=1e-6)
    assert gain(blocked, 16) < gain(near, 16) < gain(free, 16)


def test_what_is_over_gets_nothing_and_all_over_ends_it():
    over = Standing(100, curve(1, 1.0), over=True)
    assert choose([over, Standing(1, curve(1, 1e-3))]) == 1 and choose([over, over]) is None and choose([]) is None


def test_slices_grow_with_the_search():
    assert slice_of(Standing(1, ((4, 1.0),))) == FIRST and slice_of(Standing(1, ((200, 1.0),))) == 100


def spend(budget, parts, rule):
    """Seconds of a pass after ``budget`` trials on workloads that follow the law: parts (weight, optimum, factor)."""
    trials = [FIRST] * len(parts)

    def best(i, n):
        return parts[i][1] * (1 + parts[i][2] * distance(n))

    curves = [[(FIRST, best(i, FIRST))] for i in range(len(parts))]
    while sum(trials) < budget:
        i = rule([Standing(w, tuple(c)) for (w, _, _), c in zip(parts, curves)])
        more = min(slice_of(Standing(1, tuple(curves[i]))), budget - sum(trials))
        trials[i] += more
        curves[i].append((trials[i], best(i, trials[i])))
    return sum(w * best(i, n) for i, ((w, _, _), n) in enumerate(zip(parts, trials)))


def test_a_pass_ends_faster_than_with_equal_shares():
    parts = [(12, 1e-4, 1.0), (1, 2e-3, 4.0), (1, 1e-5, 1.0), (3, 1e-5, 1.0), (24, 5e-5, 2.0), (2, 1e-6, 8.0)]
    turn = iter(range(10**6))
    equal = spend(400, parts, lambda s: next(turn) % len(s))
    ours, least = spend(400, parts, choose), sum(w * t for w, t, _ in parts)
    assert ours - least < 0.6 * (equal - least)
