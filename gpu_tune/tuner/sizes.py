"""Tuning a workload that leaves a size open: a few sizes are searched, and all that was timed competes in between.

Some sizes are searched. Then seeds for sizes between them are compiled and played, and more sizes are searched where
these are predicted to gain the most. Then the ranges are chosen (:mod:`.size_choice`); a kernel that serves sizes
without having won anywhere is verified and timed there, beside the next best, as finalists are. Every kernel is
executed at the ends of its ranges before the set is published.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..cuda.device import Device
from ..emulator import unavailable_reason
from ..errors import InvalidInput, WrongResult, require
from ..measure import emulated
from ..measure.protocol import Build
from ..plan.size import Size, label, whole
from ..store.winner import Winner
from ..store.winner_set import SizeRange, WinnerSet
from ..templates.bound import BoundTemplate
from ..trial import PREDICTED, Candidate
from ..workload import Workload
from .budget import Budget
from .search_run import Found
from .size_choice import MOST_SIZES, SizedKernel, choose, gain, judged, representative, rounded, samples, sizes_to_tune
from .size_choice import times_at as expected_times

log = logging.getLogger(__name__)
FIRST = 5
"""Sizes searched before the model says where others are worth it."""
SEARCHED = 0.75
"""Share of a budget that is spent on searches; the rest on what is tried in between."""
MOST_SCOUTS = 192
"""Seeds between the searched sizes that are compiled, at most; and seconds, where the budget has none."""
SCOUT_SECONDS = 60.0
CONTENDERS = 3
"""Kernels that are timed at a size between, at most."""
PASSES = 3
"""How often ranges are chosen again after kernels were timed in between."""
CLOSE = 1.15
"""Sizes nearer to each other than this (by their ratio) are not both searched."""
WORTH = 1.02
"""A gain that is predicted of a seed, beyond which another size is searched where it is largest."""


@dataclass(frozen=True)
class Earlier:
    """A stored set of the workload that is tuned now, of the templates as they are. ``outdated``: the driver under
    which its kernels were timed, where that is another one now."""

    winners: WinnerSet
    outdated: str = ""

    @classmethod
    def of(
        cls, winners: WinnerSet, workload: Workload, bound: Sequence[BoundTemplate], outdated: str
    ) -> Earlier | None:
        """None where the set is of other bounds, or of templates that have changed since."""
        now = {(b.name, b.hash) for b in bound}
        current = all((k.template, k.template_hash) in now for k in winners.kernels)
        if winners.workload == workload and not current:
            log.warning("the set for %s is of kernel templates that have changed since: tuned anew", workload.key)
        return cls(winners, outdated) if winners.workload == workload and current else None

    def enough(self, sizes: Sequence[int] | None, budget: Budget) -> bool:
        """Whether it was searched at ``sizes``, and had ``budget``."""
        winners, had = self.winners, self.winners.budget
        trials, seconds = budget.limits
        if budget.open:
            trials, seconds = trials * len(winners.sizes), seconds * len(winners.sizes)
        unbounded = had.get("trials") is None and had.get("seconds") is None
        enough = budget.open and unbounded and had.get("effort") in ("full", budget.effort)
        enough |= (had.get("trials") or winners.trials) >= trials or (had.get("seconds") or winners.spent) >= seconds
        return winners.complete and enough and set(sizes or winners.sizes) <= set(winners.sizes)


class SizeSearch(Protocol):
    """What is done at one size."""

    def search(self, size: int, budget: Budget, known: Sequence[SizedKernel]) -> Found:
        """Search for the fastest kernel at ``size``. Ctrl-C: a winner that is not complete."""

    def confirm(self, size: int, kernels: Sequence[SizedKernel]) -> Found:
        """Verify ``kernels`` and time them at ``size``."""

    def scouts(self, sizes: Sequence[int], known: Iterable[Candidate], most: int, seconds: float) -> Sequence[Build]:
        """Builds of up to ``most`` defaults and seeds for ``sizes`` that are not ``known``."""

    def builds(self, pairs: Sequence[tuple[int, Candidate]]) -> Sequence[Build]:
        """Builds of candidates, each for its size; those that cannot be built are left out."""

    def allows(self, size: int, candidate: Candidate) -> bool:
        """Whether the config is a valid one for ``size``."""


@dataclass
class _Tuning:
    """The state of a tuning: every kernel by its candidate, and the sizes that were searched."""

    size: Size
    source: str
    at: SizeSearch
    kernels: dict[Candidate, SizedKernel] = field(default_factory=dict)
    searched: list[int] = field(default_factory=list)
    trials: int = 0
    complete: bool = True

    def search(self, size: int, budget: Budget) -> None:
        found = self.at.search(size, budget, list(self.kernels.values()))
        self.searched = sorted({*self.searched, size})
        self.trials += found.winner.trials
        self.take(size, found)
        if not found.winner.complete:
            raise KeyboardInterrupt

    def take(self, size: int, found: Found) -> None:
        """Add what was timed at ``size`` to what is known."""
        for candidate in found.failed:
            self.kernels.pop(candidate, None)
        for build, seconds in found.timed:
            kernel = self.kernels.setdefault(build.candidate, SizedKernel(build))
            kernel.policy = found.winner.policy
            kernel.timed[size] = seconds
        self.kernels[found.build.candidate].winners[size] = found.winner

    def join(self, earlier: Earlier, sizes: Sequence[int]) -> None:
        """Take over the kernels of an earlier set, but for those of ``sizes``, which are searched again. Under another
        driver they are timed again, beside their finalists."""
        name, stored = self.size.name, earlier.winners
        winners = {int(getattr(w.workload, name)): w for w in stored.kernels}
        if earlier.outdated:
            log.warning("%s: timed under driver %s: its kernels are timed again", stored.workload.key, earlier.outdated)
        rivals = CONTENDERS - 1 if earlier.outdated else 0
        wanted = {
            (size, c): winner
            for size, winner in winners.items()
            for c in (_candidate(winner), *[c for c in winner.finalists if c != _candidate(winner)][:rivals])
            if size not in sizes
        }
        for build in self.at.builds(list(wanted)):
            kernel = SizedKernel(build)
            winner = wanted[kernel.size, kernel.candidate]
            kernel = self.kernels.setdefault(kernel.candidate, kernel)
            kernel.policy = winner.policy
            if not earlier.outdated and kernel.candidate == _candidate(winner):
                kernel.timed[kernel.size], kernel.winners[kernel.size] = winner.seconds, winner
        if wanted and not self.kernels:
            log.warning("%s: kernels of earlier sizes cannot be compiled here, and are left out", stored.workload.key)
            return
        self.searched = sorted({*self.searched, *stored.sizes})
        self.trials += stored.trials - sum(w.trials for size, w in winners.items() if size in sizes)
        for size, winner in winners.items() if earlier.outdated else ():
            own = [k for k in self.kernels.values() if (size, k.candidate) in wanted]
            if own:
                found = self.at.confirm(size, own)
                before = dict(trials=winner.trials, spent=winner.spent, budget=winner.budget)
                self.take(size, replace(found, winner=replace(found.winner, **before)))  # type: ignore[arg-type]

    def scout(self, most: int, seconds: float) -> None:
        between = [s for s in samples(self.size) if s not in self.searched]
        builds = self.at.scouts(between, self.kernels, most, seconds) if between else ()
        policy = next(iter(self.kernels.values())).policy
        for build in builds:
            self.kernels.setdefault(build.candidate, SizedKernel(build, policy))
        self.trials += len(builds) if self.source == PREDICTED else 0

    def next_size(self) -> int | None:
        """Where to search next: where a kernel that was only predicted would gain the most, else in the middle of the
        widest gap; None where all gaps are narrow."""
        ends = [s for s in samples(self.size) if all(max(s / t, t / s) > CLOSE for t in self.searched)]
        times = expected_times(ends, list(self.kernels.values()), self.searched)
        gains = {end: gain(found) for end, found in zip(ends, times)}
        worst = max(gains, key=lambda s: (gains[s], s), default=None)
        if worst is not None and gains[worst] > WORTH:
            return worst
        gaps = zip(self.searched, self.searched[1:])
        low, high = max(gaps, key=lambda gap: gap[1] / gap[0], default=(1, 1))
        middle = rounded(self.size, (low * high) ** 0.5)
        return middle if low * CLOSE < middle < high / CLOSE else None

    def confirm(self) -> None:
        """Time kernels that serve sizes without having won anywhere, until the ranges need none of those."""
        for _ in range(PASSES):
            used, parts = choose(self.size, list(self.kernels.values()), self.searched)
            new = [(k, [p for p in parts if p.kernel == i]) for i, k in enumerate(used) if not k.winners]
            for kernel, own in new:
                self._confirm(kernel, max(own, key=lambda p: (p.most / p.least, p.most)).most)
            if not new:
                return

    def _confirm(self, kernel: SizedKernel, size: int) -> None:
        if kernel.candidate not in self.kernels or kernel.winners:  # the finals of another one have settled it
            return
        if not self.at.allows(size, kernel.candidate):
            size = kernel.size
        (times,) = expected_times([size], list(self.kernels.values()), self.searched)
        order = sorted(times, key=lambda k: (k is not kernel, times[k], k.candidate.key))
        others = [k for k in order[1:] if times[k] < float("inf") and self.at.allows(size, k.candidate)]
        contenders = [kernel, *others[: CONTENDERS - 1]]
        try:
            self.take(size, self.at.confirm(size, contenders))
        except WrongResult as error:
            log.error("%s; such kernels are left out", error)
            for contender in contenders:
                if not contender.winners:
                    self.kernels.pop(contender.candidate, None)


def tune_sizes(
    workload: Workload,
    device: Device,
    source: str,
    sizes: Sequence[int] | None,
    budget: Budget,
    seed: int,
    at: SizeSearch,
    earlier: Earlier | None = None,
) -> WinnerSet:
    """The set of winners of ``workload``, which leaves a size open.

    ``sizes`` to search: by default ``FIRST`` in geometric steps, and up to ``MOST_SIZES`` where it is worth it; where
    there are none, the kernels of the ``earlier`` set are timed again. Its sizes are the new set's as well. Ctrl-C ends
    the search, and what is tuned by then serves all sizes. WrongResult where no kernel holds.
    """
    size = workload.open
    assert size is not None
    begun = time.monotonic()
    first = sizes_to_tune(size, FIRST) if sizes is None else list(sizes)
    most = len(first) if sizes is not None or len(first) < FIRST else MOST_SIZES
    if earlier is not None and sizes is None:
        first = sorted({*first, *earlier.winners.sizes})
    most = max(1, most, len(first))
    share = replace(
        budget,
        trials=None if budget.trials is None else max(1, int(SEARCHED * budget.trials) // most),
        seconds=None if budget.seconds is None else SEARCHED * budget.seconds / most,
    )
    scouts = MOST_SCOUTS if budget.trials is None else min(MOST_SCOUTS, int((1 - SEARCHED) * budget.trials))
    tuning = _Tuning(size, source, at)
    try:
        if earlier is not None:
            tuning.join(earlier, first)
        for number in reversed(first):  # the largest first: what it teaches holds for most of the sizes
            tuning.search(number, share)
        if first:
            tuning.scout(scouts, SCOUT_SECONDS if budget.seconds is None else (1 - SEARCHED) / 2 * budget.seconds)
        while sizes is None and len(tuning.searched) < most and (number := tuning.next_size() or 0):
            tuning.search(number, share)
        tuning.confirm()
    except KeyboardInterrupt:
        if not (first and any(k.winners for k in tuning.kernels.values())):  # what is stored stands
            raise
        tuning.complete = False
    kernels, ranges = _held(size, [k for k in tuning.kernels.values() if k.winners], tuning.searched, seed)
    return WinnerSet(
        workload,
        device.chip,
        source,
        tuple(representative(k, [p for p in ranges if p.kernel == i]) for i, k in enumerate(kernels)),
        ranges,
        tuple(tuning.searched),
        seed=seed,
        trials=tuning.trials,
        spent=time.monotonic() - begun + (earlier.winners.spent if earlier is not None else 0.0),
        budget=_budget(budget, earlier, bool(first)),
        complete=tuning.complete,
        created=time.time(),
    )


def _candidate(winner: Winner) -> Candidate:
    return Candidate(winner.template, winner.config)


def _budget(budget: Budget, earlier: Earlier | None, searched: bool) -> dict[str, Any]:
    """What a set was allowed, with what the set that it joins was allowed before."""
    now = {"trials": budget.trials, "seconds": budget.seconds, "effort": budget.effort, "ended": "sizes"}
    if earlier is None:
        return now
    had = earlier.winners.budget
    if not searched:
        return dict(had)
    both = {n: None if now[n] is None else now[n] + (had.get(n) or 0) for n in ("trials", "seconds")}  # type: ignore
    return {**now, **both}


def sizes_asked(size: Size | None, sizes: Sequence[int], subject: str = "sizes") -> list[int]:
    """The ``sizes`` that a caller wants tuned, in order; InvalidInput about ``subject`` for one that ``size`` may not
    have, for none, or where no size is open."""
    given = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else []
    if size is None:
        raise InvalidInput(
            subject, sizes, "choose among the values of an open size, and none is open", "leave them out"
        )
    remedy = f"give some of {label(size)}, or leave it out"
    require(given, subject, sizes, "names no size", remedy)
    low, high = size.bounds
    wrong = [s for s in given if type(whole(s)) is not int or not low <= s <= high]
    require(not wrong, subject, wrong, f"are not sizes that {size.name} may have", remedy)
    return sorted({whole(s) for s in given})


def _held(
    size: Size, kernels: list[SizedKernel], searched: Sequence[int], seed: int
) -> tuple[list[SizedKernel], tuple[SizeRange, ...]]:
    """The kernels and their ranges, once each is right at the ends of its ranges; one that is not is left out."""
    right: set[tuple[Candidate, int]] = set()
    while kernels:
        verdicts = {s: str(w.verdict.get("ours", "unknown")) for k in kernels for s, w in k.winners.items()}
        used, parts = choose(size, kernels, searched)
        wrong = None if unavailable_reason() else _first_wrong(used, parts, seed, right)
        if wrong is None:
            return used, tuple(judged(part, verdicts) for part in parts)
        log.error("%s; the kernel is left out", wrong[1])
        kernels = [k for k in kernels if k is not used[wrong[0]]]
    raise WrongResult("no kernel of the set computed the right thing at the ends of its ranges; run gpu-tune verify")


def _first_wrong(
    kernels: Sequence[SizedKernel], ranges: Sequence[SizeRange], seed: int, right: set[tuple[Candidate, int]]
) -> tuple[int, Any] | None:
    """The first kernel that is wrong at an end of a range of its own, and how; ``right``: where kernels are known to be
    right."""
    for i, kernel in enumerate(kernels):
        ends = sorted({end for part in ranges if part.kernel == i for end in (part.least, part.most)})
        ends = [end for end in ends if (kernel.candidate, end) not in right]
        for end, check in zip(ends, emulated.check_sizes(kernel.build.bound, kernel.candidate.config, ends, seed)):
            if not check.ok:
                return i, f"{kernel.candidate.key}: {check.workload}: {check.detail}"
            right.add((kernel.candidate, end))
    return None
