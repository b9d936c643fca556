"""A stand-in for CuPy on the virtual GPU, with exactly the names that ``gpu_tune/measure/runtime.py`` uses.

Any other name is an AttributeError. Arrays are NumPy's, on memory of the virtual GPU or (results of expressions) of the
host; streams, events, graphs and modules are the virtual driver's. As strict as CuPy where a wrong call would show.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_tune.cuda import driver as _driver

__all__ = ("asarray", "asnumpy", "cuda", "empty", "float64", "get_default_memory_pool", "ndarray", "pad", "random",
           "repeat", "zeros")  # fmt: skip
float64, pad, repeat = np.float64, np.pad, np.repeat
_THREAD_LOCAL = 1


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"cudaError{status}: as the stand-in driver says")


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"{_driver.bindings().CUresult(status).name}: as the stand-in driver says")


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


def _call(name: str, *arguments: Any, error: type[Exception] = CUDARuntimeError) -> Any:
    """What the driver's function returns; CuPy's error where it fails."""
    code, *values = getattr(_driver.bindings(), name)(*arguments)
    if code:
        raise error(int(code))
    return values[0] if len(values) == 1 else tuple(values)


def _drop(name: str, handle: Any) -> None:
    with contextlib.suppress(Exception):  # the context may be lost, or the interpreter ending
        getattr(_driver.bindings(), name)(handle)


class Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = int(_call("cuCtxGetDevice")) if device is None else device

    def use(self) -> None:
        _call("cuInit", 0)
        _call("cuCtxSetCurrent", _call("cuDevicePrimaryCtxRetain", _call("cuDeviceGet", self.id)))

    def synchronize(self) -> None:
        _call("cuCtxSynchronize")

    @property
    def mem_info(self) -> tuple[int, int]:
        return tuple(_call("cuMemGetInfo"))  # type: ignore[return-value]


class Stream:
    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        assert non_blocking and not null and not ptds and priority is None, "the worker makes streams of this kind"
        self._handle = _call("cuStreamCreate", 1)
        self.ptr = int(self._handle)

    def __del__(self) -> None:
        _drop("cuStreamDestroy", self._handle)

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", self._handle)

    def begin_capture(self, mode: int | None = None) -> None:
        assert mode == _THREAD_LOCAL, "CuPy's default is relaxed, which lets mistakes pass"
        _call("cuStreamBeginCapture", self._handle, _driver.bindings().CUstreamCaptureMode(mode))

    def end_capture(self) -> Graph:
        return Graph(_call("cuStreamEndCapture", self._handle))


class Graph:
    def __init__(self, captured: Any) -> None:
        self._executable = _call("cuGraphInstantiate", captured, 0)
        _call("cuGraphDestroy", captured)

    def __del__(self) -> None:
        if hasattr(self, "_executable"):
            _drop("cuGraphExecDestroy", self._executable)

    def launch(self, stream: Stream | None = None) -> None:
        assert stream is not None, "CuPy would take the current one"
        _call("cuGraphLaunch", self._executable, stream._handle)


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._handle = _call("cuEventCreate", 0)

    def __del__(self) -> None:
        _drop("cuEventDestroy", self._handle)

    def record(self, stream: Stream | None = None) -> None:
        assert stream is not None, "CuPy would take the current one"
        _call("cuEventRecord", self._handle, stream._handle)

    def synchronize(self) -> None:
        _call("cuEventSynchronize", self._handle)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    return float(_call("cuEventElapsedTime", start_event._handle, end_event._handle))


class _Pool:
    """Blocks that were given back, by size: kept until ``free_all_blocks``, as CuPy's pool keeps them."""

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = {}
        self._used, self._lock = 0, threading.Lock()

    def take(self, nbytes: int) -> int:
        with self._lock:
            kept = self._free.get(nbytes)
            if kept:
                return kept.pop()
        for again in (False, True):
            try:
                address = int(_call("cuMemAlloc", nbytes))
                self._used += nbytes
                return address
            except CUDARuntimeError as error:
                if error.status != 2:
                    raise
                if again:
                    raise OutOfMemoryError(nbytes, self._used) from error
                self.free_all_blocks()
        raise AssertionError

    def give(self, nbytes: int, address: int) -> None:
        with self._lock:
            self._free.setdefault(nbytes, []).append(address)

    def free_all_blocks(self) -> None:
        with self._lock:
            kept, self._free = self._free, {}
        for nbytes, addresses in kept.items():
            for address in addresses:
                _drop("cuMemFree", address)
                self._used -= nbytes


