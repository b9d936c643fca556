"""What each term of the model is worth: the same shapes without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.performance_model.compiled import Cubins, predictions
from bench.performance_model.metrics import Scores
from bench.transfer.autoheuristic import Shape
from gpu_tune.model.performance import constants

TERMS: dict[str, dict[str, float]] = {
    "(all terms)": {},
    "memory latency": {"l2": 1, "dram": 1, "l1": 1, "shared": 1, "ldmatrix": 1},
    "bandwidth of L2": {"l2_bytes": 1e9},
    "lines of L2": {"line": 0},
    "translations": {"pages": 0},
    "bandwidth of shared memory": {"shared_bytes": 1e9},
    "barriers": {"barrier": 0},
    "instruction caches": {"fetch_bytes": 1e9, "near_fetch_bytes": 0},
    "arithmetic pipes": {"fma": 1, "alu": 1, "imad": 1, "half": 1, "mma_share": 1e3},
}
"""Constants that leave a term out."""


@contextmanager
def without(changes: dict[str, float]) -> Iterator[None]:
    """The architectures' constants changed, for processes that are started within."""
    kept = dict(constants.ARCHITECTURES)
    try:
        for cc, sm in kept.items():
            constants.ARCHITECTURES[cc] = dataclasses.replace(sm, **changes)  # type: ignore[arg-type]
        yield
    finally:
        constants.ARCHITECTURES.update(kept)


def rows(shapes: Sequence[Shape], cubins: Cubins, jobs: int, lanes: Sequence[str]) -> dict[int, list[dict[str, Any]]]:
    """Rows by compute capability: each leaves one term out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for name, changes in (*TERMS.items(), ("lanes' addresses", {})):
        with without(changes):
            # a process apart even for one job: what was played is kept in the process
            predicted = predictions(shapes, cubins, max(2, jobs), () if name.startswith("lanes") else lanes)
        for cc in sorted({s.device.cc for s in shapes}):
            some = [(s, p) for s, p in zip(shapes, predicted) if s.device.cc == cc]
            scores = Scores.of([p.seconds for _, p in some], [s.times() for s, _ in some])
            found.setdefault(cc, []).append(scores.row(name if name.startswith("(") else f"without {name}"))
    return found
