"""Needle spaces: one config alone above everything near it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.search.needles import distinct, hidden, main, met, needle
from bench.search.plain import plain
from gpu_tune.errors import InvalidInput
from gpu_tune.space.knob import Config, Knob
from gpu_tune.store.interchange import RecordedSpace, load
from gpu_tune.store.recorded_space import Recorded, RecordedTrial

DATA = Path(__file__).parents[1] / "data" / "synthetic-a.json.gz"


@pytest.mark.slow
def test_a_needle_stands_alone_and_comes_from_its_seed(tmp_path: Path) -> None:
    whole = load(DATA)
    before = min(t.time for t in whole.trials if t.time is not None)
    assert main([str(DATA), "--seeds", "3", "--out", str(tmp_path)]) == 0
    made, again = load(tmp_path / "synthetic-a-needle3.json.gz"), needle(whole, 3)
    assert made.best.config == again.best.config != needle(whole, 4).best.config
    space = RecordedSpace(again)
    times, rows, best = space.times(), space.rows(t.config for t in again.trials), int(np.argmin(space.times()))
    assert 1.05 <= before / times[best] <= 1.10 and np.sort(times)[1] == before
    assert 1.15 <= times[(rows != rows[best]).sum(axis=1) == 1].min() / times[best] <= 1.20
    assert [t.time for i, t in enumerate(again.trials) if i != best] == [
        t.time for i, t in enumerate(whole.trials) if i != best
    ]


def test_a_flat_space_has_no_needle() -> None:
    trials = tuple(RecordedTrial(Config(a=i), "ok", 1.0 + 0.001 * i) for i in range(9))
    with pytest.raises(InvalidInput, match="no config has a fastest neighbour"):
        needle(Recorded("flat", "none", (Knob("a", tuple(range(9))),), trials), 0)


def test_a_run_is_the_one_on_the_recorded_space_until_it_meets_the_needle() -> None:
    whole = load(DATA)
    space, other = RecordedSpace(whole), RecordedSpace(needle(whole, 6))
    before, after = hidden(whole, 6)
    assert after == other.optimum and distinct(space.times(), before) and not distinct(np.array([before] * 2), before)
    order, direct = plain(space, 1, 40), plain(other, 1, 40)
    first = order.index(before)  # this run meets it
    told = met(order, before, after)
    assert told[: first + 1] == direct[: first + 1] and told[first] == after == min(told)
    assert told[first + 1 :] == order[first + 1 :]
