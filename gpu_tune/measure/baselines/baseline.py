"""What a library brings: algorithms, each of which computes the workload; the fastest competes as a baseline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from ...cuda.device import Device
from ...plan import LaunchPlan
from ...reference import Numerics
from .. import runtime
from ..check import Run
from ..device_data import DeviceData


@dataclass
class Algorithm:
    """One way to compute the workload: ``label`` tells how, ``run`` issues it.

    ``roundings``: casts between the library's sum and the result. ``failed``: why it could not be timed.
    """

    label: str
    run: Run
    roundings: int = 0
    failed: str = ""


@dataclass
class Session:
    """What a library works with: buffers, a stream, the device. ``owned`` frees what the library takes.

    ``note`` says that the library is at work: every algorithm has a time limit of its own. ``users``: the baselines
    that compete with what it owns.
    """

    data: DeviceData
    stream: runtime.Stream
    device: Device
    note: Callable[[], None] = lambda: None
    owned: ExitStack = field(default_factory=ExitStack)
    users: int = 0

    def allocate(self, nbytes: int) -> int:
        """Device memory until the session ends."""
        address = runtime.allocate(nbytes)
        self.owned.callback(runtime.free, address)
        return address


@dataclass
class Baseline:
    """The algorithm that competes for library ``name``, ready to be checked and timed like a kernel of ours."""

    name: str
    label: str
    algorithm: Algorithm
    session: Session
    numerics: Numerics
    plan: LaunchPlan = field(default_factory=lambda: LaunchPlan(()))
    workspace: int = 0

    def __post_init__(self) -> None:
        self.run, self.data = self.algorithm.run, self.session.data
        self.sets, self.footprint = self.data.sets, self.data.footprint

    def launch(self, i: int, stream: int) -> None:
        self.run(self.data.timing[i], self.data.scalars, stream)

    def close(self) -> None:
        """Free what it holds, unless another baseline of the library still uses it."""
        self.session.users -= 1
        if not self.session.users:
            self.session.owned.close()
