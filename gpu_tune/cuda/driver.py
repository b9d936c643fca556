"""The one gate to the CUDA driver: NVIDIA's bindings (``cuda.bindings.driver``), and the rules that nobody else keeps.

Those rules: which libcuda is used (``GPU_TUNE_LIBCUDA``, the loader's, or where WSL and containers put it), what to do
about an error, and which errors cost the context. The bindings use the libcuda that is loaded first in a process, so a
process keeps the one it began with. Nothing is loaded before the first call. Pointers and streams are plain integers.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import GpuTuneError, MeasureError
from .device import Device, from_driver

STICKY = (4, 201, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
"""Driver errors that leave the context unusable: illegal address, launch timeout, assert, memory and link faults ..."""
OUT_OF_MEMORY = 2
UNKNOWN_CODE = (200, 209, 222, 300)
"""Driver errors of code that this driver or GPU does not know: it came from a newer compiler, or is for another GPU."""
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
EXTRAS = "gpu_tune[cuda13] (or [cuda12], as the driver supports)"
_ATTRIBUTES = {
    "sm_count": 16, "l2_bytes": 38, "threads_per_sm": 39, "shared_bytes_per_sm": 81, "registers_per_sm": 82,
    "shared_bytes_per_block": 97, "blocks_per_sm": 106, "shared_reserved_per_block": 111, "threads_per_block": 1,
}  # fmt: skip
_CLOCK_KHZ, _MEMORY_KHZ, _BUS_BITS, _CC_MAJOR, _CC_MINOR = 13, 36, 37, 75, 76
_KEPT_STREAMS = 64
"""Streams whose launch configuration a prepared launch keeps."""


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


_FOLDERS = ("/usr/lib/wsl/lib/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1")
"""Where WSL and container runtimes put libcuda, should the loader not know."""
_SONAME = "libcuda.so.1"
_reason = ""


@functools.cache
def bindings() -> Any:
    """``cuda.bindings.driver``; MeasureError names the extra where it is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MeasureError(
            f"NVIDIA's CUDA bindings are not installed ({error}), and a GPU cannot be used without; "
            f"pip install {EXTRAS}"
        ) from error
    return driver


@functools.cache
def library() -> Any:
    """The driver's functions, initialised; None when this machine has no driver or no usable GPU (see missing())."""
    global _reason
    found = _load()
    _reason = "" if found else f"no CUDA driver ({_SONAME})"
    if not found:
        return None
    (code,) = bindings().cuInit(0)
    if code:
        _reason = str(DriverError("cuInit", int(code), code.name))
    return None if code else bindings()


def _load() -> bool:
    """Load the libcuda that the bindings are to use; whether there is one."""
    for name in (os.environ.get("GPU_TUNE_LIBCUDA"), _SONAME, "libcuda.so", *_FOLDERS):
        with contextlib.suppress(OSError):
            if name:
                ctypes.CDLL(name)
                return True
    return False


def supported_major() -> int:
    """Major version of the CUDA that the driver supports, asked without starting it; 0 without a driver."""
    if not _load():
        return 0
    code, number = bindings().cuDriverGetVersion()
    return 0 if code else number // 1000


def missing() -> str:
    """Why there is no driver or no usable GPU, in words; empty when there is one."""
    return _reason if library() is None else ""


def call(name: str, *arguments: Any) -> Any:
    """What the driver function ``name`` returns: None, one value, or a tuple of several.

    DriverError when it fails, MeasureError when there is no (new enough) driver.
    """
    lib = library()
    if lib is None:
        raise MeasureError(f"no CUDA GPU can be used on this machine: {missing()}; run gpu-tune doctor")
    try:
        code, *values = getattr(lib, name)(*arguments)
    except (AttributeError, RuntimeError):  # unknown to the bindings; unknown to the driver
        known = "{}.{}".format(*version())
        raise MeasureError(
            f"the CUDA driver has no {name} (it supports CUDA {known}); update it to one that supports 12.0 or newer"
        ) from None
    if code:
        raise DriverError(name, int(code), code.name)
    return values[0] if len(values) == 1 else tuple(values) or None


