"""Measuring: candidates in, measurements out. Names are loaded when first used, so that workers start fast."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Build": "base", "Check": "base", "Confirmation": "base", "Contender": "base", "Measurer": "base",
    "open_measurer": "opening", "detect_device": "opening",
}  # fmt: skip

__all__ = ["Build", "Check", "Confirmation", "Contender", "Measurer", "detect_device", "open_measurer"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
