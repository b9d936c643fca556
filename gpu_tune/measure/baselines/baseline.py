"""What a baseline is: something that can be issued into a stream on given buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..device_data import DeviceData

Run = Callable[[Mapping[str, int], Mapping[str, float], int], None]
"""(addresses by buffer name, scalars, stream): issue once."""


@dataclass
class Baseline:
    """``label`` says in words what it is, ``run`` issues it; ``roundings``: casts between library and result."""

    name: str
    label: str
    run: Run
    data: DeviceData
    scalars: Mapping[str, float]
    roundings: int = 0
    cleanup: Sequence[Callable[[], None]] = field(default_factory=list)

    @property
    def sets(self) -> int:
        """Buffer sets to time on."""
        return self.data.sets

    @property
    def footprint(self) -> int:
        """Bytes of one set."""
        return self.data.footprint

    def launch(self, i: int, stream: int) -> None:
        """Issue it once on timing set ``i``."""
        self.run(self.data.timing[i], self.scalars, stream)

    def close(self) -> None:
        """Free what it holds."""
        undo(self.cleanup)


def undo(cleanup: Sequence[Callable[[], None]]) -> None:
    """Free what was taken, the last thing first."""
    for step in reversed(cleanup):
        step()


@contextlib.contextmanager
def undone_on_failure(cleanup: Sequence[Callable[[], None]]) -> Iterator[None]:
    """What is in ``cleanup`` by then is freed when the body raises."""
    try:
        yield
    except BaseException:
        undo(cleanup)
        raise
