"""PyTorch as a baseline: the right call on the right views of our memory, bound to what the workload permits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from gpu_tune.workload import Conv2d, Matmul
from tests.helpers import fake_torch

Prepare = Callable[[Any, str], tuple[list[Any], dict[str, str]]]


@pytest.fixture(params=["stand-in", "torch"])
def torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in in NumPy, and the real PyTorch on host memory where it is installed."""
    made = fake_torch.module() if request.param == "stand-in" else fake_torch.on_host(pytest.importorskip("torch"))
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


F8: dict[str, Any] = {"dtype": "float8_e4m3", "layout": "nt", "out_dtype": "bfloat16"}
MATMULS = [
    *(Matmul(24, 40, 32, dtype="float32", layout=layout) for layout in ("nn", "nt", "tn", "tt")),
    Matmul(24, 40, 32, dtype="float16", lda=36, ldb=44, ldc=48),
    Matmul(24, 40, 32, batch=3, dtype="bfloat16", layout="nt"),
    Matmul(24, 40, 32, dtype="float32", alpha="any", beta="any"),
    Matmul(24, 40, 32, batch=2, dtype="float32", alpha="any", beta="1"),
    Matmul(24, 40, 32, dtype="float16", epilogue="bias", layout="nt"),
    Matmul(24, 40, 32, dtype="float32", epilogue="bias+relu", layout="nt"),
    Matmul(32, 48, 64, **F8),
    Matmul(32, 48, 64, **F8, scales="tensor"),
    Matmul(32, 48, 64, **F8, scales="tensor", epilogue="bias"),
    Matmul(32, 48, 64, dtype="int8", layout="nt"),
]
CONVOLUTIONS = [
    Conv2d(2, 8, 9, 7, 16, 3, 3, padding=1, dtype="float32"),
    Conv2d(2, 8, 9, 7, 16, 3, 3, padding=1, stride=2, dtype="float16", layout="nchw"),
    Conv2d(1, 8, 9, 7, 16, 3, 2, padding=(0, 1, 1, 0), dilation=(1, 2), groups=2, dtype="bfloat16"),
    Conv2d(1, 8, 9, 7, 16, 3, 3, dtype="float32", epilogue="bias"),
    Conv2d(2, 8, 9, 7, 16, 3, 3, padding=1, stride=2, dtype="float32", direction="dgrad"),
    Conv2d(1, 8, 9, 7, 16, 3, 2, padding=(0, 1, 1, 0), groups=2, dtype="float32", layout="nchw", direction="dgrad"),
    Conv2d(1, 8, 9, 7, 16, 3, 2, padding=(0, 1, 1, 0), dilation=(1, 2), dtype="float32", direction="wgrad"),
]


@pytest.mark.parametrize("w", [*MATMULS, *CONVOLUTIONS], ids=lambda w: w.key)
def test_pytorch_computes_the_workload_on_our_memory(torch: Any, prepared: Prepare, w: Any):
    good, missing = prepared(w, "torch")
    assert [b.name for b in good] == ["torch"] and not missing, missing
    assert "PyTorch" in good[0].label and "elementwise" not in good[0].label


def test_the_fused_calls_are_tried(prepared: Prepare, monkeypatch: pytest.MonkeyPatch):
    made = fake_torch.module()
    monkeypatch.setitem(sys.modules, "torch", made)
    good, missing = prepared(Matmul(24, 40, 32, dtype="float16", epilogue="bias+gelu_tanh", layout="nt"), "torch")
    assert len(good) == 1 and "_addmm_activation (bias+gelu_tanh)" in good[0].label, missing
    good, missing = prepared(Conv2d(1, 8, 9, 7, 16, 3, 3, padding=1, dtype="float16", epilogue="bias+relu"), "torch")
    assert len(good) == 1 and "cudnn_convolution_relu" in good[0].label, missing
    good, missing = prepared(Matmul(32, 48, 64, **F8, scales="row_col", epilogue="bias"), "torch")
    assert len(good) == 1 and "_scaled_mm with fused bias" in good[0].label, missing


def test_permissions_bind_pytorch_and_its_switches_are_put_back(prepared: Prepare, monkeypatch: pytest.MonkeyPatch):
    for math, tf32, narrow in (((), False, False), (("tf32",), True, False)):
        made = fake_torch.module()
        monkeypatch.setitem(sys.modules, "torch", made)
        prepared(Matmul(24, 40, 32, dtype="float32", math=math), "torch")
        prepared(Conv2d(1, 8, 9, 7, 16, 3, 3, dtype="float32", math=math), "torch")
        assert {name for name, _ in made.calls} == {"matmul", "conv2d"}
        for _, flags in made.calls:
            assert flags["precision"] == ("high" if tf32 else "highest") and flags["allow_tf32"] == tf32
            assert flags["benchmark"] and flags["deterministic"]
            assert flags["allow_fp16_reduced_precision_reduction"] == narrow
        assert made.backends.cuda.matmul.allow_fp16_reduced_precision_reduction, "as it was before"
    made = fake_torch.module()
    monkeypatch.setitem(sys.modules, "torch", made)
    prepared(Matmul(24, 40, 32, dtype="float16", math=("fp16_accumulate",)), "torch")
    assert all(flags["allow_fp16_accumulation"] for _, flags in made.calls) and made.calls


def test_a_wrong_result_does_not_compete(prepared: Prepare, monkeypatch: pytest.MonkeyPatch):
    made = fake_torch.module()
    exact = made.matmul

    def doubled(a: Any, b: Any, *, out: Any) -> Any:
        exact(a, b, out=out).copy_(fake_torch.Tensor(out.array * 2))
        return out

    made.matmul = doubled
    monkeypatch.setitem(sys.modules, "torch", made)
    good, missing = prepared(Matmul(24, 40, 32, dtype="float32"), "torch")
    assert not good and "its result is wrong" in missing["torch"]


def test_what_is_missing_is_said(prepared: Prepare, monkeypatch: pytest.MonkeyPatch):
    w = Matmul(24, 40, 32, dtype="float32")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "PyTorch is not installed" in prepared(w, "torch")[1]["torch"]
    made = fake_torch.module()
    made.cuda.is_available = lambda: False
    monkeypatch.setitem(sys.modules, "torch", made)
    assert "sees no GPU" in prepared(w, "torch")[1]["torch"]
    made.cuda.is_available = lambda: True
    assert "block scales" in prepared(Matmul(32, 48, 256, **F8, scales="block128"), "torch")[1]["torch"]
    assert "in no way" in prepared(Conv2d(1, 8, 9, 7, 16, 3, 3, dtype="int8"), "torch")[1]["torch"]
