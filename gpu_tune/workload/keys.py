"""The readable name of a workload."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from .dtypes import OUT_DTYPES


def readable_key(w: Any, start: str, skip: set[str], defaults: dict[str, Any]) -> str:
    """``start`` and every field but ``skip`` that differs from its default, fit for a file name."""
    parts = [start]
    for f in fields(w):
        value = getattr(w, f.name)
        default = defaults.get(f.name, f.default)
        default = OUT_DTYPES[w.dtype][0] if f.name == "out_dtype" else default
        if f.name not in skip and value != default:
            text = "+".join(value) if isinstance(value, tuple) else str(value)
            parts.append(f"{f.name}={text}")
    return re.sub(r"[^A-Za-z0-9.+=_\-]", "_", "-".join(parts))


def join(values: tuple[int, ...]) -> str:
    """One number where all are equal, else all: 1, 1x2."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
