"""The marks of the measuring itself, rehearsed on the virtual GPU (noise of 0.4 %, a planted 2 % that is 2 %)."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def noise() -> Any:
    return importlib.import_module("bench.noise.__main__")


@pytest.mark.slow
def test_every_mark_is_measured(noise: Any, fake_cuda: Path, home: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "noise.json"
    code = noise.main(["--toy", "--trials", "4", "--seconds", "0.5", "--json", str(out)])
    told = json.loads(out.read_text())
    rows = {r["mark"]: r for r in told["marks"]}
    assert told["rehearsal"] and len(rows) == 5 and code == (not all(r["met"] for r in told["marks"]))
    assert rows["planted slowdown found"]["met"] and 0.015 < rows["planted slowdown found"]["planted"] < 0.025
    assert 0 < rows["noise floor, kernel above 20 us"]["found"] < 0.01
    assert "A rehearsal" in capsys.readouterr().out


def test_missed_marks_and_a_missing_gpu_are_said(noise: Any, fake_cuda: Path, monkeypatch: Any, capsys: Any):
    row = noise._row("a mark", 0.2, "<= 5%", False, trials=8)
    monkeypatch.setattr(noise, "run", lambda *a: [row])
    assert noise.main([]) == 1 and "| a mark | 20.00% | <= 5% | NO | trials 8 |" in capsys.readouterr().out
    monkeypatch.setattr(noise.driver, "device_count", lambda: 0)
    assert noise.main([]) == 2
