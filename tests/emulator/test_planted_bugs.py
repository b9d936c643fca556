"""Every class of bug that the emulator claims to see: reported with the bug in, silent and right without it."""

from __future__ import annotations

import re

import pytest

from gpu_tune.emulator import Report
from tests.helpers.emulator.planted import PLANTED, Planted
from tests.helpers.emulator.snippets import line_of, messages, needs_emulator, needs_nvrtc, run_args

pytestmark = [needs_emulator, needs_nvrtc]
SEEDS = 6


def launch(planted: Planted, bug: bool, seed: int) -> Report:
    arrays = planted.arrays()
    return run_args(
        planted.text(bug), "k", arrays, planted.args(arrays), seed=seed, late=bool(seed & 1), **planted.launch
    )


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_planted_bug_is_reported(planted: Planted) -> None:
    reports = [launch(planted, True, seed) for seed in range(SEEDS)]
    matching = [[f for f in r.findings if re.search(planted.report, f"{f.kind}: {f.message}")] for r in reports]
    assert sum(map(bool, matching)) >= planted.seeds, [messages(r) for r in reports]
    if planted.named:
        line = line_of(planted.text(True), "// HERE")
        for findings in filter(None, matching):
            named = [f for f in findings if f.cuda_line == line or f"loaded at kernel.cu:{line}," in f.message]
            assert any(f"{line}" in f.message for f in named), (line, findings)
    assert all(f.kernel == "k" for findings in matching for f in findings)


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_corrected_twin_is_silent(planted: Planted) -> None:
    for seed in range(SEEDS):
        report = launch(planted, False, seed)
        assert report.ok, messages(report)


def test_a_deadlock_says_who_waits_where() -> None:
    planted = next(p for p in PLANTED if p.name == "producer starts with the wrong parity")
    text = messages(launch(planted, True, 0))
    source = planted.text(True)
    assert str(line_of(source, "// EMPTY")) in text and str(line_of(source, "// FULL")) in text
    assert "warp 1" in text and "warp 0" in text


def test_same_seed_same_findings() -> None:
    planted = next(p for p in PLANTED if p.name == "missing __syncthreads")
    first, second = (launch(planted, True, 3) for _ in range(2))
    assert [f.message for f in first.findings] == [f.message for f in second.findings]
    assert all((first.arrays[n] == second.arrays[n]).all() for n in first.arrays)
