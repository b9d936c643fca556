"""Timing on the virtual GPU, whose kernels last as long as they say."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune.cuda import driver
from gpu_tune.measure import runtime
from gpu_tune.measure.timing import (
    SLOW,
    Flush,
    Stopwatch,
    estimate_runtime,
    interleave,
    is_much_slower,
    repeat,
    unstable,
)  # fmt: skip
from gpu_tune.trial import Policy

L2 = 1 << 16


class Task:
    """Something to time whose run is a memset: 1.5 us and a little for the bytes."""

    def __init__(self, sets: int, footprint: int) -> None:
        self.sets, self.footprint = sets, footprint
        self.order: list[int] = []
        self.memory = runtime.allocate(1 << 12)

    def launch(self, i: int, stream: int) -> None:
        self.order.append(i)
        driver.memset(self.memory, 0, 1 << 12, stream)


@pytest.fixture
def flush(stream: runtime.Stream) -> Flush:
    return Flush(runtime.allocate(3 * L2), 3 * L2)


def watch(task: Task, stream: runtime.Stream, flush: Flush, mode: str = "graph") -> Stopwatch:
    return Stopwatch(task, Policy(mode=mode), stream, flush, L2)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_run_of_known_length_is_timed_as_that_long_without_the_flush(mode: str, stream: runtime.Stream, flush: Flush):
    timer = watch(Task(4, 100), stream, flush, mode)
    expected = (1500 + 4096 * 2.5e-4) * 1e-9
    assert timer.cold() == pytest.approx(expected, rel=1e-3) == timer.warm()
    assert flush.turn > 0, "the L2 was overwritten before the cold one"
    timer.close()


def test_cold_launches_never_reuse_a_buffer_set_that_the_l2_may_still_hold(stream: runtime.Stream, flush: Flush):
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


def test_interleaving_times_everyone_once_a_round_in_the_order_given(stream: runtime.Stream, flush: Flush):
    watches = [watch(Task(1, 100), stream, flush, "eager") for _ in range(3)]
    asked: list[int] = []

    def order(r: int) -> list[int]:
        asked.append(r)
        return [(r + i) % 3 for i in range(3)]

    samples = interleave(watches, 4, order, "cold")
    assert [len(s) for s in samples] == [4, 4, 4] and asked == [0, 1, 2, 3]


def test_one_run_tells_a_much_slower_candidate_which_is_not_looked_at_closer(stream: runtime.Stream):
    task = Task(4, 100)
    assert (
        estimate_runtime(task, stream) == pytest.approx((1500 + 4096 * 2.5e-4) * 1e-9, rel=1e-3)
        and len(task.order) == 2
    )
    assert is_much_slower(0.4, 0.1) and not is_much_slower(0.2, 0.1), "three times slower"
    assert not is_much_slower(0.04, 0.001), "short runs are looked at closer"
    assert not is_much_slower(5.0, 0.0), "nothing to compare with"
