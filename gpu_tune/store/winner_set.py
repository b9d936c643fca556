"""Winners of one workload that leaves a size open: kernels tuned at a few sizes, and which of them serves which sizes.

Every kernel computes every size that its own launch plan allows; a set only says which is the fastest. Its ranges
follow each other without a gap from the least size of the workload to the largest, and each lies within the sizes that
its kernel computes: a set for which that is not so cannot be made, and one on disk for which it is not so is a miss.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, get_type_hints

from ..plan.size import Size, allowed
from ..text import check_format, from_json, refused, to_json
from ..trial import PREDICTED
from ..workload import Workload
from .winner import FORMAT, READERS, Winner, canonical, digest

INDEX = "set.json"
"""The file that makes a winner's directory that of a set; ``<number>.json``, ``.cu`` and ``.cubin`` are its kernels."""


@dataclass(frozen=True)
class SizeRange:
    """Sizes ``least`` to ``most``, both included, are served by kernel number ``kernel`` of the set.

    ``ours`` compares with the vendor library, as in a winner's verdict, at the tuned sizes ``judged`` that lie inside,
    or where none does at the two beside; it is ``faster`` only where it is so at all of them.
    """

    least: int
    most: int
    kernel: int
    ours: str = "unknown"
    judged: tuple[int, ...] = ()


@dataclass(frozen=True)
class WinnerSet:
    """What is published for a ``workload`` with an open size.

    ``kernels``: winners, each for one size of the workload, whose plans hold for all sizes of it. ``ranges``: in
    ascending order. ``trials``, ``spent`` (seconds) and ``complete`` as of a winner, of all sizes together; ``sizes``:
    those that were tuned. ValueError for ranges that leave a gap, overlap, or exceed what their kernel computes.
    """

    workload: Workload
    chip: str
    source: str
    kernels: tuple[Winner, ...]
    ranges: tuple[SizeRange, ...]
    sizes: tuple[int, ...] = ()
    seed: int = 0
    trials: int = 0
    spent: float = 0.0
    budget: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    created: float = 0.0

    def __post_init__(self) -> None:
        size = self.workload.open
        if size is None:
            raise ValueError(f"{self.workload.key} leaves no size open")
        expected, last = size.bounds
        for part in self.ranges:
            if part.least != expected or part.most < part.least or not 0 <= part.kernel < len(self.kernels):
                raise ValueError(
                    f"range {part.least}..{part.most} of kernel {part.kernel} does not begin at {expected}"
                )
            plan = self.kernels[part.kernel].plan
            low, high = plan.open.bounds if plan.open is not None else (1, 0)
            if not low <= part.least <= part.most <= high:
                raise ValueError(f"range {part.least}..{part.most} exceeds {low}..{high}, which its kernel computes")
            expected = part.most + 1
        if expected != last + 1:
            raise ValueError(f"ranges end at {expected - 1}, not at {last}")
        for kernel in self.kernels:
            own = getattr(kernel.workload, size.name)
            if kernel.workload != self.workload.at(own) or (kernel.chip, kernel.source) != (self.chip, self.source):
                raise ValueError(f"kernel for {kernel.workload.key} on {kernel.chip} is not of {self.workload.key}")

    @property
    def size(self) -> Size:
        """The open size of the workload."""
        found = self.workload.open
        assert found is not None
        return found

    @cached_property
    def starts(self) -> list[int]:
        return [part.least for part in self.ranges]

    def range_of(self, size: int) -> SizeRange:
        """The range that ``size`` lies in, by bisection; InvalidInput where the workload does not allow it."""
        return self.ranges[bisect.bisect_right(self.starts, allowed(self.size, size)) - 1]

    def most(self, kernel: int) -> int:
        """The largest size that kernel number ``kernel`` serves."""
        return max(part.most for part in self.ranges if part.kernel == kernel)

    def at(self, size: int) -> Winner:
        """The winner for one ``size``: the kernel of its range with the plan of that size.

        Its time is told where the kernel was timed at that size, and its verdict says what the range's is worth.
        """
        part = self.range_of(size)
        kernel = self.kernels[part.kernel]
        tuned = int(getattr(kernel.workload, self.size.name))
        made = replace(kernel, workload=self.workload.at(size), plan=kernel.plan.at(size), open=())
        if size == tuned:
            return made
        name = self.size.name
        at = f"at {name}={', '.join(map(str, part.judged))}" if part.judged else "nowhere"
        known = "predicted" if self.source == PREDICTED else "timed"
        told = f"{known} at {name}={tuned}, not at {name}={size}; compared with the vendor library {at}: {part.ours}"
        verdict = {"text": told, "ours": part.ours}
        return replace(made, seconds=0.0, samples=(), host_seconds=None, verdict=verdict, prediction={})

    def files(self) -> dict[str, bytes]:
        """The content of the set's directory, by file name."""
        contents: dict[str, bytes] = {}
        for number, kernel in enumerate(self.kernels):
            contents[f"{number}.cu"] = kernel.code.encode()
            contents[f"{number}.cubin"] = kernel.cubin
            contents[f"{number}.json"] = _text(kernel.to_json())
        body = {f.name: to_json(getattr(self, f.name)) for f in fields(self) if f.name != "kernels"}
        body.update(format=FORMAT, key=self.workload.key, hashes=[digest(contents[f"{n}.json"]) for n in self._numbers])
        contents[INDEX] = _text({**body, "hash": digest(canonical(body))})
        return contents

    @property
    def _numbers(self) -> range:
        return range(len(self.kernels))

    @classmethod
    def from_files(cls, index: bytes, read: Callable[[str], bytes]) -> WinnerSet:
        """The set in ``set.json`` and the files that ``read(name)`` gives; OtherFormat, or CorruptData when anything is
        damaged or missing."""
        with refused("winner set"):
            data = json.loads(index)
            check_format(data, FORMAT)
            if data.pop("hash", None) != digest(canonical(data)):
                raise ValueError(f"{INDEX} does not match its hash")
            kernels = []
            for number, expected in enumerate(data["hashes"]):
                facts = read(f"{number}.json")
                if digest(facts) != expected:
                    raise ValueError(f"{number}.json does not match its hash")
                kernels.append(Winner.from_files(facts, read(f"{number}.cu"), read(f"{number}.cubin")))
            hints = get_type_hints(cls)
            body = {k: v for k, v in data.items() if k not in ("format", "key", "hashes")}
            return cls(kernels=tuple(kernels), **{k: from_json(hints[k], v, READERS, k) for k, v in body.items()})


def _text(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()
