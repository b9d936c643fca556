"""CuPy as the GPU worker uses it: device, memory, streams, events, graphs, modules, arrays. CuPy is in no other file.

Addresses and streams are plain integers outside (``stream.ptr``). Errors of CuPy come out as :class:`DriverError`, as
those of the driver do that NVIDIA's bindings report.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..cuda import driver
from ..cuda.driver import DriverError
from ..errors import MeasureError
from ..reference import products
from ..reference.inputs import Draw, rounded
from ..workload import Workload

Stream = Any
"""``cupy.cuda.Stream``; ``stream.ptr`` is the CUstream."""
Graph = Any
"""``cupy.cuda.Graph``, instantiated; ``graph.launch(stream)`` replays it."""


@functools.cache
def cupy() -> Any:
    """The module; MeasureError names the extra where it is not installed."""
    try:
        import cupy
    except ImportError as error:
        raise MeasureError(
            f"CuPy is not installed ({error}), and nothing is timed on a GPU without it; pip install {driver.EXTRAS}"
        ) from error
    return cupy


def driver_error(error: BaseException, call: str = "CuPy") -> DriverError | None:
    """``error`` as the driver's, if it is one or CuPy reports one; else None."""
    if isinstance(error, DriverError):
        return error
    cuda = cupy().cuda
    if isinstance(error, cuda.memory.OutOfMemoryError):
        return DriverError(call, driver.OUT_OF_MEMORY, str(error))
    if isinstance(error, cuda.driver.CUDADriverError | cuda.runtime.CUDARuntimeError):
        code = int(error.status)  # the runtime's numbers are the driver's, where both have the error
        with contextlib.suppress(ValueError):
            return DriverError(call, code, driver.bindings().CUresult(code).name)
        return DriverError(call, code, str(error).partition(":")[0])
    return None


@contextlib.contextmanager
def reporting(call: str) -> Iterator[None]:
    """Errors of CuPy inside the block come out as DriverError of ``call``."""
    try:
        yield
    except Exception as error:
        found = driver_error(error, call)
        if found is None or found is error:
            raise
        raise found from error


def is_fatal(error: BaseException) -> bool:
    """Whether the error costs the context."""
    found = driver_error(error)
    return found is not None and found.sticky


def start(ordinal: int) -> None:
    """Make GPU ``ordinal``'s primary context current in this thread, for CuPy and for NVIDIA's bindings."""
    driver.handle_of(ordinal)  # so that the driver's library is the one that the gate to it chooses
    with reporting("cudaSetDevice"):
        cupy().cuda.Device(ordinal).use()
    driver.use_context(ordinal)


def new_stream() -> Stream:
    """A stream that does not wait for the default one."""
    with reporting("cuStreamCreate"):
        return cupy().cuda.Stream(non_blocking=True)


def synchronize() -> None:
    """Wait for everything in the context; a failed kernel shows here."""
    with reporting("cuCtxSynchronize"):
        cupy().cuda.Device().synchronize()


_owned: dict[int, Any] = {}


def allocate(nbytes: int) -> int:
    """Address of ``nbytes`` bytes of CuPy's memory pool, aligned to 256; DriverError 2 when out of memory."""
    with reporting("cuMemAlloc"):
        memory = cupy().empty(max(1, nbytes), np.uint8)
    _owned[memory.data.ptr] = memory
    return int(memory.data.ptr)


def free(address: int) -> None:
    """Give memory of :func:`allocate` back to the pool, once nothing that is queued can use it any more."""
    try:
        synchronize()
    finally:
        del _owned[address]


def free_bytes() -> int:
    """Bytes of device memory not in use; the pool keeps none for later."""
    with reporting("cuMemGetInfo"):
        release()
        return int(cupy().cuda.Device().mem_info[0])


def held_elsewhere() -> tuple[int, int]:
    """Bytes of device memory that are neither free nor this process's buffers, and all there are."""
    with reporting("cuMemGetInfo"):
        release()
        free, total = map(int, cupy().cuda.Device().mem_info)
    return total - free - sum(memory.nbytes for memory in _owned.values()), total


def release() -> None:
    """Give the memory that the pool keeps for later back to the driver: libraries allocate for themselves."""
    cupy().get_default_memory_pool().free_all_blocks()


