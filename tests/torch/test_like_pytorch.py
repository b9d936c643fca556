"""What PyTorch's operators allow, ours do: shared and computed operands, results that are changed in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import gpu_tune.torch as gtt


def tied(row: Callable[..., Tensor], x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return row(x, [w, w], [bias, bias])


def twice(row: Callable[..., Tensor], x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return row(row(x, [w, w], [bias, None]), [w, w], [None, bias])


def computed(row: Callable[..., Tensor], x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return row(x @ w, [w, x.t() @ x], [bias, w.sum(0)])


@pytest.mark.parametrize("network", [tied, twice, computed])
def test_gradients_that_have_gradients_count_shared_and_computed_operands_once(network: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    given = [torch.randn(s, requires_grad=True) for s in ((4, 8), (8, 8), (8,))]

    def plain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
        for i, (w, bias) in enumerate(zip(weights, biases)):
            x = functional.linear(functional.gelu(x) if i else x, w, bias)
        return x

    def ours(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
        return gtt.mlp(x, weights, biases, activation="gelu")

    found = []
    for row in (ours, plain):
        first = torch.autograd.grad(network(row, *given).square().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(g.square().mean() for g in first), given)
        found.append([*first, *second])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_results_may_be_changed_in_place() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(4, 8), torch.randn(8, 8, requires_grad=True)
    image, filters = torch.randn(1, 8, 5, 5), torch.randn(8, 8, 1, 1, requires_grad=True)
    calls: list[tuple[Callable[[], Tensor], Callable[[], Tensor]]] = [
        (lambda: gtt.linear(x, w, activation="gelu"), lambda: functional.gelu(functional.linear(x, w))),
        (lambda: gtt.linear(x[:1], w), lambda: functional.linear(x[:1], w)),
        (lambda: gtt.linear(x[0], w), lambda: functional.linear(x[0], w)),
        (lambda: gtt.linear(x[None], w), lambda: functional.linear(x[None], w)),
        (lambda: gtt.matmul(x, w), lambda: x @ w),
        (
            lambda: gtt.mlp(x, [w, w], [None, None], activation="gelu"),
            lambda: functional.linear(functional.gelu(functional.linear(x, w)), w),
        ),
        (lambda: gtt.conv2d(image, filters), lambda: functional.conv2d(image, filters)),
    ]
    for ours, theirs in calls:
        found = []
        for call in (ours, theirs):
            y = call()
            y += 1
            found += [y, *torch.autograd.grad(y.square().sum(), [w if y.dim() < 4 else filters])]
        torch.testing.assert_close(found[0], found[2])
        torch.testing.assert_close(found[1], found[3])
