"""Workspaces of a kernel on a GPU: one a stream, one a captured graph; and the context that a device's work needs."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from ..errors import GpuTuneError
from . import driver
from .driver import call

_PER_THREAD_STREAM = 2
_RELAXED = 2
_NON_BLOCKING = 1
_CAPTURING = 1
_NO_TIMING = 2


@contextlib.contextmanager
def on_device(ordinal: int) -> Iterator[None]:
    """A context of GPU ``ordinal`` is current inside the block: the caller's, else the primary one (CuPy's, too)."""
    current, device, handle, lib = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int(), driver.library()
    call("cuDeviceGet", ctypes.byref(handle), ordinal)
    if lib is not None and lib.cuCtxGetDevice(ctypes.byref(device)) == 0 and device.value == handle.value:
        yield
        return
    call("cuCtxPushCurrent_v2", driver.primary_context(ordinal))
    try:
        yield
    finally:
        call("cuCtxPopCurrent_v2", ctypes.byref(current))


def device_of(pointer: int) -> int:
    """Number of the GPU that ``pointer`` belongs to."""
    ordinal, device_ordinal = ctypes.c_int(), 9
    call("cuPointerGetAttribute", ctypes.byref(ordinal), device_ordinal, ctypes.c_uint64(pointer))
    return ordinal.value


def order(before: int, after: int) -> None:
    """What is queued in stream ``after`` from now on waits for what is in stream ``before`` (both CUstreams)."""
    event = ctypes.c_void_p()
    call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(_NO_TIMING))
    try:
        call("cuEventRecord", event, ctypes.c_void_p(before))
        call("cuStreamWaitEvent", ctypes.c_void_p(after), event, ctypes.c_uint(0))
    finally:
        call("cuEventDestroy_v2", event)


class Workspaces:
    """Device memory of ``nbytes`` a stream, the first ``zeroed`` bytes zero at first. Freed with :meth:`free`.

    A stream runs one launch plan at a time, so its workspace is never shared; a stream that is being captured gets one
    of its own for each call, for the graph may run beside anything. Belongs to GPU ``ordinal``, whose context is
    current at every call but ``free``.
    """

    def __init__(self, nbytes: int, zeroed: int, ordinal: int = 0) -> None:
        self.nbytes, self.zeroed, self.ordinal = nbytes, zeroed, ordinal
        self._by_stream: dict[tuple[int, int], int] = {}
        self._captured: list[int] = []
        self._lock = threading.Lock()

    def get(self, stream: int) -> int:
        """Address of the workspace for a run in ``stream`` (0 when none is needed)."""
        if not self.nbytes:
            return 0
        if _capturing(stream):
            with quietly():
                address = self._make(0, wait=True)
            with self._lock:
                self._captured.append(address)
            return address
        key = _identity(stream)
        with self._lock:
            if key not in self._by_stream:
                with quietly():
                    self._by_stream[key] = self._make(stream, wait=False)
            return self._by_stream[key]

    def free(self) -> None:
        """Give the memory back. The driver waits for what still uses it."""
        if not self._by_stream and not self._captured:
            return
        lib = driver.library()
        with self._lock, contextlib.suppress(GpuTuneError), on_device(self.ordinal), quietly():
            for address in (*self._by_stream.values(), *self._captured):
                if lib is not None:
                    lib.cuMemFree_v2(ctypes.c_uint64(address))
            self._by_stream.clear()
            self._captured.clear()

    def _make(self, stream: int, wait: bool) -> int:
        address = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(self.nbytes))
        if self.zeroed and not wait:
            driver.memset(address.value, 0, self.zeroed, stream)
        elif self.zeroed:
            side = ctypes.c_void_p()
            call("cuStreamCreate", ctypes.byref(side), ctypes.c_uint(_NON_BLOCKING))
            driver.memset(address.value, 0, self.zeroed, int(side.value or 0))
            call("cuStreamSynchronize", side)
            call("cuStreamDestroy_v2", side)
        return address.value


def _identity(stream: int) -> tuple[int, int]:
    """What tells a stream from all others, past ones that had the same handle included (where the driver says)."""
    lib = driver.library()
    if hasattr(lib, "cuStreamGetId"):  # since CUDA 12.0
        number = ctypes.c_ulonglong()
        call("cuStreamGetId", ctypes.c_void_p(stream), ctypes.byref(number))
        return number.value, -1
    return stream, threading.get_ident() if stream == _PER_THREAD_STREAM else 0


def _capturing(stream: int) -> bool:
    status = ctypes.c_int()
    lib = driver.library()
    if lib is None or stream in (0, 1):  # the legacy default stream cannot be captured
        return False
    call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
    return status.value == _CAPTURING


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Captures, of this thread or of another, tolerate allocating and loading code inside the block, uncaptured."""
    mode = ctypes.c_int(_RELAXED)
    call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    try:
        yield
    finally:
        call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
