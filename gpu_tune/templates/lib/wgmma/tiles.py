"""What the wgmma families (sm_90a) share: what a config means in tiles, bytes and registers.

Terms. *left* and *right* are the operands of a wgmma: it multiplies 64 rows of left by ``n`` rows of right, both read
from shared memory. ``left`` is matrix A, or B when the product is transposed (``swap_ab``: a short m makes a narrow
right operand). A *k tile* is ``block_k`` elements of K of both operands; it fills one *stage* of the ring. A *k block*
is the K of one instruction. Rows in shared memory are as long as the swizzle is wide. A *work tile* is one tile of the
output (of one matrix of the batch, over one part of K). Sizes and limits follow the PTX ISA (wgmma,
cp.async.bulk.tensor, setmaxnreg) and the driver's cuTensorMapEncodeTiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ....cuda.device import Device
from ....space.knob import Knob
from ....workload import FP8, ITEMSIZE
from .. import knobs
from ..common import ceil_div

ROWS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 256)
COLUMNS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)
KNOBS = (
    Knob("block_m", ROWS, "rows of the output tile (of a consumer with pingpong, of the block otherwise)"),
    Knob("block_n", COLUMNS, "columns of the output tile, of a consumer or the block as block_m"),
    Knob("block_k", (32, 64, 128, 256), "elements of K in a stage"),
    Knob("consumers", (1, 2, 3), "warpgroups that multiply; one more feeds them"),
    Knob(
        "schedule",
        ("cooperative", "pingpong"),
        "consumers share one tile, or each has its own and one stores while the other multiplies",
        ordinal=False,
    ),
    knobs.STAGES,
    Knob("cluster_m", (1, 2, 4), "blocks of a cluster along m; they share every tile of B"),
    Knob("cluster_n", (1, 2, 4), "blocks of a cluster along n; they share every tile of A"),
    Knob(
        "producer_registers",
        (0, 40, 56),
        "registers a producer thread keeps by setmaxnreg; the consumers take the rest (0: none move)",
    ),
    knobs.EPILOGUE_STORE,
    knobs.RASTER_GROUP,
    knobs.GRID,
    knobs.SPLIT_K,
    knobs.REDUCTION,
    Knob(
        "swap_ab", (False, True), "compute the transposed product, so that a short m is the narrow side", ordinal=False
    ),
    knobs.MIN_BLOCKS,
    Knob(
        "l2_keep",
        ("both", "a", "b"),
        "operand that L2 keeps while the other passes through (both: no hint)",
        ordinal=False,
    ),
)
SWIZZLE_BYTES = 128
"""Bytes of a swizzled shared row of a K-major operand; a box of the copy engine is at most this wide."""
_TYPES = {
    "bfloat16": ("f32.bf16.bf16", 16),
    "float16": ("f32.f16.f16", 16),
    "float32": ("f32.tf32.tf32", 8),
    "float8_e4m3": ("f32.e4m3.e4m3", 32),
    "float8_e5m2": ("f32.e5m2.e5m2", 32),
    "int8": ("s32.s8.s8", 32),
}
MAP_DTYPE = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float32": "tfloat32",
    "float8_e4m3": "uint8",
    "float8_e5m2": "uint8",
    "int8": "uint8",
}
OUT_MAP_DTYPE = {**MAP_DTYPE, "float32": "float32", "int32": "int32"}
_SWIZZLE_CODE = {128: 1, 64: 2, 32: 3}
MIN_REGISTERS, MAX_REGISTERS = 24, 240
GPCS = 8
"""Processor clusters of a GH100, the one chip of compute capability 9.0. A cluster of blocks lives in one of them.

