"""Which device a call means, and whose winners and records answer for it: decided here alone."""

from __future__ import annotations

from ..cuda.device import DEFAULT, Device, by_name
from ..cuda.driver import detect_device
from ..errors import InvalidInput, MeasureError
from ..trial import MEASURED, PREDICTED

KINDS = ("auto", "gpu", "predicted")
"""What ``tune`` may be told to measure on; ``auto`` takes the GPU where there is one."""


def select_device(device: Device | str | None = None, kind: str = "auto") -> tuple[Device, str]:
    """The device that a call means, and ``measured`` (this machine's GPU, if it is meant) or ``predicted``."""
    if kind not in KINDS:
        raise InvalidInput("kind", kind, "is unknown", f"use one of {', '.join(KINDS)}")
    wanted = by_name(device) if isinstance(device, str) else device
    if not isinstance(wanted, Device | None):
        raise InvalidInput(
            "device", wanted, "is no device", "give a chip's name, such as 'nvidia-h200', or leave it out"
        )
    found = detect_device() if kind in ("auto", "gpu") else None
    if found is not None and (wanted is None or wanted.chip == found.chip):
        return found, MEASURED
    if kind == "gpu":
        reason = (
            "no CUDA GPU was found on this machine" if found is None else f"the GPU here is {found.chip}, not that one"
        )
        raise MeasureError(f"{reason}; leave the device out, or run gpu-tune doctor")
    return wanted or by_name(DEFAULT), PREDICTED
