"""bench.search and bench.transfer on the synthetic spaces, through their command lines."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidInput
from gpu_tune.space.knob import Config, Knob
from gpu_tune.store.interchange import Recorded, save_t4
from gpu_tune.store.recorded_space import RecordedTrial
from gpu_tune.store.records import Record, Records
from gpu_tune.templates.bound import BoundTemplate, hardware
from gpu_tune.templates.registry import registry
from gpu_tune.trial import PREDICTED, Candidate, Measurement
from gpu_tune.workload import Matmul

ROOT = Path(__file__).parents[2]
SPACES = [str(ROOT / "tests" / "data" / f"synthetic-{c}.json.gz") for c in "abc"]


def script(name: str) -> ModuleType:
    return importlib.import_module(f"bench.{name}")


@pytest.mark.slow
def test_searchers_are_replayed_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, curves = tmp_path / "out.json", tmp_path / "curves.npz"
    command = [*SPACES[:2], "--searchers", "random,ga,trees", "--seeds", "2", "--trials", "50", "--json", str(out)]
    assert script("search.__main__").main([*command, "--curves", str(curves)]) == 0
    result = json.loads(out.read_text())
    kept = np.load(curves)
    assert {kept[name].shape for name in kept} == {(2, 50)} and len(kept.files) == 6
    own = result["searchers"]["random"]["spaces"]["synthetic-a"]
    assert own["reached_0.99"] == np.mean(kept["random|synthetic-a"][:, -1] >= 0.99)
    assert result["marks"] == [25, 50] and set(result["searchers"]) == {"random", "ga", "trees"}
    for r in result["searchers"].values():
        assert (
            all(a <= x <= b for a, x, b in zip(r["low"], r["ratio"], r["high"]))
            and 0 < r["ratio"][0] <= r["ratio"][1] <= 1
        )
    assert set(result["differences"]) == {"ga - random", "trees - random", "trees - ga"}
    assert "synthetic-a" in capsys.readouterr().out


def test_runs_are_kept_in_a_file_and_a_judgement_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, main, out = tmp_path / "runs.jsonl", script("search.__main__").main, tmp_path / "out.json"
    command = [SPACES[0], "--trials", "24", "--runs", str(kept), "--seeds", "3", "--searchers", "random,ga"]
    assert main([*command, "--minutes", "0", "--searchers", "random"]) == 0  # one run, then the time is over
    assert len(kept.read_text().splitlines()) == 1
    whole = kept.read_text()
    kept.write_text(whole + whole[:50])  # broken off while it was written
    assert main(command) == 0
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len({(run["searcher"], run["seed"]) for run in lines}) == len(lines) == 6
    assert lines[0] == json.loads(whole) and all(len(run["order"]) == 24 for run in lines)
    assert main([*command, "--table", "--seeds", "5", "--json", str(out)]) == 0  # of five seeds, those that are there
    assert len(kept.read_text().splitlines()) == 6
    found = json.loads(out.read_text())
    ahead, low, high = found["means"]["all"]["ahead"]["ga - random"]["at"][0]
    assert found["seeds"] == [0, 1, 2] and low <= ahead <= high
    mean = found["means"]["all"]["mean"]
    assert ahead == pytest.approx(mean["ga"][0] - mean["random"][0]) and "ga - random" in capsys.readouterr().out
    lines[-1]["code"] = "of yesterday"
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([*command, "--table"]) == 2 and "begin another file" in capsys.readouterr().out


def test_pipelined_runs_choose_before_the_last_batch_is_known() -> None:
    search = script("search.runs")
    args = argparse.Namespace(trials=60, batch=16, settings="{}", pipelined=True)
    space = search.space_of(SPACES[0])
    order, _ = search.ours(space, "ga", 0, 60, args, [])
    args.pipelined = False
    other, _ = search.ours(space, "ga", 0, 60, args, [])
    assert len(order) == len(other) == 60 and order != other
    late, _ = search.ours(space, "cold-late", 0, 40, args, [])
    args.pipelined = True
    assert late == search.ours(space, "cold", 0, 40, args, [])[0]


def test_kernel_tuner_strategies_count_distinct_configs() -> None:
    pytest.importorskip("kernel_tuner", reason="kernel_tuner is not installed")
    search = script("search.peers")
    space = script("search.runs").space_of(SPACES[0])
    for strategy in ("genetic_algorithm", "random_sample"):
        order, _ = search.kernel_tuner(space, strategy, 0, 60)
        known = set(space.times().tolist())
        assert len(order) == 60 and set(order) <= known
        again, _ = search.kernel_tuner(space, strategy, 0, 60)
        assert np.array_equal(order, again)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_optuna_samplers_count_distinct_configs_of_the_space(sampler: str) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    pytest.importorskip("cmaes", reason="cmaes is not installed")
    space = script("search.runs").space_of(SPACES[0])
    order, _ = script("search.peers").optuna(space, sampler, 0, 40)
    assert len(order) == 40 and set(order) <= set(space.times().tolist())
    assert order == script("search.peers").optuna(space, sampler, 0, 40)[0]


def test_the_plain_reference_never_repeats_itself_and_learns() -> None:
    space = script("search.runs").space_of(SPACES[0])
    plain = script("search.plain").plain
    order = plain(space, 3, 104)
    assert len(order) == 104 and order == plain(space, 3, 104)
    times = np.sort(space.times())
    assert np.isin(order, times).all() and np.sort(order)[: len(order) // 8].max() < np.quantile(times, 0.05)


def test_another_checkout_is_replayed_beside() -> None:
    search = script("search.runs")
    args = argparse.Namespace(trials=24, batch=16, settings="{}", pipelined=False)
    here = search.run((SPACES[0], "cold", 1, args, []))
    there = search.run((SPACES[0], f"at:{ROOT}", 1, args, []))
    assert here[3] == there[3]
    with pytest.raises(InvalidInput, match="is no checkout"):
        search.run((SPACES[0], f"at:{ROOT}/tests", 1, args, []))


def test_history_of_a_kernel_that_shares_a_knob_is_given_to_unrelated_runs(tmp_path: Path) -> None:
    search, names = script("search.runs"), {}
    for name, knobs in {"a": ("x", "y"), "b": ("x", "z"), "c": ("u", "v")}.items():
        grid = [dict(zip(knobs, pair)) for pair in np.ndindex(6, 6)]
        trials = tuple(RecordedTrial(Config(c), "ok", 1.0 + sum(c.values())) for c in grid)
        names[name] = str(tmp_path / f"{name}.json.gz")
        save_t4(Recorded(name, "chip", tuple(Knob(k, tuple(range(6))) for k in knobs), trials), names[name])
    paths = list(names.values())
    assert [search.unrelated(p, paths) for p in paths] == [[names["b"]], [names["a"]], []]
    args = argparse.Namespace(trials=16, batch=16, settings="{}", pipelined=False)
    logged = search.logs(paths, args, map)
    given = search.history("unrelated", names["a"], 0, paths, logged)
    assert [g.name for g in given] == ["a"] and len(given[0].configs) == 36
    assert search.run((names["a"], "unrelated", 0, args, given))[3][-1] > 0
    assert search.history("misled", names["a"], 0, paths, logged) == []  # no other device
    upside_down = search.mirrored(given[0], search.space_of(names["b"]))
    assert upside_down.times == given[0].times and len(upside_down.configs) == 36
    assert all(c["x"] == 5 - was["x"] for c, was in zip(upside_down.configs, given[0].configs))


def test_unknown_searchers_and_files_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("search.__main__").main(["missing.json"]) == 2
    assert script("transfer.__main__").main(["missing.json"]) == 2
    assert script("search.__main__").main([SPACES[0], "--searchers", "colld"]) == 2
    assert script("search.__main__").main([SPACES[0], "--searchers", "random", "--minutes", "0", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith("error: ") for line in printed[:3]] == [True] * 3 and "random" in printed[4] + printed[5]


@pytest.mark.slow
def test_chips_are_left_out_and_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert script("transfer.__main__").main([*SPACES, "--json", str(out)]) == 0
    (chips,) = json.loads(out.read_text())["rows"]
    assert chips["left out"] == "chips" and chips["result"]["groups"] == 3
    top = chips["result"]["top"]
    assert top["1"]["mean"] <= top["3"]["mean"] <= top["5"]["mean"]
    assert top["5"]["mean"] > chips["result"]["random"]["5"]["mean"] + 0.1
    assert "chips" in capsys.readouterr().out


@pytest.mark.slow
def test_shapes_are_left_out_of_records_and_predicted_ones_are_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, template = by_name("nvidia-h200"), registry()["matmul_mma"]
    book = Records(tmp_path / "records")
    book.prepare()
    rng = np.random.default_rng(0)
    for m, n, k in ((512, 512, 512), (1024, 512, 2048), (2048, 2048, 512), (4096, 1024, 1024), (256, 4096, 4096)):
        workload = Matmul(m, n, k, dtype="float16", layout="nt")
        space = BoundTemplate(template, workload, device).space()
        configs = space.sample(40, rng)
        x, names = hardware(space.bound, configs)
        bound, depth = (x[:, names.index(name)] for name in ("log2 bound seconds", "log2 bytes in flight"))
        times = 2.0**bound * (1 + 0.05 * np.abs(depth - 15)) * rng.lognormal(0, 0.02, 40)  # what an expert would expect
        for config, seconds in zip(configs, times):
            candidate = Candidate(template.name, config)
            ended = Measurement(candidate, "ok", PREDICTED, samples=(float(seconds),))
            book.append(Record(workload, device.chip, template.hash(), ended))
    book.close()
    out = tmp_path / "out.json"
    assert script("transfer.__main__").main([str(book.folder), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    (shapes,) = json.loads(out.read_text())["rows"]
    assert shapes["left out"] == "shapes" and shapes["result"]["groups"] == 5 == shapes["result"]["left_out"]
    assert shapes["family"] == "predicted matmul_mma" and "predicted matmul_mma" in printed
    top, chance = shapes["result"]["top"], shapes["result"]["random"]
    assert [k in printed for k in ("top 1", "top 3", "top 5")] == [True] * 3
    assert top["1"]["mean"] <= top["3"]["mean"] <= top["5"]["mean"]
    assert top["1"]["mean"] > chance["1"]["mean"] + 0.1 and shapes["result"]["pairwise_accuracy"] > 0.6


@pytest.mark.slow
def test_the_searchs_own_time_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert script("search.time").main([SPACES[0], "--templates", "", "--trials", "40", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [r["space"].split(",")[0] for r in rows] == ["synthetic-a", "made-up", "10^8 points", *2 * ["one predicate"]]
    assert rows[1]["valid"] > 10**8 == rows[2]["valid"] > rows[3]["valid"] > 0
    assert all(0 < r["median"] <= r["worst"] and r["asks"] >= 4 for r in rows[:-1]) and rows[-1]["asks"] == 3
    assert "CPU seconds" in capsys.readouterr().out
    assert script("search.time").main(["--templates", "matmul_none"]) == 2
