"""What the mma.sync families share: tiles in shared memory, how they are copied and read, a config's resources.

Every mma.sync instruction used here multiplies 16 rows by 8 columns over 32 bytes of K, so layouts are counted in
bytes: a *chunk* is 16 bytes, a *k block* two chunks. ``parts/mma`` renders from these objects; a family brings its own
loaders (a struct with ``copy(tile)``, or ``fetch()`` and ``store(tile)``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....cuda.device import Device
from ....plan.size import divisor
from ....space.knob import Knob
from ....workload import FP8, ITEMSIZE
from .. import knobs
from ..common import ceil_div

CHUNK = 16
KNOBS = (
    Knob("block_m", (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256), "rows of the output tile of a block"),
    Knob("block_n", (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256), "columns of the output tile of a block"),
    Knob("block_k", (16, 32, 64, 128, 256), "elements of K in a stage"),
    Knob("warp_m", (16, 32, 48, 64, 80, 96, 128), "rows of the output tile of a warp"),
    Knob("warp_n", (16, 32, 48, 64, 80, 96, 128), "columns of the output tile of a warp"),
    Knob("slice_k", (1, 2, 4), "warps that share an output tile, each with its part of every stage's K"),
    knobs.STAGES,
    Knob(
        "shared_layout",
        ("xor", "pad"),
        "how shared rows avoid bank conflicts: an XOR of 16-byte chunks, or padding",
        ordinal=False,
    ),
    Knob(
        "fragment_buffers",
        (1, 2),
        "register copies of the operands of a k block: with 2, the next is loaded while one is multiplied",
    ),
    Knob(
        "mma_order",
        ("rows", "serpentine"),
        "order of a warp's instructions: serpentine uses the operand read last again",
        ordinal=False,
    ),
    Knob("copy_bytes", (4, 8, 16), "widest asynchronous copy to shared memory, bytes"),
    Knob("prefetch_bytes", (0, 64, 128, 256), "L2 prefetch hint on the copies, bytes (0: none)"),
    Knob(
        "copy_schedule",
        ("together", "spread"),
        "when the copies of a coming k tile start: all in the first k block, or shared out over all of them from the "
        "barrier on, so that no fragment queues behind them",
        ordinal=False,
    ),
    knobs.RASTER_GROUP,
    knobs.RASTER_ALONG,
    knobs.GRID,
    knobs.SPLIT_K,
    knobs.REDUCTION,
    knobs.EPILOGUE_STORE,
    knobs.MIN_BLOCKS,
    Knob(
        "arithmetic",
        ("strict", "fp16_accumulate", "tf32", "tf32x3"),
        "which permission of the workload is used",
        ordinal=False,
    ),
)
BASE_REGISTERS = 44
"""Registers for addresses, counters and the epilogue, on top of accumulators, fragments and staging."""
STAGING_REGISTERS = 16
"""Registers of a thread that may hold data on its way to shared memory."""
INSTRUCTION = {
    "float16": ("m16n8k16", "f16"),
    "bfloat16": ("m16n8k16", "bf16"),
    "float32": ("m16n8k8", "tf32"),
    "int8": ("m16n8k32", "s8"),
    "float8_e4m3": ("m16n8k32", "e4m3"),
    "float8_e5m2": ("m16n8k32", "e5m2"),
}
"""Shape and PTX type of the instruction for each dtype."""


@dataclass(frozen=True)
class Operand:
    """One operand's tile of a stage: where its bytes lie in shared memory and how they get there.

    ``major`` k: shared rows are rows of A (columns of B), each ``block_k`` long; mn: shared rows are single k.
    ``copy``: bytes of one asynchronous copy, 0 when the tile goes through registers. ``transposes``: the registers also
    turn k-rows into mn-rows (8-bit data that is contiguous along m or n; no instruction reads it so). ``spread``: the
    copies of a tile start in several calls, each of which starts its part.
    """

    name: str
    extent: int
    block_k: int
    itemsize: int
    major: str
    layout: str
    copy: int
    transposes: bool = False
    spread: bool = False

    @property
    def rows(self) -> int:
        """Rows of the tile in shared memory."""
        return self.extent if self.major == "k" else self.block_k

    @property
    def columns(self) -> int:
        """Elements of a shared row."""
        return self.block_k if self.major == "k" else self.extent

    @property
    def chunks(self) -> int:
        """16-byte chunks of a shared row, padding not counted."""
        return self.columns * self.itemsize // CHUNK

    @property
    def words(self) -> bool:
        """Whether fragments are read word by word (32-bit data along m or n) rather than by ldmatrix."""
        return self.major == "mn" and self.itemsize == 4

    @property
    def pitch(self) -> int:
        """Bytes from one shared row to the next."""
        return CHUNK * (self.chunks + (0 if self.layout == "xor" else 2 if self.words else 1))

    @property
    def bytes(self) -> int:
        """Bytes of the tile in one stage."""
        return self.rows * self.pitch

    @property
    def group(self) -> int:
        """Chunks that the XOR permutes among themselves (1: it does nothing)."""
        return math.gcd(self.chunks, 8) if self.layout == "xor" else 1

    @property
    def period(self) -> int:
        """Rows that start in different banks by themselves; the XOR changes every ``period`` rows."""
        return 8 // self.group

    @property
    def flip_step(self) -> int:
        """What the XOR grows by: word reads span two chunks, so they flip pairs of chunks."""
        return 2 if self.words else 1

    @property
    def flips(self) -> bool:
        """Whether chunk numbers are changed by an XOR that depends on the shared row."""
        return self.group > 1

    def staging_registers(self, threads: int) -> int:
        """Registers per thread that hold a tile on its way through registers."""
        return 0 if self.copy else 4 * ceil_div(self.rows * self.chunks, threads)


def operand(name: str, extent: int, c: Mapping[str, Any], w: Any, row: int, k_major: bool = True) -> Operand:
    """The tile of a matrix whose rows in memory are ``row`` elements apart (0: single elements, nothing is copied)."""
    size = ITEMSIZE[w.dtype]
    width, turned = copy_width(c["copy_bytes"], row * size, w.alignment), not k_major and size == 1
    copy = width if row and width >= 4 and not turned else 0
    major, spread = "k" if k_major or turned else "mn", c.get("copy_schedule") == "spread"
    return Operand(name, extent, c["block_k"], size, major, c["shared_layout"], copy, turned, spread)


@dataclass(frozen=True)
class Shape:
    """What a config means for a warp and a thread, the same for every family.

    ``tile_threads``: threads that hold the output tile after the K slices are added. ``mmas_m``, ``mmas_n``,
    ``k_blocks``: instructions of a warp along m and n, and along K in a stage. ``accumulators``, ``fragments``: 32-bit
    registers of a thread. ``slab_rows``, ``slab_pitch``: rows of the staged epilogue's slab, one instruction's 16 for
    every warp along m, and sums from one to the next.
    """

    dtype: str
    promote: bool
    warps_m: int
    warps_n: int
    threads: int
    tile_threads: int
    mmas_m: int
    mmas_n: int
    k_blocks: int
    accumulators: int
    fragments: int
    slab_pitch: int
    slab_rows: int

    @classmethod
    def of(cls, c: Mapping[str, Any], dtype: str, promote: bool) -> Shape:
        """The shape of a config; ``promote`` as :func:`promotes` says."""
        warps_m, warps_n = c["block_m"] // c["warp_m"], c["block_n"] // c["warp_n"]
        mmas_m, mmas_n = c["warp_m"] // 16, c["warp_n"] // 8
        sums = mmas_m * mmas_n * (2 if c["arithmetic"] == "fp16_accumulate" else 4)
        operands = (mmas_m * 4 + mmas_n * 2) * (2 if c["arithmetic"] == "tf32x3" else 1)
        return cls(
            dtype,
            promote,
            warps_m,
            warps_n,
            threads=32 * warps_m * warps_n * c["slice_k"],
            tile_threads=32 * warps_m * warps_n,
            mmas_m=mmas_m,
            mmas_n=mmas_n,
            k_blocks=c["block_k"] * ITEMSIZE[dtype] // 32 // c["slice_k"],
            accumulators=sums * (2 if promote else 1),
            fragments=operands * c["fragment_buffers"],
            slab_pitch=_slab_pitch(c),
            slab_rows=16 * warps_m,
        )

    def registers(self, staged: bool, device: Device, state: int = 0) -> int:
        """About what ptxas uses of a thread. ``staged``: data goes through registers; ``state``: what loaders keep."""
        fragments = self.fragments
        if self.dtype in FP8 and not native_fp8(self.dtype, device):
            fragments += 6 * (self.mmas_m * 4 + self.mmas_n * 2)  # converted to float16, many at a time
        return self.accumulators + fragments + (STAGING_REGISTERS if staged else 0) + state + BASE_REGISTERS


@dataclass(frozen=True)
class Problem:
    """The matrix product behind an operation: ``batch`` products of (m, k) by (k, n)."""

    m: int
    n: int
    k: int
    batch: int

    def tiles(self, config: Mapping[str, Any]) -> tuple[int, int]:
        return ceil_div(self.m, config["block_m"]), ceil_div(self.n, config["block_n"])

    def work_tiles(self, config: Mapping[str, Any]) -> int:
        """Output tiles of the whole batch."""
        return math.prod(self.tiles(config)) * self.batch

    def k_tiles(self, config: Mapping[str, Any]) -> int:
        """Stages that the whole of K takes."""
        return ceil_div(self.k, config["block_k"])


def ring_bytes(stages: int, a: Operand, b: Operand) -> int:
    """Shared bytes of the stages; the last row's padding is not needed."""
    return stages * (a.bytes + b.bytes) - (b.pitch - CHUNK * b.chunks)


