"""Kernel Tuner cache files and T4 results: read with all their quirks, written, and refused when broken or hostile."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.errors import CorruptData, InvalidConfig, InvalidInput
from gpu_tune.space.knob import Config, Knob
from gpu_tune.store.interchange import Recorded, RecordedSpace, RecordedTrial, files, load, save_kernel_tuner, save_t4
from gpu_tune.trial import Candidate, Measurement

DATA = Path(__file__).parents[1] / "data"


def cache(**changes: Any) -> dict[str, Any]:
    """A small Kernel Tuner cache."""
    entries = {
        "16,1": {
            "bx": 16,
            "pad": 1,
            "time": 2.0,
            "times": [2.5, 1.5],
            "compile_time": 300.0,
            "GFLOP/s": 7.5,
            "timestamp": "2024-01-01",
        },
        "16,0": {"bx": 16, "pad": 0, "time": "CompilationFailedConfig"},
        "32,1": {"bx": 32, "pad": 1, "time": "RuntimeFailedConfig", "times": []},
        "32,0": {"bx": 32, "pad": 0, "time": 1e20},
        "64,0": {"bx": 64, "pad": 0, "time": 1.0, "__error__": "InvalidConfig"},
        "64,1": {"bx": 64, "pad": 1, "time": 1.25},
    }
    return {
        "device_name": "GPU X",
        "kernel_name": "k",
        "problem_size": [8, 8],
        "tune_params_keys": ["bx", "pad"],
        "tune_params": {"bx": [64, 32, 16], "pad": [0, 1]},
        "cache": entries,
        **changes,
    }


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_cache_file_is_read_with_its_failures_and_units(tmp_path: Path) -> None:
    r = load(write(tmp_path / "a.json", cache()))
    assert (r.kernel, r.device, r.problem_size, r.objective) == ("k", "GPU X", (8, 8), "time")
    assert [k.values for k in r.knobs] == [(16, 32, 64), (0, 1)]
    by = {tuple(t.config.values()): t for t in r.trials}
    assert (
        by[16, 1].time == 2e-3
        and by[16, 1].samples == (2.5e-3, 1.5e-3)
        and by[16, 1].seconds["compile"] == pytest.approx(0.3)
    )
    assert by[16, 1].extra == {"GFLOP/s": 7.5} and by[16, 1].timestamp == "2024-01-01"
    assert [by[k].status for k in ((16, 0), (32, 1), (32, 0), (64, 0), (64, 1))] == [
        "compile_error",
        "run_error",
        "run_error",
        "invalid",
        "ok",
    ]
    assert r.best.config == Config(bx=64, pad=1)


@pytest.mark.parametrize("ending", ["}}", "}", "", ",", ",\n", ',\n"128,1": {"bx": 128, "pa'])
def test_a_file_left_open_or_torn_by_its_writer_is_read(tmp_path: Path, ending: str) -> None:
    text = json.dumps(cache())
    r = load(write(tmp_path / "open.json", text[:-2] + ending))
    assert len(r.trials) == 6


def test_a_cache_opened_but_still_empty_says_so(tmp_path: Path) -> None:
    text = json.dumps(cache(cache={}))
    with pytest.raises(CorruptData, match="records no config"):
        load(write(tmp_path / "empty.json", text[:-2]))


@pytest.fixture(scope="module")
def first() -> Recorded:
    return load(DATA / "synthetic-a.json.gz")


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
@pytest.mark.parametrize("save", [save_kernel_tuner, save_t4])
def test_round_trips_lose_nothing(tmp_path: Path, first: Recorded, suffix: str, save: Any) -> None:
    save(first, tmp_path / f"out{suffix}")
    again = load(tmp_path / f"out{suffix}")
    if save is save_t4:  # repeats are written even where only their mean was known, and order of knobs is the configs'
        assert (
            again.kernel == first.kernel and again.device == first.device and again.problem_size == first.problem_size
        )
        assert [(t.config, t.time, t.status) for t in again.trials] == [
            (t.config, t.time, t.status) for t in first.trials
        ]
    else:
        assert dataclasses.replace(again, trials=()) == dataclasses.replace(first, trials=())
        assert [(t.config, t.time, t.status, t.reason) for t in again.trials] == [
            (t.config, t.time, t.status, t.reason) for t in first.trials
        ]
    assert list(tmp_path.iterdir()) == [tmp_path / f"out{suffix}"]  # no temporary left


def t4(**changes: Any) -> dict[str, Any]:
    def result(bx: int, invalidity: str, value: Any, **more: Any) -> dict[str, Any]:
        return {
            "configuration": {"bx": bx},
            "times": {"compilation": 5.0, "runtimes": [4.0, 6.0]},
            "invalidity": invalidity,
            "correctness": 1,
            "measurements": [{"name": "time", "value": value, "unit": more.pop("unit", "")}],
            "objectives": ["time"],
            **more,
        }

    return {
        "schema_version": "1.0.0",
        "metadata": {"timeunit": "miliseconds"},
        "results": [
            result(1, "correct", 5.0),
            result(2, "compile", "CompilationFailedConfig"),
            result(3, "runtime", "RuntimeFailedConfig"),
            result(4, "timeout", "x"),
            result(5, "correctness", 3.0),
            result(6, "constraints", "InvalidConfig"),
            result(7, "correct", 4000.0, unit="us"),
            {**result(8, "correct", None), "measurements": []},
        ],
        **changes,
    }


def test_t4_results_are_read_by_invalidity_with_either_spelling_of_the_unit(tmp_path: Path) -> None:
    r = load(write(tmp_path / "t4.json", t4()))
    assert [t.status for t in r.trials] == [
        "ok",
        "compile_error",
        "run_error",
        "run_timeout",
        "wrong",
        "invalid",
        "ok",
        "ok",
    ]
    assert [t.time for t in r.trials if t.time] == pytest.approx([5e-3, 4e-3, 5e-3])
    assert r.trials[0].seconds == {"compile": 5e-3} and r.kernel == "t4"
    seconds = load(write(tmp_path / "s.json", t4(metadata={"timeunit": "seconds"})))
    assert seconds.trials[0].time == 5.0
    with pytest.raises(CorruptData, match="timeunit 'fortnights'"):
        load(write(tmp_path / "f.json", t4(metadata={"timeunit": "fortnights"})))


def test_kernel_tuner_1_4_lists_its_objective(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a.json", cache(objective=["time"]))).best.config == Config(bx=64, pad=1)
    several = load(write(tmp_path / "b.json", cache(objective=["GFLOP/s", "time"])))
    assert several.objective == "time" and several.best.time == 1.25e-3
    with pytest.raises(CorruptData, match="2 objectives without time"):
        load(write(tmp_path / "c.json", cache(objective=["GFLOP/s", "GB/s"])))


def test_names_among_the_problem_sizes_and_floats_of_less_precision_in_keys_are_read(tmp_path: Path) -> None:
    short = {"a": 0.10000000149011612, "b": "x,y", "time": 2.0}  # what json makes of numpy.float32(0.1)
    named = cache(problem_size=["N", 1], tune_params_keys=["a", "b"], tune_params=None, cache={"0.1,x,y": short})
    r = load(write(tmp_path / "a.json", named))
    assert r.problem_size == (1,) and r.trials[0].config["a"] == short["a"]


def metric(objective: Any, name: str, values: tuple[float, ...], **more: Any) -> dict[str, Any]:
    """A cache of a run with another objective, that holds no time."""
    entries = {str(i): {"a": i, name: v} for i, v in enumerate(values)} | {"9": {"a": 9, "__error__": "InvalidConfig"}}
    return cache(objective=objective, tune_params_keys=["a"], tune_params=None, cache=entries, **more)


def test_time_counts_whatever_the_objective_was_else_the_objective_in_its_direction(tmp_path: Path) -> None:
    """GFLOP/s is maximised: its best config is that of most, and the ratio of two costs is the ratio of the metric."""
    timed = cache(objective=["GFLOP/s"])
    timed["cache"]["64,1"]["GFLOP/s"] = 12.0
    r = load(write(tmp_path / "timed.json", timed))
    assert (r.objective, r.best.config, r.best.extra) == ("time", Config(bx=64, pad=1), {"GFLOP/s": 12.0})
    r = load(write(tmp_path / "most.json", metric(["GFLOP/s"], "GFLOP/s", (10.0, 40.0, 20.0))))
    assert (r.objective, r.higher_is_better, r.best.config["a"]) == ("GFLOP/s", True, 1)
    assert r.trials[0].time == 4 * (r.best.time or 0) and r.trials[-1].status == "invalid"
    assert load(write(tmp_path / "least.json", metric("energy", "energy", (3.0, 1.0)))).best.time == 1.0
    stated = metric("fps", "fps", (3.0, 7.0), objective_higher_is_better=[True])
    assert load(write(tmp_path / "fps.json", stated)).best.config["a"] == 1
    with pytest.raises(CorruptData, match="does not say whether more or less is better"):
        load(write(tmp_path / "unknown.json", metric("fps", "fps", (3.0, 7.0))))
    for save in (save_kernel_tuner, save_t4):
        save(r, tmp_path / "again.json")
        again = load(tmp_path / "again.json")
        assert (again.objective, again.higher_is_better, again.best.time) == ("GFLOP/s", True, 1 / 40)


def test_repeats_that_contradict_the_time_are_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = cache()
    mixed["cache"]["64,1"]["times"] = [0.0025, 0.0026]  # microseconds of a run by another tool
    r = load(write(tmp_path / "mixed.json", mixed))
    assert r.best.time == 1.25e-3 and r.best.samples == () and "1 of 6 configs" in caplog.text
    assert r.trials[0].samples == (2.5e-3, 1.5e-3)


def test_an_entry_written_after_the_files_end_or_into_its_last_entry_is_read(tmp_path: Path) -> None:
    """A process that had the file open goes on after it was closed; Kernel Tuner opens a file that ends in ``}}}`` by
    cutting the last entry's brace."""
    text, more = json.dumps(cache()), '"128,1": {"bx": 128, "pad": 1, "time": 0.5}'
    assert text.endswith("}}}")
    for name, torn in {
        "after": f"{text[:-1]}\n}}\n{more},",
        "closed again": f"{text}\n{more}}}\n}}",
        "cut": f"{text[:-3]},\n{more},",
        "cut and closed": f"{text[:-3]},\n{more}}}\n}}",
        "cut alone": f"{text[:-3]},",
    }.items():
        r = load(write(tmp_path / "torn.json", torn))
        assert len(r.trials) == (6 if name == "cut alone" else 7), name
        assert r.trials[5].time == 1.25e-3, name
    save_kernel_tuner(load(write(tmp_path / "a.json", text)), tmp_path / "ours.json")
    assert (tmp_path / "ours.json").read_text().endswith("}}\n}")  # what Kernel Tuner opens without harm


