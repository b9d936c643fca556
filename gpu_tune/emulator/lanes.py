"""What the memory accesses of a kernel cost in wavefronts and sectors, from the addresses of its lanes.

The emulator runs one block (or cluster) of each kernel of a launch plan. Only addresses matter: arrays are all zeros
and take no memory until they are touched, loops are left after a few rounds, tensor cores compute nothing, and no
check reports. So it costs milliseconds whatever the size of the workload.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from ..plan import Arg, BufferArg, KernelStep, LaunchPlan, ScalarArg
from .machine import Machine
from .ptx import Ptx
from .report import Checks

KINDS = ("", "", "load", "store", "copy", "ldmatrix", "stmatrix", "atomic")
"""Of the library's numbers. ``copy`` is cp.async: it reads global memory and writes shared memory."""
COLUMNS = (
    "line", "width", "kind", "count", "wavefronts", "sectors", "lines", "hits", "again", "again_sectors", "again_hits",
    "lanes", "shared", "touched",
)  # fmt: skip
"""Of a row: see :class:`Access`; ``again``: executions by a warp that had been there before, and what those touched;
``shared`` and ``touched``: whether it accesses shared and global memory."""
_NONE = np.zeros((0, 2), np.int32)
_NO_CHECKS = Checks(*[False] * 6)
_PAGE = mmap.PAGESIZE
_U32 = ctypes.c_uint32 * 12
_NO_RESERVE = 0x4000  # MAP_NORESERVE; the module mmap names it from Python 3.13 on


@dataclass(frozen=True)
class Access:
    """One memory instruction of the PTX, or one that the assembler made of it; means over its warp instructions.

    ``line``: of the PTX. ``kind``: see ``KINDS``. ``width``: bytes a lane moves. ``count``: warp instructions that were
    counted. ``wavefronts`` of shared memory (None where it accesses none; 1 a warp instruction is the least, 2 for 8
    and 4 for 16 bytes a lane). ``sectors`` of 32 and ``lines`` of 128 bytes of global memory (None likewise), and
    ``hits``: the share of these sectors that L1 holds since an earlier access of the block; where warps execute the
    instruction more than once, that of later times. ``lanes``: active ones.
    """

    line: int
    kind: str
    width: int
    count: int
    wavefronts: float | None = None
    sectors: float | None = None
    lines: float | None = None
    hits: float | None = None
    lanes: float = 0.0


def record(
    ptx: str | Ptx,
    plan: LaunchPlan,
    sizes: Mapping[str, int],
    *,
    wanted: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    l1_bytes: int = 128 * 1024,
    rounds: int = 3,
    limit: int = 1_000_000,
) -> dict[str, tuple[Access, ...]]:
    """The accesses of each kernel of ``plan``, by kernel name, those that one block executed: see :func:`count`.

    ``wanted``: by kernel, PTX lines and bytes a lane.
    """
    flat = None if wanted is None else {name: np.array(sorted(of), np.int32) for name, of in wanted.items()}
    found = count(ptx, plan.check(), sizes, wanted=flat, l1_bytes=l1_bytes, rounds=rounds, limit=limit)
    return {name: tuple(_access(*row) for row in rows.tolist()) for name, rows in found.items()}


