"""torch.compile with inductor: whole graphs, promised strides and data types, few graphs for many sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import gpu_tune.torch as gtt
from bench.torch_compile.__main__ import compiled
from tests.helpers.torch_models import ResNet, TransformerBlock, UNet


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


class Mixed(nn.Module):
    """Convolutions, then products, with activations that fuse and that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.SiLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


@pytest.mark.slow
def test_a_model_is_one_graph_with_gradients() -> None:
    torch.manual_seed(0)
    memory = torch.channels_last
    model, x = Mixed().to(memory_format=memory), torch.randn(2, 3, 6, 6).contiguous(memory_format=memory)
    gtt.replace(model)
    compiled = torch.compile(model, fullgraph=True)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        y = run(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_results_of_every_kind_keep_what_was_promised_to_inductor() -> None:
    """Inductor asserts strides of an operator's result, and reads memory as the promised data type."""
    batch, wide = torch.randn(3, 4, 8), torch.randn(8, 4).bfloat16()
    image = torch.randn(2, 1, 5, 5)
    int8 = torch.randint(-3, 3, (4, 8), dtype=torch.int8)

    def f(batch, wide, image, int8):
        transposed = gtt.matmul(batch.transpose(1, 2), batch, epilogue="relu") + 1
        widened = gtt.matmul(wide, wide, layout="nt", out_dtype=torch.float32) + 1
        gray = gtt.conv2d(image.to(memory_format=torch.channels_last), torch.ones(2, 1, 3, 3), padding=1) + 1
        whole = gtt.matmul(int8, int8, layout="nt") + 1
        return transposed, widened, gray, whole

    for ours, theirs in zip(torch.compile(f, fullgraph=True)(batch, wide, image, int8), f(batch, wide, image, int8)):
        assert ours.dtype is theirs.dtype and ours.stride() == theirs.stride()
        torch.testing.assert_close(ours, theirs)


def test_many_batch_sizes_make_few_graphs() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    gtt.replace(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for m in (*range(1, 12), 16, 17, 31, 32, 33, 64):
            x = torch.randn(m, 8)
            torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count <= 3, "one for 1 row, one for the first other number, one for all"
    torch._dynamo.reset()
    counter.frame_count = 0
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for m in (5, 1, 2, 64, 3):
            x = torch.randn(m, 8)
            torch._dynamo.decorators.mark_unbacked(x, 0)
            torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count == 1


SMALL = {
    "transformer": (lambda: TransformerBlock(16, 2), (4, 16)),
    "ResNet": (lambda: ResNet((1,), width=4, classes=3), (3, 32, 32)),
    "U-Net": (lambda: UNet(3, 4, 1), (3, 8, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_replaced_models_are_whole_graphs_of_which_two_serve_ten_batch_sizes(name: str) -> None:
    """As ``python -m bench.torch_compile`` does it with ResNet-50 and inductor."""
    found = compiled(*SMALL[name], (1, 2, 3, 4, 5, 6, 7, 8, 16, 32), "aot_eager", True)
    assert found.good and found.graphs == 2 and found.layers >= 4 and found.operators == (found.layers,) * 2


def test_convolutions_of_an_unbacked_batch_are_one_graph() -> None:
    w = torch.randn(4, 3, 3, 3)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: gtt.conv2d(x, w, padding=1), fullgraph=True, backend=counter)
    for n in (3, 1, 2):
        x = torch.randn(n, 3, 5, 5).to(memory_format=torch.channels_last)
        torch._dynamo.decorators.mark_unbacked(x, 0)
        assert compiled(x).stride() == gtt.conv2d(x, w, padding=1).stride()
    assert counter.frame_count == 1


def test_autocast_inside_a_compiled_function() -> None:
    w = torch.randn(4, 8)

    def f(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return gtt.linear(x, w, activation="gelu")

    x = torch.randn(3, 8)
    y = torch.compile(f, fullgraph=True)(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y, f(x))


def test_export_keeps_the_operators() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    gtt.replace(model)
    program = torch.export.export(model, (torch.randn(3, 8),), dynamic_shapes={"input": {0: torch.export.Dim("m")}})
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["gpu_tune.matmul.default"]
