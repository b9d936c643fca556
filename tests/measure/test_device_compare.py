"""The device's own comparison finds what the host's finds; its kernels run on the emulator here."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.emulator import run_plan, unavailable_reason
from gpu_tune.measure import check, device_compare, runtime
from gpu_tune.measure.device_compare import DeviceCompare, Found
from gpu_tune.measure.device_data import DeviceData
from gpu_tune.measure.worker import no_note
from gpu_tune.plan import LaunchPlan
from gpu_tune.reference import NUMPY, Bounds, Numerics, bounds, example_inputs, reference
from gpu_tune.workload import ArraySpec, Matmul

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason() or "the emulator is here")
H200 = by_name("nvidia-h200")
DTYPES = ("float32", "float16", "bfloat16", "int8", "int32", "float8_e4m3", "float8_e5m2")


def run(spec: ArraySpec, out: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """The counters after the kernel ran on the emulator; flat arrays."""
    plan = dataclasses.replace(device_compare.plan(2), workspace_zeroed=False)  # the result is not zero again
    result = np.zeros(4, np.int32).repeat(2).view(np.uint8)
    arrays = {"out": out, "a": lo, "b": hi, "workspace": result}
    report = run_plan(device_compare.source(spec), plan, arrays, arch="sm_90a", device=H200)
    assert report.ok, str(report)
    return np.ascontiguousarray(report.arrays["workspace"])


def flat(spec: ArraySpec, values: np.ndarray) -> np.ndarray:
    """``values`` in memory of ``spec``, gaps poisoned."""
    memory = np.full(spec.span * NUMPY[spec.dtype].itemsize, 0xFF, np.uint8).view(NUMPY[spec.dtype])
    strides = tuple(s * memory.itemsize for s in spec.element_strides)
    np.ndarray(spec.shape, memory.dtype, memory, strides=strides)[...] = values
    return memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_agrees_with_the_host_on_every_bit_pattern(dtype: str):
    rng = np.random.default_rng(0)
    spec = ArraySpec((3, 30, 25), dtype, (30 * 28, 28, 1))
    kind = NUMPY[dtype]
    bits = rng.integers(0, 256, (3, 3, 30, 25, kind.itemsize), dtype=np.uint8)
    out, x, y = bits.view(kind)[..., 0]
    with np.errstate(invalid="ignore"):
        wide = [np.asarray(v).astype(np.float64) for v in (x, y)]
        swap = wide[0] > wide[1]
        lo, hi = np.where(swap, y, x).astype(kind), np.where(swap, x, y).astype(kind)
        lo[np.isnan(wide[1])] = y[np.isnan(wide[1])]  # NaN is expected where both bounds are
        hi[np.isnan(wide[0])] = x[np.isnan(wide[0])]
        inside = (out.astype(np.float64) >= lo.astype(np.float64)) & (out.astype(np.float64) <= hi.astype(np.float64))
        inside |= np.isnan(out.astype(np.float64)) & np.isnan(lo.astype(np.float64))
    found = device_compare.read(run(spec, flat(spec, out), lo.reshape(-1), hi.reshape(-1)), spec)
    assert (found.wrong, found.gaps) == (int((~inside).sum()), 0) and 0 < found.wrong < inside.size
    assert found.first == tuple(np.argwhere(~inside)[0])


def test_changed_gaps_are_counted():
    spec = ArraySpec((4, 10), "float16", (12, 1))
    values = np.arange(40, dtype=np.float16).reshape(4, 10)
    memory = flat(spec, values)
    other = memory.copy()
    other[[0, 13, 10, 22]] = 0.5  # two elements, two gaps
    counters = run(spec, other, values.reshape(-1), values.reshape(-1))
    found = device_compare.read(counters, spec)
    assert (found.wrong, found.first, found.gaps) == (2, (0, 0), 2) and found.distance == 10.5


class Emulated(DeviceCompare):
    """The comparison with the virtual GPU's memory and the emulator's execution of the kernel."""

    def inspect(self, out: int, bounds: tuple[int, int]) -> Found:
        n = int(np.prod(self.spec.shape))
        counters = run(self.spec, self._at(out, self.spec.span), self._at(bounds[0], n), self._at(bounds[1], n))
        runtime.copy(self._kept, out, self._nbytes)
        return device_compare.read(counters, self.spec)

    def _at(self, address: int, count: int) -> np.ndarray:
        kind = NUMPY[self.spec.dtype]
        raw = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(address)
        return np.frombuffer(raw, np.uint8).view(kind).copy()


W = Matmul(9, 10, 8, dtype="bfloat16", ldc=12)


@pytest.fixture
def checker(fake_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[check.Checker]:
    monkeypatch.setattr(check, "DeviceCompare", Emulated)
    runtime.start(0)
    stream = runtime.new_stream()
    data = DeviceData(W, 0, 1 << 16)
    made = check.Checker(data, stream, H200, large=1)
    yield made
    made.close()
    data.close()


def writer(checker: check.Checker, change: Any = None, only_second: bool = False) -> Any:
    calls = [0]

    def issue(buffers: Any, scalars: Any, on: int) -> None:
        data = checker.data
        loaded = checker._loaded
        runtime.synchronize()  # a kernel comes after what is in the stream
        memory = runtime.download(buffers["out"], data.nbytes("out")).view(NUMPY["bfloat16"])
        body = np.lib.stride_tricks.as_strided(memory, W.arrays()["out"].shape, (2 * W.ldc, 2))
        with np.errstate(all="ignore"):
            body[...] = reference(W, loaded).astype(np.float32)
        calls[0] += 1
        if change is not None and (calls[0] > 1 or not only_second):
            memory[change] = 0.125
        runtime.upload(buffers["out"], memory)

    return issue


def kernel(run: Any) -> Any:
    return SimpleNamespace(run=run, plan=LaunchPlan(()), numerics=Numerics(), workspace=0)


def test_the_checker_uses_it_for_large_outputs(checker: check.Checker):
    def check(run: Any) -> check.CheckResult:
        return checker.check(kernel(run), no_note)

    assert check(writer(checker)).status == "ok"
    wrong = check(writer(checker, 3))
    assert wrong.status == "wrong" and "1 of 90 elements wrong, first at (0, 3): got 0.125" in wrong.reason
    assert "rows 0 of 9, columns 3 of 10, 0 of them not written" in wrong.reason
    assert "gaps between rows" in check(writer(checker, 10)).reason
    assert "1 of 90 elements differ between two runs" in check(writer(checker, 3, only_second=True)).reason
    cases = checker.check_winner(kernel(writer(checker)), 5, no_note)
    assert {n: v.status for n, v in cases.items()} == dict.fromkeys(
        ("new inputs", "integers, exactly", "inf and nan"), "ok"
    )


def test_bounds_of_nan_mean_nan():
    arrays = example_inputs(W, 0)
    arrays["a"][0, 0] = np.nan
    limits = bounds(W, arrays)
    assert isinstance(limits, Bounds) and np.isnan(limits.lo[0].astype(np.float32)).all()
