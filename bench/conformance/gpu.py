"""The GPU's half of conformance: kernels run in a process of their own, so that one that hangs costs itself alone.

``handler`` serves a :class:`gpu_tune.measure.worker.Worker`; :class:`Runner` is its other end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from gpu_tune.cuda import launch
from gpu_tune.errors import GpuTuneError, MeasureError
from gpu_tune.measure import runtime
from gpu_tune.measure.worker import Worker, WorkerLost
from gpu_tune.plan import LaunchPlan

FIRST, LIMIT = 60.0, 8.0
"""Seconds that the process may take to be ready (to make a context), and that a kernel may take then."""
HANGS = 4
"""After so many that hang, no further kernel is run: each takes its time limit."""
Arrays = Mapping[str, np.ndarray]


def handler(request: dict[str, Any], note: Callable[[str], None]) -> dict[str, np.ndarray]:
    """In the process: run ``cubin`` by ``plan`` once on copies of ``arrays``, and give them back; empty: be ready."""
    runtime.start(0)
    if not request:
        return {}
    arrays, addresses = request["arrays"], {}
    program = launch.Program(request["cubin"], LaunchPlan.from_json(request["plan"]))
    try:
        for name, array in arrays.items():
            addresses[name] = runtime.allocate(max(array.nbytes, 16))
            runtime.upload(addresses[name], np.ascontiguousarray(array))
        note("run")
        program.run(addresses, 0, request["scalars"])
        runtime.synchronize()
        return {n: runtime.download(addresses[n], a.nbytes).view(a.dtype).reshape(a.shape) for n, a in arrays.items()}
    finally:
        with contextlib.suppress(GpuTuneError):  # the error that led here says more
            for address in addresses.values():
                runtime.free(address)
            program.unload()


class Runner:
    """Runs kernels on GPU 0, each with a time limit; one that hangs or loses the context leaves the others alone."""

    def __init__(self, entry: str = "bench.conformance.gpu:handler", limit: float = LIMIT) -> None:
        self._child, self._limit, self._hangs = Worker(entry), limit, 0

    def run(self, cubin: bytes, plan: LaunchPlan, arrays: Arrays, scalars: Mapping[str, float]) -> dict[str, Any]:
        """The arrays afterwards. GpuTuneError when it does not run, MeasureError when too many have hung."""
        if self._hangs >= HANGS:
            raise MeasureError(f"not run: {HANGS} kernels before it hung")
        request = {"cubin": cubin, "plan": plan.to_json(), "arrays": dict(arrays), "scalars": dict(scalars)}
        try:
            if self._child.pid is None:
                self._child.ask({}, FIRST)
            found: dict[str, Any] = self._child.ask(request, self._limit)
            return found
        except WorkerLost as lost:
            self._hangs += lost.timed_out
            raise
        except GpuTuneError:
            self._child.kill()  # its context may be lost
            raise

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
