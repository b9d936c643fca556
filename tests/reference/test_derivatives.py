"""Backward epilogues in float64: slopes against differences of the activations themselves, and the masks' layout."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpu_tune import dispatch, reference
from gpu_tune.errors import InvalidInput
from gpu_tune.workload import Conv2d, Matmul
from gpu_tune.workload.epilogue import Op


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_slopes_are_those_of_the_activations(name: str) -> None:
    z = np.concatenate([np.linspace(-9, 9, 301), [-80.0, 80.0]])
    h = 1e-5
    expected = (reference.activation(Op(name), z + h) - reference.activation(Op(name), z - h)) / (2 * h)
    found = reference.derivative(Matmul(1, 1, 1), Op(f"d{name}"), z)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_relu_passes_where_its_result_is_not_below_or_at_zero() -> None:
    found = reference.derivative(Matmul(1, 1, 1), Op("drelu(out)"), np.array([-1.0, -0.0, 0.0, 1e-30, np.inf, np.nan]))
    assert found.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("name", ["dgelu", "dgelu_tanh", "dsilu"])
def test_infinite_saved_values_give_nan_without_a_warning(name: str) -> None:
    a, b, aux = np.ones((1, 1), np.float32), np.ones((1, 2), np.float32), np.array([[np.inf, 0.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = dispatch.matmul(a, b, epilogue=name, aux=aux)
    assert np.isnan(out[0, 0]) and out[0, 1] == 0.5


@pytest.mark.parametrize("batch", [1, 2])
def test_bits_of_a_matmul_start_each_row_anew_at_a_multiple_of_128(batch: int) -> None:
    w = Matmul(3, 130, 8, batch=batch, ldc=200, epilogue="drelu")
    spec = w.arrays()["aux"]
    assert (spec.shape, spec.dtype) == ((batch, 3, 32)[batch == 1 :], "uint8")
    packed = np.zeros(spec.shape, np.uint8)
    packed[..., 2, 129 // 8] = 1 << 129 % 8
    where = reference.mask(w, packed)
    assert where.shape == w.arrays()["out"].shape and where.sum() == batch and where[..., 2, 129].all()


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_bits_of_a_convolution_lie_as_its_elements(layout: str) -> None:
    w = Conv2d(2, 8, 3, 5, 9, 1, 1, layout=layout, epilogue="drelu")
    packed = np.zeros(w.arrays()["aux"].shape, np.uint8)
    packed[17] = 1 << 5
    assert packed.size == 48 and np.flatnonzero(reference.mask(w, packed)) == [17 * 8 + 5]


def test_what_backward_operations_do_not_take_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"drelu and dsilu.*one array aux"):
        Matmul(8, 8, 8, epilogue="drelu+dsilu")
    with pytest.raises(InvalidInput, match=r"dgelu.*aux has the out_dtype int8"):
        Matmul(8, 8, 8, dtype="int8", out_dtype="int8", epilogue="dgelu")
    assert Matmul(8, 8, 8, dtype="int8", out_dtype="int8", epilogue="drelu").arrays()["aux"].dtype == "uint8"
    with pytest.raises(InvalidInput, match="unknown operation 'drelu\\(x\\)'"):
        Matmul(8, 8, 8, epilogue="drelu(x)")


def test_a_pointwise_convolution_with_a_mask_is_a_matmul_where_its_rows_need_no_padding() -> None:
    assert not Conv2d(1, 16, 4, 4, 64, 1, 1, epilogue="drelu").views()
    assert Conv2d(1, 16, 4, 4, 128, 1, 1, epilogue="drelu").views()
    assert Conv2d(1, 16, 4, 4, 64, 1, 1, epilogue="drelu(out)").views()
