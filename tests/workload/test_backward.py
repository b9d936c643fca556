"""The gradients of a convolution as workloads: operands, keys, views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpu_tune.cli.options import expand
from gpu_tune.reference import example_inputs, reference
from gpu_tune.workload import Conv2d, Matmul, accepting, from_dict, to_dict, tune_command

FORWARD = Conv2d(2, 8, 9, 10, 12, 3, 2, stride=(2, 1), padding=(1, 0, 2, 1), groups=4, dtype="float32")


def test_operands_are_those_of_the_forward_convolution() -> None:
    image, filters, result = ((2, 9, 10, 8), (12, 3, 2, 2), (2, 4, 12, 12))
    for direction, names, shapes in (
        ("fprop", ["x", "w", "out"], [image, filters, result]),
        ("dgrad", ["dy", "w", "out"], [result, filters, image]),
        ("wgrad", ["dy", "x", "out"], [result, image, filters]),
    ):
        w = replace(FORWARD, direction=direction)
        assert (list(w.arrays()), [s.shape for s in w.arrays().values()]) == (names, shapes)
        assert tuple(w.inputs) == tuple(names[:2]) and w.flops == FORWARD.flops
    channels_first = replace(FORWARD, direction="wgrad", layout="nchw", beta="any", out_dtype="float16")
    assert [(n, s.shape, s.dtype) for n, s in channels_first.arrays().items()] == [
        ("dy", (2, 12, 4, 12), "float32"),
        ("x", (2, 8, 9, 10), "float32"),
        ("c", (12, 2, 3, 2), "float16"),
        ("out", (12, 2, 3, 2), "float16"),
    ]
    assert replace(FORWARD, direction="dgrad", epilogue="bias+relu").arrays()["bias"].shape == (8,)


def test_keys_say_the_direction_and_forward_keys_do_not() -> None:
    assert FORWARD.key == "conv2d-2x8x9x10-k12-3x2-s2x1-p1x0x2x1-d1-g4-float32-nhwc"
    assert replace(FORWARD, direction="dgrad").key == f"{FORWARD.key}-direction=dgrad"
    gradient = replace(FORWARD, direction="wgrad", beta="1")
    assert gradient.key == f"{FORWARD.key}-direction=wgrad-beta=1"
    assert from_dict(to_dict(gradient)) == gradient
    assert [w.beta for w in accepting(replace(gradient, beta="0")) if w.alignment == 16] == ["any"]
    command = tune_command(gradient)
    assert "--direction wgrad" in command and "--beta 1" in command
    words = command.split()[3:]
    assert expand("conv2d", {f[2:].replace("-", "_"): v for f, v in zip(words[::2], words[1::2])}) == [gradient]


def test_depth_of_the_product_counts_the_taps_that_meet_a_pixel() -> None:
    assert FORWARD.product == (2 * 4 * 12, 3, 2 * 3 * 2)
    assert replace(FORWARD, direction="wgrad").product == (3, 2 * 3 * 2, 2 * 4 * 12)
    assert replace(FORWARD, direction="dgrad").product == (2 * 9 * 10, 2, 3 * 2 * 2)
    dilated = replace(FORWARD, direction="dgrad", dilation=(2, 1))  # every tap of rows meets the same pixels
    assert dilated.product == (2 * 9 * 10, 2, 3 * 3 * 2)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("more", [dict(direction="dgrad", epilogue="bias+relu"), dict(direction="wgrad", beta="1")])
def test_a_pointwise_gradient_is_a_matmul(layout: str, more: dict[str, Any]) -> None:
    w = Conv2d(1, 6, 5, 7, 9, 1, 1, layout=layout, dtype="float32", **more)
    view = w.views()[0]
    given = example_inputs(w)
    assert isinstance(view.workload, Matmul)
    specs = {name: spec for name, spec in view.workload.arrays().items() if name != "out"}
    seen = {name: given[view.origin(name)].reshape(spec.shape) for name, spec in specs.items()}
    product = reference(view.workload, seen)
    assert abs(product.reshape(w.arrays()["out"].shape) - reference(w, given)).max() < 1e-9
    assert not replace(w, stride=2).views() and not replace(w, padding=1).views()
    assert bool(replace(w, n=2).views()) == (layout == "nhwc")
