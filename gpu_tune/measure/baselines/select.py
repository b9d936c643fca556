"""Which of a library's ways to compute a workload is the fastest: each is tried, then timed in a small graph."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...cuda.driver import DriverError
from ...cuda.memory import Event, Graph, Stream
from ..device_data import DeviceData
from .baseline import Run

log = logging.getLogger("gpu_tune.baselines")
FINALISTS = 5
LAUNCHES, SERIES = 8, 3
LONG, SLOW = 100e-6, 3.0
"""A run of that many seconds is timed well without a graph; one that much slower than the best is timed no further."""


@dataclass
class Variant:
    """One way to compute the workload: ``label`` tells how, ``run`` does it; ``roundings`` as in a Baseline.

    ``failed``: why it could not be timed.
    """

    label: str
    run: Run
    roundings: int = 0
    failed: str = ""


def quick(
    variant: Variant, data: DeviceData, scalars: Mapping[str, float], stream: Stream, best: float = float("inf")
) -> float:
    """Seconds of one run, the best of three short graphs on rotating buffers; inf where the library refuses.

    A graph, because issuing from Python takes longer than a small kernel runs; a long one is issued once a graph, and
    one that is far from ``best`` is not timed again.
    """
    start, end = Event(), Event()
    launches = LAUNCHES

    def issue(on: int) -> None:
        for i in range(launches):
            variant.run(data.timing[i % data.sets], scalars, on)

    try:
        variant.run(data.timing[0], scalars, stream.handle)
        start.record(stream.handle)
        variant.run(data.timing[0], scalars, stream.handle)
        end.record(stream.handle)
        once = end.seconds_since(start)
        if once > LONG:
            if once > SLOW * best:
                return once
            launches = max(1, min(LAUNCHES, math.ceil(4 * LONG / once)))
        graph = Graph(stream, issue)
        try:
            graph.launch(stream)
            times = []
            for _ in range(SERIES):
                start.record(stream.handle)
                graph.launch(stream)
                end.record(stream.handle)
                times.append(end.seconds_since(start) / launches)
            return min(times)
        finally:
            graph.close()
    except Exception as error:  # the libraries' errors have no common root; one way that fails leaves the others
        if isinstance(error, DriverError) and error.sticky:
            raise
        variant.failed = f"{type(error).__name__}: {error}"
        log.debug("%s fails: %s", variant.label, error)
        return float("inf")


def fastest(
    variants: Sequence[Variant],
    data: DeviceData,
    scalars: Mapping[str, float],
    stream: Stream,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Variant | None, list[float]]:
    """(the fastest variant, None when all fail; the seconds of each in a first trial). Five finalists are re-timed."""
    timed: list[float] = []
    for variant in variants:
        note("baselines")
        timed.append(quick(variant, data, scalars, stream, min(timed, default=float("inf"))))
    order = sorted((t, i) for i, t in enumerate(timed) if t < float("inf"))
    finalists = [variants[i] for _, i in order[:FINALISTS]]
    best = min(finalists, key=lambda v: min(quick(v, data, scalars, stream) for _ in range(5)), default=None)
    return best, timed


def why_none(variants: Sequence[Variant]) -> str:
    """In words, how the variants failed: the first failure, and whether there were any."""
    return next((f": {v.failed}" for v in variants if v.failed), "")
