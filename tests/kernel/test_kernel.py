"""Calling a tuned kernel: what is checked, what runs, on the emulator and on the virtual GPU."""

from __future__ import annotations

import io
import sys
import threading
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest

from gpu_tune.cuda import driver, nvrtc
from gpu_tune.errors import InvalidInput, MeasureError
from gpu_tune.kernel import emit
from gpu_tune.kernel.kernel import EmulatedResult, TunedKernel
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg
from gpu_tune.reference import allocate, example_inputs, reference
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers import device_memory as memory
from tests.helpers.on_gpu import OnGpu
from tests.helpers.winners import toy_winner_for, winner

SMALL = Matmul(20, 18, 16, dtype="float32")
GENERAL = """
extern "C" __global__ void general(
    const float* a, const float* b, const float* c, float* out, int* ticket, float alpha, float beta)
{
    const int i = threadIdx.x;
    float sum = 0;
    for (int k = 0; k < 4; ++k) sum += a[k] * b[k * 32 + i];
    const float old = beta != 0 ? beta * c[i] : 0;
    out[i] = alpha * sum + old;
    if (i == 0) ticket[0] = 0;
}
"""


@pytest.fixture(scope="session")
def toy_winner():
    return lambda workload=SMALL, **changes: toy_winner_for(workload, **changes)


@pytest.fixture(scope="session")
def general():
    workload = Matmul(1, 32, 4, dtype="float32", alpha="any", beta="any")
    args = (
        *(BufferArg(n) for n in ("a", "b", "c", "out", "workspace")),
        ScalarArg("alpha", "float32"),
        ScalarArg("beta", "float32"),
    )
    return winner(workload, GENERAL, LaunchPlan((KernelStep("general", (1, 1, 1), (32, 1, 1), args),), 4, True))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("GPU_TUNE_LIBCUDA", "/nonexistent")
    monkeypatch.setattr(driver, "library", lambda: None)


def inputs(workload=SMALL):
    return example_inputs(workload, 0)


# --- on the emulator ------------------------------------------------------------------------------------------------


def test_numpy_arrays_are_computed_by_the_emulator_which_says_so_once(toy_winner, no_gpu):
    kernel, given = TunedKernel(toy_winner()), inputs()
    with pytest.warns(EmulatedResult, match="the emulator computes this on the CPU"):
        out = kernel(given["a"], given["b"])
    np.testing.assert_allclose(out, reference(SMALL, given), rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = np.zeros_like(out)
        assert kernel(given["a"], given["b"], out=again) is again
    np.testing.assert_array_equal(out, again)


def test_alpha_beta_and_an_output_in_place_of_c(general, no_gpu):
    kernel, given = TunedKernel(general), inputs(general.workload)
    c = given["c"].copy()
    expected = reference(general.workload, {**given, "c": c}, {"alpha": 2.0, "beta": -0.5})
    assert kernel.emulate(given["a"], given["b"], c, alpha=2, beta=-0.5, out=c) is c
    np.testing.assert_allclose(c, expected, rtol=1e-5)
    c[:] = np.nan
    out = kernel.emulate(given["a"], given["b"], alpha=1.0)
    np.testing.assert_allclose(out, given["a"] @ given["b"], rtol=1e-5, atol=1e-6)


def test_facts_are_properties(toy_winner):
    kernel = TunedKernel(toy_winner())
    assert (
        kernel.match == "exact"
        and not kernel.measured
        and "toy_none" in kernel.source
        and kernel.plan.kernels[0].kernel == "toy_none"
    )
    assert kernel.cubin.startswith(b"\x7fELF") and kernel.workload is SMALL and "predicted" in repr(kernel)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda a: a[:, :8], r"a\.shape: \(20, 8\) is not \(20, 16\); .*compiled for that shape"),
        (lambda a: a.astype(np.float16), r"a\.dtype: 'float16' is not float32"),
        (lambda a: np.asfortranarray(a), r"a strides \(elements\): \(1, 20\) are not \(16, 1\)"),
        (lambda a: a.tolist(), r"a: 'list' is not an array"),
        (lambda a: np.zeros((40, 16), np.float32)[::2], r"strides"),
        (lambda a: None, r"a: is missing"),
    ],
)
def test_a_bad_array_is_refused_with_one_clear_error(toy_winner, no_gpu, change, said):
    given = inputs()
    with pytest.raises(InvalidInput, match=said):
        TunedKernel(toy_winner())(change(given["a"]), given["b"])


