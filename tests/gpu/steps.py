"""What the GPU tests do in a process of their own, so that one that hangs or loses its context costs itself alone.

``handler`` serves a :class:`gpu_tune.measure.worker.Worker`: a request names a function here and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_tune.cuda import driver, nvml, nvrtc
from gpu_tune.cuda.launch import Program
from gpu_tune.measure import baselines, runtime
from gpu_tune.measure.check import Checker
from gpu_tune.measure.device_data import DeviceData
from gpu_tune.measure.worker import no_note
from gpu_tune.workload import from_dict
from tests.gpu import probes
from tests.helpers import device_memory as cuda_memory

GUARD = 4096


def handler(request: dict[str, Any], note: Callable[[str], None]) -> Any:
    """The reply to one request; ``do`` names a function of this module."""
    note(request["do"])
    driver.use_context(0)
    return globals()[request.pop("do")](**request)


def ready() -> bool:
    """There is a context: what comes next is timed without its making."""
    return True


def memory_round_trip() -> list[bool]:
    """Bytes come back as they went: upload, set, copy on the device; sizes around those that drivers treat apart."""
    found = []
    for size in (1, 4097, 65536, 65537, 3 << 20):
        data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
        one, two = cuda_memory.allocate(size), cuda_memory.allocate(size)
        cuda_memory.upload(one, data)
        cuda_memory.copy(two, one, size)
        stream = cuda_memory.Stream()
        driver.memset(one, 0xA5, size, stream.handle)
        stream.synchronize()
        found += [
            bool((cuda_memory.download(two, size) == data).all()),
            bool((cuda_memory.download(one, size) == 0xA5).all()),
        ]
        for address in (one, two):
            cuda_memory.free(address)
    return found


def bandwidth() -> dict[str, float]:
    """Bytes per second of a large memset, timed by events, and what clocks do meanwhile."""
    size, device = 1 << 28, driver.describe()
    memory, stream = cuda_memory.allocate(size), cuda_memory.Stream()
    start, end = cuda_memory.Event(), cuda_memory.Event()
    seconds = []
    for i in range(12):
        start.record(stream.handle)
        driver.memset(memory, i, size, stream.handle)
        end.record(stream.handle)
        seconds.append(end.seconds_since(start))
    cuda_memory.free(memory)
    return {"measured": size / min(seconds), "expected": device.bandwidth, **nvml.sensors(driver.bus_id())}


def probe(name: str, graph: bool = False) -> tuple[np.ndarray, bool]:
    """What probe ``name`` leaves in its output; and whether the memory around it is untouched."""
    device = driver.describe()
    made = probes.PROBES[name][1](device)
    program = Program(nvrtc.to_cubin(made.source, device.arch).data, made.plan)
    addresses, out = {}, made.buffers["out"]
    for buffer, array in made.buffers.items():
        base = cuda_memory.allocate(array.nbytes + 2 * GUARD)
        cuda_memory.upload(base, np.full(array.nbytes + 2 * GUARD, 0xFF, np.uint8))
        cuda_memory.upload(base + GUARD, array)
        addresses[buffer] = base + GUARD
    stream = cuda_memory.Stream()
    bound = program.bind(addresses)
    if graph:
        made_graph = cuda_memory.Graph(stream, bound)
        made_graph.launch(stream)
    else:
        bound(stream.handle)
    stream.synchronize()
    raw = cuda_memory.download(addresses["out"] - GUARD, out.nbytes + 2 * GUARD)
    around = np.concatenate([raw[:GUARD], raw[-GUARD:]])
    return raw[GUARD:-GUARD].view(out.dtype).reshape(out.shape), bool((around == 0xFF).all())


def refused(shared_bytes: int) -> tuple[int, str, bool]:
    """(code, words, whether the context is still usable) of a launch with too much dynamic shared memory."""
    device = driver.describe()
    made = probes.PROBES["a_store"][1](device)
    module = driver.Module(nvrtc.to_cubin(made.source, device.arch).data)
    try:
        module.kernel("probe", shared_bytes)
    except driver.DriverError as error:
        cuda_memory.free(cuda_memory.allocate(64))
        return error.code, str(error), error.sticky
    return 0, "accepted", False


def long_graph(launches: int) -> tuple[float, float]:
    """Seconds of one empty launch inside a graph of many, and of the host's issuing of that graph."""
    device = driver.describe()
    source, step = probes.simple("if (out == nullptr) out[0] = 1;", 1, 32)
    program = Program(nvrtc.to_cubin(source, device.arch).data, probes.plan(step))
    memory, stream = cuda_memory.allocate(256), cuda_memory.Stream()
    bound = program.bind({"out": memory})
    graph = cuda_memory.Graph(stream, lambda s: [bound(s) for _ in range(launches)])
    start, end = cuda_memory.Event(), cuda_memory.Event()
    seconds, host = [], []
    import time

    for _ in range(8):
        graph.launch(stream)
        start.record(stream.handle)
        began = time.perf_counter()
        graph.launch(stream)
        host.append(time.perf_counter() - began)
        end.record(stream.handle)
        seconds.append(end.seconds_since(start) / launches)
    return min(seconds), min(host)


def libraries(workload: dict[str, Any], names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Labels, by name, of the vendor's ways to compute ``workload`` that are right; and why others do not compete."""
    runtime.start(0)
    device, stream = driver.describe(), runtime.new_stream()
    data = DeviceData(from_dict(workload), 0, device.l2_bytes)
    good, missing = baselines.prepare(names, data, Checker(data, stream), stream, device, no_note)
    labels = {b.name: b.label for b in good}
    for baseline in good:
        baseline.close()
    data.close()
    return labels, missing


def beside_cupy() -> bool:
    """CuPy and our launches see the same memory, in one context, whoever was first."""
    import cupy

    device = driver.describe()
    made = probes.PROBES["a_store"][1](device)
    program = Program(nvrtc.to_cubin(made.source, device.arch).data, made.plan)
    out = cupy.zeros(made.expected.size, cupy.int32)
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    program.run({"out": out.data.ptr}, stream.ptr)
    stream.synchronize()
    return bool((cupy.asnumpy(out + 1) == made.expected + 1).all())
