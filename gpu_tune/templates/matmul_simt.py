"""Matrix multiplication on the plain arithmetic units: every workload, every device. The fallback of the matmuls.

A block computes ``block_m`` x ``block_n`` outputs from shared-memory tiles ``block_k`` deep, a warp a part ``warp_n``
wide, a thread ``thread_m`` x ``thread_n``. Accumulation is float32, or int32 for int8 data. ``stages`` chooses the
pipeline: 1 one buffer; 2 the next tile waits in registers; more: cp.async (sm_80 and newer). With ``split_k`` > 1
slices of K go to the workspace and a second kernel adds them in order, so results never depend on timing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from ..device import Device
from ..plan import BufferArg, KernelStep, LaunchPlan
from ..space.constraint import Constraint
from ..space.knob import Config, Knob
from ..workload import ITEMSIZE
from .arguments import epilogue_args
from .base import Estimate, Template

STATIC_LIMIT = 49152  # CUDA's limit on statically declared shared memory; more is declared extern
REDUCE_THREADS = 256
INDEX_LIMIT = 2**31 - 2**20  # int indices up to here, with room for the last block's overhang

KNOBS = (
    Knob("block_m", (16, 32, 64, 128, 256), "rows of C that a block computes"),
    Knob("block_n", (16, 32, 64, 128, 256), "columns of C that a block computes"),
    Knob("block_k", (4, 8, 16, 32, 64), "depth of a shared-memory tile"),
    Knob("thread_m", (1, 2, 4, 8, 16), "rows of C that a thread computes"),
    Knob("thread_n", (1, 2, 4, 8, 16), "columns of C that a thread computes"),
    Knob("warp_n", (4, 8, 16, 32, 64, 128, 256), "columns of C that a warp covers; its rows follow"),
    Knob("interleave_m", (1, 2, 4), "pieces that a thread's rows are cut into, spread over the warp's rows"),
    Knob("interleave_n", (1, 2, 4), "pieces that a thread's columns are cut into, spread over the warp's columns"),
    Knob("vector_width_a", (1, 2, 4, 8, 16), "elements of A that one global load takes"),
    Knob("vector_width_b", (1, 2, 4, 8, 16), "elements of B that one global load takes"),
    Knob("vector_width_out", (1, 2, 4, 8, 16), "elements that one store of C takes"),
    Knob(
        "shared_a", ("k_outer", "k_inner"), "A in shared memory: block_k rows of m, or block_m rows of k", ordinal=False
    ),
    Knob(
        "shared_b", ("k_outer", "k_inner"), "B in shared memory: block_k rows of n, or block_n rows of k", ordinal=False
    ),
    Knob(
        "shared_type",
        ("stored", "wide"),
        "shared memory holds elements as stored, or already as float (int)",
        ordinal=False,
    ),
    Knob("padding_a", (0, 1, 2, 4), "32-bit words appended to each row of A's tile against bank conflicts"),
    Knob("padding_b", (0, 1, 2, 4), "32-bit words appended to each row of B's tile against bank conflicts"),
    Knob("stages", (1, 2, 3, 4, 5, 6), "1 one tile, 2 next tile in registers, 3 and more tiles in flight by cp.async"),
    Knob("fragment_k", (1, 2, 4), "k values read from shared memory at once"),
    Knob("unroll", (1, 2, 4, 8, 16, 32, 64), "steps of fragment_k unrolled"),
    Knob("group_m", (1, 2, 4, 8, 16), "rows of tiles walked together (L2 reuse)"),
    Knob("split_k", (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), "slices of K, summed in order by a second kernel"),
    Knob("min_blocks", (0, 1, 2, 3, 4), "blocks per SM that the compiler must leave registers for (0: no demand)"),
)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _threads(c: Mapping[str, Any]) -> int:
    return (c["block_m"] // c["thread_m"]) * (c["block_n"] // c["thread_n"])


def _k_contiguous(w: Any, which: str) -> bool:
    return bool(w.layout["ab".index(which)] == ("n" if which == "a" else "t"))


def _operand(c: Mapping[str, Any], w: Any, which: str) -> dict[str, Any]:
    """How one operand moves: its global order, its tile in shared memory and the width of the copies."""
    block, vector = c["block_m" if which == "a" else "block_n"], c[f"vector_width_{which}"]
    k_contiguous, k_inner = _k_contiguous(w, which), c[f"shared_{which}"] == "k_inner"
    rows, pitch = _tile_shape(c, w, which)
    shape, ld = (w.a_shape, w.lda) if which == "a" else (w.b_shape, w.ldb)
    return {
        "k_contiguous": k_contiguous,
        "k_inner": k_inner,
        "same_order": k_contiguous == k_inner,
        "block": block,
        "vector": vector,
        "bytes": vector * ITEMSIZE[w.dtype],
        "per_row": (c["block_k"] if k_contiguous else block) // vector,  # vectors in a row of the global tile
        "chunks": block * c["block_k"] // vector,
        "pitch": pitch,
        # whether a vector's place in shared memory is aligned to its store
        "aligned": pitch % 4 == 0 if c["shared_type"] == "wide" else pitch % vector == 0,
        "size": rows * pitch,
        "ld": ld,
        "matrix": shape[0] * ld,
        "wide": shape[0] * ld > INDEX_LIMIT,
    }


def _tile_shape(c: Mapping[str, Any], w: Any, which: str) -> tuple[int, int]:
    """Rows of an operand's tile in shared memory, and elements from one row to the next."""
    block, item = c["block_m" if which == "a" else "block_n"], _shared_item(c, w)
    rows, columns = (block, c["block_k"]) if c[f"shared_{which}"] == "k_inner" else (c["block_k"], block)
    return rows, columns + 4 * c[f"padding_{which}"] // item