def view(address: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None = None) -> Any:
    """``cupy.ndarray`` on the device memory at ``address``, which must live longer. ``strides`` in bytes."""
    xp, dtype = cupy(), np.dtype(dtype)
    extent = sum((n - 1) * s for n, s in zip(shape, strides)) + dtype.itemsize if strides else 0
    nbytes = extent or int(np.prod(shape)) * dtype.itemsize
    with reporting("cuPointerGetAttribute"):
        memory = xp.cuda.MemoryPointer(xp.cuda.UnownedMemory(address, nbytes, None, xp.cuda.Device().id), 0)
        return xp.ndarray(shape, dtype, memptr=memory, strides=strides)


def upload(address: int, data: np.ndarray) -> None:
    """Copy the bytes of a contiguous array to ``address`` and wait: other streams may use them afterwards."""
    flat = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    if flat.size:
        with reporting("cuMemcpyHtoD"):
            view(address, flat.shape, np.uint8).set(flat)
            synchronize()  # from pageable memory the call may return before the bytes have arrived


def download(address: int, nbytes: int) -> np.ndarray:
    """``nbytes`` bytes from ``address`` as a uint8 array. The stream that writes them must have been waited for."""
    if not nbytes:
        return np.empty(0, np.uint8)
    with reporting("cuMemcpyDtoH"):
        found: np.ndarray = view(address, (nbytes,), np.uint8).get()
        return found


def copy(target: int, source: int, nbytes: int) -> None:
    """Copy within device memory, and wait."""
    with reporting("cuMemcpyDtoD"):
        view(target, (nbytes,), np.uint8).data.copy_from_device(view(source, (nbytes,), np.uint8).data, nbytes)
        synchronize()


def timer(stream: Stream) -> Callable[[Callable[[int], None]], float]:
    """Called with a function that issues work into a stream: the seconds that the device takes for it."""
    cuda = cupy().cuda
    first, last = cuda.Event(), cuda.Event()

    def timed(issue: Callable[[int], None]) -> float:
        with reporting("cuEventSynchronize"):
            first.record(stream)
            issue(stream.ptr)
            last.record(stream)
            last.synchronize()
            return float(cuda.get_elapsed_time(first, last)) * 1e-3

    return timed


def capture(stream: Stream, issue: Callable[[int], Any]) -> Graph:
    """What ``issue(stream)`` issues, as a graph; its launch repeats it with next to no cost on the host.

    Nothing is collected meanwhile: a module or memory that is given up inside a capture spoils it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _captured(stream, issue)
    finally:
        if collecting:
            gc.enable()


def _captured(stream: Stream, issue: Callable[[int], Any]) -> Graph:
    with reporting("cuStreamBeginCapture"):
        stream.begin_capture(cupy().cuda.runtime.streamCaptureModeThreadLocal)
    try:
        issue(stream.ptr)
    except BaseException:  # its error is the one to see, not that of a capture it has spoilt
        with contextlib.suppress(Exception):
            stream.end_capture()
        raise
    with reporting("cuStreamEndCapture"):
        return stream.end_capture()


def draw(draw: Draw, key: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What ``draw`` makes of CuPy's generator with seed ``key``, drawn and rounded to ``dtype`` on the GPU."""
    try:
        values = draw(cupy().random.default_rng(key), shape)
        known = dtype.itemsize > 1 or dtype == np.int8  # CuPy has no float8
        host: np.ndarray = rounded(values, dtype).get().view(dtype) if known else values.get().astype(dtype)
        return host
    finally:
        release()


def wide_products(workload: Workload, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``reference.products`` in float64 on the GPU. Inputs are exact in float32, and take half the bytes to upload."""
    xp = cupy()
    try:
        names = arrays.keys() & {*workload.inputs, "scale_a", "scale_b"}
        single = {n: xp.asarray(np.asarray(arrays[n]).astype(np.float32)) for n in names}
        product, magnitude = products(workload, single, xp)
        return xp.asnumpy(product), xp.asnumpy(magnitude)
    finally:  # CuPy keeps what it frees, and the candidates need it
        release()


class Module:
    """A cubin loaded into the current context by CuPy; see :class:`gpu_tune.cuda.driver.Module`."""

    def __init__(self, cubin: bytes) -> None:
        self._module = cupy().cuda.function.Module()
        with reporting("cuModuleLoadData"):
            self._module.load(cubin)

    def kernel(self, name: str, shared_bytes: int = 0, wide_cluster: bool = False) -> Any:
        with reporting("cuModuleGetFunction"):
            function = self._module.get_function(name)
        return driver.allow(driver.bindings().CUfunction(function.ptr), shared_bytes, wide_cluster)

    def unload(self) -> None:
        self._module = None
