"""The operators as PyTorch's dispatcher has them: opcheck, memory layouts, empty tensors, autocast, errors."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import gpu_tune.torch as gtt
from gpu_tune.errors import InvalidInput, Unsupported
from gpu_tune.torch import calls, layouts, ops, routes
from tests.torch import formulas

M, N, K = 5, 6, 8
LAYOUTS = ("nn", "nt", "tn", "tt")
WIDE = (torch.float32, torch.float16, torch.bfloat16)
ROWS = torch.ones(2, 3)
IMAGES, FILTERS = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)


def product(epilogue: str, layout: str, dtype: torch.dtype, grad: bool = True) -> tuple[Any, ...]:
    """All arguments of ``gpu_tune::matmul``."""
    generator = torch.Generator().manual_seed(0)
    named = formulas.names(epilogue)
    shapes = {
        "a": (M, K) if layout[0] == "n" else (K, M),
        "b": (K, N) if layout[1] == "n" else (N, K),
        "bias": (N,),
        "row_bias": (M,),
        "residual": (M, N),
        "scale": (N,),
    }
    tensors: list[Any] = []
    for name in ops.PRODUCT:
        wanted = name in ("a", "b", *named)
        kind = torch.float32 if name == "scale" else dtype
        tensors.append(torch.randn(shapes[name], generator=generator).to(kind).requires_grad_(grad) if wanted else None)
    return (*tensors, layout, 1.0, 0.0, epilogue, None, "")


CASES = [(e, LAYOUTS[i % 4], WIDE[i % 3]) for i, e in enumerate(formulas.EPILOGUES)]
CASES += [("bias+relu", layout, dtype) for layout, dtype in itertools.product(LAYOUTS, WIDE)]


@pytest.mark.slow
@pytest.mark.parametrize(("epilogue", "layout", "dtype"), CASES)
def test_opcheck_of_products(epilogue: str, layout: str, dtype: torch.dtype) -> None:
    roomy = {"rtol": 8 * formulas.EPS[dtype], "atol": 8 * formulas.EPS[dtype]}
    torch.library.opcheck(ops.matmul, product(epilogue, layout, dtype), **roomy)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_opcheck_of_convolutions(memory: torch.memory_format, dtype: torch.dtype) -> None:
    # compiling is most of what a check takes: of the epilogues, float16 and bfloat16 have one
    for epilogue in ("scale+bias+silu", *(("", "bias+residual+relu") if dtype is torch.float32 else ())):
        x = torch.randn(2, 4, 6, 7).to(dtype).contiguous(memory_format=memory).requires_grad_()
        tensors = {"x": x, "w": torch.randn(6, 2, 3, 2).to(dtype).requires_grad_()}
        shape = layouts.convolved_shape(*tensors.values(), (2, 1), (0, 1, 2, 0), (1, 2))
        for name in formulas.names(epilogue):
            tensors[name] = torch.randn(shape if name == "residual" else 6)
            tensors[name] = tensors[name] if name == "scale" else tensors[name].to(dtype)
        args = (*map(tensors.get, ops.CONVOLUTION), [2, 1], [0, 1, 2, 0], [1, 2], 2, epilogue, None, "")
        roomy = {"rtol": 8 * formulas.EPS[dtype], "atol": 8 * formulas.EPS[dtype]}
        torch.library.opcheck(ops.conv2d, args, **roomy)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_opcheck_of_a_convolutions_gradients(memory: torch.memory_format) -> None:
    w = torch.randn(6, 2, 3, 2)
    x, geometry = torch.randn(2, 4, 6, 7).contiguous(memory_format=memory), ([2, 1], [1, 2, 0, 0], [1, 4], 2)
    dy = gtt.conv2d(x, w, stride=(2, 1), padding=(1, 2, 0, 0), dilation=(1, 4), groups=2)
    torch.library.opcheck(ops.conv2d_dgrad, (dy.requires_grad_(), w.requires_grad_(), 6, 7, *geometry, ""))
    torch.library.opcheck(ops.conv2d_wgrad, (dy, x.requires_grad_(), 3, 2, *geometry, ""))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn", "float8_e5m2"])
def test_opcheck_of_quantised_operators(name: str) -> None:
    dtype, one = getattr(torch, name), torch.full((1,), 0.5)
    a, b = (formulas.integers(s, i).to(dtype) for i, s in enumerate([(M, K), (N, K)]))
    x, w = (formulas.integers(s, i).to(dtype) for i, s in enumerate([(1, 4, 5, 5), (3, 4, 2, 2)]))
    # test_schema compares arguments by allclose, which PyTorch has not for float8 data: that is done below
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    checks = checks if name == "int8" else checks[1:]
    before = [t.clone() for t in (a, b, x, w)]
    plain = (a, b, *[None] * 6, "nt", "none", "", None, "")
    scaled = (a, b, one, one, torch.ones(N), None, None, None, "nt", "tensor", "bias+relu", torch.float32, "")
    for args in (plain, scaled):
        torch.library.opcheck(ops.scaled_matmul, args, test_utils=checks)
    geometry = ([1, 1], [1, 1, 1, 1], [1, 1], 1)
    for memory in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=memory)
        args = (x, w, *[None] * 5, *geometry, "none", "", None, "")
        torch.library.opcheck(ops.scaled_conv2d, args, test_utils=checks)
    assert all(torch.equal(t.float(), was.float()) for t, was in zip((a, b, x, w), before))
    y = gtt.matmul(a, b, layout="nt", scales="tensor", scale_a=one, scale_b=one, out_dtype=torch.float32)
    assert torch.equal(y, 0.25 * a.float() @ b.float().t())


def views() -> dict[str, torch.Tensor]:
    """A (4, 8) matrix that lies in memory in all kinds of ways."""
    base = formulas.integers((4, 8), 1).float()
    wide = torch.zeros(4, 20)
    wide[:, 3:11] = base
    sparse = torch.zeros(4, 16)
    sparse[:, ::2] = base
    return {
        "contiguous": base,
        "transposed": base.t().contiguous().t(),
        "a part of wider rows": wide[:, 3:11],
        "every other column": sparse[:, ::2],
        "reversed in memory": base.flip(0).contiguous().flip(0),
    }


@pytest.mark.parametrize("kind", views())
def test_operands_may_lie_in_any_way(kind: str) -> None:
    a, b = views()[kind], formulas.integers((8, 3), 2).float()
    expected = views()["contiguous"] @ b
    assert torch.equal(gtt.matmul(a, b), expected)
    assert torch.equal(gtt.matmul(b.t(), a, layout="nt"), expected.t())
    assert torch.equal(gtt.matmul(a.expand(2, 4, 8), b.expand(2, 8, 3)), expected.expand(2, 4, 3))
    assert torch.equal(gtt.matmul(a[None], b[None]), expected[None])
    copied = layouts.matrix(a, "n")[0].data_ptr() != a.data_ptr()
    assert copied == (kind == "every other column")


def test_sizes_of_one_and_zero() -> None:
    for m, n, k in itertools.product((0, 1, 3), repeat=3):
        a, w, bias = (formulas.integers(s, i).float() for i, s in enumerate([(m, k), (n, k), (n,)]))
        w.requires_grad_()
        y = gtt.linear(a, w, bias, activation="relu")
        assert torch.equal(y, torch.relu(a @ w.t() + bias)) and y.is_contiguous()
        (grad,) = torch.autograd.grad(y.sum(), w)
        assert torch.equal(grad, (y > 0).float().t() @ a)
    assert gtt.linear(torch.ones(7), torch.ones(2, 7)).shape == (2,)
    assert gtt.linear(torch.ones(2, 3, 7), torch.ones(4, 7), residual=torch.ones(2, 3, 4)).sum() == 2 * 3 * 4 * 8


def test_channels_last_is_taken_as_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    last = torch.channels_last
    x, w = torch.randn(2, 8, 5, 5).to(memory_format=last), torch.randn(4, 8, 3, 3).to(memory_format=last)
    found = calls.Convolution((1, 1), (1,) * 4, (1, 1), 1, "", None, "").fitted({"x": x, "w": w})
    assert found[0].nhwc and [t.data_ptr() for t in found[1].values()] == [x.data_ptr(), w.data_ptr()]
    assert found[0].workload(found[1]).layout == "nhwc"
    assert gtt.conv2d(x, w, padding=1).is_contiguous(memory_format=last)


def test_layouts_are_judged_by_dimensions_above_one() -> None:
    gray = torch.randn(2, 1, 5, 5)
    w = torch.randn(4, 1, 3, 3)
    restrided = gray.to(memory_format=torch.channels_last)
    assert not layouts.channels_last(gray, w) and not layouts.channels_last(restrided, w)
    deep = torch.randn(4, 8, 1, 1)
    assert layouts.channels_last(torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last), deep)
    assert not layouts.channels_last(torch.randn(2, 8, 1, 1), deep)
    sliced = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)[:, 2:5]
    assert layouts.channels_last(sliced, torch.randn(4, 3, 3, 3))
    for x in (gray, restrided):
        assert gtt.conv2d(x, w).stride() == (36, 9, 3, 1)


def test_negated_views_keep_their_sign() -> None:
    """The same layout, once plain and once negated: PyTorch resolves it before a kernel of ours reads memory."""
    plain = torch.ones(4, 4, dtype=torch.complex64).imag + 1
    negated = torch.complex(torch.zeros(4, 4), torch.ones(4, 4)).conj().imag
    assert negated.is_neg()
    for a, value in ((plain, 4), (negated, -4), (plain, 4)):
        assert torch.equal(gtt.matmul(a, torch.ones(4, 4)), torch.full((4, 4), float(value)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    bias, scale, residual = torch.randn(4, requires_grad=True), torch.rand(4), torch.randn(3, 4)
    with torch.autocast("cpu", dtype=dtype):
        y = gtt.matmul(
            x, w, layout="nt", epilogue="scale+bias+gelu+residual", bias=bias, scale=scale, residual=residual
        )
        wide = gtt.matmul(x, w, layout="nt", epilogue="bias", bias=bias, out_dtype="float32", math="tf32")
        z = gtt.conv2d(torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), epilogue="bias", bias=torch.ones(3))
    assert y.dtype is dtype and z.dtype is dtype and wide.dtype is torch.float32
    low = [t.to(dtype).double() for t in (x, w, bias, residual)]
    expected = torch.nn.functional.gelu(low[0] @ low[1].t() * scale.double() + low[2]) + low[3]
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=16 * formulas.EPS[dtype])
    y.sum().backward()
    assert all(t.grad.dtype is torch.float32 for t in (x, w, bias))


def test_autocast_leaves_quantised_operators_alone() -> None:
    a, scale = torch.ones(4, 4).to(torch.float8_e4m3fn), torch.ones(1)
    with torch.autocast("cpu", dtype=torch.float16):
        y = gtt.matmul(a, a, scales="tensor", scale_a=scale, scale_b=scale, out_dtype="float32")
    assert y.dtype is torch.float32 and y.sum() == 64


FLOAT64 = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(2, 3)), r"a.shape: \(2, 3\) sums over 3 products, b over 2"),
        (lambda: gtt.matmul(torch.ones(2, 3).double(), torch.ones(3, 2).double()), "a.dtype: 'torch.float64' has no"),
        (lambda: gtt.matmul(FLOAT64, FLOAT64), "a.dtype: 'torch.float64' has no kernels; convert it to one of float32"),
        (lambda: gtt.conv2d(FLOAT64[None, None], FLOAT64[None, None]), "x.dtype: 'torch.float64' has no kernels"),
        (lambda: gtt.matmul(torch.ones(2, 2), torch.ones(2, 2), scales="tensor"), "'tensor' are for int8 and float8"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, aux=IMAGES), "aux: is no operand of the epilogue ''"),
        (lambda: gtt.matmul(None, torch.ones(3, 2)), "a: None is no torch.Tensor"),
        *(
            (lambda v=v: gtt.matmul(torch.ones(2, 2), torch.ones(2, 2), alpha=v), f"alpha: {v!r} is no number")
            for v in (True, float("nan"), "2", None)
        ),
        (lambda: gtt.conv2d(IMAGES, FILTERS, stride=(1, True)), r"stride: \(1, True\) is not made of integers"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, groups=True), "groups: True is not made of integers; give an integer$"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2).half()), "b.dtype: 'float16' is not float32"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), epilogue="bias"), "bias: is missing"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), bias=torch.ones(2)), "bias: is no argument of"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), epilogue="swish"), "unknown operation 'swish'"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), layout="xx"), "layout: 'xx' is unknown"),
        (lambda: gtt.matmul(torch.ones(2), torch.ones(2)), r"a.shape: \(2,\) is not a matrix"),
        (lambda: gtt.conv2d(torch.ones(2, 3, 4), torch.ones(3, 2, 1, 1)), "are not four-dimensional"),
        (lambda: gtt.matmul(torch.ones(2, 3).char(), torch.ones(3, 2).char(), alpha=2), "alpha, beta: .* left out"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), math="winograd"), "'winograd' is no permission"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, stride=0), "stride: 0 has a number below 1; give an integer"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, stride=1.5), "stride: 1.5 is not made of integers"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, padding=(1, 2, 3)), r"padding: \(1, 2, 3\) has 3 numbers"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, padding=-1), "padding: -1 has a number below 0"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, padding="same", stride=2), "padding: 'same' needs a stride of 1"),
        (lambda: gtt.conv2d(IMAGES, FILTERS, padding="full"), "padding: 'full' is unknown; give \"same\""),
        (lambda: gtt.conv2d(IMAGES, FILTERS, groups=1.5), "groups: 1.5 is not made of integers"),
        (
            lambda: ops.conv2d(IMAGES, FILTERS, *[None] * 3, [1], [0] * 4, [1, 1], 1, "", None, ""),
            "stride: .* not 2 num",
        ),
        (lambda: gtt.conv2d(IMAGES.numpy(), FILTERS), "x: 'numpy.ndarray' is no torch.Tensor"),
        (lambda: gtt.matmul([[1.0]], torch.ones(1, 1)), "a: 'list' is no torch.Tensor"),
        (lambda: gtt.linear(torch.ones(2, 3), torch.ones(3, 3).numpy()), "weight: 'numpy.ndarray' is no torch.Tensor"),
        (lambda: gtt.linear(torch.ones(2, 3), torch.ones(3, 3), [1.0] * 3), "bias: 'list' is no torch.Tensor"),
        (lambda: gtt.linear(ROWS, torch.ones(4, 3), torch.ones(5)), r"bias.shape: \(5,\) is not \(4,\), which weight"),
        (lambda: gtt.linear(ROWS, None), "weight: None is no torch.Tensor; pass one"),
        (
            lambda: gtt.linear(ROWS, torch.ones(3)),
            r"weight.shape: \(3,\) is not \(n, 3\), which x asks for; pass a matr",
        ),
        (lambda: gtt.linear(ROWS, torch.ones(4, 2)), r"weight.shape: \(4, 2\) is not \(n, 3\), which x asks for"),
        (
            lambda: gtt.linear(ROWS, torch.ones(4, 3).half()),
            "weight.dtype: 'torch.float16' is not torch.float32, which x",
        ),
        (lambda: gtt.linear(ROWS, torch.ones(4, 3, device="meta")), r"weight: 'meta' is not where x is \(cpu\); put"),
        (lambda: gtt.linear(ROWS[0, 0], torch.ones(4, 3)), r"x.shape: \(\) has no dimension; give"),
        (lambda: gtt.linear(ROWS.double(), torch.ones(4, 3)), "x.dtype: 'torch.float64' has no kernels; convert it"),
        (
            lambda: gtt.linear(ROWS.to_sparse(), torch.ones(4, 3)),
            r"x: 'sparse_coo' is a layout .*; pass x.to_dense\(\)",
        ),
        (lambda: gtt.linear(ROWS, torch.ones(4, 3).to_sparse()), "weight: 'sparse_coo' is a layout"),
        (lambda: gtt.matmul(ROWS, torch.ones(3, 4).to_sparse()), "b: 'sparse_coo' is a layout"),
        (lambda: gtt.linear(torch.nested.nested_tensor([ROWS]), torch.ones(4, 3)), "x: 'nested' is a layout .*; loop"),
        *(
            (lambda act=act, bias=bias, x=x: gtt.linear(x, torch.ones(4, 3), bias, activation=act), said)
            for act, said in (
                (None, "activation: None is not a string; give relu, gelu, gelu_tanh, silu, clamp"),
                ("tanh", "activation: 'tanh' has an unknown operation 'tanh'; give relu, gelu, gelu_tanh, silu, clamp"),
                ("bias", "activation: 'bias' has the operand bias"),
                ("gelu(aux)", "activation: .* has the operand aux"),
                ("dbias", "activation: 'dbias' has a second result"),
            )
            for bias, x in ((None, torch.ones(2, 3)), (torch.ones(4), torch.ones(2, 2, 3)))
        ),
        (lambda: gtt.matmul(torch.ones(2, 3), None), "b: None is no torch.Tensor; pass one"),
        (
            lambda: ops.conv2d(IMAGES, None, *[None] * 3, [1, 1], [0] * 4, [1, 1], 1, "", None, ""),
            "w: None is no torch",
        ),
        (lambda: gtt.rewrite(torch.nn.Linear(2, 2), ROWS, math="x"), r"math: \['x'\] are no permissions; use some of"),
        (lambda: gtt.rewrite(torch.nn.Linear(2, 2), ROWS, fuse="x"), "fuse: 'x' is unknown; use one of"),
        (lambda: gtt.replace(torch.nn.Linear(2, 2), fuse="x"), "fuse: 'x' is neither True nor False; give one"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), layout=None), "layout: None is unknown; use one of nn"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), math=None), "math: None is neither a string"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), epilogue=None), "epilogue: .* where a str is wanted"),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), scale_a=torch.ones(1)), "scales: 'none' names no kind"),
        (lambda: gtt.matmul(torch.ones(2, 3).int(), torch.ones(3, 2).int()), "a.dtype: 'torch.int32' has no kernels"),
        (
            lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), alpha=torch.ones((), requires_grad=True)),
            r"alpha: tensor\(1.\) is a tensor that requires a gradient",
        ),
        (lambda: gtt.matmul(torch.ones(2, 3), torch.ones(3, 2, device="meta")), "b: 'meta' is not where a is"),
        (lambda: gtt.matmul(torch.ones(2, 3, device="meta"), torch.ones(3, 2)), "b: 'cpu' is not where a is"),
        (lambda: gtt.conv2d(IMAGES, FILTERS.to("meta")), "w: 'meta' is not where x is"),
        (lambda: gtt.replace(None), "model: 'NoneType' is no torch.nn.Module"),
        (lambda: gtt.Linear(3, 4, activation="tanh"), "activation: 'tanh' has an unknown operation"),
        (lambda: gtt.replace(torch.nn.Linear(3, 4), only=5), "only: 5 is no function"),
        (lambda: gtt.Conv2d(3, 4, 1, activation="bias"), "activation: 'bias' has the operand bias"),
        (lambda: gtt.Linear(3, 4, activation="relu(aux)"), "activation: .* has the operand aux"),
        (lambda: gtt.Linear(3, 4, activation="relu+dbias"), "activation: .* has a second result"),
    ],
)
def test_a_bad_call_is_one_clear_error(call, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        call()


def test_paddings_by_name_and_numbers_of_other_types() -> None:
    for window, spread in ((3, 1), (2, 1), (2, 3)):
        w = formulas.integers((3, 2, window, window), 1).float()
        options = {"padding": "same", "dilation": spread}
        assert torch.equal(gtt.conv2d(IMAGES, w, **options), torch.nn.functional.conv2d(IMAGES, w, **options))
    assert gtt.conv2d(IMAGES, FILTERS, padding="valid", stride=np.int64(2)).shape == (1, 3, 2, 2)
    assert gtt.matmul(torch.ones(2, 3), torch.ones(3, 2), alpha=torch.tensor(2.0)).sum() == 24


def test_vmap_is_one_call_of_pytorchs_operators() -> None:
    """No loop over the batch, and so none of PyTorch's advice about one; gradients and other transforms inside."""
    x, w = formulas.integers((4, 2, 3), 1).float(), formulas.integers((5, 3), 2).float().requires_grad_()
    images = formulas.integers((4, 1, 2, 5, 5), 3).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = torch.vmap(lambda t: gtt.linear(t, w, activation="relu"))(x)
        each = torch.vmap(torch.func.grad(lambda f, t: gtt.conv2d(t, f).square().sum()), in_dims=(None, 0))
        found = each(FILTERS, images)
        with pytest.raises(Unsupported, match="scaled_matmul: cannot be called under vmap"):
            torch.vmap(lambda t: gtt.matmul(t, t))(torch.ones(2, 4, 4, dtype=torch.int8))
    assert torch.equal(y, torch.relu(x @ w.t()))
    assert torch.equal(torch.autograd.grad(y.sum(), w)[0], torch.autograd.grad(torch.relu(x @ w.t()).sum(), w)[0])
    for ours, image in zip(found, images):
        f = FILTERS.clone().requires_grad_()
        (theirs,) = torch.autograd.grad(torch.nn.functional.conv2d(image, f).square().sum(), f)
        assert torch.equal(ours, theirs)


def test_the_cpu_is_marked_once(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(routes, "_said", False)
    for size in (2, 3):
        gtt.matmul(torch.ones(size, size), torch.ones(size, size))
    assert [w.category for w in recwarn].count(gtt.OnCpu) == 1
