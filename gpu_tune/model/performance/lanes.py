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

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...cuda.device import Device
from ...cuda.sass import Program
from ...emulator import build
from ...emulator import lanes as recorder
from ...emulator.ptx import Ptx
from ...errors import EmulationError
from ...plan import LaunchPlan
from .image import kernel_code, ptx_text
from .line_table import ptx_lines
from .operations import address, table_address


class Column(Mapping[int, float]):
    """Figures by index of the instruction, as arrays; a dict is made of them where one is looked up."""

    def __init__(self, index: NDArray[np.int64], figures: NDArray[np.float64]) -> None:
        self.index, self.figures = index, figures

    @functools.cached_property
    def _known(self) -> dict[int, float]:
        return dict(zip(self.index.tolist(), self.figures.tolist()))

    def __getitem__(self, index: int) -> float:
        return self._known[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return repr(self._known)


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
    cubin: bytes,
    plan: LaunchPlan,
    sizes: Mapping[str, int],
    *,
    kernels: Collection[str] | None = None,
    l1_bytes: int = 128 * 1024,
    rounds: int = 3,
) -> dict[str, KernelLanes]:
    """The figures of the ``kernels`` (None: of all) of ``plan``, by name.

    ``plan`` is one that was checked. ``sizes``: bytes of each buffer of it, the workspace left out. ``l1_bytes``: what
    L1 keeps for one block. ``rounds``: of a loop that are looked at. CorruptData when ``cubin`` is none or lacks a
    kernel, EmulationError when the plan does not fit its kernels. PTX that the emulator refuses gives no figures, and
    the refusal as reason.
    """
    names = [n for n in dict.fromkeys(step.kernel for step in plan.kernels) if kernels is None or n in kernels]
    accesses = {name: found for name in names if (found := _Accesses.of(cubin, name)) is not None}
    if not accesses:
        why = "the cubin has no line information (compile it with -lineinfo)"
        return {name: KernelLanes(reason=why) for name in names}
    try:
        ptx = Ptx(ptx_text(cubin), names)
    except EmulationError as error:
        return {name: KernelLanes(reason=str(error)) for name in names}
    refusals = {name: ptx.refusal(name) for name in accesses}
    wanted = {name: of.wanted for name, of in accesses.items() if not refusals[name]}
    figures = recorder.count(ptx, plan, sizes, wanted=wanted, l1_bytes=l1_bytes, rounds=rounds)
    none = np.zeros((0, len(recorder.COLUMNS)), np.uint64)
    return {
        name: KernelLanes(reason=refusals[name]) if refusals[name] else of.join(figures.get(name, none))
        for name, of in accesses.items()
    }


class _Accesses:
    """The memory instructions of a kernel that may run. ``wanted``: PTX line and bytes a lane of those whose line is
    known, each pair once, by ascending line."""

    @classmethod
    def of(cls, cubin: bytes, kernel: str) -> _Accesses | None:
        """None where the cubin has no lines of the kernel."""
        program = kernel_code(cubin, kernel).program
        ptx = ptx_lines(cubin, kernel, len(program))
        return None if ptx is None else cls(program, ptx)

    def __init__(self, program: Program, ptx: NDArray[np.int32]) -> None:
        self._library, count = build.library(), len(program)
        self._found, wanted = np.empty((3, count), np.int64), np.empty((count, 2), np.int32)
        self._facts = np.empty(8, np.int64)
        known = self._library.perf_accesses(
            program.code, len(program.code), table_address(program.cc), address(ptx), address(self._found),
            address(wanted), address(self._facts),
        )  # fmt: skip
        self.wanted = wanted[:known]

    def join(self, rows: NDArray[np.uint64]) -> KernelLanes:
        """What the emulator counted, by instruction."""
        accesses = int(self._facts[0])
        index, figures = np.empty((2, accesses), np.int64), np.empty((4, accesses))
        self._library.perf_join(
            address(self._found), self._found.shape[1], address(rows), len(rows), address(self._facts), address(index),
            address(figures),
        )  # fmt: skip
        _, _, _, shared, touched, matched, hot, both = self._facts.tolist()
        wavefronts, sectors, hits, of_lines = figures
        where = index[1, :touched]
        return KernelLanes(
            shared=Column(index[0, :shared], wavefronts[:shared]),
            sectors=Column(where, sectors[:touched]),
            hits=Column(where, hits[:touched]),
            lines=Column(where, of_lines[:touched]),
            accesses=accesses,
            matched=matched,
            hot=hot,
            hot_matched=both,
        )
