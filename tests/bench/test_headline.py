"""The outlook on a suite: real defaults and seeds, compiled and played."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.headline import __main__ as BENCH
from gpu_tune.cuda import nvrtc

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")


@pytest.mark.slow
def test_a_suite_is_played_told_and_compared(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"name": "two", "title": "", "source": "made up", "op": "matmul", "defaults": {"dtype": "float32"}}
    rows.update(columns=["label", "m", "n", "k"], rows=[["small", 128, 128, 64], ["large", 4096, 4096, 512]])
    suite, out = tmp_path / "two.json", tmp_path / "out.json"
    suite.write_text(json.dumps(rows))
    assert BENCH.main([str(suite), "--device", "nvidia-a100", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "every time predicted" in printed and all(len(line) <= 80 for line in printed.splitlines())
    data = json.loads(out.read_text())
    assert data["source"] == "predicted" and [r["label"] for r in data["rows"]] == ["small", "large"]
    for r in data["rows"]:
        assert 0 < r["best"] <= r["default"] and r["played"] > 1 and r["template"] == "matmul_simt"
    small, large = data["rows"]
    assert small["peak"] < 0.1 < large["peak"] < 1

    found = [BENCH.Outlook(**r) for r in data["rows"]]
    earlier = [BENCH.Outlook(**{**r, "best": r["best"] / 1.25}) for r in data["rows"]]
    (line,) = BENCH.against(found, earlier)
    assert line == "nvidia-a100: 1.250 of before over 2 shapes; worst 1.250, small"

    short = ["--device", "nvidia-a100", "--limit", "1", "--defaults", "--trials", "12", "--json", str(out)]
    assert BENCH.main([str(suite), *short]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["played"] == 1 and 0 < row["searched"] <= small["default"]

    rows.update(defaults={"dtype": "bfloat16", "layout": "nt"}, rows=[["tail", 128, 28672, 512]])
    suite.write_text(json.dumps(rows))
    assert BENCH.main([str(suite), "--device", "nvidia-a100", "--defaults", "--tails", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["played"] > 1 and row["best"] == min(row["default"], row["tail"]) and row["template"] == "matmul_mma"


def test_an_unknown_suite_or_chip_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert BENCH.main(["nosuch"]) == 2 and BENCH.main(["--device", "nosuch"]) == 2
    assert capsys.readouterr().out.count("error: ") == 2
