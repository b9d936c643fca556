"""A planted bug, and the list that every file of this folder adds its own to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_tune.plan import BufferArg
from tests.helpers.emulator.snippets import HOPPER, PRELUDE


@dataclass(frozen=True)
class Planted:
    """``report``: a regular expression that some finding's kind and message must match when the bug is in.

    ``named``: whether that finding names the line marked ``// HERE``. ``arrays`` and ``args`` make the launch.
    ``seeds``: how many of 6 seeds must report it at least.
    """

    name: str
    source: str
    report: str
    arrays: Callable[[], Mapping[str, np.ndarray]]
    args: Callable[[Mapping[str, np.ndarray]], list[Any]] = lambda arrays: [BufferArg(n) for n in arrays]
    launch: Mapping[str, Any] = field(default_factory=dict)
    named: bool = True
    seeds: int = 6
    hopper: bool = False

    def text(self, bug: bool) -> str:
        return ("#define BUG 1\n" if bug else "\n") + (HOPPER if self.hopper else PRELUDE) + self.source

    def __str__(self) -> str:
        return self.name


def words(*sizes: int, fill: int = 0) -> Callable[[], Mapping[str, np.ndarray]]:
    return lambda: {
        n: np.arange(s, dtype=np.uint32) * np.uint32(1 - (fill > 0)) + np.uint32(fill) for n, s in zip("abxw", sizes)
    }


def pointers(*more: Any) -> Callable[[Mapping[str, np.ndarray]], list[Any]]:
    return lambda arrays: [*(BufferArg(n) for n in arrays), *more]


PLANTED: list[Planted] = []


def plant(name: str, source: str, report: str, arrays: Callable[[], Mapping[str, np.ndarray]], **more: Any) -> None:
    PLANTED.append(Planted(name, source, report, arrays, **more))
