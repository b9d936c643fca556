"""Measuring on a real GPU: bad kernels cost themselves, noise is as small as promised, libraries are called right."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda.device import Device
from gpu_tune.measure import finals
from gpu_tune.measure.select import make_measurer
from gpu_tune.templates.base import Template
from gpu_tune.templates.registry import registry
from gpu_tune.trial import MEASURED, Candidate
from gpu_tune.workload import Conv2d, Matmul, to_dict

pytestmark = pytest.mark.gpu
Make = Callable[..., Candidate]
WRONG = ("guard", "partial", "race", "wrong")
ENDS = {
    "none": "ok",
    "hang": "run_timeout",
    "illegal": "run_error",
    "trap": "run_error",
    **dict.fromkeys(WRONG, "wrong"),
}
ENDS |= {"shared": "launch_error", "syntax": "compile_error"}


def test_deliberately_bad_kernels_end_as_what_they_are(
    gpu: Device, templates: dict[str, Template], candidate: Make, tmp_path: Path
):
    w = Matmul(200, 180, 160, dtype="float32", ldc=184)
    with make_measurer(w, kind="gpu", templates=templates, store=tmp_path, run_limit=5.0) as m:
        futures = {f: m.submit(candidate(fault=f)) for f in ENDS}
        ends = {f: future.result(120) for f, future in futures.items()}
        assert {f: e.status for f, e in ends.items()} == ENDS, {f: e.reason for f, e in ends.items()}
        assert m.submit(candidate(rows=2)).result(60).status == "ok"


def test_a_planted_two_percent_is_found_and_an_equal_kernel_is_not_called_faster(
    gpu: Device, templates: dict[str, Template], candidate: Make, tmp_path: Path
):
    w = Matmul(512, 512, 4096, dtype="float32")
    plain, slower, equal = candidate(), candidate(fault="slower"), candidate(fault="unstable")  # unstable: a name only
    found = wins = 0
    rounds = 20
    with make_measurer(w, kind="gpu", templates=templates, store=tmp_path, baselines=()) as m:
        for _ in range(rounds):
            c = m.finals([plain, slower, equal])
            names = {x.name: x.samples for x in c.finalists}
            a, b, s = (names[x.key] for x in (plain, equal, slower))
            found += finals.compare(a, s, noise_floor=c.noise_floor).faster
            wins += finals.compare(a, b, noise_floor=c.noise_floor).decided
    assert found >= 0.9 * rounds and wins <= max(1, 0.05 * rounds)


@pytest.mark.parametrize("size, floor", [(2048, 0.005), (128, 0.015)])
def test_the_noise_floor_is_as_small_as_promised(gpu: Device, size: int, floor: float, tmp_path: Path):
    w = Matmul(size, size, size, dtype="float32")
    template = registry()["matmul_simt"]
    with make_measurer(w, kind="gpu", store=tmp_path, baselines=()) as m:
        c = m.finals([Candidate("matmul_simt", template.default(w, gpu))])
    assert c.winner is not None and c.noise_floor <= floor


def test_two_times_of_one_candidate_agree_and_say_what_they_were_taken_on(
    gpu: Device, templates: dict[str, Template], candidate: Make, tmp_path: Path
):
    w = Matmul(1024, 1024, 1024, dtype="float32")
    times = []
    for _ in range(2):
        with make_measurer(w, kind="gpu", templates=templates, store=tmp_path) as m:
            end = m.submit(candidate(rows=8)).result(60)
            times.append(end.time)
    assert end.source == MEASURED and end.environment["chip"] == gpu.chip and end.environment["cuda"]
    assert abs(times[0] / times[1] - 1) < 0.05 and end.warm_samples and np.median(end.warm_samples) <= 1.1 * end.time


LAYOUTS = ("nn", "nt", "tn", "tt")
DTYPES = ("float32", "float16", "bfloat16")
CASES: list[Any] = [Matmul(130, 96, 72, dtype=d, layout=x) for d, x in itertools.product(DTYPES, LAYOUTS)]
CASES += [
    Matmul(128, 256, 64, batch=3, dtype="float16", layout="nt", ldc=264),
    Matmul(128, 256, 64, dtype="bfloat16", layout="nt", epilogue="bias+relu"),
    Matmul(128, 256, 64, dtype="bfloat16", layout="nt", epilogue="bias+gelu"),
    Matmul(128, 256, 64, dtype="bfloat16", layout="nt", epilogue="residual+silu", alpha="any", beta="any"),
    Matmul(128, 256, 64, dtype="int8", layout="nt"),
    Matmul(128, 256, 64, dtype="int8", layout="nt", out_dtype="float16", scales="row_col"),
]


E4M3: Any = {"dtype": "float8_e4m3", "layout": "nt", "out_dtype": "bfloat16"}
EIGHT_BITS = [
    Matmul(128, 256, 512, **E4M3, scales=scales, math=math)
    for scales in ("tensor", "row_col", "block128")
    for math in ((), ("fast_accumulate",))
]


@pytest.mark.parametrize("w", EIGHT_BITS, ids=lambda w: w.key)
def test_libraries_do_float8_right_where_they_do_it(
    gpu: Device, w: Matmul, alone: Callable[..., Any], told: Callable[[str], None]
):
    if gpu.cc < 89:
        pytest.skip("needs compute capability 8.9")
    good, missing = alone("libraries", 120.0, workload=to_dict(w), names=("cublaslt",))
    told(f"{w.key}: {good or missing}")
    assert not any("wrong" in reason for reason in missing.values()), missing
    assert good or w.scales != "tensor", missing


@pytest.mark.parametrize("w", CASES, ids=lambda w: w.key)
def test_libraries_are_called_right(gpu: Device, w: Matmul, alone: Callable[..., Any]):
    good, missing = alone("libraries", 120.0, workload=to_dict(w), names=("cublas", "cublaslt"))
    assert "cublaslt" in good and not any("wrong" in reason for reason in missing.values()), missing


def test_our_kernel_and_the_libraries_are_compared_interleaved(gpu: Device, tmp_path: Path):
    w = Matmul(1024, 1024, 1024, dtype="float32")
    template = registry()["matmul_simt"]
    with make_measurer(w, kind="gpu", store=tmp_path) as m:
        c = m.finals([Candidate("matmul_simt", template.default(w, gpu))])
    assert c.winner is not None and c.verdict is not None and c.vendor in ("cublas", "cublaslt")
    assert all(len(x.samples) == c.rounds for x in c.finalists if x.ok)


def test_defaults_of_all_templates_beside_the_vendor(gpu: Device, tmp_path: Path, told: Callable[[str], None]):
    w = Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt")
    device = gpu
    defaults = {t.name: t.default(w, device) for t in registry().values() if t.supported(w, device) is True}
    candidates = [Candidate(name, config) for name, config in defaults.items() if config is not None]
    with make_measurer(w, kind="gpu", store=tmp_path) as m:
        found = m.finals(candidates)
    for x in found.finalists:
        rate = w.flops / float(np.median(x.samples)) / 1e12 if x.ok else 0.0
        name = x.candidate.template if x.candidate else x.name
        told(f"{w.key} {name}: {x.status} {rate:.0f} TFLOP/s {x.label} {x.reason}")
    told(f"noise floor {found.noise_floor:.2%}; {found.environment.get('clocks')}")
    assert found.winner is not None and found.vendor


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("direction", ["dgrad", "wgrad"])
def test_gradients_of_a_convolution_beside_the_vendor(
    gpu: Device, tmp_path: Path, told: Callable[[str], None], direction: str, stride: int
):
    w = Conv2d(32, 128, 28, 28, 128, 3, 3, stride=stride, padding=1, dtype="float16", direction=direction)
    candidates = [Candidate(t.name, t.default(w, gpu)) for t in registry().values() if t.supported(w, gpu) is True]
    with make_measurer(w, kind="gpu", store=tmp_path) as m:
        found = m.finals(candidates)
    for x in found.finalists:
        rate = w.flops / float(np.median(x.samples)) / 1e12 if x.ok else 0.0
        name = x.candidate.template if x.candidate else x.name
        told(f"{w.key} {name}: {x.status} {rate:.0f} TFLOP/s {x.label} {x.reason}")
    assert len(candidates) == 2 and all(x.ok for x in found.finalists if x.candidate)


MORE: list[Any] = [
    *(w for w in CASES if w.batch == 1 or w.dtype == "float16"),
    *(Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype=d, layout=x) for d in DTYPES for x in ("nhwc", "nchw")),
    Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype="float16", epilogue="bias+relu"),
    Conv2d(2, 64, 14, 14, 64, 3, 3, padding=(0, 1, 0, 1), stride=2, groups=2, dtype="bfloat16"),
    Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype="int8"),
    *(Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, stride=2, dtype="float16", direction=d) for d in ("dgrad", "wgrad")),
]


OTHERS = [(name, w) for name in ("cudnn", "torch") for w in MORE]
OTHERS += [("triton", w) for w in MORE[::3]]  # compiles 16 configs each time


@pytest.mark.parametrize("name, w", OTHERS, ids=lambda x: getattr(x, "key", x))
def test_what_else_is_installed_is_called_right(
    gpu: Device, name: str, w: Any, alone: Callable[..., Any], told: Callable[[str], None]
):
    module = pytest.importorskip(name, reason=f"needs {name}", exc_type=Exception)
    good, missing = alone("libraries", 300.0, workload=to_dict(w), names=(name,))
    told(f"{w.key} {module.__name__}: {good or missing}")
    assert not any("wrong" in reason or "Error" in reason for reason in missing.values()), missing
