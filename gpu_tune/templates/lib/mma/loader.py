"""How the mma.sync families copy an operand's tile to shared memory: of a matrix, or of an image's gathered pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....plan.size import open_size, upper
from ....workload import Conv2d
from ..common import ceil_div
from .tiles import CHUNK, Operand, copy_width


@dataclass(frozen=True)
class Loader:
    """How a matrix operand's tile is copied: every thread moves ``count`` of its ``total`` vectors.

    ``size``: the name of the open size that the matrix has, if any. ``stride``: bytes between rows in memory.
    ``row_limit``, ``column_limit``: the matrix's rows and elements of a row.
    ``words``: rows may be read in 32-bit words; ``gathers``: single elements are read. ``vector``: bytes that move at
    once; ``elements`` of them; ``vectors`` of a tile row. Transposed tiles count 4 x 4 squares instead. ``ragged``:
    some threads have one less. ``regular``: a thread's vectors lie below each other, ``step`` rows apart; ``steady``:
    the XOR is the same for all of them.
    ``advance``: what the next k tile moves along, rows or columns of the matrix. ``guard_rows``, ``guard_columns``:
    a tile may reach past the matrix's last row, or past the end of a row.
    """

    operand: Operand
    threads: int
    size: str
    stride: int
    row_limit: int
    column_limit: int
    words: bool
    gathers: bool
    vector: int
    elements: int
    vectors_per_chunk: int
    vectors: int
    total: int
    count: int
    ragged: bool
    regular: bool
    step: int
    steady: bool
    advance: str
    guard_rows: bool
    guard_columns: bool


def loader(op: Operand, threads: int, w: Any, row: int, shape: tuple[int, int]) -> Loader:
    """The loader of a matrix of ``shape``, ``row`` elements from one of its rows to the next."""
    left = open_size(shape)
    words = copy_width(4, row * op.itemsize, w.alignment) == 4 and shape[1] % 4 == 0
    vector = op.copy or CHUNK
    vectors = op.columns * op.itemsize // vector
    total, tile, advance = op.rows * vectors, (op.rows, op.columns), "columns" if op.major == "k" else "rows"
    if op.transposes:
        total, tile, advance = op.extent * op.block_k // 16, (op.block_k, op.extent), "rows"
    step = threads // vectors
    return Loader(
        op,
        threads,
        left.name if left is not None else "",
        row * op.itemsize,
        *shape,
        words,
        gathers=not op.copy and not (op.transposes and words),
        vector=vector,
        elements=vector // op.itemsize,
        vectors_per_chunk=CHUNK // vector,
        vectors=vectors,
        total=total,
        count=ceil_div(total, threads),
        ragged=total % threads != 0,
        regular=threads % vectors == 0,
        step=step,
        steady=not op.flips or step % 8 == 0,
        advance=advance,
        guard_rows=shape[0] % tile[0] != 0,
        guard_columns=shape[1] % tile[1] != 0,
    )


@dataclass(frozen=True)
class Image:
    """The image behind an implicit matrix product: ``pixels`` output pixels by ``reduction`` taps (r, s, c).

    ``channels``: of a group, ``group_stride`` elements of x. ``strides``: elements between images, rows, columns and
    channels of x; ``wide``: such offsets need 64 bits (the corner of a padded image may lie before or behind it).
    ``size``: the name of the number of images where that is open.
    """

    workload: Conv2d
    nhwc: bool
    channels: int
    group_stride: int
    strides: tuple[int, int, int, int]
    wide: bool
    pixels: int
    reduction: int
    size: str

    def tap(self, k: int) -> tuple[int, int, int]:
        """(r, s, c) of a k."""
        w = self.workload
        if self.nhwc:
            return k // (w.s * self.channels), k // self.channels % w.s, k % self.channels
        return k // w.s % w.r, k % w.s, k // (w.r * w.s)

    def table(self, size: int) -> list[tuple[int, int, int]]:
        """(offset in x, row, column) of ``size`` taps from a pixel's first; taps past k lie outside any image."""
        w, (_, row, column, channel) = self.workload, self.strides
        found = []
        for k in range(size):
            r, s, c = self.tap(k)
            y, x = r * w.dilation[0], s * w.dilation[1]
            found.append((y * row + x * column + c * channel, y, x) if k < self.reduction else (0, 1 << 25, 0))
        return found


