"""The CUDA driver through ctypes: devices, modules, kernels, tensor maps, launches; and NVML, for clocks and power.

Both are loaded when first called. Only what running a launch plan needs; memory, streams and graphs belong to the
caller's library. Pointers and streams are plain integers. Numbers of attributes and layouts of structures are those of
``cuda.h``, which keeps them stable.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

from ..errors import GpuTuneError, MeasureError
from .device import Device, from_driver

STICKY = (4, 201, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
"""Driver errors that leave the context unusable: illegal address, launch timeout, assert, memory and link faults ..."""
OUT_OF_MEMORY = 2
REMEDIES = {
    2: "free GPU memory: another process may hold it",
    3: "CUDA does not survive a fork: start the process anew (spawn)",
    34: "libcuda.so.1 is the toolkit's stub: put the driver's own first in the library path",
    36: "update the driver",
    46: "another process holds the GPU (compute mode exclusive-process): end it, or use another GPU",
    100: "check CUDA_VISIBLE_DEVICES and nvidia-smi",
    101: "check CUDA_VISIBLE_DEVICES and nvidia-smi",
    200: "the code was built by a newer CUDA than the driver knows: update the driver, or tune again here",
    209: "the code was built for another GPU: tune or load the workload on this one",
    214: "the GPU's memory is faulty (uncorrectable ECC error): see nvidia-smi -q",
    222: "the code was built by a newer CUDA than the driver knows: update the driver, or tune again here",
    300: "the code was built by a newer CUDA than the driver knows: update the driver, or tune again here",
    719: "dmesg has the Xid that tells the cause",
    802: "the fabric manager (nvidia-fabricmanager) must be running on this machine",
    803: "the driver's library and its kernel module differ: restart the machine after a driver update",
    804: "remove the CUDA compatibility libraries from the library path: this GPU does not support them",
}
"""What to do about a driver error, where its name alone does not say."""
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
        remedy = REMEDIES.get(self.code)
        return f"{self.call} failed: {self.name or 'CUDA error'} ({self.code})" + (f"; {remedy}" if remedy else "")

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


_FOLDERS = ("/usr/lib/wsl/lib/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1")
"""Where WSL and container runtimes put libcuda, should the loader not know."""
_reason = ""


@functools.cache
def library() -> ctypes.CDLL | None:
    """libcuda, initialised; None when this machine has no driver or no usable GPU (:func:`missing` says which)."""
    global _reason
    lib = _load()
    code = lib.cuInit(0) if lib is not None else 0
    _reason = "no CUDA driver (libcuda.so.1)" if lib is None else ""
    if lib is not None and code:
        _reason = str(DriverError("cuInit", code, _name(lib, code)))
    return None if code else lib


def _load() -> ctypes.CDLL | None:
    for name in (os.environ.get("GPU_TUNE_LIBCUDA"), "libcuda.so.1", "libcuda.so", *_FOLDERS):
        with contextlib.suppress(OSError):
            if name:
                return ctypes.CDLL(name)
    return None


def supported_major() -> int:
    """Major version of the CUDA that the driver supports, asked without starting it; 0 without a driver."""
    lib, number = _load(), ctypes.c_int()
    if lib is None or not hasattr(lib, "cuDriverGetVersion"):
        return 0
    return 0 if lib.cuDriverGetVersion(ctypes.byref(number)) else number.value // 1000


def missing() -> str:
    """Why there is no driver or no usable GPU, in words; empty when there is one."""
    return _reason if library() is None else ""


def call(name: str, *arguments: Any) -> None:
    """Call the driver function ``name``; DriverError when it fails, MeasureError when there is no (new enough) driver.

    Python integers travel as C ints; pointers, sizes and handles must be ctypes values.
    """
    lib = library()
    if lib is None:
        raise MeasureError(f"no CUDA GPU can be used on this machine: {missing()}; run gpu-tune doctor")
    try:
        function = getattr(lib, name)
    except AttributeError:
        known = "{}.{}".format(*version())
        raise MeasureError(
            f"the CUDA driver has no {name} (it supports CUDA {known}); update it to one that supports 12.0 or newer"
        ) from None
    code = function(*arguments)
    if code:
        raise DriverError(name, code, _name(lib, code))


def ask(kind: Any, name: str, *arguments: Any) -> Any:
    """What the driver function ``name`` puts into its first argument, of the ctypes type ``kind`` (null: 0)."""
    result = kind()
    call(name, ctypes.byref(result), *arguments)
    return result.value or 0


def _name(lib: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    lib.cuGetErrorName(code, ctypes.byref(text))
    return (text.value or b"").decode()


def version() -> tuple[int, int]:
    """(major, minor) of the CUDA version that the driver supports."""
    number = ask(ctypes.c_int, "cuDriverGetVersion")
    return number // 1000, number % 1000 // 10


def device_count() -> int:
    """GPUs that this process can see; 0 without a driver."""
    return 0 if library() is None else int(ask(ctypes.c_int, "cuDeviceGetCount"))


def describe(ordinal: int = 0) -> Device:
    """Limits and identity of GPU ``ordinal``, as the driver tells them."""
    handle, name = handle_of(ordinal), ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, 256, handle)

    def attribute(number: int) -> int:
        return int(ask(ctypes.c_int, "cuDeviceGetAttribute", number, handle))

    memory_bytes = ask(ctypes.c_size_t, "cuDeviceTotalMem_v2", handle)
    facts: dict[str, Any] = {field: attribute(number) for field, number in _ATTRIBUTES.items()}
    facts.update(compute_capability=(attribute(_CC_MAJOR), attribute(_CC_MINOR)), memory_bytes=memory_bytes)
    clock, memory_clock, bus = attribute(_CLOCK_KHZ), attribute(_MEMORY_KHZ), attribute(_BUS_BITS)
    if clock:  # some drivers keep these three to themselves (virtual machines, integrated GPUs)
        facts["clock_mhz"] = clock // 1000
    if memory_clock and bus:
        facts["bandwidth"] = 2 * memory_clock * 1e3 * bus / 8
    return from_driver(name.value.decode(), facts)


def handle_of(ordinal: int) -> int:
    """The driver's handle of GPU ``ordinal``."""
    return int(ask(ctypes.c_int, "cuDeviceGet", ordinal))


