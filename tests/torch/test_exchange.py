"""Tensors as arguments of the plain calls: taken for what they mean, or refused with one clear error."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import gpu_tune as gt
import gpu_tune.torch as gtt
from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput
from gpu_tune.kernel import arrays
from gpu_tune.kernel.prepared import signature


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "library", lambda: None)


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(4, 4)


class Derived(torch.Tensor):
    """A class of tensors whose module is not PyTorch's."""


def negated() -> torch.Tensor:
    """A real tensor that PyTorch negates when it reads it: the imaginary part of a conjugate."""
    return torch.ones(4, 4, dtype=torch.complex64).conj().imag


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (negated, r"negates when it reads them; pass a\.resolve_neg\(\)"),
        (lambda: negated().as_subclass(Derived), r"negates when it reads them"),
        (lambda: torch.ones(4, 4).to_sparse(), r"tensor of layout sparse_coo, .*; pass a\.to_dense\(\)"),
        (lambda: torch.nested.nested_tensor([torch.ones(4, 4)]), "tensor of layout nested"),
        (lambda: torch.ones(4, 4, dtype=torch.complex64).conj(), r"conjugates when .* pass a\.resolve_conj\(\)"),
        (lambda: torch.ones(4, 4, requires_grad=True), "requires a gradient, .* gpu_tune.torch, .*detach"),
        (lambda: torch.nn.Parameter(torch.ones(4, 4)), "requires a gradient"),
        (fake, "elements but no memory"),
        (lambda: torch.empty(4, 4, device="meta"), "elements but no memory"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(make, said, recwarn) -> None:
    tensor = make()
    recwarn.clear()
    with pytest.raises(InvalidInput, match=said):
        gt.matmul(tensor, torch.ones(4, 4))
    with pytest.raises(InvalidInput, match=said):
        arrays.view("a", tensor)
    assert not recwarn.list  # PyTorch warns where a FakeTensor is asked for its address
    if "negates" not in said and "conjugates" not in said:  # their calls are remembered apart
        assert signature(tensor, (tensor,), {}, None) is None


def test_a_parameter_is_taken_where_no_gradient_is_asked_for() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    with torch.no_grad():
        assert torch.equal(gt.matmul(weight, torch.ones(4, 4)), torch.full((4, 4), 4.0))
    with torch.inference_mode():
        assert gt.matmul(weight, torch.ones(4, 4)).sum() == 64


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2"])
def test_tensors_on_the_cpu_give_tensors(dtype: str) -> None:
    a = torch.tensor([[1.0, -2.0], [3.0, 4.0]]).to(getattr(torch, dtype))
    result = gt.matmul(a, a)
    assert type(result) is torch.Tensor and result.dtype == {
        "int8": torch.int32,
        "float8_e4m3fn": torch.bfloat16,
        "float8_e5m2": torch.bfloat16,
    }.get(dtype, a.dtype)
    assert torch.equal(result.float(), torch.tensor([[-5.0, -10.0], [15.0, 10.0]]))
    out = torch.zeros_like(result)
    assert gt.matmul(a, a, out=out) is out and torch.equal(out.float(), result.float())


class Touchy(torch.Tensor):
    """As CUDA tensors of float8 and CUDA parameters: they raise where they are asked for CUDA's array interface."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("asked for __cuda_array_interface__")


def test_nothing_asks_a_tensor_for_an_interface_that_may_raise() -> None:
    a = torch.ones(4, 4).as_subclass(Touchy)
    with pytest.raises(RuntimeError, match="asked for"):
        hasattr(a, "__cuda_array_interface__")
    assert gt.matmul(a, torch.ones(4, 4)).sum() == 64
    arrays.view("a", a)


def test_convolutions_of_tensors_are_nhwc_unless_said() -> None:
    x, w = torch.randn(1, 5, 4, 3), torch.randn(2, 3, 3, 3)
    y = gt.conv2d(x, w)
    assert gt.Conv2d(1, 3, 5, 4, 2, 3, 3).layout == "nhwc"  # as the workload is, and with it the command line
    expected = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(y, expected)


def test_fp8_results_saturate_where_pytorch_and_ml_dtypes_do_not() -> None:
    a = torch.full((1, 1), 448.0).to(torch.float8_e4m3fn)
    scale = torch.ones(1)
    for out, largest in (("float8_e4m3", 448.0), ("float8_e5m2", 57344.0)):
        y = gt.matmul(a, a, out_dtype=out, scales="tensor", scale_a=scale, scale_b=scale)
        assert y.float().item() == largest
    wide = torch.tensor(448.0**2)
    assert wide.to(torch.float8_e5m2).float().item() == float("inf") and wide.to(torch.float8_e4m3fn).float() == 448.0
    assert np.isnan(np.float32(wide).astype(ml_dtypes.float8_e4m3fn)) and "saturates" in gtt.matmul.__doc__


def test_strides_of_dimensions_of_one_mean_nothing() -> None:
    a = torch.randn(1, 4).as_strided((1, 4), (77, 1))
    torch.testing.assert_close(gt.matmul(a, torch.ones(4, 3)), a @ torch.ones(4, 3))
    column = torch.randn(4, 1).as_strided((4, 1), (1, 55))
    torch.testing.assert_close(gt.matmul(torch.ones(3, 4), column), torch.ones(3, 4) @ column)


@pytest.mark.parametrize("value", [torch.float16, "torch.float16", "FP16", np.float16, np.dtype("float16"), "Half"])
def test_a_dtype_may_be_given_as_libraries_name_it(value) -> None:
    assert gt.Matmul(8, 8, 8, dtype=value).dtype == "float16"


def test_dtypes_of_pytorch_are_known_or_refused() -> None:
    known = {torch.bfloat16: "bfloat16", torch.float8_e4m3fn: "float8_e4m3", torch.float8_e5m2: "float8_e5m2"}
    for theirs, ours in known.items():
        assert gt.Matmul(8, 8, 8, dtype=theirs).dtype == ours
    assert gt.Matmul(8, 8, 8, dtype="int8", out_dtype=torch.float32).out_dtype == "float32"
    for other in (torch.float64, torch.float8_e4m3fnuz, torch.complex64):
        with pytest.raises(InvalidInput, match="is not a known dtype"):
            gt.Matmul(8, 8, 8, dtype=other)


def test_a_kernel_called_with_tensors_on_the_cpu_gives_a_tensor(home) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = gt.load(gt.Matmul(8, 8, 16, dtype="bfloat16", layout="nt"))
        a, b = torch.randn(8, 16).bfloat16(), torch.randn(8, 16).bfloat16()
        y = kernel(a, b)
    assert type(y) is torch.Tensor and y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), a.float() @ b.float().t(), rtol=2**-7, atol=2**-7)
