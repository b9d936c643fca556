"""Machine code of compute capability 7.5 to 12.1 as arrays: operations, control codes, widths, branches, MMA shapes.

An instruction takes 16 bytes, two little-endian words. Of the first, bits 0-8 number the operation, 9-11 tell the kind
of its operands, 12-15 the predicate that guards it (7: always), 16-23 and 24-31 its destination and first source. Bits
41-63 of the second are the control code: stall cycles (4 bits), yield (1), the scoreboard that a result sets (3; 7:
none), the one that freed sources set (3), a mask of scoreboards to wait for (6), and register reuse (4). The compiler
fills the control code in and the hardware obeys it, which is what makes the code's time predictable.

The tables were checked against ``nvdisasm`` of the PyPI wheel ``nvidia-cuda-nvdisasm`` (the tests do it again); control
codes as described in Jia et al., "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking" (2018),
section 2.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operations import MATRIX, PIPES, named, operations, pipes

_LANE_BYTES = np.array([1, 1, 2, 2, 4, 8, 16, 16], np.int16)
_WIDE = "LDG STG LDS STS LDGSTS LDL STL LD ST LDC ATOM ATOMS ATOMG RED REDG"
DATA = ("fp16", "bf16", "tf32", "int8", "fp8", "int4")
"""What a matrix instruction multiplies."""


@dataclass(frozen=True)
class Instruction:
    """One instruction as it reads; see :class:`Program` for the fields."""

    index: int
    operation: str
    pipe: str
    width: int
    stall: int
    write_barrier: int
    read_barrier: int
    waits: tuple[int, ...]
    guarded: bool
    target: int
    argument: int
    macs: int


class Program:
    """One kernel's instructions, each field an array with one entry for every instruction, decoded when
    it is asked for.

    ``number``: of the operation; ``pipe``: index in PIPES. ``stall``: cycles before the warp's next instruction.
    ``write_barrier``, ``read_barrier``: the scoreboard that is held until the result is there, or until the sources are
    read (7: none); ``wait``: bit mask of scoreboards that must be free first. ``guarded``: runs under a predicate;
    ``never``: under one that is never true (ptxas puts ``@!PT LDS RZ, [RZ]`` before copies to shared memory).
    ``constant``: moves a constant although its operation is arithmetic (``HFMA2 R, -RZ, RZ, a, b``). ``width``: bytes
    that a lane moves. ``target``: index of a branch's target, -1 for what is no branch. ``macs``: multiply-adds of a
    matrix instruction; ``columns``: of wgmma's 64-row result; ``data``: index in DATA of what it multiplies;
    ``wide_sum``: whether mma.sync adds in 32 bits.

    ``argument``: of DEPBAR and WARPGROUP (-1: ARRIVE), the groups that may stay in flight; of HGMMA, IGMMA and QGMMA, 1
    where a group ends; of SYNCS, 1 for a wait and 0 for an arrival; of BAR, its number (-1: from a register), 16 more
    where the warp arrives without waiting; of USETMAXREG, registers; of UTMALDG, 1 for a multicast.
    ``threads``: how many BAR waits for (0: the whole block; -1: from a register).
    """

    def __init__(self, cc: int, code: bytes) -> None:
        self.cc, self.code = cc, code

    def __len__(self) -> int:
        return len(self.code) // 16

    @functools.cached_property
    def words(self) -> NDArray[np.uint64]:
        return np.frombuffer(self.code, "<u8").reshape(-1, 2)

    @functools.cached_property
    def _low(self) -> NDArray[np.uint64]:
        return self.words[:, 0]

    @functools.cached_property
    def _high(self) -> NDArray[np.uint64]:
        return self.words[:, 1]

    @functools.cached_property
    def _first(self) -> NDArray[np.uint16]:
        """The operation, the kind of its operands and its guard."""
        return self.words.view("<u2")[:, 0]

    @functools.cached_property
    def _control(self) -> NDArray[np.uint32]:
        return self.words.view("<u4")[:, 3] >> np.uint32(9)

    @functools.cached_property
    def number(self) -> NDArray[np.intp]:
        return (self._first & 0x1FF).astype(np.intp)

    @functools.cached_property
    def pipe(self) -> NDArray[np.int8]:
        return pipes(self.cc).take(self.number)

    @functools.cached_property
    def stall(self) -> NDArray[np.int8]:
        return (self._control & 15).astype(np.int8)

    @functools.cached_property
    def write_barrier(self) -> NDArray[np.int8]:
        return (self._control >> 5 & 7).astype(np.int8)

    @functools.cached_property
    def read_barrier(self) -> NDArray[np.int8]:
        return (self._control >> 8 & 7).astype(np.int8)

    @functools.cached_property
    def wait(self) -> NDArray[np.int8]:
        return (self._control >> 11 & 63).astype(np.int8)

    @functools.cached_property
    def guarded(self) -> NDArray[np.bool_]:
        uniform = (self.number == 0x147) & (_bits(self._low, 9, 3) == 2)  # BRA.U has a uniform predicate
        return ((self._first >> 12 & 7) != 7) | uniform

    @functools.cached_property
    def never(self) -> NDArray[np.bool_]:
        return (self._first >> 12) == 15

    @functools.cached_property
    def constant(self) -> NDArray[np.bool_]:
        half = (self.number == 0x031) | ((self.number == 0x035) & (self.cc < 100))
        return half & (_bits(self._low, 24, 8) == 0xFF) & (_bits(self._low, 9, 3) == 2)

    @functools.cached_property
    def width(self) -> NDArray[np.int16]:
        return widths(self.cc).take(16 * self.number + _bits(self._high, 8, 4))

    @functools.cached_property
    def target(self) -> NDArray[np.int32]:
        return _targets(self.number, self._low, self.cc)

    @functools.cached_property
    def argument(self) -> NDArray[np.int32]:
        return _arguments(self.number, self._low, self._high)

    @functools.cached_property
    def threads(self) -> NDArray[np.int16]:
        return _barrier_threads(self.number, self._low)

    @property
    def macs(self) -> NDArray[np.int32]:
        return self._matrix[0]

    @property
    def columns(self) -> NDArray[np.int16]:
        return self._matrix[1]

    @property
    def data(self) -> NDArray[np.int8]:
        return self._matrix[2]

    @property
    def wide_sum(self) -> NDArray[np.bool_]:
        return self._matrix[3]

    @functools.cached_property
    def _matrix(self) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int8], NDArray[np.bool_]]:
        return _matrix(self.number, self._low, self._high, self.cc)

    def is_(self, names: str) -> NDArray[np.bool_]:
        """Which instructions may run and are one of the operations ``names``, which are separated by blanks."""
        found = self._found.get(names)
        if found is None:
            found = self._found[names] = named(names, self.cc).take(self.number) & self._runs
            found.flags.writeable = False
        return found

    @functools.cached_property
    def _runs(self) -> NDArray[np.bool_]:
        return ~self.never

    @functools.cached_property
    def _found(self) -> dict[str, NDArray[np.bool_]]:
        """What ``is_`` answered; the player's tables ask for the same names at every number of resident blocks."""
        return {}

    @functools.cached_property
    def names(self) -> list[str]:
        """The operation of every instruction."""
        known = operations(self.cc)
        return [known[number] for number in self.number.tolist()]

    @property
    def idle(self) -> NDArray[np.bool_]:
        """Which instructions do nothing of what their operation says: they never run, or move a constant."""
        return self.never | self.constant

    def name(self, index: int) -> str:
        """The operation at ``index``."""
        return operations(self.cc)[self.number[index]]

    def __iter__(self) -> Iterator[Instruction]:
        for i in range(len(self)):
            yield Instruction(
                index=i,
                operation=self.name(i),
                pipe=PIPES[self.pipe[i]],
                width=int(self.width[i]),
                stall=int(self.stall[i]),
                write_barrier=int(self.write_barrier[i]),
                read_barrier=int(self.read_barrier[i]),
                waits=tuple(b for b in range(6) if self.wait[i] >> b & 1),
                guarded=bool(self.guarded[i]),
                target=int(self.target[i]),
                argument=int(self.argument[i]),
                macs=int(self.macs[i]),
            )

    @functools.cached_property
    def turns(self) -> tuple[list[int], list[int], list[bool]]:
        """Where a warp may not go on to the next instruction: the index, the target (-1: the kernel's end), and whether
        it always goes there."""
        at = np.flatnonzero((self.is_("EXIT RET") & ~self.guarded) | (self.target >= 0))
        return at.tolist(), self.target[at].tolist(), (~self.guarded[at]).tolist()

    @functools.cached_property
    def loops(self) -> list[tuple[int, int]]:
        """(first, last) of every loop, in the order of the code: where a branch backwards goes to, and where it is."""
        last = np.flatnonzero((self.target >= 0) & (self.target < np.arange(len(self))) & ~self.never)
        return [(int(self.target[at]), int(at)) for at in last]

    @functools.cached_property
    def inner_loops(self) -> list[tuple[int, int]]:
        """The loops that contain no other."""
        found = self.loops
        return [r for r in found if not any(o != r and r[0] <= o[0] and o[1] <= r[1] for o in found)]

    @functools.cached_property
    def hot_loop(self) -> tuple[int, int] | None:
        """The inner loop with the most arithmetic; where inner loops have none (they only copy), the loop around them
        with the most. None in code without loops."""
        weight = self._work

        def work(span: tuple[int, int]) -> tuple[int, int]:
            return int(weight[span[0] : span[1] + 1].sum()), span[1] - span[0]

        inner = max(self.inner_loops, key=work, default=None)
        if inner is None or work(inner)[0]:
            return inner
        return max(self.loops, key=lambda span: (work(span)[0], span[0] - span[1]))

    @functools.cached_property
    def _work(self) -> NDArray[np.int64]:
        """Arithmetic of each instruction on about one scale: 1 is a lane's multiply-add."""
        return np.where(self.never | self.constant, 0, arithmetic(self.cc).take(self.number))