def test_bad_arguments_are_refused(toy_winner, general, no_gpu):
    kernel, given = TunedKernel(toy_winner()), inputs()
    for call, said in (
        (lambda: kernel(given["a"], given["b"], bias=given["b"]), "bias: is no argument of matmul-20x18x16"),
        (lambda: kernel(given["a"], given["b"], given["b"]), "c: is no argument"),
        (lambda: kernel(given["a"], given["b"], given["b"], given["b"]), "arguments: 4 are more than 3"),
        (lambda: kernel(given["a"], b=given["b"], a=given["a"]), "a: is given twice"),
        (lambda: kernel(given["a"]), "b: is missing"),
        (
            lambda: kernel(given["a"], given["b"], alpha=2),
            "alpha: 2 is compiled in as 1; tune the workload with alpha='any'",
        ),
        (lambda: kernel(given["a"], given["b"], out=np.zeros((18, 20), np.float32)), r"out\.shape"),
        (lambda: TunedKernel(general)(*[inputs(general.workload)[n] for n in "ab"], beta=1.0), "c: is missing"),
    ):
        with pytest.raises(InvalidInput, match=said):
            call()


def test_a_view_names_the_callers_arrays(toy_winner, no_gpu):
    conv = Conv2d(1, 16, 4, 5, 18, 1, 1, layout="nchw", dtype="float32")
    view = conv.views()[0]
    assert view.workload.layout == "nn"
    kernel = TunedKernel(replace(toy_winner(view.workload), workload=conv, view=view))
    given = inputs(conv)
    np.testing.assert_allclose(kernel.emulate(given["x"], given["w"]), reference(conv, given), rtol=1e-5, atol=1e-5)


# --- on the virtual GPU ---------------------------------------------------------------------------------------------


def on_gpu(workload=SMALL):
    given = inputs(workload)
    return given, OnGpu(given["a"]), OnGpu(given["b"]), OnGpu(allocate(workload.arrays()["out"]))


