"""Workspaces of a kernel on a GPU: one a stream, one a captured graph; and the context that a device's work needs."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from . import driver
from .driver import call

_PER_THREAD_STREAM = 2
_RELAXED = 2
_NON_BLOCKING = 1
_CAPTURING = 1


@contextlib.contextmanager
def on_device(ordinal: int) -> Iterator[None]:
    """Make the primary context of GPU ``ordinal`` current inside the block (CuPy and PyTorch use the same one)."""
    handle, context, current = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    call("cuDeviceGet", ctypes.byref(handle), ordinal)
    lib = driver.library()
    if lib is not None and lib.cuCtxGetDevice(ctypes.byref(current)) == 0 and current.value == handle.value:
        yield
        return
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    call("cuCtxPushCurrent_v2", context)
    try:
        yield
    finally:
        call("cuCtxPopCurrent_v2", ctypes.byref(context))


def device_of(pointer: int) -> int:
    """Number of the GPU that ``pointer`` belongs to."""
    ordinal, device_ordinal = ctypes.c_int(), 9
    call("cuPointerGetAttribute", ctypes.byref(ordinal), device_ordinal, ctypes.c_uint64(pointer))
    return ordinal.value


class Workspaces:
    """Device memory of ``nbytes`` a stream, the first ``zeroed`` bytes zero at first. Freed with :meth:`free`.

    A stream runs one launch plan at a time, so its workspace is never shared; a stream that is being captured gets one
    of its own for each call, for the graph may run beside anything.
    """

    def __init__(self, nbytes: int, zeroed: int) -> None:
        self.nbytes, self.zeroed = nbytes, zeroed
        self._by_stream: dict[tuple[int, int], int] = {}
        self._captured: list[int] = []
        self._lock = threading.Lock()

    def get(self, stream: int) -> int:
        """Address of the workspace for a run in ``stream`` (0 when none is needed)."""
        if not self.nbytes:
            return 0
        if _capturing(stream):
            with _relaxed():
                address = self._make(0, wait=True)
            with self._lock:
                self._captured.append(address)
            return address
        key = (stream, threading.get_ident() if stream == _PER_THREAD_STREAM else 0)
        with self._lock:
            if key not in self._by_stream:
                self._by_stream[key] = self._make(stream, wait=False)
            return self._by_stream[key]

    @contextlib.contextmanager
    def quietly(self, stream: int) -> Iterator[None]:
        """Let calls that a capture of ``stream`` forbids (loading code) pass inside the block, uncaptured."""
        with _relaxed() if _capturing(stream) else contextlib.nullcontext():
            yield

    def free(self) -> None:
        """Give the memory back. Only when no run is pending."""
        lib = driver.library()
        with self._lock:
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
            call("cuStreamCreate", ctypes.byref(side), _NON_BLOCKING)
            driver.memset(address.value, 0, self.zeroed, int(side.value or 0))
            call("cuStreamSynchronize", side)
            call("cuStreamDestroy_v2", side)
        return address.value


def _capturing(stream: int) -> bool:
    status = ctypes.c_int()
    lib = driver.library()
    if lib is None or stream in (0, 1):  # the legacy default stream cannot be captured
        return False
    call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
    return status.value == _CAPTURING


@contextlib.contextmanager
def _relaxed() -> Iterator[None]:
    """This thread's captures tolerate allocation inside the block; what happens there is not captured."""
    mode = ctypes.c_int(_RELAXED)
    call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    try:
        yield
    finally:
        call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
