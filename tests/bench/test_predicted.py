"""Predicted against measured, from records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.predicted.__main__ import agreements, main
from gpu_tune.space.knob import Config
from gpu_tune.store.records import Record, Records
from gpu_tune.trial import Candidate, Measurement
from gpu_tune.workload import Matmul


def record(x: int, measured: float, predicted: float | None) -> Record:
    terms = {} if predicted is None else {"seconds": predicted}
    m = Measurement(Candidate("t", Config(x=x)), "ok", "measured", samples=(measured,), prediction=terms)
    return Record(Matmul(64, 64, 64), "chip", "abc", m, time=float(x))


def test_a_right_order_of_another_scale_is_a_right_order() -> None:
    (found,) = agreements([record(x, 2.0 + x, 1.0 + x / 2) for x in range(10)])
    assert found.rank_correlation == pytest.approx(1.0) and found.top == (1.0, 1.0, 1.0)
    assert found.scale == pytest.approx((2.0, 2.0, 2.0)) and found.trials == 10


def test_a_reversed_order_finds_the_best_last() -> None:
    (found,) = agreements([record(x, 1.0 + x, 20.0 - x) for x in range(10)])
    assert found.rank_correlation == pytest.approx(-1.0)
    assert found.top == pytest.approx((1 / 10, 1 / 8, 1 / 6))


def test_too_few_or_unpredicted_trials_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert agreements([record(x, 1.0 + x, None) for x in range(20)]) == []
    assert agreements([record(x, 1.0 + x, 1.0) for x in range(7)]) == []
    (tmp_path / "records").mkdir(mode=0o700)
    assert main([str(tmp_path / "records")]) == 1 and "tune on a GPU first" in capsys.readouterr().out


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Records(tmp_path / "records")
    for x in range(9):
        log.append(record(x, 1.0 + x, 1.0 + x))
    assert main([str(tmp_path / "records"), "--json", str(tmp_path / "out.json")]) == 0
    assert (
        "1 groups: first 1/3/5 1.000 / 1.000 / 1.000 of the optimum, rank correlation 1.00" in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "out.json").read_text())[0]["trials"] == 9
