"""The operators of gpu_tune.torch on a real GPU: by PyTorch, by our kernels, in a graph; against float64."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from gpu_tune import dispatch

torch = pytest.importorskip("torch", reason="needs PyTorch (gpu_tune[torch])")
pytestmark = pytest.mark.gpu
SHAPES = [(64, 48, 32), (128, 256, 64)]


@pytest.fixture(params=["by PyTorch", "by our kernels"])
def gtt(request: pytest.FixtureRequest, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """gpu_tune.torch, whose calls go to one or the other."""
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no GPU")
    import gpu_tune.torch as package

    def served(workload: Any, ordinal: int, library: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is not tuned
            return dispatch.load(workload)

    package.forget()
    if request.param == "by our kernels":
        monkeypatch.setattr(dispatch, "server", served)
    yield package
    package.forget()


def close(ours: Any, theirs: Any, dtype: Any) -> None:
    eps = {torch.float32: 2.0**-20, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}[dtype]
    largest = theirs.abs().max().item()
    torch.testing.assert_close(ours.double(), theirs, rtol=8 * eps, atol=8 * eps * largest)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_layer_and_its_gradients(gtt: Any, shape: tuple[int, int, int], dtype: str) -> None:
    (m, n, k), kind = shape, getattr(torch, dtype)
    made = [torch.randn(s, device="cuda", dtype=kind) for s in ((m, k), (n, k), (n,))]
    results = []
    for tensors, linear in ((made, gtt.linear), ([t.double() for t in made], torch.nn.functional.linear)):
        x, w, bias = (t.detach().requires_grad_() for t in tensors)
        y = torch.relu(linear(x, w, bias)) if linear is not gtt.linear else linear(x, w, bias, activation="relu")
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, w, bias))))
    for ours, theirs in zip(*results):
        close(ours, theirs, kind)


@pytest.mark.parametrize("memory", ["contiguous_format", "channels_last"])
def test_a_convolution_and_its_gradients(gtt: Any, memory: str) -> None:
    last = getattr(torch, memory)
    x, w = torch.randn(2, 16, 10, 12, device="cuda").half(), torch.randn(32, 16, 3, 3, device="cuda").half()
    results = []
    for conv, kind in ((gtt.conv2d, torch.float16), (torch.nn.functional.conv2d, torch.float64)):
        a, b = (t.to(kind, memory_format=last).requires_grad_() for t in (x, w))
        y = conv(a, b, padding=1, stride=2)
        results.append((y, *torch.autograd.grad(y.square().sum(), (a, b))))
    assert results[0][0].is_contiguous(memory_format=last)
    for ours, theirs in zip(*results):
        close(ours, theirs, torch.float16)


def test_a_call_is_captured_into_a_graph(gtt: Any) -> None:
    a, b = torch.randn(64, 32, device="cuda").half(), torch.randn(32, 48, device="cuda").half()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        gtt.matmul(a, b)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        y = gtt.matmul(a, b)
    a.copy_(torch.randn_like(a))
    graph.replay()
    torch.cuda.synchronize()
    close(y, a.double() @ b.double(), torch.float16)


def test_float8_tensors_have_no_interface_to_ask(gtt: Any) -> None:
    """``hasattr(x, "__cuda_array_interface__")`` raises on them: nothing of ours may ask."""
    a = torch.randn(64, 64, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones(1, device="cuda")
    with torch.no_grad():
        y = gtt.matmul(a, a, layout="nt", scales="tensor", scale_a=one, scale_b=one)
    close(y, a.double() @ a.double().t(), torch.bfloat16)