Which SMs of a GPC are disabled (always by twos) differs from board to board, and with it how many clusters of four run
at once. The driver reports it for a board (cuOccupancyMaxActiveClusters), but a launch plan is for every board of the
chip. So the persistent grid "co_resident" assumes the worst: that every GPC has two SMs left over.
"""
INSTRUCTION_REGISTERS = 26
"""Registers that ptxas wants beside the accumulators of one wgmma (error C7602 names the sum)."""


@dataclass(frozen=True)
class Problem:
    """The product behind an operation: ``m`` x ``n`` results over ``k_tiles(config)`` k tiles, ``batch`` times.

    ``ldc``: elements from row to row of the output.
    """

    m: int
    n: int
    batch: int
    ldc: int
    k_tiles: Callable[[Mapping[str, Any]], int]


@dataclass(frozen=True)
class Operand:
    """A matrix's tile in a stage: ``rows`` of m or n by ``block_k``. ``share``: blocks of the cluster that share it.

    K-major: boxes are one swizzle of K wide and ``rows / share`` high. MN-major (contiguous along m or n): boxes are
    one swizzle of m or n wide and ``block_k / share`` high. ``bytes``: of the tile. ``swizzle_bytes``: of a shared row.
    ``boxes``: box columns of the tile, ``box_inner`` elements wide and ``box_stride`` bytes apart.
    ``slice_rows``, ``slice_bytes``: of one box, this block's slice. ``descriptor``: all but its address. Its steps, in
    units of 16 bytes: ``k_block_step`` of one wgmma along K, ``k_blocks_per_swizzle`` of them before the address jumps
    by ``swizzle_step`` to another box column (K-major), and ``block_step`` of 64 rows.
    """

    name: str
    itemsize: int
    mn_major: bool
    share: int
    bytes: int
    swizzle_bytes: int
    box_inner: int
    boxes: int
    box_stride: int
    slice_rows: int
    slice_bytes: int
    descriptor: int
    k_blocks_per_swizzle: int
    k_block_step: int
    swizzle_step: int
    block_step: int


def operand(name: str, c: Mapping[str, Any], dtype: str, mn_major: bool) -> Operand:
    """Matrix ``a`` or ``b`` of a config."""
    rows, share = (c["block_m"], c["cluster_n"]) if name == "a" else (c["block_n"], c["cluster_m"])
    size, instruction_k = ITEMSIZE[dtype], instruction(dtype)[1]
    swizzle_bytes = next(s for s in (128, 64, 32) if rows * size % s == 0) if mn_major else SWIZZLE_BYTES
    inner = swizzle_bytes // size
    boxes, box_rows = (rows // inner, c["block_k"]) if mn_major else (c["block_k"] // inner, rows)
    box_stride = box_rows * swizzle_bytes
    leading, stride = (box_stride // 16, 8 * swizzle_bytes // 16) if mn_major else (1, 8 * SWIZZLE_BYTES // 16)
    return Operand(
        name,
        size,
        mn_major,
        share,
        bytes=rows * c["block_k"] * size,
        swizzle_bytes=swizzle_bytes,
        box_inner=inner,
        boxes=boxes,
        box_stride=box_stride,
        slice_rows=box_rows // share,
        slice_bytes=box_rows // share * swizzle_bytes,
        descriptor=leading % 2**14 << 16 | stride << 32 | _SWIZZLE_CODE[swizzle_bytes] << 62,
        k_blocks_per_swizzle=1 << 30 if mn_major else SWIZZLE_BYTES // (instruction_k * size),
        k_block_step=instruction_k * (swizzle_bytes if mn_major else size) // 16,
        swizzle_step=box_stride // 16,
        block_step=(64 * size // swizzle_bytes * box_stride if mn_major else 64 * SWIZZLE_BYTES) // 16,
    )


def narrow_sizes(dtype: str) -> frozenset[int]:
    """The n that a wgmma of this dtype takes (PTX ISA): multiples of 8 to 256, for int8 only 8, 24 and those of 16."""
    every = range(8, 257, 8)
    return frozenset(n for n in every if dtype != "int8" or n % 16 == 0 or n in (8, 24))


def instruction(dtype: str) -> tuple[str, int]:
    """PTX types and K of a wgmma for this dtype."""
    return _TYPES[dtype]


def right_rows(c: Mapping[str, Any]) -> int:
    """Rows of the right operand's tile: the n of the wgmma."""
    return int(c["block_m"] if c["swap_ab"] else c["block_n"])


