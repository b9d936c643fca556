"""Clocks, power and temperature of a GPU, and the display driver's version, from NVML (``nvidia-ml-py``)."""

from __future__ import annotations

import functools
from typing import Any

_READINGS: dict[str, tuple[Any, ...]] = {
    "sm_clock_mhz": ("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM"),
    "memory_clock_mhz": ("nvmlDeviceGetClockInfo", "NVML_CLOCK_MEM"),
    "power_w": ("nvmlDeviceGetPowerUsage",),
    "temperature_c": ("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
}
"""NVML's function of each reading, and which of its kind."""
_THROTTLE_REASONS = {
    0x2: "applications_clocks", 0x4: "software_power_cap", 0x8: "hardware_slowdown", 0x10: "sync_boost",
    0x20: "software_thermal", 0x40: "hardware_thermal", 0x80: "hardware_power_brake", 0x100: "display_clocks",
}  # fmt: skip


@functools.cache
def _library() -> Any:
    """``pynvml``, started; None where it or NVML is not here: what NVML tells is a remark, and nothing needs it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def display_version() -> str:
    """The display driver's version (``580.65.06``), empty without NVML."""
    lib = _library()
    if lib is None:
        return ""
    try:
        found = lib.nvmlSystemGetDriverVersion()
    except lib.NVMLError:
        return ""
    return found.decode() if isinstance(found, bytes) else str(found)


def sensors(bus_id: str) -> dict[str, Any]:
    """``sm_clock_mhz``, ``memory_clock_mhz``, ``power_w``, ``temperature_c``, ``throttle`` (names) of the GPU with PCI
    ``bus_id``, as far as it tells (a MIG slice tells little)."""
    lib, found = _library(), dict[str, Any]()
    if lib is None:
        return found
    try:
        handle = lib.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
    except lib.NVMLError:
        return found

    def read(function: str, *kind: str) -> Any:
        try:
            return getattr(lib, function)(handle, *(getattr(lib, k) for k in kind))
        except (lib.NVMLError, AttributeError):  # not told by this GPU, or unknown to this NVML
            return None

    for name, reading in _READINGS.items():
        if (value := read(*reading)) is not None:
            found[name] = value / 1000 if name == "power_w" else value
    # newer libraries name it anew, and may drop the old name
    reasons = read("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = read("nvmlDeviceGetCurrentClocksThrottleReasons")
    if reasons is not None:
        found["throttle"] = [name for bit, name in _THROTTLE_REASONS.items() if reasons & bit]
    return found
