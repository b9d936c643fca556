"""The fault figures at a small size: nothing lost, and writers that do lose something are found out."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.store.records import Records
from gpu_tune.store.store import Store


@pytest.fixture(scope="module")
def faults() -> Any:
    return importlib.import_module("bench.faults.__main__")


@pytest.mark.slow
def test_kills_full_disks_and_strangers_lose_and_damage_nothing(faults: Any, tmp_path: Path, capsys: Any):
    out = tmp_path / "figures.json"
    parts = "publish,append,sixteen,full,notours,hostile"
    assert faults.main(["--kills", "12", "--only", parts, "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["faultless"] and told["publish"]["kills"] == told["append"]["kills"] == 12
    assert told["publish"]["interrupted"] > 0, "no kill hit a publication in progress"
    assert told["publish"]["reads"] >= 12 and told["append"]["appended"] > 12 and told["sixteen"]["appended"] > 0
    assert told["hostile"]["lines_refused"] > 60 and told["hostile"]["winners_refused"] > 0
    assert "nothing lost, nothing corrupt" in capsys.readouterr().out
    if os.geteuid() == 0:
        assert told["notours"]["right"] == told["notours"]["asked"] == 6


def publish_in_place(folder: Path, first: int, pipe: int) -> None:
    """A bad writer: replaces a winner's files one by one."""
    samples = importlib.import_module("bench.faults.samples")
    path, number = Store(folder).path(samples.WORKLOAD, samples.CHIP, samples.SOURCE), first
    while True:
        w = samples.winner(number)
        for name, data in (("kernel.cu", w.code.encode()), ("kernel.cubin", w.cubin)):
            (path / name).write_bytes(data)
        os.write(pipe, b"+")
        number += 1


def append_late(folder: Path, first: int, pipe: int) -> None:
    """A bad writer: acknowledges records that it still holds back."""
    samples = importlib.import_module("bench.faults.samples")
    log, held, number = Records(folder), [], first
    log.append(samples.record(number))
    while True:
        number += 1
        held.append(samples.record(number))
        os.write(pipe, b"+")
        if len(held) == 50:
            for r in held:
                log.append(r)
            held.clear()


def test_writers_that_damage_or_lose_are_found_out(faults: Any, tmp_path: Path):
    torn = faults.kill_publishers(3, tmp_path / "a", 0, publish_in_place)
    assert torn["lost"] > 0 and not faults.faultless({"publish": torn})
    late = faults.kill_appenders(4, tmp_path / "b", 0, append_late)
    assert late["lost"] > 0 and not faults.faultless({"append": late})


@pytest.mark.slow
def test_disturbed_tunings_leave_nothing_behind_and_what_does_is_found_out(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    disturb = importlib.import_module("bench.faults.disturb")
    library = home / "emulator"
    monkeypatch.setattr(disturb, "FAULTS", {n: disturb.FAULTS[n] for n in ("killed", "nvrtc_gone", "shadowed")})
    found = disturb.disturb(3, tmp_path / "sound", 5, library)
    assert found["faults"] == 3 and not found["lost"] and not found["corrupt"] and found["configs"] == disturb.CONFIGS

    def blames(run: Any) -> None:
        """A tuner that records what the machine did: every config known so far has failed."""
        for r in Records().read("predicted"):
            Records().append(replace(r, measurement=replace(r.measurement, status="compile_error", samples=())))

    monkeypatch.setattr(disturb, "FAULTS", {"blames": blames})
    spoilt = disturb.disturb(3, tmp_path / "spoilt", 3, library)  # one may come before there is a record
    assert spoilt["corrupt"] >= 1 and spoilt["blamed"] >= 1
