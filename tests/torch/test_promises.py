"""What PyTorch takes on trust of an operator, and opcheck does not look for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

import gpu_tune as gt
import gpu_tune.torch as gtt
from gpu_tune.errors import InvalidInput
from gpu_tune.torch import arithmetic, ops
from tests.torch import formulas

M, N, K = 4, 6, 8


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    gtt.forget()


def test_a_result_shares_no_memory_with_an_operand() -> None:
    """Where nothing is left to compute, too: the operators are functional, and PyTorch believes it."""
    for epilogue, k in itertools.product(("", "residual", "clamp(-9,9)", "scale+residual"), (0, 1)):
        a, b, c = torch.ones(M, k), torch.ones(k, N), torch.ones(M, N)
        more = {n: t.float() for n, t in formulas.operands(epilogue, M, N, (M, N)).items()}
        images, filters = torch.ones(1, 1, M, N), torch.ones(1, 1, 1, 1)
        pictures = {"residual": torch.ones(1, 1, M, N)} if "residual" in epilogue else {}
        pictures |= {"scale": torch.ones(1)} if "scale" in epilogue else {}
        for given, y in (
            ((a, b, c, *more.values()), gtt.matmul(a, b, c, epilogue=epilogue, **more)),
            ((images, filters, *pictures.values()), gtt.conv2d(images, filters, epilogue=epilogue, **pictures)),
        ):
            assert y.untyped_storage().data_ptr() not in {t.untyped_storage().data_ptr() for t in given}


def test_a_body_that_gives_another_data_type_than_its_fake_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor would read its memory as what was promised."""
    compute = arithmetic.product
    monkeypatch.setattr(arithmetic, "product", lambda *args, **options: compute(*args, **options).double())
    gtt.forget()
    with pytest.raises(AssertionError, match=r"torch.float64 is not the torch.float32 that was promised"):
        gtt.matmul(torch.ones(3, 5), torch.ones(5, 3))


CALLS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "matmul": (lambda x, w: gtt.linear(x, w, activation="relu"), lambda x, w: functional.linear(x, w).relu(), ()),
    "conv2d": (lambda x, w: gtt.conv2d(x, w, padding=1), lambda x, w: functional.conv2d(x, w, padding=1), (3, 3)),
}


def leaves(window: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return formulas.integers((M, K, *window), 1).float(), formulas.integers((N, K, *window), 2).float()


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_in_forward_mode_are_not_zero(name: str) -> None:
    """With a formula for backward alone PyTorch would give zeros, without a word."""
    ours, theirs, window = CALLS[name]
    x, w = leaves(window)
    found = []
    for call in (ours, theirs):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(w, torch.ones_like(w))
            found.append(forward_ad.unpack_dual(call(x, dual)).tangent)
    assert torch.equal(*found) and found[0].abs().sum() > 0


@pytest.mark.parametrize("name", CALLS)
def test_gradients_of_stride_zero_are_taken(name: str) -> None:
    """``sum()`` hands back one number that is expanded to the result's shape."""
    ours, theirs, window = CALLS[name]
    found = []
    for call in (ours, theirs):
        x, w = (t.requires_grad_() for t in leaves(window))
        strides: list[tuple[int, ...]] = []
        y = call(x, w)
        y.register_hook(lambda g, strides=strides: strides.append(g.stride()))
        found.append(torch.autograd.grad(y.sum(), (x, w)))
        assert set(strides[0]) == {0}
    for mine, other in zip(*found):
        assert torch.equal(mine, other)


def test_a_gradient_comes_back_whatever_the_calls_spelling() -> None:
    x, w = leaves(())
    wanted = (x.clamp(0) @ w.t() + 1 > 0).float().sum(0)
    options = {"layout": "nt", "alpha": 1.0, "beta": 0.0, "epilogue": "bias+relu", "out_dtype": None, "math": ""}
    for call in (
        lambda bias: ops.matmul(x.clamp(0), w, None, bias, None, None, None, *options.values()),
        lambda bias: ops.matmul(x.clamp(0), w, c=None, bias=bias, row_bias=None, residual=None, scale=None, **options),
        lambda bias: torch.ops.gpu_tune.matmul(
            **options, scale=None, residual=None, row_bias=None, bias=bias, c=None, b=w, a=x.clamp(0)
        ),
    ):
        bias = torch.ones(N, requires_grad=True)
        (found,) = torch.autograd.grad(call(bias).sum(), bias)
        assert torch.equal(found, wanted)


def test_bodies_do_not_run_under_autocast() -> None:
    """257 is no number of bfloat16: a sum of autocast's own product would be 256."""
    a, one = torch.ones(2, 257), torch.ones(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gtt.matmul(a, a, layout="nt", out_dtype="float32").unique().tolist() == [257.0]
        scales = {"scales": "tensor", "scale_a": one, "scale_b": one}
        whole = gtt.matmul(a.char(), a.char(), layout="nt", out_dtype="float32", **scales)
        assert whole.unique().tolist() == [257.0]


@pytest.mark.parametrize("name", CALLS)
def test_a_backward_pass_under_autocast_computes_as_pytorchs(name: str) -> None:
    ours, theirs, window = CALLS[name]
    found = []
    for call in (ours, theirs):
        x, w = leaves(window)
        w.requires_grad_()
        y = call(x * 257, w)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(torch.autograd.grad(y, w, torch.ones_like(y))[0])
    assert found[0].dtype is torch.float32 and torch.equal(*found)


def test_an_out_that_asks_for_a_gradient_is_refused() -> None:
    out = torch.zeros(2, 2, requires_grad=True)
    with pytest.raises(InvalidInput, match=r"out: .*requires a gradient"):
        gt.matmul(torch.ones(2, 2), torch.ones(2, 2), out=out)
    with pytest.raises(InvalidInput, match="requires a gradient"):
        gt.matmul(torch.ones(2, 2, requires_grad=True), torch.ones(2, 2), out=out.detach())
    assert out.sum() == 0
    with pytest.raises(TypeError, match="out"):
        gtt.matmul(torch.ones(2, 2), torch.ones(2, 2), out=out.detach())
