"""Constraints: named predicates over a few knobs, the workload and the device. Plain data; imports no other room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Constraint:
    """A rule that every valid config keeps.

    ``knobs`` are the names that ``holds`` reads; ``holds(config, workload, device)`` sees only those (a mapping),
    so that a space can prune as soon as they are known. ``message`` states the rule as a sentence.
    """

    name: str
    knobs: tuple[str, ...]
    holds: Callable[[Any, Any, Any], bool]
    message: str
