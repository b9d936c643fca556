"""Which device a call means, what can compute a workload there, and how to say so in a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .device import DEFAULT, Device, by_name
from .errors import InvalidInput, MeasureError, Unsupported
from .measure import detect_device
from .templates.base import Template, registry
from .trial import MEASURED, MODELLED
from .workload import View, Workload

KINDS = ("auto", "gpu", "modelled")
"""What ``tune`` may be told to measure on; ``auto`` takes the GPU where there is one."""


@dataclass(frozen=True)
class Variant:
    """A template and what it would compute: the workload itself, or the first view of it that the template supports."""

    template: Template
    workload: Workload
    view: View | None = None


def variants(workload: Workload, device: Device, templates: Mapping[str, Template] | None = None) -> list[Variant]:
    """Every template that can compute ``workload`` on ``device``; Unsupported lists each one's reason when none can."""
    found, reasons = [], []
    for template in (registry() if templates is None else templates).values():
        why: list[str] = []
        for candidate, view in ((workload, None), *((v.workload, v) for v in workload.views())):
            answer = template.supported(candidate, device)
            if answer is True:
                found.append(Variant(template, candidate, view))
                break
            why.append(str(answer))
        else:
            reasons.append(f"{template.name} {why[0]}")
    if not found:
        told = "; ".join(reasons) or "there is no template"
        raise Unsupported(f"no template computes {workload.key} on {device.name}: {told}")
    return found


def known(workload: object) -> Workload:
    """``workload`` itself; InvalidInput when it is none."""
    if not isinstance(workload, Workload):
        raise InvalidInput(
            "workload", workload, "is not a Matmul or Conv2d", "give one, such as gpu_tune.Matmul(m, n, k)"
        )
    return workload


def where(device: Device | str | None = None, kind: str = "auto") -> tuple[Device, str]:
    """The device that a call means, and ``measured`` (this machine's GPU, if it is meant) or ``modelled``."""
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
    return wanted or by_name(DEFAULT), MODELLED


REQUIRED = {"matmul": ("m", "n", "k"), "conv2d": ("n", "c", "h", "w", "k", "r", "s")}


def command(workload: Workload, device: str | None = None) -> str:
    """The shell command that tunes ``workload``."""
    parts = ["gpu-tune", "tune", workload.op]
    needed: dict[str, Any] = {name: getattr(workload, name) for name in (*REQUIRED[workload.op], "dtype", "layout")}
    plain = type(workload)(**needed)
    for f in fields(workload):
        value, flag = getattr(workload, f.name), f.name.replace("_", "-")
        if f.name not in (*REQUIRED[workload.op], "dtype", "layout") and value == getattr(plain, f.name):
            continue
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        joint = "+" if f.name == "math" else "x"
        parts += [f"--{flag}", shlex.quote(joint.join(map(str, value)) if isinstance(value, tuple) else str(value))]
    return " ".join([*parts, *(["--device", device] if device else [])])
