"""``gpu-tune bench`` from start to end on the virtual GPU: tuned, timed beside a (virtual) cuBLAS, reported."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from gpu_tune.cli import main
from gpu_tune.space.knob import Knob
from tests.helpers.winners import toy_template

SUITE = {
    "name": "tiny",
    "title": "Tiny",
    "source": "made up",
    "op": "matmul",
    "defaults": {"dtype": "float32"},
    "columns": ["label", "m", "n", "k"],
    "rows": [["one", 20, 18, 16], ["two", 32, 32, 24]],
}


@pytest.fixture
def suite(fake_cuda, home, tmp_path, monkeypatch):
    base = toy_template()
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in base.knobs)
    monkeypatch.setattr("gpu_tune.templates.registry.registry", lambda: {"toy": replace(base, knobs=knobs)})
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "tiny.json").write_text(json.dumps(SUITE))
    return str(tmp_path / "tiny.json")


def run(*args):
    result = CliRunner().invoke(main, ["bench", *args])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
def test_every_shape_is_tuned_compared_and_reported(suite, tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.html"
    facts = json.loads(run(suite, "--seconds", "0.5", "--json", "--report", str(page)).stdout)
    assert facts["compared"] and [r["label"] for r in facts["rows"]] == ["one", "two"]
    for row in facts["rows"]:
        assert row["ours"] > 0 and row["source"] == "measured" and row["baselines"], row
        assert row["ratio"] == pytest.approx(min(row["baselines"].values()) / row["ours"])
        assert row["low"] <= row["high"]
        assert 0 < row["host"] < 0.01 and row["host_vendor"] is None, "the stand-in for CuPy multiplies no matrices"
    assert facts["summary"]["shapes"] == 2 and facts["summary"]["geomean"] > 0
    assert "Speed-up" in page.read_text() and "nvidia-h200" in page.read_text()
    again = run(suite, "--no-tune", "--select", "two", "--against", "cublas")
    everything = run(suite, "--no-tune", "--select", "two")
    assert "torch: PyTorch is not installed" in everything.stderr or "torch" in everything.stdout
    assert "triton: Triton is not installed" in everything.stderr or "Triton" in everything.stderr
    assert "1 shapes: geometric mean" in again.stdout and "cublas" in again.stdout and "one" not in again.stdout


def test_a_shape_that_is_not_tuned_is_said_to_be_so(suite):
    result = run(suite, "--no-tune")
    assert "not tuned" in result.stdout and "nothing is compared" in result.stdout
