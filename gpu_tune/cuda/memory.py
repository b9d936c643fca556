"""Memory, streams, events and graphs through the driver, and the workspaces of kernels: one a stream, one a graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import GpuTuneError
from . import driver
from .driver import DriverError, bindings, call, library

_CAPTURE_RELAXED, _STREAM_PER_THREAD = 2, 2
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

    def precede(self, stream: int) -> None:
        """What is queued in ``stream`` from now on waits for it."""
        call("cuStreamWaitEvent", stream, self._handle, 0)

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


@contextlib.contextmanager
def on_device(ordinal: int) -> Iterator[None]:
    """A context of GPU ``ordinal`` is current inside the block: the caller's, else the primary one (CuPy's, too)."""
    if is_current(ordinal):
        yield
        return
    call("cuCtxPushCurrent", driver.primary_context(ordinal))
    try:
        yield
    finally:
        call("cuCtxPopCurrent")


def is_current(ordinal: int) -> bool:
    """Whether a context of GPU ``ordinal`` is current in this thread."""
    lib = library()
    if lib is None:
        return False
    code, device = lib.cuCtxGetDevice()
    return not code and int(device) == int(driver.handle_of(ordinal))


def device_of(pointer: int) -> int:
    """Number of the GPU that ``pointer`` belongs to."""
    kind = bindings().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(call("cuPointerGetAttribute", kind, pointer))


def order(before: int, after: int) -> None:
    """What is queued in stream ``after`` from now on waits for what is in stream ``before`` (both CUstreams)."""
    event = Event(timed=False)
    event.record(before)
    event.precede(after)


class Workspaces:
    """Device memory of ``nbytes`` a stream, the first ``zeroed`` bytes zero at first. Freed with :meth:`free`.

    A stream runs one launch plan at a time, so its workspace is never shared; a stream that is being captured gets one
    of its own for each call, for the graph may run beside anything. Belongs to GPU ``ordinal``, whose context is
    current at every call but ``free``.
    """

    def __init__(self, nbytes: int, zeroed: int, ordinal: int = 0) -> None:
        self.nbytes, self.zeroed, self.ordinal = nbytes, zeroed, ordinal
        self._addresses: dict[object, int] = {}
        self._lock = threading.Lock()

    def get(self, stream: int) -> int:
        """Address of the workspace for a run in ``stream`` (0 when none is needed)."""
        if not self.nbytes:
            return 0
        capturing = _capturing(stream)
        key = object() if capturing else _identity(stream)
        with self._lock:
            if key not in self._addresses:
                with quietly():
                    self._addresses[key] = self._make(stream, capturing)
            return self._addresses[key]

    def free(self) -> None:
        """Give the memory back. The driver waits for what still uses it."""
        if not self._addresses:
            return
        with self._lock, contextlib.suppress(GpuTuneError), on_device(self.ordinal), quietly():
            for address in self._addresses.values():
                with contextlib.suppress(DriverError):
                    free(address)
            self._addresses.clear()

    def _make(self, stream: int, capturing: bool) -> int:
        address = allocate(self.nbytes)
        if self.zeroed and capturing:
            side = Stream()
            driver.memset(address, 0, self.zeroed, side.handle)
            side.synchronize()
            side.close()
        elif self.zeroed:
            driver.memset(address, 0, self.zeroed, stream)
        return address


def _identity(stream: int) -> tuple[int, int]:
    """What tells a stream from all others, past ones that had the same handle included (where the driver says)."""
    if driver.has("cuStreamGetId", stream):  # since CUDA 12.0
        return int(call("cuStreamGetId", stream)), -1
    return stream, threading.get_ident() if stream == _STREAM_PER_THREAD else 0


def _capturing(stream: int) -> bool:
    if library() is None or stream in (0, 1):  # the legacy default stream cannot be captured
        return False
    active = bindings().CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    return bool(call("cuStreamIsCapturing", stream) == active)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Captures, of this thread or of another, tolerate allocating and loading code inside the block, uncaptured."""
    mode = call("cuThreadExchangeStreamCaptureMode", bindings().CUstreamCaptureMode(_CAPTURE_RELAXED))
    try:
        yield
    finally:
        call("cuThreadExchangeStreamCaptureMode", mode)