def slice_bytes(config: Mapping[str, Any]) -> int:
    """Shared bytes through which the K slices of a tile are added."""
    return int(config["block_m"] * config["block_n"] * 4)


def _slab_pitch(config: Mapping[str, Any]) -> int:
    return int(config["block_n"]) + 8  # the 8 more keep rows in different banks


def slab_bytes(config: Mapping[str, Any]) -> int:
    """Shared bytes of the staged epilogue: 16 rows for every warp along m, without what follows the last."""
    rows = 16 * config["block_m"] // config["warp_m"]
    return int((rows - 1) * _slab_pitch(config) + config["block_n"]) * 4


def shared_bytes(config: Mapping[str, Any], a: Operand, b: Operand) -> int:
    """Dynamic shared memory: the ring of stages, which slices and staged epilogue use again."""
    slices = slice_bytes(config) if config["slice_k"] > 1 else 0
    slab = slab_bytes(config) if config["epilogue_store"] == "staged" and not two_kernels(config) else 0
    return max(ring_bytes(config["stages"], a, b), slices, slab)


def resident_blocks(config: Mapping[str, Any], device: Device) -> int:
    """Blocks that surely run at once: what a grid of blocks that walk over several tiles has at most."""
    return int(knobs.used_sms(config["grid"], device) * max(1, config["min_blocks"]))


