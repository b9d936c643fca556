"""Memory, streams, events and graphs through the driver: what the measuring child needs beside launches."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from .driver import DriverError, call, library

_CAPTURE_THREAD_LOCAL = 1
_STREAM_NON_BLOCKING = 1


def allocate(nbytes: int) -> int:
    """Device address of ``nbytes`` new bytes, aligned to 256; DriverError 2 when out of memory."""
    address = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, nbytes)))
    return address.value


def free(address: int) -> None:
    """Give ``allocate``'s memory back."""
    call("cuMemFree_v2", ctypes.c_uint64(address))


def free_bytes() -> int:
    """Bytes of device memory not in use."""
    left, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(left), ctypes.byref(total))
    return left.value


def upload(address: int, data: np.ndarray) -> None:
    """Copy the bytes of a contiguous array to ``address`` and wait: other streams may use them afterwards."""
    flat = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    if flat.size:
        call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(flat.ctypes.data), ctypes.c_size_t(flat.size))
        synchronize()  # from pageable memory the call may return before the bytes have arrived


def download(address: int, nbytes: int) -> np.ndarray:
    """``nbytes`` bytes from ``address`` as a uint8 array. The stream that writes them must have been waited for."""
    out = np.empty(nbytes, np.uint8)
    if nbytes:
        call("cuMemcpyDtoH_v2", ctypes.c_void_p(out.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(nbytes))
    return out


def copy(target: int, source: int, nbytes: int) -> None:
    """Copy within device memory, and wait."""
    call("cuMemcpyDtoD_v2", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(nbytes))
    synchronize()


def synchronize() -> None:
    """Wait for everything in the context; a failed kernel shows here."""
    call("cuCtxSynchronize")


class Stream:
    """A stream that does not wait for the default one. ``handle`` is the CUstream as an integer."""

    def __init__(self) -> None:
        handle = ctypes.c_void_p()
        call("cuStreamCreate", ctypes.byref(handle), ctypes.c_uint(_STREAM_NON_BLOCKING))
        self.handle = int(handle.value or 0)

    def synchronize(self) -> None:
        """Wait until all its work is done."""
        call("cuStreamSynchronize", ctypes.c_void_p(self.handle))

    def close(self) -> None:
        """Destroy it."""
        call("cuStreamDestroy_v2", ctypes.c_void_p(self.handle))


class Event:
    """A point in a stream's work, with a time; the driver's event goes with the object."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cuEventCreate", ctypes.byref(self._handle), ctypes.c_uint(0))

    def record(self, stream: int) -> None:
        """Mark the end of what is in ``stream`` now."""
        call("cuEventRecord", self._handle, ctypes.c_void_p(stream))

    def seconds_since(self, start: Event) -> float:
        """Seconds from ``start`` to this; waits for this."""
        call("cuEventSynchronize", self._handle)
        milliseconds = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(milliseconds), start._handle, self._handle)
        return milliseconds.value * 1e-3

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the context may be lost, or the interpreter ending
            library().cuEventDestroy_v2(self._handle)  # type: ignore[union-attr]


class Graph:
    """What ``issue(stream)`` issues, captured; ``launch`` repeats it with next to no cost on the host."""

    def __init__(self, stream: Stream, issue: Callable[[int], Any]) -> None:
        graph, self._exec = ctypes.c_void_p(), ctypes.c_void_p()
        call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            issue(stream.handle)
        except BaseException:  # its error is the one to see, not that of a capture it has spoilt
            with contextlib.suppress(DriverError):
                call("cuStreamEndCapture", ctypes.c_void_p(stream.handle), ctypes.byref(graph))
                call("cuGraphDestroy", graph)
            raise
        call("cuStreamEndCapture", ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        try:
            call("cuGraphInstantiateWithFlags", ctypes.byref(self._exec), graph, ctypes.c_ulonglong(0))
        finally:
            call("cuGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        """Issue it into ``stream``."""
        call("cuGraphLaunch", self._exec, ctypes.c_void_p(stream.handle))

    def close(self) -> None:
        """Destroy it, once."""
        if self._exec:
            executable, self._exec = self._exec, ctypes.c_void_p()
            call("cuGraphExecDestroy", executable)
