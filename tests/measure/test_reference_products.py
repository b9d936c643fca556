"""The reference of large workloads is the reference, whoever computes it and in how many pieces."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune.measure import reference_products
from gpu_tune.reference import Numerics, bounds, example_inputs
from gpu_tune.workload import Conv2d, Matmul, Workload

CASES = [
    Matmul(37, 50, 20, dtype="bfloat16", layout="nt", epilogue="bias+row_bias+residual+gelu", alpha="any", beta="any"),
    Matmul(5, 40, 16, batch=7, dtype="float16", beta="1"),
    Matmul(40, 36, 32, dtype="int8", layout="nt", out_dtype="float16", scales="row_col"),
    Matmul(5, 40, 16, batch=7, dtype="float16", epilogue="bias+relu(aux)+dbias"),
    Conv2d(5, 8, 9, 9, 16, 3, 3, padding=1, dtype="float16", layout="nhwc", epilogue="bias+relu"),
    Conv2d(5, 8, 9, 9, 16, 3, 3, padding=1, dtype="float16", layout="nhwc", epilogue="bias+silu(aux)"),
    Conv2d(5, 8, 9, 9, 16, 3, 3, padding=1, dtype="float32", layout="nchw", epilogue="scale+bias+residual"),
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_bounds_piece_by_piece_are_those_of_the_whole(w: Workload, exact: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference_products, "_PIECE", 100)
    arrays = example_inputs(w, 3)
    arrays[w.inputs[0]][0] = np.nan if w.dtype != "int8" else 1
    scalars = dict.fromkeys(w.scalars(), 0.75)
    known, numerics = reference_products.wide_products(w, arrays), Numerics(input_eps=2.0**-10)
    found = reference_products.wide_bounds(w, arrays, scalars, numerics, exact, known)
    whole = bounds(w, arrays, scalars, numerics=numerics, exact=exact, products=known)
    assert found.second.keys() == whole.second.keys() == set(w.outputs) - {"out"}
    for ours, theirs in ((found, whole), *((found.second[n], whole.second[n]) for n in whole.second)):
        for name in ("lo", "hi", "expected", "error"):
            one, other = getattr(ours, name), getattr(theirs, name)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one.astype(np.float64), other.astype(np.float64), err_msg=name)


def test_a_winograd_bound_looks_at_the_whole_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference_products, "_PIECE", 100)
    w = Conv2d(4, 8, 8, 8, 8, 3, 3, padding=1, dtype="float32", math=("winograd",))
    arrays, numerics = example_inputs(w, 3), Numerics(winograd=2)
    arrays["x"][2] *= 10
    known = reference_products.wide_products(w, arrays)
    found = reference_products.wide_bounds(w, arrays, {}, numerics, False, known)
    whole = bounds(w, arrays, {}, numerics=numerics, products=known)
    np.testing.assert_array_equal(found.error, whole.error)
