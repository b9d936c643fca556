"""The campaign's slices: stopped anywhere, resumed anywhere, archived within their size."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[2] / "bench" / "campaign.py"


@pytest.fixture(scope="module")
def campaign() -> Any:
    specification = importlib.util.spec_from_file_location("bench_campaign", PATH)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["bench_campaign"] = module
    specification.loader.exec_module(module)
    return module


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

    def tasks(self: Any) -> Any:
        for name in ("conformance a", "templates bad", "spaces 1", "spaces stop", "again x", "tuning x", "spaces 2"):
            phase, _, rest = name.partition(" ")
            yield campaign.Task(phase, rest, lambda name=name: work(name))

    monkeypatch.setattr(campaign.Campaign, "tasks", tasks)
    return names


def start(campaign: Any, out: Path, *more: str) -> None:
    campaign.main(["run", "--out", str(out), "--kind", "modelled", *more])


def test_a_slice_that_is_interrupted_goes_on_where_it_was(campaign: Any, ran: list[str], tmp_path: Path, capsys: Any):
    start(campaign, tmp_path)
    assert ran == ["conformance a", "templates bad", "spaces 1", "spaces stop"]
    start(campaign, tmp_path)
    assert ran[4:] == ["spaces stop", "tuning x", "spaces 2", "again x"], "what is done is not done again"
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["slices"] == 2 and "ValueError" in state["done"]["templates: bad"]["result"]["failed"]
    words = capsys.readouterr().out
    assert "modelled: a rehearsal" in words and "nothing tuned" in words
    start(campaign, tmp_path)
    assert len(ran) == 8, "a finished campaign has nothing left"


def test_a_slice_without_time_runs_nothing_and_a_phase_beyond_its_share_waits(
    campaign: Any, ran: list[str], tmp_path: Path
):
    start(campaign, tmp_path / "a", "--seconds", "0")
    assert ran == []
    start(campaign, tmp_path / "b", "--total", "0")
    assert ran[:2] == ["conformance a", "templates bad"], "with no share left the order of the list remains"


def test_an_archive_resumes_on_another_machine_and_keeps_its_size(campaign: Any, ran: list[str], tmp_path: Path):
    out = tmp_path / "here"
    records = out / "store" / "records"
    records.mkdir(parents=True)
    (records / "big.jsonl").write_bytes(__import__("os").urandom(300_000))
    (records / "small.jsonl").write_text("{}\n")
    start(campaign, out, "--archive", str(tmp_path / "one.tar.gz"))
    start(campaign, out, "--archive", str(tmp_path / "tight.tar.gz"), "--megabytes", "0.1", "--seconds", "0")
    assert (tmp_path / "tight.tar.gz").stat().st_size < 100_000 < (tmp_path / "one.tar.gz").stat().st_size
    with tarfile.open(tmp_path / "tight.tar.gz") as tar:
        assert {"state.json", "environment.json", "tables.md", "store/records/small.jsonl"} <= set(tar.getnames())
    done = len(ran)
    start(campaign, tmp_path / "there", "--resume", str(tmp_path / "one.tar.gz"))
    assert ran[done:] == ["spaces stop", "tuning x", "spaces 2", "again x"]
    assert (tmp_path / "there/store/records/big.jsonl").read_bytes() == (records / "big.jsonl").read_bytes()


def test_a_hostile_archive_is_refused(campaign: Any, tmp_path: Path):
    for name, kind in (("../evil", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)):
        path = tmp_path / "hostile.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO())
        with pytest.raises(SystemExit, match="no plain file"):
            campaign.restore(path, tmp_path / "out")
        assert not (tmp_path / "evil").exists()


def test_another_chip_is_not_mixed_in(campaign: Any, ran: list[str], tmp_path: Path):
    start(campaign, tmp_path, "--seconds", "0")
    with pytest.raises(SystemExit, match="belongs to modelled nvidia-h200"):
        start(campaign, tmp_path, "--device", "nvidia-a100")


def test_the_real_plan_has_every_phase_and_stable_distinct_names(campaign: Any, tmp_path: Path):
    plan = campaign.Campaign(tmp_path, "modelled", None, 1.0, 0)
    names = [(t.phase, t.name) for t in plan.tasks()]
    assert {p for p, _ in names} == set(campaign.PHASES) and len(set(names)) == len(names)
    assert names == [(t.phase, t.name) for t in plan.tasks()]
    spaces = [n for p, n in names if p == "spaces"]
    assert len(spaces) * campaign.CHUNK >= campaign.CONFIGS * 4 * 2, (
        "2,000 configs for at least 4 shapes of 2 templates"
    )