def _shared_item(c: Mapping[str, Any], w: Any) -> int:
    return ITEMSIZE[w.dtype] if c["shared_type"] == "stored" else 4


def _shared_bytes(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Bytes of A's tiles and of B's, all stages, each rounded up to 16 (compilers widen loads up to there)."""
    a, b = (math.prod(_tile_shape(c, w, which)) * _shared_item(c, w) * c["stages"] for which in "ab")
    return _ceil(a, 16) * 16, _ceil(b, 16) * 16


def _copies(c: Mapping[str, Any]) -> tuple[int, int]:
    """Vectors of A's tile and of B's that one thread copies."""
    threads = _threads(c)
    return (
        _ceil(c["block_m"] * c["block_k"] // c["vector_width_a"], threads),
        _ceil(c["block_n"] * c["block_k"] // c["vector_width_b"], threads),
    )


def _live(extent: int, block: int, lanes: int, piece: int, pieces: int) -> int:
    """Rows (columns) of a thread that lie inside the matrix for at least one thread."""
    if extent >= block:
        return piece * pieces
    return sum(min(piece, max(0, extent - p * lanes * piece)) for p in range(pieces))


def _accumulators(c: Mapping[str, Any], w: Any) -> int:
    """Registers that hold sums: twice as many where the sums of 128 of K wait for their scales."""
    return int(c["thread_m"] * c["thread_n"] * (2 if w.scales == "block128" else 1))


def _registers(c: Mapping[str, Any], w: Any) -> int:
    """Registers a thread is expected to need, on the high side: sums, fragments, copies with their addresses."""
    fragments = c["fragment_k"] * (c["thread_m"] + c["thread_n"])
    item = ITEMSIZE[w.dtype]
    words = [max(1, c[f"vector_width_{x}"] * item // 4) if c["stages"] <= 2 else 0 for x in "ab"]
    return _accumulators(c, w) + fragments + sum(n * (2 + size) for n, size in zip(_copies(c), words)) + 36


def _register_limit(c: Mapping[str, Any], device: Device) -> int:
    budget = device.registers_per_sm // (_threads(c) * max(1, c["min_blocks"]))
    return min(255, budget // 8 * 8)


def _slices(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Tiles along K, and how many of them a slice takes."""
    tiles = _ceil(w.k, c["block_k"])
    return tiles, _ceil(tiles, c["split_k"])


def _tiles(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    return _ceil(w.m, c["block_m"]), _ceil(w.n, c["block_n"])


def _warp_tile_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    lanes_n = c["warp_n"] // c["thread_n"]
    if c["warp_n"] % c["thread_n"] or lanes_n > 32 or c["block_n"] % c["warp_n"]:
        return False
    return c["block_m"] % (32 // lanes_n * c["thread_m"]) == 0


def _vector_fits(which: str) -> Any:
    block = "block_m" if which == "a" else "block_n"

    def holds(c: Mapping[str, Any], w: Any, device: Device) -> bool:
        v, item = c[f"vector_width_{which}"], ITEMSIZE[w.dtype]
        k_contiguous = _k_contiguous(w, which)
        extent = w.k if k_contiguous else (w.m if which == "a" else w.n)
        ld = w.lda if which == "a" else w.ldb
        return v == 1 or (
            v * item <= min(16, w.alignment)
            and ld % v == 0
            and extent % v == 0
            and c["block_k" if k_contiguous else block] % v == 0
        )

    return Constraint(
        f"vector_{which}",
        (f"vector_width_{which}", "block_k", block),
        holds,
        f"one load of {which.upper()} is at most 16 bytes and the alignment, and divides extent, ld and tile",
    )


def _cp_async_fits(which: str) -> Any:
    def holds(c: Mapping[str, Any], w: Any, device: Device) -> bool:
        if c["stages"] <= 2:
            return True
        item = ITEMSIZE[w.dtype]
        size = c[f"vector_width_{which}"] * item
        k_contiguous = _k_contiguous(w, which)
        same_order = k_contiguous == (c[f"shared_{which}"] == "k_inner")
        padded = same_order is False or 4 * c[f"padding_{which}"] % size == 0
        return (
            device.cc >= 80
            and c["shared_type"] == "stored"
            and size in (4, 8, 16)
            and (same_order or c[f"vector_width_{which}"] == 1)
            and padded
        )

    return Constraint(
        f"cp_async_{which}",
        ("stages", f"vector_width_{which}", f"shared_{which}", f"padding_{which}", "shared_type"),
        holds,
        "cp.async needs sm_80, moves 4, 8 or 16 bytes unconverted to aligned rows, and cannot transpose vectors",
    )


def _min_blocks_fit(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    shared = sum(_shared_bytes(c, w)) + device.shared_reserved_per_block
    return bool(c["min_blocks"] * shared <= device.shared_bytes_per_sm)


def _split_fits(c: Mapping[str, Any], w: Any, device: Device) -> bool:
    if c["split_k"] == 1:
        return True
    tiles, per_slice = _slices(c, w)
    return (c["split_k"] - 1) * per_slice < tiles and 4 * c["split_k"] * w.batch * w.m * w.n <= device.memory_bytes // 8


_SHARED = ("block_m", "block_n", "block_k", "stages", "shared_a", "shared_b", "shared_type", "padding_a", "padding_b")

CONSTRAINTS = (
    Constraint(
        "threads",
        ("block_m", "block_n", "thread_m", "thread_n"),
        lambda c, w, d: (
            c["thread_m"] <= c["block_m"]
            and c["thread_n"] <= c["block_n"]
            and _threads(c) % 32 == 0
            and 32 <= _threads(c) <= d.threads_per_block
        ),
        "the block's threads, one per thread tile, are whole warps and within the device's limit",
    ),
    Constraint(
        "warp_tile",
        ("block_m", "block_n", "thread_m", "thread_n", "warp_n"),
        _warp_tile_fits,
        "the warp tile is made of 32 thread tiles and divides the block tile",
    ),
    Constraint(
        "interleave_m",
        ("thread_m", "interleave_m"),
        lambda c, w, d: c["thread_m"] % c["interleave_m"] == 0,
        "the pieces divide the thread's rows",
    ),
    Constraint(
        "interleave_n",
        ("thread_n", "interleave_n"),
        lambda c, w, d: c["thread_n"] % c["interleave_n"] == 0,
        "the pieces divide the thread's columns",
    ),
    _vector_fits("a"),
    _vector_fits("b"),
    Constraint(
        "vector_out",
        ("vector_width_out", "thread_n", "interleave_n"),
        lambda c, w, d: (
            c["thread_n"] // c["interleave_n"] % c["vector_width_out"] == 0
            and (
                c["vector_width_out"] == 1
                or (
                    c["vector_width_out"] * ITEMSIZE[w.out_dtype] <= min(16, w.alignment)
                    and w.n % c["vector_width_out"] == 0
                    and w.ldc % c["vector_width_out"] == 0
                )
            )
        ),
        "one store is at most 16 bytes and the alignment, and divides n, ldc and a piece of the thread's columns",
    ),
    Constraint(
        "fragment",
        ("block_k", "fragment_k", "unroll"),
        lambda c, w, d: c["fragment_k"] * c["unroll"] <= c["block_k"],
        "unrolled fragments fit into block_k",
    ),
    Constraint(
        "shared_type",
        ("shared_type",),
        lambda c, w, d: c["shared_type"] == "stored" or w.dtype != "float32",
        "float32 is stored wide already",
    ),
    _cp_async_fits("a"),
    _cp_async_fits("b"),
    Constraint(
        "shared_memory",
        _SHARED,
        lambda c, w, d: sum(_shared_bytes(c, w)) <= d.shared_bytes_per_block,
        "all stages fit into the shared memory of one block",
    ),
    Constraint(
        "copies",
        ("block_m", "block_n", "block_k", "thread_m", "thread_n", "vector_width_a", "vector_width_b"),
        lambda c, w, d: max(_copies(c)) <= 16,
        "a thread copies at most 16 vectors of each tile",
    ),
    Constraint(
        "code_size",
        ("thread_m", "thread_n", "fragment_k", "unroll"),
        lambda c, w, d: c["thread_m"] * c["thread_n"] * c["fragment_k"] * c["unroll"] <= 2048,
        "at most 2048 multiply-adds are unrolled",
    ),
    Constraint(
        "accumulators",
        ("thread_m", "thread_n"),
        lambda c, w, d: _accumulators(c, w) + c["thread_m"] + c["thread_n"] + 36 <= 255,
        "sums and one fragment fit into 255 registers",
    ),
    Constraint(
        "registers",
        (
            "block_m",
            "block_n",
            "block_k",
            "thread_m",
            "thread_n",
            "vector_width_a",
            "vector_width_b",
            "fragment_k",
            "stages",
            "min_blocks",
        ),
        lambda c, w, d: _registers(c, w) <= _register_limit(c, d),
        "accumulators, fragments and staged loads fit into the registers that a thread may have",
    ),
    Constraint(
        "min_blocks_threads",
        ("block_m", "block_n", "thread_m", "thread_n", "min_blocks"),
        lambda c, w, d: c["min_blocks"] * _threads(c) <= d.threads_per_sm,
        "the threads of the demanded blocks fit on one SM",
    ),
    Constraint(
        "min_blocks_shared", (*_SHARED, "min_blocks"), _min_blocks_fit, "the demanded blocks' tiles fit on one SM"
    ),
    Constraint(
        "group",
        ("block_m", "block_n", "group_m"),
        lambda c, w, d: c["group_m"] == 1 or (c["group_m"] <= _tiles(c, w)[0] and _tiles(c, w)[1] > 1),
        "a group has no more rows than there are tiles, and more than one column",
    ),
    Constraint(
        "split_k",
        ("block_k", "split_k"),
        _split_fits,
        "every slice of K has a tile, and the workspace fits into an eighth of memory",
    ),
    Constraint(
        "grid",
        ("block_m", "block_n"),
        lambda c, w, d: _tiles(c, w)[0] * _tiles(c, w)[1] * w.batch <= INDEX_LIMIT,
        "the grid has fewer than 2^31 blocks",
    ),
)


@functools.lru_cache(maxsize=256)
def _facts(c: Config, w: Any) -> dict[str, Any]:
    config: Mapping[str, Any] = c
    tiles_m, tiles_n = _tiles(config, w)
    tiles_k, per_slice = _slices(config, w)
    a_bytes, b_bytes = _shared_bytes(config, w)
    lanes_n = config["warp_n"] // config["thread_n"]
    return {
        "threads": _threads(config),
        "tiles_m": tiles_m,
        "tiles_n": tiles_n,
        "tiles_k": tiles_k,
        "per_slice": per_slice,
        "a": _operand(config, w, "a"),
        "b": _operand(config, w, "b"),
        "dynamic": a_bytes + b_bytes > STATIC_LIMIT,
        "b_offset": a_bytes,
        "a_elements": a_bytes // _shared_item(config, w),
        "b_elements": b_bytes // _shared_item(config, w),
        "shared_bytes": a_bytes + b_bytes,
        "lanes_n": lanes_n,
        "lanes_m": 32 // lanes_n,
        "warp_m": 32 // lanes_n * config["thread_m"],
        "warps_n": config["block_n"] // config["warp_n"],
        "piece_m": config["thread_m"] // config["interleave_m"],
        "piece_n": config["thread_n"] // config["interleave_n"],
        "wide_out": w.m * w.ldc > INDEX_LIMIT,
        "wide_sum": w.m * w.n > INDEX_LIMIT,
        "fold_batch": w.batch > 65535,
        "reduce_threads": REDUCE_THREADS,
        "dp4a": w.dtype == "int8"
        and config["shared_type"] == "stored"
        and config["fragment_k"] == 4
        and config["shared_a"] == config["shared_b"] == "k_inner",
    }


def derive(config: Config, workload: Any, device: Device) -> Mapping[str, Any]:
    """What the source sees as ``launch``."""
    return _facts(config, workload)


def resources(config: Config, workload: Any, device: Device) -> Estimate:
    """Threads, shared memory, accumulators and workspace of ``config``."""
    f, c = _facts(config, workload), dict[str, Any](config)
    sums = _accumulators(c, workload) if f["tiles_k"] > 1 else c["thread_m"] * c["thread_n"]  # one tile: scaled at once
    # where the tile reaches past the matrix, the compiler drops the sums that no thread has inside
    live = _live(workload.m, c["block_m"], f["lanes_m"], f["piece_m"], c["interleave_m"])
    live *= _live(workload.n, c["block_n"], f["lanes_n"], f["piece_n"], c["interleave_n"])
    sums = sums * live // (c["thread_m"] * c["thread_n"])
    return Estimate(f["threads"], f["shared_bytes"], sums, _workspace(c, workload))


def _workspace(c: Mapping[str, Any], w: Any) -> int:
    return 4 * c["split_k"] * w.batch * w.m * w.n if c["split_k"] > 1 else 0


def plan(config: Config, workload: Any, device: Device) -> LaunchPlan:
    """One launch, and with ``split_k`` a second one that adds the slices and runs the epilogue."""
    c: Mapping[str, Any] = config
    f, w = _facts(config, workload), workload
    tiles = f["tiles_m"] * f["tiles_n"]
    grid = (tiles * w.batch, c["split_k"], 1) if f["fold_batch"] else (tiles, c["split_k"], w.batch)
    split = c["split_k"] > 1
    scales = (BufferArg("scale_a"), BufferArg("scale_b")) if w.scales == "block128" else ()
    inputs = (BufferArg("a"), BufferArg("b"))
    args = (*inputs, BufferArg("workspace"), *scales) if split else (*inputs, *epilogue_args(w))
    dynamic = f["shared_bytes"] if f["dynamic"] else 0
    steps = [KernelStep("matmul_simt", grid, (f["threads"], 1, 1), args, dynamic)]
    if split:
        blocks = _ceil(w.m * w.n // c["vector_width_out"], REDUCE_THREADS)
        reduce_grid = (blocks * w.batch, 1, 1) if f["fold_batch"] else (blocks, 1, w.batch)
        steps.append(
            KernelStep(
                "matmul_simt_reduce", reduce_grid, (REDUCE_THREADS, 1, 1), (BufferArg("workspace"), *epilogue_args(w))
            )
        )
    return LaunchPlan(tuple(steps), _workspace(c, w)).check()


def _widest(w: Any, which: str, block: int, block_k: int) -> int:
    rule = _vector_fits(which).holds
    name = "block_m" if which == "a" else "block_n"
    return max(
        v for v in (1, 2, 4, 8, 16) if rule({f"vector_width_{which}": v, name: block, "block_k": block_k}, w, None)
    )


def _widest_out(w: Any, piece: int) -> int:
    return max(
        v
        for v in (1, 2, 4, 8)
        if v == 1
        or (piece % v == 0 and v * ITEMSIZE[w.out_dtype] <= min(16, w.alignment) and w.n % v == 0 and w.ldc % v == 0)
    )


def _complete(w: Any, device: Device, **chosen: Any) -> Config:
    """A config from the main choices: the widest legal copies and shared-memory layouts that suit them."""
    dp4a = w.dtype == "int8" and w.layout == "nt" and chosen["block_k"] >= 16
    c: dict[str, Any] = dict(
        interleave_m=1,
        interleave_n=1,
        padding_a=0,
        padding_b=0,
        fragment_k=4 if dp4a else 1,
        group_m=1,
        split_k=1,
        min_blocks=1,
        stages=2,
        unroll=0,
        shared_type="stored" if w.dtype == "float32" or dp4a else "wide",
    )
    c.update(chosen)
    for x, block in (("a", "block_m"), ("b", "block_n")):
        c.setdefault(f"vector_width_{x}", _widest(w, x, c[block], c["block_k"]))
        c.setdefault(f"shared_{x}", "k_inner" if dp4a else "k_outer")
        if _k_contiguous(w, x) and not chosen.get(f"padding_{x}"):
            c[f"padding_{x}"] = 4
    c["vector_width_out"] = _widest_out(w, c["thread_n"] // c["interleave_n"])
    c["unroll"] = c["unroll"] or max(
        u for u in (1, 2, 4, 8, 16, 32, 64) if u * c["fragment_k"] <= min(16, c["block_k"])
    )
    while c["split_k"] > 1 and not _split_fits(c, w, device):
        c["split_k"] = max(v for v in TEMPLATE.knob["split_k"].values if isinstance(v, int) and v < c["split_k"])
    tiles_m, tiles_n = _tiles(c, w)
    while c["group_m"] > 1 and (c["group_m"] > tiles_m or tiles_n == 1):
        c["group_m"] //= 2
    return Config(c)


def default(workload: Any, device: Device) -> Config:
    """Tiles by the size of C, split-K where too few blocks would run."""
    w = workload
    if w.m <= 16 or w.n <= 16:
        small_m = w.m <= w.n
        tile = dict(
            block_m=16 if small_m else 64,
            block_n=64 if small_m else 16,
            block_k=16,
            thread_m=4 if not small_m else 2,
            thread_n=4 if small_m else 2,
            warp_n=32 if small_m else 16,
        )
    elif _ceil(w.m, 128) * _ceil(w.n, 128) * w.batch >= device.sm_count and w.scales != "block128":
        tile = dict(
            block_m=128,
            block_n=128,
            block_k=8 if ITEMSIZE[w.dtype] > 1 else 16,
            thread_m=8,
            thread_n=8,
            warp_n=64,
            interleave_m=2,
            interleave_n=2,
            group_m=8,
        )
    elif _ceil(w.m, 64) * _ceil(w.n, 64) * w.batch * 2 >= device.sm_count:
        tile = dict(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4, warp_n=32, group_m=4)
    else:
        tile = dict(block_m=32, block_n=32, block_k=16, thread_m=2, thread_n=4, warp_n=32)
    blocks = _ceil(w.m, tile["block_m"]) * _ceil(w.n, tile["block_n"]) * w.batch
    wanted = min(device.sm_count * 2 // blocks, w.k // 256)
    split = max((v for v in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if v <= wanted), default=1)
    return _complete(w, device, **tile, split_k=split)


def seeds(workload: Any, device: Device) -> list[Config]:
    """Tiles that won elsewhere: 128x128 and 64x128 thread tiles of 8x8 and 8x4, 64x64x16 of 4x4, cp.async pipelines."""
    w = workload
    common: list[dict[str, Any]] = [
        dict(
            block_m=128,
            block_n=128,
            block_k=16,
            thread_m=8,
            thread_n=8,
            warp_n=64,
            interleave_n=2,
            interleave_m=2,
            group_m=8,
        ),
        dict(block_m=64, block_n=128, block_k=16, thread_m=8, thread_n=4, warp_n=32, group_m=4),
        dict(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4, warp_n=32, stages=1),
        dict(block_m=32, block_n=64, block_k=32, thread_m=4, thread_n=2, warp_n=16, split_k=4),
    ]
    if device.cc >= 80 and w.dtype == "float32":
        piped = {f"vector_width_{x}": 1 for x in "ab" if _k_contiguous(w, x)}
        common.append(
            dict(
                block_m=128,
                block_n=64,
                block_k=16,
                thread_m=8,
                thread_n=8,
                warp_n=32,
                interleave_m=2,
                interleave_n=2,
                stages=4,
                **piped,
            )
        )
    made = [_complete(w, device, **choice) for choice in common]
    return [c for c in made if not TEMPLATE.violations(c, w, device)]


TEMPLATE = Template(
    name="matmul_simt",
    op="matmul",
    summary="plain arithmetic units, every layout, dtype, size and epilogue",
    knobs=KNOBS,
    constraints=CONSTRAINTS,
    supports=lambda workload, device: True,
    derive=derive,
    resources=resources,
    plan=plan,
    default=default,
    seeds=seeds,
    min_cc=75,
)
