"""Launch plans reach the driver as written: grids, clusters, arguments, tensor maps. On the virtual GPU."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from gpu_tune.cuda import driver, launch, memory, nvrtc
from gpu_tune.errors import CorruptData, InvalidInput, MeasureError
from gpu_tune.plan import BufferArg, Im2Col, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg
from tests.helpers import device_memory as cuda_memory

pytestmark = pytest.mark.usefixtures("fake_cuda")
MAP = TensorMapArg("b", "bfloat16", (512, 300), (1024,), (64, 128), swizzle=128, l2_promotion=256)
IM2COL = TensorMapArg("b", "float16", (64, 30, 20, 2), (128, 3840, 76800), (), swizzle=64, l2_promotion=128,
                      im2col=Im2Col((-1, -2), (0, 1), 32, 100))  # fmt: skip


SOURCE = """
struct __align__(64) Map { char bytes[128]; };
extern "C" __global__ void %s
probe(void* a, int m, float alpha, unsigned long long big, const __grid_constant__ Map map) {
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
    out = cuda_memory.allocate(128)
    cuda_memory.upload(out, cuda_memory.download(out, 128) * 0)
    stream = cuda_memory.Stream()
    bound = program.bind({"a": 0, "b": 0, "out": out})
    graph = cuda_memory.Graph(stream, bound)
    assert not cuda_memory.download(out, 128).any(), "capturing runs nothing"
    graph.launch(stream)
    stream.synchronize()
    assert cuda_memory.download(out, 128).tolist() == [0] * 16 + [7] * 64 + [0] * 48
    cuda_memory.free(out)


def test_a_kernel_that_the_cubin_lacks_and_too_much_shared_memory_are_driver_errors(cubin: bytes):
    with pytest.raises(driver.DriverError) as found:
        launch.Program(cubin, plan(kernel="absent"))
    assert found.value.code == 500 and not found.value.sticky
    with pytest.raises(driver.DriverError, match="cuFuncSetAttribute"):
        launch.Program(cubin, plan(shared_bytes=300000))


def test_the_gpu_is_described_by_its_driver():
    device = driver.detect_device()
    assert device is not None and device.chip == "nvidia-h200-132sm-141gb" and device.cc == 90
    assert device.clock_mhz == 1980 and round(device.bandwidth / 1e9) == 4814 and device.l2_bytes == 2**20


def test_without_a_driver_there_is_no_gpu_and_calls_say_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_CUDA_NONE", "1")
    driver.library.cache_clear()
    assert driver.device_count() == 0 and driver.detect_device() is None
    with pytest.raises(Exception, match=r"no CUDA GPU can be used.*NO_DEVICE.*CUDA_VISIBLE_DEVICES"):
        driver.call("cuCtxSynchronize")


def refused(cubin: bytes, **changes: object) -> str:
    with pytest.raises(driver.DriverError) as found:
        launch.Program(cubin, plan(**changes)).run({"a": 4096, "b": 8192}, scalars={"alpha": 1})  # type: ignore[arg-type]
    return found.value.name


def test_a_launch_must_agree_with_what_is_compiled_in(cubin: bytes, log: Path):
    fixed = compiled(
        "__cluster_dims__(4, 1, 1) __launch_bounds__(128)",
        "__shared__ int s[12000]; s[m] = m; __syncthreads(); *(int*)a = s[0];",
    )
    assert refused(fixed) == "CUDA_ERROR_INVALID_CLUSTER_SIZE"
    assert refused(fixed, cluster=(4, 1, 1), block=(256, 1, 1)) == "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"
    assert refused(fixed, cluster=(4, 1, 1), shared_bytes=200_000) == "CUDA_ERROR_INVALID_VALUE"  # with 48000 static
    launch.Program(fixed, plan(cluster=(4, 1, 1), shared_bytes=180_000)).run(
        {"a": 4096, "b": 8192}, scalars={"alpha": 1}
    )
    assert "cluster 4 1 1" in log.read_text()


def test_a_kernel_of_several_steps_is_allowed_the_most_that_any_needs(cubin: bytes, log: Path):
    steps = [plan(shared_bytes=n, cluster=c).steps[0] for n, c in ((200_000, (1, 1, 1)), (0, (1, 1, 1)))]
    steps.append(plan(grid=(16, 1, 1), cluster=(16, 1, 1), shared_bytes=60_000).steps[0])
    launch.Program(cubin, LaunchPlan(tuple(steps))).run({"a": 4096, "b": 8192}, scalars={"alpha": 1})
    assert [line.split()[10] for line in log.read_text().splitlines()] == ["200000", "0", "60000"]


def test_programmatic_dependent_launch_is_for_single_kernels_that_share_nothing(cubin: bytes, log: Path):
    step = plan().steps[0]
    for made in (LaunchPlan((step, step)), LaunchPlan((step,), workspace_bytes=64)):
        launch.Program(cubin, made).bind({"a": 4096, "b": 8192}, {"alpha": 1}, pdl=True)(0)
    assert "pdl 0" in log.read_text() and "pdl 1" not in log.read_text()


def test_a_cubin_of_another_architecture_says_what_to_do():
    other = nvrtc.to_cubin('extern "C" __global__ void probe() {}', "sm_80").data
    with pytest.raises(driver.DriverError, match=r"NO_BINARY_FOR_GPU.*tune or load the workload on this one"):
        driver.use_context()
        driver.Module(other)


def test_what_a_capture_forbids_is_reported_as_itself_and_leaves_the_stream_usable():
    driver.use_context()
    stream = cuda_memory.Stream()
    with pytest.raises(driver.DriverError, match=r"cuMemAlloc .*CAPTURE_UNSUPPORTED"):
        cuda_memory.Graph(stream, lambda s: cuda_memory.allocate(64))
    memory = cuda_memory.allocate(64)
    cuda_memory.Graph(stream, lambda s: driver.memset(memory, 3, 64, s)).launch(stream)
    stream.synchronize()
    assert (cuda_memory.download(memory, 64) == 3).all()
    cuda_memory.free(memory)


def test_the_context_of_a_thread_that_has_none_is_the_gpus_own():
    found: list[object] = []

    def work() -> None:
        try:
            with pytest.raises(driver.DriverError, match="INVALID_CONTEXT"):
                cuda_memory.allocate(64)
            with memory.on_device(0):
                cuda_memory.free(cuda_memory.allocate(64))
            found.append(memory.on_device)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [memory.on_device]


def test_a_driver_without_a_function_is_too_old_and_a_busy_gpu_says_why(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MeasureError, match=r"no cuFromTheFuture \(it supports CUDA 13\.0\); update it"):
        driver.call("cuFromTheFuture")
    monkeypatch.setenv("FAKE_CUDA_BUSY", "1")
    driver.primary_context.cache_clear()
    with pytest.raises(driver.DriverError, match=r"DEVICE_UNAVAILABLE.*exclusive-process"):
        driver.use_context(0)


def test_a_plan_that_passes_other_arguments_than_the_kernel_takes_is_refused(cubin: bytes):
    step = plan().steps[0]
    assert isinstance(step, KernelStep)
    for args in (step.args[:-1], (*step.args, BufferArg("out")), (ScalarArg("m", "int32", 1), *step.args[1:])):
        with pytest.raises(CorruptData, match=r"kernel probe takes arguments of \[8, 4, 4, 8, 128\] bytes.*tune again"):
            launch.Program(cubin, plan(args=args))


def test_one_prepared_launch_serves_many_streams_and_threads(cubin: bytes, log: Path):
    driver.use_context()
    bound = launch.Program(cubin, plan()).bind({"a": 4096, "b": 8192}, {"alpha": 1})
    streams = [cuda_memory.Stream() for _ in range(70)]  # more than a launch keeps configurations for
    for stream in (*streams, streams[0]):
        bound(stream.handle)
    bound(0)
    assert [line.split()[18] for line in log.read_text().splitlines()] == ["1"] * 71 + ["0"]


def test_a_gpu_host_without_the_bindings_gets_one_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for cached in (driver.bindings, driver.library):
        cached.cache_clear()
    with pytest.raises(MeasureError, match=r"CUDA bindings are not installed .*pip install gpu_tune\[cuda13\]"):
        driver.device_count()
    driver.bindings.cache_clear()
