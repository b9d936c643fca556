"""Sizes of configs on the plain arithmetic units: what all of them share, then matmul_simt's own.

Knobs of one name mean the same in every family: ``shared_type``, ``stages``, ``vector_width_*``, ``min_blocks``. Shared
memory is counted in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ....cuda.device import Device
from ....workload import ITEMSIZE
from ..common import ceil_div

Config = Mapping[str, Any]
WIDTHS = (1, 2, 4, 8, 16)


def shared_item(c: Config, w: Any) -> int:
    """Bytes of an element in shared memory: as stored, or as float (int)."""
    return ITEMSIZE[w.dtype] if c["shared_type"] == "stored" else 4


def whole_vectors(size: int) -> int:
    """Bytes rounded up to 16: compilers widen loads up to there."""
    return ceil_div(size, 16) * 16


def loads(vector: int, w: Any, *runs: int) -> bool:
    """Whether one access takes ``vector`` elements of the inputs: one always; more where they are at most 16 bytes and
    the alignment, and divide every one of the ``runs`` that they must not straddle."""
    return _accessible(vector, ITEMSIZE[w.dtype], w.alignment, runs)


def stores(vector: int, w: Any, *runs: int) -> bool:
    """Whether one access writes ``vector`` results; see :func:`loads`."""
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


def parts_fit(parts: int, steps: int, outputs: int, device: Device) -> bool:
    """Whether every part has a step, and the sums of all parts fit into an eighth of memory."""
    return parts == 1 or (
        (parts - 1) * ceil_div(steps, parts) < steps and 4 * parts * outputs <= device.memory_bytes // 8
    )


def threads(c: Mapping[str, Any]) -> int:
    """Threads of a block, one a thread tile."""
    return (c["block_m"] // c["thread_m"]) * (c["block_n"] // c["thread_n"])


def along_k(w: Any, which: str) -> bool:
    """Whether an operand is contiguous along k."""
    return bool(w.layout["ab".index(which)] == ("n" if which == "a" else "t"))


def tile_shape(c: Mapping[str, Any], w: Any, which: str) -> tuple[int, int]:
    """Rows of an operand's tile in shared memory, and elements from one row to the next."""
    block, item = c["block_m" if which == "a" else "block_n"], shared_item(c, w)
    rows, columns = (block, c["block_k"]) if c[f"shared_{which}"] == "k_inner" else (c["block_k"], block)
    return rows, columns + 4 * c[f"padding_{which}"] // item


def operand_bytes(c: Mapping[str, Any], w: Any, which: str) -> int:
    """Bytes of an operand's tiles, all stages, rounded up to 16: compilers widen loads up to there."""
    return whole_vectors(math.prod(tile_shape(c, w, which)) * shared_item(c, w) * c["stages"])


def shared_bytes(c: Mapping[str, Any], w: Any) -> int:
    """Bytes of both operands' tiles."""
    return operand_bytes(c, w, "a") + operand_bytes(c, w, "b")


def copies(c: Mapping[str, Any]) -> tuple[int, int]:
    """Vectors of A's tile and of B's that one thread copies."""
    count = threads(c)
    return (
        ceil_div(c["block_m"] * c["block_k"] // c["vector_width_a"], count),
        ceil_div(c["block_n"] * c["block_k"] // c["vector_width_b"], count),
    )


def accumulators(c: Mapping[str, Any], w: Any) -> int:
    """Registers that hold sums: twice as many where the sums of 128 of K wait for their scales."""
    return int(c["thread_m"] * c["thread_n"] * (2 if w.scales == "block128" else 1))


def registers(c: Mapping[str, Any], w: Any) -> int:
    """Registers a thread is expected to need, on the high side: sums, fragments, copies with their addresses."""
    fragments = c["fragment_k"] * (c["thread_m"] + c["thread_n"])
    item = ITEMSIZE[w.dtype]
    words = [max(1, c[f"vector_width_{x}"] * item // 4) if c["stages"] <= 2 else 0 for x in "ab"]
    moved = sum(n * (2 + size) + (8 if n > 8 else 0) for n, size in zip(copies(c), words))
    return accumulators(c, w) + fragments + moved + 36


def parts(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Tiles along K, and how many of them a part takes."""
    tiles = ceil_div(w.k, c["block_k"])
    return tiles, ceil_div(tiles, c["split_k"])


def tiles(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Tiles of C along m and n."""
    return ceil_div(w.m, c["block_m"]), ceil_div(w.n, c["block_n"])
