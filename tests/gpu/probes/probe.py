"""What a probe is, and the table of all of them."""

# ruff: noqa: E501  (lines of CUDA)
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from gpu_tune.cuda.device import Device
from gpu_tune.plan import Arg, BufferArg, KernelStep, LaunchPlan, Step

Array = np.ndarray


@dataclass(frozen=True)
class Probe:
    """``source`` with its ``plan``; ``inputs`` by buffer name; ``out`` must come to be ``expected``, exactly."""

    source: str
    plan: LaunchPlan
    expected: Array
    inputs: Mapping[str, Array] = field(default_factory=dict)

    @property
    def buffers(self) -> dict[str, Array]:
        """All buffers; the output begins as all ones (bits)."""
        return {**self.inputs, "out": np.full(self.expected.shape, -1, self.expected.dtype)}


Make = Callable[[Device], Probe]
PROBES: dict[str, tuple[int, Make]] = {}
"""(least compute capability, maker) by name, simple ones first."""
HOPPER_ONLY = ("registers_change_hands", "warpgroup_product")
"""Beginnings of the names of those that newer chips do not have."""


def probe(least: int) -> Callable[[Make], Make]:
    """Register a maker for chips of compute capability ``least`` and up."""

    def add(make: Make) -> Make:
        PROBES[make.__name__] = (least, make)
        return make

    return add


def simple(body: str, grid: int, block: int, *args: Arg, shared: int = 0, cluster: int = 1, parameters: str = "int* out",
           before: str = "", attributes: str = "") -> tuple[str, KernelStep]:  # fmt: skip
    """One kernel: its source and its step."""
    source = f'{before}\nextern "C" __global__ void {attributes} __launch_bounds__({block})\nprobe({parameters}) {{\n{body}\n}}\n'
    step = KernelStep("probe", (grid, 1, 1), (block, 1, 1), args or (BufferArg("out"),), shared, (cluster, 1, 1))
    return source, step


def plan(*steps: Step) -> LaunchPlan:
    """The steps as a checked plan."""
    return LaunchPlan(tuple(steps)).check()
