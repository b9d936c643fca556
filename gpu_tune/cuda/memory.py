"""What a call of a kernel needs of the driver, whatever library its arrays are of: contexts, order, workspaces.

CuPy is not asked, for a caller may have PyTorch alone. (Where kernels are measured, memory, streams, events and graphs
are CuPy's: ``measure/runtime.py``.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ..errors import GpuTuneError
from . import driver
from .driver import DriverError, bindings, call, library

_CAPTURE_RELAXED, _STREAM_PER_THREAD = 2, 2
_STREAM_NON_BLOCKING, _EVENT_NO_TIMING = 1, 2


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
    event = call("cuEventCreate", _EVENT_NO_TIMING)
    try:
        call("cuEventRecord", event, before)
        call("cuStreamWaitEvent", after, event, 0)
    finally:
        call("cuEventDestroy", event)


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
                    call("cuMemFree", address)
            self._addresses.clear()

    def _make(self, stream: int, capturing: bool) -> int:
        address = int(call("cuMemAlloc", self.nbytes))
        if self.zeroed and capturing:
            side = call("cuStreamCreate", _STREAM_NON_BLOCKING)
            driver.memset(address, 0, self.zeroed, int(side))
            call("cuStreamSynchronize", side)
            call("cuStreamDestroy", side)
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
