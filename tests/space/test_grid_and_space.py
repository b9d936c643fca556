"""Spaces against brute force: everything they yield is valid, and small ones are known completely."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidConfig, TemplateError
from gpu_tune.space.knob import Config, Constraint, Knob
from gpu_tune.space.space import Space
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Matmul

RULES = (
    lambda v: sum(v) % 3 != 0,
    lambda v: max(v) < 4 * min(v) or min(v) == 1,
    lambda v: math.prod(v) <= 64,
    lambda v: len(set(v)) == len(v),
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    knobs = [Knob(f"k{i}", tuple(2**j for j in range(n)), "", ordinal=draw(st.booleans())) for i, n in enumerate(sizes)]
    constraints = []
    for number in range(draw(st.integers(0, 4))):
        names = tuple(draw(st.lists(st.sampled_from([k.name for k in knobs]), min_size=1, max_size=3, unique=True)))
        rule = draw(st.sampled_from(RULES))
        constraints.append(
            Constraint(f"c{number}", names, lambda c, w, d, r=rule, n=names: r([c[x] for x in n]), "a rule")  # type: ignore[misc]
        )
    return Space("toy", knobs, constraints)


def valid_configs(space: Space) -> set[Config]:
    names = [k.name for k in space.knobs]
    points = (Config(dict(zip(names, v))) for v in itertools.product(*(k.values for k in space.knobs)))
    return {c for c in points if all(r.holds(c, None, None) for r in space.constraints)}


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_small_spaces_are_known_completely_and_every_operator_stays_inside(space: Space, seed: int) -> None:
    expected = valid_configs(space)
    rng = np.random.default_rng(seed)
    count = space.count()
    assert (count.exact, count.valid) == (True, len(expected))
    everything = space.sample(len(expected) + 5, rng)
    assert len(everything) == len(expected) and set(everything) == expected
    some = space.sample(3, rng)
    assert len(set(some)) == min(3, len(expected))
    for name, gone in space.removed().items():
        rule = next(c for c in space.constraints if c.name == name)
        names = [k.name for k in space.knobs]
        points = [Config(dict(zip(names, v))) for v in itertools.product(*(k.values for k in space.knobs))]
        assert gone.exact and gone.points == sum(not rule.holds(c, None, None) for c in points)
    for a, b in zip(some, reversed(some)):
        near = space.configs(space.steps(space.rows([a])[0]))
        assert set(near) <= expected - {a} and len(set(near)) == len(near)
        one_knob = {c for c in expected if sum(c[k] != a[k] for k in a) == 1}
        assert one_knob <= set(near)
        rows = space.rows([a, b])
        children = space.configs(space.vary(rows, rows[::-1], rng, 0.3))
        assert set(children) <= expected


@settings(max_examples=30, deadline=None)
@given(spaces())
def test_members_are_the_valid_configs(space: Space) -> None:
    names = [k.name for k in space.knobs]
    expected = valid_configs(space)
    for v in itertools.product(*(k.values for k in space.knobs)):
        c = Config(dict(zip(names, v)))
        assert (c in space) == (c in expected)
    assert Config({"other": 1}) not in space


def large() -> Space:
    """10^9 raw points whose valid ones can be counted by hand: two tied halves."""
    knobs = [Knob(f"k{i}", tuple(range(8)), "") for i in range(10)]
    constraints = [
        Constraint(f"tie{i}", (f"k{i}", f"k{i + 1}"), lambda c, w, d, i=i: c[f"k{i}"] < c[f"k{i + 1}"], "rising")  # type: ignore[misc]
        for i in (0, 1, 2)
    ] + [Constraint("sum", tuple(f"k{i}" for i in range(4, 10)), lambda c, w, d: sum(c.values()) == 21, "sums to 21")]
    return Space("large", knobs, constraints)


def test_a_large_tight_space_is_sampled_evenly_and_counted_closely() -> None:
    space = large()
    rising = math.comb(8, 4)
    ways = np.zeros(1)
    ways[0] = 1
    for _ in range(6):
        ways = np.convolve(ways, np.ones(8))
    truth = rising * int(ways[21])
    count = space.count(limit=1000)
    assert count.raw == 8**10 and abs(count.valid / truth - 1) < 0.1
    drawn = space.sample(2000, np.random.default_rng(3))
    assert len(set(drawn)) == 2000 and all(c in space for c in drawn)
    firsts = np.bincount([c["k4"] for c in drawn], minlength=8) / 2000
    five = np.zeros(1)
    five[0] = 1
    for _ in range(5):
        five = np.convolve(five, np.ones(8))
    expected = np.array([five[21 - v] for v in range(8)]) / ways[21]
    assert np.abs(firsts - expected).max() < 0.05


def test_the_same_seed_draws_the_same_configs() -> None:
    a, b = (large().sample(50, np.random.default_rng(9)) for _ in range(2))
    assert a == b and large().sample(50, np.random.default_rng(10)) != a


def test_what_is_drawn_does_not_depend_on_what_was_listed_before() -> None:
    knobs = [Knob(name, tuple(range(11)), "") for name in "abcd"]  # 11^4 = 14,641 configs: more than are listed unasked
    fresh, listed = Space("fresh", knobs, []), Space("listed", knobs, [])
    every = listed.grid.all(20_000)
    assert every is not None and len(every) == 11**4 and listed.grid.all() is None and listed.grid.all(20_000) is every
    drawn = [space.grid.sample(32, np.random.default_rng(3)) for space in (fresh, listed)]
    assert np.array_equal(*drawn)


def test_an_impossible_space_is_empty() -> None:
    space = Space("none", [Knob("a", (1, 2), "")], [Constraint("never", (), lambda c, w, d: False, "never")])
    assert space.count().valid == 0 and space.sample(4, np.random.default_rng(0)) == []
    assert Config(a=1) not in space


def test_bad_declarations_and_configs_are_named() -> None:
    knob = Knob("a", (1, 2), "")
    with pytest.raises(TemplateError, match="reads \\['b'\\]"):
        Space("bad", [knob], [Constraint("c", ("b",), lambda c, w, d: True, "")])
    with pytest.raises(TemplateError, match="does not declare"):
        Space("sly", [knob, Knob("b", (1, 2), "")], [Constraint("c", ("a",), lambda c, w, d: c["b"] == 1, "")])
    space = Space("plain", [knob])
    with pytest.raises(InvalidConfig, match="a=3 is not one of"):
        space.rows([Config(a=3)])
    with pytest.raises(InvalidConfig, match="unknown or missing"):
        space.rows([Config(a=1, z=1)])
    assert Config(a=True) not in space  # True is not the value 1


@pytest.mark.parametrize("device", ["nvidia-a100", "nvidia-h200", "nvidia-rtx-4090"])
def test_template_spaces_yield_what_their_templates_accept(device: str) -> None:
    chip, workload = by_name(device), Matmul(1000, 1024, 4096, dtype="float16", layout="nt")
    for bound in [b for b in bind(workload, chip) if b.computed == workload][:2]:
        space = bound.space()
        rng = np.random.default_rng(1)
        configs = space.sample(30, rng)
        assert len(configs) == 30
        default = space.default()
        assert default is not None
        rows = space.rows([configs[0], default])
        near, children = space.steps(rows[1]), space.vary(rows, rows[::-1], rng, 0.1)
        configs += [*space.seeds(), *space.configs(near[rng.permutation(len(near))[:10]]), *space.configs(children)]
        assert all(bound.violations(c) == [] for c in configs)
        assert space.count().valid > 1000 and space.count().raw > 10**8
        x, names = space.describe(space.rows(configs))
        assert x.shape == (len(configs), len(names)) and np.isfinite(x).all() and len(set(names)) == len(names)


def test_a_changed_knob_takes_only_values_that_its_own_constraints_leave() -> None:
    knobs = [Knob("wide", tuple(range(64))), Knob("free", (1, 2, 3))]
    space = Space("toy", knobs, [Constraint("few", ("wide",), lambda c, w, d: c["wide"] in (3, 40), "is 3 or 40")])
    rng = np.random.default_rng(1)
    rows = space.rows([Config(wide=3, free=1)] * 100)
    children = space.configs(space.vary(rows, rows, rng, 1.0))
    assert (
        len(children) == 100 and {c["wide"] for c in children} == {3, 40} and {c["free"] for c in children} == {1, 2, 3}
    )
