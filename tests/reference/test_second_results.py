"""What an epilogue writes beside the result: grammar, references, comparison, and the dispatchers on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_tune import dispatch, reference
from gpu_tune.errors import InvalidInput
from gpu_tune.workload import Conv2d, Matmul, Workload, accepting, from_dict, to_dict
from gpu_tune.workload.epilogue import parse

MASKS = [
    Matmul(5, 130, 8, dtype="float32", epilogue="bias+relu(aux)"),
    Matmul(5, 130, 8, batch=2, ldc=200, dtype="float32", epilogue="relu(aux)"),
    Conv2d(2, 8, 3, 5, 9, 1, 1, layout="nhwc", dtype="float32", epilogue="relu(aux)"),
    Conv2d(2, 8, 3, 5, 9, 1, 1, layout="nchw", dtype="float32", epilogue="relu(aux)"),
]


def test_an_activation_that_saves_is_one_operation_with_a_second_result():
    (bias, gelu) = parse("bias + gelu(aux)")
    assert (str(gelu), gelu.name, gelu.operand, gelu.writes, gelu.bits) == ("gelu(aux)", "gelu", "aux", "aux", False)
    assert (bias.writes, parse("drelu")[0].writes, parse("relu(aux)")[0].bits) == ("", "", True)
    w = Matmul(5, 7, 8, epilogue="bias + silu(aux)")
    assert w.outputs == ("out", "aux") and list(w.arrays()) == ["a", "b", "bias", "aux", "out"]
    assert w.arrays()["aux"] == w.arrays()["out"] and from_dict(to_dict(w)) == w
    assert Matmul(5, 7, 8, epilogue="drelu").outputs == ("out",)
    assert {x.alignment for x in accepting(Matmul(5, 7, 8, epilogue="relu(aux)"))} == {4, 8, 16}


@pytest.mark.parametrize(
    "fields, said",
    [
        (dict(epilogue="relu(aux)+dsilu"), r"has relu\(aux\) and dsilu, but a call passes one array aux"),
        (
            dict(epilogue="gelu(aux)", dtype="int8", out_dtype="int8"),
            r"has gelu\(aux\), whose aux has the out_dtype int8",
        ),
        (dict(epilogue="relu(aux)", alignment=2), r"alignment: 2 is less than the 4 bytes of a word of bits"),
        (dict(epilogue="dbias+relu"), r"has dbias before its end, but it sums the result; write dbias once, last"),
        (
            dict(epilogue="dbias", dtype="int8", out_dtype="int8"),
            r"dbias.*sums the result, whose out_dtype int8 is an eight",
        ),
        (dict(epilogue="dgelu(aux)"), r"unknown operation 'dgelu\(aux\)'.*relu\(aux\), gelu\(aux\)"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_a_reason(fields: dict[str, Any], said: str):
    with pytest.raises(InvalidInput, match=said):
        Matmul(8, 8, 8, **fields)


@pytest.mark.parametrize("w", MASKS, ids=lambda w: w.key)
def test_bits_that_are_saved_are_those_that_a_gradient_reads(w: Workload):
    given = reference.example_inputs(w, 1)
    found = reference.results(w, given)
    assert found["aux"].shape == w.arrays()["aux"].shape and found["aux"].dtype == np.uint8
    np.testing.assert_array_equal(reference.mask(w, found["aux"]), reference.reference(w, given) > 0)


@pytest.mark.parametrize("w", [*MASKS, Matmul(5, 13, 8, ldc=16, epilogue="bias+gelu_tanh(aux)")], ids=lambda w: w.key)
def test_one_wrong_element_of_a_second_result_is_found(w: Workload):
    given = reference.example_inputs(w, 1)
    found = reference.results(w, given)
    assert reference.compare(found, w, given).ok
    if found["aux"].dtype == np.uint8:
        found["aux"].reshape(-1)[0] ^= 1
    else:
        found["aux"][0, 0] += 0.25
    told = reference.compare(found, w, given)
    assert not told.ok and "1 of" in str(told) and "elements of aux wrong" in str(told) and not any(told.index)


def test_bits_may_be_either_where_rounding_decides_and_mean_nothing_beyond_a_row():
    w = Matmul(1, 130, 4, dtype="float32", epilogue="relu(aux)")
    given = {"a": np.ones((1, 4), np.float32), "b": np.zeros((4, 130), np.float32)}
    given["b"][:, 5], given["b"][:, 7] = [1.0, 1e-9, -1.0, 0.0], [1.0, 1.0, 1.0, np.nan]
    second = reference.bounds(w, given).second["aux"]
    assert second.lo.shape == (1, 256)
    assert np.flatnonzero(second.lo != second.hi).tolist() == [5, *range(130, 256)]
    assert (second.lo[0, 7], second.hi[0, 0]) == (1, 0)  # NaN passes; nothing at 0


def test_integers_are_compared_exactly_up_to_the_activation():
    w = Matmul(3, 5, 8, dtype="float32", epilogue="gelu(aux)")
    given = reference.example_inputs(w, 2, "integer")
    limits = reference.bounds(w, given, exact=True)
    assert not limits.second["aux"].error.any() and limits.error.any()


SUMS = [
    Matmul(70, 9, 8, batch=2, ldc=12, dtype="bfloat16", epilogue="bias+dbias"),
    Conv2d(2, 8, 3, 5, 9, 1, 1, layout="nhwc", dtype="float32", epilogue="dbias"),
    Conv2d(2, 8, 3, 5, 9, 1, 1, layout="nchw", dtype="float32", epilogue="drelu+dbias", direction="dgrad"),
]


@pytest.mark.parametrize("w", SUMS, ids=lambda w: w.key)
def test_sums_are_of_what_is_stored_and_one_element_too_few_is_found(w: Workload):
    given = reference.example_inputs(w, 1)
    found = reference.results(w, given)
    assert w.outputs == ("out", "dbias") and list(w.arrays())[-2:] == ["dbias", "out"]
    channel = 1 if isinstance(w, Conv2d) and w.layout == "nchw" else -1
    stored = np.moveaxis(found["out"].astype(np.float64), channel, -1)
    expected = stored.reshape(-1, stored.shape[-1]).sum(axis=0)
    np.testing.assert_allclose(found["dbias"].astype(np.float64), expected, rtol=2**-8)
    assert reference.compare(found, w, given).ok
    worst = int(np.abs(stored).max(axis=tuple(range(stored.ndim - 1))).argmax())
    column = stored[..., worst]
    found["dbias"][worst] -= column.flat[np.abs(column).argmax()]
    told = reference.compare(found, w, given)
    assert not told.ok and f"1 of {expected.size} elements of dbias wrong; worst at ({worst},)" in str(told)


def test_a_convolution_whose_channels_are_rows_of_a_matmul_is_none_with_sums():
    assert not Conv2d(1, 16, 4, 4, 64, 1, 1, layout="nchw", epilogue="dbias").views()
    assert Conv2d(1, 16, 4, 4, 64, 1, 1, layout="nhwc", epilogue="dbias").views()


def test_the_dispatchers_return_sums():
    a, b = np.ones((3, 4), np.float32), np.arange(8, dtype=np.float32).reshape(4, 2)
    out, dbias = dispatch.matmul(a, b, epilogue="dbias")
    np.testing.assert_array_equal(dbias, out.sum(axis=0))
    into = np.zeros(2, np.float32)
    assert dispatch.matmul(a, b, epilogue="dbias", dbias=into)[1] is into and np.array_equal(into, dbias)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_the_dispatchers_return_both_and_write_where_they_are_told(activation: str):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((5, 8), np.float32), rng.standard_normal((8, 9), np.float32)
    out, aux = dispatch.matmul(a, b, epilogue=f"{activation}(aux)")
    np.testing.assert_array_equal(out, dispatch.matmul(a, b, epilogue=activation))
    into = np.zeros_like(aux)
    again = dispatch.matmul(a, b, epilogue=f"{activation}(aux)", aux=into)
    assert again[1] is into and np.array_equal(into, aux)
    # the gradient takes what was saved
    dy = np.ones((5, 9), np.float32)
    dz = dispatch.matmul(dy, np.eye(9, dtype=np.float32), epilogue=f"d{activation}", aux=aux)
    assert dz.shape == (5, 9) and (activation != "relu" or np.array_equal(dz != 0, a @ b > 0))
    with pytest.raises(InvalidInput, match=r"aux\.shape"):
        dispatch.matmul(a, b, epilogue=f"{activation}(aux)", aux=into[:4])
