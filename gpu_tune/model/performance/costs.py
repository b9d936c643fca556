"""What each instruction of a program costs on one sub-partition: the table that the player works from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...cuda.device import Device
from ...cuda.sass import DATA, PIPES, Program
from .constants import Architecture
from .lanes import KernelLanes

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
    """Arrays with one entry for every instruction. ``interval``: cycles of its unit (for memory, of the memory pipe);
    ``latency``: cycles from there to the result; ``l2``: cycles of the sub-partition's share of L2's bandwidth."""

    kind: NDArray[np.int32]
    unit: NDArray[np.int32]
    cause: NDArray[np.int32]
    interval: NDArray[np.float64]
    latency: NDArray[np.float64]
    l2: NDArray[np.float64]
    stall: NDArray[np.int32]
    write_barrier: NDArray[np.int32]
    read_barrier: NDArray[np.int32]
    wait: NDArray[np.int32]
    argument: NDArray[np.int32]

    def shared(self, program: Program, active: int) -> Costs:
        """The same where ``active`` resident warps contend for the SM's memory pipe and its way to L2."""
        moves = (program.pipe == PIPES.index("memory")) & ~program.never
        sharers = np.where(moves, float(min(4, max(1, active))), 1.0)
        return replace(self, interval=self.interval * sharers, l2=self.l2 * sharers)

    def integers(self) -> NDArray[np.int32]:
        """One row a field, in the order that the player reads."""
        boards = (self.write_barrier, self.read_barrier, self.wait)
        return np.array([self.kind, self.unit, self.cause, self.stall, *boards, self.argument], np.int32)

    def reals(self) -> NDArray[np.float64]:
        """One row a field, in the order that the player reads."""
        return np.array([self.interval, self.latency, self.l2])


def costs(program: Program, sm: Architecture, device: Device, active: int, lanes: KernelLanes | None = None) -> Costs:
    """The table for ``active`` resident warps on the SM: below four, fewer contend for what the SM shares."""
    return alone(program, sm, device, lanes).shared(program, active)


def alone(program: Program, sm: Architecture, device: Device, lanes: KernelLanes | None = None) -> Costs:
    """The table of a warp that contends with none."""
    lanes, n = lanes or KernelLanes(), len(program)
    units = np.array([UNITS.index(_UNIT.get(pipe, pipe)) for pipe in PIPES])
    unit = np.where(program.never, 0, units[program.pipe])
    kind = np.full(n, PLAIN)
    interval, latency, l2 = np.ones(n), np.zeros(n), np.zeros(n)
    for pipe, cycles in (
        ("fma", sm.fma), ("imad", sm.imad), ("half", sm.half), ("alu", sm.alu), ("uniform", sm.uniform), ("xu", sm.xu),
        ("fp64", sm.fp64),
    ):  # fmt: skip
        interval[program.pipe == PIPES.index(pipe)] = cycles
    latency[program.pipe == PIPES.index("xu")] = sm.special
    latency[program.is_("S2R S2UR")] = S2R_LATENCY
    _matrix(program, sm, device, interval, latency)
    _memory(program, sm, lanes, interval, latency, l2)
    cause = np.array([_UNIT_CAUSE.get(name, DEPENDENCY) for name in UNITS])[unit]
    cause[program.is_("LDG LD LDGSTS LDL ATOM ATOMG RED REDG LDC LDCU S2R S2UR")] = LATENCY
    kind[(unit == UNITS.index("memory")) & (program.pipe == PIPES.index("memory"))] = MEMORY
    for names, value in (
        ("LDGSTS", COPY), ("HGMMA IGMMA QGMMA", GMMA), ("LDGDEPBAR", COMMIT), ("DEPBAR", COMMIT_WAIT),
    ):  # fmt: skip
        kind[program.is_(names) & (program.pipe != PIPES.index("mma"))] = value
    kind[program.is_("BAR") & (program.argument < 16)] = SYNC
    kind[program.is_("WARPGROUP") & (program.argument >= 0)] = GMMA_WAIT
    kind[program.is_("EXIT") & ~program.guarded] = EXIT
    interval[program.never] = 1.0
    boards = (program.write_barrier, program.read_barrier, program.wait)
    numbers = (kind, unit, cause, np.maximum(program.stall, 1), *boards, program.argument)
    kind, unit, cause, stall, write_barrier, read_barrier, wait, argument = (x.astype(np.int32) for x in numbers)
    return Costs(kind, unit, cause, interval, latency, l2, stall, write_barrier, read_barrier, wait, argument)


