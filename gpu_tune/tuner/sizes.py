"""Tuning a workload that leaves a size open: a few sizes are tuned, the performance model chooses between them.

Each winner computes every size. Its time at another size is predicted from its machine code, corrected by how far its
own prediction was off at the size at which it was timed; each part of the sizes gets the kernel that is fastest at its
end, and a kernel is kept while it is as good as the best within ``KEPT``. Every kernel is executed at the ends of its
ranges before the set is published.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cuda.device import Device
from ..emulator import unavailable_reason
from ..errors import WrongResult, require
from ..measure import emulated
from ..measure.compiling import lanes_for
from ..measure.protocol import Build
from ..model.performance import predict
from ..plan.size import Size, label, whole
from ..store.winner import Winner
from ..store.winner_set import SizeRange, WinnerSet
from ..workload import Workload
from .budget import Budget

log = logging.getLogger(__name__)
MOST_SIZES = 8
"""Sizes that are tuned where none are named."""
LEAST = 16
"""The smallest of these: below it kernels do the same work."""
KEPT = 1.01
"""A kernel is kept for the next larger sizes while it takes at most this much of the best one's time."""
Tuned = Callable[[int, Budget], tuple[Winner, Build]]


@dataclass(frozen=True)
class SizedKernel:
    """A winner for one size that computes all others, too."""

    winner: Winner
    build: Build

    @property
    def size(self) -> int:
        """The size at which it was tuned."""
        return int(getattr(self.winner.workload, self.winner.workload.openable))

    def predicted(self, size: int) -> float:
        """Seconds that the performance model expects of a run with ``size``; cold or warm as it was timed."""
        bound, rendered, device = self.build.bound, self.build.rendered, self.build.bound.device
        assert rendered.open_plan is not None
        there = replace(bound, workload=bound.workload.resized(size))
        estimate, cold = there.estimate(self.winner.config), self.winner.policy.l2 == "cold"
        plan = rendered.open_plan.at(size)
        lanes = lanes_for(self.build)
        return predict(self.build.cubin, plan, estimate, there.computed, device, lanes=lanes, cold=cold).seconds


