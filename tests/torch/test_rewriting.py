"""What is tuned is what runs: the operators of a rewritten model ask for the very workloads that were extracted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from gpu_tune.torch import replace, restore
from gpu_tune.torch.calls import Convolution, Product
from gpu_tune.torch.extract import extract
from gpu_tune.torch.rewriting import rewrite
from tests.helpers.torch_models import ResNet, TransformerBlock, UNet

pytestmark = pytest.mark.filterwarnings("ignore::gpu_tune.torch.OnCpu")


def lively(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with batch norms that are no identities."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


MODELS = {
    "transformer block": lambda: (lively(TransformerBlock(32, 4, 64)), torch.arange(16).reshape(2, 8)),
    "ResNet": lambda: (lively(ResNet((1, 2), 8, 10)), torch.randn(2, 3, 32, 32)),
    "U-Net": lambda: (lively(UNet(3, 8, 2)), torch.randn(1, 3, 16, 16)),
    "channels-last U-Net": lambda: (
        lively(UNet(3, 8, 2)).to(memory_format=torch.channels_last),
        torch.randn(1, 3, 16, 16).to(memory_format=torch.channels_last),
    ),
}


@pytest.fixture
def asked(monkeypatch):
    """The workloads that the operators were called with, as their kernels are looked up."""
    seen: Counter = Counter()
    for kind in (Product, Convolution):

        def by_torch(self, tensors, *rest, own=kind.by_torch, **more):
            call, arrays = self.fitted(tensors)
            seen[call.workload(arrays)] += 1
            return own(self, tensors, *rest, **more)

        monkeypatch.setattr(kind, "by_torch", by_torch)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_rewritten_model_computes_the_same_by_the_workloads_that_are_tuned(name, asked):
    model, x = MODELS[name]()
    found = {layer.workload: layer.count for layer in extract(model, x).layers}
    with torch.no_grad():
        expected = model(x)
        ours = rewrite(model, x)(x)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5) and ours.stride() == expected.stride()
    assert dict(asked) == found
    if name == "ResNet":
        assert any(w.epilogue == "scale+bias+residual+relu" for w in found)


@pytest.mark.parametrize("name", MODELS)
def test_replaced_modules_ask_for_what_is_marked_as_theirs(name, asked):
    model, x = MODELS[name]()
    layers = extract(model, x, fuse="modules").layers
    replace(model)
    with torch.no_grad():
        model(x)
    restore(model)
    assert dict(asked) == {layer.workload: layer.count for layer in layers if layer.by_modules}


def test_a_model_with_its_own_use_of_a_value_keeps_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            y = self.layer(x)
            return torch.relu(y) + y, torch.bmm(y, y.mT), y @ y.mT

    model, x = Twice().eval(), torch.randn(2, 5, 8)
    with torch.no_grad():
        for ours, expected in zip(rewrite(model, x)(x), model(x)):
            assert torch.allclose(ours, expected, atol=1e-5)
