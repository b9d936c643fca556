"""Which kernel serves which sizes: every config that was timed at some size competes at all of them.

A kernel with an open size computes every size, so that one compile is a candidate everywhere. Its time at a size where
it was not timed is what the performance model predicts there from its machine code, corrected by how far the model was
off at the nearest size where it was timed. Each part of the sizes gets a kernel that is within ``KEPT`` of the fastest
at the part's end, and of these the one that stays so the longest: few kernels, no part much slower than it could be.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..measure.compiling import lanes_for
from ..measure.protocol import Build
from ..model.performance import Prediction, predict
from ..plan.size import Size
from ..store.winner import Winner
from ..store.winner_set import SizeRange
from ..trial import Candidate, Policy

MOST_SIZES = 8
"""Sizes that are tuned where none are named."""
LEAST = {"m": 16, "n": 1}
"""The smallest of these by the name of the open size: rows fewer than 16 are the same work to kernels; every image of a
convolution is some hundred rows."""
KEPT = 1.01
"""A kernel serves sizes where it takes at most this much of the best one's time."""


@dataclass(eq=False)
class SizedKernel:
    """A config whose kernel computes every size.

    ``timed``: seconds by the size at which it was timed (or its time predicted, as everywhere in that tuning).
    ``winners``: what its finals made of it, by their size. ``policy``: how it was timed.
    """

    build: Build
    policy: Policy = field(default_factory=Policy)
    timed: dict[int, float] = field(default_factory=dict)
    winners: dict[int, Winner] = field(default_factory=dict)
    _played: dict[int, Prediction] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        return self.build.candidate

    @property
    def size(self) -> int:
        """The size for which it was built."""
        bound = self.build.bound
        assert bound.open is not None
        return int(getattr(bound.computed, bound.open.name))

    def played(self, size: int) -> Prediction:
        """What the performance model says of a run with ``size``; cold or warm as it was timed."""
        if size not in self._played:
            bound, rendered, device = self.build.bound, self.build.rendered, self.build.bound.device
            assert rendered.open_plan is not None
            there = replace(bound, workload=bound.workload.resized(size))
            estimate, cold = there.estimate(self.candidate.config), self.policy.l2 == "cold"
            plan, lanes = rendered.open_plan.at(size), lanes_for(self.build)
            self._played[size] = predict(
                self.build.cubin, plan, estimate, there.computed, device, lanes=lanes, cold=cold
            )
        return self._played[size]

    def predicted(self, size: int) -> float:
        """Seconds that the performance model expects of a run with ``size``; infinite where it cannot run."""
        return self.played(size).seconds

    def expected(self, size: int, usual: float = 1.0) -> float:
        """Seconds of a run with ``size``: as timed, else as predicted times how far predictions were off at the nearest
        size where it was timed, by their ratio (``usual``: where it was timed nowhere)."""
        if size in self.timed:
            return self.timed[size]
        return self.predicted(size) * (usual if not self.timed else self.error(_nearest(self.timed, size)))

    def error(self, size: int) -> float:
        """How much longer a run took than predicted, at a ``size`` where it was timed."""
        predicted = self.predicted(size)
        return self.timed[size] / predicted if self.timed[size] > 0 and math.isfinite(predicted) else 1.0