def count(
    ptx: str | Ptx,
    plan: LaunchPlan,
    sizes: Mapping[str, int],
    *,
    wanted: Mapping[str, NDArray[np.int32]] | None = None,
    l1_bytes: int = 128 * 1024,
    rounds: int = 3,
    limit: int = 1_000_000,
) -> dict[str, NDArray[np.uint64]]:
    """By kernel of ``plan``, a row of ``COLUMNS`` for each access that one block executed: sums over its executions.

    ``plan`` is one that was checked. ``sizes``: bytes of each buffer that it names; the workspace's are known.
    ``wanted``: by kernel, the PTX lines that matter and the bytes a lane moves there in the machine code, (n, 2) by
    ascending line (a kernel that is not in it does not run); without it every access, as PTX has it. The block is the
    one in the middle of the grid; where that waits for other blocks it goes on as if they had come. What it leaves out
    (the sum over splits, which the last block makes) is looked at by going there in a second run. ``l1_bytes``: what
    L1 keeps for one block. ``rounds``: how often a loop goes back. ``limit``: warp instructions a kernel. What no warp
    executed has no row.

    EmulationError for PTX that the emulator refuses, whole or a kernel of it.
    """
    module = Ptx(ptx) if isinstance(ptx, str) else ptx
    machine = Machine(module, late=True, checks=_NO_CHECKS, stop="never")
    library, handle = machine.library, machine.handle
    found: dict[str, NDArray[np.uint64]] = {}
    try:
        bound, memory = _untouched(machine, {**sizes, "workspace": int(plan.workspace_bytes)})
        for step in plan.kernels:
            lines = _NONE if wanted is None else np.ascontiguousarray(wanted.get(step.kernel, _NONE), np.int32)
            if step.kernel in found or (wanted is not None and not len(lines)):
                continue
            values = [_argument(machine, step, arg, bound) for arg in step.args]
            name, params = step.kernel.encode(), machine.parameters(step.kernel, values)
            rows = np.empty((len(lines), len(COLUMNS)), np.uint64)
            how = _U32(*step.grid, *step.block, *step.cluster, step.shared_bytes, _middle(step), rounds)
            count = library.emu_count(
                handle, name, how, limit, l1_bytes, lines.ctypes.data, len(lines), params, len(params),
                rows.ctypes.data, len(rows),
            )  # fmt: skip
            if count > len(rows):  # every access was asked for
                rows = np.empty((count, len(COLUMNS)), np.uint64)
                library.emu_recorded(handle, name, rows.ctypes.data, count)
            rows = rows[:count]
            found[step.kernel] = rows[rows[:, 3] > 0]
    finally:
        machine.close()
    memory.close()
    return found


class _Buffer(NamedTuple):
    number: int
    address: int
    size: int


def _untouched(machine: Machine, sizes: Mapping[str, int]) -> tuple[dict[str, _Buffer], mmap.mmap]:
    """Buffers of zeros that take memory only where it is touched, and that memory, all in one piece."""
    starts = [0, *itertools.accumulate((size // _PAGE + 1) * _PAGE for size in sizes.values())]
    pages = mmap.mmap(-1, starts[-1] + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    base = np.frombuffer(pages, np.uint8).ctypes.data
    found = {}
    for (name, size), start in zip(sizes.items(), starts):
        size = max(size, 1)
        found[name] = _Buffer(*machine.memory(name, base + start, size), size)
    return found, pages


def _argument(machine: Machine, step: KernelStep, arg: Arg, bound: Mapping[str, _Buffer]) -> bytes:
    if isinstance(arg, ScalarArg):
        return bytes(arg.evaluate({"alpha": 1.0, "beta": 1.0}))
    rule = f"has no size although kernel {step.kernel!r} of the plan uses it"
    require(arg.buffer in bound, f"buffer {arg.buffer!r}", ..., rule, "give it in `sizes`")
    buffer = bound[arg.buffer]
    address = buffer.address + arg.offset
    if isinstance(arg, BufferArg):
        return address.to_bytes(8, "little")
    left = buffer.size - arg.offset
    return machine.tensor_map(arg, buffer.number, address, left, f"kernel {step.kernel!r}")


def _middle(step: KernelStep) -> int:
    """The cluster in the middle of the grid, in the order in which clusters start."""
    across = [g // c for g, c in zip(step.grid, step.cluster)]
    x, y, z = (n // 2 for n in across)
    return (z * across[1] + y) * across[0] + x


def _access(
    line: int, width: int, kind: int, count: int, wavefronts: int, sectors: int, lines: int, hits: int,
    again: int, again_sectors: int, again_hits: int, lanes: int, shared: int, touched: int,
) -> Access:  # fmt: skip
    of, part = (again_sectors, again_hits) if again_sectors else (sectors, hits)
    return Access(
        line,
        KINDS[kind],
        width,
        count,
        wavefronts / count if shared else None,
        sectors / count if touched else None,
        lines / count if touched else None,
        (part / of if of else 0.0) if touched else None,
        lanes / count,
    )
