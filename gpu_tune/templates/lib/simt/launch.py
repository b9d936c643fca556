"""How the families on the plain arithmetic units launch, with K whole or in parts that a second kernel adds."""

from __future__ import annotations

from typing import Any

from ....plan import Arg, BufferArg, KernelStep, LaunchPlan
from ..common import ceil_div, epilogue_args, size_args

REDUCE_THREADS = 256
GRID_Z = 65535
"""Matrices of a batch that the third dimension of a grid counts; more are folded into the first."""


def workspace_bytes(parts: int, w: Any, outputs: int) -> int:
    """Bytes of the sums of all parts; ``outputs`` of each matrix of a batch."""
    return 4 * parts * w.batch * outputs if parts > 1 else 0


def plan(
    name: str,
    g: Any,
    w: Any,
    inputs: tuple[str, str],
    blocks: int,
    parts: int,
    outputs: int,
    vector: int,
    sharers: int = 1,
) -> LaunchPlan:
    """One launch, and with several ``parts`` a second one that adds them in order and runs the epilogue.

    ``blocks`` compute the ``outputs`` of one matrix of the batch; a thread of the second launch stores ``vector``, and
    ``sharers`` of its threads share the parts of one result.
    """

    def grid(x: int, y: int) -> tuple[int, int, int]:
        return (x * w.batch, y, 1) if w.batch > GRID_Z else (x, y, w.batch)

    args: tuple[Arg, ...] = epilogue_args(w)
    steps = []
    if parts > 1:
        reduce_grid = grid(ceil_div(outputs // vector * sharers, REDUCE_THREADS), 1)
        steps = [KernelStep(f"{name}_reduce", reduce_grid, (REDUCE_THREADS, 1, 1), (BufferArg("workspace"), *args))]
        scales = ("scale_a", "scale_b") if w.scales == "block128" else ()
        args = (BufferArg("workspace"), *map(BufferArg, scales), *size_args(w))
    sums = g.storage.sums
    args = (*map(BufferArg, inputs), *args, *((sums.argument,) if sums else ()))
    dynamic = g.storage.shared_bytes if g.storage.dynamic else 0
    main = KernelStep(name, grid(blocks, parts), (g.launch.threads, 1, 1), args, dynamic)
    return LaunchPlan((main, *steps), sums.end if sums else workspace_bytes(parts, w, outputs)).check()
