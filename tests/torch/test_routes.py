"""Who serves an operator's call on a GPU: on the virtual one, whose memory PyTorch's CPU tensors look into."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gpu_tune as gt
import gpu_tune.torch as gtt
from gpu_tune import dispatch
from gpu_tune.cuda import driver
from gpu_tune.kernel.prepared import CallPath
from gpu_tune.torch import arithmetic, routes
from tests.helpers import device_memory, torch_on_virtual_gpu
from tests.helpers.torch_on_virtual_gpu import moved
from tests.helpers.winners import toy_winner_for
from tests.torch import formulas


@pytest.fixture
def virtual(fake_cuda: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The virtual GPU; what is launched, by the workload's key, and what PyTorch computes, as "vendor"."""
    driver.use_context(0)
    torch_on_virtual_gpu.take(monkeypatch.setattr)
    routes.forget()
    asked: list[str] = []
    launch = CallPath.launch

    def launched(path: CallPath, pointers, stream, scalars) -> bool:
        done = launch(path, pointers, stream, scalars)
        asked.append("ours" if done else "refused")
        return done

    for name in ("product", "convolution"):
        compute = getattr(arithmetic, name)
        monkeypatch.setattr(
            arithmetic, name, lambda *a, compute=compute, **o: asked.append("vendor") or compute(*a, **o)
        )
    prepared = driver.Launch.on
    monkeypatch.setattr(CallPath, "launch", launched)
    monkeypatch.setattr(driver.Launch, "on", lambda *on: calling(prepared(*on), lambda: asked.append("ours")))
    yield asked
    routes.forget()


def calling(issue, before):
    """What issues a launch, and calls ``before()`` first each time."""
    return lambda: before() or issue()


def publish(workload: gt.Matmul | gt.Conv2d, ours: str = "faster") -> None:
    gt.Store().publish(replace(toy_winner_for(workload), source="measured", verdict={"ours": ours}))
    dispatch.forget()  # as a tuning in this process does


def test_our_kernel_serves_a_backward_product_that_it_is_faster_at(virtual: list[str]) -> None:
    m, n, k = 16, 24, 32
    x, w = (moved(formulas.integers(s, i).float()).requires_grad_() for i, s in enumerate([(m, k), (n, k)]))
    bias, g = moved(formulas.integers((n,), 3).float()), moved(formulas.integers((m, n), 4).float())

    def run() -> list[torch.Tensor]:
        y = gtt.linear(x, w, bias)  # an activation's gradient would be memory that the virtual GPU does not know
        device_memory.synchronize()
        made = [y, *torch.autograd.grad(y, (x, w), g)]
        device_memory.synchronize()
        return [t.detach().clone() for t in made]

    expected = run()
    assert virtual == ["vendor"] * 3
    publish(gt.Matmul(m, k, n, dtype="float32", layout="nn"))
    for _ in range(2):
        virtual.clear()
        for ours, theirs in zip(run(), expected):
            assert torch.equal(ours, theirs)
        assert virtual == ["vendor", "ours", "vendor"]
    publish(gt.Matmul(m, k, n, dtype="float32", layout="nn"), ours="slower")
    virtual.clear()
    run()
    assert virtual == ["vendor"] * 3


def test_addresses_that_do_not_fit_are_served_by_others_and_not_remembered(virtual: list[str]) -> None:
    m, n, k = 16, 24, 32
    publish(gt.Matmul(m, n, k, dtype="float32"))
    a, b = moved(formulas.integers((m, k), 1).float()), moved(formulas.integers((k, n), 2).float())
    shifted = moved(torch.zeros(m * k + 1))[1:].view(m, k).copy_(a)
    expected = a @ b
    for given, who in ((shifted, []), (a, ["ours"]), (shifted, ["refused"]), (a, ["ours"])):
        virtual.clear()
        y = gtt.matmul(given, b)
        device_memory.synchronize()
        assert torch.equal(y, expected) and virtual == who
    virtual.clear()
    y = gtt.matmul(a.t().contiguous().t(), b)  # the transposed memory is another workload, which nobody tuned
    assert torch.equal(y, expected) and virtual == ["vendor"]