def has(name: str, *arguments: Any) -> bool:
    """Whether the driver knows the function ``name``, which is called (with arguments that do no harm)."""
    try:
        getattr(library(), name)(*arguments)
    except (AttributeError, RuntimeError):
        return False
    return True


def version() -> tuple[int, int]:
    """(major, minor) of the CUDA version that the driver supports."""
    number = call("cuDriverGetVersion")
    return number // 1000, number % 1000 // 10


def device_count() -> int:
    """GPUs that this process can see; 0 without a driver."""
    return 0 if library() is None else int(call("cuDeviceGetCount"))


def describe(ordinal: int = 0) -> Device:
    """Limits and identity of GPU ``ordinal``, as the driver tells them."""
    handle, kinds = handle_of(ordinal), bindings().CUdevice_attribute

    def attribute(number: int) -> int:
        return int(call("cuDeviceGetAttribute", kinds(number), handle))

    name = call("cuDeviceGetName", 256, handle).partition(b"\0")[0].decode()
    memory_bytes = int(call("cuDeviceTotalMem", handle))
    facts: dict[str, Any] = {field: attribute(number) for field, number in _ATTRIBUTES.items()}
    facts.update(compute_capability=(attribute(_CC_MAJOR), attribute(_CC_MINOR)), memory_bytes=memory_bytes)
    clock, memory_clock, bus = attribute(_CLOCK_KHZ), attribute(_MEMORY_KHZ), attribute(_BUS_BITS)
    if clock:  # some drivers keep these three to themselves (virtual machines, integrated GPUs)
        facts["clock_mhz"] = clock // 1000
    if memory_clock and bus:
        facts["bandwidth"] = 2 * memory_clock * 1e3 * bus / 8
    return from_driver(name, facts)


def detect_device() -> Device | None:
    """The GPU that CUDA shows first, or None without a GPU or driver."""
    return describe() if device_count() else None


def handle_of(ordinal: int) -> Any:
    """The driver's handle of GPU ``ordinal``."""
    return call("cuDeviceGet", ordinal)


def bus_id(ordinal: int = 0) -> str:
    """PCI bus id of GPU ``ordinal`` (NVML knows GPUs by it, whatever CUDA_VISIBLE_DEVICES says)."""
    return str(call("cuDeviceGetPCIBusId", 64, handle_of(ordinal)).partition(b"\0")[0].decode())


@functools.cache
def primary_context(ordinal: int) -> Any:
    """GPU ``ordinal``'s primary context, the one that the CUDA runtime (CuPy, PyTorch) uses; retained once and kept."""
    return call("cuDevicePrimaryCtxRetain", handle_of(ordinal))


def use_context(ordinal: int | None = None) -> None:
    """Make a context current in this thread unless one is: GPU ``ordinal``'s primary context (None: GPU 0's)."""
    if ordinal is not None or not int(call("cuCtxGetCurrent")):
        call("cuCtxSetCurrent", primary_context(ordinal or 0))


class Module:
    """A cubin loaded into the current context. Kernels stay valid while it lives."""

    def __init__(self, cubin: bytes) -> None:
        self._handle = call("cuModuleLoadData", cubin)

    def kernel(self, name: str, shared_bytes: int = 0, wide_cluster: bool = False) -> Any:
        """The CUfunction ``name``, allowed ``shared_bytes`` of dynamic shared memory (and clusters above 8).

        The allowance is the kernel's, not the launch's: ask once, with the most that any launch needs.
        """
        return allow(call("cuModuleGetFunction", self._handle, name.encode()), shared_bytes, wide_cluster)

    def unload(self) -> None:
        """Free the module; only when no launch of its kernels is pending."""
        if self._handle is not None:
            call("cuModuleUnload", self._handle)
            self._handle = None


