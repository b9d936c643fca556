"""Timing and verification on the virtual GPU, whose kernels last as long as they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpu_tune.cuda import driver, memory
from gpu_tune.measure import check
from gpu_tune.measure.device_data import GUARD, DeviceData, elements, layout
from gpu_tune.measure.timing import SLOW, Flush, Stopwatch, hopeless, interleave, repeat, rough, unstable
from gpu_tune.plan import LaunchPlan
from gpu_tune.reference import bounds, example_inputs, reference
from gpu_tune.reference.numerics import Numerics
from gpu_tune.trial import Policy
from gpu_tune.workload import Matmul

L2 = 1 << 16


class Task:
    """A contestant whose run is a memset: 1.5 us and a little for the bytes."""

    def __init__(self, sets: int, footprint: int) -> None:
        self.sets, self.footprint = sets, footprint
        self.order: list[int] = []
        self.memory = memory.allocate(1 << 12)

    def launch(self, i: int, stream: int) -> None:
        self.order.append(i)
        driver.memset(self.memory, 0, 1 << 12, stream)


@pytest.fixture
def stream(fake_cuda: Path) -> Iterator[memory.Stream]:
    driver.use_context()
    made = memory.Stream()
    yield made
    made.close()


@pytest.fixture
def flush(stream: memory.Stream) -> Flush:
    return Flush(memory.allocate(3 * L2), 3 * L2)


def watch(task: Task, stream: memory.Stream, flush: Flush, mode: str = "graph") -> Stopwatch:
    return Stopwatch(task, Policy(mode=mode), stream, flush, L2)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_run_of_known_length_is_timed_as_that_long_without_the_flush(mode: str, stream: memory.Stream, flush: Flush):
    timer = watch(Task(4, 100), stream, flush, mode)
    expected = (1500 + 4096 * 2.5e-4) * 1e-9
    assert timer.cold() == pytest.approx(expected, rel=1e-3) == timer.warm()
    assert flush.turn > 0, "the L2 was overwritten before the cold one"
    timer.close()


def test_cold_launches_never_reuse_a_buffer_set_that_the_l2_may_still_hold(stream: memory.Stream, flush: Flush):
    small = Task(5, 100)
    timer = watch(small, stream, flush)
    assert timer.unroll == 5 and timer.unroll_warm > 100, "few small sets: each once a graph, which the flush precedes"
    assert small.order[5:10] == [0, 1, 2, 3, 4] and set(small.order[10:]) == {0}
    large = watch(Task(3, 2 * L2), stream, flush)
    assert large.unroll > 100, "sets beyond three times the L2 may rotate"


def test_repeats_end_when_the_median_is_known_or_the_budget_is_spent_or_it_is_clearly_slow():
    rng = np.random.default_rng(0)
    assert len(repeat(lambda: 1.0, 50)) == 5
    assert len(repeat(lambda: float(rng.uniform(1, 3)), 12)) == 12
    assert len(repeat(lambda: float(rng.uniform(1, 3)), 50, best=1.0 / SLOW / 2)) == 3
    assert len(repeat(lambda: 1.0, 1)) == 1


def test_samples_that_scatter_wildly_are_unstable():
    rng = np.random.default_rng(0)
    assert unstable(tuple(rng.choice([1.0, 3.0], 20))) and not unstable(tuple(rng.normal(1, 0.02, 20)))


def test_interleaving_times_everyone_once_a_round_in_the_order_given(stream: memory.Stream, flush: Flush):
    watches = [watch(Task(1, 100), stream, flush, "eager") for _ in range(3)]
    asked: list[int] = []

    def order(r: int) -> list[int]:
        asked.append(r)
        return [(r + i) % 3 for i in range(3)]

    samples = interleave(watches, 4, order, "cold")
    assert [len(s) for s in samples] == [4, 4, 4] and asked == [0, 1, 2, 3]


def test_one_run_tells_a_hopeless_candidate_which_is_not_looked_at_closer(stream: memory.Stream):
    task = Task(4, 100)
    assert rough(task, stream) == pytest.approx((1500 + 4096 * 2.5e-4) * 1e-9, rel=1e-3) and len(task.order) == 2
    assert hopeless(0.4, 0.1) and not hopeless(0.2, 0.1), "three times slower"
    assert not hopeless(0.04, 0.001), "short runs are looked at closer"
    assert not hopeless(5.0, 0.0), "nothing to compare with"


W = Matmul(9, 10, 8, dtype="float32", ldc=12)


@pytest.fixture
def data(stream: memory.Stream) -> Iterator[DeviceData]:
    made = DeviceData(W, 0, L2)
    yield made
    made.close()


def test_the_set_to_verify_on_keeps_the_promised_alignment_and_no_more(stream: memory.Stream):
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
        raw = memory.download(place["a"], data.nbytes("a"))
        assert (elements(raw, data.specs["a"]) == data.arrays["a"]).all()


def test_memory_that_is_short_means_fewer_sets(stream: memory.Stream, monkeypatch: pytest.MonkeyPatch):
    w = Matmul(300, 300, 300, dtype="float32")
    used = 8 * 2**30 - memory.free_bytes()
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


def verdict(
    data: DeviceData, stream: memory.Stream, write: Callable[[np.ndarray], None], **more: bool
) -> check.Verdict:
    """What the verifier says about a kernel that leaves what ``write`` makes of the memory of the right result."""
    right = reference(W, data.arrays).astype(np.float32)
    calls = [0]

    def run(buffers, scalars, on) -> None:
        memory.synchronize()  # a kernel comes after what is in the stream
        flat = memory.download(buffers["out"] - 64, data.nbytes("out") + 128).view(np.float32)
        body = np.lib.stride_tricks.as_strided(flat[16:], W.arrays()["out"].shape, (4 * W.ldc, 4))
        body[...] = right
        calls[0] += 1
        write(flat if not more.get("second") or calls[0] > 1 else flat[:0])
        memory.upload(buffers["out"] - 64, flat)

    return check.Verifier(data, stream).check(run, LaunchPlan(()), Numerics(), 0, lambda text: None)


def test_a_right_result_passes_and_its_error_is_told(data: DeviceData, stream: memory.Stream):
    found = verdict(data, stream, lambda flat: None)
    assert found.status == "ok" and 0 < found.error["max_abs"] < 1e-5


def put(index: int, value: float) -> Callable[[np.ndarray], None]:
    def write(flat: np.ndarray) -> None:
        if flat.size:
            flat[index] = value

    return write


@pytest.mark.parametrize("index, second, words", [
    (16 + 3, False, "1 of 90 elements wrong, first at (0, 3)"), (15, False, "outside the output"),
    (-1, False, "outside the output"), (16 + 10, False, "gaps between rows"), (16 + 3, True, "differ between two runs"),
])  # fmt: skip
def test_one_wrong_element_is_found_wherever_it_is(
    data: DeviceData, stream: memory.Stream, index: int, second: bool, words: str
):
    found = verdict(data, stream, put(index, 0.125), second=second)
    assert found.status == "wrong" and words in found.reason


def test_bounds_have_room_for_another_order_of_summation_and_no_more():
    w = Matmul(16, 16, 300, dtype="float32")
    arrays = example_inputs(w, 0)
    limits = bounds(w, arrays)
    lo, hi = check.comparable(limits.lo), check.comparable(limits.hi)
    forward = (arrays["a"] @ arrays["b"]).astype(np.float32)
    assert check.judge(forward, lo, hi, limits).status == "ok"
    forward[2, 3] += 0.01
    assert "(2, 3)" in check.judge(forward, lo, hi, limits).reason
