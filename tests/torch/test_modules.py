"""Modules, and models whose layers are replaced and restored."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gpu_tune.torch as gtt
from gpu_tune.errors import InvalidInput
from tests.torch.formulas import watched


class Block(nn.Module):
    """Linear layers in a sequence and alone, tied weights, a layer of its own class, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(approximate="tanh"), nn.Linear(16, 8), nn.Dropout(0.0))
        self.first, self.tied = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.tied.weight = self.first.weight
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide = nn.Linear(8, 8).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tied(torch.relu(self.first(x))) + self.mlp(x) + self.normed(x)
        return self.wide((x + self.attention(x, x, x)[0]).double()).float()


def images() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, (2, 4), padding="same", groups=2, dilation=(2, 1)),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.SiLU(),
        nn.Conv2d(4, 4, 1),
        nn.Hardtanh(-0.5, 0.5),
        nn.Flatten(),
    )


@pytest.mark.parametrize("kind", ["block", "images"])
def test_a_model_computes_the_same_and_is_restored(kind: str) -> None:
    torch.manual_seed(0)
    model, x = (Block(), torch.randn(2, 5, 8)) if kind == "block" else (images(), torch.randn(2, 3, 8, 8))
    names, classes = list(model.state_dict()), [type(m) for m in model.modules()]
    expected = model(x)
    expected.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    done = gtt.replace(model)
    assert list(model.state_dict()) == names
    y = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-4)
    if kind == "block":
        assert done.replaced == ["mlp.0", "mlp.2", "first", "tied"]
        assert set(done.left_out) == {"normed", "attention.out_proj", "wide"}
        assert "ParametrizedLinear, a class of its own" in done.left_out["normed"]
        assert str(done).startswith("4 layers replaced, 3 left out\n  normed: is a Parametrized")
    else:
        assert done.replaced == ["0", "3", "7"] and done.left_out == {"5": "pads by reflect"}
    assert gtt.restore(model) == done.replaced
    assert [type(m) for m in model.modules()] == classes and "_replaced_by_gpu_tune" not in str(model.__dict__)
    assert torch.equal(model(x), expected) and gtt.restore(model) == []


def test_activations_of_a_sequence_become_epilogues_unless_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = watched(monkeypatch, "epilogue")
    model, x = Block(), torch.randn(5, 8)
    gtt.replace(model)
    with torch.no_grad():
        model.mlp(x)
        assert asked == ["bias+gelu_tanh", "bias"]
        asked.clear()
        seen: list[torch.Tensor] = []
        handle = model.mlp[1].register_forward_hook(lambda module, given, out: seen.append(given[0]))
        model.mlp(x)
        handle.remove()
        assert asked == ["bias", "bias"] and torch.equal(seen[0], model.mlp[0](x))
        gtt.restore(model)
        gtt.replace(model, fuse=False, only=lambda name, layer: name.startswith("mlp"))
        asked.clear()
        model.mlp(x)
        assert asked == ["bias", "bias"] and type(model.first) is nn.Linear and type(model.mlp) is nn.Sequential


def test_a_replaced_model_is_copied_pickled_and_trained() -> None:
    model, x = nn.Sequential(*images()[3:5]), torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gtt.replace(model.to(memory_format=torch.channels_last))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x)) and other(x).is_contiguous(memory_format=torch.channels_last)
        assert gtt.restore(other) == ["0"]
    before = model[0].weight.detach().clone()
    model(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


def test_layers_that_are_made_as_ours() -> None:
    linear, conv = gtt.Linear(8, 4, activation="gelu"), gtt.Conv2d(3, 4, 3, padding="valid", activation="relu")
    x, image = torch.randn(2, 3, 8), torch.randn(1, 3, 5, 5)
    gelu = nn.functional.gelu
    torch.testing.assert_close(linear(x), gelu(nn.functional.linear(x, linear.weight, linear.bias)))
    torch.testing.assert_close(conv(image), torch.relu(nn.functional.conv2d(image, conv.weight, conv.bias)))
    assert "activation=gelu" in repr(linear) and "activation=relu" in repr(conv)
    assert gtt.restore(nn.ModuleList([linear, conv])) == []  # nothing was replaced
    plain = nn.Linear(8, 4)
    plain.load_state_dict(linear.state_dict())
    wide = linear.double()  # PyTorch's to compute
    torch.testing.assert_close(wide(x.double()), gelu(plain.double()(x.double())))


def test_autocast_of_a_replaced_model() -> None:
    model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.randn(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(x)
        gtt.replace(model)
        y = model(x)
    assert y.dtype is expected.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2**-6, atol=2**-6)


def test_restore_reaches_a_layer_that_was_parametrized_meanwhile() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    gtt.replace(model)
    nn.utils.parametrizations.weight_norm(model[0])
    x = torch.randn(3, 6)
    before = model(x)
    assert gtt.restore(model) == ["0", "2"] and not isinstance(model[0], gtt.Linear)
    assert torch.allclose(model(x), before, atol=1e-6)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is type(model[2]) is nn.Linear


def test_bounds_of_an_activation_are_exact_and_endless_ones_stay_pytorchs() -> None:
    for low, high in ((-1234567.0, 1234567.0), (-0.123456789, 0.123456789), (0.0, float("inf"))):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Hardtanh(low, high))
        x = torch.tensor([[1e9], [-1e9]])
        want = model(x)
        gtt.replace(model)
        assert torch.equal(model(x), want)


def test_a_residual_of_another_shape_and_an_unknown_dtype_are_refused() -> None:
    x, w = torch.zeros(2, 3, 7), torch.zeros(5, 7)
    for shape in ((3, 2, 5), (6, 5), (5,)):
        with pytest.raises(InvalidInput, match=r"residual.shape.*is not the result's shape \(2, 3, 5\)"):
            gtt.linear(x, w, residual=torch.zeros(shape))
    with pytest.raises(InvalidInput, match=r"out_dtype.*float33"):
        gtt.matmul(x[0], w, layout="nt", out_dtype="float33")
