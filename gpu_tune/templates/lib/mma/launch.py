"""How the mma.sync families launch: the kernel, what runs before or after it, and the resources of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....cuda.device import Device
from ....plan import Arg, BufferArg, KernelStep, LaunchPlan, MainLoop, MemsetStep, Step
from ....plan.size import upper
from ....workload import ITEMSIZE, Matmul, Workload
from ...base import ResourceEstimate
from ..common import ceil_div, epilogue_args, matmul_walks, size_args
from .tiles import Operand, Problem, Shape, promotes, shared_bytes, tail_tiles

Config = Mapping[str, Any]
COUNTERS = ("serial", "last_arrival")


def counter_bytes(config: Config, problem: Problem, device: Device) -> int:
    """Bytes of the counters at the start of the workspace, rounded up so that the parts behind them are aligned.

    Of an open size those of the largest: between calls of different sizes the counters must stay where they are.
    """
    return ceil_div(upper(_split_tiles(config, problem, device)) * 4, 256) * 256


def _split_tiles(config: Config, problem: Problem, device: Device) -> Any:
    """Output tiles whose K is split, where one is."""
    in_parts = config["grid"] == "split_tail"
    return tail_tiles(config, problem, device) if in_parts else problem.work_tiles(config)


def workspace_bytes(config: Config, problem: Problem, device: Device) -> int:
    """Bytes of workspace that a split K takes."""
    if config["split_k"] == 1 or config["reduction"] == "atomic":
        return 0
    if config["reduction"] == "workspace":
        return problem.batch * problem.m * problem.n * 4 * int(config["split_k"])
    tiles = 1 if config["reduction"] == "serial" else config["split_k"]
    split = _split_tiles(config, problem, device)
    # a tail does not grow with an open size; its workspace is that of the longest
    split = upper(split) if config["grid"] == "split_tail" else split
    return counter_bytes(config, problem, device) + split * tiles * config["block_m"] * config["block_n"] * 4


def main_loop(name: str, config: Config, workload: Workload, device: Device, problem: Problem) -> MainLoop:
    """The main loop of kernel ``name``; 3xTF32 multiplies three times."""
    in_parts = config["grid"] == "split_tail"
    split = 1 if in_parts else config["split_k"]
    m, n, steps = config["block_m"], config["block_n"], ceil_div(problem.k_tiles(config), split)
    depth = steps * config["block_k"] * ITEMSIZE[workload.dtype]
    return MainLoop(
        name,
        steps,
        macs=m * n * config["block_k"] * (3 if config["arithmetic"] == "tf32x3" else 1),
        tiles=(*problem.tiles(config), problem.batch * split),
        reads=(m * depth, n * depth),
        band=config["raster_group"],
        band_along=config["raster_along"],
        stages=config["stages"],
        walks=matmul_walks(workload, m, n, config["block_k"]) if isinstance(workload, Matmul) else (),
        tail=tail_tiles(config, problem, device),
        parts=config["split_k"] if in_parts else 1,
        part_bytes=4 * m * n if in_parts else 0,
    )


def resources(
    name: str, config: Config, workload: Workload, device: Device, problem: Problem, operands: tuple[Operand, Operand]
) -> ResourceEstimate:
    """Threads, shared bytes, accumulator registers (a lower bound), workspace and main loop of kernel ``name``."""
    split = 1 if config["grid"] == "split_tail" else config["split_k"]
    depth = ceil_div(problem.k_tiles(config), split) * config["block_k"]
    moved = promotes(workload, device) and depth > 128  # else the second set is the first under another name
    shape = Shape.of(config, workload.dtype, moved)
    # the compiler drops the sums of rows (eights) and columns (eights) that lie outside the matrix in every warp
    halves = min(2 * shape.mmas_m, ceil_div(problem.m, 8))
    sums = shape.accumulators * halves * min(shape.mmas_n, ceil_div(problem.n, 8)) // (2 * shape.mmas_m * shape.mmas_n)
    return ResourceEstimate(
        shape.threads,
        shared_bytes(config, *operands),
        sums,
        workspace_bytes(config, problem, device),
        main_loop(name, config, workload, device, problem),
    )


def plan(g: Any, config: Config, workload: Workload, problem: Problem) -> LaunchPlan:
    """One kernel; a memset before it for atomics, a second kernel behind it for parts in the workspace.

    ``g``: a :class:`~.derived.Derived`.
    """
    both, counted, name = g.launch.two_kernels, g.launch.reduction in COUNTERS, g.launch.name
    sums = g.storage.sums
    outputs, workspace = epilogue_args(workload), BufferArg("workspace")
    if both:
        scales = ("scale_a", "scale_b") if workload.scales == "block128" else ()
        args: tuple[Arg, ...] = (workspace, *map(BufferArg, scales), *size_args(workload))
    else:
        args = (*outputs, workspace) if counted else outputs
        args = (*args, sums.argument) if sums else args
    args = (*map(BufferArg, workload.inputs), *args)
    steps: list[Step] = [
        KernelStep(name, (g.launch.grid, 1, 1), (g.pipeline.shape.threads, 1, 1), args, g.storage.shared_bytes)
    ]
    if both:
        blocks = ceil_div(g.launch.reduce_total, 256)
        steps.append(KernelStep(f"{name}_reduce", (blocks, 1, 1), (256, 1, 1), (workspace, *outputs)))
    elif g.launch.reduction == "atomic":
        steps.insert(0, MemsetStep("out", problem.batch * problem.m * problem.n * 4))
    zeroed = g.storage.counter_bytes if counted else 0
    return LaunchPlan(tuple(steps), sums.end if sums else g.storage.workspace_bytes, counted, zeroed).check()
