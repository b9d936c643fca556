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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda import cubin as cubins
from ...cuda import lines
from ...cuda.device import Device
from ...cuda.sass import Program, operation
from ...emulator import lanes as recorder
from ...emulator.ptx import Ptx
from ...errors import EmulationError
from ...plan import LaunchPlan
from .line_table import ptx_lines

_KINDS = {
    "LDS": "load", "STS": "store", "LDSM": "ldmatrix", "STSM": "stmatrix", "LDG": "load", "STG": "store",
    "LDGSTS": "copy", "LD": "load", "ST": "store", "ATOM": "atomic", "ATOMS": "atomic", "ATOMG": "atomic",
    "RED": "atomic", "REDG": "atomic",
}  # fmt: skip
"""For each operation of the machine code, the kind of PTX instruction that becomes it."""
_NAMES = " ".join(_KINDS)


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

    ``sizes``: bytes of each buffer of the plan, the workspace left out. ``l1_bytes``: what L1 keeps for one block.
    ``rounds``: of a loop that are looked at. CorruptData when ``cubin`` is none, EmulationError when the plan does not
    fit its kernels. PTX that the emulator refuses gives no figures, and the refusal as reason.
    """
    tables, programs = ptx_lines(cubin), cubins.programs(cubin)
    names = [n for n in dict.fromkeys(step.kernel for step in plan.kernels) if kernels is None or n in kernels]
    if not any(name in tables for name in names):
        why = "the cubin has no line information (compile it with -lineinfo)"
        return {name: KernelLanes(reason=why) for name in names}
    accesses = {
        name: _Accesses.of(programs[name], tables[name]) for name in names if name in tables and name in programs
    }
    try:
        ptx = Ptx(lines.ptx_text(cubin), names)
    except EmulationError as error:
        return {name: KernelLanes(reason=str(error)) for name in names}
    refusals = {name: ptx.refusal(name) for name in accesses}
    wanted = {name: of.wanted() for name, of in accesses.items() if not refusals[name]}
    figures = recorder.count(ptx, plan, sizes, wanted=wanted, l1_bytes=l1_bytes, rounds=rounds)
    none = np.zeros((0, len(recorder.COLUMNS)), np.uint64)
    joined = {name: _join(programs[name], of, figures.get(name, none)) for name, of in accesses.items()}
    return {name: joined[name] if name in wanted else KernelLanes(reason=refusals[name]) for name in accesses}


@dataclass(frozen=True, eq=False)
class _Accesses:
    """The memory instructions of a kernel that may run: their indices, and PTX line and bytes a lane as one number."""

    index: NDArray[np.int64]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, program: Program, ptx: NDArray[np.int32]) -> _Accesses:
        index = np.flatnonzero(program.is_(_NAMES))
        return cls(index, _place(ptx[index], program.width[index]))

    def wanted(self) -> NDArray[np.int32]:
        """Lines and bytes, each pair once, by ascending line."""
        places = np.unique(self.place[self.place >= _WIDTHS])
        return np.stack([places // _WIDTHS, places % _WIDTHS], axis=1).astype(np.int32)


_WIDTHS = 64
"""Above the bytes of any lane: what makes a line and bytes one number."""


def _place(line: NDArray[Any], width: NDArray[Any]) -> NDArray[np.int64]:
    return line.astype(np.int64) * _WIDTHS + width


@functools.cache
def _kind_numbers(cc: int) -> NDArray[np.int8]:
    """By number of an operation, the number of the kind of PTX instruction that becomes it; -1 for none."""
    names = (operation(number, cc) for number in range(512))
    return np.array([recorder.KINDS.index(_KINDS[n]) if n in _KINDS else -1 for n in names], np.int8)


def _join(program: Program, accesses: _Accesses, rows: NDArray[np.uint64]) -> KernelLanes:
    index, first, last = accesses.index, *(program.hot_loop or (0, len(program) - 1))
    inside = (index >= first) & (index <= last)
    places = _place(rows[:, 0], rows[:, 1])
    order = np.argsort(places)
    at = np.searchsorted(places, accesses.place, sorter=order)
    found = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(index), np.int64)
    known = at < len(order)
    if len(order):
        kinds = _kind_numbers(program.cc)[program.number[index]]
        known &= (places[found] == accesses.place) & (rows[found, 2].astype(np.int64) == kinds)
    index, found = index[known], found[known]
    figures = dict(zip(recorder.COLUMNS, rows[found].T))
    shared, touched = figures["shared"] > 0, figures["touched"] > 0
    again = figures["again_sectors"] > 0
    of = np.where(again, figures["again_sectors"], figures["sectors"])
    hits = np.where(again, figures["again_hits"], figures["hits"]) / np.maximum(of, 1)
    count = figures["count"]

    def each(values: NDArray[Any], where: NDArray[np.bool_]) -> Column:
        return Column(index[where], values[where])

    return KernelLanes(
        shared=each(figures["wavefronts"] / count, shared),
        sectors=each(figures["sectors"] / count, touched),
        hits=each(hits, touched),
        lines=each(figures["lines"] / count, touched),
        accesses=len(inside),
        matched=len(index),
        hot=int(inside.sum()),
        hot_matched=int(inside[known].sum()),
    )
