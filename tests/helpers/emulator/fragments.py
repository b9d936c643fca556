"""Where matrix elements live in registers and shared memory, written from the PTX ISA's figures; NumPy only."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "f32": np.float32,
    "f64": np.float64,
    "s8": np.int8,
    "u8": np.uint8,
    "s32": np.int32,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


def integers(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Small integers that every sum holds exactly."""
    low = 0 if kind == "u8" else -3
    return rng.integers(low, 4, shape).astype(DTYPES[kind])


def pack_a(matrix: np.ndarray) -> np.ndarray:
    """(registers, 32) of an M x K operand of mma.sync (row): M is 8 or 16."""
    m, k = matrix.shape
    per = max(1, 4 // matrix.itemsize)
    rows = m // 8
    count = rows * k // (4 * per)
    out = np.zeros((count, 32, per), matrix.dtype)
    for r in range(count):
        for lane in range(32):
            g, t = divmod(lane, 4)
            row, column = g + 8 * (r % rows), t * per + 4 * per * (r // rows)
            out[r, lane] = matrix[row, column : column + per]
    return words(out)


def pack_b(matrix: np.ndarray) -> np.ndarray:
    """(registers, 32) of a K x 8 operand of mma.sync (column)."""
    return pack_a(np.ascontiguousarray(matrix.T))


def pack_c(matrix: np.ndarray) -> np.ndarray:
    """(registers, 32) of an M x 8 accumulator; halves are packed in pairs."""
    per = 2 if matrix.itemsize == 2 else 1
    count = matrix.shape[0] * 8 // 32 // per
    out = np.zeros((count, 32, per), matrix.dtype)
    for i, j in np.ndindex(matrix.shape):
        register, lane, half = place_c(i, j, per)
        out[register, lane, half] = matrix[i, j]
    return words(out)


def unpack_c(registers: np.ndarray, m: int, kind: Any) -> np.ndarray:
    """The M x 8 matrix of :func:`pack_c`."""
    dtype = np.dtype(kind)
    per = 2 if dtype.itemsize == 2 else 1
    values = registers.view(dtype).reshape(-1, 32, per)
    out = np.zeros((m, 8), dtype)
    for i, j in np.ndindex(m, 8):
        out[i, j] = values[place_c(i, j, per)]
    return out


def place_c(i: int, j: int, per: int) -> tuple[int, int, int]:
    element = (j & 1) + 2 * (i // 8)
    lane = (i % 8) * 4 + j // 2
    return (element // 2, lane, element % 2) if per == 2 else (element, lane, 0)


def words(values: np.ndarray) -> np.ndarray:
    """(registers, 32, elements) as (registers, 32) of 32-bit words (64-bit for float64)."""
    word: Any = np.uint64 if values.dtype.itemsize == 8 else np.uint32
    return np.ascontiguousarray(values).view(word).reshape(values.shape[:2])


def unpack_wgmma(registers: np.ndarray, n: int, kind: Any) -> np.ndarray:
    """64 x n accumulator from (registers, 128 threads)."""
    dtype = np.dtype(kind)
    per = 2 if dtype.itemsize == 2 else 1
    values = registers.view(dtype).reshape(-1, 128, per)
    out = np.zeros((64, n), dtype)
    for i, j in np.ndindex(64, n):
        element = (j // 8) * 4 + (j & 1) + 2 * ((i % 16) // 8)
        thread = (i // 16) * 32 + (i % 8) * 4 + (j % 8) // 2
        out[i, j] = values[element // per, thread, element % per]
    return out


class Operand:
    """One wgmma operand in shared memory: ``image`` (bytes), and the ``lbo`` and ``sbo`` of its descriptor."""

    def __init__(self, matrix: np.ndarray, swizzle: int, mn_major: bool) -> None:
        """``matrix`` is (M or N) x K."""
        self.swizzle, self.lbo, self.sbo = swizzle, 0, 0
        rows, k = matrix.shape
        size, t = matrix.itemsize, 16 // matrix.itemsize
        self.image = np.zeros(65536, np.uint8)
        if mn_major:
            assert size == 2
            width = swizzle // 2 if swizzle else t  # elements along M or N in one atom
            atom = 8 * width * 2
            if swizzle:
                self.sbo, self.lbo = atom, atom * (k // 8)  # next 8 of k; next atom along M or N
                along, deep = self.lbo, self.sbo
            else:
                self.sbo, self.lbo = atom * (k // 8), atom
                along, deep = self.sbo, self.lbo
            for r, c in np.ndindex(rows, k):
                self._put(r // width * along + c // 8 * deep + c % 8 * width * 2 + r % width * 2, matrix[r, c])
            return
        if swizzle:
            self.lbo, self.sbo = 16, 8 * swizzle
            for r, c in np.ndindex(rows, k):
                self._put(r // 8 * self.sbo + r % 8 * swizzle + c * size, matrix[r, c])
        else:
            self.lbo, self.sbo = 128, 128 * (k // t)
            for r, c in np.ndindex(rows, k):
                self._put(r // 8 * self.sbo + c // t * self.lbo + r % 8 * 16 + c % t * size, matrix[r, c])

    def _put(self, address: int, value: Any) -> None:
        chunk = {0: 0, 32: 1, 64: 3, 128: 7}[self.swizzle]
        address ^= ((address >> 7) & chunk) << 4
        data = np.asarray(value).tobytes()
        self.image[address : address + len(data)] = np.frombuffer(data, np.uint8)

    @property
    def descriptor(self) -> np.uint64:
        """Everything but the start address."""
        code = {0: 0, 128: 1, 64: 2, 32: 3}[self.swizzle]
        return np.uint64((self.lbo >> 4) << 16 | (self.sbo >> 4) << 32 | code << 62)


def pack_bits(matrix: np.ndarray, bits: int) -> np.ndarray:
    """(registers, 32) of an M x K operand of 4-bit integers or single bits; pass the transpose for B."""
    rows, k = matrix.shape
    per, halves = 32 // bits, rows // 8
    out = np.zeros((halves * k // (4 * per), 32), np.uint32)
    for r, lane in np.ndindex(out.shape):
        row, column = lane // 4 + 8 * (r % halves), lane % 4 * per + 4 * per * (r // halves)
        fields = matrix[row, column : column + per].astype(np.int64) & (2**bits - 1)
        out[r, lane] = sum(int(v) << bits * n for n, v in enumerate(fields))
    return out