@pytest.fixture
def gpu_log(fake_cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    driver.use_context(0)
    return tmp_path / "log"


def test_cuda_arrays_run_on_the_gpu(toy_winner, gpu_log):
    given, a, b, out = on_gpu()
    assert TunedKernel(toy_winner())(a, b, out=out) is out
    np.testing.assert_allclose(out.get(), reference(SMALL, given), rtol=1e-5, atol=1e-5)
    assert gpu_log.read_text().startswith("toy_none grid")


def test_padded_rows_are_part_of_the_contract(toy_winner, gpu_log):
    workload = Matmul(20, 18, 16, dtype="float32", lda=24, ldc=32)
    given, a, b, out = on_gpu(workload)
    TunedKernel(toy_winner(workload))(a, b, out=out)
    np.testing.assert_allclose(out.get(), reference(workload, given), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        InvalidInput, match=r"a strides \(elements\): \(16, 1\) are not \(24, 1\); make it contiguous, or tune"
    ):
        TunedKernel(toy_winner(workload))(OnGpu(np.ascontiguousarray(given["a"])), b, out=out)


def test_misaligned_overlapping_and_host_arrays_are_refused_before_anything_runs(toy_winner, gpu_log):
    given, a, b, out = on_gpu()
    kernel = TunedKernel(toy_winner())
    for call, said in (
        (lambda: kernel(OnGpu(given["a"], offset=4), b, out=out), "a address: .* is not a multiple of 16 bytes; tune"),
        (
            lambda: kernel(given["a"], given["b"]),
            "is not in CUDA memory; copy the arrays to the GPU, or call kernel.emulate",
        ),
        (lambda: kernel(a, given["b"], out=out), r"b: 'host:0' is not where a is \(cuda:0\)"),
        (lambda: kernel(a, b), r"out: is needed: interface arrays come without .*; pass out= with shape \(20, 18\)"),
    ):
        with pytest.raises(InvalidInput, match=said):
            call()
    square = Matmul(16, 16, 16, dtype="float32")
    given, a, b, out = on_gpu(square)
    with pytest.raises(InvalidInput, match="overlaps a; only c and residual"):
        TunedKernel(toy_winner(square))(a, b, out=a)
    assert not gpu_log.exists()


def test_another_architecture_is_refused(toy_winner, gpu_log):
    _, a, b, out = on_gpu()
    with pytest.raises(MeasureError, match=r"compiled for sm_80 .* GPU 0 is nvidia-h200-132sm-141gb"):
        TunedKernel(replace(toy_winner(), arch="sm_80", chip="nvidia-a100-108sm-80gb"))(a, b, out=out)


@pytest.fixture(scope="session")
def cleared(toy_winner):
    """A plan that also uses a workspace, kept zero."""
    base = toy_winner()
    return replace(base, plan=LaunchPlan((MemsetStep("workspace", 64, 1, 64), *base.plan.steps), 128, True, 64))


def test_each_stream_has_a_workspace_of_its_own_zeroed_once(cleared, gpu_log):
    _, a, b, out = on_gpu()
    kernel = TunedKernel(cleared)
    one, two = memory.Stream(), memory.Stream()
    for stream in (one, two, one, one):
        kernel(a, b, out=out, stream=stream.handle)
    _, workspaces = kernel._programs[0]
    addresses = list(workspaces._addresses.values())
    assert len(set(addresses)) == 2
    memory.synchronize()
    for address in addresses:
        np.testing.assert_array_equal(memory.download(address, 128), [0] * 64 + [1] * 64)


def test_a_call_can_be_captured_into_the_callers_graph_even_as_the_first(cleared, gpu_log):
    given, a, b, out = on_gpu()
    kernel, stream = TunedKernel(cleared), memory.Stream()
    graphs = [memory.Graph(stream, lambda s: kernel(a, b, out=out, stream=s)) for _ in range(2)]
    assert not out.get().any()  # captured, not run
    for graph in graphs:
        graph.launch(stream)
    np.testing.assert_allclose(out.get(), reference(SMALL, given), rtol=1e-5, atol=1e-5)
    assert len(set(kernel._programs[0][1]._addresses.values())) == 2  # two graphs may run at once


def test_threads_may_call_one_kernel_at_a_time(cleared, gpu_log):
    given, a, b, _ = on_gpu()
    kernel = TunedKernel(cleared)
    outs = [OnGpu(allocate(SMALL.arrays()["out"])) for _ in range(4)]
    errors = []

    def work(out):
        try:
            driver.use_context(0)
            stream = memory.Stream()
            for _ in range(20):
                kernel(a, b, out=out, stream=stream.handle)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(o,)) for o in outs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    for out in outs:
        np.testing.assert_allclose(out.get(), reference(SMALL, given), rtol=1e-5, atol=1e-5)


def test_an_array_that_another_stream_still_makes_is_waited_for(toy_winner, gpu_log):
    _, a, b, out = on_gpu()
    theirs, ours = memory.Stream(), memory.Stream()
    memory.synchronize()
    driver.memset(a.address, 0, a.span, theirs.handle)  # queued, and not waited for
    facts = {**a.__cuda_array_interface__, "stream": theirs.handle}
    late = type("Late", (), {"__cuda_array_interface__": facts})()
    TunedKernel(toy_winner())(late, b, out=out, stream=ours.handle)
    ours.synchronize()
    assert not out.get().any(), "A was zero by the time it was read"


# --- the emitted source ---------------------------------------------------------------------------------------------


def test_an_emitted_source_says_what_it_is_and_assembles_by_itself(toy_winner):
    base = toy_winner()
    said = {"options": nvrtc.all_options("sm_90a"), "seconds": 1.5e-6, "verdict": {"text": "a */ trap"}, "created": 0.0}
    said["environment"] = {"judged": "judged somewhere", "low": 1e-6, "high": 3e-6}
    said["prediction"] = {"seconds": 1.5e-6, "tensor cycles": 3e3, "latency cycles": 1e3, "tail cycles": 10.0}
    text = emit.emit(replace(base, arch="sm_90a", source="predicted", **said))
    header, end, body = text.partition("\n */\n")
    header += end
    assert body == base.code and header.count("*/") == 1
    for fact in (
        "matmul-20x18x16-float32-nn",
        "toy_none<<<",
        "1.5 us predicted (1 us to 3 us); from its machine code, no GPU ran this",
        "judged somewhere",
        "limited by  tensor 75%, latency 25%",
        base.chip,
        "1970-01-01",
        emit.body_hash(body),
        "1.5 us",
        "x=1",
    ):
        assert fact in header.replace("\n *             ", " ")
    assert max(map(len, header.splitlines())) <= 120
    assert nvrtc.to_cubin(text, "sm_90a").data