@functools.cache
def arithmetic(cc: int) -> NDArray[np.int64]:
    """By number of the operation, its multiply-adds on about one scale; see ``Program.hot_loop``."""
    found = np.zeros(512, np.int64)
    found[named("FFMA FADD FMUL HADD2 HFMA2 HFMA2.MMA HMUL2 IDP DFMA", cc)] = 1
    found[pipes(cc) == PIPES.index("mma")] = 64
    found[pipes(cc) == PIPES.index("gmma")] = 1024
    return found


def decode(code: bytes, cc: int) -> Program:
    """The instructions in ``code`` (a multiple of 16 bytes; ValueError otherwise) for compute capability ``cc``."""
    if len(code) % 16:
        raise ValueError(f"code of {len(code)} bytes is no multiple of 16")
    return Program(cc, bytes(code))


def _bits(words: NDArray[np.uint64], start: int, count: int) -> NDArray[np.int64]:
    return ((words >> np.uint64(start)) & np.uint64((1 << count) - 1)).astype(np.int64)


@functools.cache
def widths(cc: int) -> NDArray[np.int16]:
    """Bytes that a lane moves, by the number of the operation and bits 8 to 11 of the second word: an 8x8 matrix of
    16-bit elements is 4 of each lane."""
    found = np.zeros((512, 16), np.int16)
    bits = np.arange(16)
    found[named(_WIDE, cc)] = _LANE_BYTES[bits >> 1]
    found[named("LDSM STSM", cc)] = 4 << np.minimum(bits & 3, 2)
    found[0x189] = 4
    return found.reshape(-1)


