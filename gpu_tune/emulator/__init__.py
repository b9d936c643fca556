"""Run CUDA kernels on the CPU: an interpreter for the PTX that NVRTC makes, with every access under watch.

It needs no GPU and no driver: NVRTC (a wheel) and a C++17 compiler on first use. Results land as late as is legal,
interleavings come from a seed (same seed, same run), only as many blocks are resident as the device could hold (they
start in the order of their index, as on the device), and every access is checked: bounds and alignment, uninitialised
reads, races in shared and global memory (against every reader), divergence at barriers, mbarrier accounting, proxy
fences for shared and global memory, bulk stores in flight, wgmma register ownership, deadlocks, tensor-map legality.
Opcodes and modifiers that it does not know are refused by name when the PTX is loaded.

What it cannot certify: the precision in which tensor cores accumulate fp8 (and the order and rounding of sums in
general: compare with a tolerance), what ptxas makes of the PTX, register limits, and speed. Instructions for a whole
warp wait for lanes that parted, as PTX has it (``.sync``), so that a ``__syncwarp`` which is there for that alone is
not missed; that only some lanes ever come, or that a member mask does not name them, is reported.

It holds kernels to what PTX says, which devices may forgive: sums of a wgmma that are read before a wgmma.wait_group
for it (Triton 3.9 does that with ``max_num_imprecise_acc`` and with fp16 sums; ptxas then injects the wait and runs
the wgmma one after the other), or an mbarrier whose initialisation no fence shows to the async proxy before a bulk
copy completes on it (Triton leaves it out). Not reported: stores of one value to one place by one instruction of
several lanes or warps of a block (their order makes no difference), and reads of registers that hold a fragment of A
in flight. Its instruction semantics are written from NVIDIA's PTX documentation and are not yet confirmed on hardware.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..cuda.device import Device
from ..errors import CompilerMissing
from ..plan import LaunchPlan
from . import build
from .module import Module, compile_ptx
from .report import ALL_CHECKS, BankConflicts, Checks, Finding, Report


def emulate(
    source_or_ptx: str,
    plan: LaunchPlan,
    arrays: Mapping[str, np.ndarray],
    *,
    scalars: Mapping[str, float] | None = None,
    arch: str = "sm_80",
    device: Device | None = None,
    seed: int = 0,
    late: bool | None = None,
    checks: Checks = ALL_CHECKS,
    alignment: int | None = None,
) -> Report:
    """Run a launch plan on the CPU and report its results and everything that is wrong with it.

    ``source_or_ptx``: CUDA C++ (compiled for ``arch`` with line information, PTX cached on disk) or PTX text.
    ``arrays``: the plan's buffers by name; they are not modified. The span from a view's first to its last element is
    the buffer. When ``out`` is among them only it, the workspace and a ``c`` that is the same memory may be written.
    The workspace is made here (garbage; zeros when the plan says so, and then checked to be left zeroed) unless given.
    ``scalars``: run-time ``alpha`` and ``beta``. ``device`` bounds how many blocks are resident (default: 64).
    ``seed`` chooses the interleaving. ``late``: asynchronous results land as late as is legal (True) or at random
    moments (False); None takes late for even seeds. ``alignment``: see :meth:`Module.run`.

    Raises EmulationError (unsupported instruction, plan that does not fit the kernel), CompileError, CompilerMissing,
    InvalidInput.
    """
    return Module.load(source_or_ptx, arch).run(
        plan, arrays, scalars=scalars, device=device, seed=seed, late=late, checks=checks, alignment=alignment
    )


def available() -> bool:
    """Whether the emulator can run here: its library is built or a C++ compiler is there."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """Why not, in one sentence; empty when it can."""
    try:
        build.compiler()
    except CompilerMissing as error:
        return str(error)
    return ""


__all__ = [
    "BankConflicts",
    "Checks",
    "Finding",
    "Module",
    "Report",
    "available",
    "compile_ptx",
    "emulate",
    "unavailable_reason",
]
