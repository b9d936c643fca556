"""The campaign's slices: stopped anywhere, resumed anywhere, archived within their size; tables that add up."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.space.knob import Config
from gpu_tune.store.records import Record
from gpu_tune.trial import MEASURED, Candidate, Measurement
from gpu_tune.workload import Matmul
from tests.helpers.processes import wait_until


@pytest.fixture(scope="module")
def campaign() -> Any:
    return importlib.import_module("bench.campaign.__main__")


@pytest.fixture
def ran(campaign: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that ran, in order; the tasks are quick ones of the test's own."""
    names: list[str] = []

    def work(name: str) -> dict[str, Any]:
        names.append(name)
        if "bad" in name:
            raise ValueError("a task that fails")
        if "stop" in name and names.count(name) == 1:
            raise KeyboardInterrupt
        return {"counts": {"ok": 2}} if "tuning" not in name else {"failed": "nothing tuned"}

    def tasks(setup: Any) -> Any:
        for name in ("checks a", "templates bad", "spaces m w 1 0", "spaces m w 2 stop", "again x", "tuning x"):
            phase, _, rest = name.partition(" ")
            yield campaign.Task(phase, rest, lambda name=name: work(name), 0.5)

    monkeypatch.setattr(campaign.tasks, "tasks", tasks)
    return names


def start(campaign: Any, out: Path, *more: str) -> None:
    campaign.main(["run", "--out", str(out), "--kind", "predicted", *more])


def test_a_slice_that_is_interrupted_goes_on_where_it_was(campaign: Any, ran: list[str], tmp_path: Path, capsys: Any):
    start(campaign, tmp_path)
    assert ran[-1] == "spaces m w 2 stop" and set(ran[:-1]) <= {
        "checks a",
        "tuning x",
        "spaces m w 1 0",
        "templates bad",
    }
    before = list(ran)
    start(campaign, tmp_path)
    assert not set(ran[len(before) :]) & set(before[:-1]), "what is done is not done again"
    assert "spaces m w 2 stop" in ran[len(before) :] and "templates bad" in ran
    assert "again x" not in ran, "what was not tuned has nothing to compare"
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["slices"] == 2 and "ValueError" in state["done"]["templates: bad"]["result"]["failed"]
    words = capsys.readouterr().out
    assert "a rehearsal" in words and "nothing tuned" in words
    count = len(ran)
    start(campaign, tmp_path)
    assert len(ran) == count, "a finished campaign has nothing left"


def test_the_phase_furthest_behind_goes_next_and_a_task_that_does_not_fit_waits(campaign: Any, tmp_path: Path):
    made = campaign.Schedule(campaign.Setup(tmp_path, "predicted", None, 1.0, 0))
    task = {p: campaign.Task(p, p, dict, 5.0) for p in campaign.PHASES}
    waiting = {p: [task[p]] for p in campaign.PHASES}
    assert made.next(waiting, 10.0) is task["checks"]
    made.state["spent"].update(checks=10.0, tuning=41.0, spaces=30.0, templates=10.0, again=10.0)
    assert made.next(waiting, 10.0) is task["spaces"], "30 of 33 is further behind than 41 of 42"
    waiting["spaces"] = [campaign.Task("spaces", "long", dict, 60.0)]
    assert made.next(waiting, 10.0) is task["tuning"] and made.next(waiting, 4.0) is None
    start_of_nothing = len(made.state["done"])
    made.run(list(task.values()), 0.0)
    assert len(made.state["done"]) == start_of_nothing


