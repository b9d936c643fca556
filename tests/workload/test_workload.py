"""Workloads: key, JSON and equality say the same; shapes and FLOPs follow the layout; bad input is named."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_tune import workload as wl
from gpu_tune.errors import InvalidInput
from gpu_tune.workload import Conv2d, Matmul

matmuls = st.builds(
    dict,
    m=st.integers(1, 300),
    n=st.integers(1, 300),
    k=st.integers(1, 300),
    batch=st.integers(1, 3),
    dtype=st.sampled_from(wl.DTYPES),
    layout=st.sampled_from(("nn", "nt", "tn", "tt")),
    beta=st.sampled_from(("0", "1")),
    deterministic=st.booleans(),
)


@given(matmuls)
@settings(max_examples=50, deadline=None)
def test_a_workload_survives_json_and_its_key_tells_it_apart(fields):
    w = Matmul(**fields)
    assert wl.from_dict(json.loads(json.dumps(wl.to_dict(w)))) == w
    other = dataclasses.replace(w, k=w.k + 1, lda=0, ldb=0)
    assert other.key != w.key
    assert all(c.isalnum() or c in ".+=_-" for c in w.key)


@pytest.mark.parametrize(
    "change",
    [
        dict(lda=80),
        dict(ldb=80),
        dict(ldc=80),
        dict(alignment=32),
        dict(alpha="any"),
        dict(beta="1"),
        dict(epilogue="bias"),
        dict(epilogue="clamp(-1,6)"),
        dict(epilogue="clamp(1,6)"),
        dict(out_dtype="float32"),
        dict(deterministic=False),
        dict(math=("fp16_accumulate",)),
        dict(batch=2),
        dict(layout="tt"),
    ],
)
def test_every_field_is_part_of_the_key(change):
    assert Matmul(64, 64, 64, **change).key != Matmul(64, 64, 64).key


def test_defaults_are_resolved_so_that_equal_workloads_compare_equal():
    assert Matmul(8, 9, 10, dtype="fp16", lda=10, epilogue=" bias +relu") == Matmul(8, 9, 10, epilogue="bias+relu")
    assert Matmul(8, 9, 10, dtype="int8").out_dtype == "int32"
    assert Conv2d(1, 3, 8, 8, 4, 3, 3, padding=1) == Conv2d(1, 3, 8, 8, 4, 3, 3, padding=(1, 1, 1, 1))


def test_shapes_strides_flops_and_bytes_follow_the_layout():
    w = Matmul(4, 5, 6, batch=2, layout="tn", dtype="float32", lda=8, beta="any", epilogue="bias+row_bias+residual")
    arrays = w.arrays()
    assert list(arrays) == ["a", "b", "c", "bias", "row_bias", "residual", "out"]
    assert arrays["a"].shape == (2, 6, 4) and arrays["a"].element_strides == (48, 8, 1)
    assert arrays["b"].shape == (2, 6, 5) and arrays["out"].shape == (2, 4, 5)
    assert w.flops == 2 * 4 * 5 * 6 * 2
    assert w.bytes == 4 * (2 * 24 + 2 * 30 + 3 * 2 * 20 + 5 + 4)
    assert arrays["a"].span == 48 + 5 * 8 + 4
    assert w.scalars() == ("beta",)


def test_conv_output_size_is_the_textbook_formula():
    w = Conv2d(1, 3, 224, 224, 64, 7, 7, stride=2, padding=3)
    assert (w.p, w.q) == (112, 112)
    w = Conv2d(1, 4, 9, 8, 4, 3, 3, stride=(2, 1), padding=(0, 1, 2, 0), dilation=(2, 1))
    assert (w.p, w.q) == ((9 + 1 - 4 - 1) // 2 + 1, 8 + 2 - 2 - 1 + 1)


def test_block_scales_have_a_row_per_128_columns():
    arrays = Matmul(130, 140, 300, dtype="fp8", layout="nt", scales="block128").arrays()
    assert arrays["scale_a"].shape == (130, 3) and arrays["scale_b"].shape == (2, 3)


def test_a_1x1_convolution_is_a_matmul():
    (view,) = Conv2d(2, 32, 7, 5, 16, 1, 1, epilogue="scale+bias+residual").views()
    assert (view.workload.m, view.workload.n, view.workload.k) == (70, 16, 32)
    assert view.origin("a") == "x" and view.origin("b") == "w" and view.origin("bias") == "bias"
    (view,) = Conv2d(1, 32, 7, 5, 16, 1, 1, layout="nchw", epilogue="bias+relu").views()
    assert view.workload.epilogue == "row_bias+relu" and view.origin("row_bias") == "bias"
    assert not Conv2d(1, 32, 7, 5, 16, 1, 1, stride=2).views()
    assert not Conv2d(2, 32, 7, 5, 16, 1, 1, layout="nchw").views()
    assert not Conv2d(1, 32, 7, 5, 16, 3, 3, padding=1).views()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Matmul(-1, 2, 3), ("Matmul m", "-1", "positive")),
        (lambda: Matmul(1, 0, 3), ("Matmul n", "0")),
        (lambda: Matmul(1, 2.5, 3), ("Matmul n", "2.5")),
        (lambda: Matmul(2**31, 2, 3), ("Matmul m",)),
        (lambda: Matmul(True, 2, 3), ("Matmul m", "True")),
        (lambda: Matmul(1, 2, 3, dtype="float64"), ("dtype", "float64", "bfloat16")),
        (lambda: Matmul(1, 2, 3, dtype="float16", out_dtype="int8"), ("out_dtype", "int8", "float32")),
        (lambda: Matmul(1, 2, 3, layout="xy"), ("layout", "'xy'", "nt")),
        (lambda: Matmul(4, 4, 8, lda=7), ("lda", "7", "8")),
        (lambda: Matmul(1, 2, 3, alignment=3), ("alignment", "3")),
        (lambda: Matmul(1, 2, 3, dtype="float32", alignment=2), ("alignment",)),
        (lambda: Matmul(1, 2, 3, epilogue="bias+swish"), ("epilogue", "swish", "silu")),
        (lambda: Matmul(1, 2, 3, epilogue="bias+bias"), ("epilogue", "twice")),
        (lambda: Matmul(1, 2, 3, epilogue="clamp(3,1)"), ("clamp", "lo < hi")),
        (lambda: Matmul(1, 2, 3, epilogue="clamp(a,b)"), ("clamp", "number")),
        (lambda: Matmul(1, 2, 3, scales="tensor"), ("scales", "int8")),
        (lambda: Matmul(1, 2, 3, dtype="int8", scales="block128", out_dtype="float32"), ("scales", "row_col")),
        (lambda: Matmul(1, 2, 3, math=("tf32",)), ("math", "tf32", "float32")),
        (lambda: Matmul(1, 2, 3, math=("winograd",)), ("math", "winograd")),
        (lambda: Matmul(1, 2, 3, dtype="int8", epilogue="relu"), ("out_dtype", "float32")),
        (lambda: Matmul(1, 2, 3, deterministic=1), ("deterministic",)),
        (lambda: Conv2d(1, 3, 2, 2, 1, 3, 3), ("output", "padding")),
        (lambda: Conv2d(1, 30, 8, 8, 8, 3, 3, groups=4), ("Conv2d c", "30", "groups=4")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, stride=0), ("stride", "0")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, padding=(1, 2, 3)), ("padding",)),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, epilogue="row_bias"), ("row_bias", "bias")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, direction="back"), ("direction", "dgrad")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, beta="1"), ("beta", "wgrad", "residual")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, direction="dgrad", beta="any"), ("beta", "wgrad")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, direction="wgrad", epilogue="bias"), ("epilogue", "beta='1'")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, direction="dgrad", math="winograd"), ("math", "fprop")),
        (
            lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, dtype="int8", out_dtype="float32", direction="dgrad", scales="row_col"),
            ("scales", "tensor"),
        ),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, dtype="int8", direction="wgrad", beta="any"), ("int32", "float32")),
        (lambda: Conv2d(1, 4, 8, 8, 8, 3, 3, weights="pretransformed"), ("winograd",)),
        (lambda: Matmul(1, 2, 3, alpha=float("nan")), ("alpha", "nan", "any")),
        (lambda: Matmul(1, 2, 3, beta=float("inf")), ("beta", "inf", "any")),
        (lambda: wl.from_dict({"op": []}), ("workload op", "[]", "matmul")),
        (lambda: wl.from_dict({"op": "fft"}), ("fft", "matmul")),
        (lambda: wl.from_dict({"op": "matmul", "m": 1, "n": 1, "k": 1, "q": 1}), ("'q'", "unknown")),
        (lambda: wl.from_dict({"op": "matmul", "m": 1}), ("Matmul",)),
        (lambda: wl.from_dict([1]), ("workload",)),
    ],
)
def test_bad_input_is_refused_by_name_value_rule_and_remedy(make, said):
    with pytest.raises(InvalidInput) as error:
        make()
    for word in said:
        assert word in str(error.value)


def test_integers_of_numpy_are_integers():
    whole = np.int64
    assert Matmul(whole(4), 4, 8, lda=whole(8)) == Matmul(4, 4, 8)
    conv = Conv2d(1, 4, 8, 8, 8, 3, 3, stride=whole(2), padding=(whole(1), 1), dilation=whole(1))
    assert conv == Conv2d(1, 4, 8, 8, 8, 3, 3, stride=2, padding=1) and type(conv.padding[0]) is int


@pytest.mark.parametrize("dtype", [np.float16, np.dtype("float16"), "FP16", "half", " Float16", "np.float16"])
def test_dtypes_are_known_by_the_names_of_libraries(dtype):
    assert Matmul(8, 8, 8, dtype=dtype) == Matmul(8, 8, 8, dtype="float16")


def test_dtypes_that_numpy_has_from_elsewhere():
    assert Matmul(8, 8, 8, dtype=ml_dtypes.bfloat16).dtype == "bfloat16"
    assert Matmul(8, 8, 8, dtype=np.dtype(ml_dtypes.float8_e4m3fn), out_dtype=np.float32).out_dtype == "float32"
    assert Matmul(8, 8, 8, out_dtype=None).out_dtype == "float16"
    for other in (np.float64, ml_dtypes.float8_e4m3fnuz, float, None, 3):
        with pytest.raises(InvalidInput, match="is not a known dtype"):
            Matmul(8, 8, 8, dtype=other)
