"""What the worker asks of CuPy. Here on the stand-in for it; ``tests/gpu/test_1_runtime.py`` runs the same on CuPy.

A test takes ``started``: a context is current. It may not rely on more than is true on both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_tune.cuda import driver, nvrtc
from gpu_tune.cuda.launch import Program
from gpu_tune.errors import MeasureError
from gpu_tune.measure import reference_products, runtime
from gpu_tune.reference import NUMPY, example_inputs, products, reference
from gpu_tune.reference.inputs import rounded
from gpu_tune.templates.base import render
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers import toy
from tests.helpers.winners import toy_template

W = Matmul(20, 18, 16, dtype="float32")


@pytest.fixture
def started(fake_cuda: Path) -> None:
    runtime.start(0)


@pytest.mark.parametrize("size", [1, 4097, 65536, 65537, 3 << 20])
def test_bytes_come_back_as_they_went(started: None, size: int):
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    one, two = runtime.allocate(size), runtime.allocate(size)
    assert one % 256 == two % 256 == 0
    runtime.upload(one, data)
    runtime.copy(two, one, size)
    stream = runtime.new_stream()
    driver.memset(one, 0xA5, size, stream.ptr)
    stream.synchronize()
    assert (runtime.download(two, size) == data).all() and (runtime.download(one, size) == 0xA5).all()
    for address in (one, two):
        runtime.free(address)
    assert runtime.download(0, 0).size == 0


def test_what_is_given_back_is_free_for_other_libraries(started: None):
    before = runtime.free_bytes()
    address = runtime.allocate(64 << 20)
    assert runtime.free_bytes() <= before - (64 << 20)
    runtime.free(address)
    assert runtime.free_bytes() >= before


def test_too_much_memory_is_an_error_that_costs_nothing(started: None):
    with pytest.raises(driver.DriverError, match=r"cuMemAlloc failed.*free GPU memory") as found:
        runtime.allocate(1 << 50)
    assert found.value.code == driver.OUT_OF_MEMORY and not runtime.is_fatal(found.value)
    runtime.free(runtime.allocate(64))


def test_events_time_what_is_between_them(started: None):
    stream, size = runtime.new_stream(), 64 << 20
    address, timer = runtime.allocate(size), runtime.timer(stream)
    timer(lambda on: driver.memset(address, 0, size, on))
    once = min(timer(lambda on: driver.memset(address, 1, size, on)) for _ in range(5))
    four = min(timer(lambda on: [driver.memset(address, 2, size, on) for _ in range(4)]) for _ in range(5))
    assert 1e-7 < once < 0.1 and 2 * once < four < 8 * once
    runtime.free(address)


def test_a_capture_runs_nothing_and_its_graph_repeats_it(started: None):
    stream, address = runtime.new_stream(), runtime.allocate(64)
    runtime.upload(address, np.zeros(64, np.uint8))
    graph = runtime.capture(stream, lambda on: driver.memset(address, 3, 32, on))
    stream.synchronize()
    assert not runtime.download(address, 64).any()
    graph.launch(stream)
    stream.synchronize()
    assert runtime.download(address, 64).tolist() == [3] * 32 + [0] * 32
    runtime.free(address)


def test_an_error_inside_a_capture_is_reported_as_itself_and_leaves_the_stream_usable(started: None):
    stream, address = runtime.new_stream(), runtime.allocate(64)
    with pytest.raises(ZeroDivisionError):
        runtime.capture(stream, lambda on: 1 // 0)
    with pytest.raises(driver.DriverError):
        runtime.capture(stream, lambda on: driver.call("cuMemAlloc", 64))
    runtime.capture(stream, lambda on: driver.memset(address, 7, 64, on)).launch(stream)
    stream.synchronize()
    assert (runtime.download(address, 64) == 7).all()
    runtime.free(address)


def program() -> Program:
    device, config = driver.describe(), toy.config()
    source = render(toy_template(), config, W, device)
    return Program(nvrtc.to_cubin(source, device.arch).data, toy.plan(config, W, device), runtime.Module)


def test_a_module_of_cupys_runs_a_launch_plan(started: None):
    given, stream = example_inputs(W, 0), runtime.new_stream()
    arrays = {"a": given["a"], "b": given["b"], "out": np.zeros((20, 18), np.float32)}
    at = {name: runtime.allocate(array.nbytes) for name, array in arrays.items()}
    for name, array in arrays.items():
        runtime.upload(at[name], array)
    made = program()
    made.run(at, stream.ptr)
    stream.synchronize()
    out = runtime.download(at["out"], arrays["out"].nbytes).view(np.float32).reshape(20, 18)
    np.testing.assert_allclose(out, reference(W, given), rtol=1e-5, atol=1e-5)
    made.unload()
    for address in at.values():
        runtime.free(address)


def test_what_is_no_module_and_no_kernel_is_the_drivers_error(started: None):
    with pytest.raises(driver.DriverError, match="cuModuleLoadData failed"):
        runtime.Module(b"\x7fELF of nothing" + bytes(64))
    module = runtime.Module(nvrtc.to_cubin('extern "C" __global__ void k() {}', driver.describe().arch).data)
    with pytest.raises(driver.DriverError, match=r"cuModuleGetFunction failed: .*NOT_FOUND") as found:
        module.kernel("absent")
    assert found.value.code == 500 and not found.value.sticky
    assert int(module.kernel("k", 60000)) != 0
    with pytest.raises(driver.DriverError, match="cuFuncSetAttribute"):
        module.kernel("k", 1 << 20)
    runtime.free(runtime.allocate(64))


def test_views_compare_element_by_element_over_gaps(started: None):
    first, second = (np.arange(24, dtype=np.uint16) for _ in range(2))
    second[[0, 5, 7, 13]] += 1  # 5 and 11 of each row of six are a gap here
    at = [runtime.allocate(first.nbytes) for _ in range(2)]
    for address, array in zip(at, (first, second)):
        runtime.upload(address, array)
    a, b = (runtime.view(address, (4, 5), np.uint16, (12, 2)) for address in at)
    assert int((a != b).sum()) == 3
    for address in at:
        runtime.free(address)


@pytest.mark.parametrize("workload", [
    Matmul(9, 10, 8, batch=2, dtype="bfloat16", layout="nt"),
    Matmul(9, 8, 16, dtype="int8", out_dtype="float16", layout="nt", scales="row_col"),
    Conv2d(2, 8, 9, 9, 16, 3, 3, padding=1, stride=2, dtype="float16", layout="nhwc"),
    Conv2d(2, 8, 9, 9, 16, 3, 3, groups=2, dtype="float32", layout="nchw"),
], ids=lambda w: w.key)  # fmt: skip
def test_reference_products_are_numpys(started: None, workload: Matmul | Conv2d):
    arrays = example_inputs(workload, 3)
    for found, expected in zip(runtime.wide_products(workload, arrays), products(workload, arrays)):
        assert type(found) is np.ndarray and found.dtype == np.float64 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "float8_e4m3", "float8_e5m2"])
def test_large_inputs_are_drawn_on_the_device_and_depend_on_the_seed(started: None, dtype: str, monkeypatch):
    monkeypatch.setattr("gpu_tune.reference.inputs._LARGE", 4096)
    asked: list[tuple[int, ...]] = []
    drawing = runtime.draw
    monkeypatch.setattr(runtime, "draw", lambda *given: asked.append(given[2]) or drawing(*given))
    workload = Matmul(128, 96, 64, dtype=dtype, layout="nt")
    first, again, other = (reference_products.large_inputs(workload, seed) for seed in (1, 1, 2))
    assert asked[:2] == [(128, 64), (96, 64)]
    for name in "ab":
        assert first[name].dtype == NUMPY[dtype]
        values = first[name].astype(np.float64)
        assert (values == again[name].astype(np.float64)).all() and (values != other[name].astype(np.float64)).any()
        spread = 73.3 if dtype == "int8" else 1.0
        assert abs(values.mean()) < 0.05 * spread and 0.9 < values.std() / spread < 1.1


def test_rounding_to_bfloat16_by_hand_is_the_librarys():
    values = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    found = rounded(values, NUMPY["bfloat16"]).view(NUMPY["bfloat16"])
    assert (found == values.astype(NUMPY["bfloat16"])).all()


def test_other_errors_are_not_the_drivers(started: None):
    assert runtime.driver_error(ValueError("x")) is None and not runtime.is_fatal(ValueError("x"))
    with pytest.raises(ValueError, match="x"), runtime.reporting("anything"):
        raise ValueError("x")


def test_a_gpu_host_without_cupy_gets_one_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    runtime.cupy.cache_clear()
    with pytest.raises(MeasureError, match=r"CuPy is not installed .*pip install gpu_tune\[cuda13\]"):
        runtime.cupy()
