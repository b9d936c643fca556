"""Verify on emitted kernels and sets: held to the plan beside them, edited ones too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpu_tune as gt
from gpu_tune import emulator
from gpu_tune.cuda import device, nvrtc
from gpu_tune.errors import CorruptData
from gpu_tune.store.store import Store
from gpu_tune.store.winner_set import SizeRange
from gpu_tune.templates.base import render
from gpu_tune.templates.registry import registry
from gpu_tune.verify import sweep
from gpu_tune.workload import Matmul, to_dict
from tests.helpers.winners import toy_set

pytestmark = [
    pytest.mark.skipif(not emulator.available(), reason="no C++ compiler: the emulator cannot be built"),
    pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed"),
]
H200 = device.by_name("nvidia-h200")


@pytest.fixture
def emitted(tmp_path: Path) -> Iterator[Path]:
    template, w = registry()["matmul_simt"], Matmul(50, 40, 33, dtype="float32", epilogue="bias")
    config = template.default(w, H200)
    folder = tmp_path / "kernel"
    folder.mkdir()
    (folder / "kernel.cu").write_text(render(template, config, w, H200))
    facts = {
        "workload": to_dict(w),
        "plan": template.plan(config, w, H200).to_json(),
        "device": H200.name,
        "arch": H200.arch,
        "template": template.name,
        "config": dict(config),
        "view": None,
    }
    (folder / "launch.json").write_text(json.dumps(facts))
    yield folder / "kernel.cu"


def test_an_emitted_kernel_is_verified_by_its_plan(emitted: Path) -> None:
    report = sweep.verify_kernel(emitted, seeds=2)
    assert report.ok, report.text()
    assert report.runs == 6


def test_an_edited_kernel_with_a_bug_is_caught(emitted: Path) -> None:
    code = emitted.read_text()
    at = code.rindex("__syncthreads();")
    emitted.write_text(code[:at] + code[at + len("__syncthreads();") :])
    report = sweep.verify_kernel(emitted, seeds=2)
    assert not report.ok
    assert any("race" in c.label or "uninitialised" in c.label for c in report.classes.values()), report.text()
    assert str(emitted) in next(iter(report.classes.values())).command


@pytest.mark.parametrize("damage", ["missing", "not json", "a list", "endless", "no plan", "no workload"])
def test_a_kernel_without_its_plan_is_refused(emitted: Path, damage: str) -> None:
    facts = emitted.parent / "launch.json"
    if damage == "missing":
        facts.unlink()
    elif damage == "not json":
        facts.write_text("{")
    elif damage == "a list":
        facts.write_text("[]")
    elif damage == "endless":
        facts.unlink()
        facts.symlink_to("/dev/zero")
    else:
        body = json.loads(facts.read_text())
        del body[damage.split()[1]]
        facts.write_text(json.dumps(body))
    with pytest.raises(CorruptData, match=r"launch\.json"):
        sweep.verify_kernel(emitted)


def test_a_sets_kernels_are_verified_at_the_ends_of_their_ranges(tmp_path: Path) -> None:
    w = gt.Matmul(gt.any_of(1, 50), 18, 16, dtype="float32")
    ranges = (SizeRange(1, 20, 0), SizeRange(21, 40, 1), SizeRange(41, 50, 0))
    folder = Store(tmp_path).publish(toy_set(w, (8, 50), ranges))
    report = sweep.verify_kernel(folder, seeds=1)
    assert report.ok, report.text()
    assert [line.split(", matmul")[0] for line in report.covered] == ["0.cu: m = 1, 20, 41, 50", "1.cu: m = 21, 40"]
    code = (folder / "1.cu").read_text()
    (folder / "1.cu").write_text(code.replace("if (row + r < m) {", "if (row + r <= m) {"))
    report = sweep.verify_kernel(folder / "1.cu", seeds=1)
    assert not report.ok and str(folder / "1.cu") in next(iter(report.classes.values())).command
    (folder / "1.json").rename(folder / "1.txt")
    with pytest.raises(CorruptData, match=r"1\.json"):
        sweep.verify_kernel(folder / "1.cu")
