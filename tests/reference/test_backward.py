"""The gradients' references: adjoint to the forward convolution, which is held to the definition elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_tune.reference import example_inputs, reference
from gpu_tune.reference.backward import taps
from gpu_tune.workload import Conv2d

SHAPES: list[dict[str, Any]] = [
    dict(n=2, c=6, h=9, w=8, k=4, r=3, s=3, padding=1, groups=2),
    dict(n=1, c=3, h=11, w=13, k=5, r=5, s=4, stride=(3, 2), padding=(2, 0, 1, 3)),
    dict(n=2, c=2, h=12, w=10, k=3, r=2, s=3, stride=(4, 2), dilation=(3, 2), padding=(0, 5, 4, 0)),
    dict(n=1, c=4, h=3, w=2, k=4, r=1, s=1, stride=5, padding=3, groups=4),
    dict(n=1, c=1, h=1, w=6, k=2, r=4, s=2, stride=(1, 6), dilation=(2, 4), padding=(6, 5, 0, 0)),
]


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_adjoint_to_the_convolution(shape: dict[str, Any], layout: str) -> None:
    forward = Conv2d(**shape, layout=layout, dtype="float32")
    image, filters = replace(forward, direction="dgrad"), replace(forward, direction="wgrad")
    given = {**example_inputs(forward), **example_inputs(image, seed=1), **example_inputs(filters, seed=2)}
    wide = {name: array.astype(np.float64) for name, array in given.items()}
    energy = (wide["dy"] * reference(forward, given)).sum()
    assert np.isclose((reference(image, given) * wide["x"]).sum(), energy, rtol=1e-12)
    assert np.isclose((reference(filters, given) * wide["w"]).sum(), energy, rtol=1e-12)


def test_scales_and_an_existing_gradient_are_applied() -> None:
    w = Conv2d(1, 4, 5, 5, 4, 3, 3, dtype="int8", out_dtype="float32", scales="tensor", direction="wgrad", beta="any")
    given = example_inputs(w, seed=3, kind="integer")
    plain = reference(replace(w, scales="none", beta="0"), given)
    expected = plain * given["scale_a"] * given["scale_b"] - 2.0 * given["c"]
    np.testing.assert_allclose(reference(w, given, {"beta": -2.0}), expected, rtol=1e-12)


def test_taps_are_those_of_the_definition() -> None:
    for size, stride, dilation, padding in ((7, 3, 2, 1), (5, 4, 1, 6), (9, 1, 3, 0), (2, 5, 3, 4)):
        for tap in range(4):
            found = taps(size, tap, stride, dilation, padding)
            meets = [h for h in range(size) if (h + padding - tap * dilation) % stride == 0]
            assert list(range(found.first, size, stride)) == meets and found.pixels == len(meets)
            assert not meets or found.start == (meets[0] + padding - tap * dilation) // stride
