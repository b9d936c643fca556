"""The time of a variant, predicted from its machine code; see the package."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...cuda.device import Device
from ...plan import BufferArg, KernelStep, LaunchPlan, MainLoop, MemsetStep, ResourceEstimate
from ...workload import Workload
from . import judged, launch, memory
from .block import Kernel
from .constants import LAUNCH_SECONDS, MEMSET_SECONDS
from .costs import UNITS, meet
from .image import KernelCode, kernel_code
from .lanes import KernelLanes, Lanes
from .player import Stuck


@dataclass(frozen=True)
class Prediction:
    """What a variant's run is predicted to take.

    ``seconds``; ``low`` and ``high`` around it where the kind of kernel was judged, else nan. ``resident``: blocks of
    the main kernel on an SM at once (0: it does not fit, and ``seconds`` is infinite). ``waves``: of blocks, the last
    one counted whole. ``causes``: cycles of the main kernel by cause; with ``dram`` (cycles by which DRAM makes it
    longer) and ``tail`` (cycles of a last wave's idle slots, which are in the others too). ``iteration``: cycles of the
    resident blocks' one iteration of the hot loop, ``trips`` of which make a block. ``shares``: of that loop's time,
    what each pipe works. ``limiter``: the largest cause. ``judged``: how well the model orders kernels of this kind by
    public timings; "" where it was not judged.
    """

    seconds: float
    low: float
    high: float
    resident: int
    waves: int
    causes: Mapping[str, float] = field(hash=False)
    iteration: float = 0.0
    trips: float = 0.0
    rest: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict, hash=False)
    limiter: str = ""
    judged: str = ""

    def terms(self) -> dict[str, float]:
        """The prediction as plain numbers that records keep and models learn from."""
        found = {
            "seconds": self.seconds,
            "resident": float(self.resident),
            "waves": float(self.waves),
            "iteration": self.iteration,
            "trips": self.trips,
            "rest": self.rest,
        }
        return {**found, **{f"{name} cycles": cycles for name, cycles in self.causes.items()}}


def predict(
    cubin: bytes,
    plan: LaunchPlan,
    estimate: ResourceEstimate,
    workload: Workload,
    device: Device,
    *,
    lanes: Lanes | None = None,
    cold: bool = True,
) -> Prediction:
    """The time of one run of ``plan`` on ``device`` with the kernels of ``cubin``; ``cold``: nothing lies in L2.

    CorruptData when ``cubin`` is none, or lacks a kernel of the plan.
    """
    loop, main = estimate.loop, main_step(plan, estimate)
    found, (instruction, copies) = _main(cubin, main, loop, workload, device, lanes or {}, cold)
    if not found.resident:
        return found
    extra = LAUNCH_SECONDS * len(plan.kernels)
    for step in plan.steps:
        if isinstance(step, MemsetStep):
            extra += MEMSET_SECONDS + launch.dram_seconds(step.nbytes, device)
        elif step is not main:
            extra += _beside(cubin, step, plan, workload, device)
    seconds = found.seconds + extra
    judgement = judged.find(device.cc, workload.op, instruction, copies, workload.dtype)
    if judgement is None:
        return replace(found, seconds=seconds)
    row, words = judgement.interval(found.limiter), judgement.words(found.limiter)
    low, high = (seconds * row.low, seconds * row.high) if row else (math.nan, math.nan)
    return replace(found, seconds=seconds, low=low, high=high, judged=words)


def main_step(plan: LaunchPlan, estimate: ResourceEstimate) -> KernelStep:
    """The kernel of ``plan`` that has the main loop, else the most threads: what its lanes share matters here; the
    others stream."""
    loop = estimate.loop
    return max(plan.kernels, key=lambda s: (loop is not None and s.kernel == loop.kernel, s.blocks * s.threads))


def predict_kernel(
    cubin: bytes,
    kernel: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    device: Device,
    *,
    shared_bytes: int = 0,
    trips: float = 1.0,
    dram_bytes: float = 0.0,
    lanes: KernelLanes | None = None,
) -> Prediction:
    """The time of one launch of a kernel of which nothing is known but its machine code.

    ``trips``: iterations of its hot loop that a block runs; ``dram_bytes``: what the whole launch moves to and from
    DRAM; ``shared_bytes``: dynamic shared memory of a block.
    """
    played, taken = _kernel(cubin, kernel, device, math.prod(block), lanes)
    resident = device.resident_blocks(math.prod(block), taken.registers, shared_bytes + taken.static_shared_bytes)
    found = _launched(played, math.prod(grid), resident, trips, 1, dram_bytes, device)
    return replace(found, seconds=found.seconds + LAUNCH_SECONDS)


_players: dict[tuple[bytes, str, int, str, int, MainLoop | None], Kernel] = {}


@functools.lru_cache(maxsize=64)
def _bytes(workload: Workload) -> tuple[int, int]:
    """Those that cross memory once, and those of them that are written."""
    return sum(array.nbytes for array in workload.arrays().values()), sum(_outputs(workload).values())


@functools.lru_cache(maxsize=64)
def _outputs(workload: Workload) -> dict[str, int]:
    """Bytes of each result."""
    specs = workload.arrays()
    return {name: specs[name].nbytes for name in workload.outputs}


def _kernel(
    cubin: bytes, name: str, device: Device, threads: int, lanes: KernelLanes | None, loop: MainLoop | None = None
) -> tuple[Kernel, KernelCode]:
    taken = kernel_code(cubin, name)
    program = taken.program
    # a kernel beside the main one is the same in many variants
    key = program.code if lanes is None else cubin, name, program.cc, device.chip, threads, loop
    made = _players.get(key)
    if made is None or made.lanes is not lanes:
        if len(_players) >= 64:
            _players.clear()
        made = _players[key] = Kernel(program, device, -(-threads // 32), lanes, loop)
    return made, taken


def _main(
    cubin: bytes,
    step: KernelStep,
    loop: MainLoop | None,
    workload: Workload,
    device: Device,
    lanes: Lanes,
    cold: bool,
) -> tuple[Prediction, tuple[str, str]]:
    """And its kind; see ``Code``."""
    loop = loop if loop is not None and loop.kernel == step.kernel else None
    kernel, taken = _kernel(cubin, step.kernel, device, step.threads, lanes.get(step.kernel), loop)
    try:
        found = _played(kernel, taken, step, workload, device, cold)
    except Stuck:
        if kernel.roles is None:
            raise
        kernel.roles = None  # what was read as roles does not fit together
        found = _played(kernel, taken, step, workload, device, cold)
    return found, kernel.code.kind


def _played(
    kernel: Kernel, taken: KernelCode, step: KernelStep, workload: Workload, device: Device, cold: bool
) -> Prediction:
    loop = kernel.loop
    resident = device.resident_blocks(step.threads, taken.registers, step.shared_bytes + taken.static_shared_bytes)
    nbytes, written = _bytes(workload)
    trips, units, dram, last, address = 1.0, 1, float(nbytes), 0.0, 0.0
    if loop is not None:
        units = -(-(loop.units - loop.tail) // step.blocks)
        if kernel.roles is not None:
            trips = float(loop.steps)
        elif kernel.work:
            trips = loop.macs * loop.steps / (kernel.work * kernel.warps)
        address = memory.address_cycles(loop.walks, max(1, resident), kernel.sm) * loop.steps
        tiling = launch.Tiling(
            loop.tiles[0] * (loop.tiles[2] if loop.band_along == "m" else 1),
            loop.tiles[1] * (1 if loop.band_along == "m" else loop.tiles[2]),
            *loop.reads,
            compulsory=float(nbytes - written),
            written=float(written),
            group=loop.band,
        )
        dram, last = tiling.dram_bytes(max(1, resident) * device.sm_count, device, cold, loop.tail)
    elif kernel.work:  # nothing is declared: the workload's arithmetic says how often the hot loop runs
        trips = max(1.0, workload.flops / 2 / (step.blocks * kernel.work * kernel.warps))
    return _launched(kernel, step.blocks, resident, trips, units, dram, device, address, last)


def _launched(
    kernel: Kernel,
    blocks: int,
    resident: int,
    trips: float,
    units: int,
    dram: float,
    device: Device,
    address: float = 0.0,
    last: float = 0.0,
) -> Prediction:
    """``units``: of work that a block walks over, each of ``trips`` iterations and its own prologue and epilogue;
    behind them comes the tail that the kernel's loop declares, for which ``last`` of the ``dram`` bytes move."""
    if not resident:
        return Prediction(math.inf, math.nan, math.nan, 0, 0, {}, limiter="does not fit")
    waves = launch.Waves.of(blocks, resident, device)
    clock = device.clock_mhz * 1e6
    run = launch.on_sms(kernel, waves, trips, units, device, address) if units else launch.NOTHING
    cycles = run.cycles
    seconds = meet(cycles / clock, launch.dram_seconds(dram - last, device))
    causes, idle = dict(run.causes), run.tail
    if kernel.loop is not None and kernel.loop.tail:
        more = launch.on_sms_in_parts(kernel, kernel.loop, trips, blocks, device, address)
        seconds += meet(more.cycles / clock, launch.dram_seconds(last, device))
        cycles, idle = cycles + more.cycles, idle + more.tail
        causes = {name: value + more.causes[name] for name, value in causes.items()}
    causes["dram"] = max(0.0, seconds * clock - cycles)
    causes["tail"] = idle
    wave = kernel.wave(min(resident, max(1, math.ceil(blocks / device.sm_count))), trips, units)
    rest = max(0.0, wave.cycles / units - wave.iteration * trips)
    shares = dict(zip(UNITS[1:], wave.shares[1:].tolist()))
    limiter = max(causes, key=lambda name: causes[name])
    return Prediction(
        seconds, math.nan, math.nan, resident, int(waves.count), causes, wave.iteration, trips, rest, shares, limiter
    )


def _beside(cubin: bytes, step: KernelStep, plan: LaunchPlan, workload: Workload, device: Device) -> float:
    """A kernel beside the main one streams: what it reads and writes, at DRAM's or L2's pace, or its blocks' cycles.

    Of the results those count that it takes; where it takes none, it gets inputs ready, about as much as all results.
    """
    kernel, taken = _kernel(cubin, step.kernel, device, step.threads, None)
    resident = max(
        1, device.resident_blocks(step.threads, taken.registers, step.shared_bytes + taken.static_shared_bytes)
    )
    waves = launch.Waves.of(step.blocks, resident, device)
    cycles = launch.on_sms(kernel, waves, 1.0, 1, device).cycles
    written = sum(_outputs(workload).get(arg.buffer, 0) for arg in step.args if isinstance(arg, BufferArg))
    moved = plan.workspace_bytes + (written or _bytes(workload)[1])
    fits = 0.5 if moved < device.l2_bytes / 2 else 1.0
    return meet(cycles / (device.clock_mhz * 1e6), launch.dram_seconds(moved * fits, device))