def bus_id(ordinal: int = 0) -> str:
    """PCI bus id of GPU ``ordinal`` (NVML knows GPUs by it, whatever CUDA_VISIBLE_DEVICES says)."""
    text = ctypes.create_string_buffer(64)
    call("cuDeviceGetPCIBusId", text, 64, handle_of(ordinal))
    return text.value.decode()


@functools.cache
def _primary(library_: int, ordinal: int) -> int:
    return int(ask(ctypes.c_void_p, "cuDevicePrimaryCtxRetain", handle_of(ordinal)))


def primary_context(ordinal: int) -> ctypes.c_void_p:
    """GPU ``ordinal``'s primary context, the one that the CUDA runtime (CuPy, PyTorch) uses; retained once and kept."""
    return ctypes.c_void_p(_primary(id(library()), ordinal))


def use_context(ordinal: int | None = None) -> None:
    """Make a context current in this thread unless one is: GPU ``ordinal``'s primary context (None: GPU 0's)."""
    if ordinal is not None or not ask(ctypes.c_void_p, "cuCtxGetCurrent"):
        call("cuCtxSetCurrent", primary_context(ordinal or 0))


class Module:
    """A cubin loaded into the current context. Kernels stay valid while it lives."""

    def __init__(self, cubin: bytes) -> None:
        self._image = ctypes.create_string_buffer(cubin + b"\0", len(cubin) + 1)
        self._handle = ctypes.c_void_p(ask(ctypes.c_void_p, "cuModuleLoadData", self._image))

    def kernel(self, name: str, shared_bytes: int = 0, wide_cluster: bool = False) -> int:
        """Handle of ``name``, allowed ``shared_bytes`` of dynamic shared memory (and clusters above 8).

        The allowance is the kernel's, not the launch's: ask once, with the most that any launch needs.
        """
        function = ctypes.c_void_p(ask(ctypes.c_void_p, "cuModuleGetFunction", self._handle, name.encode()))
        # what loads it now: a lazy load would break a graph capture, or be timed
        ask(ctypes.c_int, "cuFuncGetAttribute", _FUNC_REGISTERS, function)
        if hasattr(library(), "cuFuncLoad"):  # since CUDA 12.4
            call("cuFuncLoad", function)
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
        clustered = tuple(cluster) != (1, 1, 1)
        attributes = [_Attribute(_LAUNCH_CLUSTER, value=_Value(cluster=_Dim(*cluster)))] if clustered else []
        attributes += [_Attribute(_LAUNCH_PDL, value=_Value(flag=1))] if pdl else []
        self._attributes = (_Attribute * 2)(*attributes)
        self._config = _LaunchConfig((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared_bytes, None,
                                     self._attributes, len(attributes))  # fmt: skip

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


def detect_device() -> Device | None:
    """The GPU that CUDA shows first, or None without a GPU or driver."""
    return describe() if device_count() else None


_SENSORS: dict[str, tuple[Any, ...]] = {
    "sm_clock_mhz": ("ClockInfo", 1), "memory_clock_mhz": ("ClockInfo", 2), "power_w": ("PowerUsage",),
    "temperature_c": ("Temperature", 0),
}  # fmt: skip
"""NVML's function of each reading, without ``nvmlDeviceGet``, and which of its kind."""
_THROTTLE_REASONS = {
    0x2: "applications_clocks", 0x4: "software_power_cap", 0x8: "hardware_slowdown", 0x10: "sync_boost",
    0x20: "software_thermal", 0x40: "hardware_thermal", 0x80: "hardware_power_brake", 0x100: "display_clocks",
}  # fmt: skip


@functools.cache
def _nvml() -> ctypes.CDLL | None:
    for name in ("libnvidia-ml.so.1", "libnvidia-ml.so"):
        with contextlib.suppress(OSError):
            lib = ctypes.CDLL(name)
            return lib if lib.nvmlInit_v2() == 0 else None
    return None


def display_version() -> str:
    """The display driver's version (``580.65.06``), empty without NVML."""
    lib, text = _nvml(), ctypes.create_string_buffer(96)
    return text.value.decode() if lib is not None and lib.nvmlSystemGetDriverVersion(text, 96) == 0 else ""


def sensors(bus_id: str) -> dict[str, Any]:
    """``sm_clock_mhz``, ``memory_clock_mhz``, ``power_w``, ``temperature_c``, ``throttle`` (names) of the GPU with PCI
    ``bus_id``, as far as it tells (a MIG slice tells little)."""
    lib, handle = _nvml(), ctypes.c_void_p()
    found: dict[str, Any] = {}
    if lib is None or lib.nvmlDeviceGetHandleByPciBusId_v2(bus_id.encode(), ctypes.byref(handle)):
        return found
    number, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
    for name, (function, *kind) in _SENSORS.items():
        if getattr(lib, f"nvmlDeviceGet{function}")(handle, *kind, ctypes.byref(number)) == 0:
            found[name] = number.value / 1000 if name == "power_w" else number.value
    # newer libraries name it anew, and may drop the old name
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    ask = next((getattr(lib, n) for n in names if hasattr(lib, n)), None)
    if ask is not None and ask(handle, ctypes.byref(reasons)) == 0:
        found["throttle"] = [name for bit, name in _THROTTLE_REASONS.items() if reasons.value & bit]
    return found
