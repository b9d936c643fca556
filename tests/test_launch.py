"""Launch plans reach the driver as written: grids, clusters, arguments, tensor maps. On the virtual GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from gpu_tune import driver, launch, nvrtc
from gpu_tune.errors import InvalidInput
from gpu_tune.measure import cuda
from gpu_tune.plan import BufferArg, Im2Col, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg

pytestmark = pytest.mark.usefixtures("fake_cuda")
MAP = TensorMapArg("b", "bfloat16", (512, 300), (1024,), (64, 128), swizzle=128, l2_promotion=256)
IM2COL = TensorMapArg("b", "float16", (64, 30, 20, 2), (128, 3840, 76800), (), swizzle=64, l2_promotion=128,
                      im2col=Im2Col((-1, -2), (0, 1), 32, 100))  # fmt: skip


SOURCE = """
struct __align__(64) Map { char bytes[128]; };
extern "C" __global__ void %s probe(void* a, int m, float alpha, unsigned long long big, const __grid_constant__ Map map) {
    %s
}
"""


@pytest.fixture(scope="module")
def cubin() -> bytes:
    return compiled()


def compiled(attributes: str = "", body: str = "") -> bytes:
    return nvrtc.to_cubin(SOURCE % (attributes, body), "sm_90a").data


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def plan(arg: TensorMapArg = MAP, **changes: object) -> LaunchPlan:
    scalars = (ScalarArg("m", "int32", -7), ScalarArg("alpha", "float32"), ScalarArg("big", "uint64", 2**40))
    step = KernelStep("probe", (8, 4, 2), (128, 1, 1), (BufferArg("a", 64), *scalars, arg), 70000, (2, 1, 1))
    return LaunchPlan((KernelStep(**{**step.__dict__, **changes}),))  # type: ignore[arg-type]


def test_the_driver_sees_grid_block_shared_memory_cluster_and_arguments(cubin: bytes, log: Path):
    program = launch.Program(cubin, plan())
    program.run({"a": 4096, "b": 8192}, scalars={"alpha": 0.5})
    words = log.read_text().split()
    assert " ".join(words[:19]) == "probe grid 8 4 2 block 128 1 1 shared 70000 cluster 2 1 1 pdl 0 stream 0"
    assert words[19:24] == ["args", "4160", "-7", "0.5", str(2**40)]


def test_a_tensor_map_is_encoded_as_the_plan_says_and_passed_by_value(cubin: bytes, log: Path):
    launch.Program(cubin, plan()).run({"a": 4096, "b": 8192}, scalars={"alpha": 0})
    words = log.read_text().split()
    fields = [int(w) for w in words[words.index("map") + 1 :]]
    assert fields[:14] == [1, 9, 2, 8192, 512, 300, 1024, 0, 1, 64, 128, 3, 3, 0]


def test_an_im2col_map_is_encoded_as_the_plan_says(cubin: bytes, log: Path):
    launch.Program(cubin, plan(IM2COL)).run({"a": 4096, "b": 8192}, scalars={"alpha": 0})
    words = log.read_text().split()
    fields = [int(w) for w in words[words.index("map") + 1 :]]
    assert fields == [2, 6, 4, 8192, 64, 30, 128, 3840, 1, 32, 100, 2, 2, 0, 2**32 - 1, 0]


def test_wide_clusters_are_allowed_and_pdl_is_set_only_where_asked(cubin: bytes, log: Path):
    program = launch.Program(cubin, plan(grid=(16, 4, 2), cluster=(16, 1, 1)))
    program.bind({"a": 4096, "b": 8192}, {"alpha": 1}, pdl=True)(0)
    assert "cluster 16 1 1 pdl 1" in log.read_text()


def test_what_is_missing_or_misaligned_is_named(cubin: bytes):
    program = launch.Program(cubin, plan())
    with pytest.raises(InvalidInput, match="buffer b: is missing"):
        program.bind({"a": 4096}, {"alpha": 1})
    with pytest.raises(InvalidInput, match="scalar alpha: is missing"):
        program.bind({"a": 4096, "b": 8192})
    with pytest.raises(InvalidInput, match=r"buffer b.*tensor map.*align its address"):
        program.bind({"a": 4096, "b": 8200}, {"alpha": 1})


def test_a_binding_is_made_once_per_set_of_addresses(cubin: bytes):
    program = launch.Program(cubin, plan())
    first = program.bind({"a": 4096, "b": 8192}, {"alpha": 1})
    assert program.bind({"b": 8192, "a": 4096}, {"alpha": 1}) is first
    assert program.bind({"a": 4096, "b": 8192}, {"alpha": 2}) is not first
    for i in range(100):
        program.bind({"a": 4096, "b": 16 * i}, {"alpha": 1})
    assert len(program._bound) == launch.KEPT


def test_memsets_run_in_order_and_a_capture_repeats_them(cubin: bytes, log: Path):
    step = KernelStep("probe", (1, 1, 1), (32, 1, 1), (BufferArg("a"), ScalarArg("m", "int32", 1),
                      ScalarArg("s", "float32", 1.0), ScalarArg("b", "uint64", 1), MAP))  # fmt: skip
    program = launch.Program(cubin, LaunchPlan((MemsetStep("out", 64, 7, offset=16), step)))
    out = cuda.allocate(128)
    cuda.upload(out, cuda.download(out, 128) * 0)
    stream = cuda.Stream()
    bound = program.bind({"a": 0, "b": 0, "out": out})
    graph = cuda.Graph(stream, bound)
    assert not cuda.download(out, 128).any(), "capturing runs nothing"
    graph.launch(stream)
    stream.synchronize()
    assert cuda.download(out, 128).tolist() == [0] * 16 + [7] * 64 + [0] * 48
    cuda.free(out)


def test_a_kernel_that_the_cubin_lacks_and_too_much_shared_memory_are_driver_errors(cubin: bytes):
    with pytest.raises(driver.DriverError) as found:
        launch.Program(cubin, plan(kernel="absent"))
    assert found.value.code == 500 and not found.value.sticky
    with pytest.raises(driver.DriverError, match="cuFuncSetAttribute"):
        launch.Program(cubin, plan(shared_bytes=300000))


def test_the_gpu_is_described_by_its_driver():
    device = launch.detect()
    assert device is not None and device.chip == "nvidia-h200-132sm-141gb" and device.cc == 90
    assert device.clock_mhz == 1980 and round(device.bandwidth / 1e9) == 4814 and device.l2_bytes == 2**20


def test_without_a_driver_there_is_no_gpu_and_calls_say_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_CUDA_NONE", "1")
    driver.library.cache_clear()
    assert driver.device_count() == 0 and launch.detect() is None
    with pytest.raises(Exception, match="no CUDA GPU can be used.*NO_DEVICE"):
        driver.call("cuCtxSynchronize")


def test_the_launch_structures_have_the_sizes_of_the_header():
    assert ctypes.sizeof(driver._LaunchConfig) == 56 and ctypes.sizeof(driver._Attribute) == 72
