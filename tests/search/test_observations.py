"""What follows from observations alone: when to stop, which builds are pruned, what a stalled search excludes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpu_tune.errors import InvalidInput
from gpu_tune.search.observations import (
    GAIN,
    LEAST,
    TWO_KNOBS,
    ExcludedValue,
    densest,
    density,
    diversify,
    gain_that_matters,
    patience,
    since_gain,
    stopped,
)
from gpu_tune.search.search import Search
from gpu_tune.search.space_search import Settings
from gpu_tune.space.knob import Config, Constraint, Knob
from gpu_tune.space.space import Space
from gpu_tune.trial import MEASURED, Candidate, Measurement, Resources
from tests.helpers.searching import result, toy_space


def test_the_plateau_rule_waits_longer_for_a_smaller_risk() -> None:
    gain_at_40 = [10.0] * 39 + [5.0]
    assert not stopped(gain_at_40 + [5.0] * (LEAST - 1), 0.2)
    lengths = [
        next(n for n in range(1, 2000) if stopped(gain_at_40 + [5.0] * n, risk)) for risk in (0.2, 0.1, 0.05, 0.02)
    ]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    assert not stopped([math.inf] * LEAST, 0.05) and stopped([math.inf] * 500, 0.05)  # nothing works
    for bad in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InvalidInput):
            patience(bad)
    search = Search([toy_space()])
    search.tell([result(Candidate("toy", c), 1.0) for c in toy_space().sample(40, np.random.default_rng(0))])
    assert search.plateau(0.2) == stopped([1.0] * len(search.observations), 0.2)


SPILLS, CLEAN = Resources(registers=255, spill_bytes=400), Resources(registers=100)


def test_crumbs_do_not_count_as_gains_where_configs_differ_by_factors() -> None:
    wide = np.array([9.0, math.inf, 8.0, 7.0, 6.0, 1.0, 0.99, 0.98, 0.95])
    gain = gain_that_matters(wide, 0.02)
    assert gain == pytest.approx(0.02 * math.log(3.5 / 0.95))  # the median of the eight is 3.5
    assert since_gain(wide[:-1]) == 0 and since_gain(wide[:-1], gain) == 2 and since_gain(wide, gain) == 0
    assert gain_that_matters(np.array([1.0, 1.01, 1.02]), 0.02) == GAIN  # a flat space: crumbs are all there is
    assert gain_that_matters(np.array([math.nan]), 0.02) == gain_that_matters(np.zeros(0), 0.02) == GAIN


def test_builds_are_pruned_whose_kind_never_came_near() -> None:
    search = Search([toy_space()])
    configs = [Candidate("toy", c) for c in toy_space().sample(20, np.random.default_rng(0))]
    assert search.pruners(configs) == [None] * 20  # nothing is known yet
    search.tell([result(c, 3.0, resources=SPILLS) for c in configs[:3]])
    search.tell([result(c, 1.0, resources=CLEAN) for c in configs[3:6]])
    assert search.pruners(configs) == [None] * 20  # three are too few to condemn a kind
    search.tell([result(configs[6], 3.0, resources=SPILLS)])
    pruners = search.pruners(configs[10:])
    assert [p is None for p in pruners] == [True, False] * 5  # at least half of a batch is measured
    pruner = pruners[1]
    assert pruner is not None and "the best of 4 such is 3.00 times slower" in pruner(configs[11], SPILLS)
    assert pruner(configs[11], CLEAN) == "" == pruner(Candidate("other", configs[11].config), SPILLS)
    search.tell([result(configs[10], 1.1, resources=SPILLS)])
    assert pruner(configs[11], SPILLS)  # what was asked before does not change with what is told now
    assert search.pruners(configs[11:]) == [None] * 9  # one that spills came near: no verdict on the kind any more


def test_a_pruned_build_counts_as_an_ordinary_one_of_its_kind_whenever_it_was_told() -> None:
    space = toy_space()
    configs = [Candidate("toy", c) for c in space.sample(8, np.random.default_rng(0))]
    timed = [result(c, t, resources=SPILLS) for c, t in zip(configs, (2.0, 3.0, 7.0))] + [
        result(configs[3], 1.0, resources=CLEAN)
    ]
    pruned = Measurement(configs[4], "pruned", MEASURED, "spills", resources=SPILLS)
    unknown = Measurement(configs[5], "pruned", MEASURED, "noted", resources=Resources(notes=("C7510",)))
    found = []
    for told in ([*timed, pruned, unknown], [unknown, pruned, *timed]):
        search = Search([space])
        search.tell(told)
        found.append(search.space_searches["toy"])
        asked = [c for _ in range(20) for c in search.ask()]
        assert configs[4] not in asked and configs[5] not in asked  # never asked for again
    rows, times = found[0].trials()
    assert dict(zip(map(bytes, rows), times)) == {
        bytes(space.rows([c.config])[0]): t for c, t in zip(configs, (2.0, 3.0, 7.0, 1.0, 3.0))
    }
    assert np.array_equal(rows, found[1].trials()[0]) and np.array_equal(times, found[1].trials()[1])
    assert found[0].best == 1.0 and search.best is not None and search.best.candidate == configs[3]


def test_values_are_excluded_that_the_best_agree_on_most() -> None:
    knobs = (Knob("a", (1, 2, 4), ""), Knob("b", (0, 1), ""), Knob("c", (3, 5, 7), ""), Knob("one", (9, 10), ""))
    rows = np.array([[0, 1, 2, 0], [1, 1, 2, 0], [2, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=np.uint16)
    times = np.array([1.0, 1.1, 1.2, 9.0, math.nan])
    # all three leaders share b, two share c, none a; "one" was never varied and nothing of it is excluded
    assert diversify(knobs, rows, times, 3) == [ExcludedValue(1, 1), ExcludedValue(2, 2), ExcludedValue(0, 0)]
    assert ExcludedValue(1, 1).allows(rows).tolist() == [False, False, False, True, True]
    assert diversify(knobs, rows[:1], times[:1], 3) == [] == diversify(knobs, rows[4:], times[4:], 3)


def test_density_counts_the_promising_configs_near_each() -> None:
    promising = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [5, 7, 9]], dtype=np.uint16)
    asked = np.array([[0, 0, 2], [0, 0, 0], [3, 3, 3], [5, 7, 60_000]], dtype=np.uint16)
    # beside two and two knobs from the third; itself, one beside, one two knobs away; near none; beside the last
    assert density(asked, promising).tolist() == [2 + TWO_KNOBS, 2 + TWO_KNOBS, 0.0, 1.0]
    assert density(asked, promising[:0]).tolist() == [0.0] * 4
    assert density(asked[:0], promising).tolist() == []


def test_the_densest_come_first_by_what_all_models_expect_most_of() -> None:
    rows = np.array([[0, 0], [0, 1], [1, 1], [7, 7]], dtype=np.uint16)
    tried = np.array([[0, 2], [7, 8]], dtype=np.uint16)
    one, other = np.array([4.0, 5.0, 1.0, 2.0, 6.0, 3.0]), np.array([0.5, 0.55, 0.1, 0.2, 0.6, 0.0])
    # promising are [0, 2], [0, 1] and [0, 0], all beside each other; [1, 1] is beside one of them, [7, 7] beside none
    assert densest(rows, tried, [one, other], 3).tolist() == [1, 0, 2, 3]
    # promising are [1, 1] and [7, 8]: one beside each of the first three, the better expected first
    assert densest(rows, tried, [-one, -other], 2).tolist() == [2, 3, 1, 0]
    assert densest(rows, tried, [], 3).tolist() == []


def test_a_stalled_search_excludes_values_in_turn_for_a_share_of_its_slots_until_a_gain() -> None:
    knobs = [Knob(name, tuple(range(1, 9)), "") for name in "abcd"]
    space = Space("toy", knobs)
    search = Search([space], seed=0, settings=Settings(early_until=0, diversify=0.33))
    own = search.settings

    def slow(config: Config) -> float:  # a broad basin at a = b = 8
        return (
            1.0 + 0.01 * ((8 - int(config["a"])) ** 2 + (8 - int(config["b"])) ** 2) + 0.02 * abs(int(config["c"]) - 4)
        )

    seen: dict[int, list[Config]] = {}
    while len(search.observations) < 400:
        since = search.space_searches["toy"]._since_gain()
        batch = search.ask()
        if since >= own.stall:
            seen.setdefault((since - own.stall) // own.diversify_turn, []).extend(c.config for c in batch)
        search.tell([result(c, slow(c.config)) for c in batch])
    best = search.best
    assert best is not None and (best.candidate.config["a"], best.candidate.config["b"]) == (8, 8)
    counts = [
        {name: float(np.mean([c[name] != best.candidate.config[name] for c in asked])) for name in "abcd"}
        for asked in seen.values()
    ]
    assert len(counts) > 2 * own.diversify_values
    assert {max(count, key=lambda name: count[name]) for count in counts} >= {
        "a",
        "b",
    }  # more than one value has its turn
    assert all(max(count.values()) >= 0.25 for count in counts)
    toy_search = search.space_searches["toy"]
    assert toy_search._excluded() is not None
    row = toy_search.free(space.grid.sample(50, np.random.default_rng(1)))[0]
    toy_search.tell(row, 0.5)
    assert toy_search._excluded() is None  # a gain ends it


def test_a_part_that_is_used_up_gives_its_slots_to_the_rest() -> None:
    knobs = [Knob("flag", (0, 1), ""), Knob("n", tuple(range(1, 200)), "")]
    rare = Constraint("rare", ("flag", "n"), lambda c, w, d: c["flag"] == 0 or c["n"] <= 4, "few of the other kind")
    space = Space("toy", knobs, [rare])
    search = Search([space], seed=3)
    for _ in range(9):
        batch = search.ask()
        search.tell([result(c, 1.0 + int(c.config["flag"]) + 1e-3 * int(c.config["n"])) for c in batch])
    while len(search.observations) < 180:
        batch = search.ask()
        assert len(batch) == 16
        search.tell([result(c, 2.0) for c in batch])


@pytest.mark.slow
def test_a_needle_beside_a_broad_plateau_is_found() -> None:
    """One config in a thousand, in a basin that the plateau's trials say nothing good of."""
    knobs = [Knob("stage", (0, 1), ""), *(Knob(name, (1, 2, 4, 8), "") for name in "abcde")]
    space = Space("toy", knobs)

    def seconds(config: Config) -> float:
        x = np.log2([float(config[name]) for name in "abcde"])
        if config["stage"]:
            return float(1.2 + 0.05 * x.sum())  # plateau: never far from the best
        return float(1.0 + 1.5 * np.abs(x - 3).sum())  # mostly useless, but for its corner

    found = 0
    for seed in range(6):
        search = Search([space], seed=seed)
        while len(search.observations) < 200:
            search.tell([result(c, seconds(c.config)) for c in search.ask(min(16, 200 - len(search.observations)))])
        found += search.best is not None and search.best.time == 1.0
    assert found >= 5