def image_of(w: Conv2d) -> Image:
    nhwc, channels = w.layout == "nhwc", w.c // w.groups
    strides = (w.h * w.w * w.c, w.w * w.c, w.c, 1) if nhwc else (w.c * w.h * w.w, w.w, 1, w.h * w.w)
    left = open_size(w.n)
    border = (max(w.padding) + w.dilation[0] * w.r + w.dilation[1] * w.s) * max(strides[1:])
    return Image(
        w,
        nhwc,
        channels,
        group_stride=channels * strides[3],
        strides=strides,
        wide=upper(w.n) * strides[0] + border >= 2**31,
        pixels=w.n * w.p * w.q,
        reduction=channels * w.r * w.s,
        size=left.name if left is not None else "",
    )


@dataclass(frozen=True)
class Vectors:
    """Pixels that are copied: a thread copies ``count`` vectors of one place in k, of pixels ``step`` apart.

    ``vector``: bytes of one, ``elements`` of them; ``vectors`` of a tile row. ``ragged``: some threads have one less;
    ``steady``: the XOR is the same for all of them.
    """

    vector: int
    elements: int
    vectors_per_chunk: int
    vectors: int
    step: int
    count: int
    ragged: bool
    steady: bool


def vectors(op: Operand, threads: int) -> Vectors:
    vector = op.copy or CHUNK
    elements = vector // op.itemsize
    row = op.block_k // elements
    step = threads // row
    return Vectors(
        vector,
        elements,
        vectors_per_chunk=CHUNK // vector,
        vectors=row,
        step=step,
        count=ceil_div(op.extent, step),
        ragged=op.extent % step != 0,
        steady=not op.flips or step % 8 == 0,
    )


@dataclass(frozen=True)
class Chunks:
    """Pixels that go through registers: neighbouring threads take neighbouring pixels, ``pixels`` of them each.

    A thread has ``count`` chunks of each pixel, ``apart`` chunks from one to the next; ``ragged``: some have one less.
    """

    pixels: int
    apart: int
    count: int
    ragged: bool


def chunks(op: Operand, threads: int) -> Chunks:
    apart = max(1, threads // op.extent)
    return Chunks(max(1, op.extent // threads), apart, ceil_div(op.chunks, apart), op.chunks % apart != 0)


@dataclass(frozen=True)
class ImageLoader:
    """How a tile of gathered pixels gets to shared memory: rows are pixels, k runs along a row.

    ``guard_rows``, ``guard_k``: a tile may reach past the last pixel, or the last k; ``checked``: a tap's row and
    column are compared with the image.
    """

    operand: Operand
    threads: int
    iterator: str
    k_tiles: int
    image: Image
    vectors: Vectors
    chunks: Chunks
    guard_rows: bool
    guard_k: bool
    gathers: bool = False
    words: bool = False

    @property
    def checked(self) -> bool:
        return any(self.image.workload.padding) or self.guard_rows

    @property
    def taps(self) -> list[tuple[int, int, int]]:
        """The table of all taps of the product, in whole k tiles."""
        return self.image.table(self.k_tiles * self.operand.block_k)


def image_loader(op: Operand, threads: int, w: Conv2d, iterator: str, k_tiles: int) -> ImageLoader:
    image = image_of(w)
    guard_rows, guard_k = image.pixels % op.extent != 0, image.reduction % op.block_k != 0
    parts = vectors(op, threads), chunks(op, threads)
    return ImageLoader(op, threads, iterator, k_tiles, image, *parts, guard_rows, guard_k)
