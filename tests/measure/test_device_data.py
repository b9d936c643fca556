"""Buffers on the device: alignment, guard bands, rotating sets; on the virtual GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from gpu_tune.cuda import driver
from gpu_tune.measure import runtime
from gpu_tune.measure.device_data import GUARD, DeviceData, layout
from gpu_tune.reference import elements
from gpu_tune.workload import Matmul

L2 = 1 << 16
W = Matmul(9, 10, 8, dtype="float32", ldc=12)


@pytest.fixture
def data(stream: runtime.Stream) -> Iterator[DeviceData]:
    made = DeviceData(W, 0, L2)
    yield made
    made.close()


def test_the_set_to_verify_on_keeps_the_promised_alignment_and_no_more(stream: runtime.Stream):
    for alignment in (4, 16, 64):
        data = DeviceData(Matmul(9, 10, 8, dtype="float32", alignment=alignment), 0, L2)
        assert all(a % (2 * alignment) == alignment for a in data.verify.values())
        assert all(a % 256 == 0 for s in data.timing for a in s.values())
        data.close()


def test_timing_sets_hold_the_same_inputs_in_different_places(data: DeviceData):
    assert (
        len(data.timing) == data.sets == -(-3 * L2 // data.footprint)
        and len({s["a"] for s in data.timing}) == data.sets
    )
    for place in (data.verify, data.timing[0], data.timing[-1]):
        raw = runtime.download(place["a"], data.nbytes("a"))
        assert (elements(raw, data.specs["a"]) == data.arrays["a"]).all()


def test_memory_that_is_short_means_fewer_sets(stream: runtime.Stream, monkeypatch: pytest.MonkeyPatch):
    w = Matmul(300, 300, 300, dtype="float32")
    used = 8 * 2**30 - runtime.free_bytes()
    monkeypatch.setenv("FAKE_CUDA_MEMORY", str(used + 12 * 2**20))
    data = DeviceData(w, 0, 64 << 20)
    assert 1 <= data.sets < 8
    data.close()
    monkeypatch.setenv("FAKE_CUDA_MEMORY", str(used + 1 * 2**20))
    with pytest.raises(driver.DriverError) as found:
        DeviceData(w, 0, 64 << 20)
    assert found.value.code == driver.OUT_OF_MEMORY


def test_buffers_do_not_overlap_and_the_output_has_its_guards():
    specs = Matmul(33, 17, 9, dtype="float16", epilogue="bias+residual", beta="any").arrays()
    offsets, size = layout(specs)
    guard = {n: GUARD if n == "out" else 0 for n in specs}
    spans = sorted((offsets[n] - guard[n], offsets[n] + 2 * s.span + guard[n]) for n, s in specs.items())
    assert spans[0][0] >= 0 and spans[-1][1] <= size
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    assert all(o % 256 == 0 for o in offsets.values())