_pool = _Pool()


def get_default_memory_pool() -> Any:
    return SimpleNamespace(free_all_blocks=_pool.free_all_blocks)


class _Block:
    def __init__(self, nbytes: int) -> None:
        self.size = -(-nbytes // 512) * 512
        self.ptr = _pool.take(self.size)

    def __del__(self) -> None:
        if hasattr(self, "ptr"):
            _pool.give(self.size, self.ptr)


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        assert device_id >= 0, "CuPy would ask the driver whose memory it is"
        self.ptr, self.size = ptr, size


class MemoryPointer:
    def __init__(self, mem: Any, offset: int) -> None:
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, 0

    def copy_from_device(self, src: MemoryPointer, size: int) -> None:
        _call("cuMemcpyDtoD", self.ptr, src.ptr, size)


class ndarray(np.ndarray):
    """On memory of the virtual GPU, which is the host's; ``get`` and ``set`` go through the driver."""

    def __new__(
        cls, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None, strides: Any = None, order: str = "C"
    ) -> ndarray:
        dtype = np.dtype(dtype)
        assert dtype.kind in "iufb" and memptr is not None
        last = sum((n - 1) * s for n, s in zip(shape, strides)) + dtype.itemsize if strides else 0
        raw = (ctypes.c_ubyte * max(1, last or int(np.prod(shape)) * dtype.itemsize)).from_address(memptr.ptr)
        made = super().__new__(cls, shape, dtype, raw, 0, strides, order)
        made._memptr = memptr
        return made

    def __array_finalize__(self, source: Any) -> None:
        self._memptr = None

    @property
    def data(self) -> MemoryPointer:  # type: ignore[override]
        assert self._memptr is not None
        return self._memptr

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        assert type(arr) is np.ndarray and arr.dtype == self.dtype and arr.shape == self.shape and stream is None
        _call("cuMemcpyHtoD", self.data.ptr, arr.ctypes.data, arr.nbytes)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if self._memptr is None:
            return np.array(self, order=order)
        made = np.empty(self.shape, self.dtype)
        assert self.flags.c_contiguous
        _call("cuMemcpyDtoH", made.ctypes.data, self.data.ptr, made.nbytes)
        return made


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    shape = (shape,) if isinstance(shape, int) else shape
    return ndarray(shape, dtype, MemoryPointer(_Block(int(np.prod(shape)) * np.dtype(dtype).itemsize), 0), order=order)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return np.zeros(shape, dtype, order).view(ndarray)


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    return np.asarray(a, dtype, order).view(ndarray)


def asnumpy(a: Any, stream: Any = None, order: str = "C") -> np.ndarray:
    assert stream is None
    return np.array(a, order=order)  # type: ignore[call-overload,no-any-return]


class Module:
    def __init__(self) -> None:
        self._handle: Any = None

    def __del__(self) -> None:
        if self._handle is not None:
            _drop("cuModuleUnload", self._handle)

    def load(self, cubin: bytes) -> None:
        assert type(cubin) is bytes
        self._handle = _call("cuModuleLoadData", cubin, error=CUDADriverError)

    def get_function(self, name: str) -> Any:
        found = _call("cuModuleGetFunction", self._handle, name.encode(), error=CUDADriverError)
        return SimpleNamespace(ptr=int(found), module=self)


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    MemoryPointer=MemoryPointer,
    Stream=Stream,
    UnownedMemory=UnownedMemory,
    driver=SimpleNamespace(CUDADriverError=CUDADriverError),
    function=SimpleNamespace(Module=Module),
    get_elapsed_time=get_elapsed_time,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError, streamCaptureModeThreadLocal=_THREAD_LOCAL),
)


class Generator:
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def standard_normal(self, size: Any = None, dtype: Any = float, out: Any = None) -> ndarray:
        return asarray(self._rng.standard_normal(size, dtype))

    def integers(self, low: int, high: int | None = None, size: Any = None) -> ndarray:
        return asarray(self._rng.integers(low, high, size))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> ndarray:
        return asarray(self._rng.uniform(low, high, size))


def default_rng(seed: Any = None) -> Generator:
    return Generator(seed)


random = SimpleNamespace(default_rng=default_rng)
