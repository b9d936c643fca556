"""Suites: the shipped ones load and stay what they are; a bad file is one clear error."""

import hashlib
import itertools
import json

import pytest

from gpu_tune.errors import CorruptData, InvalidInput
from gpu_tune.report import suites


@pytest.mark.parametrize("name", suites.names())
def test_every_shipped_suite_loads_and_names_its_source(name):
    suite = suites.load(name)
    assert suite.name == name and suite.source and suite.title
    keys = [e.workload.key for e in suite.entries]
    assert len(set(keys)) == len(keys) >= 8


def test_the_headline_suite_is_frozen():
    text = json.dumps(
        json.loads((suites.folder() / "headline.json").read_text())["rows"], sort_keys=True, separators=(",", ":")
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3ce208308e33e9c3"
    flops = sorted(e.workload.flops for e in suites.load(suites.HEADLINE).entries[:60])
    edges = [0, 1e8, 1e9, 1e10, 1e11, 1e12, 1e99]
    assert [sum(lo <= f < hi for f in flops) for lo, hi in itertools.pairwise(edges)] == [10] * 6


def test_the_twelve_resnet_rows_have_the_published_work():
    gflop = [0.236, 0.231, 0.026, 0.116, 0.013, 0.231, 0.116, 0.013, 0.231, 0.116, 0.013, 0.231]
    entries = suites.load("resnet18-n1").entries
    assert [e.label for e in entries] == [f"C{i}" for i in range(1, 13)]
    assert [round(e.workload.flops / 1e9, 3) for e in entries] == pytest.approx(gflop, abs=0.0011)


def test_overrides_change_every_row():
    assert {e.workload.dtype for e in suites.load("squares", dtype="float32").entries} == {"float32"}


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", CorruptData, "suite file"),
        ("[]", CorruptData, "suite file"),
        (
            '{"name":"x","title":"","source":"","op":"matmul","defaults":{},"columns":["m"],"rows":[[1,2]]}',
            CorruptData,
            "row",
        ),
        (
            '{"name":"x","title":"","source":"","op":"matmul","defaults":{},"columns":["m"],"rows":[[1]]}',
            InvalidInput,
            "row 1",
        ),
        (
            '{"name":"x","title":"","source":"","op":"matmul","defaults":{},"columns":["m","n","k"],"rows":[[1,0,1]]}',
            InvalidInput,
            "row 1.*Matmul n",
        ),
        ("[" * 100000, CorruptData, "suite file"),
    ],
)
def test_a_bad_suite_file_gets_one_clear_error(tmp_path, text, error, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(error, match=said):
        suites.load(str(path))


def test_an_unknown_suite_is_refused_with_a_suggestion():
    with pytest.raises(InvalidInput, match="did you mean squares"):
        suites.load("square")