def sizes_to_tune(size: Size, most: int = MOST_SIZES) -> list[int]:
    """Up to ``most`` round sizes in geometric steps, from ``LEAST`` (or the least allowed) to the largest."""
    low, high = size.bounds
    first = min(max(low, LEAST[size.name]), high)
    steps = max(1, min(most - 1, (high // first).bit_length() - 1))
    found = {first, high}
    for step in range(1, steps):
        found.add(min(high, max(first, rounded(size, first * (high / first) ** (step / steps)))))
    return sorted(found)


def rounded(size: Size, near: float) -> int:
    """A round size ``near`` that."""
    unit = _power(near) if size.name == "n" else 16 if near < 256 else 128
    return max(unit, round(near / unit) * unit)


def _power(near: float) -> int:
    """The power of two that is from an eighth to a quarter of ``near``, at least 1."""
    return max(1, 1 << max(0, int(near).bit_length() - 3))


def samples(size: Size) -> list[int]:
    """Sizes at whose ends tiles of every family begin another row: the ends of the parts that are compared. Of images
    of a convolution, each of which is many rows, steps of an eighth to a quarter."""
    low, high = size.bounds
    found, at = [], 0
    while at < high:
        at += _power(at) if size.name == "n" else _rows(at)
        if at >= low:
            found.append(min(at, high))
    return found


def _rows(at: int) -> int:
    """Rows from one sample to the next."""
    return 8 if at < 16 else 16 if at < 128 else 32 if at < 512 else 64 if at < 2048 else max(128, at // 1024 * 64)


def usual_error(kernels: Iterable[SizedKernel]) -> float:
    """The median of how much longer kernels took than predicted; 1 where none was timed."""
    errors = [k.error(size) for k in kernels for size in k.timed]
    return statistics.median(errors) if errors else 1.0


def times_at(
    ends: Sequence[int], kernels: Sequence[SizedKernel], searched: Sequence[int]
) -> list[dict[SizedKernel, float]]:
    """Seconds that each of ``kernels`` is expected to take at each of ``ends``; of those timed or built for a size not
    beyond the second of the ``searched`` sizes below and above."""
    found: list[dict[SizedKernel, float]] = [{} for _ in ends]
    usual, around = usual_error(kernels), [_around(searched, end) for end in ends]
    for kernel in kernels:  # the model keeps what it knows of a kernel: all sizes of one before the next
        own = {kernel.size, *kernel.timed}
        for times, end, (low, high) in zip(found, ends, around):
            if any(low <= size <= high for size in own):
                times[kernel] = kernel.expected(end, usual)
    for times, end in zip(found, ends):
        if not any(map(math.isfinite, times.values())):
            times.update((k, k.expected(end, usual)) for k in kernels)
    return found


def choose(
    size: Size, kernels: Sequence[SizedKernel], searched: Sequence[int]
) -> tuple[list[SizedKernel], list[SizeRange]]:
    """The kernels that serve the sizes, and which serves which; ranges of one kernel are joined where they meet."""
    ends = samples(size)
    times = times_at(ends, kernels, searched)
    good = [{k for k, t in found.items() if t <= KEPT * min(found.values())} for found in times]
    used: list[SizedKernel] = []
    parts: list[SizeRange] = []
    at, begin = 0, size.bounds[0]
    while at < len(ends):
        reach, chosen = max(
            ((_reach(k, good, at), k) for k in sorted(good[at], key=lambda k: k.candidate.key)),
            key=lambda pair: (pair[0], pair[1] in used, -times[at][pair[1]]),
        )
        if chosen not in used:
            used.append(chosen)
        parts.append(SizeRange(begin, ends[reach - 1], used.index(chosen)))
        at, begin = reach, ends[reach - 1] + 1
    return used, parts


def gain(times: Mapping[SizedKernel, float]) -> float:
    """How much faster than the best that was timed somewhere a kernel is that was only predicted; 1 where none is."""
    timed = min((t for k, t in times.items() if k.timed), default=math.inf)
    new = min((t for k, t in times.items() if not k.timed), default=math.inf)
    return max(1.0, timed / new) if math.isfinite(new) and new > 0 else 1.0


def judged(part: SizeRange, verdicts: Mapping[int, str]) -> SizeRange:
    """The range with what the ``verdicts`` by size say of it: those inside it, else those of the sizes beside it."""
    inside = [size for size in verdicts if part.least <= size <= part.most]
    below = sorted(size for size in verdicts if size < part.least)[-1:]
    above = sorted(size for size in verdicts if size > part.most)[:1]
    said = sorted(inside or below + above)
    words = {verdicts[size] for size in said}
    ours = next((w for w in ("unknown", "slower", "tied", "faster") if w in words), "unknown")
    return replace(part, ours=ours, judged=tuple(said))


def representative(kernel: SizedKernel, parts: Sequence[SizeRange]) -> Winner:
    """The winner that stands for a kernel which serves ``parts``: timed inside them if it was, the largest size first,
    else at the nearest."""
    inside = [s for s in kernel.winners if any(p.least <= s <= p.most for p in parts)]
    return kernel.winners[max(inside) if inside else _nearest(kernel.winners, parts[0].most)]


def _reach(kernel: SizedKernel, good: Sequence[set[SizedKernel]], at: int) -> int:
    return next((i for i in range(at, len(good)) if kernel not in good[i]), len(good))


def _nearest(sizes: Iterable[int], size: int) -> int:
    return min(sizes, key=lambda s: (abs(math.log(s / size)), s))


def _around(searched: Sequence[int], size: int) -> tuple[int, int]:
    """The second of the searched sizes below and the second above."""
    below, above = [s for s in searched if s < size], [s for s in searched if s >= size]
    return below[-2] if len(below) > 1 else 0, above[1] if len(above) > 1 else 2**31
