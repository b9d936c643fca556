"""Results and gradients equal PyTorch's in float64, for every epilogue, layout and data type that has gradients."""

from __future__ import annotations

import pytest
import torch

import gpu_tune.torch as gtt
from gpu_tune.errors import Unsupported
from tests.torch import formulas
from tests.torch.formulas import watched

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
M, N, K = 5, 6, 8


def product(epilogue: str, layout: str, batch: tuple[int, ...] = ()) -> tuple[dict, dict, torch.Tensor]:
    """Tensors in float64 by name, the epilogue's among them; A and B are made of ``a`` and ``b``."""
    a = formulas.integers((*batch, M, K), 1) if layout[0] == "n" else formulas.integers((*batch, K, M), 1)
    b = formulas.integers((*batch, K, N), 2) if layout[1] == "n" else formulas.integers((*batch, N, K), 2)
    more = formulas.operands(epilogue, M, N, (*batch, M, N))
    return {"a": a, "b": b}, more, formulas.integers((*batch, M, N), 7)


def leaves(tensors: dict, dtype: torch.dtype | None) -> dict:
    """Copies that require gradients; in ``dtype``, but for the scale, which is float32 (None: all in float64)."""
    kinds = {n: torch.float32 if n == "scale" and dtype else dtype or torch.float64 for n in tensors}
    return {n: t.to(kinds[n]).requires_grad_() for n, t in tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", formulas.EPILOGUES)
def test_products(epilogue: str, dtype: torch.dtype) -> None:
    exact = not any(op in epilogue for op in formulas.INEXACT)
    for layout in ("nn", "nt", "tn", "tt"):
        for batch in ((), (3,)):
            main, more, g = product(epilogue, layout, batch)
            ours, theirs = (leaves({**main, **more}, d) for d in (dtype, None))
            y = gtt.matmul(ours["a"], ours["b"], layout=layout, epilogue=epilogue, **{n: ours[n] for n in more})
            a, b = (theirs[n] if letter == "n" else theirs[n].mT for n, letter in zip("ab", layout))
            z = formulas.apply(a @ b, epilogue, theirs)
            y.backward(g.to(y.dtype))
            z.backward(g)
            formulas.same(y, z, exact, dtype)
            for name in ours:
                assert ours[name].grad.dtype is ours[name].dtype
                formulas.same(ours[name].grad, theirs[name].grad, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", [e for e in formulas.EPILOGUES if "row_bias" not in e])
def test_convolutions(epilogue: str, dtype: torch.dtype) -> None:
    exact = not any(op in epilogue for op in formulas.INEXACT)
    shape = {"stride": (2, 1), "dilation": (1, 2), "groups": 2}
    for memory in (torch.contiguous_format, torch.channels_last):
        for padding in ((1, 1), (0, 1, 2, 0)):
            sides = padding if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
            x, w = formulas.integers((2, 4, 6, 7), 1, 1), formulas.integers((6, 2, 3, 2), 2, 1)
            z = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (*sides[2:], *sides[:2])), w, **shape)
            more = formulas.operands(epilogue, 0, 6, z.shape)
            ours, theirs = (leaves({"x": x, "w": w, **more}, d) for d in (dtype, None))
            ours["x"] = ours["x"].detach().contiguous(memory_format=memory).requires_grad_()
            options = {"padding": padding, "epilogue": epilogue, **{n: ours[n] for n in more}, **shape}
            y = gtt.conv2d(ours["x"], ours["w"], **options)
            padded = torch.nn.functional.pad(theirs["x"], (*sides[2:], *sides[:2]))
            z = torch.nn.functional.conv2d(padded, theirs["w"], **shape)
            z = formulas.apply(z, epilogue, theirs, (-1, 1, 1))
            assert y.is_contiguous(memory_format=memory)
            g = formulas.integers(z.shape, 7, 1)
            y.backward(g.to(y.dtype))
            z.backward(g)
            formulas.same(y, z, exact, dtype)
            for name in ours:
                formulas.same(ours[name].grad, theirs[name].grad, exact, dtype)


def test_alpha_beta_and_another_output_type() -> None:
    a, b, c = (formulas.integers(s, i) for i, s in enumerate([(M, K), (N, K), (M, N)]))
    ours = [t.bfloat16().requires_grad_() for t in (a, b)] + [c.float().requires_grad_()]
    theirs = [t.requires_grad_() for t in (a, b, c)]
    y = gtt.matmul(*ours, layout="nt", alpha=0.5, beta=-2.0, out_dtype="float32")
    z = 0.5 * theirs[0] @ theirs[1].t() - 2 * theirs[2]
    assert y.dtype is torch.float32
    y.sum().backward()
    z.sum().backward()
    formulas.same(y, z, True, torch.float32)
    for mine, other in zip(ours, theirs):
        formulas.same(mine.grad, other.grad, True, torch.float32)


def test_gradients_of_gradients() -> None:
    x, w = formulas.integers((M, K), 1), formulas.integers((N, K), 2)
    found = []
    for dtype, linear in ((torch.float32, gtt.linear), (torch.float64, torch.nn.functional.linear)):
        a, b = x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_()
        (first,) = torch.autograd.grad((linear(a, b) ** 2).sum(), a, create_graph=True)
        found.append(torch.autograd.grad((first**2).sum(), (a, b)))
    for ours, theirs in zip(*found):
        formulas.same(ours, theirs, True, torch.float32)


def test_gradients_of_a_convolutions_gradients() -> None:
    x, w = formulas.integers((1, 2, 4, 5), 1, 1), formulas.integers((3, 2, 2, 2), 2, 1)
    found = []
    for dtype, conv in ((torch.float32, gtt.conv2d), (torch.float64, torch.nn.functional.conv2d)):
        a, b = x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_()
        first = torch.autograd.grad((conv(a, b, stride=2, padding=1) ** 2).sum(), (a, b), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), (a, b)))
    for ours, theirs in zip(*found):
        formulas.same(ours, theirs, True, torch.float32)


def test_torch_func_and_forward_mode() -> None:
    x, w = formulas.integers((M, K), 1).float(), formulas.integers((N, K), 2).float()
    theirs = torch.nn.functional.linear
    ours = gtt.linear
    for f in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        a, b = (f(lambda w, g=g: torch.relu(g(x, w)).square().sum())(w) for g in (ours, theirs))
        assert torch.equal(a, b)
    each = torch.func.vmap(lambda row: ours(row, w, activation="relu"))(x)
    assert torch.equal(each, torch.relu(theirs(x, w)))


def test_only_what_is_asked_for_is_computed_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen weight keeps no activations; a product that nobody asks for is left out."""
    asked = watched(monkeypatch, "layout")
    kept = []
    x, w = torch.randn(M, K, requires_grad=True), torch.randn(N, K)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = gtt.linear(x, w)
    y.sum().backward()
    assert asked == ["nt", "nn"] and [t.shape for t in kept] == [w.shape]
    assert w.grad is None and x.grad.shape == x.shape


def test_quantised_products_have_no_gradients_and_say_so() -> None:
    a = torch.ones(4, 4).to(torch.float8_e4m3fn).requires_grad_()
    scale = torch.ones(1)
    with pytest.raises(Unsupported, match="has no gradients"):
        gtt.matmul(a, a, scales="tensor", scale_a=scale, scale_b=scale)
    with torch.no_grad():
        y = gtt.matmul(a, a, scales="tensor", scale_a=scale, scale_b=scale)
    assert y.dtype is torch.bfloat16 and torch.equal(y.float(), torch.full((4, 4), 4.0))
