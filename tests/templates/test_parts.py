"""The device library by itself: conversions of every storage type on old and new chips."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from gpu_tune.reference import NUMPY, cast
from gpu_tune.templates import base

pytestmark = pytest.mark.skipif(
    not nvrtc.available() or not emulator.available(), reason="NVRTC or a C++ compiler is not installed"
)
SMALL_FLOATS = ("float16", "bfloat16", "float8_e4m3", "float8_e5m2")
CHIPS = ("nvidia-t4", "nvidia-a100", "nvidia-rtx-4090", "nvidia-h200")  # sm_80 brings bf16, sm_89 fp8 conversions
SOURCE = """{% import "parts/common/numeric.cuh.j2" as numeric %}
{% set t = numeric.ctype(dtype) %}
{{ numeric.functions(device, [dtype], [dtype]) }}
{% set per = numeric.per_word(dtype) | int %}
extern "C" __global__ void widen(const {{ t }}* x, float* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    out[i] = {{ numeric.to_float(dtype, "x[i]") }};
}
extern "C" __global__ void narrow(const float* x, {{ t }}* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    out[i] = {{ numeric.from_float(dtype, "x[i]") }};
}
extern "C" __global__ void words(const float* x, unsigned* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    const float* v = x + {{ per }} * i;
    out[i] = {{ numeric.pack(dtype, names) }};
}
extern "C" __global__ void parts(const unsigned* x, float* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    const unsigned word = x[i];
{% for e in range(per) %}
    out[{{ per }} * i + {{ e }}] = {{ numeric.unpack(dtype, "word", e) }};
{% endfor %}
}
"""


@functools.cache
def source(dtype: str, chip: str) -> str:
    names = [f"v[{e}]" for e in range(4 // NUMPY[dtype].itemsize)]
    template = base._environment(base.FOLDER).from_string(SOURCE)
    return str(template.render(dtype=dtype, device=by_name(chip), names=names))


def run(kernel: str, dtype: str, chip: str, x: np.ndarray, out: np.ndarray, threads: int) -> np.ndarray:
    plan = LaunchPlan((KernelStep(kernel, (threads // 256, 1, 1), (256, 1, 1), (BufferArg("x"), BufferArg("out"))),))
    report = emulator.run_plan(source(dtype, chip), plan, {"x": x, "out": out}, arch=by_name(chip).arch)
    assert report.ok, report.findings
    result: np.ndarray = report.arrays["out"]
    return result


def every_value(dtype: str) -> np.ndarray:
    unsigned: Any = np.uint8 if NUMPY[dtype].itemsize == 1 else np.uint16
    return np.arange(256 ** NUMPY[dtype].itemsize, dtype=np.uint32).astype(unsigned).view(NUMPY[dtype])


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [*SMALL_FLOATS, "int8"])
def test_every_stored_value_becomes_its_float(dtype: str, chip: str) -> None:
    values = every_value(dtype)
    expected = values.astype(np.float32)
    one_by_one = run("widen", dtype, chip, values, np.zeros(values.size, np.float32), values.size)
    np.testing.assert_array_equal(one_by_one, expected)
    many = np.tile(values, 4)
    words = many.view(np.uint32)
    by_word = run("parts", dtype, chip, words, np.zeros(many.size, np.float32), words.size)
    np.testing.assert_array_equal(by_word, np.tile(expected, 4))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [*SMALL_FLOATS, "int8"])
def test_floats_round_to_nearest_even_and_saturate(dtype: str, chip: str) -> None:
    """Values, midpoints between neighbours, their surroundings, overflow, infinities and NaN."""
    values = every_value(dtype).astype(np.float32)
    finite = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middles = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    edges = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 500.0, 464.0, 465.0, 61440.0, 1e-30, 0.0], np.float32)
    near = np.concatenate([np.nextafter(middles, np.float32(s)) for s in (np.inf, -np.inf)])
    x = np.concatenate([finite.astype(np.float32), middles, near, edges])[:: 1 if len(finite) < 300 else 37]
    x = np.concatenate([x, edges, np.zeros(-(len(x) + len(edges)) % 1024, np.float32)])
    expected = cast(x.astype(np.float64), dtype)
    words = x.size * NUMPY[dtype].itemsize // 4
    packed = run("words", dtype, chip, x, np.zeros(words, np.uint32), words).view(NUMPY[dtype])
    single = run("narrow", dtype, chip, x, np.zeros(x.size, NUMPY[dtype]), x.size)
    for found in (single, packed):
        np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