def test_a_good_call_makes_no_words(toy_winner, monkeypatch):
    """A workload's key takes longer to make than all else that a call does on the host."""
    kernel, given = TunedKernel(toy_winner()), inputs()
    monkeypatch.setattr(Matmul, "key", property(lambda w: pytest.fail("made for nothing")))
    assert list(kernel._arguments.given((given["a"], given["b"]), {})) == ["a", "b"]


class Recorder:
    """A CuPy that compiles and launches nothing, and notes what it is asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def RawModule(self, **given):
        self.asked.append(("module", given))
        return self

    def get_function(self, name):
        kernel = types.SimpleNamespace(name=name)

        class Kernel:
            def __setattr__(_, key, value):
                self.asked.append((key, name, value))

            def __call__(_, *launch, **more):
                self.asked.append((kernel.name, *launch, more))

        return Kernel()

    def zeros(self, nbytes, dtype):
        return Place(f"{nbytes} bytes of zeros", self.asked)


class Place:
    """An array that is a name; ``data`` is a memory pointer, as CuPy's."""

    def __init__(self, name, asked, offset=0):
        self.name, self.asked, self.offset, self.ptr = name, asked, offset, 4096
        self.data = self

    def __add__(self, offset):
        return Place(self.name, self.asked, offset)

    def memset_async(self, value, nbytes):
        self.asked.append(("memset", self.name, self.offset, value, nbytes))


def run_head(source: str, **arrays):
    """What the lines of an emitted head's CuPy call ask of CuPy, run as they stand there."""
    cupy = Recorder()
    places = {name: Place(name, cupy.asked) for name in arrays} | {n: v for n, v in arrays.items() if v is not None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        patch.setattr("builtins.open", lambda name: io.StringIO(f"text of {name}"))
        exec(emit.cupy_text(source), places)
    return cupy.asked


def test_the_head_shows_how_cupy_compiles_and_launches_it(general, toy_winner):
    base = toy_winner()
    launched = run_head(emit.emit(replace(base, options=nvrtc.all_options("sm_90a"))), a=None, b=None, out=None)
    step = base.plan.kernels[0]
    assert launched[0] == ("module", {"code": "text of kernel.cu", "options": ("--std=c++17",)})
    name, grid, block, given, more = launched[1]
    assert (name, grid, block, more) == ("toy_none", step.grid, step.block, {})
    assert [getattr(g, "name", g) for g in given] == ["a", "b", "out", 20, 18, 16, 16, 18, 18]
    assert {type(g) for g in given[3:]} == {np.int32}
    scaled = run_head(emit.emit(general), **dict.fromkeys(("a", "b", "c", "out")), alpha=2.0, beta=0.5)
    assert [getattr(g, "name", g) for g in scaled[1][3]] == ["a", "b", "c", "out", "4 bytes of zeros", 2.0, 0.5]


def test_the_heads_call_has_every_step_offset_and_allowance_of_the_plan(toy_winner):
    base = toy_winner()
    args = (BufferArg("a", 64), BufferArg("b"), BufferArg("out"), *base.plan.kernels[0].args[3:])
    kernel = replace(base.plan.kernels[0], args=args, shared_bytes=60_000)
    plan = LaunchPlan((MemsetStep("out", 64, 7, offset=16), kernel, replace(kernel, shared_bytes=16)))
    found = run_head(emit.emit(replace(base, plan=plan)), a=None, b=None, out=None)
    assert found[1] == ("max_dynamic_shared_size_bytes", "toy_none", 60_000)
    assert found[2] == ("memset", "out", 16, 7, 64)
    assert found[3][3][0] == np.uint64(4096 + 64) and found[3][4] == {"shared_mem": 60_000}
    assert found[4][4] == {"shared_mem": 16}
    wide = replace(kernel, grid=(2, 2, 1), cluster=(2, 1, 1))
    assert emit.CUPY not in emit.emit(replace(base, plan=LaunchPlan((wide,)))), "CuPy takes no launch attributes"
