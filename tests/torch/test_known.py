"""Calls that were served before are told from others by a hint and a guard: right, whatever changed in between."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import gpu_tune.torch as gtt
from gpu_tune.errors import InvalidInput
from gpu_tune.torch import ops
from gpu_tune.torch.known import Table
from tests.torch import formulas

M, K = 4, 8


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return (
        formulas.integers((M, K), 1).float(),
        formulas.integers((K, K), 2).float(),
        formulas.integers((K,), 3).float(),
    )


def ours(a: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return ops.matmul(a, w, None, bias, None, None, None, "nt", 1.0, 0.0, "bias+relu", None, "")


def theirs(a: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(a @ w.t() + bias)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls that were not found under their hint."""
    asked: list[Any] = []
    serve = Table.serve
    monkeypatch.setattr(Table, "serve", lambda table, *a, **o: asked.append(table) or serve(table, *a, **o))
    return asked


def test_a_weight_is_found_again_with_each_of_its_numbers_of_rows_and_with_gradients(served: list[Any]) -> None:
    a, w, bias = tensors()
    images, filters = a.view(1, 2, 4, 4), w.view(4, 2, 4, 2)
    steps = {"stride": (1, 2), "padding": 1, "epilogue": "bias", "bias": bias[:4].clone()}
    for _ in range(3):
        for rows in (M, 2):
            assert torch.equal(ours(a[:rows], w, bias), theirs(a[:rows], w, bias))
        for needs in (True, False):
            w.requires_grad_(needs)
            y, z = ours(a, w, bias), theirs(a, w, bias)
            assert torch.equal(y, z) and y.requires_grad is needs
            if needs:
                assert torch.equal(*(torch.autograd.grad(t.sum(), w)[0] for t in (y, z)))
        gtt.conv2d(images, filters, **steps)
        assert torch.equal(gtt.matmul(a, a, layout="nt"), a @ a.t())  # one tensor twice
        asked = len(served)
    assert asked == 5 + 1  # rows, with a gradient and its product, a convolution, one tensor twice
    assert torch.equal(gtt.matmul(a, a.clone(), layout="nt"), a @ a.t())


def test_what_changes_in_place_is_another_call() -> None:
    a, w, bias = tensors()
    changes: list[Callable[[], Any]] = [
        lambda: w.t_(),
        lambda: setattr(w, "data", w.new_zeros(2 * K, K)[::2].copy_(w)),  # rows that are apart
        lambda: setattr(w, "data", w.data[:3].clone()) or setattr(bias, "data", bias.data[:3].clone()),
        lambda: [setattr(t, "data", t.data.half()) for t in (a, w, bias)],
        lambda: bias.requires_grad_(),
        lambda: a.resize_(2, K),
    ]
    ours(a, w, bias)
    for change in changes:
        change()
        y, z = ours(a, w, bias), theirs(a, w, bias)
        assert torch.equal(y, z) and y.dtype is w.dtype and y.requires_grad is bias.requires_grad
    with pytest.raises(InvalidInput, match="residual: is no argument of"):
        ops.matmul(a, w, None, bias, None, y.detach(), None, "nt", 1.0, 0.0, "bias+relu", None, "")


class Watching(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_modes_and_transforms_see_calls_that_were_served_before() -> None:
    a, w, bias = tensors()
    w.requires_grad_()
    for needs in (True, False):
        w.requires_grad_(needs)
        expected = ours(a, w, bias)
        with Watching() as watching:
            y = ours(a, w, bias)
        assert "gpu_tune.matmul.default" in watching.seen and torch.equal(y, expected)
        with torch.no_grad():
            assert not ours(a, w, bias).requires_grad
        with torch.inference_mode():
            assert ours(a, w, bias).is_inference()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ours(a, w, bias).dtype is torch.bfloat16
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(ours(forward_ad.make_dual(a, torch.ones_like(a)), w, bias)).tangent
            assert tangent is not None and tangent.abs().sum() > 0
        each = torch.func.vmap(lambda row: ours(row[None], w, bias)[0])(a)
        assert torch.equal(each, expected)
        assert torch.equal(ours(a, w, bias), expected) and ours(a, w, bias).requires_grad is needs
    negated = torch.complex(a, a).conj().imag
    copied = torch.empty_strided(a.shape, negated.stride()).copy_(negated)
    assert negated.is_neg() and torch.equal(ours(copied, w, bias), ours(negated, w, bias))


def test_a_tensor_without_strides_is_pytorchs_to_refuse() -> None:
    a, w, bias = tensors()
    with pytest.raises(NotImplementedError, match=r"gpu_tune::matmul.*'SparseCPU' backend"):
        ours(a.to_sparse(), w, bias)


def test_no_tensor_is_kept_alive() -> None:
    a, w, bias = tensors()
    w.requires_grad_()
    gone = [weakref.ref(t) for t in (a, w, bias)]
    ours(a, w, bias).sum().backward()
    del a, w, bias
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
