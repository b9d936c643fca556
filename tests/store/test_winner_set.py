"""Sets of winners: ranges are valid by construction, one directory published by one rename, damage is a miss."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

import gpu_tune as gt
from gpu_tune.errors import InvalidInput
from gpu_tune.store.store import Store, lookup_set
from gpu_tune.store.winner_set import SizeRange, WinnerSet
from tests.helpers.winners import H200, toy_set

OPEN = gt.Matmul(gt.any_of(1, 100), 18, 16, dtype="float32")


@pytest.fixture(scope="module")
def winners():
    return toy_set(OPEN, (8, 50), (SizeRange(1, 20, 0), SizeRange(21, 60, 1, "faster", (50,)), SizeRange(61, 100, 0)))


def test_lookup_is_by_bisection_and_a_size_outside_is_one_clear_error(winners):
    for size in range(1, 101):
        part = winners.range_of(size)
        assert part.least <= size <= part.most
        made = winners.at(size)
        assert made.workload == OPEN.at(size) and made.plan.open is None and made.plan.kernels[0].args[3].value == size
    assert winners.at(50).seconds > 0 and winners.at(51).seconds == 0
    assert (
        "predicted at m=50, not at m=51" in winners.at(51).verdict["text"]
        and winners.at(51).verdict["ours"] == "faster"
    )
    outside = r"is not in 1\.\.100, for which the kernel was made"
    for size, said in ((0, "m: 0 is no size of a kernel"), (101, outside), (-1, outside)):
        with pytest.raises(InvalidInput, match=said):
            winners.at(size)


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ((SizeRange(1, 20, 0), SizeRange(22, 100, 1)), "does not begin at 21"),
        ((SizeRange(1, 20, 0), SizeRange(20, 100, 1)), "does not begin at 21"),
        ((SizeRange(2, 100, 0),), "does not begin at 1"),
        ((SizeRange(1, 99, 0),), "end at 99, not at 100"),
        ((SizeRange(1, 101, 0),), "exceeds 1..100, which its kernel computes"),
        ((SizeRange(1, 100, 2),), "of kernel 2"),
    ],
)
def test_ranges_that_do_not_serve_every_size_cannot_be_made(winners, ranges, said):
    with pytest.raises(ValueError, match=said):
        replace(winners, ranges=ranges)
    one = replace(winners.kernels[0], plan=winners.kernels[0].plan.at(8))
    with pytest.raises(ValueError, match=r"exceeds 1\.\.0"):
        replace(winners, kernels=(one, winners.kernels[1]))


def test_a_set_is_published_found_by_size_and_a_damaged_one_is_a_miss(winners, tmp_path, caplog):
    store = Store(tmp_path)
    path = store.publish(winners)
    names = sorted(p.name for p in path.iterdir())
    assert names == ["0.cu", "0.cubin", "0.json", "1.cu", "1.cubin", "1.json", "set.json"]
    assert store.get_set(OPEN, H200.chip, "predicted") == winners and store.get(OPEN, H200.chip, "predicted") is None
    narrow = gt.Matmul(gt.any_of(5, 60), 18, 16, dtype="float32")
    store.publish(toy_set(narrow, (8,), (SizeRange(5, 60, 0),)))
    found = [lookup_set(OPEN.at(m), H200.chip, "predicted", store=store, user=False) for m in (4, 5, 60, 61)]
    assert [f[0].workload if f else None for f in found] == [OPEN, narrow, narrow, OPEN]
    assert (
        lookup_set(replace(OPEN.at(5), n=20, ldb=20, ldc=20), H200.chip, "predicted", store=store, user=False) is None
    )
    assert len(list(store.entries())) == 2 and store.gc() == (0, 0)
    (path / "1.cubin").write_bytes(b"x" + (path / "1.cubin").read_bytes()[1:])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # said once
            assert lookup_set(OPEN.at(4), H200.chip, "predicted", store=store, user=False) is None
    assert len([m for m in caplog.messages if str(path) in m]) == 1 and "does not match its hash" in caplog.text
    assert store.gc()[0] == 1 and len(list(store.entries())) == 1


def test_ranges_edited_by_hand_are_a_miss(winners, tmp_path):
    from gpu_tune.errors import CorruptData

    files = winners.files()
    assert WinnerSet.from_files(files["set.json"], files.__getitem__) == winners
    with pytest.raises(CorruptData, match="does not match its hash"):
        WinnerSet.from_files(files["set.json"].replace(b'"most": 20', b'"most": 30'), files.__getitem__)
