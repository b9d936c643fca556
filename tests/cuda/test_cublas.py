"""cuBLASLt itself accepts our descriptions: it checks numbers and sizes of attributes without a GPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_tune.cuda import cublas
from gpu_tune.errors import Unavailable
from gpu_tune.measure.baselines import cublas as baseline_cublas
from gpu_tune.workload import Matmul

WORKLOADS = [
    Matmul(48, 80, 64, dtype="bfloat16", layout="nt", epilogue="bias+gelu_tanh"),
    Matmul(48, 80, 64, batch=3, dtype="float16", layout="tn", out_dtype="float32", beta="any", alpha="any"),
    Matmul(48, 80, 64, dtype="float32", layout="tt", epilogue="relu", math=("tf32",)),
    Matmul(48, 80, 64, dtype="int8", layout="nt", out_dtype="int32"),
    Matmul(48, 80, 64, dtype="float8_e4m3", layout="nt", out_dtype="bfloat16", scales="tensor"),
    Matmul(48, 80, 64, dtype="float8_e4m3", layout="nt", out_dtype="bfloat16", scales="row_col",
           math=("fast_accumulate",)),
    Matmul(48, 80, 64, dtype="float8_e5m2", layout="nt", out_dtype="float8_e4m3", scales="tensor"),
]  # fmt: skip
NEEDS_GPU = ("cublasLtCreate", "cublasLtDestroy", "cublasLtMatmulAlgoGetHeuristic")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    for name in ("GPU_TUNE_CUBLASLT", "GPU_TUNE_CUBLAS"):
        monkeypatch.delenv(name, raising=False)
    cublas.load.cache_clear()
    try:
        cublas.load("cublasLt")
    except Unavailable as missing:
        pytest.skip(str(missing))
    names: list[str] = []
    real: Callable[..., None] = cublas.call

    def call(stem: str, name: str, *arguments: Any) -> None:
        names.append(name)
        if name not in NEEDS_GPU:
            real(stem, name, *arguments)

    monkeypatch.setattr(cublas, "call", call)
    yield names
    cublas.load.cache_clear()


@pytest.mark.parametrize("w", WORKLOADS, ids=lambda w: w.key)
def test_every_attribute_is_one_that_the_library_knows_in_that_size(asked: list[str], w: Matmul):
    buffers = {n: 4096 * (i + 1) for i, n in enumerate(w.arrays())}
    session: Any = SimpleNamespace(data=SimpleNamespace(verify=buffers, timing=[buffers]), owned=ExitStack())
    found = baseline_cublas.lt_calls(session, w, 4096)
    assert found == []  # no GPU, no algorithms; a refusal would raise BlasError
    assert {"cublasLtMatmulDescSetAttribute", "cublasLtMatrixLayoutCreate"} <= set(asked)
    assert asked.count("cublasLtMatmulPreferenceSetAttribute") >= 6 and "cublasLtMatmulAlgoGetHeuristic" in asked
    assert ("cublasLtMatrixLayoutSetAttribute" in asked) == (w.batch > 1)


def test_both_libraries_have_every_function_that_is_called(asked: list[str]):
    text = Path(cublas.__file__).read_text()
    for stem, prefix in (("cublasLt", "cublasLt"), ("cublas", "cublas(?!Lt)")):
        names = set(re.findall(rf"\b({prefix}[A-Z]\w+)(?=[\"(])", text))
        assert names and not [n for n in names if not hasattr(cublas.load(stem), n)]


def test_a_wrong_size_is_refused_by_the_library(asked: list[str]):
    made = cublas.Gemm(cublas.COMPUTE["fp32"], cublas.TYPES["float32"])
    with pytest.raises(cublas.BlasError, match="SetAttribute failed with status 7"):
        made.set("transa", ctypes.c_int64(1))