def _targets(number: NDArray[np.intp], low: NDArray[np.uint64], cc: int) -> NDArray[np.int32]:
    """Where BRA goes. The distance is counted in bytes (before 9.0) or words from the instruction behind it."""
    found = np.full(len(number), -1, np.int32)
    branches = np.flatnonzero(number == 0x147)
    signed = low[branches].astype(np.int64)
    distance = 4 * ((signed >> 34 << 8) | (signed >> 16 & 0xFF)) if cc >= 90 else signed >> 32
    at = branches + 1 + distance // 16
    found[branches] = np.where((at >= 0) & (at < len(number)), at, -1)
    return found


def _ends(low: NDArray[np.uint64], high: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return _bits(high, 20, 3) == 0


_ARGUMENTS: dict[int, Callable[[NDArray[np.uint64], NDArray[np.uint64]], NDArray[Any]]] = {
    0x11A: lambda low, high: _bits(low, 38, 6),
    0x1C5: lambda low, high: np.where(_bits(low, 47, 1) == 1, _bits(high, 8, 5), -1),
    0x1F0: _ends,
    0x1F1: _ends,
    0x1F3: _ends,
    0x1A7: lambda low, high: _bits(low, 9, 3) == 2,
    0x11D: lambda low, high: np.where(_bits(low, 11, 1) == 1, _bits(low, 54, 4), -1) + 16 * _bits(high, 13, 1),
    0x1C8: lambda low, high: _bits(low, 32, 9),
    0x1B4: lambda low, high: _bits(high, 11, 1),
}
"""By number of the operation, what ``Program.argument`` is made of."""


def _arguments(number: NDArray[np.intp], low: NDArray[np.uint64], high: NDArray[np.uint64]) -> NDArray[np.int32]:
    """See :class:`Program`."""
    found, present = np.zeros(len(number), np.int32), np.bincount(number, minlength=512) > 0
    for operation, value in _ARGUMENTS.items():
        if present[operation]:
            at = np.flatnonzero(number == operation)
            found[at] = value(low[at], high[at])
    return found


def _barrier_threads(number: NDArray[np.intp], low: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Bit 9 of BAR tells an immediate count from a register's."""
    found = np.zeros(len(number), np.int16)
    at = np.flatnonzero(number == 0x11D)
    kind = _bits(low[at], 9, 3)
    found[at] = np.where((kind == 5) | (kind == 2), _bits(low[at], 42, 12), -1)
    return found


def _matrix(
    number: NDArray[np.intp], low: NDArray[np.uint64], high: NDArray[np.uint64], cc: int
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int8], NDArray[np.bool_]]:
    """Multiply-adds, columns, data and width of the sums, as :class:`Program` has them."""
    count = len(number)
    macs, columns = np.zeros(count, np.int32), np.zeros(count, np.int16)
    data, wide = np.zeros(count, np.int8), np.ones(count, bool)
    at = np.flatnonzero(named(MATRIX, cc).take(number))
    if len(at):
        macs[at], columns[at], data[at], wide[at] = _shapes(number[at], low[at], high[at], cc)
    return macs, columns, data, wide


def _shapes(
    number: NDArray[np.intp], low: NDArray[np.uint64], high: NDArray[np.uint64], cc: int
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int8], NDArray[np.bool_]]:
    """Multiply-adds, columns (of wgmma), data and width of the sums of HMMA, IMMA, QMMA and the wgmma operations."""
    half, integer, eight = number == 0x03C, number == 0x037, number == 0x07A
    deep, four = _bits(high, 11, 1), _bits(high, 19, 3) == 7
    group = named("HGMMA IGMMA QGMMA", cc)[number]
    columns = np.where(group, 8 * (_bits(low, 53, 5) + 1), 0)
    fp = _bits(high, 18, 2)
    data = np.select(
        [half, integer & four, integer, eight, number == 0x1F1, number == 0x1F3, group],
        [fp, 5, 3, 4, 3, 4, np.where(_bits(low, 58, 1) == 1, 2, _bits(low, 62, 1))],
    )
    rows = np.where(integer & (_bits(high, 22, 1) == 0), 8, 16)
    k = np.select(
        [half & (_bits(high, 14, 1) == 1), half, integer & four, integer | eight], [4, 8 << deep, 64, 16 << deep]
    )
    group_k = np.choose(data, [16, 16, 8, 32, 32, 64])
    macs = np.where(group, 64 * columns * group_k, rows * 8 * k)
    wide = np.where(half, _bits(high, 12, 1), np.where(eight, _bits(high, 13, 1), 1)) == 1
    return macs.astype(np.int32), columns.astype(np.int16), data.astype(np.int8), wide
