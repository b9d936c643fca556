"""What was started is on disk before it runs, and killers are known afterwards; a broken family is given up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_tune.measure import quarantine as journals
from gpu_tune.measure.quarantine import HANGS, LOSSES, CircuitBreaker, Journal, run_seconds
from gpu_tune.workload import Matmul

DIE = """
import os, signal, sys
from pathlib import Path
from gpu_tune.measure.quarantine import Journal
Journal(Path(sys.argv[1])).started("h1", "toy")
os.kill(os.getpid(), signal.SIGKILL)
"""


def die_while_running(folder: Path) -> None:
    process = subprocess.run([sys.executable, "-c", DIE, str(folder)], check=False)
    assert process.returncode == -signal.SIGKILL


def test_good_ends_quarantine_nothing(tmp_path: Path):
    journal = Journal(tmp_path)
    for status in ("ok", "wrong", "launch_error", "run_error"):
        journal.started(status, "toy")
        journal.ended(status, status)
    assert journal.killers() == {}


@pytest.mark.parametrize("status, why", [("run_timeout", "hung"), ("run_error", "crashed")])
def test_what_took_its_process_with_it_is_a_killer(tmp_path: Path, status: str, why: str):
    journal = Journal(tmp_path)
    journal.started("h1", "toy rows=4")
    journal.ended("h1", status, lost=True)
    journal.close()
    killer = Journal(tmp_path).killers()["h1"]
    assert why in killer.why and killer.what == "toy rows=4"


def test_a_killed_tuner_does_not_quarantine_what_it_ran_the_first_time_but_the_second(tmp_path: Path):
    die_while_running(tmp_path)
    assert Journal(tmp_path).killers() == {}
    die_while_running(tmp_path)
    assert "two violent ends" in Journal(tmp_path).killers()["h1"].why


def test_what_ran_when_the_machine_went_down_is_a_killer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    die_while_running(tmp_path)
    monkeypatch.setattr(journals, "_boot", lambda: "another boot")
    assert "machine went down" in Journal(tmp_path).killers()["h1"].why


def test_what_is_running_now_is_no_killer(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.started("h1", "toy")
    other = Journal(tmp_path)
    other.started("h1", "toy")
    assert journal.killers() == {}


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.started("h1", "toy")
    journal.ended("h1", "run_timeout", lost=True)
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(
        b'\xff\xfe{"event"\n[1]\n{"hash": 3, "event": "ended"}\n' + path.read_bytes() + b'{"event": "start'
    )
    assert list(Journal(tmp_path).killers()) == ["h1"]


def test_the_line_is_on_disk_before_started_returns(tmp_path: Path):
    Journal(tmp_path).started("h1", "toy")
    lines = next(tmp_path.glob("*.jsonl")).read_text().splitlines()
    assert json.loads(lines[0])["hash"] == "h1" and json.loads(lines[0])["pid"] == os.getpid()


def test_a_few_losses_among_many_stop_nothing_and_templates_are_counted_apart():
    made = CircuitBreaker()
    assert not made.tripped("one")
    made.note("one", count=400)
    made.note("one", lost=True, hung=True, count=HANGS + 2)
    made.note("one", lost=True, count=LOSSES + 30)
    assert not made.tripped("one")
    made.note("one", lost=True, count=120)
    assert "163 of 563 configs of one" in made.tripped("one") and not made.tripped("two")


def test_fewer_hangs_than_crashes_are_endured():
    for kind, most in (({"lost": True, "hung": True}, HANGS), ({"lost": True}, LOSSES)):
        made = CircuitBreaker()
        for _ in range(most - 1):
            made.note("one", **kind)
        assert not made.tripped("one")
        made.note("one", **kind)
        assert made.tripped("one")


def test_a_larger_workload_may_run_longer_but_not_for_ever():
    small, large, huge = (run_seconds(Matmul(n, n, n, dtype="bfloat16")) for n in (128, 8192, 32768))
    assert 6 <= small < 7 < large < huge == 20
