"""The CUDA driver through ctypes: devices, modules, kernels, tensor maps, launches. Loaded when first called.

Only what running a launch plan needs; memory, streams and graphs belong to the caller's library. Pointers and streams
are plain integers. Numbers of attributes and layouts of structures are those of ``cuda.h``, which keeps them stable.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

from .device import Device, from_driver
from .errors import GpuTuneError, MeasureError

STICKY = (700, 702, 714, 715, 716, 717, 718, 719, 710, 720, 999)
"""Driver errors that leave the context unusable: illegal address, launch timeout, assert, hardware faults ..."""
OUT_OF_MEMORY = 2
_ATTRIBUTES = {
    "sm_count": 16, "l2_bytes": 38, "threads_per_sm": 39, "shared_bytes_per_sm": 81, "registers_per_sm": 82,
    "shared_bytes_per_block": 97, "blocks_per_sm": 106, "shared_reserved_per_block": 111, "threads_per_block": 1,
}  # fmt: skip
_CLOCK_KHZ, _MEMORY_KHZ, _BUS_BITS, _CC_MAJOR, _CC_MINOR = 13, 36, 37, 75, 76
_FUNC_REGISTERS, _FUNC_MAX_DYNAMIC_SHARED, _FUNC_NON_PORTABLE_CLUSTER = 4, 8, 14
_LAUNCH_CLUSTER, _LAUNCH_PDL = 4, 6


class DriverError(GpuTuneError):
    """A driver call failed; ``code`` is its CUresult."""

    def __init__(self, call: str, code: int, name: str = "") -> None:
        super().__init__(call, code, name)
        self.call, self.code, self.name = call, code, name

    def __str__(self) -> str:
        return f"{self.call} failed: {self.name or 'CUDA error'} ({self.code})"

    @property
    def sticky(self) -> bool:
        """Whether the context is lost."""
        return self.code in STICKY


class _Dim(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class _Value(ctypes.Union):
    _fields_ = (("pad", ctypes.c_char * 64), ("cluster", _Dim), ("flag", ctypes.c_int))


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", _Value))


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("count", ctypes.c_uint),
    )  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """libcuda, initialised; None when this machine has no driver or no usable GPU."""
    for name in (os.environ.get("GPU_TUNE_LIBCUDA"), "libcuda.so.1", "libcuda.so"):
        if name:
            with contextlib.suppress(OSError):
                lib = ctypes.CDLL(name)
                return lib if lib.cuInit(0) == 0 else None
    return None


def call(name: str, *arguments: Any) -> None:
    """Call the driver function ``name``; DriverError when it fails, MeasureError when there is no driver."""
    lib = library()
    if lib is None:
        raise MeasureError("no CUDA driver (libcuda.so.1) or no GPU on this machine; run gpu-tune doctor")
    code = getattr(lib, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        lib.cuGetErrorName(code, ctypes.byref(text))
        raise DriverError(name, code, (text.value or b"").decode())


def version() -> tuple[int, int]:
    """(major, minor) of the CUDA version that the driver supports."""
    number = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def device_count() -> int:
    """GPUs that this process can see; 0 without a driver."""
    count = ctypes.c_int()
    if library() is None:
        return 0
    call("cuDeviceGetCount", ctypes.byref(count))
    return count.value


def describe(ordinal: int = 0) -> Device:
    """Limits and identity of GPU ``ordinal``, as the driver tells them."""
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    call("cuDeviceGet", ctypes.byref(handle), ordinal)
    call("cuDeviceGetName", name, 256, handle)
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, handle)
        return value.value

    facts: dict[str, Any] = {field: attribute(number) for field, number in _ATTRIBUTES.items()}
    facts.update(compute_capability=(attribute(_CC_MAJOR), attribute(_CC_MINOR)), memory_bytes=memory.value)
    clock, memory_clock, bus = attribute(_CLOCK_KHZ), attribute(_MEMORY_KHZ), attribute(_BUS_BITS)
    if clock:
        facts["clock_mhz"] = clock // 1000
    if memory_clock and bus:
        facts["bandwidth"] = 2 * memory_clock * 1e3 * bus / 8
    device = from_driver(name.value.decode(), facts)
    return device


def bus_id(ordinal: int = 0) -> str:
    """PCI bus id of GPU ``ordinal`` (NVML knows GPUs by it, whatever CUDA_VISIBLE_DEVICES says)."""
    handle, text = ctypes.c_int(), ctypes.create_string_buffer(64)
    call("cuDeviceGet", ctypes.byref(handle), ordinal)
    call("cuDeviceGetPCIBusId", text, 64, handle)
    return text.value.decode()


def use_context(ordinal: int | None = None) -> None:
    """Make a context current in this thread unless one is: GPU ``ordinal``'s primary context (None: GPU 0's)."""
    current, handle, context = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_void_p()
    call("cuCtxGetCurrent", ctypes.byref(current))
    if current and ordinal is None:
        return
    call("cuDeviceGet", ctypes.byref(handle), ordinal or 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    call("cuCtxSetCurrent", context)


class Module:
    """A cubin loaded into the current context. Kernels stay valid while it lives."""

    def __init__(self, cubin: bytes) -> None:
        self._handle = ctypes.c_void_p()
        self._image = ctypes.create_string_buffer(cubin + b"\0", len(cubin) + 1)
        call("cuModuleLoadData", ctypes.byref(self._handle), self._image)

    def kernel(self, name: str, shared_bytes: int = 0, wide_cluster: bool = False) -> int:
        """Handle of ``name``, allowed ``shared_bytes`` of dynamic shared memory (and clusters above 8)."""
        function = ctypes.c_void_p()
        call("cuModuleGetFunction", ctypes.byref(function), self._handle, name.encode())
        registers = ctypes.c_int()  # asking for them loads the kernel now: a lazy load would break a graph capture
        call("cuFuncGetAttribute", ctypes.byref(registers), _FUNC_REGISTERS, function)
        if shared_bytes:
            call("cuFuncSetAttribute", function, _FUNC_MAX_DYNAMIC_SHARED, ctypes.c_int(shared_bytes))
        if wide_cluster:
            call("cuFuncSetAttribute", function, _FUNC_NON_PORTABLE_CLUSTER, ctypes.c_int(1))
        return int(function.value or 0)

    def unload(self) -> None:
        """Free the module; only when no launch of its kernels is pending."""
        if self._handle:
            call("cuModuleUnload", self._handle)
            self._handle = ctypes.c_void_p()


class Launch:
    """One kernel launch, prepared: configuration and arguments lie in memory of its own."""

    def __init__(
        self,
        function: int,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        cluster: Sequence[int],
        arguments: Sequence[Any],
        pdl: bool = False,
    ) -> None:
        self.arguments = list(arguments)  # ctypes objects; they must live as long as the launch
        self._function = ctypes.c_void_p(function)
        self._pointers = (ctypes.c_void_p * max(1, len(arguments)))(*[ctypes.addressof(a) for a in self.arguments])
        self._attributes = (_Attribute * 2)()
        count = 0
        if tuple(cluster) != (1, 1, 1):
            self._attributes[count].id = _LAUNCH_CLUSTER
            self._attributes[count].value.cluster = _Dim(*cluster)
            count += 1
        if pdl:
            self._attributes[count].id = _LAUNCH_PDL
            self._attributes[count].value.flag = 1
            count += 1
        self._config = _LaunchConfig((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared_bytes, None,
                                     self._attributes, count)  # fmt: skip

    def __call__(self, stream: int) -> None:
        config = _LaunchConfig.from_buffer_copy(self._config)  # re-entrant: the stream is the call's own
        config.stream = stream or None
        call("cuLaunchKernelEx", ctypes.byref(config), self._function, self._pointers, None)


def memset(pointer: int, value: int, nbytes: int, stream: int) -> None:
    """Set ``nbytes`` bytes at ``pointer``, in ``stream`` order."""
    call(
        "cuMemsetD8Async",
        ctypes.c_uint64(pointer),
        ctypes.c_ubyte(value),
        ctypes.c_size_t(nbytes),
        ctypes.c_void_p(stream or None),
    )
