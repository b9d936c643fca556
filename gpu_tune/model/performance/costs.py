"""What each instruction of a program costs on one sub-partition: the table that the player works from."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...cuda.device import Device
from ...cuda.operations import PIPES, operation, pipes
from ...cuda.sass import DATA, Program
from .constants import Architecture
from .lanes import Column, KernelLanes

CAUSES = ("issue", "tensor", "fma", "alu", "shared", "l2", "latency", "barrier", "dependency", "fetch")
"""Why no instruction issues in a cycle (``issue``: one does; ``fetch``: none is there, see ``fetch``)."""
ISSUE, TENSOR, FMA, ALU, SHARED, L2, LATENCY, BARRIER, DEPENDENCY, FETCH = range(len(CAUSES))
PLAIN, MEMORY, COPY, SYNC, GMMA, COMMIT, COMMIT_WAIT, GMMA_WAIT, EXIT = range(9)
"""Kinds of instructions, by what the player does: COPY is memory that a group counts, SYNC a barrier of the block."""
ACQUIRE, FILL, TAKE, GIVE, TURN, PASS = range(9, 15)
"""Kinds that the roles of a warp-specialised kernel have: a producer waits for a free stage and fills it, a consumer
waits for a full one and releases it; consumers wait for their turn and pass it on."""
UNITS = ("none", "fma", "alu", "uniform", "xu", "fp64", "mma", "memory")
"""What an instruction keeps busy; wgmma and mma.sync share one."""
_UNIT = {"imad": "fma", "half": "fma", "gmma": "mma", "tma": "memory"}
_UNIT_CAUSE = {"mma": TENSOR, "fma": FMA, "alu": ALU, "uniform": ALU, "xu": ALU, "fp64": FMA, "memory": SHARED}
S2R_LATENCY = 30.0
_SECTOR = 32.0
SHARPNESS = 4.0
"""Exponent of the norm by which times meet that run beside each other, such as that on the SMs and that of DRAM: the
longer one, a little more where both are long."""


def meet(one: float, other: float) -> float:
    """The time of what needs ``one`` here and ``other`` there at once."""
    return float((one**SHARPNESS + other**SHARPNESS) ** (1 / SHARPNESS)) if other else one


@dataclass(frozen=True, eq=False)
class Costs:
    """What each instruction costs, one column for every instruction.

    ``integers``: rows kind, unit, cause, stall, write_barrier, read_barrier, wait, argument. ``reals``: rows
    ``interval`` (cycles of its unit; for memory, of the memory pipe), ``latency`` (cycles from there to the result) and
    ``l2`` (cycles of the sub-partition's share of L2's bandwidth).
    """

    integers: NDArray[np.int32]
    reals: NDArray[np.float64]

    @property
    def kind(self) -> NDArray[np.int32]:
        return self.integers[0]

    @property
    def argument(self) -> NDArray[np.int32]:
        return self.integers[7]

    @property
    def interval(self) -> NDArray[np.float64]:
        return self.reals[0]

    @property
    def latency(self) -> NDArray[np.float64]:
        return self.reals[1]

    @property
    def l2(self) -> NDArray[np.float64]:
        return self.reals[2]

    def shared(self, active: int) -> Costs:
        """The same where ``active`` resident warps contend for the SM's memory pipe and its way to L2."""
        sharers = float(min(4, max(1, active)))
        reals = self.reals.copy()
        reals[::2, (self.kind == MEMORY) | (self.kind == COPY)] *= sharers
        return Costs(self.integers, reals)


def costs(program: Program, sm: Architecture, device: Device, active: int, lanes: KernelLanes | None = None) -> Costs:
    """The table for ``active`` resident warps on the SM: below four, fewer contend for what the SM shares."""
    return alone(program, sm, device, lanes).shared(active)


