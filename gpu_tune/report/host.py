"""What a call costs the host: ours beside the vendor library's, on arrays of CuPy's, in a process of its own.

``handler`` serves a :class:`gpu_tune.measure.worker.Worker`, for what calls a GPU may take its process down.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import GpuTuneError
from ..kernel.kernel import TunedKernel
from ..measure import runtime, vendor
from ..measure.worker import Note, Worker
from ..reference import NUMPY
from ..store.winner import Winner

LIMIT = 120.0
CALLS, SERIES = 32, 9
"""Calls that are made one after another (fewer than a driver queues before it makes the host wait), and how often."""


@dataclass(frozen=True)
class HostSeconds:
    """Seconds of the host: of a call ``kernel(a, b, out=out)``, of a bound ``launch()``, and of the vendor library
    through CuPy (None where CuPy has none for such arrays)."""

    call: float
    launch: float
    vendor: float | None


def host_seconds(winner: Winner) -> HostSeconds | None:
    """Measured on this machine's GPU; None where that fails, for nothing depends on it."""
    worker = Worker("gpu_tune.report.host:handler")
    try:
        found: HostSeconds = worker.ask(winner, LIMIT)
        return found
    except GpuTuneError:
        return None
    finally:
        worker.kill()


def handler(winner: Winner, note: Note) -> HostSeconds:
    """In the process: the times of ``winner`` on arrays that hold zeros."""
    runtime.start(0)
    note("host")
    kernel, stream = TunedKernel(winner), runtime.new_stream()
    specs = winner.workload.arrays()
    given: dict[str, Any] = {}
    for name, spec in specs.items():
        dtype = NUMPY[spec.dtype]
        address = runtime.allocate(spec.span * dtype.itemsize)
        strides = tuple(s * dtype.itemsize for s in spec.element_strides)
        given[name] = runtime.view(address, spec.shape, dtype, strides)
    out = given.pop("out")
    operands = [given.pop(name) for name in winner.workload.inputs]
    scalars = dict.fromkeys(winner.workload.scalars(), 1.0)
    bound = kernel.bind(*operands, out=out, stream=stream.ptr, **given, **scalars)
    named = {**dict(zip(winner.workload.inputs, operands)), **given}
    call = _seconds(lambda: kernel(*operands, out=out, stream=stream.ptr, **given, **scalars))
    theirs = None
    if vendor.can(winner.workload, "cupy"):
        with contextlib.suppress(Exception):  # errors of CuPy's have no common root; ours is told all the same
            theirs = _seconds(lambda: vendor.run(winner.workload, "cupy", named, scalars, out))
    return HostSeconds(call, _seconds(bound.launch), theirs)


def _seconds(call: Callable[[], Any]) -> float:
    call()
    series = []
    for _ in range(SERIES):
        runtime.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        series.append((time.perf_counter() - start) / CALLS)
    runtime.synchronize()
    return statistics.median(series)
