"""The twin of :class:`.code.Code` in C++: it says the same to the last bit (a test compares them), faster."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda.device import Device
from ...cuda.sass import DATA, Program
from ...plan import MainLoop
from . import costs
from .constants import Architecture
from .lanes import KernelLanes
from .operations import address, table
from .pace import FIRST, LAST, Pace
from .player import FOREVER, Stuck
from .trace import Path

_CAUSES, _UNITS = len(costs.CAUSES), len(costs.UNITS)
_ENDS = tuple(itertools.accumulate((2, _CAUSES, _CAUSES, _UNITS, LAST + 1)))
_PARTS = tuple(slice(*ends) for ends in itertools.pairwise(_ENDS))


_FIVE_DOUBLES, _EIGHT_NUMBERS = struct.Struct("5d"), struct.Struct("8q")


class CodeInCpp:
    """A kernel as the library holds it; see :class:`.code.Code`."""

    def __init__(
        self,
        library: Any,
        program: Program,
        sm: Architecture,
        device: Device,
        warps: int,
        lanes: KernelLanes | None,
        loop: MainLoop | None,
    ) -> None:
        self._library, self._sm, self._warps, self._count = library, sm, warps, len(program)
        known, kept = _lanes(lanes)
        declared, facts = (0.0,) * 5, np.empty(6)
        if loop is not None:
            declared = 1.0, float(loop.parts > 1), float(loop.macs), sum(loop.reads) / loop.steps, float(warps)
        self._handle = library.perf_kernel(
            program.code, len(program.code), _operations(sm, program.cc, device), known,
            _FIVE_DOUBLES.pack(*declared), address(facts),
        )  # fmt: skip
        del kept
        if not self._handle:
            raise IndexError(f"the lanes are of instructions that code of {len(program)} instructions does not have")
        self.work, body, wgmma, mma, bulk, copies = facts.tolist()
        self.body, self.bulk = int(body), bool(bulk)
        multiplies = "wgmma" if wgmma else "mma" if mma else "fma"
        self.kind = multiplies, "tma" if bulk else "cp.async" if copies else "plain"

    def __del__(self) -> None:  # a third of the time of weakref.finalize
        if handle := getattr(self, "_handle", None):
            self._library.perf_kernel_free(handle)

    def pace(self, blocks: int) -> Pace:
        """See the twin."""
        found = np.empty(_ENDS[-1])
        known = self._library.perf_pace(
            self._handle, self._warps, blocks, self._sm.queue, self._sm.barrier, FIRST, LAST, address(found)
        )
        if not known:
            raise Stuck(FOREVER)
        tail, iteration = found[:2].tolist()
        causes, rest, shares = found[_PARTS[0]], found[_PARTS[1]], found[_PARTS[2]]
        return Pace(found[_ENDS[3] : _ENDS[3] + known], tail, iteration, causes, rest, shares)

    def costs(self) -> costs.Costs:
        """The table of a warp that contends with none."""
        integers, reals, sizes = np.empty((8, self._count), np.int32), np.empty((3, self._count)), np.empty(3, np.int32)
        self._library.perf_kernel_table(self._handle, address(integers), address(reals), address(sizes), None)
        return costs.Costs(integers, reals)

    def path(self) -> Path:
        """The way of a warp."""
        sizes = np.empty(3, np.int32)
        self._library.perf_kernel_table(self._handle, None, None, address(sizes), None)
        way = np.empty(int(sizes.sum()) + 1, np.int32)
        self._library.perf_kernel_table(self._handle, None, None, address(sizes), address(way))
        head, body, tail, _ = np.split(way, sizes.cumsum())
        return Path(head, body, tail)


def _lanes(lanes: KernelLanes | None) -> tuple[bytes, list[Any]]:
    """Addresses and counts as ``Lanes`` of code.cpp has them, and what must live as long as they are used."""
    if lanes is None:
        return _EIGHT_NUMBERS.pack(*(0,) * 8), []
    shared, touched, hits = kept = [costs.columns(of) for of in (lanes.shared, lanes.sectors, lanes.hits)]
    where = (address(of) for of in (shared[0], touched[0], shared[1], touched[1], hits[1]))
    return _EIGHT_NUMBERS.pack(*where, *(len(of[1]) for of in kept)), kept


_tables: dict[tuple[int, int, int], tuple[Architecture, Device, NDArray[Any], int]] = {}


def _operations(sm: Architecture, cc: int, device: Device) -> int:
    """The address of ``operations.table`` with the costs on ``device``."""
    key = id(sm), cc, id(device)
    known = _tables.get(key)
    if known is None:
        if len(_tables) >= 64:
            _tables.clear()
        found, of, rates = table(cc).copy(), costs.operations(sm, cc), costs.rates(device, sm)
        ints, reals = found["ints"][0], found["reals"][0]
        ints[:, 1], ints[:, 2], ints[:, 3], ints[:, 4] = of.kind, of.unit, of.cause, of.arithmetic
        reals[:, 0], reals[:, 1], reals[:, 2], reals[:, 3] = of.interval, of.bytes, of.latency, of.from_l2
        found["scalars"][0] = (
            *(rates[name] for name in DATA), sm.mma_share, sm.mma_latency, sm.shared_bytes, sm.l1_bytes, sm.l1, sm.dram,
            costs.from_l2(sm), costs.narrow_is_double(device, sm),
        )  # fmt: skip
        known = _tables[key] = sm, device, found, address(found)  # what is kept keeps its identity
    return known[3]
