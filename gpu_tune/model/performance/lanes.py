"""What the lanes of each access share or scatter, by instruction: what machine code alone does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KernelLanes:
    """By index of the instruction in one kernel's machine code; an access that is in no mapping is unknown.

    ``shared``: wavefronts of shared memory that one warp instruction takes. ``sectors``: 32-byte sectors of global
    memory that it touches. ``hits``: the share of them that L1 serves.
    """

    shared: Mapping[int, float] = field(default_factory=dict)
    sectors: Mapping[int, float] = field(default_factory=dict)
    hits: Mapping[int, float] = field(default_factory=dict)


Lanes = Mapping[str, KernelLanes]
"""By name of the kernel."""
