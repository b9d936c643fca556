"""Taking time on the device: graphs of unrolled launches, cold or warm L2, as many repeats as it takes.

Cold: every launch inside a graph has a buffer set of its own (or as many sets as exceed three times the L2 rotate),
and between replays, outside the timed region, three times the L2 is overwritten. Warm: one set, nothing overwritten.
The device is kept busy (by the overwriting, or by a run that is not timed) for longer than the host takes to issue what
is timed, or else the region would begin with the device waiting for the host.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..cuda.driver import memset
from ..trial import Policy
from . import runtime
from .finals import relative_width
from .runtime import Graph, Stream

GRAPH_SECONDS = 600e-6
"""A timed region lasts about this long, so that the gap around it (about a microsecond) does not count."""
WIDTH = 0.004
"""Repeats end when the median is known to this (relative half-width at 95 %)."""
MIN_REPEATS, MAX_UNROLL = 5, 512
SLOW = 3.0
"""Timing ends early for a candidate that is this many times slower than the best."""
UNSTABLE = 0.2
LONG_RUN = 0.05
"""Seconds from which on one run is enough to see that a candidate is ``SLOW`` times slower than the best."""
MAX_FLUSHES = 4
"""At most this many L2 flushes between samples keep the device busy."""
ISSUES, ISSUE_SERIES = 32, 7
"""Runs that are issued one after another (fewer than a driver queues before it makes the host wait), and how often."""
WARM_UP = 0.01
"""Seconds of untimed work before a candidate's samples: clocks rise within milliseconds of work."""


class Timeable(Protocol):
    """Something to time: ``sets`` buffer sets, ``launch(i, stream)`` issues one run on set ``i``."""

    sets: int
    footprint: int

    def launch(self, i: int, stream: int) -> None: ...


@dataclass
class Flush:
    """Memory that is overwritten to empty the L2: ``nbytes`` at ``address`` (three times the L2)."""

    address: int
    nbytes: int
    turn: int = 0

    def __call__(self, stream: int) -> None:
        self.turn += 1
        memset(self.address, self.turn & 0xFF, self.nbytes, stream)


class Stopwatch:
    """A kernel or library call, ready to be timed again and again: ``cold()`` and ``warm()`` are seconds of a run."""

    def __init__(self, timed: Timeable, policy: Policy, stream: Stream, flush: Flush, l2_bytes: int) -> None:
        self._timed, self._policy, self._stream, self._flush = timed, policy, stream, flush
        self._seconds = runtime.timer(stream)
        for _ in range(2):
            timed.launch(0, stream.ptr)
        stream.synchronize()
        self._graphs: list[Graph] = []
        estimate = min(self._seconds(lambda s: timed.launch(0, s)) for _ in range(3))
        self._build(estimate, l2_bytes)
        if policy.mode == "graph":  # issuing one by one costs more than a short kernel: now the graph tells its length
            exact = min(self.warm() for _ in range(2))
            if exact < 0.7 * estimate:
                self.close()
                self._build(exact, l2_bytes)

    def cold(self) -> float:
        """Seconds of one run that finds nothing in the L2."""
        for _ in range(self._flushes):
            self._flush(self._stream.ptr)
        return self._seconds(self._cold) / self.unroll

    def warm(self) -> float:
        """Seconds of one run on the buffers of the run before."""
        self._warm(self._stream.ptr)  # keeps the device busy while the timed one is issued
        return self._seconds(self._warm) / self.unroll_warm

    def sample(self, l2: str) -> float:
        return self.cold() if l2 == "cold" else self.warm()

    def close(self) -> None:
        self._graphs.clear()

    def _build(self, seconds: float, l2_bytes: int) -> None:
        timed, graph = self._timed, self._policy.mode == "graph"
        wanted = max(1, math.ceil(GRAPH_SECONDS / max(seconds, 1e-7)))
        rotating = timed.sets * timed.footprint >= 3 * l2_bytes
        self.unroll = min(wanted, MAX_UNROLL if rotating else timed.sets) if graph else 1
        self.unroll_warm = min(wanted, MAX_UNROLL) if graph else 1
        self._cold = self._prepare(self.unroll, timed.sets)
        self._warm = self._prepare(self.unroll_warm, 1)
        flushing = self._seconds(self._flush)
        self._flushes = max(1, min(MAX_FLUSHES, math.ceil(2 * self._issuing() / max(flushing, 1e-7))))

    def _issuing(self) -> float:
        """Seconds that the host takes to issue the cold runs. The first of a graph takes longer and does not count."""
        seconds = []
        for _ in range(2):
            self._stream.synchronize()
            start = time.perf_counter()
            self._cold(self._stream.ptr)
            seconds.append(time.perf_counter() - start)
        self._stream.synchronize()
        return min(seconds)

    def _prepare(self, unroll: int, sets: int) -> Callable[[int], None]:
        def issue(stream: int) -> None:
            for i in range(unroll):
                self._timed.launch(i % sets, stream)

        if self._policy.mode != "graph":
            return issue
        graph = runtime.capture(self._stream, issue)
        self._graphs.append(graph)
        return lambda stream: graph.launch(self._stream)


