"""Several workloads, one budget: each gets a winner, the budget is kept, and an interrupted run goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

import gpu_tune as gt
from gpu_tune.errors import InvalidInput, Unsupported
from gpu_tune.space.knob import Knob
from gpu_tune.store.records import Records
from gpu_tune.tuner import session as session_module
from gpu_tune.tuner.together import tune_together

SMALL, LARGE = gt.Matmul(20, 18, 16, dtype="float32"), gt.Matmul(200, 180, 160, dtype="float32")


def tune(templates, weights=None, trials=40, **more):
    return tune_together(weights or {SMALL: 1, LARGE: 300}, trials=trials, templates=templates, jobs=1, **more)


def kept():
    return Records().read("predicted")


def test_each_workload_gets_a_checked_winner_and_the_rest_goes_where_it_is_earned(home, templates):
    told = []
    joint = tune(templates, trials=56, on_trial=lambda p: told.append((p.phase, p.trials, p.number)))
    assert set(joint.kernels) == {SMALL, LARGE} and not joint.failed and joint.complete
    assert [w for w, _ in joint.slices[:2]] == [LARGE, SMALL]  # the larger part of the pass is begun with
    assert {w for w, _ in joint.slices[2:]} == {LARGE} and sum(n for _, n in joint.slices) == joint.trials == 56
    assert len(kept()) == 56 and told[-1][:2] == ("done", 56) and {"search", "finals"} <= {p for p, _, _ in told}
    for workload, kernel in joint.kernels.items():
        assert not kernel.measured and any(c["by"] == "emulator" and c["ok"] for c in kernel.verdict["checks"])
        assert gt.load(workload).winner == kernel.winner
        assert kernel.winner.budget["together"] == {"seconds": None, "trials": 56}


def test_the_same_call_answers_from_the_store_and_a_larger_budget_goes_on(home, templates, monkeypatch):
    first = tune(templates, trials=32)
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "open_measurer", None)
        again = tune(templates, trials=32)
    assert {w: k.winner for w, k in again.kernels.items()} == {w: k.winner for w, k in first.kernels.items()}
    assert again.slices == [] and again.trials == 32
    more = tune(templates, trials=48)
    assert sum(n for _, n in more.slices) == 16 and len(kept()) == 48 and more.trials == 48


def test_ctrl_c_keeps_winners_of_what_was_begun_and_the_same_call_goes_on(home, templates):
    def stop(progress):
        if progress.phase == "search" and progress.trials >= 20:
            raise KeyboardInterrupt

    cut = tune(templates, trials=48, on_trial=stop)
    assert not cut.complete and cut.ended == "interrupted" and LARGE in cut.kernels
    assert not cut.kernels[LARGE].winner.complete
    before = len(kept())
    whole = tune(templates, trials=48)
    assert whole.complete and set(whole.kernels) == {SMALL, LARGE} and len(kept()) == 48 > before
    assert len({(r.workload, r.measurement.candidate) for r in kept()}) == 48


def test_ctrl_c_before_anything_is_found_is_an_interruption(home, templates):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(templates, on_trial=stop)


def test_a_workload_of_which_nothing_works_leaves_the_budget_to_the_others(home, templates, monkeypatch):
    monkeypatch.setattr(session_module.Session, "finals", failing(session_module.Session.finals))
    joint = tune(templates, trials=32)
    assert set(joint.kernels) == {LARGE} and joint.failed == {SMALL: "nothing of it is right"}


def failing(finals):
    def run(self, *args):
        if self.workload == SMALL:
            raise gt.WrongResult("nothing of it is right")
        return finals(self, *args)

    return run


def test_bad_input_is_refused_before_anything_is_written(home, templates):
    for words, arguments in (
        ("there are none to tune", {"weights": {}}),
        ("bounds nothing", {"weights": {SMALL: 1}}),
        ("seconds: 0 is not", {"weights": {SMALL: 1}, "seconds": 0}),
        ("jobs: 0 is not", {"weights": {SMALL: 1}, "trials": 5, "jobs": 0}),
    ):
        with pytest.raises(InvalidInput, match=words):
            tune_together(templates=templates, **arguments)
    with pytest.raises(Unsupported):
        tune_together({gt.Matmul(8, 8, 8, layout="tn"): 1}, trials=5, templates=templates)
    assert not (home / "records").exists()


def test_on_the_virtual_gpu_times_are_measured_and_the_vendors_are_known(fake_cuda, home, templates, monkeypatch):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    small = {SMALL: 1, gt.Matmul(24, 18, 16, dtype="float32"): 2}
    good, seen = {"toy": replace(templates["toy"], knobs=knobs)}, []
    going = session_module.Session.slice

    def slice_(self, *args):
        going(self, *args)
        seen.append(self.standing())

    monkeypatch.setattr(session_module.Session, "slice", slice_)
    joint = tune(good, weights=small, trials=8)
    assert set(joint.kernels) == set(small) and all(k.measured for k in joint.kernels.values())
    assert len(seen) == 2 and all(s.vendor > 0 and s.curve for s in seen)
    assert {k.verdict["ours"] for k in joint.kernels.values()} <= {"faster", "tied", "slower"}
    measured = Records().read("measured")
    assert len(measured) == 8 and {r.workload for r in measured} == set(small)
    assert tune(good, weights=small, trials=8).slices == []
