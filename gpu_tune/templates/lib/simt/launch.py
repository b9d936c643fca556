"""What the families on the plain arithmetic units share: rules that read alike, vector widths, the sum of slices.

Knobs of one name mean the same in each of them: ``shared_type``, ``stages``, ``vector_width_*``, ``min_blocks``. Shared
memory is counted in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ....cuda.device import Device
from ....plan import BufferArg, KernelStep
from ....space.knob import Constraint
from ....workload import ITEMSIZE
from ..common import INDEX_LIMIT, epilogue_args, register_limit

Config = Mapping[str, Any]
REDUCE_THREADS = 256
WIDTHS = (1, 2, 4, 8, 16)


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def shared_item(c: Config, w: Any) -> int:
    """Bytes of an element in shared memory: as stored, or as float (int)."""
    return ITEMSIZE[w.dtype] if c["shared_type"] == "stored" else 4


def whole_vectors(size: int) -> int:
    """Bytes rounded up to 16: compilers widen loads up to there."""
    return ceil(size, 16) * 16


def loads(vector: int, w: Any, *runs: int) -> bool:
    """Whether one access takes ``vector`` elements of the inputs: one always; more where they are at most 16 bytes and
    the alignment, and divide every one of the ``runs`` that they must not straddle."""
    return _accessible(vector, ITEMSIZE[w.dtype], w.alignment, runs)


def stores(vector: int, w: Any, *runs: int) -> bool:
    """The same of results."""
    return _accessible(vector, ITEMSIZE[w.out_dtype], w.alignment, runs)


def _accessible(vector: int, item: int, alignment: int, runs: tuple[int, ...]) -> bool:
    return vector == 1 or (vector * item <= min(16, alignment) and not any(run % vector for run in runs))


def widest(fits: Callable[[int], bool], widths: tuple[int, ...] = WIDTHS) -> int:
    """The largest vector that fits; one element always does."""
    return max(v for v in widths if v == 1 or fits(v))


def copies_async(c: Config, w: Any, device: Device, vector: int, same_order: bool, aligned: bool) -> bool:
    """Whether cp.async can move vectors to shared memory: sm_80, 4 to 16 bytes, unconverted, turned only one by one."""
    size = vector * ITEMSIZE[w.dtype]
    fits = device.cc >= 80 and c["shared_type"] == "stored" and size in (4, 8, 16)
    return fits and ((same_order and aligned) or vector == 1)


def slices_fit(slices: int, steps: int, outputs: int, device: Device) -> bool:
    """Whether every slice has a step, and the sums of all slices fit into an eighth of memory."""
    return slices == 1 or (
        (slices - 1) * ceil(steps, slices) < steps and 4 * slices * outputs <= device.memory_bytes // 8
    )


def adding_step(name: str, grid: tuple[int, int, int], w: Any) -> KernelStep:
    """The second launch of a sum in slices: it adds them in order and runs the epilogue."""
    return KernelStep(name, grid, (REDUCE_THREADS, 1, 1), (BufferArg("workspace"), *epilogue_args(w)))


def divides_rule(whole: str, part: str, message: str, name: str = "") -> Constraint:
    """``part`` divides ``whole``."""
    return Constraint(name or part, (whole, part), lambda c, w, d: c[whole] % c[part] == 0, message)


def fitting_rule(
    name: str,
    knobs: tuple[str, ...],
    size: Callable[[Config, Any], int],
    extent: Callable[[Any], int],
    small: int,
    what: str,
) -> Constraint:
    """At most half of what a block takes is outside; blocks of up to ``small`` may be larger than that."""

    def holds(c: Config, w: Any, device: Device) -> bool:
        return size(c, w) <= small or size(c, w) < 2 * extent(w)

    return Constraint(f"fitting_{name}", knobs, holds, f"at most half of the block's {what} are idle")


def fragment_rule(block: str, fragment: str, unroll: str) -> Constraint:
    """The unrolled steps are part of a block."""
    return Constraint(
        "fragment",
        (block, fragment, unroll),
        lambda c, w, d: c[fragment] * c[unroll] <= c[block],
        f"unrolled fragments fit into {block}",
    )


def split_rule(block: str, slices: str, fits: Callable[[Config, Any, Device], bool], what: str) -> Constraint:
    """A sum in slices has work for each (``what``) and memory for all."""
    return Constraint(
        slices, (block, slices), fits, f"every slice has {what}, and the workspace fits into an eighth of memory"
    )


def raster_rule(knobs: tuple[str, ...], tiles: Callable[[Config, Any], tuple[int, ...]]) -> Constraint:
    """``tiles`` counts the blocks along channels, then those along rows and columns."""

    def holds(c: Config, w: Any, device: Device) -> bool:
        return c["raster"] == "pixels" or (tiles(c, w)[0] > 1 and math.prod(tiles(c, w)[1:]) > 1)

    return Constraint("raster", ("raster", *knobs), holds, "channels come first only where both vary")


SHARED_TYPE = Constraint(
    "shared_type",
    ("shared_type",),
    lambda c, w, d: c["shared_type"] == "stored" or w.dtype != "float32",
    "float32 is stored wide already",
)


def shared_rule(
    name: str, knobs: tuple[str, ...], size: Callable[[Config, Any], int], message: str, limit: int = 2**31
) -> Constraint:
    """What is staged fits into the shared memory of one block (or ``limit``)."""
    return Constraint(name, knobs, lambda c, w, d: size(c, w) <= min(limit, d.shared_bytes_per_block), message)


def registers_rule(
    knobs: tuple[str, ...], needed: Callable[[Config, Any], int], threads: Callable[[Config], int], message: str
) -> Constraint:
    """What a thread keeps fits into the registers that its launch bounds leave."""
    return Constraint(
        "registers",
        (*knobs, "min_blocks"),
        lambda c, w, d: needed(c, w) <= register_limit(threads(c), c["min_blocks"], d),
        message,
    )


def min_blocks_rules(
    thread_knobs: tuple[str, ...],
    threads: Callable[[Config], int],
    shared_knobs: tuple[str, ...],
    size: Callable[[Config, Any], int],
) -> tuple[Constraint, Constraint]:
    """The blocks that ``min_blocks`` demands fit on an SM, by threads and by shared memory."""
    return (
        Constraint(
            "min_blocks_threads",
            (*thread_knobs, "min_blocks"),
            lambda c, w, d: c["min_blocks"] * ceil(threads(c), 32) * 32 <= d.threads_per_sm,
            "the threads of the demanded blocks fit on one SM",
        ),
        Constraint(
            "min_blocks_shared",
            (*shared_knobs, "min_blocks"),
            lambda c, w, d: c["min_blocks"] * (size(c, w) + d.shared_reserved_per_block) <= d.shared_bytes_per_sm,
            "what the demanded blocks stage fits on one SM",
        ),
    )


def grid_rule(knobs: tuple[str, ...], blocks: Callable[[Config, Any], int]) -> Constraint:
    """Blocks are counted in 31 bits."""
    return Constraint("grid", knobs, lambda c, w, d: blocks(c, w) <= INDEX_LIMIT, "the grid has fewer than 2^31 blocks")