def issue_seconds(timed: Timeable, stream: Stream) -> float:
    """Seconds that the host takes to issue one run by itself, prepared: the median of short series.

    The device is behind all the while, and nothing waits for it inside a series.
    """
    series = []
    for _ in range(ISSUE_SERIES):
        with runtime.reporting("cuStreamSynchronize"):
            stream.synchronize()
        start = time.perf_counter()
        for _ in range(ISSUES):
            timed.launch(0, stream.ptr)
        series.append((time.perf_counter() - start) / ISSUES)
    with runtime.reporting("cuStreamSynchronize"):
        stream.synchronize()
    return statistics.median(series)


def estimate_runtime(timed: Timeable, stream: Stream) -> float:
    """Seconds of one run issued by itself, after one that is not timed: microseconds too many."""
    timed.launch(0, stream.ptr)
    return runtime.timer(stream)(lambda on: timed.launch(0, on))


def is_much_slower(seconds: float, best: float) -> bool:
    """Whether a run of so many seconds needs no closer look beside the ``best`` one known (0: none)."""
    return best > 0 and seconds > max(SLOW * best, LONG_RUN)


def warm_up(watches: Sequence[Stopwatch], seconds: float) -> None:
    """Keep the device at work with ``watches`` for ``seconds`` (each at least once), so that its clocks settle."""
    end = time.perf_counter() + seconds
    while True:
        for watch in watches:
            watch.warm()
        if time.perf_counter() >= end:
            return


def repeat(sample: Callable[[], float], repeats: int, best: float = 0.0) -> tuple[float, ...]:
    """Samples until their median is known to ``WIDTH``, ``repeats`` are taken, or ``best`` is clearly out of reach."""
    sample()  # the first one after other work is off
    samples: list[float] = []
    while len(samples) < max(1, repeats):
        samples.append(sample())
        if best and len(samples) >= 3 and min(samples) > SLOW * best:
            break
        if len(samples) >= MIN_REPEATS and relative_width(samples) <= WIDTH:
            break
    return tuple(samples)


def unstable(samples: Sequence[float]) -> bool:
    """Whether the median of ``samples`` is not even known to ``UNSTABLE``."""
    return len(samples) >= MIN_REPEATS and relative_width(samples) > UNSTABLE


def interleave(
    watches: Sequence[Stopwatch], rounds: int, order: Callable[[int], Sequence[int]], l2: str
) -> list[list[float]]:
    """One sample of each of ``watches`` a round, in the order that ``order(round)`` gives; a list of samples each."""
    samples: list[list[float]] = [[] for _ in watches]
    for watch in watches:
        watch.sample(l2)
    for r in range(rounds):
        for i in order(r):
            samples[i].append(watches[i].sample(l2))
    return samples
