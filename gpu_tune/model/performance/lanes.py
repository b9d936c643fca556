"""What the lanes of each access share or scatter, by instruction: wavefronts, sectors, hits in L1.

Machine code does not say which lanes share an address, but the emulator knows it: it runs the PTX that the cubin was
made of, one block and a few rounds of each loop (:mod:`gpu_tune.emulator.lanes`). The assembler moves, merges, splits
and unrolls accesses; it writes down for each instruction the line of the PTX instruction that it comes from
(:mod:`gpu_tune.cuda.lines`), and an instruction counts as known where that line holds an access of its kind that a
warp executed. A merged access starts where its first part does, rounded down to its own width, since it is aligned.

This needs a cubin with line information (``-lineinfo``), which holds its PTX too. One without has no figures, and says
so; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...cuda import cubin as cubins
from ...cuda import lines
from ...cuda.device import Device
from ...cuda.sass import Program
from ...emulator import lanes as recorder
from ...emulator.ptx import Ptx
from ...errors import EmulationError
from ...plan import LaunchPlan

_KINDS = {
    "LDS": "load", "STS": "store", "LDSM": "ldmatrix", "STSM": "stmatrix", "LDG": "load", "STG": "store",
    "LDGSTS": "copy", "LD": "load", "ST": "store", "ATOM": "atomic", "ATOMS": "atomic", "ATOMG": "atomic",
    "RED": "atomic", "REDG": "atomic",
}  # fmt: skip
"""For each operation of the machine code, the kind of PTX instruction that becomes it."""
_NAMES = " ".join(_KINDS)


@dataclass(frozen=True)
class KernelLanes:
    """By index of the instruction in one kernel's machine code; an access that is in no mapping is unknown.

    ``shared``: wavefronts of shared memory that one warp instruction takes. ``sectors``: 32-byte sectors of global
    memory that it touches, ``lines``: 128-byte lines. ``hits``: the share of the sectors that L1 serves, since the
    block touched them lately. ``accesses``: memory instructions, local memory left out; ``matched``: those that are
    known; ``hot`` and ``hot_matched``: those of them in the hot loop (in code without loops: all). ``reason``: why
    nothing is known, where nothing is.
    """

    shared: Mapping[int, float] = field(default_factory=dict)
    sectors: Mapping[int, float] = field(default_factory=dict)
    hits: Mapping[int, float] = field(default_factory=dict)
    lines: Mapping[int, float] = field(default_factory=dict)
    accesses: int = 0
    matched: int = 0
    hot: int = 0
    hot_matched: int = 0
    reason: str = ""


Lanes = Mapping[str, KernelLanes]
"""By name of the kernel."""


_L1_BESIDE = 28 * 1024
"""Bytes of an SM's memory that are L1 even when all that shared memory can have is shared memory (CUDA programming
guide, 8.0 and 9.0: 192 of 164 KB and 256 of 228; 8.6 and 8.9: 128 of 100)."""


def l1_bytes(device: Device, shared_bytes: int, resident: int) -> int:
    """What L1 keeps for one of ``resident`` blocks on an SM that take ``shared_bytes`` each."""
    blocks = max(1, resident)
    taken = min(device.shared_bytes_per_sm, blocks * (shared_bytes + device.shared_reserved_per_block))
    return (device.shared_bytes_per_sm + _L1_BESIDE - taken) // blocks


def lanes_of(
    cubin: bytes, plan: LaunchPlan, sizes: Mapping[str, int], *, l1_bytes: int = 128 * 1024, rounds: int = 3
) -> dict[str, KernelLanes]:
    """The figures of each kernel of ``plan``, by name.

    ``sizes``: bytes of each buffer of the plan, the workspace left out. ``l1_bytes``: what L1 keeps for one block.
    ``rounds``: of a loop that are looked at. CorruptData when ``cubin`` is none, EmulationError when the plan does not
    fit its kernels. PTX that the emulator refuses gives no figures, and the refusal as reason.
    """
    tables, programs = lines.ptx_lines(cubin), cubins.programs(cubin)
    names = list(dict.fromkeys(step.kernel for step in plan.kernels))
    if not any(name in tables for name in names):
        why = "the cubin has no line information (compile it with -lineinfo)"
        return {name: KernelLanes(reason=why) for name in names}
    accesses = {name: _accesses(programs[name], tables[name]) for name in names if name in tables and name in programs}
    try:
        ptx = Ptx(lines.ptx_text(cubin))
    except EmulationError as error:
        return {name: KernelLanes(reason=str(error)) for name in names}
    wanted = {
        name: sorted({(line, width) for _, line, width in of if line})
        for name, of in accesses.items()
        if name not in ptx.refused
    }
    figures = recorder.record(ptx, plan, sizes, wanted=wanted, l1_bytes=l1_bytes, rounds=rounds)
    joined = {name: _join(programs[name], of, figures.get(name, ())) for name, of in accesses.items()}
    return {name: joined[name] if name in wanted else KernelLanes(reason=ptx.refused[name]) for name in accesses}


def _accesses(program: Program, ptx: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Index, PTX line and bytes a lane of each memory instruction that may run."""
    return [(int(i), ptx[i], int(program.width[i])) for i in program.is_(_NAMES).nonzero()[0]]


def _join(program: Program, accesses: list[tuple[int, int, int]], figures: tuple[recorder.Access, ...]) -> KernelLanes:
    known = {(a.line, a.width): a for a in figures}
    first, last = program.hot_loop or (0, len(program) - 1)
    names, shared, sectors, hits, touched = program.names, {}, {}, {}, {}
    matched = hot = hot_matched = 0
    for index, line, width in accesses:
        hot += first <= index <= last
        access = known.get((line, width))
        if access is None or access.kind != _KINDS[names[index]]:
            continue
        matched, hot_matched = matched + 1, hot_matched + (first <= index <= last)
        if access.wavefronts is not None:
            shared[index] = access.wavefronts
        if access.sectors is not None and access.lines is not None and access.hits is not None:
            sectors[index], touched[index], hits[index] = access.sectors, access.lines, access.hits
    return KernelLanes(shared, sectors, hits, touched, len(accesses), matched, hot, hot_matched)
