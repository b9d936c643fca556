"""A tuned kernel on a real GPU: CuPy and PyTorch arrays, streams, graphs, large offsets, the dispatchers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune.reference import compare, example_inputs

cupy = pytest.importorskip("cupy", reason="needs CuPy (gpu_tune[cuda13] or [cuda12])")
pytestmark = pytest.mark.gpu
WORKLOAD = gt.Matmul(512, 384, 256, dtype="float16", layout="nt", epilogue="bias+gelu")


@pytest.fixture(scope="module")
def tuned(gpu, tmp_path_factory):
    """The tuned kernel, or the error that tuning ended with."""
    store = gt.Store(tmp_path_factory.mktemp("store"))
    try:
        return gt.tune(WORKLOAD, trials=24, store=store), store
    except Exception as error:
        return error, store


@pytest.fixture(scope="module")
def kernel(tuned):
    """A kernel for the workload: the untuned default where tuning fails, which is a test of its own."""
    if isinstance(tuned[0], Exception):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gt.load(WORKLOAD, store=tuned[1])
    return tuned[0]


@pytest.fixture
def arrays(gpu):
    host = example_inputs(WORKLOAD)
    return host, {n: cupy.asarray(a) for n, a in host.items()}


def test_tuning_ends_with_a_measured_kernel_and_a_verdict(tuned, told):
    if isinstance(tuned[0], Exception):
        raise tuned[0]
    told(f"{WORKLOAD.key}: {tuned[0].verdict.get('text')}")
    assert tuned[0].measured and tuned[0].verdict["finalists"]


def test_a_kernel_gives_the_right_result(kernel, arrays):
    host, given = arrays
    out = kernel(given["a"], given["b"], bias=given["bias"])
    assert isinstance(out, cupy.ndarray)
    assert compare(cupy.asnumpy(out), WORKLOAD, host).ok


def test_two_streams_at_once(kernel, arrays):
    host, given = arrays
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    outs = [cupy.empty((512, 384), np.float16) for _ in streams]
    cupy.cuda.Device().synchronize()
    for _ in range(50):
        for stream, out in zip(streams, outs):
            with stream:
                kernel(given["a"], given["b"], bias=given["bias"], out=out)
    cupy.cuda.Device().synchronize()
    for out in outs:
        assert compare(cupy.asnumpy(out), WORKLOAD, host).ok


def test_the_callers_own_graph_even_when_the_first_call_is_captured(kernel, arrays):
    host, given = arrays
    fresh = gt.TunedKernel(kernel.winner)
    out, stream = cupy.zeros((512, 384), np.float16), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        fresh(given["a"], given["b"], bias=given["bias"], out=out)
        graph = stream.end_capture()
        for _ in range(3):
            graph.launch(stream)
    stream.synchronize()
    assert compare(cupy.asnumpy(out), WORKLOAD, host).ok


def test_offsets_beyond_two_to_the_31(gpu, tmp_path):
    if cupy.cuda.Device().mem_info[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    workload = gt.Matmul(70000, 16, 32, dtype="float16", lda=40000)  # A spans 2.8e9 elements
    kernel = gt.tune(workload, trials=8, store=gt.Store(tmp_path))
    a = cupy.empty((70000, 40000), np.float16)[:, :32]
    a[...] = cupy.random.default_rng(0).integers(-2, 3, a.shape).astype(np.float16)
    b = cupy.random.default_rng(1).integers(-2, 3, (32, 16)).astype(np.float16)
    np.testing.assert_array_equal(cupy.asnumpy(kernel(a, b)), cupy.asnumpy(a) @ cupy.asnumpy(b))


def test_pytorch_arrays_and_its_current_stream(kernel, arrays):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    host, _ = arrays
    given = {n: torch.from_numpy(np.array(a)).cuda() for n, a in host.items()}
    with torch.cuda.stream(torch.cuda.Stream()):
        out = kernel(given["a"], given["b"], bias=given["bias"])
        torch.cuda.current_stream().synchronize()
    assert compare(out.cpu().numpy(), WORKLOAD, host).ok


def test_the_dispatcher_is_right_whoever_serves_the_call(arrays):
    host, given = arrays
    out = gt.matmul(given["a"], given["b"], layout="nt", epilogue="bias+gelu", bias=given["bias"])
    np.testing.assert_allclose(
        cupy.asnumpy(out).astype(np.float32), reference_of(host), rtol=2e-2, atol=2e-2 * np.sqrt(WORKLOAD.k)
    )


def reference_of(host):
    from gpu_tune.reference import reference

    return reference(WORKLOAD, host)
