"""How a workload is said in a command line."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

from . import Workload

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
