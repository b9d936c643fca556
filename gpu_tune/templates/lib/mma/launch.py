"""What the sources of the mma.sync families see as ``launch``, and the launch plan that goes with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ....cuda.device import Device
from ....plan import Arg, BufferArg, KernelStep, LaunchPlan, MemsetStep
from ....workload import ITEMSIZE, Workload
from ...base import ResourceEstimate
from ..common import epilogue_args
from .constraints import Problem
from .tiles import INSTRUCTION, TRANSCENDENTAL, Operand, Shape, promotes, two_kernels

Config = Mapping[str, Any]
COUNTERS = ("turnstile", "last_block")


def blocks(config: Config, problem: Problem, device: Device) -> tuple[int, int]:
    """(tiles of work, blocks of the grid)."""
    rows, columns = problem.tiles(config)
    work = rows * columns * problem.batch * config["split_k"]
    return work, min(work, device.sm_count * config["min_blocks"]) if config["persistent"] else work


def counter_bytes(config: Config, problem: Problem) -> int:
    """Bytes of the counters at the start of the workspace, rounded up so that the parts behind them are aligned."""
    rows, columns = problem.tiles(config)
    return -(-rows * columns * problem.batch * 4 // 256) * 256


def workspace_bytes(config: Config, problem: Problem) -> int:
    """Bytes of workspace that a split K takes."""
    if config["split_k"] == 1 or config["reduction"] == "atomic":
        return 0
    rows, columns = problem.tiles(config)
    tile = rows * columns * problem.batch * config["block_m"] * config["block_n"] * 4
    if config["reduction"] == "turnstile":
        return counter_bytes(config, problem) + tile
    if config["reduction"] == "last_block":
        return counter_bytes(config, problem) + tile * config["split_k"]
    return problem.batch * problem.m * problem.n * 4 * config["split_k"]


def store_vector(config: Config, row_elements: int, alignment: int, out_dtype: str) -> int:
    """Results that leave in one store: at most 2 from fragments, 4 from a staged row, as alignment allows."""
    widest = 4 if config["epilogue_store"] == "staged" else 2
    return math.gcd(widest, row_elements, max(1, alignment // ITEMSIZE[out_dtype]))


def facts(
    config: Config,
    workload: Workload,
    device: Device,
    problem: Problem,
    loaders: tuple[Any, Any],
    *,
    name: str,
    row_elements: int,
    place: Callable[[str, str], str],
    coordinates: Callable[[str, str], str],
    along: str,
    wide: bool,
) -> dict[str, Any]:
    """Everything but how the loaders are built. ``row_elements``: elements of ``out`` side by side, for vectors."""
    load_a, load_b = loaders
    a, b = load_a.operand, load_b.operand
    shape = Shape(config, workload.dtype, promotes(workload, device))
    rows, columns = problem.tiles(config)
    work, grid = blocks(config, problem, device)
    split, k_tiles = config["split_k"], problem.k_tiles(config)
    vector = store_vector(config, row_elements, workload.alignment, workload.out_dtype)
    both = two_kernels(config)
    if both:
        vector = math.gcd(4, problem.n, row_elements, max(1, workload.alignment // ITEMSIZE[workload.out_dtype]))
    instruction, operand_type = INSTRUCTION[workload.dtype]
    sum_type = "s32" if workload.dtype == "int8" else "f16" if config["arithmetic"] == "fp16_accumulate" else "f32"
    units = rows * columns * problem.batch

    def split_begin(index: str) -> str:
        if k_tiles % split == 0:
            return f"{index} * {k_tiles // split}"
        return f"{index} * {k_tiles} / {split}"

    return {
        "name": name,
        "config": config,
        "overlap": config["persistent"] and config["epilogue_store"] == "direct" and split == 1 and work > grid,
        "shape": shape,
        "a": a,
        "b": b,
        "load_a": load_a,
        "load_b": load_b,
        "loaders": list(loaders),
        "itemsize": shape.itemsize,
        "prefetch": config["prefetch_bytes"],
        "gathers": any(x.gathers for x in loaders),
        "instruction": instruction,
        "operand_type": operand_type,
        "sum_type": sum_type,
        "sum_ctype": "int" if sum_type == "s32" else "float",
        "tf32x3": config["arithmetic"] == "tf32x3",
        "serpentine": config["mma_order"] == "serpentine" and shape.mmas_m > 1,
        "stages": config["stages"],
        "stage_bytes": a.bytes + b.bytes,
        "buffers": config["fragment_buffers"],
        "asynchronous": bool(a.copy or b.copy),
        "through_registers": not (a.copy and b.copy),
        "slices": config["slice_k"],
        "block_m": config["block_m"],
        "block_n": config["block_n"],
        "block_k": config["block_k"],
        "warp_m": config["warp_m"],
        "promote": shape.promote,
        "promote_every": max(1, 128 // config["block_k"]),
        "block_scales": workload.scales == "block128",
        "scale_blocks": -(-problem.k // 128),
        "m": problem.m,
        "n": problem.n,
        "batch": problem.batch,
        "tiles_m": rows,
        "tiles_n": columns,
        "tiles": rows * columns,
        "work": work,
        "grid": grid,
        "k_tiles": k_tiles,
        "split_begin": split_begin,
        "z": "0" if problem.batch == 1 else _z(rows * columns, problem.batch, work),
        "split_k": split,
        "reduction": config["reduction"] if split > 1 else "",
        "two_kernels": both,
        "counter_bytes": counter_bytes(config, problem),
        "units": units,
        "guard_m": problem.m % config["block_m"] != 0,
        "guard_n": problem.n % config["block_n"] != 0,
        "staged": config["epilogue_store"] == "staged",
        "scattered": config["epilogue_store"] == "direct",
        "heavy": any(op.name in TRANSCENDENTAL for op in workload.ops),
        "vector": vector,
        "widths": [vector] + ([1] if vector > 1 and problem.n % vector and not both else []),
        "along": along,
        "wide": wide,
        "place": place,
        "coordinates": coordinates,
        "reduce_vector": vector,
        "reduce_total": problem.batch * problem.m * problem.n // vector,
    }


def plan(
    config: Config,
    workload: Workload,
    device: Device,
    problem: Problem,
    operands: tuple[Operand, Operand],
    name: str,
    row_elements: int,
) -> LaunchPlan:
    """One kernel; a memset before it for atomics, a second kernel behind it for parts in the workspace."""
    shape = Shape(config, workload.dtype, promotes(workload, device))
    _, grid = blocks(config, problem, device)
    inputs: tuple[Arg, ...] = tuple(map(BufferArg, workload.inputs))
    both, split = two_kernels(config), config["split_k"] > 1
    counted = split and config["reduction"] in COUNTERS
    scales = ("scale_a", "scale_b") if both and workload.scales == "block128" else ()
    if both:
        args = (*inputs, BufferArg("workspace"), *map(BufferArg, scales))
    else:
        args = (*inputs, *epilogue_args(workload), *((BufferArg("workspace"),) if counted else ()))
    main = KernelStep(name, (grid, 1, 1), (shape.threads, 1, 1), args, shared_bytes=shape.shared_bytes(*operands))
    steps: tuple[Any, ...] = (main,)
    results = problem.batch * problem.m * problem.n
    if both:
        vector = math.gcd(4, problem.n, row_elements, max(1, workload.alignment // ITEMSIZE[workload.out_dtype]))
        reduce = KernelStep(
            f"{name}_reduce",
            (-(-results // vector // 256), 1, 1),
            (256, 1, 1),
            (BufferArg("workspace"), *epilogue_args(workload)),
        )
        steps = (main, reduce)
    elif split and config["reduction"] == "atomic":
        steps = (MemsetStep("out", results * 4), main)
    zeroed = counter_bytes(config, problem) if counted else 0
    return LaunchPlan(steps, workspace_bytes(config, problem), counted, zeroed).check()


def resources(
    config: Config, workload: Workload, device: Device, problem: Problem, operands: tuple[Operand, Operand]
) -> ResourceEstimate:
    """Threads, shared bytes, accumulator registers (a lower bound) and workspace."""
    depth = -(-problem.k_tiles(config) // config["split_k"]) * config["block_k"]
    moved = promotes(workload, device) and depth > 128  # else the second set is the first under another name
    shape = Shape(config, workload.dtype, moved)
    # the compiler drops the sums of rows (eights) and columns (eights) that lie outside the matrix in every warp
    halves = min(2 * shape.mmas_m, -(-problem.m // 8))
    sums = shape.accumulators * halves * min(shape.mmas_n, -(-problem.n // 8)) // (2 * shape.mmas_m * shape.mmas_n)
    return ResourceEstimate(shape.threads, shape.shared_bytes(*operands), sums, workspace_bytes(config, problem))


def _z(tiles: int, batch: int, work: int) -> str:
    index = "work" if tiles == 1 else f"work / {tiles}"
    return index if work == tiles * batch else f"{index} % {batch}"