def rates(device: Device, sm: Architecture) -> Mapping[str, float]:
    """Multiply-adds per clock and sub-partition of the tensor cores, by what they multiply (DATA), sums in 32 bits."""
    per_clock = {name: float(device.flops_per_clock.get(name, 0)) for name in ("fp16", "tf32", "int8", "fp8")}
    per_clock["bf16"], per_clock["int4"] = per_clock["fp16"], 2 * per_clock["int8"]
    half = per_clock["fp16"] or 512.0
    return {name: (rate or half) / 8 for name, rate in per_clock.items()}


def _matrix(program: Program, sm: Architecture, device: Device, interval: NDArray, latency: NDArray) -> None:
    per_clock = rates(device, sm)
    rate = np.array([per_clock[name] for name in DATA])[program.data]
    mma, gmma = (program.pipe == PIPES.index(p) for p in ("mma", "gmma"))
    narrow = np.where(~program.wide_sum & sm.narrow_double & (device.flops_per_clock.get("fp16") == 512), 2.0, 1.0)
    interval[mma] = (program.macs / (rate * narrow * sm.mma_share))[mma]
    latency[mma] = sm.mma_latency
    # 64 rows for the four sub-partitions; A is 2 KB and B 32 bytes a column from shared memory for every instruction
    by_shared = (2048 + 32 * program.columns) / sm.shared_bytes
    interval[gmma] = np.maximum(program.macs / (4 * rate), by_shared)[gmma]
    latency[gmma] = sm.mma_latency


def _memory(
    program: Program,
    sm: Architecture,
    lanes: KernelLanes,
    interval: NDArray,
    latency: NDArray,
    l2: NDArray,
) -> None:
    width = program.width.astype(float)
    shared, matrices = program.is_("LDS STS ATOMS"), program.is_("LDSM STSM")
    interval[shared | matrices] = np.maximum(1.0, 32 * width / sm.shared_bytes)[shared | matrices]
    latency[shared], latency[matrices] = sm.shared, sm.ldmatrix
    plain, copies = program.is_("LDG LD STG ST ATOM ATOMG RED REDG"), program.is_("LDGSTS")
    interval[plain] = np.maximum(1.0, 32 * width / sm.l1_bytes)[plain]
    interval[copies] = np.maximum(1.0, 32 * width / sm.shared_bytes)[copies]
    from_l2 = 0.0 if sm.lines_bound else 1 / sm.l2_bytes
    l2[plain | copies] = (32 * width * from_l2)[plain | copies]
    latency[plain | copies] = sm.dram  # blocks walk along K in step, so the first to ask waits for DRAM and all with it
    local, rest = program.is_("LDL STL"), program.is_("LDC SHFL")
    interval[local] = np.maximum(1.0, 32 * width / sm.l1_bytes)[local]
    latency[local], latency[rest] = sm.l1, 28.0
    if lanes.shared:
        index, wavefronts = _columns(lanes.shared)
        interval[index] = np.maximum(1.0, wavefronts)
    if lanes.sectors:
        index, sectors = _columns(lanes.sectors)
        hit = np.array([lanes.hits.get(i, 0.0) for i in lanes.sectors])
        l2[index] = sectors * _SECTOR * (1 - hit) * from_l2
        latency[index] = hit * sm.l1 + (1 - hit) * sm.dram
        loads = plain[index]
        interval[index[loads]] = np.maximum(1.0, sectors[loads] * _SECTOR / sm.l1_bytes)


def _columns(figures: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and values."""
    count = len(figures)
    return np.fromiter(figures, np.int64, count), np.fromiter(figures.values(), np.float64, count)
