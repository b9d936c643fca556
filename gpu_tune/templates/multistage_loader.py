"""How a matrix operand's tile gets to shared memory; ``parts/tile.cuh.j2`` renders it."""

from __future__ import annotations

from dataclasses import dataclass

from .multistage import CHUNK, Operand


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
