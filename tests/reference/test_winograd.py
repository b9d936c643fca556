"""Winograd's algorithm in NumPy is the convolution, within a bound that a lost channel exceeds."""

import dataclasses

import numpy as np
import pytest

from gpu_tune.errors import InvalidInput
from gpu_tune.reference import Numerics, bounds, compare, example_inputs, products, reference, winograd
from gpu_tune.workload import Conv2d

CASES = [(7, 9, 1), (12, 5, (0, 1, 2, 0)), (16, 16, 1), (3, 3, 0)]


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("h", "w", "padding"), CASES)
@pytest.mark.parametrize("tile", [2, 4])
def test_the_algorithm_is_the_convolution(layout, h, w, padding, tile):
    work = Conv2d(2, 5, h, w, 6, 3, 3, padding=padding, layout=layout, dtype="float32", math=("winograd",))
    arrays = {n: a.astype(np.float64) for n, a in example_inputs(work, 1).items()}
    np.testing.assert_allclose(winograd.convolve(work, arrays, tile), reference(work, arrays), rtol=1e-10, atol=1e-10)


def test_pretransformed_filters_give_the_same_convolution():
    plain = Conv2d(1, 8, 10, 10, 6, 3, 3, padding=1, dtype="float32", math=("winograd",))
    ahead = dataclasses.replace(plain, weights="pretransformed")
    arrays = {n: a.astype(np.float64) for n, a in example_inputs(plain, 1).items()}
    filters = winograd.transform_filters(arrays["w"], ahead)
    assert filters.shape == ahead.arrays()["w"].shape == (36, 6, 8)
    np.testing.assert_allclose(reference(ahead, {"x": arrays["x"], "w": filters}), reference(plain, arrays), atol=1e-10)
    with pytest.raises(InvalidInput, match="filters"):
        winograd.transform_filters(arrays["w"][:2], ahead)


def test_rounding_of_the_transforms_is_inside_the_bound_and_a_lost_channel_is_not():
    work = Conv2d(1, 32, 16, 16, 8, 3, 3, padding=1, dtype="float16", out_dtype="float32", math=("winograd",))
    arrays = example_inputs(work, 3)
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    rounded = winograd.transform_filters(wide["w"], dataclasses.replace(work, weights="pretransformed")).astype(
        np.float16
    )
    ahead = dataclasses.replace(work, weights="pretransformed")
    out = reference(ahead, {"x": arrays["x"], "w": rounded}).astype(np.float32)
    numerics = Numerics(input_eps=8 * 2.0**-11, winograd=4)
    assert compare(out, work, arrays, numerics=numerics).ok
    assert not compare(out, work, arrays).ok, "the plain bound would be too strict: rounding is real"
    wide["x"][..., 5] = 0
    assert not compare(reference(work, wide).astype(np.float32), work, arrays, numerics=numerics).ok


@pytest.mark.parametrize("fields", [dict(r=1), dict(stride=2), dict(dilation=2), dict(groups=2)])
def test_pretransformed_filters_are_for_plain_3x3_only(fields):
    sizes = dict(n=1, c=8, h=16, w=16, k=8, r=3, s=3, math=("winograd",), weights="pretransformed")
    with pytest.raises(InvalidInput, match="3x3"):
        Conv2d(**{**sizes, **fields})


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("c", "size", "padding"), [(5, 16, 1), (64, 16, 2), (64, 28, 1), (300, 9, 1)])
def test_the_bound_from_plain_sums_covers_the_exact_one_at_borders_too_and_still_sees_a_lost_channel(
    c, size, padding, tile
):
    sizes = dict(n=2, c=c, h=size, w=size, k=6, r=3, s=3, padding=padding)
    work = Conv2d(**sizes, dtype="float16", out_dtype="float32", math=("winograd",))
    arrays = example_inputs(work, 1)
    numerics = Numerics(input_eps=8 * 2.0**-11, winograd=tile)
    rough = bounds(work, arrays, numerics=numerics, products=products(work, arrays))
    exact = bounds(work, arrays, numerics=numerics)
    assert (rough.error >= exact.error).all()
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    wide["x"][..., : c // 5] = 0
    assert (np.abs(reference(work, wide) - rough.expected) > rough.error).any()