def entry(**changes: Any) -> dict[str, Any]:
    return cache(cache={"16,1": {"bx": 16, "pad": 1, "time": 2.0, **changes}})


HOSTILE = {
    "not json": ("hello", "is not JSON"),
    "a list": ([], "neither"),
    "a number": ("7", "neither"),
    "nothing": ("", "is not JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep object": ('{"cache":' * 50_000, "nested too deeply"),
    "digits": ('{"cache": {"1": ' + "9" * 10_000 + "}}", "is not JSON|not an object|tune_params_keys"),
    "no keys": (cache(tune_params_keys=None), "tune_params_keys"),
    "twice the same key": (cache(tune_params_keys=["bx", "bx"]), "distinct"),
    "other params": (cache(tune_params={"bx": [1]}), "same parameters"),
    "values no list": (cache(tune_params={"bx": 1, "pad": [0]}), "not a list"),
    "entry no object": (cache(cache={"16,1": 3}), "not an object"),
    "entry lacks": (cache(cache={"16,1": {"bx": 16}}), "every parameter"),
    "key disagrees": (cache(cache={"16,1": {"bx": 32, "pad": 1, "time": 1.0}}), "must agree"),
    "no time": (cache(cache={"16,1": {"bx": 16, "pad": 1}}), "neither"),
    "negative": (entry(time=-1.0), "positive"),
    "zero": (entry(time=0.0), "positive"),
    "time a list": (entry(time=[1]), "not a finite number"),
    "time true": (entry(time=True), "not a finite number"),
    "repeats no list": (entry(times=3), "not a list"),
    "repeat nan": (json.dumps(entry(times=[float("nan")])), "not a finite number"),
    "cost inf": (json.dumps(entry(compile_time=float("inf"))), "not a finite number"),
    "problem": (cache(problem_size={"x": 1}), "problem_size|short list"),
    "device": (cache(device_name=["x"]), "device_name"),
    "knob of 1e308": (
        cache(tune_params_keys=["a"], tune_params=None, cache={"1e+308": {"a": 1e308, "time": 1.0}}),
        "up to 1e",
    ),
    "objective no text": (cache(objective=[]), "objective"),
    "knob name": (
        cache(tune_params_keys=["a b"], tune_params=None, cache={"1": {"a b": 1, "time": 1.0}}),
        "not an identifier",
    ),
    "knob value": (
        cache(tune_params_keys=["a"], tune_params=None, cache={"[1]": {"a": [1], "time": 1.0}}),
        "a value is a word",
    ),
    "same config twice": (
        cache(cache={"16,1": {"bx": 16, "pad": 1, "time": 1.0}, "16.0,1": {"bx": 16.0, "pad": 1, "time": 1.0}}),
        "twice",
    ),
    "same key twice": (
        '{"cache": {"1": {"a": 1, "time": 1}, "1": {"a": 1, "time": 2}}, "tune_params_keys": ["a"]}',
        "stands twice",
    ),
    "t4 no configuration": (t4(results=[{}]), "no configuration"),
    "t4 other knobs": (
        t4(results=[*t4()["results"][:1], {"configuration": {"z": 1}, "invalidity": "correct"}]),
        "other parameters",
    ),
    "t4 invalidity a list": (t4(results=[{**t4()["results"][0], "invalidity": []}]), "invalidity"),
    "t4 invalidity": (t4(results=[{**t4()["results"][0], "invalidity": "maybe"}]), "invalidity 'maybe'"),
    "t4 without time": (t4(results=[{"configuration": {"a": 1}, "invalidity": "correct"}]), "neither the measurement"),
    "t4 empty": (t4(results=[]), "records no config"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_broken_and_hostile_files_get_one_clear_error(tmp_path: Path, name: str) -> None:
    content, rule = HOSTILE[name]
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(CorruptData, match=rule) as caught:
        load(path)
    assert "bad.json" in str(caught.value) and len(str(caught.value)) < 600


def test_damaged_compressed_and_oversized_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(json.dumps(cache()).encode())
    for name, body in (
        ("cut", whole[:-20]),
        ("flipped", whole[:40] + b"\x00\xff" * 4 + whole[48:]),
        ("text", b"\xff\xfe\x00"),
    ):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(CorruptData, match=r"gzip|UTF-8"):
            load(tmp_path / name)
    with pytest.raises(InvalidInput, match="cannot be written"):
        save_t4(load(DATA / "synthetic-a.json.gz"), tmp_path / "no" / "folder.json")
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    (tmp_path / "bomb").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(CorruptData, match="more than 1000 bytes"):
        load(tmp_path / "bomb")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "missing.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path)


def test_our_own_measurements_can_be_exported(tmp_path: Path) -> None:
    knobs = (Knob("a", (1, 2, 3), ""), Knob("mode", ("x", "y"), "", ordinal=False))

    def m(a: int, mode: str, status: str, *samples: float) -> Measurement:
        return Measurement(
            Candidate("t", Config(a=a, mode=mode)), status, "measured", samples=samples, seconds={"compile": 0.25}
        )

    measurements = [
        m(1, "x", "ok", 3e-6, 1e-6, 2e-6),
        m(2, "x", "wrong"),
        m(3, "y", "compile_timeout"),
        m(3, "x", "duplicate", 2e-6),
    ]
    trials = tuple(RecordedTrial.of(measurement) for measurement in measurements)
    recorded = Recorded("t", "nvidia-h200-132sm-141gb", knobs, trials, (64,))
    for save, name in ((save_kernel_tuner, "kt.json"), (save_t4, "t4.json.gz")):
        save(recorded, tmp_path / name)
        back = load(tmp_path / name)
        assert [t.time for t in back.trials] == [2e-6, None, None, 2e-6] and back.device == recorded.device
        assert back.trials[0].samples == (3e-6, 1e-6, 2e-6)
    assert [t.status for t in back.trials] == ["ok", "wrong", "run_timeout", "ok"]


def test_a_recorded_space_holds_exactly_its_configs_and_replays_them() -> None:
    space = RecordedSpace(load(DATA / "synthetic-a.json.gz"))
    assert len(space) == space.count().valid == 6504 and space.count().exact
    best = space.recorded.best
    m = space.measurement(best.config)
    assert m.ok and m.source == "replayed" and m.time == best.time == space.optimum
    failed = next(t for t in space.recorded.trials if t.time is None)
    assert space.measurement(failed.config).status == "run_error"
    absent = best.config.replace(thread_m=8, thread_n=8, block_m=16, block_n=16)
    assert absent not in space
    with pytest.raises(InvalidConfig, match="not recorded"):
        space.measurement(absent)
    with pytest.raises(CorruptData, match="no trial has a time"):
        Recorded("k", "d", (Knob("a", (1,), ""),), (RecordedTrial(Config(a=1), "wrong", None),)).best  # noqa: B018


def test_what_is_measured_beside_the_time_and_is_no_number_is_left_out(tmp_path: Path) -> None:
    data = t4()
    data["results"][0]["measurements"].append({"name": "power", "value": float("nan"), "unit": "W"})
    path = tmp_path / "t4.json"
    path.write_text(json.dumps(data))
    recorded = load(path)
    assert "power" not in recorded.trials[0].extra
    save_t4(recorded, tmp_path / "again.json")
