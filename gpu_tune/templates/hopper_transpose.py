"""Operands that wgmma does not take as they lie: transposed into the workspace before the product.

wgmma reads 16-bit operands contiguous along k, m or n, all others along k alone (PTX ISA, wgmma.mma_async: the
transpose bits exist for 16-bit types). For those, the plan begins with a copy of the operand in rows of k. It reads and
writes the operand once, and its time is part of the plan's.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import BufferArg, KernelStep
from ..workload import ITEMSIZE, Matmul

ALIGNMENT = 256


@dataclass(frozen=True)
class Transposed:
    """Matrix ``name``, [batch][k][ld] as given; the workspace gets [batch][rows][out_ld] at ``offset`` bytes."""

    name: str
    rows: int
    k: int
    batch: int
    ld: int
    itemsize: int
    offset: int
    tile: int = 64
    threads: int = 256

    @property
    def pad(self) -> int:
        """Elements beside a row of a tile in shared memory."""
        return 4 // self.itemsize

    @property
    def out_ld(self) -> int:
        """Elements from row to row of the copy: k, rounded up to 16 bytes."""
        return -(-self.k * self.itemsize // 16) * 16 // self.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of the copy."""
        return self.batch * self.rows * self.out_ld * self.itemsize

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return self.tile * (self.tile + self.pad) * self.itemsize

    def step(self) -> KernelStep:
        """The launch that makes the copy."""
        blocks = -(-self.rows // self.tile) * -(-self.k // self.tile) * self.batch
        args = (BufferArg(self.name), BufferArg("workspace", self.offset))
        return KernelStep(f"transpose_{self.name}", (blocks, 1, 1), (self.threads, 1, 1), args)


def transposed(w: Matmul, start: int = 0) -> dict[str, Transposed]:
    """The copies that ``w`` needs, in the workspace from byte ``start`` on."""
    found: dict[str, Transposed] = {}
    for name, rows, ld, wrong in (("a", w.m, w.lda, w.layout[0] == "t"), ("b", w.n, w.ldb, w.layout[1] == "n")):
        if wrong and ITEMSIZE[w.dtype] != 2:
            start = -(-start // ALIGNMENT) * ALIGNMENT
            found[name] = Transposed(name, rows, w.k, w.batch, ld, ITEMSIZE[w.dtype], start)
            start += found[name].bytes
    return found


def end(w: Matmul, start: int) -> int:
    """Bytes of a workspace whose first ``start`` bytes others use."""
    return max([start, *(t.offset + t.bytes for t in transposed(w, start).values())])
