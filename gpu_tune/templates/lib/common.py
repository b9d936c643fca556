"""What the families of every architecture share: limits, rounding, and the arguments that an epilogue takes."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from ...cuda.device import Device
from ...plan import Arg, BufferArg, LaunchPlan, MemsetStep, ScalarArg, Walk
from ...plan.size import ceil_div
from ...workload import ITEMSIZE, Matmul, Workload

STATIC_LIMIT = 49152
"""Bytes of shared memory that a kernel may declare statically; more is declared extern."""
INDEX_LIMIT = 2**31 - 2**20
"""int indices reach up to here, with room for the last block's overhang."""

derived_once = functools.lru_cache(maxsize=256)
"""Decorates a family's derived values: source, estimate and launch plan of a config share them."""


def register_limit(threads: int, min_blocks: int, device: Device) -> int:
    """Registers that ``__launch_bounds__(threads, min_blocks)`` leaves a thread, in steps of 8.

    Warps are dealt to the SM's four schedulers, each with a quarter of the registers; the fullest one counts.
    """
    warps = ceil_div(ceil_div(threads, 32) * max(1, min_blocks), 4)
    return min(device.registers_per_thread, device.registers_per_sm // (128 * max(1, warps)) // 8 * 8)


def channels(w: Any) -> tuple[int, int]:
    """Input and output channels of one group of a convolution."""
    return w.c // w.groups, w.k // w.groups


def epilogue_args(workload: Workload) -> tuple[Arg, ...]:
    """``out``, then whatever of ``c``, epilogue operands, scales and run-time scalars the workload uses.

    ``parts/common/epilogue.cuh.j2`` declares them in this order.
    """
    names = ["out"] + (["c"] if workload.beta != "0" else [])
    names += [op.operand for op in workload.ops if op.operand]
    names += ["scale_a", "scale_b"] if workload.scales != "none" else []
    scalars = (*(ScalarArg(name, "float32") for name in workload.scalars()), *size_args(workload))
    return (*map(BufferArg, names), *scalars)


def with_zeros(plan: LaunchPlan, workload: Workload) -> LaunchPlan:
    """``plan`` after zeros in the masks that its epilogue writes, where vectors of less than a byte add their bits."""
    masks = {op.writes for op in workload.ops if op.writes and op.bits}
    specs = workload.arrays()
    zeros = tuple(MemsetStep(name, specs[name].nbytes) for name in sorted(masks))
    return replace(plan, steps=(*zeros, *plan.steps)) if zeros else plan


def size_args(source: Any) -> tuple[ScalarArg, ...]:
    """The argument that the open size of a workload, or of a part of it, is (``source.open``); none without one."""
    size = source.open
    return () if size is None else (ScalarArg(size.name, "int32", size),)


def matmul_walks(w: Matmul, block_m: int, block_n: int, block_k: int) -> tuple[Walk, Walk]:
    """How a tile's step of K walks A and B: along K where that is contiguous, else along the rows or columns."""
    item = ITEMSIZE[w.dtype]
    m, n, k = min(block_m, w.m), min(block_n, w.n), min(block_k, w.k)
    a = Walk(m, k * item, w.lda * item) if w.layout[0] == "n" else Walk(k, m * item, w.lda * item)
    b = Walk(n, k * item, w.ldb * item) if w.layout[1] == "t" else Walk(k, n * item, w.ldb * item)
    return a, b
