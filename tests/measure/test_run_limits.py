"""A family that is broken on a GPU does not eat its time, and a few bad configs stop nothing."""

from __future__ import annotations

from gpu_tune.measure.quarantine import HANGS, LOSSES, CircuitBreaker, run_seconds
from gpu_tune.workload import Matmul


def test_a_few_losses_among_many_stop_nothing_and_templates_are_counted_apart():
    made = CircuitBreaker()
    assert not made.tripped("one")
    made.note("one", count=400)
    made.note("one", lost=True, hung=True, count=HANGS + 2)
    made.note("one", lost=True, count=LOSSES + 30)
    assert not made.tripped("one")
    made.note("one", lost=True, count=120)
    assert "163 of 563 configs of one" in made.tripped("one") and not made.tripped("two")


def test_fewer_hangs_than_crashes_are_endured():
    for kind, most in (({"lost": True, "hung": True}, HANGS), ({"lost": True}, LOSSES)):
        made = CircuitBreaker()
        for _ in range(most - 1):
            made.note("one", **kind)
        assert not made.tripped("one")
        made.note("one", **kind)
        assert made.tripped("one")


def test_a_larger_workload_may_run_longer_but_not_for_ever():
    small, large, huge = (run_seconds(Matmul(n, n, n, dtype="bfloat16")) for n in (128, 8192, 32768))
    assert 6 <= small < 7 < large < huge == 20
