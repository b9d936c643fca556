"""Run CUDA kernels on the CPU: an interpreter for PTX, with every access under watch.

It needs no GPU and no driver: NVRTC (a wheel) for CUDA sources, and a C++17 compiler on first use. Results land as late
as is legal, interleavings come from a seed (same seed, same run), only as many blocks are resident as the device could
hold (they start in the order of their index, as on the device), and every access is checked: bounds and alignment,
uninitialised values that are used, races in shared and global memory (against every reader), divergence at barriers,
mbarrier accounting, proxy fences for shared and global memory, bulk stores in flight, wgmma register ownership,
deadlocks, tensor-map legality. A kernel with an instruction that it does not know is refused, by name, at its launch.

:func:`emulate` and :class:`Session` take any kernel with NumPy arrays; :func:`run_plan` takes the launch plans of this
package. What it cannot certify: the precision in which tensor cores accumulate fp8 (and the order and rounding of sums
in general: compare with a tolerance), what ptxas makes of the PTX, register limits, and speed. Instructions for a whole
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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import Pointer, Struct, TensorMap
    from .launch import Session, emulate
    from .module import Module, available, compile_ptx, run_plan, unavailable_reason
    from .report import BankConflicts, Checks, Finding, Report

_HOMES = {
    "arguments": ("Pointer", "Struct", "TensorMap"),
    "launch": ("Session", "emulate"),
    "module": ("Module", "available", "compile_ptx", "run_plan", "unavailable_reason"),
    "report": ("BankConflicts", "Checks", "Finding", "Report"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BankConflicts",
    "Checks",
    "Finding",
    "Module",
    "Pointer",
    "Report",
    "Session",
    "Struct",
    "TensorMap",
    "available",
    "compile_ptx",
    "emulate",
    "run_plan",
    "unavailable_reason",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:  # loaded when first used: a pytest plugin must not cost every run of pytest the import of NumPy
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
