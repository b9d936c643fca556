"""The first batch on a chip without records is what the performance model expects most of; played once, then kept."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

import gpu_tune as gt
from gpu_tune.cuda.device import by_name
from gpu_tune.model import foreseen
from gpu_tune.search.search import ALIKE, BATCH, STARTS, Tuner
from gpu_tune.space.knob import Knob
from gpu_tune.store.records import Record, Records
from gpu_tune.templates.registry import bind
from gpu_tune.trial import PREDICTED, Candidate
from gpu_tune.tuner import foresee
from gpu_tune.workload import Matmul
from tests.helpers.searching import result
from tests.helpers.tuning import WORKLOAD, tune

W = Matmul(1024, 1024, 1024, dtype="float16", layout="nt")


@pytest.fixture
def good(templates):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    return {"toy": replace(templates["toy"], knobs=knobs)}


def test_what_is_played_is_spread_over_spaces_and_tiles():
    spaces = [b.space() for b in bind(W, by_name("nvidia-a100"))]
    played = foresee.spread(spaces, 64, seed=0)
    assert len(played) == len(set(played)) == 64 and played == foresee.spread(spaces, 64, seed=0)
    by_space = Counter(c.template for c in played)
    assert set(by_space) == {s.name for s in spaces} and min(by_space.values()) > 64 // len(spaces) - 4
    assert {Candidate(s.name, s.default()) for s in spaces} < set(played)
    space = {s.name: s for s in spaces}
    tiles = Counter((c.template, space[c.template].tile(c.config)) for c in played)
    assert max(tiles.values()) <= 8


def test_the_least_predictions_are_asked_first_and_few_of_one_tile():
    spaces = [b.space() for b in bind(W, by_name("nvidia-a100")) if b.name == "matmul_mma"]
    (space,) = spaces
    played = foresee.spread(spaces, 128, seed=1)
    times = {c: 1.0 + n for n, c in enumerate(reversed(played))}
    alike = space.tile(min(times, key=times.__getitem__).config)
    times = {c: t / 1e3 if space.tile(c.config) == alike else t for c, t in times.items()}
    tuner, again = Tuner(spaces=spaces), Tuner(spaces=spaces)
    terms = {c: {"seconds": t} for c, t in times.items()}
    tuner.expect(terms)
    again.expect(dict(reversed(terms.items())))
    batch = tuner.ask()
    assert batch == again.ask(), "the order in which predictions are told does not matter"
    assert batch[0] == Candidate("matmul_mma", space.default()) and batch[1].config in space.seeds()
    asked = [c for c in batch[2:] if c in times]
    assert [times[c] for c in asked] == sorted(times[c] for c in asked) and asked
    assert sum(space.tile(c.config) == alike for c in asked) <= ALIKE * BATCH


def test_a_run_that_was_cut_short_goes_on_among_what_was_predicted(tmp_path, monkeypatch):
    """Nothing is played again, and what was tried is not asked for."""
    chip = by_name("nvidia-a100")
    (bound,) = (b for b in bind(W, chip) if b.name == "matmul_mma")
    space, records = bound.space(), Records(tmp_path)
    measurer = cast(Any, SimpleNamespace(bound={bound.name: bound}, device=chip))
    for n, candidate in enumerate(foresee.spread([space], 64, seed=1)):
        told = replace(result(candidate, 1.0 + n), source=PREDICTED, prediction={"seconds": 1.0 + n})
        records.append(Record(bound.computed, chip.chip, bound.hash, told, float(n), "earlier"))
    monkeypatch.setattr(foresee, "foresee", None)

    def expected(tuner: Tuner, tried: bool) -> Tuner:
        foresee.expect(tuner, measurer, records, (64, 60.0), taught=False, tried=tried, run="now")
        return tuner

    whole = expected(Tuner(spaces=[space]), tried=False)
    first, following = whole.ask(8), whole.ask(8)
    cut = Tuner(spaces=[space])
    cut.tell([result(c, 2.0) for c in first])
    begun = math.ceil(STARTS * 8)
    assert expected(cut, tried=True).ask(8)[:begun] == following[:begun]
    none, other = Tuner(spaces=[space]), Tuner(spaces=[space])
    records = Records(tmp_path / "none")
    assert expected(none, tried=True).ask(2) == other.ask(2), "where nothing was predicted, nothing is told"


@pytest.mark.slow
def test_a_first_run_times_what_is_expected_and_a_second_one_plays_nothing(fake_cuda, home, good, monkeypatch):
    tune(good, trials=8)
    predicted = {r.measurement.candidate: r.measurement.time for r in Records().read("predicted")}
    tried = [r.measurement.candidate for r in sorted(Records().read("measured"), key=lambda r: r.time)]
    assert 20 <= len(predicted) <= 32 and len(tried) == 8
    best = sorted(predicted, key=lambda c: (predicted[c], c.key))
    assert len(set(best[:4]) & set(tried)) >= 3, "the starts leave a quarter of a batch to the search"
    monkeypatch.setattr(foresee, "foresee", None)
    tune(good, trials=10)  # this chip has records now
    for segment in Records().segments("measured"):
        segment.unlink()
    again = tune(good, trials=8, force=True)  # without them, what was predicted is read
    assert again.measured and {r.measurement.candidate for r in Records().read("predicted")} == set(predicted)


@pytest.mark.slow
def test_records_of_another_workload_name_configs_to_play_and_correct_their_order(fake_cuda, home, good, monkeypatch):
    asked, ordered = [], foreseen.scores

    def spy(space, predictions, history, seed):
        asked.append(
            (dict(predictions), [g for g in history if g.chip == space.device.chip and g.predicted is not None])
        )
        return ordered(space, predictions, history, seed)

    monkeypatch.setattr(foreseen, "scores", spy)
    tune(good, trials=8)
    first, history = asked.pop()
    assert len(first) >= 20 and not history
    gt.tune(replace(WORKLOAD, m=40), trials=8, templates=good, jobs=1)
    second, history = asked.pop()
    assert len(history) == 1 and len(history[0].times) == 8, (
        "what was timed of the other workload, with its predictions"
    )
    assert len(second) <= len(first) // 2 + 1 and not asked
    records = [r for r in Records().read("predicted") if r.workload.m == 40]
    assert {r.measurement.candidate.config for r in records} == set(second)


def test_on_the_predicted_device_nothing_is_foreseen(home, good, monkeypatch):
    monkeypatch.setattr(foresee, "foresee", None)
    assert tune(good, trials=4).winner.source == "predicted"
    assert WORKLOAD.key in {r.workload.key for r in Records().read("predicted")}
