"""A kernel for every size: right at the ends of all ranges, checked at each call, code and workspaces shared. On the
virtual GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import dispatch
from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput
from gpu_tune.kernel import shared_code
from gpu_tune.kernel.kernel_set import KernelSet
from gpu_tune.measure import vendor
from gpu_tune.reference import example_inputs
from gpu_tune.store.store import Store
from gpu_tune.store.winner_set import SizeRange
from tests.helpers.on_gpu import CupyLike
from tests.helpers.winners import toy_set

OPEN = gt.Matmul(gt.any_of(1, 90), 18, 16, dtype="float32")
RANGES = (SizeRange(1, 20, 0, "faster"), SizeRange(21, 60, 1, "slower"), SizeRange(61, 90, 0, "faster"))


@pytest.fixture
def gpu(fake_cuda):
    driver.use_context(0)


@pytest.fixture
def kernels(gpu):
    return KernelSet(toy_set(OPEN, (8, 50), RANGES))


def arrays(size):
    given = example_inputs(OPEN.at(min(size, 90)), 0)
    a = np.resize(given["a"], (size, 16))
    return CupyLike(a), CupyLike(given["b"]), CupyLike(np.full((size, 18), np.nan, np.float32)), a @ given["b"]


def test_every_size_at_the_ends_of_ranges_is_right_and_others_launch_nothing(kernels, monkeypatch):
    loaded = []
    module = driver.Module
    monkeypatch.setattr(shared_code.driver, "Module", lambda image: loaded.append(image) or module(image))
    for size in (1, 2, 19, 20, 21, 22, 59, 60, 61, 62, 89, 90, 20):
        a, b, out, right = arrays(size)
        for _ in range(2):  # the long way, and the one that was prepared
            assert kernels(a, b, out=out) is out
            np.testing.assert_allclose(out.get(), right, rtol=1e-5, atol=1e-5)
            out.put(np.full((size, 18), np.nan, np.float32))
        assert kernels.at(size).config == kernels.winners.kernels[kernels.winners.range_of(size).kernel].config
    assert len(loaded) == 2  # once a kernel, whatever the sizes
    a, b, out, _ = arrays(91)
    with pytest.raises(InvalidInput, match=r"^m: 91 is not in 1\.\.90, for which the kernel was made"):
        kernels(a, b, out=out)
    assert np.isnan(out.get()).all()


def test_a_known_size_is_looked_up_once(kernels, monkeypatch):
    a, b, out, right = arrays(33)
    kernels(a, b, out=out)
    monkeypatch.setattr(kernels, "at", lambda size: pytest.fail("looked up again"))
    out.put(np.zeros((33, 18), np.float32))
    kernels(a, b, out=out)
    np.testing.assert_allclose(out.get(), right, rtol=1e-5, atol=1e-5)


def test_a_bound_call_and_wrong_arguments(kernels):
    a, b, out, right = arrays(21)
    kernels.bind(a, b, out=out).launch()
    np.testing.assert_allclose(out.get(), right, rtol=1e-5, atol=1e-5)
    with pytest.raises(InvalidInput, match="a: is missing"):
        kernels()
    with pytest.raises(InvalidInput, match="b"):  # of another k
        kernels(a, CupyLike(np.zeros((15, 18), np.float32)), out=out)
    kernels.at(1)
    with pytest.raises(InvalidInput, match=r"m: True is not in 1\.\.90"):
        kernels.at(True)
    with pytest.raises(InvalidInput, match=r"^m: 0 is no size of a kernel; leave the call out where nothing is to do"):
        kernels.at(0)
    with pytest.raises(InvalidInput, match=r"out.*shape"):
        kernels(a, b, out=CupyLike(np.zeros((22, 18), np.float32)))


def test_one_workspace_serves_all_sizes_of_a_kernel(gpu):
    winners = toy_set(OPEN, (8, 50), RANGES)
    m = winners.size
    wide = tuple(replace(k, plan=replace(k.plan, workspace_bytes=m * 64)) for k in winners.kernels)
    kernels = KernelSet(replace(winners, kernels=wide))
    for size in (5, 20, 61, 90):
        a, b, out, right = arrays(size)
        kernels(a, b, out=out)
        np.testing.assert_allclose(out.get(), right, rtol=1e-5, atol=1e-5)
    made = {id(w): w for w in (kernels.at(s)._programs[0][1] for s in (5, 20, 61, 90))}
    assert [w.nbytes for w in made.values()] == [90 * 64]


def test_load_and_the_dispatcher_use_a_set_and_the_verdict_of_each_range(gpu, home, monkeypatch):
    winners = toy_set(OPEN, (8, 50), RANGES, source="measured")
    Store().publish(winners)
    dispatch.forget()
    assert gt.load(OPEN).match == "set" and gt.load(OPEN.at(33)).match == "set"
    inside = gt.load(gt.Matmul(gt.any_of(2, 80), 18, 16, dtype="float32"))
    assert inside.match == "nearest" and inside.workload == OPEN
    served = []
    monkeypatch.setattr(vendor, "can", lambda *a: True)
    monkeypatch.setattr(vendor, "run", lambda w, *a: served.append(w.m))
    reads = []
    get_set = Store.get_set
    monkeypatch.setattr(Store, "get_set", lambda self, *a: reads.append(a) or get_set(self, *a))
    for size in (1, 20, 21, 60, 61, 90, 91):
        a, b, out, right = arrays(size)
        gt.matmul(a, b, out=out)
        if size not in (21, 60, 91):
            np.testing.assert_allclose(out.get(), right, rtol=1e-5, atol=1e-5)
    assert served == [21, 60, 91]  # slower there, and not tuned
    assert len(reads) == 1  # the set is read once, however many sizes come
    dispatch.forget()