def test_channels_last_images_are_convolved_where_they_lie(virtual: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = gt.Conv2d(2, 16, 3, 4, 8, 1, 1, dtype="float32", layout="nhwc", epilogue="bias")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not tuned
        kernel = gt.load(given)
    monkeypatch.setattr(dispatch, "server", lambda workload, gpu, library: kernel if workload == given else None)
    x, w = (formulas.integers(s, i).float() for i, s in enumerate([(2, 16, 3, 4), (8, 16, 1, 1)]))
    bias = moved(formulas.integers((8,), 3).float())
    last = torch.channels_last
    given_to_it: list[set[int]] = []
    launch = driver.Launch.__call__  # the virtual GPU knows no kernel of that family: what it is given can be seen

    def seen(of: driver.Launch):
        given_to_it.append({argument.value for argument in of.arguments})

    monkeypatch.setattr(driver.Launch, "__call__", lambda of, stream: seen(of) or launch(of, stream))
    prepared = driver.Launch.on
    monkeypatch.setattr(driver.Launch, "on", lambda of, stream: calling(prepared(of, stream), lambda: seen(of)))
    images, filters = (moved(t.to(memory_format=last)) for t in (x, w))
    y = None
    for _ in range(2):  # the second time from addresses that are known
        del y
        y = gtt.conv2d(images, filters, epilogue="bias", bias=bias)
        device_memory.synchronize()
        assert y.is_contiguous(memory_format=last) and virtual.pop() == "ours"
        assert given_to_it.pop() >= {t.data_ptr() for t in (images, filters, bias, y)}
    y = gtt.conv2d(moved(x), moved(w), epilogue="bias", bias=bias)
    assert virtual == ["vendor"] and torch.equal(y, torch.nn.functional.conv2d(x, w, bias))


def test_a_launch_that_fails_or_finds_another_context_is_not_taken_for_done(
    virtual: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(gt.Matmul(16, 24, 32, dtype="float32"))
    a, b = (moved(formulas.integers(s, i).float()) for i, s in enumerate([(16, 32), (32, 24)]))
    made = [torch_on_virtual_gpu.empty((16, 24), (24, 1), dtype=torch.float32) for _ in range(2)]
    monkeypatch.setattr(routes, "memory", lambda *args, **options: made[0])
    for _ in range(2):
        gtt.matmul(a, b)
    assert virtual == ["ours", "ours"]
    driver.call("cuCtxPopCurrent")
    try:
        made[0].zero_()
        gtt.matmul(a, b)  # as a thread that never used the GPU: its context is made current for the launch
    finally:
        driver.use_context(0)
    device_memory.synchronize()
    assert torch.equal(made[0], a @ b)

    failed = driver.bindings().CUresult.CUDA_ERROR_LAUNCH_FAILED
    monkeypatch.setattr(driver.Launch, "on", lambda launch, stream: lambda: (failed,))
    made[0] = made[1]  # a new address, whose launch is prepared now
    gtt.matmul(a, b)
    with pytest.raises(driver.DriverError, match="CUDA_ERROR_LAUNCH_FAILED"):
        gtt.matmul(a, b)


def test_a_convolutions_gradients_are_workloads_of_their_own(
    virtual: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def server(workload, gpu, library):
        asked.append(workload.key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is not tuned
            return gt.load(workload) if workload.direction == "dgrad" else None

    monkeypatch.setattr(dispatch, "server", server)
    last = torch.channels_last
    x, w = (moved(torch.randn(s).to(memory_format=last)).requires_grad_() for s in ((2, 16, 5, 5), (8, 16, 3, 3)))
    g = moved(torch.randn(2, 8, 5, 5).to(memory_format=last))
    dx, dw = torch.autograd.grad(gtt.conv2d(x, w, padding=1), (x, w), g)
    device_memory.synchronize()
    assert virtual == ["vendor", "ours"] and dx.shape == x.shape and dx.is_contiguous(memory_format=last)
    layer = "conv2d-2x16x5x5-k8-3x3-s1-p1-d1-float32-nhwc"
    assert asked == [layer, f"{layer}-direction=dgrad", f"{layer}-direction=wgrad"]
    expected = torch.nn.grad.conv2d_weight(x, w.shape, g, padding=1)
    torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4)