def alone(program: Program, sm: Architecture, device: Device, lanes: KernelLanes | None = None) -> Costs:
    """The table of a warp that contends with none."""
    of, number, n = operations(sm, program.cc), program.number, len(program)
    integers, reals = np.empty((8, n), np.int32), np.empty((3, n))
    kind, unit, cause, stall = integers[:4]
    kind[:], unit[:], cause[:] = of.kind.take(number), of.unit.take(number), of.cause.take(number)
    np.maximum(program.stall, 1, out=stall)
    integers[4:] = program.write_barrier, program.read_barrier, program.wait, program.argument
    for value, otherwise in (
        (SYNC, program.argument >= 16), (GMMA_WAIT, program.argument < 0), (EXIT, program.guarded),
    ):  # fmt: skip
        kind[(kind == value) & otherwise] = PLAIN
    interval, latency, l2 = reals
    moved = 32 * program.width.astype(float)
    np.maximum(of.interval.take(number), moved / of.bytes.take(number), out=interval)
    latency[:] = of.latency.take(number)
    np.multiply(moved, of.from_l2.take(number), out=l2)
    _matrix(program, sm, device, interval, latency)
    if lanes is not None:
        _lanes(program, sm, lanes, interval, latency, l2)
    idle = np.flatnonzero(program.never)
    if len(idle):  # they take an issue slot and nothing else
        kind[idle], unit[idle], cause[idle], interval[idle], l2[idle] = PLAIN, 0, DEPENDENCY, 1.0, 0.0
        latency[idle] = np.where(of.arithmetic.take(number[idle]), latency[idle], 0.0)
    return Costs(integers, reals)


@dataclass(frozen=True, eq=False)
class Operations:
    """What all instructions of an operation have in common, by its number. ``interval``: of its unit, without the data
    that it moves, of which the unit takes ``bytes`` a cycle; ``from_l2``: cycles of L2 for a byte. ``arithmetic``:
    whether its latency is one of arithmetic."""

    kind: NDArray[np.int32]
    unit: NDArray[np.int32]
    cause: NDArray[np.int32]
    interval: NDArray[np.float64]
    bytes: NDArray[np.float64]
    latency: NDArray[np.float64]
    from_l2: NDArray[np.float64]
    arithmetic: NDArray[np.bool_]


@functools.lru_cache(maxsize=64)
def operations(sm: Architecture, cc: int) -> Operations:
    pipe, names = pipes(cc), [operation(number, cc) for number in range(512)]

    def any_of(wanted: str) -> NDArray[np.bool_]:
        return np.isin(names, wanted.split())

    unit = np.array([UNITS.index(_UNIT.get(name, name)) for name in PIPES], np.int32)[pipe]
    cause = np.array([_UNIT_CAUSE.get(name, DEPENDENCY) for name in UNITS], np.int32)[unit]
    cause[any_of("LDG LD LDGSTS LDL ATOM ATOMG RED REDG LDC LDCU S2R S2UR")] = LATENCY
    kind = np.full(512, PLAIN, np.int32)
    kind[pipe == PIPES.index("memory")] = MEMORY
    for wanted, value in (
        ("LDGSTS", COPY), ("HGMMA IGMMA QGMMA", GMMA), ("LDGDEPBAR", COMMIT), ("DEPBAR", COMMIT_WAIT), ("BAR", SYNC),
        ("WARPGROUP", GMMA_WAIT), ("EXIT", EXIT),
    ):  # fmt: skip
        kind[any_of(wanted)] = value
    interval, nbytes, latency, l2 = np.ones(512), np.full(512, np.inf), np.zeros(512), np.zeros(512)
    for name, cycles in (
        ("fma", sm.fma), ("imad", sm.imad), ("half", sm.half), ("alu", sm.alu), ("uniform", sm.uniform), ("xu", sm.xu),
        ("fp64", sm.fp64),
    ):  # fmt: skip
        interval[pipe == PIPES.index(name)] = cycles
    latency[pipe == PIPES.index("xu")] = sm.special
    plain, copies = any_of("LDG LD STG ST ATOM ATOMG RED REDG"), any_of("LDGSTS")
    for where, per_cycle, cycles in (
        (any_of("S2R S2UR"), math.inf, S2R_LATENCY), (any_of("LDC SHFL"), math.inf, 28.0),
        (any_of("LDS STS ATOMS"), sm.shared_bytes, sm.shared), (any_of("LDSM STSM"), sm.shared_bytes, sm.ldmatrix),
        # blocks walk along K in step, so the first to ask waits for DRAM and all with it
        (plain, sm.l1_bytes, sm.dram), (copies, sm.shared_bytes, sm.dram), (any_of("LDL STL"), sm.l1_bytes, sm.l1),
    ):  # fmt: skip
        nbytes[where], latency[where] = per_cycle, cycles
    l2[plain | copies] = from_l2(sm)
    arithmetic = np.isin(pipe, [PIPES.index(name) for name in ("xu", "mma", "gmma")])
    return Operations(kind, unit, cause, interval, nbytes, latency, l2, arithmetic)


