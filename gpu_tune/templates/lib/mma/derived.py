"""How a tile of gathered pixels gets to shared memory; ``parts/image_tile.cuh.j2`` renders it."""

from __future__ import annotations

from dataclasses import dataclass

from ....workload import Conv2d
from .tiles import CHUNK, Operand


class Vectors:
    """The pieces in which an ``operand`` moves, of matrices and of images."""

    operand: Operand

    @property
    def vector(self) -> int:
        """Bytes that move at once."""
        return self.operand.copy or CHUNK

    @property
    def elements(self) -> int:
        """Elements of a vector."""
        return self.vector // self.operand.itemsize

    @property
    def vectors_per_chunk(self) -> int:
        """Vectors of a 16-byte chunk."""
        return CHUNK // self.vector


@dataclass(frozen=True)
class Loader(Vectors):
    """How a matrix operand's tile is copied: every thread moves ``count`` vectors.

    ``stride``: bytes between rows in memory. ``row_limit``, ``column_limit``: the matrix's rows and elements of a row.
    """

    operand: Operand
    threads: int
    stride: int
    row_limit: int
    column_limit: int
    words: bool
    description: str

    @property
    def gathers(self) -> bool:
        """Whether it reads single elements."""
        return not self.operand.copy and not (self.operand.transposes and self.words)

    @property
    def vectors(self) -> int:
        """Vectors of a tile row."""
        return self.operand.columns * self.operand.itemsize // self.vector

    @property
    def total(self) -> int:
        """Vectors (or 4 x 4 squares, when the tile is transposed) of a tile."""
        if self.operand.transposes:
            return self.operand.extent * self.operand.block_k // 16
        return self.operand.rows * self.vectors

    @property
    def count(self) -> int:
        """Vectors of a thread."""
        return -(-self.total // self.threads)

    @property
    def ragged(self) -> bool:
        """Whether some threads have one vector less."""
        return self.total % self.threads != 0

    @property
    def regular(self) -> bool:
        """Whether a thread's vectors lie below each other, ``step`` rows apart."""
        return self.threads % self.vectors == 0

    @property
    def step(self) -> int:
        """Rows between a thread's vectors."""
        return self.threads // self.vectors

    @property
    def steady(self) -> bool:
        """Whether the XOR is the same for all of a thread's vectors."""
        return not self.operand.flip("r") or self.step % 8 == 0

    @property
    def thread_row(self) -> str:
        """C expression of a thread's first row."""
        return "threadIdx.x" if self.vectors == 1 else f"threadIdx.x / {self.vectors}"

    @property
    def thread_vector(self) -> str:
        """C expression of a thread's vector in its rows."""
        return f"threadIdx.x % {self.vectors}"

    @property
    def advance(self) -> str:
        """What the next k tile moves along: rows or columns of the matrix."""
        return "columns" if self.operand.major == "k" and not self.operand.transposes else "rows"

    @property
    def _tile(self) -> tuple[int, int]:
        op = self.operand
        return (op.block_k, op.extent) if op.transposes else (op.rows, op.columns)

    @property
    def guard_rows(self) -> bool:
        """Whether a tile may reach past the matrix's last row."""
        return self.row_limit % self._tile[0] != 0

    @property
    def guard_columns(self) -> bool:
        """Whether a tile may reach past the end of a row."""
        return self.column_limit % self._tile[1] != 0

    def row_step(self, rows: int) -> str:
        """C constant: bytes from a row to the one ``rows`` below."""
        size = rows * self.stride
        return f"{size}LL" if size * max(self.count, 1) >= 2**31 else str(size)


@dataclass(frozen=True)
class ImageLoader(Vectors):
    """How a tile of gathered pixels gets to shared memory: rows are pixels, k runs along a row.

    Copied: a thread copies vectors of one place in k for ``count`` pixels. Through registers: neighbouring threads take
    neighbouring pixels, each thread ``chunk_count`` chunks of ``pixels`` pixels.
    """

    operand: Operand
    threads: int
    workload: Conv2d
    iterator: str
    k_tiles: int
    words: bool = False

    @property
    def gathers(self) -> bool:
        """Whether it reads through the matrix loaders' gather function (it has its own)."""
        return False

    @property
    def channels(self) -> int:
        """Channels of a group."""
        return self.workload.c // self.workload.groups

    @property
    def vectors(self) -> int:
        """Vectors of a tile row."""
        return self.operand.block_k // self.elements

    @property
    def step(self) -> int:
        """Pixels between a thread's vectors (copies)."""
        return self.threads // self.vectors

    @property
    def count(self) -> int:
        """Pixels of a thread (copies)."""
        return -(-self.operand.extent // self.step)

    @property
    def ragged(self) -> bool:
        """Whether some threads have one pixel less."""
        return self.operand.extent % self.step != 0

    @property
    def steady(self) -> bool:
        """Whether the XOR is the same for all of a thread's pixels."""
        return not self.operand.flip("r") or self.step % 8 == 0

    @property
    def pixels(self) -> int:
        """Pixels of a thread (through registers)."""
        return max(1, self.operand.extent // self.threads)

    @property
    def apart(self) -> int:
        """Chunks between a thread's chunks (through registers)."""
        return max(1, self.threads // self.operand.extent)

    @property
    def chunk_count(self) -> int:
        """Chunks of each of a thread's pixels (through registers)."""
        return -(-self.operand.chunks // self.apart)

    @property
    def ragged_chunks(self) -> bool:
        """Whether some threads have one chunk less."""
        return self.operand.chunks % self.apart != 0

    @property
    def total_pixels(self) -> int:
        """Pixels of the whole output."""
        w = self.workload
        return w.n * w.p * w.q

    @property
    def guard_rows(self) -> bool:
        """Whether a tile may reach past the last pixel."""
        return self.total_pixels % self.operand.extent != 0

    @property
    def guard_k(self) -> bool:
        """Whether a tile may reach past the last k."""
        return self.reduction % self.operand.block_k != 0

    @property
    def padded(self) -> bool:
        """Whether taps may lie outside the image."""
        return any(self.workload.padding)

    @property
    def checked(self) -> bool:
        """Whether a tap's row and column are compared with the image."""
        return self.padded or self.guard_rows

    @property
    def reduction(self) -> int:
        """k of the product."""
        return self.channels * self.workload.r * self.workload.s

    @property
    def nhwc(self) -> bool:
        """Whether channels are innermost."""
        return self.workload.layout == "nhwc"

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Elements between images, rows, columns and channels of x."""
        w = self.workload
        return (w.h * w.w * w.c, w.w * w.c, w.c, 1) if self.nhwc else (w.c * w.h * w.w, w.w, 1, w.h * w.w)

    @property
    def wide(self) -> bool:
        """Whether offsets in x need 64 bits (the corner of a padded image may lie before or behind it)."""
        w = self.workload
        border = (max(w.padding) + w.dilation[0] * w.r + w.dilation[1] * w.s) * max(self.strides[1:])
        return w.n * self.strides[0] + border >= 2**31

    @property
    def group_stride(self) -> int:
        """Elements of x from one group's channels to the next's."""
        return self.channels * self.strides[3]

    def tap(self, k: int) -> tuple[int, int, int]:
        """(r, s, c) of a k."""
        w = self.workload
        if self.nhwc:
            return k // (w.s * self.channels), k // self.channels % w.s, k % self.channels
        return k // w.s % w.r, k % w.s, k // (w.r * w.s)

    def table(self) -> list[tuple[int, int, int]]:
        """(offset in x, row, column) of every tap, relative to a pixel's first; rows past k lie outside any image."""
        w, (_, row, column, channel) = self.workload, self.strides
        found = []
        for k in range(self.k_tiles * self.operand.block_k):
            r, s, c = self.tap(k)
            y, x = r * w.dilation[0], s * w.dilation[1]
            found.append((y * row + x * column + c * channel, y, x) if k < self.reduction else (0, 1 << 25, 0))
        return found