def tune_sizes(
    workload: Workload,
    device: Device,
    source: str,
    sizes: Sequence[int] | None,
    budget: Budget,
    seed: int,
    tuned: Tuned,
) -> WinnerSet:
    """The set of winners of ``workload``, which leaves a size open. ``tuned(size, budget)`` searches for one size.

    ``sizes`` to tune: by default some that :func:`sizes_to_tune` names. Ctrl-C ends the search, and what is tuned by
    then serves all sizes. WrongResult where no kernel holds.
    """
    size = workload.open
    assert size is not None
    begun = time.monotonic()
    chosen = sizes_to_tune(size) if sizes is None else sizes_asked(size, sizes)
    share = replace(
        budget,
        trials=None if budget.trials is None else max(1, budget.trials // len(chosen)),
        seconds=None if budget.seconds is None else budget.seconds / len(chosen),
    )
    kernels: list[SizedKernel] = []
    complete = True
    for number in reversed(chosen):  # the largest first: what it teaches holds for most of the sizes
        try:
            kernels.append(SizedKernel(*tuned(number, share)))
        except KeyboardInterrupt:
            if not kernels:
                raise
            complete = False
        if not complete or not kernels[-1].winner.complete:
            complete = False
            break
    kernels.reverse()
    done, trials = tuple(k.size for k in kernels), sum(k.winner.trials for k in kernels)
    kernels, ranges = _held(size, kernels, seed)
    return WinnerSet(
        workload,
        device.chip,
        source,
        tuple(k.winner for k in kernels),
        ranges,
        done,
        seed=seed,
        trials=trials,
        spent=time.monotonic() - begun,
        budget={"trials": budget.trials, "seconds": budget.seconds, "effort": budget.effort, "ended": "sizes"},
        complete=complete,
        created=time.time(),
    )


def sizes_asked(size: Size, sizes: Sequence[int]) -> list[int]:
    """The ``sizes`` that a caller wants tuned, in order; InvalidInput for one that ``size`` may not have, or none."""
    given = list(sizes) if isinstance(sizes, Iterable) else []
    remedy = f"give a list of some of {label(size)}, or leave it out"
    require(given, "sizes", sizes, "names no size", remedy)
    low, high = size.bounds
    wrong = [s for s in given if type(whole(s)) is not int or not low <= s <= high]
    require(not wrong, "sizes", wrong, f"are not sizes that {size.name} may have", remedy)
    return sorted({whole(s) for s in given})


def sizes_to_tune(size: Size, most: int = MOST_SIZES) -> list[int]:
    """Up to ``most`` round sizes in geometric steps, from ``LEAST`` (or the least allowed) to the largest."""
    low, high = size.bounds
    first = min(max(low, LEAST), high)
    steps = max(1, min(most - 1, (high // first).bit_length() - 1))
    found = {first, high}
    for step in range(1, steps):
        ideal = first * (high / first) ** (step / steps)
        unit = 16 if ideal < 256 else 128
        found.add(min(high, max(first, round(ideal / unit) * unit)))
    return sorted(found)


def samples(size: Size) -> list[int]:
    """Sizes at whose ends tiles of every family begin another row: the ends of the parts that are compared."""
    low, high = size.bounds
    found, at = [], 0
    while at < high:
        at += 8 if at < 16 else 16 if at < 128 else 32 if at < 512 else 64 if at < 2048 else max(128, at // 1024 * 64)
        if at >= low:
            found.append(min(at, high))
    return found


def choose(size: Size, kernels: Sequence[SizedKernel]) -> tuple[SizeRange, ...]:
    """Which kernel serves which sizes; see the module."""
    factors = [k.winner.seconds / k.predicted(k.size) if k.winner.seconds > 0 else 1.0 for k in kernels]
    begin, current, parts = size.bounds[0], -1, list[SizeRange]()
    for end in samples(size):
        near = _near(kernels, end)
        times = {i: kernels[i].predicted(end) * factors[i] for i in {*near, *((current,) if current >= 0 else ())}}
        best = min(times, key=lambda i: (times[i], i))
        if current < 0 or times[current] > KEPT * times[best]:
            current = best
        if parts and parts[-1].kernel == current:
            parts[-1] = replace(parts[-1], most=end)
        else:
            parts.append(SizeRange(begin, end, current))
        begin = end + 1
    return tuple(_judged(part, kernels) for part in parts)


def _near(kernels: Sequence[SizedKernel], size: int) -> list[int]:
    """The kernels tuned at the two sizes below and the two above."""
    above = next((i for i, k in enumerate(kernels) if k.size >= size), len(kernels))
    return list(range(max(0, above - 2), min(len(kernels), above + 2)))


def _judged(part: SizeRange, kernels: Sequence[SizedKernel]) -> SizeRange:
    """The range with what the winners' verdicts say of it."""
    inside = [k for k in kernels if part.least <= k.size <= part.most]
    below = [k for k in kernels if k.size < part.least][-1:]
    above = [k for k in kernels if k.size > part.most][:1]
    said = inside or below + above
    words = {str(k.winner.verdict.get("ours", "unknown")) for k in said}
    ours = next((w for w in ("unknown", "slower", "tied", "faster") if w in words), "unknown")
    return replace(part, ours=ours, judged=tuple(k.size for k in said))


def _held(size: Size, kernels: list[SizedKernel], seed: int) -> tuple[list[SizedKernel], tuple[SizeRange, ...]]:
    """The kernels and their ranges, once each is right at the ends of its ranges; one that is not is left out."""
    while kernels:
        ranges = choose(size, kernels)
        wrong = None if unavailable_reason() else _first_wrong(kernels, ranges, seed)
        if wrong is None:
            used = sorted({part.kernel for part in ranges})
            number = {old: new for new, old in enumerate(used)}
            return [kernels[i] for i in used], tuple(replace(p, kernel=number[p.kernel]) for p in ranges)
        log.error("%s; the kernel is left out", wrong[1])
        kernels = [k for i, k in enumerate(kernels) if i != wrong[0]]
    raise WrongResult("no kernel of the set computed the right thing at the ends of its ranges; run gpu-tune verify")


def _first_wrong(kernels: Sequence[SizedKernel], ranges: Sequence[SizeRange], seed: int) -> tuple[int, Any] | None:
    """The first kernel that is wrong at an end of a range of its own, and how."""
    for i, kernel in enumerate(kernels):
        ends = sorted({end for part in ranges if part.kernel == i for end in (part.least, part.most)})
        for check in emulated.check_sizes(kernel.build.bound, kernel.winner.config, ends, seed):
            if not check.ok:
                return i, f"{kernel.winner.template} {kernel.winner.config.key}: {check.workload}: {check.detail}"
    return None
