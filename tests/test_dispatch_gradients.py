"""``gt.conv2d(dy, w, direction="dgrad")`` and ``(dy, x, direction="wgrad")``: sizes, results, who serves, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import dispatch
from gpu_tune.cuda import driver, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidInput
from gpu_tune.kernel.prepared import CallPath
from gpu_tune.kernel.untuned import preferred
from gpu_tune.measure import vendor
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, ScalarArg
from gpu_tune.reference import example_inputs, reference
from gpu_tune.store.store import Store
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Conv2d
from tests.helpers.on_gpu import OnGpu
from tests.helpers.winners import winner


def drawn(direction: str, rng: np.random.Generator) -> tuple[Conv2d, dict[str, Any]]:
    """A small random problem of any stride, padding, dilation, groups and layout, and its fields but for sizes."""
    while True:
        groups, (h, w, r, s) = int(rng.integers(1, 3)), rng.integers(1, 9, 4).tolist()
        more: dict[str, Any] = dict(groups=groups, layout=str(rng.choice(["nhwc", "nchw"])), direction=direction)
        more.update(stride=tuple(rng.integers(1, 4, 2).tolist()), dilation=tuple(rng.integers(1, 4, 2).tolist()))
        more.update(padding=tuple(rng.integers(0, 3, 4).tolist()))
        try:
            return Conv2d(2, 3 * groups, h, w, 2 * groups, min(r, 4), min(s, 4), dtype="float32", **more), more
        except InvalidInput:  # the filter does not fit into the image
            continue


@pytest.mark.parametrize("direction", ["dgrad", "wgrad"])
def test_gradients_of_numpy_arrays_and_the_size_that_strides_leave_open(direction: str) -> None:
    rng, told = np.random.default_rng(5), 0
    for _ in range(12):
        w, more = drawn(direction, rng)
        given = example_inputs(w)
        first, second = (given[name] for name in w.inputs)
        size = (w.h, w.w) if direction == "dgrad" else (w.r, w.s)
        expected = reference(w, given)
        again = np.zeros(expected.shape, np.float32)
        assert gt.conv2d(first, second, out=again, **more) is again
        np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-5)
        if direction == "dgrad":
            unique = w.stride == (1, 1)
        else:
            unique = all(d >= s for d, s in zip(w.dilation, w.stride))
        told += unique
        np.testing.assert_array_equal(gt.conv2d(first, second, size=None if unique else size, **more), again)
        with pytest.raises(InvalidInput, match=r"size: .* does not fit dy and "):
            gt.conv2d(first, second, size=(size[0], size[1] + 9), **more)
    assert 0 < told < 12


def test_an_existing_gradient_is_added_to() -> None:
    w = Conv2d(1, 4, 6, 5, 3, 3, 2, dtype="float32", direction="wgrad", beta="any")
    given = example_inputs(w)
    dy, x, c = (given[n] for n in ("dy", "x", "c"))
    half = gt.conv2d(dy, x, c, direction="wgrad", beta=0.5)
    np.testing.assert_allclose(half, reference(w, given, {"beta": 0.5}), rtol=1e-5, atol=1e-5)
    whole = gt.conv2d(dy, x, c=(dw := c.copy()), direction="wgrad", out=dw)
    assert whole is dw
    np.testing.assert_allclose(dw, reference(w, given, {"beta": 1.0}), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(gt.conv2d(dy, x, c, direction="wgrad", beta=0), gt.conv2d(dy, x, direction="wgrad"))


CODE = 'extern "C" __global__ void k(const float* dy, const float* x, const float* c, float* out, float beta) {}'
PLAN = LaunchPlan(
    (KernelStep("k", (1, 1, 1), (32, 1, 1), (*map(BufferArg, ("dy", "x", "c", "out")), ScalarArg("beta", "float32"))),)
)


@pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC")
@pytest.mark.parametrize("verdict", ["faster", "slower"])
def test_our_gradient_serves_where_it_was_measured_to_be_faster(
    fake_cuda: Any, home: Any, monkeypatch: pytest.MonkeyPatch, verdict: str
) -> None:
    """The virtual GPU runs no kernel but the toy's: who is called is looked at, and with what."""
    driver.use_context(0)
    dispatch.forget()
    w = Conv2d(1, 4, 5, 4, 3, 3, 2, stride=2, padding=1, dtype="float32", direction="wgrad", beta="any")
    Store().publish(winner(w, CODE, PLAN, verdict={"ours": verdict}, source="measured"))
    launched: list[Any] = []
    asked: list[Any] = []
    launch = CallPath.launch

    def launching(path: CallPath, *rest: Any) -> bool:
        launched.append(rest)
        return launch(path, *rest)

    def by_vendor(w: Any, library: str, operands: Any, *rest: Any) -> str:
        asked.append((w, operands))
        return "vendor's"

    monkeypatch.setattr(CallPath, "launch", launching)
    monkeypatch.setattr(vendor, "can", lambda w, library: True)
    monkeypatch.setattr(vendor, "run", by_vendor)
    given = example_inputs(w)
    dy, x, c = (OnGpu(given[n]) for n in ("dy", "x", "c"))
    result = gt.conv2d(dy, x, c, beta=0.5, direction="wgrad", stride=2, padding=1, size=(3, 2), out=c)
    if verdict == "faster":
        assert result is c
        assert not asked
        ((pointers, _, scalars),) = launched
        assert (list(pointers), dict(scalars)) == ([dy.address, x.address, c.address, c.address], {"beta": 0.5})
    else:
        assert (result, launched) == ("vendor's", [])
        assert asked == [(w, {"dy": dy, "x": x, "c": c})]
    dispatch.forget()