def blocks_of_64(c: Mapping[str, Any]) -> int:
    """wgmmas along the left operand that one consumer issues for each step of K (0: the tile does not divide)."""
    rows, share = (
        c["block_n" if c["swap_ab"] else "block_m"],
        64 * (1 if c["schedule"] == "pingpong" else c["consumers"]),
    )
    return int(rows // share) if rows % share == 0 else 0


def launch_registers(consumers: int, min_blocks: int, device: Device) -> int:
    """Registers per thread that the block starts with: what ``__launch_bounds__`` leaves, in steps of 8.

    ptxas starts a kernel with no more than its largest setmaxnreg, which is MAX_REGISTERS here.
    """
    threads = 128 * (consumers + 1) * max(1, min_blocks)
    return min(device.registers_per_sm // threads, device.registers_per_thread, MAX_REGISTERS) // 8 * 8


def consumer_registers(c: Mapping[str, Any], device: Device) -> int:
    """Registers of a consumer thread: what the producer gives up, shared out.

    setmaxnreg blocks until the registers are free, so producer + consumers x this may not exceed (consumers + 1) x the
    registers at launch; a multiple of 8.
    """
    at_launch = launch_registers(c["consumers"], c["min_blocks"], device)
    if not c["producer_registers"]:
        return at_launch
    free = (c["consumers"] + 1) * at_launch - c["producer_registers"]
    return int(min(free // c["consumers"] // 8 * 8, MAX_REGISTERS))


PROMOTED_K = 128
"""Elements of K that fp8 tensor cores sum before float32 registers take over, as the strict modes of vendor libraries
do: more would cost bits that a workload without ``fast_accumulate`` did not permit."""


def promotes(workload: Any) -> bool:
    """Whether sums leave the tensor cores for float32 registers on the way: strict fp8, or scales per block of K."""
    return workload.dtype in FP8 and ("fast_accumulate" not in workload.math or workload.scales == "block128")


def accumulators(c: Mapping[str, Any], promoted: bool) -> int:
    """Accumulator registers of a consumer thread; promoted sums are held twice."""
    return blocks_of_64(c) * right_rows(c) // 2 * (2 if promoted else 1)


def out_itemsize(c: Mapping[str, Any], workload: Any) -> int:
    """Bytes of an element that the main kernel stores: a result, or a part of one."""
    return 4 if parts(c) > 1 else ITEMSIZE[workload.out_dtype]


def box_bytes(c: Mapping[str, Any], out_bytes: int) -> int:
    """Width of a stored box in bytes, which is also its swizzle (0: no legal width)."""
    wide = (64 if c["swap_ab"] else right_rows(c)) * out_bytes
    widths = (64, 32) if c["epilogue_store"] == "staged_narrow" else (128, 64, 32)
    return next((b for b in widths if wide % b == 0), 0)


def out_boxes(c: Mapping[str, Any], out_bytes: int) -> int:
    """Boxes that a consumer stores for a tile: 64 rows each (transposed: all rows, 64 columns or a part of them)."""
    columns = 64 if c["swap_ab"] else right_rows(c)
    return blocks_of_64(c) * columns * out_bytes // box_bytes(c, out_bytes)


def buffers(c: Mapping[str, Any], out_bytes: int) -> int:
    """Staged boxes of a consumer that exist at once."""
    boxes = out_boxes(c, out_bytes)
    return boxes if c["epilogue_store"] == "staged_tile" else min(2, boxes)


def shares_boxes(c: Mapping[str, Any]) -> bool:
    """Whether the consumers of a pingpong stage their results in the same boxes, one after the other."""
    return bool(c["epilogue_store"] == "staged_shared")


def box_owners(c: Mapping[str, Any]) -> int:
    """Sets of staged boxes of a block."""
    return 1 if shares_boxes(c) else int(c["consumers"])


def staging_bytes(c: Mapping[str, Any], out_bytes: int) -> int:
    """Shared bytes of the staged boxes, each consumer's own or those that they share."""
    if c["epilogue_store"] == "direct" or not box_bytes(c, out_bytes):
        return 0
    rows = right_rows(c) if c["swap_ab"] else 64
    return int(box_owners(c) * buffers(c, out_bytes) * rows * box_bytes(c, out_bytes))


def shared_bytes(c: Mapping[str, Any], itemsize: int, out_bytes: int) -> int:
    """Dynamic shared memory of a block."""
    ring = c["stages"] * (c["block_m"] + c["block_n"]) * c["block_k"] * itemsize
    # full and empty for every stage, and pingpong's turns: to multiply and, where boxes are shared, to store
    barriers = 16 * (c["stages"] + (c["schedule"] == "pingpong") + shares_boxes(c))
    return int(ring + barriers) + staging_bytes(c, out_bytes)


def sums_in_cluster(c: Mapping[str, Any]) -> bool:
    """Whether the blocks of a cluster each multiply a part of K and sum the parts among themselves."""
    return bool(c["split_k"] > 1 and c["reduction"] == "cluster")


def parts(c: Mapping[str, Any]) -> int:
    """Outputs of the main kernel for each result: the parts of a K that a second kernel sums, else 1."""
    return 1 if sums_in_cluster(c) else int(c["split_k"])


def cluster_size(c: Mapping[str, Any]) -> int:
    return int(c["cluster_m"] * c["cluster_n"] * (c["split_k"] if sums_in_cluster(c) else 1))


def part_pad(c: Mapping[str, Any]) -> int:
    """Elements beside a row of a part in shared memory."""
    return 4 if c["swap_ab"] else 8


def clusters(c: Mapping[str, Any], work_tiles: int, device: Device) -> int:
    """Clusters to launch for ``work_tiles`` of a cluster's size."""
    size = cluster_size(c)
    sms = knobs.used_sms(c["grid"], device)
    if c["grid"] == "co_resident":
        sms -= GPCS * max(0, size - 2)
    places = max(1, sms * c["min_blocks"] // size)
    if c["schedule"] == "pingpong":
        work_tiles = ceil_div(work_tiles, 2)  # two work tiles keep a block's two consumers busy
    found: int = knobs.blocks(c["grid"], work_tiles, places)
    return found
