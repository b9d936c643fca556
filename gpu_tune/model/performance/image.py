"""A kernel of a cubin: its machine code, and what decides how many of its blocks an SM holds."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ...cuda import cubin as cubins
from ...cuda import lines
from ...cuda.sass import Program
from ...errors import CorruptData
from . import native
from .operations import address


@dataclass(frozen=True, eq=False)
class KernelCode:
    """``registers`` of a thread and ``static_shared_bytes`` of a block."""

    program: Program
    registers: int
    static_shared_bytes: int


@functools.lru_cache(maxsize=64)
def kernel_code(cubin: bytes, name: str) -> KernelCode:
    """Of the kernel ``name``: read in C++ where a compiler is there and nothing is odd, otherwise in Python, to the
    same result. CorruptData where ``cubin`` is none, or has no such kernel."""
    library = native.library()
    if library is not None:
        found = np.empty(5, np.int64)
        if not library.perf_code_of(cubin, len(cubin), name.encode(), address(found)):
            start, size, registers, shared, cc = found.tolist()
            return KernelCode(Program(cc, cubin[start : start + size]), registers, shared)
    facts = cubins.read(cubin)
    if name not in facts.kernels:
        raise CorruptData(f"cubin has no kernel {name!r}; it has: {', '.join(facts.kernels) or 'none'}")
    taken = facts.kernels[name]
    return KernelCode(cubins.programs(cubin)[name], taken.registers, taken.static_shared_bytes)


def ptx_text(cubin: bytes) -> str:
    """What :func:`gpu_tune.cuda.lines.ptx_text` says."""
    library, found = native.library(), np.empty(2, np.int64)
    if library is None or library.perf_ptx_of(cubin, len(cubin), address(found)):
        return lines.ptx_text(cubin)
    start, size = found.tolist()
    return cubin[start : start + size].replace(b"\0", b"\n").decode(errors="replace")
