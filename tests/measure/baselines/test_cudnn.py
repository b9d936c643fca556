"""cuDNN as a baseline: its graphs say what the workload says, and plans beyond what is permitted do not run."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gpu_tune.measure.baselines.unfused_epilogue import as_matmul
from gpu_tune.reference import example_inputs, reference
from gpu_tune.workload import Conv2d
from tests.helpers import fake_cudnn

STRICT: list[tuple[str, tuple[str, ...]]] = [("eng0", ()), ("eng1", ())]


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(plans: list[tuple[str, tuple[str, ...]]] = STRICT, fuses: bool = True) -> Any:
        made = fake_cudnn.module(plans, fuses)
        monkeypatch.setitem(sys.modules, "cudnn", made)
        return made

    return use


CASES = [
    Conv2d(2, 8, 9, 7, 16, 3, 3, padding=1, dtype="float32"),
    Conv2d(2, 8, 9, 7, 16, 3, 3, padding=1, stride=2, dtype="float16", layout="nchw", epilogue="bias+relu"),
    Conv2d(1, 8, 9, 7, 16, 3, 2, padding=(0, 1, 1, 0), dilation=(1, 2), groups=2, dtype="bfloat16"),
    Conv2d(1, 8, 9, 7, 16, 3, 3, dtype="float32", epilogue="scale+bias+residual+silu"),
    Conv2d(1, 8, 9, 7, 16, 3, 3, dtype="float16", epilogue="clamp(-1,6)"),
    Conv2d(1, 16, 9, 7, 16, 3, 3, dtype="int8"),
    Conv2d(1, 16, 9, 7, 16, 3, 3, dtype="int8", scales="row_col", out_dtype="float16", epilogue="bias+gelu_tanh"),
    Conv2d(1, 16, 9, 7, 16, 3, 3, dtype="float8_e4m3", scales="tensor", out_dtype="float16"),
    Conv2d(1, 8, 9, 7, 16, 3, 3, padding=(0, 1, 1, 0), stride=2, dtype="float16", direction="dgrad", epilogue="bias"),
    Conv2d(2, 8, 9, 7, 16, 3, 2, padding=1, groups=2, dtype="float32", layout="nchw", direction="wgrad"),
]


@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_the_graph_computes_the_workload(cudnn: Any, prepared: Any, w: Conv2d):
    cudnn()
    good, missing = prepared(w, "cudnn")
    assert [b.name for b in good] == ["cudnn", "cudnn-first"] and not missing, missing
    assert "fastest of 2" in good[0].label or "elementwise" not in good[0].label
    assert "eng0" in good[1].label and "first by its heuristic" in good[1].label


NOTED: list[tuple[str, tuple[str, ...]]] = [
    ("tensor cores", ("TENSOR_CORE",)), ("half inputs", ("DOWN_CONVERT_INPUTS",)), ("fourier", ("FFT",)),
    ("winograd", ("WINOGRAD",)), ("winograd4", ("WINOGRAD_TILE_4x4",)), ("half sums", ("REDUCED_PRECISION_REDUCTION",)),
    ("racy", ("NONDETERMINISTIC",)), ("strict", ()),
]  # fmt: skip


@pytest.mark.parametrize(
    "more, runs",
    [
        ({"dtype": "float32"}, {"strict"}),
        ({"dtype": "float32", "math": ("tf32",)}, {"strict", "tensor cores"}),
        ({"dtype": "float16"}, {"strict", "tensor cores"}),
        ({"dtype": "float16", "math": ("winograd",)}, {"strict", "tensor cores", "winograd", "winograd4"}),
        ({"dtype": "float16", "math": ("fp16_accumulate",)}, {"strict", "tensor cores", "half sums"}),
        ({"dtype": "float16", "deterministic": False}, {"strict", "tensor cores", "racy"}),
    ],
)
def test_plans_run_only_as_permitted(cudnn: Any, prepared: Any, more: dict[str, Any], runs: set[str]):
    made = cudnn(NOTED)
    prepared(Conv2d(1, 8, 9, 7, 16, 3, 3, **more), "cudnn")
    assert set(made.world.ran) == runs


def test_a_fusion_that_no_engine_has_is_finished_by_a_kernel_of_ours(cudnn: Any, prepared: Any):
    made = cudnn(fuses=False)
    w = Conv2d(1, 8, 9, 7, 16, 3, 3, dtype="float16", epilogue="bias+relu")
    _, missing = prepared(w, "cudnn")
    assert made.world.ran, "the plain convolution ran"
    # the virtual GPU does not run the elementwise kernel: the product comes out without its epilogue
    assert "its result is wrong" in missing["cudnn"]


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_convolutions_output_is_finished_as_that_of_a_matmul(layout: str):
    w = Conv2d(2, 8, 5, 4, 16, 1, 1, dtype="float32", layout=layout, epilogue="bias+residual+relu")
    m, arrays = as_matmul(w), example_inputs(w)
    x, f = arrays["x"].reshape((-1, 8) if layout == "nhwc" else (2, 8, 20)), arrays["w"].reshape(16, 8)
    shapes = {n: s.shape for n, s in m.arrays().items()}
    product = x @ f.T if layout == "nhwc" else f @ x
    bias = arrays["bias"] if layout == "nhwc" else arrays["bias"][:, None]
    assert shapes["out"] == product.shape and shapes["residual"] == product.shape
    assert ("row_bias" in shapes) == (layout == "nchw")
    finished = (product + bias + arrays["residual"].reshape(product.shape)).clip(0)
    assert abs(finished.reshape(-1) - reference(w, arrays).reshape(-1)).max() < 1e-4


def test_what_is_missing_is_said(cudnn: Any, prepared: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert "gpu_tune[baselines]" in prepared(CASES[0], "cudnn")[1]["cudnn"]
    cudnn([("racy", ("NONDETERMINISTIC",))])
    assert "has no plan" in prepared(CASES[0], "cudnn")[1]["cudnn"]
