"""The calls that are timed, in a process of their own: of any version of gpu_tune, on the stand-in driver.

Started by ``bench.host`` with the version's root first on the path. Each line of standard input asks for a round, which
is a line of JSON: nanoseconds of CPU a call, by what is called. It uses nothing but what every version has.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CALLS, BATCHES = 100, 30
"""Calls between two waits for the device, which are not timed; batches of a round, whose median counts."""
M, N, K = 256, 512, 1024


class Memory:
    """What CuPy calls a MemoryPointer."""

    def __init__(self, address: int) -> None:
        self.ptr, self.device_id = address, 0
        self.device = types.SimpleNamespace(id=0)


def fake_cupy() -> Any:
    """A module ``cupy`` with arrays and a current stream, and nothing that could compute."""
    module: Any = types.ModuleType("cupy")
    stream = types.SimpleNamespace(ptr=0)

    class ndarray:
        def __init__(self, shape: tuple[int, ...], address: int) -> None:
            self.shape, self.dtype, self.data = shape, np.dtype(np.float16), Memory(address)
            self.strides = tuple(int(2 * np.prod(shape[i + 1 :])) for i in range(len(shape)))
            self.device = self.data.device

    ndarray.__module__ = "cupy"
    module.ndarray = ndarray
    module.cuda = types.SimpleNamespace(get_current_stream=lambda device=None: stream)
    sys.modules["cupy"] = module
    return module


def calls() -> tuple[dict[str, Callable[[], Any]], Callable[[], None]]:
    """What is timed, by name, and what waits for the device."""
    import gpu_tune as gt

    cupy, stand_in = fake_cupy(), ctypes.CDLL(os.environ["GPU_TUNE_LIBCUDA"])
    context = ctypes.c_void_p()
    for status in (
        stand_in.cuInit(0),
        stand_in.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        stand_in.cuCtxSetCurrent(context),
    ):
        assert not status

    def allocate(nbytes: int) -> int:
        address = ctypes.c_uint64()
        assert not stand_in.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(nbytes))
        return address.value

    workload = gt.Matmul(M, N, K, dtype="float16", layout="nt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not tuned; then it is, so that the dispatcher takes it
        untuned: Any = gt.load(workload)
        winner = untuned.winner
    assert len(winner.plan.steps) == 1 and not winner.plan.workspace_bytes, "a plan of one step is wanted"
    changed: dict[str, Any] = {
        "verdict": {"ours": "faster", "text": "for the dispatcher"},
        "source": "measured",
        "seconds": 1e-6,
    }
    gt.Store().publish(dataclasses.replace(winner, **changed))
    kernel: Any = gt.load(workload)
    a, b, out = (cupy.ndarray(s, allocate(2 * s[0] * s[1])) for s in ((M, K), (N, K), (M, N)))
    found: dict[str, Callable[[], Any]] = {
        "kernel(a, b, out=out)": lambda: kernel(a, b, out=out),
        "gt.matmul(a, b, layout='nt', out=out)": lambda: gt.matmul(a, b, layout="nt", out=out),
    }
    if hasattr(gt, "any_of"):
        kernels = any_size(gt)
        found["kernels(a, b, out=out)"] = lambda: kernels(a, b, out=out)
    if hasattr(kernel, "bind"):
        found["bound.launch()"] = kernel.bind(a, b, out=out).launch
    return found, stand_in.cuCtxSynchronize


def any_size(gt: Any) -> Any:
    """A set of kernels for any m, of which four ranges are served by one; the same default as the exact kernel's."""
    from gpu_tune.kernel.kernel_set import KernelSet
    from gpu_tune.store.winner_set import SizeRange

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        winners = gt.load(gt.Matmul(gt.any_of(1, 4 * M), N, K, dtype="float16", layout="nt")).winners
    ranges = tuple(SizeRange(i * M + 1, (i + 1) * M, 0) for i in range(4))
    return KernelSet(dataclasses.replace(winners, ranges=ranges))


def main() -> None:
    root = Path(sys.argv[1])
    import gpu_tune

    assert Path(gpu_tune.__file__).is_relative_to(root), f"{gpu_tune.__file__} is not of {root}"
    timed, wait = calls()
    for call in timed.values():
        call()
    print("ready", flush=True)
    for _ in sys.stdin:
        taken = {}
        for name, call in timed.items():
            batches = []
            for _ in range(BATCHES):
                start = time.process_time_ns()
                for _ in range(CALLS):
                    call()
                batches.append((time.process_time_ns() - start) / CALLS)
                wait()
            taken[name] = statistics.median(batches)
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
