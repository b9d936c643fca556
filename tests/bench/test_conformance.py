"""The half of the conformance command that needs no GPU. Nothing here says anything about hardware."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda import device, nvrtc
from tests.helpers.emulator.snippets import needs_emulator, needs_nvrtc

pytestmark = [needs_emulator, needs_nvrtc]
ROOT = Path(__file__).parents[2]
H200 = device.by_name("nvidia-h200")


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> Any:
    return importlib.import_module("bench.conformance.__main__")


def test_cases_are_many_distinct_and_fewer_on_older_chips(conformance: Any) -> None:
    cases = conformance.all_cases()
    names = [c.name for c in cases]
    assert len(names) == len(set(names)) > 200
    counts = [sum(c.runs_on(cc) for c in cases) for cc in (75, 80, 89, 120, 90)]
    assert counts == sorted(counts) and counts[-1] == len(cases)
    assert {n.split()[0] for n in names} >= {"ldmatrix", "stmatrix", "mma", "wgmma", "tma", "cvt", "redux", "atomics"}
    for again, case in zip(conformance.all_cases(), cases):
        assert again.source == case.source and all(
            again.arrays[n].tobytes() == case.arrays[n].tobytes() for n in case.arrays
        )


def test_every_kind_of_case_runs_clean_and_writes(conformance: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cases = conformance.all_cases()[::7]
    dump = conformance.emulated(cases, H200)
    assert capsys.readouterr().err == ""
    for case in cases:
        before = {n: np.ascontiguousarray(a).reshape(-1).view(np.uint8) for n, a in case.arrays.items()}
        assert any(not np.array_equal(dump[f"{case.name}/{n}"], before[n]) for n in ("out", "workspace") if n in before)


def test_every_kind_of_case_is_assembled(conformance: Any) -> None:
    for case in conformance.all_cases()[::20]:
        arch = "sm_90a" if case.hopper or case.min_cc > 89 else f"sm_{max(case.min_cc, 80)}"
        assert nvrtc.to_cubin(case.source, arch).data


def test_a_differing_bit_is_found_and_named(conformance: Any) -> None:
    cases = [c for c in conformance.all_cases() if c.name.startswith(("mma m16n8k16 f32 bf16", "ex2"))]
    dump = conformance.emulated(cases, H200)
    assert conformance.differences(cases, dump, {k: v.copy() for k, v in dump.items()}) == []
    changed = {k: v.copy() for k, v in dump.items()}
    key = next(k for k in changed if k.startswith("mma"))
    changed[key][17] ^= 1
    assert conformance.differences(cases, dump, changed) == [
        f"{key}: 1 of {changed[key].size} bytes differ, the first at 17"
    ]
    near, far = (dict(dump) for _ in range(2))
    for other, factor in ((near, 1 + 2.0**-22), (far, 1 + 2.0**-10)):
        other["ex2/out"] = (dump["ex2/out"].view(np.float32) * np.float32(factor)).view(np.uint8)
    assert conformance.differences(cases, dump, near) == []
    assert "ex2/out: differs by" in conformance.differences(cases, dump, far)[0]
    del changed[key]
    assert conformance.differences(cases, dump, changed)[0].endswith("only in the first dump")


@pytest.mark.parametrize("cc", [75, 80, 86, 89, 90, 120])
def test_the_emulator_agrees_with_the_dump_of_a_gpu(conformance: Any, cc: int) -> None:
    archive = Path(__file__).parent / "fixtures" / f"hardware-cc{cc}.npz"
    if not archive.exists():
        pytest.skip(f"no dump of a GPU of compute capability {cc / 10} has been taken: not yet confirmed on hardware")
    chip = device.by_name(conformance.CHIPS[cc])
    with np.load(archive) as held:
        dump = dict(held)
    cases = [c for c in conformance.all_cases() if any(f"{c.name}/{n}" in dump for n in conformance.WRITTEN)]
    assert cases and conformance.differences(cases, conformance.emulated(cases, chip), dump) == []


@pytest.mark.slow
def test_the_command_on_a_virtual_gpu(
    conformance: Any, fake_cuda: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The path to the archive, the templates and the vendor library; a virtual GPU runs no special instructions."""
    from gpu_tune.cuda import driver
    from gpu_tune.workload import Matmul
    from tests.helpers.winners import toy_template

    toys = {"toy": toy_template()}
    monkeypatch.setattr("gpu_tune.templates.registry.registry", lambda: toys)
    monkeypatch.setattr(conformance, "registry", lambda: toys)
    monkeypatch.setattr(conformance, "all_cases", lambda: [])
    archive = tmp_path / "fixtures" / "dump.npz"
    code = conformance.check(sizes=(), archive=archive)
    told = capsys.readouterr().out
    assert archive.exists() and "0 cases, 0 differ" in told
    assert told.index("toy: ") < told.index("differ"), "what needs the GPU comes first"
    assert code == 0, told
    chip = driver.detect_device()
    right, told = conformance.against_vendor(chip, Matmul(32, 24, 16, dtype="float32"), rounds=5)
    assert right and "cublasLtMatmul" in told and told.count("TFLOP/s") >= 2, told


@pytest.mark.slow
def test_the_command_without_a_gpu(tmp_path: Path) -> None:
    from gpu_tune.cuda import driver

    command = [sys.executable, "-m", "bench.conformance"]
    file = tmp_path / "cpu.npz"
    done = subprocess.run([*command, "emulate", str(file), "--cc", "75"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and file.exists(), done.stderr
    assert subprocess.run([*command, "compare", str(file), str(file)], capture_output=True, cwd=ROOT).returncode == 0
    if driver.detect_device() is None:
        check = subprocess.run([*command, "check"], capture_output=True, text=True, cwd=ROOT)
        assert check.returncode == 2 and "no GPU" in check.stderr
