"""Memory, streams, events and graphs through the driver alone, for tests: the product leaves them to CuPy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_tune.cuda.driver import DriverError, bindings, call

_KINDS = {"timed": 0, "untimed": 2}


def allocate(nbytes: int) -> int:
    """Device address of ``nbytes`` new bytes, aligned to 256; DriverError 2 when out of memory."""
    return int(call("cuMemAlloc", max(1, nbytes)))


def free(address: int) -> None:
    call("cuMemFree", address)


def free_bytes() -> int:
    """Bytes of device memory not in use."""
    return int(call("cuMemGetInfo")[0])


def upload(address: int, data: np.ndarray) -> None:
    """Copy the bytes of a contiguous array to ``address`` and wait: other streams may use them afterwards."""
    flat = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    if flat.size:
        call("cuMemcpyHtoD", address, flat.ctypes.data, flat.size)
        synchronize()  # from pageable memory the call may return before the bytes have arrived


def download(address: int, nbytes: int) -> np.ndarray:
    """``nbytes`` bytes from ``address`` as a uint8 array. The stream that writes them must have been waited for."""
    out = np.empty(nbytes, np.uint8)
    if nbytes:
        call("cuMemcpyDtoH", out.ctypes.data, address, nbytes)
    return out


def copy(target: int, source: int, nbytes: int) -> None:
    """Copy within device memory, and wait."""
    call("cuMemcpyDtoD", target, source, nbytes)
    synchronize()


def synchronize() -> None:
    """Wait for everything in the context; a failed kernel shows here."""
    call("cuCtxSynchronize")


class Stream:
    """A stream that does not wait for the default one. ``handle`` is the CUstream as an integer."""

    def __init__(self) -> None:
        self.handle = int(call("cuStreamCreate", bindings().CUstream_flags.CU_STREAM_NON_BLOCKING))

    def synchronize(self) -> None:
        call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        call("cuStreamDestroy", self.handle)


class Event:
    """A point in a stream's work, with a time unless not ``timed``; the driver's event goes with the object."""

    def __init__(self, timed: bool = True) -> None:
        self._handle = call("cuEventCreate", _KINDS["timed" if timed else "untimed"])

    def record(self, stream: int) -> None:
        """Mark the end of what is in ``stream`` now."""
        call("cuEventRecord", self._handle, stream)

    def seconds_since(self, start: Event) -> float:
        """Seconds from ``start`` to this; waits for this."""
        call("cuEventSynchronize", self._handle)
        return float(call("cuEventElapsedTime", start._handle, self._handle)) * 1e-3

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the context may be lost, or the interpreter ending
            bindings().cuEventDestroy(self._handle)


class Graph:
    """What ``issue(stream)`` issues, captured; ``launch`` repeats it with next to no cost on the host."""

    def __init__(self, stream: Stream, issue: Callable[[int], Any]) -> None:
        mode = bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._exec: Any = None
        call("cuStreamBeginCapture", stream.handle, mode)
        try:
            issue(stream.handle)
        except BaseException:  # its error is the one to see, not that of a capture it has spoilt
            with contextlib.suppress(DriverError):
                call("cuGraphDestroy", call("cuStreamEndCapture", stream.handle))
            raise
        graph = call("cuStreamEndCapture", stream.handle)
        try:
            self._exec = call("cuGraphInstantiate", graph, 0)
        finally:
            call("cuGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        call("cuGraphLaunch", self._exec, stream.handle)

    def close(self) -> None:
        if self._exec is not None:
            executable, self._exec = self._exec, None
            call("cuGraphExecDestroy", executable)
