"""Clocks, power, temperature and throttle reasons, read through NVML with ctypes. Absent where NVML is."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any

_SM_CLOCK, _MEMORY_CLOCK, _GPU_TEMPERATURE = 1, 2, 0
_REASONS = {
    0x2: "applications_clocks", 0x4: "software_power_cap", 0x8: "hardware_slowdown", 0x10: "sync_boost",
    0x20: "software_thermal", 0x40: "hardware_thermal", 0x80: "hardware_power_brake", 0x100: "display_clocks",
}  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in ("libnvidia-ml.so.1", "libnvidia-ml.so"):
        with contextlib.suppress(OSError):
            lib = ctypes.CDLL(name)
            return lib if lib.nvmlInit_v2() == 0 else None
    return None


def driver_version() -> str:
    """The display driver's version (``580.65.06``), empty without NVML."""
    lib, text = _library(), ctypes.create_string_buffer(96)
    return text.value.decode() if lib is not None and lib.nvmlSystemGetDriverVersion(text, 96) == 0 else ""


def read(bus_id: str) -> dict[str, Any]:
    """``sm_clock_mhz``, ``memory_clock_mhz``, ``power_w``, ``temperature_c``, ``throttle`` (names) of the GPU with PCI
    ``bus_id``, as far as it tells (a MIG slice tells little)."""
    lib, handle = _library(), ctypes.c_void_p()
    found: dict[str, Any] = {}
    if lib is None or lib.nvmlDeviceGetHandleByPciBusId_v2(bus_id.encode(), ctypes.byref(handle)):
        return found
    number, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
    for name, kind in (("sm_clock_mhz", _SM_CLOCK), ("memory_clock_mhz", _MEMORY_CLOCK)):
        if lib.nvmlDeviceGetClockInfo(handle, kind, ctypes.byref(number)) == 0:
            found[name] = number.value
    if lib.nvmlDeviceGetPowerUsage(handle, ctypes.byref(number)) == 0:
        found["power_w"] = number.value / 1000
    if lib.nvmlDeviceGetTemperature(handle, _GPU_TEMPERATURE, ctypes.byref(number)) == 0:
        found["temperature_c"] = number.value
    # newer libraries name it anew, and may drop the old name
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    ask = next((getattr(lib, n) for n in names if hasattr(lib, n)), None)
    if ask is not None and ask(handle, ctypes.byref(reasons)) == 0:
        found["throttle"] = [name for bit, name in _REASONS.items() if reasons.value & bit]
    return found