def from_l2(sm: Architecture) -> float:
    """Cycles of L2 for a byte that threads fetch."""
    return 0.0 if sm.lines_bound else 1 / sm.l2_bytes


def rates(device: Device, sm: Architecture) -> Mapping[str, float]:
    """Multiply-adds per clock and sub-partition of the tensor cores, by what they multiply (DATA), sums in 32 bits."""
    per_clock = {name: float(device.flops_per_clock.get(name, 0)) for name in ("fp16", "tf32", "int8", "fp8")}
    per_clock["bf16"], per_clock["int4"] = per_clock["fp16"], 2 * per_clock["int8"]
    half = per_clock["fp16"] or 512.0
    return {name: (rate or half) / 8 for name, rate in per_clock.items()}


def narrow_is_double(device: Device, sm: Architecture) -> bool:
    """Whether mma.sync that adds in 16 bits has twice the rate."""
    return sm.narrow_double and device.flops_per_clock.get("fp16") == 512


def _matrix(program: Program, sm: Architecture, device: Device, interval: NDArray, latency: NDArray) -> None:
    mma, gmma = (np.flatnonzero(program.pipe == PIPES.index(p)) for p in ("mma", "gmma"))
    if not len(mma) and not len(gmma):
        return
    per_clock = rates(device, sm)
    rate = np.array([per_clock[name] for name in DATA])
    twice = np.where(~program.wide_sum[mma] & narrow_is_double(device, sm), 2.0, 1.0)
    interval[mma] = program.macs[mma] / (rate[program.data[mma]] * twice * sm.mma_share)
    latency[mma] = sm.mma_latency
    # 64 rows for the four sub-partitions; A is 2 KB and B 32 bytes a column from shared memory for every instruction
    by_shared = (2048 + 32 * program.columns[gmma]) / sm.shared_bytes
    interval[gmma] = np.maximum(program.macs[gmma] / (4 * rate[program.data[gmma]]), by_shared)
    latency[gmma] = sm.mma_latency


def _lanes(
    program: Program, sm: Architecture, lanes: KernelLanes, interval: NDArray, latency: NDArray, l2: NDArray
) -> None:
    if lanes.shared:
        index, wavefronts = columns(lanes.shared)
        interval[index] = np.maximum(1.0, wavefronts)
    if lanes.sectors:
        index, sectors = columns(lanes.sectors)
        hit = columns(lanes.hits)[1] if len(lanes.hits) == len(index) else np.zeros(len(index))
        l2[index] = sectors * _SECTOR * (1 - hit) * from_l2(sm)
        latency[index] = hit * sm.l1 + (1 - hit) * sm.dram
        loads = program.is_("LDG LD STG ST ATOM ATOMG RED REDG")[index]
        interval[index[loads]] = np.maximum(1.0, sectors[loads] * _SECTOR / sm.l1_bytes)


def columns(figures: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and values."""
    if isinstance(figures, Column):
        return figures.index, figures.figures
    count = len(figures)
    return np.fromiter(figures, np.int64, count), np.fromiter(figures.values(), np.float64, count)