def tail_tiles(config: Mapping[str, Any], problem: Problem, device: Device) -> Any:
    """Of grid "split_tail", the output tiles beyond whole waves, whose K is split; 0 of another grid.

    A hybrid of data-parallel tiles and a split K. That of stream-K (Osama et al. 2023, "Stream-K: Work-centric Parallel
    Decomposition for Dense GEMM on the GPU") gives every block as many k tiles; here parts are alike, so that blocks
    walk along K together and find in L2 what others have read.
    """
    return problem.work_tiles(config) % resident_blocks(config, device) if config["grid"] == "split_tail" else 0


def persistent(config: Mapping[str, Any]) -> bool:
    """Whether a block walks over several tiles."""
    return bool(config["grid"] != "one_per_tile")


def two_kernels(config: Mapping[str, Any]) -> bool:
    """Whether a second kernel adds the parts of a split K."""
    return config["split_k"] > 1 and config["reduction"] == "workspace"


def multiplies(w: Any, device: Device) -> bool | str:
    """True, or why the tensor cores of ``device`` do not multiply the data of ``w``."""
    if w.dtype == "float32" and not {"tf32", "tf32x3"} & set(w.math):
        return "computes float32 data only as TF32 or 3xTF32, and math permits neither 'tf32' nor 'tf32x3'"
    if w.dtype in FP8 and device.cc < 89:
        return f"needs compute capability 8.9 for float8, {device.name} has {device.cc / 10:.1f}"
    return True


def native_fp8(dtype: str, device: Device) -> bool:
    """Whether mma.sync on 8-bit floats is its own instruction; on 9.0 and 10.x it becomes two float16 ones."""
    return dtype in FP8 and (device.cc == 89 or device.cc >= 120)


def promotes(workload: Any, device: Device) -> bool:
    """Whether sums are moved to a second set of float32 accumulators every 128 elements of K.

    Block scales demand it. So does strict float32 accumulation where float8 instructions keep fewer bits than float32.
    """
    return workload.scales == "block128" or (
        native_fp8(workload.dtype, device) and "fast_accumulate" not in workload.math
    )


def copy_width(limit: int, stride_bytes: int, alignment: int) -> int:
    """Widest copy (16, 8, 4, 2 or 1 bytes, at most ``limit``) when rows start at multiples of ``stride_bytes``."""
    return math.gcd(limit, divisor(stride_bytes), alignment, 16)
