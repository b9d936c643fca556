"""A candidate on the GPU, ready to be checked and timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import driver
from ..launch import Bound, Program
from ..plan import LaunchPlan
from ..templates.base import Numerics
from . import cuda
from .device_data import DeviceData
from .verify import SCALARS


class Kernel:
    """A build on the device, bound to the verify set and to each timing set."""

    def __init__(self, request: Mapping[str, Any], data: DeviceData, pdl: bool) -> None:
        self.plan = LaunchPlan.from_json(request["plan"])
        self.names: Mapping[str, str] = request["buffers"]
        self.numerics = Numerics(**request["numerics"])
        self.program = Program(request["cubin"], self.plan)
        self.data, self.pdl = data, pdl
        self.workspace = cuda.allocate(self.plan.workspace_bytes) if self.plan.workspace_bytes else 0
        self.sets, self.footprint = data.sets, data.footprint
        self._scalars = {n: SCALARS[n] for n in data.workload.scalars()}
        self._timed: list[Bound] = []

    def run(self, buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        """Issue it once on ``buffers`` (by the tuned workload's names)."""
        self.program.bind(self._named(buffers), scalars)(stream)

    def launch(self, i: int, stream: int) -> None:
        """Issue it once on timing set ``i``."""
        while len(self._timed) <= i:
            named = self._named(self.data.timing[len(self._timed)])
            self._timed.append(self.program.bind(named, self._scalars, pdl=self.pdl))
        self._timed[i](stream)

    def prepare_to_time(self, stream: cuda.Stream) -> None:
        """Leave the workspace as the plan wants it before a first run."""
        if self.plan.workspace_bytes:
            driver.memset(self.workspace, 0, self.plan.workspace_bytes, stream.handle)

    def close(self) -> None:
        """Free its workspace and code."""
        if self.workspace:
            cuda.free(self.workspace)
        self.program.unload()

    def _named(self, buffers: Mapping[str, int]) -> dict[str, int]:
        known = {template: buffers[own] for template, own in self.names.items() if own in buffers}
        return {**known, "workspace": self.workspace} if self.workspace else known
