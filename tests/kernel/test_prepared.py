"""A call like one before looks at addresses and numbers alone; a bound one at nothing. On the virtual GPU."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import dispatch
from gpu_tune.cuda import driver
from gpu_tune.cuda.memory import on_device
from gpu_tune.errors import InvalidInput
from gpu_tune.kernel import arrays
from gpu_tune.kernel.kernel import TunedKernel
from gpu_tune.measure import vendor
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg
from gpu_tune.reference import example_inputs, reference
from gpu_tune.store.store import Store
from gpu_tune.workload import Matmul
from tests.helpers import device_memory as memory
from tests.helpers.on_gpu import CupyLike, OnGpu
from tests.helpers.winners import toy_winner_for, winner

SMALL = Matmul(20, 18, 16, dtype="float32")
GIVEN = example_inputs(SMALL, 0)
RIGHT = reference(SMALL, GIVEN)


@pytest.fixture
def gpu(fake_cuda):
    driver.use_context(0)


@pytest.fixture
def kernel(gpu):
    return TunedKernel(toy_winner_for(SMALL))


@pytest.fixture
def cleared(gpu):
    """A kernel whose plan also uses a workspace, kept zero."""
    base = toy_winner_for(SMALL)
    plan = LaunchPlan((MemsetStep("workspace", 64, 1, 64), *base.plan.steps), 128, True, 64)
    return TunedKernel(replace(base, plan=plan))


def three(offset: int = 0, workload: Matmul = SMALL):
    given = example_inputs(workload, 0)
    out = np.zeros(workload.arrays()["out"].shape, np.float32)
    return CupyLike(given["a"], offset), CupyLike(given["b"]), CupyLike(out)


def close(out, expected=RIGHT):
    np.testing.assert_allclose(out.get(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def nothing_is_decided_again(kernel, monkeypatch):
    def begin():
        for name in ("view", "check"):
            monkeypatch.setattr(arrays, name, lambda *a, **k: pytest.fail("looked at again"))

    return begin


def test_a_second_call_looks_at_addresses_alone(kernel, nothing_is_decided_again):
    a, b, out = three()
    other, _, second = three()
    other.put(2 * GIVEN["a"])
    assert kernel(a, b, out=out) is out
    nothing_is_decided_again()
    out.put(np.zeros((20, 18), np.float32))
    assert kernel(a, b, out=out) is out
    assert kernel(other, b, out=second) is second
    close(out)
    close(second, 2 * RIGHT)


@pytest.fixture
def saving(gpu):
    """A kernel with a second result: the plan fills ``aux`` with 7."""
    base = toy_winner_for(SMALL)
    plan = LaunchPlan((MemsetStep("aux", 20 * 16, 7), *base.plan.steps))
    return TunedKernel(replace(base, workload=replace(SMALL, epilogue="relu(aux)"), plan=plan))


def test_second_results_are_written_where_a_call_says_also_when_repeated(saving):
    a, b, out = three()
    for _ in range(3):  # the second and third look at addresses alone
        aux = CupyLike(np.zeros((20, 16), np.uint8))
        found = saving(a, b, aux=aux, out=out)
        assert found[0] is out and found[1] is aux
        close(out)
        assert (aux.get() == 7).all()
        overlapping = CupyLike(np.zeros((20, 16), np.uint8))
        overlapping.data.ptr = b.address + 16
        with pytest.raises(InvalidInput, match=r"aux: .* overlaps b"):
            saving(a, b, aux=overlapping, out=out)
    assert len(saving._paths) == 1
    bound = saving.bind(a, b, aux=aux, out=out)
    other = CupyLike(np.zeros((20, 16), np.uint8))
    bound.rebind(aux=other)
    bound.launch()
    assert (other.get() == 7).all() and bound.results["aux"] is other and bound.results["out"] is bound.out
    with pytest.raises(InvalidInput, match=r"aux: .*is needed: interface arrays"):
        saving(OnGpu(GIVEN["a"]), OnGpu(GIVEN["b"]), out=out)


def test_second_results_are_allocated_where_a_call_gives_none(saving, monkeypatch):
    made = []

    def allocate(spec, like, name="out"):
        made.append((name, CupyLike(np.zeros(spec.shape, spec.dtype))))
        return made[-1][1]

    monkeypatch.setattr(arrays, "allocate", allocate)
    a, b, given = three()
    for out in (None, None, given, given):
        made.clear()
        found = saving(a, b, out=out)
        assert [name for name, _ in made] == ["aux", *(["out"] if out is None else [])]
        assert found[1] is made[0][1] and found[0] is (given if out is not None else made[1][1])
        close(found[0])
        assert (found[1].get() == 7).all()
    assert len(saving._paths) == 2


def test_the_rules_of_addresses_hold_at_every_call(kernel):
    a, b, out = three()
    kernel(a, b, out=out)
    with pytest.raises(InvalidInput, match=r"a address: .* is not a multiple of 16 bytes"):
        kernel(three(offset=4)[0], b, out=out)
    within = CupyLike(np.zeros((20, 18), np.float32))
    within.data.ptr = a.address + 256
    with pytest.raises(InvalidInput, match=r"out: .* overlaps a; only c and residual"):
        kernel(a, b, out=within)


def test_another_layout_is_looked_at_anew(kernel):
    a, b, out = three()
    kernel(a, b, out=out)
    for change, said in (
        ({"shape": (20, 8)}, r"a\.shape"),
        ({"dtype": np.dtype(np.int32)}, r"a\.dtype"),
        ({"strides": (4, 80)}, "a strides"),
    ):
        bad = three()[0]
        vars(bad).update(change)
        with pytest.raises(InvalidInput, match=said):
            kernel(bad, b, out=out)
    with pytest.raises(InvalidInput, match="c: is no argument"):
        kernel(a, b, b, out=out)
    with pytest.raises(InvalidInput, match="'host:0' is not where a is"):
        kernel(a, GIVEN["b"], out=out)
    assert kernel(OnGpu(GIVEN["a"]), OnGpu(GIVEN["b"]), out=out) is out
    close(out)


def test_numbers_of_a_call_are_its_own(gpu):
    workload = Matmul(1, 32, 4, dtype="float32", alpha="any", beta="any")
    args = (*map(BufferArg, ("a", "b", "c", "out")), ScalarArg("alpha", "float32"))
    source = 'extern "C" __global__ void probing(float* a, float* b, float* c, float* out, float x) { out[0] = x; }'
    general = TunedKernel(winner(workload, source, LaunchPlan((KernelStep("probing", (1, 1, 1), (32, 1, 1), args),))))
    given = example_inputs(workload, 0)
    a, b, c = (CupyLike(given[n]) for n in "abc")
    out = CupyLike(np.zeros((1, 32), np.float32))
    for _ in range(2):
        general(a, b, alpha=2.0, out=out)
        general(a, b, c, alpha=3.0, beta=1.0, out=out)
        with pytest.raises(InvalidInput, match="c: is missing"):
            general(a, b, beta=1.0, out=out)
    (plain, with_c) = general._paths.values()
    assert {k[3:] for k in plain._bound} == {(("alpha", 2.0), ("beta", 0.0))}
    assert {k[4:] for k in with_c._bound} == {(("alpha", 3.0), ("beta", 1.0))}


def test_nothing_keeps_the_callers_arrays_alive_but_a_bound_call(kernel):
    a, b, out = three()
    kernel(a, b, out=out)
    gone = weakref.ref(a)
    bound = kernel.bind(a, b, out=out)
    del a
    gc.collect()
    assert gone() is not None
    del bound
    gc.collect()
    assert gone() is None


def test_a_bound_call_launches_on_its_stream_or_another_and_is_rebound_to_arrays_or_addresses(kernel):
    a, b, out = three()
    stream = memory.Stream()
    bound = kernel.bind(a, b, out=out, stream=stream.handle)
    assert bound.out is out and not out.get().any(), "nothing is launched by binding"
    bound.launch()
    stream.synchronize()
    close(out)
    out.put(np.zeros((20, 18), np.float32))
    bound.launch(0)
    close(out)
    doubled, _, second = three()
    doubled.put(2 * GIVEN["a"])
    bound.rebind(a=doubled, out=second)
    bound.launch()
    close(second, 2 * RIGHT)
    assert bound.out is second
    bound.rebind(a=a.address)
    bound.launch()
    close(second)
    for changed, said in (
        ({"a": three(offset=4)[0]}, "a address: .* is not a multiple"),
        ({"a": a.address + 4}, "a: .* not aligned"),
        ({"out": a.address}, "out: .* overlaps"),
        ({"a": GIVEN["a"]}, "'host:0' is not where"),
        ({"bias": a}, "bias: is not bound; bound are a, b, out"),
        ({"b": a}, r"b\.shape"),
    ):
        with pytest.raises(InvalidInput, match=said):
            bound.rebind(**changed)
    with pytest.raises(InvalidInput, match="a: 'a host array' is not in CUDA memory"):
        kernel.bind(GIVEN["a"], GIVEN["b"])


def test_a_workspace_belongs_to_the_stream_or_to_the_graph_of_a_launch(cleared):
    a, b, out = three()
    one, two = memory.Stream(), memory.Stream()
    bound = cleared.bind(a, b, out=out, stream=one.handle)
    bound.launch()
    bound.launch(two.handle)
    cleared(a, b, out=out, stream=one.handle)
    workspaces = cleared._programs[0][1]
    assert len(set(workspaces._addresses.values())) == 2
    graphs = [memory.Graph(one, bound.launch) for _ in range(2)]
    graphs.append(memory.Graph(one, lambda s: cleared(a, b, out=out, stream=s)))
    assert len(set(workspaces._addresses.values())) == 5
    out.put(np.zeros((20, 18), np.float32))
    for graph in graphs:
        graph.launch(one)
    close(out)


def test_threads_share_a_path_and_a_bound_call(kernel, cleared):
    a, b, _ = three()
    wrong: list[BaseException] = []

    def work(which: TunedKernel) -> None:
        try:
            with on_device(0):
                stream, outs = memory.Stream(), [three()[2] for _ in range(3)]
            for i in range(30):
                which(a, b, out=outs[i % 3], stream=stream.handle)  # in a thread that has no context of its own
            with on_device(0):
                stream.synchronize()
                for out in outs:
                    close(out)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in (kernel, cleared) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_dispatchers_remember_who_serves_a_call_until_a_tuning_publishes(gpu, home, monkeypatch):
    dispatch.forget()
    workload = Matmul(16, 24, 32, dtype="float32")
    Store().publish(replace(toy_winner_for(workload), source="measured", verdict={"ours": "faster"}))
    a, b, out = three(workload=workload)
    assert gt.matmul(a, b, out=out) is out
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_dispatch", lambda *a, **k: pytest.fail("decided again"))
        out.put(np.zeros((16, 24), np.float32))
        assert gt.matmul(a, b, out=out) is out
        close(out, reference(workload, example_inputs(workload, 0)))
    asked = []
    monkeypatch.setattr(vendor, "can", lambda w, library: library == "cupy")
    monkeypatch.setattr(vendor, "run", lambda *given: asked.append(given) or "vendor's")
    assert gt.matmul(three(offset=4, workload=workload)[0], b, out=out) == "vendor's", "a misaligned array"
    assert gt.matmul(a, b, out=out, beta=0.5, c=out) == "vendor's", "another call"
    Store().publish(replace(toy_winner_for(workload), source="measured", verdict={"ours": "slower"}))
    dispatch.forget()
    for _ in range(2):
        assert gt.matmul(a, b, out=out, alpha=1) == "vendor's"
    assert [given[0].beta for given in asked] == ["0", "any", "0", "0"] and asked[1][3] == {"beta": 0.5}
    dispatch.forget()