DY, W, X = (np.zeros(shape, np.float32) for shape in ((1, 4, 4, 8), (8, 3, 3, 4), (1, 8, 8, 4)))
STRIDED: dict[str, Any] = dict(stride=2, padding=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: gt.conv2d(DY, W, direction="dgrad", **STRIDED),
            r"size: is open: the image may have 7 to 8 rows and 7 to 8 columns; pass size=\(h, w\), or out=",
        ),
        (
            lambda: gt.conv2d(DY, X, direction="wgrad", **STRIDED),
            r"size: is open: the filter may have 3 to 4 rows .* pass size=\(r, s\), or out=",
        ),
        (lambda: gt.conv2d(DY, W, direction="dgrad", out=X[:, :6], **STRIDED), r"out.shape: \(6, 8\) does not fit"),
        (lambda: gt.conv2d(DY, W, direction="dgrad", padding=9), "dy and w: are of no convolution .* have no rows"),
        (lambda: gt.conv2d(DY, W, direction="dgrad", size="8"), r"size: '8' is no integer or pair \(h, w\)"),
        (
            lambda: gt.conv2d(DY, W, direction="dgrad", size=(5,)),
            r"size: \(5,\) is no .*; give size=\(h, w\), rows and",
        ),
        (lambda: gt.conv2d(DY, W, direction="dgrad", size=(9, 9)), "size: .* the image has .*; give such a size"),
        (lambda: gt.conv2d(DY, W, direction="dgrad", groups=0), "groups: 0 is not a positive integer; give 1, or a"),
        (lambda: gt.conv2d(DY, W[0], direction="dgrad"), "dy.shape, w.shape: .* are not four-dimensional"),
        (lambda: gt.conv2d(DY, W, X, direction="dgrad"), "c: is for direction='wgrad'; add by epilogue='residual'"),
        (lambda: gt.conv2d(DY, X, W[0], direction="wgrad", size=3, **STRIDED), "c.shape: "),
        (lambda: gt.conv2d(DY, X, direction="wgrad", beta=1, size=3, **STRIDED), "c: is missing"),
        (lambda: gt.conv2d(DY, X, direction="wgrad", beta=True), "beta: True is not a number"),
        (lambda: gt.conv2d(X, W, size=3), "size: 3 is for a gradient"),
        (lambda: gt.conv2d(X, W, direction="grad"), "direction: 'grad' is unknown; use one of fprop, dgrad, wgrad"),
    ],
)
def test_a_bad_call_is_one_clear_error(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        call()


def test_the_default_of_a_depthwise_layer_is_that_of_the_family_made_for_it() -> None:
    dense = {"fprop": "conv2d_igemm_wgmma", "dgrad": "conv2d_dgrad_mma", "wgrad": "conv2d_wgrad_mma"}
    depthwise = {
        "fprop": "conv2d_depthwise",
        "dgrad": "conv2d_dgrad_depthwise",
        "wgrad": "conv2d_wgrad_depthwise",
    }
    for groups, families in ((1, dense), (32, depthwise)):
        for direction, family in families.items():
            layer: dict[str, Any] = dict(padding=1, groups=groups, dtype="float32", math=("tf32",), direction=direction)
            w = Conv2d(2, 32, 14, 14, 32, 3, 3, **layer)
            assert preferred(bind(w, by_name("nvidia-h200")))[0].name == family