def allow(function: Any, shared_bytes: int, wide_cluster: bool) -> Any:
    """``function`` (a CUfunction), loaded, and allowed so much dynamic shared memory (and clusters above 8)."""
    kinds = bindings().CUfunction_attribute
    # what loads it now: a lazy load would break a graph capture, or be timed
    call("cuFuncGetAttribute", kinds.CU_FUNC_ATTRIBUTE_NUM_REGS, function)
    has("cuFuncLoad", function)  # since CUDA 12.4
    if shared_bytes:
        call("cuFuncSetAttribute", function, kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
    if wide_cluster:
        call("cuFuncSetAttribute", function, kinds.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
    return function


class Launch:
    """One kernel launch, prepared: configuration and arguments lie in memory of its own. Call it with a stream.

    Re-entrant: nothing that a call reads is changed by another (a stream's configuration is made once and kept).
    """

    __slots__ = ("_address", "_attributes", "_configs", "_function", "_geometry", "_issue", "_ok", "_pointers",
                 "arguments")  # fmt: skip

    def __init__(
        self,
        function: Any,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        cluster: Sequence[int],
        arguments: Sequence[Any],
        pdl: bool = False,
    ) -> None:
        self.arguments = list(arguments)  # ctypes objects; they must live as long as the launch
        self._pointers = (ctypes.c_void_p * max(1, len(arguments)))(*[ctypes.addressof(a) for a in self.arguments])
        self._address = ctypes.addressof(self._pointers)
        self._function, self._geometry = function, (*grid, *block, shared_bytes)
        self._attributes = _attributes(tuple(cluster), pdl)
        self._configs: dict[int, Any] = {}
        self._issue, self._ok = bindings().cuLaunchKernelEx, bindings().CUresult.CUDA_SUCCESS

    def __call__(self, stream: int) -> None:
        config = self._configs.get(stream)
        if config is None:
            config = self._configured(stream)
        (code,) = self._issue(config, self._function, self._address, 0)
        if code is not self._ok:
            raise DriverError("cuLaunchKernelEx", int(code), code.name)

    def on(self, stream: int) -> Callable[[], tuple[Any]]:
        """The launch into ``stream`` without a frame of Python; returns what the driver does, a tuple of a CUresult."""
        config = self._configs.get(stream) or self._configured(stream)
        call: functools.partial[Any] = functools.partial(self._issue, config, self._function, self._address, 0)
        call.launch = self  # type: ignore[attr-defined]  # its memory must live as long
        return call

    def _configured(self, stream: int) -> Any:
        config = bindings().CUlaunchConfig()
        g = self._geometry
        config.gridDimX, config.gridDimY, config.gridDimZ, config.blockDimX, config.blockDimY, config.blockDimZ = g[:6]
        config.sharedMemBytes, config.hStream = g[6], bindings().CUstream(stream)
        if self._attributes:
            config.attrs, config.numAttrs = self._attributes, len(self._attributes)
        if len(self._configs) >= _KEPT_STREAMS:
            self._configs = {}  # a new dictionary: another thread may be reading the old one
        self._configs[stream] = config
        return config


def _attributes(cluster: tuple[int, ...], pdl: bool) -> list[Any]:
    lib, made = bindings(), []
    if cluster != (1, 1, 1):
        attribute = lib.CUlaunchAttribute()
        attribute.id = lib.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        dims = attribute.value.clusterDim
        dims.x, dims.y, dims.z = cluster
        made.append(attribute)
    if pdl:
        attribute = lib.CUlaunchAttribute()
        attribute.id = lib.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        made.append(attribute)
    return made


def memset(pointer: int, value: int, nbytes: int, stream: int) -> None:
    """Set ``nbytes`` bytes at ``pointer``, in ``stream`` order."""
    call("cuMemsetD8Async", pointer, value, nbytes, stream)
