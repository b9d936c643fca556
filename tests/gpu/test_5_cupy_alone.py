"""An emitted source compiled, launched and timed by CuPy alone, as its head says; on a real GPU."""

from __future__ import annotations

import statistics
import warnings
from dataclasses import replace

import numpy as np
import pytest

from gpu_tune.cuda import nvrtc
from gpu_tune.kernel.emit import cupy_text, emit
from gpu_tune.measure import runtime
from gpu_tune.measure.gpu_worker import Gpu
from gpu_tune.measure.messages import FinalsRequest, KernelToLoad
from gpu_tune.reference import Numerics, compare, example_inputs
from gpu_tune.store.winner import Winner
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.trial import Policy
from gpu_tune.workload import Matmul

cupy = pytest.importorskip("cupy", reason="needs CuPy (gpu_tune[cuda13] or [cuda12])")
pytestmark = pytest.mark.gpu
WORKLOADS = {
    "matmul_simt": Matmul(1024, 1024, 1024, dtype="float32", layout="nt"),
    "matmul_mma": Matmul(2048, 2048, 2048, dtype="float16", layout="nt"),
}


def winner(name: str, gpu) -> Winner:
    """The default config of a family, as a winner that was never timed."""
    bound = BoundTemplate(registry()[name], WORKLOADS[name], gpu)
    config = bound.space().default()
    if config is None:
        pytest.skip(f"{name} is not for this chip")
    rendered = bound.render(config)
    cubin = nvrtc.to_cubin(rendered.source, gpu.arch).data
    made = Winner.of(bound, config, rendered, cubin, source="measured", seconds=0.0,
                     options=nvrtc.all_options(gpu.arch))  # fmt: skip
    return replace(made, code=emit(made))


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_heads_text_compiles_and_launches_it(gpu, tmp_path, monkeypatch, name):
    made, w = winner(name, gpu), WORKLOADS[name]
    text, host = cupy_text(made.code), example_inputs(WORKLOADS[name])
    assert "cupy.RawModule" in text
    (tmp_path / "kernel.cu").write_text(made.code)
    monkeypatch.chdir(tmp_path)
    given = {n: cupy.asarray(a) for n, a in host.items()}
    out = cupy.empty(w.arrays()["out"].shape, np.dtype(w.out_dtype))
    exec(text, {**given, "out": out})
    assert compare(cupy.asnumpy(out), w, host).ok


@pytest.mark.parametrize("name", WORKLOADS)
def test_cupys_stream_events_and_graph_time_it_as_the_worker_does(gpu, tmp_path, monkeypatch, told, name):
    made, w = winner(name, gpu), WORKLOADS[name]
    (tmp_path / "kernel.cu").write_text(made.code)
    monkeypatch.chdir(tmp_path)
    given = {n: cupy.asarray(a) for n, a in example_inputs(w).items()}
    given["out"] = cupy.empty(w.arrays()["out"].shape, np.dtype(w.out_dtype))
    exec(cupy_text(made.code), given)  # leaves the kernel under its name
    step, runs = made.plan.kernels[0], 20
    arguments = tuple(given[a.buffer] if hasattr(a, "buffer") else getattr(np, a.ctype)(a.value) for a in step.args)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        for _ in range(runs):
            given[step.kernel](step.grid, step.block, arguments, shared_mem=step.shared_bytes)
        graph = stream.end_capture()
        theirs = []
        for _ in range(30):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            graph.launch(stream)
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            theirs.append(cupy.cuda.get_elapsed_time(start, end) * 1e-3 / runs)
    worker = Gpu(0)
    kernel = KernelToLoad("it", made.cubin, made.plan, Numerics(), {n: n for n in w.arrays()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reply = worker.finals(FinalsRequest(w, 0, Policy(l2="warm"), (kernel,), (), 15), lambda *said, **more: None)
    ours = statistics.median(reply.finalists["it"].samples)
    told(f"{name}: by CuPy alone {statistics.median(theirs) * 1e6:.2f} us, by the worker {ours * 1e6:.2f} us")
    assert statistics.median(theirs) == pytest.approx(ours, rel=0.03)
    runtime.release()