def test_a_task_that_is_cut_short_is_not_done_and_other_phases_can_be_left_out(
    campaign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    rest = campaign.tasks.Unfinished("3 of 9 configs")
    ran: list[str] = []

    def cut() -> Any:
        ran.append("cut")
        raise rest

    def tasks(setup: Any) -> Any:
        yield campaign.Task("spaces", "cut", cut, 0.5)
        yield campaign.Task("checks", "left out", lambda: ran.append("left out") or {}, 0.5)

    monkeypatch.setattr(campaign.tasks, "tasks", tasks)
    for _ in range(2):
        start(campaign, tmp_path, "--phases", "spaces,tuning")
    assert ran == ["cut", "cut"] and json.loads((tmp_path / "state.json").read_text())["done"] == {}
    assert "not done: 3 of 9 configs" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        start(campaign, tmp_path, "--phases", "spaces,nonsense")


def test_a_program_leaves_all_its_words_and_ends_with_the_slice(
    campaign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setup, work = campaign.Setup(tmp_path, "predicted", None, 1.0, 0), campaign.tasks
    command = [sys.executable, "-u", "-c", "import sys; print('x' * 300); print('last'); sys.exit(3)"]
    found = work.program(setup, "tests/gpu/one.py", command)
    assert found["exit"] == 3 and found["tail"][-1] == "last" and len(found["tail"][0]) == 200
    assert (setup.logs / "tests-gpu-one.py.log").read_text() == "x" * 300 + "\nlast\n"
    begun, wait = setup.logs / "long.log", subprocess.Popen.wait

    def until_it_has_begun(process: Any, limit: float | None = None) -> int:
        assert limit is None or wait_until(lambda: "begun" in begun.read_text())
        return wait(process, 0.0 if limit else None)

    monkeypatch.setattr(subprocess.Popen, "wait", until_it_has_begun)
    setup.end = time.monotonic() + 1.0
    with pytest.raises(work.Unfinished, match="at the end of the slice"):
        work.program(setup, "long", [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"])
    assert "begun" in (setup.logs / "long.log").read_text()


def test_archives_are_written_while_tasks_run(campaign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target, seen = tmp_path / "kept", []

    def slow() -> dict[str, Any]:
        (tmp_path / "out" / "logs").mkdir(exist_ok=True)
        (tmp_path / "out" / "logs" / "a.log").write_text("words")

        def archived() -> bool:
            for path in tmp_path.glob("kept-1.tar.gz"):
                with tarfile.open(path) as tar:
                    seen.extend(tar.getnames())
            return "logs/a.log" in seen

        assert wait_until(archived)
        return {}

    def tasks(setup: Any) -> Any:
        yield campaign.Task("checks", "slow", slow, 0.5)

    monkeypatch.setattr(campaign.tasks, "tasks", tasks)
    keeper = campaign.pages.Keeper
    monkeypatch.setattr(campaign.pages, "Keeper", lambda *given: keeper(*given, every=0.1))
    start(campaign, tmp_path / "out", "--archive", str(target))
    assert {"state.json", "environment.json", "logs/a.log"} <= set(seen)
    assert not list(tmp_path.glob("*.new"))


def test_archives_keep_their_size_and_number_and_resume_on_another_machine(
    campaign: Any, ran: list[str], tmp_path: Path
):
    out = tmp_path / "here"
    records = out / "store" / "records" / "predicted"
    records.mkdir(parents=True)
    line = lambda n: json.dumps({"n": n, "x": os.urandom(300).hex()}) + "\n"  # noqa: E731
    (records / "big.jsonl").write_text("".join(map(line, range(1000))))  # 300 kB of noise, compressed
    (records / "small.jsonl").write_text("{}\n")
    (out / "store" / "kernels").mkdir()
    (out / "store" / "kernels" / "whole.cubin").write_bytes(os.urandom(150_000))
    start(campaign, out, "--archive", str(tmp_path / "one"), "--megabytes", "0.1")
    made = sorted(tmp_path.glob("one-*.tar.gz"))
    assert 4 <= len(made) <= 8 and all(p.stat().st_size <= 100_000 for p in made)
    names = []
    for path in made:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert {"state.json", "environment.json", "tables.md", "store/records/predicted/small.jsonl"} <= set(names)
    assert "store/kernels/whole.cubin" not in names, "too large for any archive, and cannot be cut"
    assert "RESULTS.md" not in names, "a rehearsal has no results"
    done = len(ran)
    start(campaign, tmp_path / "there", "--resume", *map(str, made))
    assert "checks a" not in ran[done:] and "spaces m w 2 stop" in ran[done:]
    there = sorted((tmp_path / "there/store/records/predicted").glob("big*.jsonl"))
    numbers = sorted(json.loads(text)["n"] for p in there for text in p.read_text().splitlines())
    assert len(there) > 1 and numbers == list(range(1000)), "cut between lines, nothing lost"
    start(campaign, out, "--archive", str(tmp_path / "one"), "--megabytes", "0.1", "--files", "1", "--seconds", "0")
    assert len(list(tmp_path.glob("one-*.tar.gz"))) == 1


def test_a_hostile_archive_is_refused(campaign: Any, tmp_path: Path):
    for name, kind in (("../evil", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)):
        path = tmp_path / "hostile.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO())
        with pytest.raises(SystemExit, match="no plain file"):
            campaign.archive.restore([path], tmp_path / "out")
        assert not (tmp_path / "evil").exists()


def test_another_chip_is_not_mixed_in(campaign: Any, ran: list[str], tmp_path: Path):
    start(campaign, tmp_path, "--seconds", "0")
    with pytest.raises(SystemExit, match="belongs to predicted nvidia-h200"):
        start(campaign, tmp_path, "--device", "nvidia-a100")


def test_the_real_plan_has_every_phase_and_stable_distinct_names(campaign: Any, tmp_path: Path):
    setup, work = campaign.Setup(tmp_path, "predicted", None, 1.0, 0), campaign.tasks
    names = [(t.phase, t.name) for t in work.tasks(setup)]
    assert {p for p, _ in names} == set(campaign.PHASES) and len(set(names)) == len(names)
    assert names == [(t.phase, t.name) for t in work.tasks(setup)]
    spaces = [n for p, n in names if p == "spaces"]
    assert len(spaces) * work.CHUNK >= work.CONFIGS * 4 * 2, "2,000 configs for at least 4 shapes of 2 templates"
    tuned = [n for p, n in names if p == "tuning"]
    first = work.workloads.FIRST
    assert tuned[0] == first[0] and set(first) <= set(tuned[:12]) and len(tuned) > 100
    assert any(n.startswith("conv2d") for n in tuned[:5])
    for template in setup.templates:
        assert any(p == "templates" and n.startswith(f"{template} ") for p, n in names), template


def timed(number: int, seconds: float, status: str = "ok", **knobs: Any) -> Record:
    samples = (seconds,) if status == "ok" else ()
    m = Measurement(Candidate("t", Config(number=number, **knobs)), status, MEASURED, samples=samples)
    return Record(Matmul(64, 64, 64 * (1 + number % 2)), "chip", "h", m, 0.0, "campaign")


def test_knobs_that_paid_are_told_in_percent(campaign: Any):
    """tile=2 halves every time, stage changes nothing; failures have no time and count as such."""
    found = [timed(i, (1e-3 + 1e-9 * i) / (1 + i // 40), tile=1 + i // 40, stage=i // 4 % 2) for i in range(80)]
    found += [timed(99, 0.0, "run_error", tile=1, stage=1)]
    lines = campaign.pages.results_tables.knobs(found)
    assert "### t: 2 workloads; 80 ok, 1 run_error" in lines
    cells = {tuple(x.split(" | ")[:2]): x.split(" | ") for x in lines if x.startswith("| ")}
    best, median = cells["| tile", "2"][2:4]
    assert abs(float(best.rstrip("%")) - 100) < 0.1 and abs(float(median.rstrip("%")) - 100) < 0.1
    assert abs(float(cells["| stage", "1"][2].rstrip("%"))) < 0.1
    assert cells["| tile", "2"][4:] == ["2", "40", "40 |"]
    assert not any("number" in x for x in lines), "values with fewer than three configs tell nothing"


def tuned(w: Matmul, ours: float, vendor: float) -> dict[str, Any]:
    from gpu_tune.workload import to_dict

    versus = {"ours": ours, "baselines": {"cublaslt": vendor}, "ratio": vendor / ours, "low": 0.9, "high": 1.1}
    absent = {"torch": "PyTorch is not installed"}
    facts = {"template": "t", "source": MEASURED, "seconds": ours, "trials": 5, "default_speedup": 1.5}
    return {"workload": to_dict(w), **facts, "versus": {**versus, "decided": True, "absent": absent}}


def test_results_come_from_measurements_alone(campaign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    to = tmp_path / "RESULTS.md"
    with pytest.raises(SystemExit, match="a rehearsal measures nothing"):
        campaign.main(["results", "--out", str(tmp_path), "--kind", "predicted", "--to", str(to)])
    made = campaign.Schedule(campaign.Setup(tmp_path, "predicted", None, 1.0, 0))
    made.setup.rehearsal = False
    with pytest.raises(SystemExit, match="no workload was tuned yet"):
        campaign.pages.results_page(made)
    a, b = Matmul(512, 512, 512, dtype="bfloat16", layout="nt"), Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt")
    for w, ours, vendor in ((a, 2e-6, 3e-6), (b, 2e-4, 1.9e-4)):
        made.state["done"][f"tuning: {w.key}"] = {"seconds": 1.0, "result": tuned(w, ours, vendor)}
    page = campaign.pages.results_page(made)
    mean = math.sqrt(1.5 * 0.95)
    assert f"2 shapes: geometric mean {mean:.3f}" in page and "decidedly slower on 1" in page
    assert "rehearsal: no time" not in page and "torch was not timed: PyTorch is not installed" in page
    assert not to.exists()


@pytest.mark.slow
def test_a_whole_slice_on_the_virtual_gpu(campaign: Any, fake_cuda: Path, home: Path, tmp_path: Path, capsys: Any):
    out = ["--kind", "gpu", "--toy", "--scale", "0.005", "--jobs", "1", "--out", str(tmp_path / "out")]
    campaign.main(["run", *out, "--seconds", "100", "--archive", str(tmp_path / "slice")])
    state = json.loads((tmp_path / "out/state.json").read_text())
    phases = {key.split(":")[0] for key in state["done"]}
    assert phases == set(campaign.PHASES) and not [k for k, v in state["done"].items() if "failed" in v["result"]]
    told = capsys.readouterr().out
    for word in (
        "a rehearsal",
        "2 shapes: geometric mean",
        "cublaslt us",
        "| threads | ",
        "noise floor",
        "slice-1.tar.gz",
    ):
        assert word in told, word
    with pytest.raises(SystemExit, match="measures nothing"):
        campaign.main(["results", *out, "--to", str(tmp_path / "RESULTS.md")])
