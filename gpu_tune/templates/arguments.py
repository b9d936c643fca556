"""Kernel arguments that many templates share, in the order in which ``parts/epilogue.cuh.j2`` declares them."""

from __future__ import annotations

from ..plan import Arg, BufferArg, ScalarArg
from ..workload import Workload


def epilogue_args(workload: Workload) -> tuple[Arg, ...]:
    """``out``, then whatever of ``c``, epilogue operands, scales and run-time scalars the workload uses."""
    names = ["out"] + (["c"] if workload.beta != "0" else [])
    names += [op.name for op in workload.ops if op.name in ("bias", "row_bias", "residual", "scale")]
    names += ["scale_a", "scale_b"] if workload.scales != "none" else []
    return (*map(BufferArg, names), *(ScalarArg(name, "float32") for name in workload.scalars()))
