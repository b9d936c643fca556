"""The tuner: first trials, budgets, resumption, interruption, the warm store, the open loop. Compiles are real."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import gpu_tune as gt
from gpu_tune.errors import InvalidInput, MeasureError, NotTuned, StoreError, Unsupported, WrongResult
from gpu_tune.measure.predicted import PredictedMeasurer
from gpu_tune.measure.select import make_measurer
from gpu_tune.space.knob import Config, Knob
from gpu_tune.store.recorded_space import Recorded, RecordedSpace, RecordedTrial
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store
from gpu_tune.trial import Candidate
from gpu_tune.tuner import search_run
from tests.helpers import toy
from tests.helpers.tuning import CHIP, WORKLOAD, tune


def test_a_winner_is_found_checked_emitted_kept_and_found_again(home, templates):
    seen = []
    kernel = tune(templates, on_trial=lambda p: seen.append((p.phase, p.trials)))
    assert kernel.match == "exact" and not kernel.measured and kernel.winner.trials == 12 and kernel.winner.complete
    assert [seen[0][0], seen[1][0]] == ["prepare", "search"] and seen[-1] == ("done", 12) and ("finals", 12) in seen
    assert sorted(os.listdir(kernel.path)) == ["kernel.cu", "kernel.cubin", "launch.json"]
    assert kernel.path.is_relative_to(home / "kernels" / "predicted" / CHIP)
    assert "from its machine code, no GPU ran this" in kernel.source and kernel.verdict["ours"] == "unknown"
    assert any(c["by"] == "emulator" and c["ok"] for c in kernel.verdict["checks"])
    assert kernel.verdict["default"]["speedup"] >= 1.0 - 1e-9
    again = gt.load(WORKLOAD)
    assert again.winner == kernel.winner and again.match == "exact"


def test_the_default_config_is_the_first_trial_and_records_keep_every_trial(home, templates):
    tune(templates)
    records = Records().read("predicted")
    assert len(records) == 12 and Records().read("measured") == []
    assert records[0].measurement.candidate == Candidate("toy", toy.config())
    assert len({r.measurement.candidate for r in records}) == 12
    assert {r.measurement.status for r in records} - {"ok"}  # this template goes wrong often, and that is kept


def test_a_second_call_with_a_warm_store_compiles_and_measures_nothing(home, templates, monkeypatch):
    first = tune(templates)
    monkeypatch.setattr(search_run, "open_measurer", None)
    assert tune(templates).winner == first.winner
    assert tune(templates, trials=5).winner == first.winner


def test_a_larger_budget_goes_on_where_the_last_run_stopped(home, templates):
    tune(templates, trials=6)
    seen = []
    kernel = tune(templates, trials=14, on_trial=lambda p: seen.append(p.resumed))
    records = Records().read("predicted")
    assert max(seen) == 6 and len(records) == 14 and len({r.measurement.candidate for r in records}) == 14
    assert kernel.winner.trials == 14


def test_one_seed_gives_one_run_and_another_seed_another(home, templates, tmp_path, monkeypatch):
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        book = Records(tmp_path / f"r{number}")
        gt.tune(
            WORKLOAD,
            trials=20,
            templates=templates,
            jobs=1,
            seed=seed,
            records=book,
            store=Store(tmp_path / f"s{number}"),
        )
        runs.append(
            [
                r.measurement.candidate.key
                for r in sorted(book.read("predicted"), key=lambda r: r.measurement.candidate.key)
            ]
        )
    assert runs[0] == runs[1] != runs[2]


@pytest.fixture(scope="session")
def spilling(tmp_path_factory):
    """A template half of whose configs spill registers, which makes them much slower."""
    folder = tmp_path_factory.mktemp("spilling")
    made = toy.make(folder)
    bounds = "__launch_bounds__({{ threads }}{% if squeeze %}, {{ 2048 // threads }}{% endif %})"
    (folder / "toy.cu.j2").write_text(toy.SOURCE.replace("__launch_bounds__({{ threads }})", bounds))
    changed = {"threads": (64, 128, 256, 512), "rows": (16, 24, 32, 48), "unroll": (1,), "fault": ("none",)}
    knobs = [Knob(k.name, changed.get(k.name, k.values), k.meaning, k.ordinal) for k in made.knobs]
    knobs.append(Knob("squeeze", (False, True), "registers for full occupancy", False))
    default = toy.config(threads=128, rows=16, unroll=1, squeeze=False)
    return {"toy": replace(made, knobs=tuple(knobs), constraints=(), default=lambda w, d: default)}


def ran(spilling, tmp_path, name, trials=(48,)):
    book = Records(tmp_path / name)
    for n in trials:
        options = {"templates": spilling, "jobs": 2, "records": book, "store": Store(tmp_path / f"s{name}")}
        kernel = gt.tune(WORKLOAD, trials=n, seed=3, **options)
    return kernel, {r.measurement.candidate: r.measurement for r in book.read("predicted")}


@pytest.mark.slow
def test_builds_of_a_kind_that_never_came_near_are_pruned_alike_in_every_run(home, spilling, tmp_path):
    kernel, first = ran(spilling, tmp_path, "a")
    left = [m for m in first.values() if m.status == "pruned"]
    assert len(left) >= 2 and all("spills registers: the best of" in m.reason for m in left)
    assert all(m.resources.spill_bytes > 64 and m.samples == () for m in left)
    assert sum(m.status in ("ok", "duplicate") for m in first.values()) >= 24  # at least half of each batch
    assert kernel.winner.resources.spill_bytes <= 64 and kernel.winner.trials == 48
    _, again = ran(spilling, tmp_path, "b")
    told = [{c: (m.status, m.reason, m.samples) for c, m in run.items()} for run in (first, again)]
    assert told[0] == told[1]


def test_a_resumed_run_goes_on_with_what_was_pruned(home, spilling, tmp_path):
    kernel, book = ran(spilling, tmp_path, "a", trials=(32, 48))
    left = [c for c, m in book.items() if m.status == "pruned"]
    assert left and len(book) == 48 == kernel.winner.trials  # none of them was asked for again
    assert Candidate(kernel.template, kernel.config) not in left


def test_an_exhausted_space_ends_the_run_and_is_not_searched_again(home, templates, monkeypatch):
    small = toy.make(Path(templates["toy"].folder))
    knobs = tuple(Knob(k.name, k.values if k.name == "unroll" else (toy.config()[k.name],), "") for k in small.knobs)
    few = {"toy": replace(small, knobs=knobs)}
    kernel = tune(few, trials=50)
    assert kernel.winner.trials == 3 and kernel.winner.budget["ended"] == "exhausted"
    monkeypatch.setattr(search_run, "open_measurer", None)
    assert tune(few, trials=1000).winner == kernel.winner


def test_a_budget_of_seconds_ends_the_run(home, templates):
    kernel = gt.tune(WORKLOAD, seconds=0.01, templates=templates, jobs=1)
    assert kernel.winner.budget["ended"] == "seconds" and kernel.winner.trials >= 1  # one time is always waited for


def test_cancelled_trials_are_not_compiled(home, templates, tmp_path):
    configs = [toy.config(threads=t, rows=r, unroll=1) for t in (32, 64, 128) for r in (1, 2, 4, 8)]
    with make_measurer(WORKLOAD, kind="predicted", jobs=1, templates=templates, store=tmp_path / "own") as measurer:
        futures = [measurer.submit(Candidate("toy", c)) for c in configs]
        assert all(f.cancel() for f in futures[2:])
        assert futures[0].result().ok
    assert 1 <= len(list((tmp_path / "own" / "compiled").rglob("*.bin"))) <= 4


def test_bad_input_is_refused_before_anything_is_compiled_or_written(home, templates):
    for error, call in (
        (InvalidInput, lambda: tune(templates, trials=0)),
        (InvalidInput, lambda: tune(templates, seconds=-1.0)),
        (InvalidInput, lambda: tune(templates, effort="much")),
        (InvalidInput, lambda: tune(templates, seed=-1)),
        *((InvalidInput, lambda t=t: tune(templates, target=t)) for t in ("fast", "", 0, -1.03, True, "1.03m", 3e-4)),
        *((InvalidInput, lambda t=t: tune(templates, target=t)) for t in ("0us", float("nan"), "1e999s", "11")),
        (InvalidInput, lambda: tune(templates, target=1.03)),  # predicted times compare with no vendor library
        (InvalidInput, lambda: tune(templates, device="nvidia-h2000")),
        (MeasureError, lambda: tune(templates, kind="gpu")),
        (Unsupported, lambda: gt.tune(gt.Matmul(8, 8, 8, dtype="float32", layout="tt"), templates=templates)),
    ):
        with pytest.raises(error):
            call()
    assert sorted(os.listdir(home)) == ["compiled", "emulator"]


def test_a_target_time_ends_the_run_and_is_answered_from_the_store(home, templates, monkeypatch):
    kernel = tune(templates, trials=60, target="1ms")
    assert kernel.winner.budget["ended"] == "target" and kernel.winner.trials < 60 and kernel.seconds < 1e-3
    assert kernel.winner.budget["target"] == "1000us"
    monkeypatch.setattr(search_run, "open_measurer", None)
    assert tune(templates, trials=60, target="0.001 s").winner == kernel.winner


def test_a_target_out_of_reach_leaves_the_other_bounds(home, templates):
    assert tune(templates, trials=12, target="1ns").winner.budget["ended"] == "trials"


def test_a_target_that_does_not_hold_when_confirmed_is_searched_for_further(home, templates, monkeypatch):
    base = templates["toy"]  # without faults: a kernel that traps at once is predicted to be fast
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in base.knobs)
    templates = {"toy": replace(base, knobs=knobs)}
    fast = tune(templates, trials=40)
    finals, goals = PredictedMeasurer.finals, []

    def slower(self, candidates, **more):  # as when the trials were lucky
        found = finals(self, candidates, **more)
        return replace(
            found, finalists=tuple(replace(c, samples=tuple(1.5 * s for s in c.samples)) for c in found.finalists)
        )

    monkeypatch.setattr(PredictedMeasurer, "finals", slower)
    target = f"{1.2 * fast.seconds * 1e9}ns"  # the trials get there, the confirmations never do
    kernel = tune(templates, trials=40, target=target, force=True, on_trial=lambda p: goals.append(p.goal))
    assert kernel.winner.budget["ended"] == "trials" and kernel.winner.trials == 40
    tried = list(dict.fromkeys(g for g in goals if g is not None))
    assert len(tried) >= 2 and tried == sorted(tried, reverse=True)


def test_an_unusable_store_is_refused_before_anything_is_compiled(home, templates, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(search_run, "open_measurer", None)
    with pytest.raises(StoreError, match="GPU_TUNE_CACHE_DIR"):
        tune(templates, store=Store(tmp_path / "file"))


def test_a_template_that_only_computes_wrong_things_gives_no_winner(home, templates):
    base = templates["toy"]
    knobs = tuple(Knob(k.name, ("wrong", "partial"), "") if k.name == "fault" else k for k in base.knobs)
    wrong = replace(base, knobs=knobs, default=lambda w, d: toy.config(fault="wrong"))
    with pytest.raises(WrongResult, match="no config of matmul-20x18x16-float32-nn gave a checked kernel"):
        tune({"toy": wrong}, trials=6)
    assert list(Store().entries()) == []


def test_a_damaged_winner_is_made_again_from_the_records(home, templates):
    kernel = tune(templates)
    (kernel.path / "kernel.cubin").write_bytes(b"")
    again = tune(templates)
    assert again.config == kernel.config and again.cubin == kernel.cubin
    assert len(Records().read("predicted")) == 12


def test_a_changed_template_is_tuned_again_but_still_loads(home, templates, tmp_path):
    tune(templates, trials=4)
    changed = toy.make(tmp_path)
    changed.source.write_text(changed.source.read_text() + "\n// another version\n")
    assert gt.load(WORKLOAD).match == "exact"
    tune({"toy": changed}, trials=4)
    assert len(Records().read("predicted")) == 8 and gt.load(WORKLOAD).winner.template_hash == changed.hash()


def test_load_without_a_winner_is_the_untuned_default_and_says_how_to_tune(home, monkeypatch):
    with pytest.warns(
        UserWarning, match=r"gpu-tune tune matmul --m 20 --n 18 --k 16 --dtype float32 --layout nn .*untuned default"
    ):
        kernel = gt.load(WORKLOAD)
    assert kernel.match == "default" and kernel.cubin and "not timed" in kernel.source and "0 ns" not in kernel.source
    monkeypatch.setenv("GPU_TUNE_STRICT", "1")
    with pytest.raises(NotTuned, match="gpu-tune tune matmul"):
        gt.load(WORKLOAD)
    monkeypatch.delenv("GPU_TUNE_STRICT")
    with pytest.raises(NotTuned):
        gt.load(WORKLOAD, strict=True)


def test_load_of_a_winner_needs_no_compiler(home, templates, tmp_path):
    tune(templates, trials=4)
    code = (
        "import gpu_tune as gt, sys; k = gt.load(gt.Matmul(20, 18, 16, dtype='float32'), device='nvidia-h200');"
        "print(k.match, len(k.cubin) > 0,"
        " [m for m in ('cupy', 'lightgbm', 'gpu_tune.search.search') if m in sys.modules])"
    )
    env = {**os.environ, "GPU_TUNE_NVRTC": "/nonexistent", "PATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=2) == ["exact", "True", "[]\n"]


def test_the_open_loop_works_on_any_space_and_finds_the_optimum():
    knobs = (Knob("x", tuple(range(12)), ""), Knob("y", tuple(range(12)), ""))
    trials = tuple(
        RecordedTrial(Config(x=x, y=y), "ok", 1e-5 * (1 + (x - 8) ** 2 + (y - 3) ** 2))
        for x in range(12)
        for y in range(12)
    )
    space = RecordedSpace(Recorded("bowl", "somewhere", knobs, trials))
    loop = gt.Tuner(spaces=[space], seed=1)
    asked = []
    while len(asked) < 60:
        batch = loop.ask(8)
        asked += batch
        loop.tell(space.measurement(c.config) for c in batch)
    assert len(set(asked)) == len(asked) and loop.best.candidate.config == Config(x=8, y=3)
    with pytest.raises(InvalidInput, match="needs a workload or spaces"):
        gt.Tuner()
    with pytest.raises(InvalidInput, match="workload: 'x' is not a Matmul or Conv2d"):
        gt.Tuner("x")
