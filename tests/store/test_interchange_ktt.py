"""KTT's own T4 files: microseconds unless they say otherwise, one result a run, other objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_tune.errors import CorruptData
from gpu_tune.store.interchange import load
from tests.store.test_interchange import write


def ktt(block: int, time: Any, unit: str = "Microseconds", **more: Any) -> dict[str, Any]:
    """One run as KTT's converter writes it."""
    return {
        "configuration": {"block": block},
        "objectives": ["TotalDuration"],
        "times": {"compilation_time": 1026205.0, "runtimes": [time]},
        "invalidity": "correct",
        "correctness": 1,
        "measurements": [{"name": "TotalDuration", "value": time, "unit": unit}],
        **more,
    }


@pytest.mark.parametrize("metadata", [{}, {"metadata": {"timeUnit": "Microseconds"}}])
def test_ktt_writes_microseconds_and_one_result_a_run(tmp_path: Path, metadata: dict[str, Any]) -> None:
    runs = [ktt(32, 96.25), ktt(32, 94.75), ktt(64, 48.5), ktt(16, 1.0), ktt(16, 0.0, invalidity="runtime")]
    r = load(write(tmp_path / "ktt.json", {"results": runs, **metadata}))
    assert r.best.config["block"] == 64 and r.best.time == pytest.approx(48.5e-6)
    assert r.trials[0].time == pytest.approx(95.5e-6) and r.trials[0].samples == pytest.approx((96.25e-6, 94.75e-6))
    assert r.trials[0].seconds == pytest.approx({"compile": 1.026205}) and r.objective == "time"
    assert [t.status for t in r.trials] == ["ok", "ok", "run_error"]  # failed once
    with pytest.raises(CorruptData, match="fortnights"):
        load(write(tmp_path / "unit.json", {"results": [ktt(1, 2.0, "fortnights")]}))


def test_a_t4_file_of_another_objective_is_searched_for_its_time(tmp_path: Path) -> None:
    results = [
        {
            **ktt(b, t, "ms"),
            "measurements": [{"name": "GFLOP/s", "value": 8 / t, "unit": ""}],
            "objectives": ["GFLOP/s"],
        }
        for b, t in ((1, 4.0), (2, 2.0))
    ]
    r = load(write(tmp_path / "t4.json", {"results": results}))
    assert (r.objective, r.best.config["block"], r.best.time) == ("time", 2, 2e-3)  # the runtimes
    for result in results:
        result["times"] = {}
    r = load(write(tmp_path / "t4.json", {"results": results}))
    assert (r.objective, r.best.config["block"], r.best.time) == ("GFLOP/s", 2, 0.25)
