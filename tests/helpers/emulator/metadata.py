"""Sparse operands of tensor cores: which elements A holds, and the metadata as the PTX ISA's figures show it."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class SparseShape(Protocol):
    """K, A's type and the selector of a sparse product."""

    @property
    def k(self) -> int: ...
    @property
    def a(self) -> str: ...
    @property
    def selector(self) -> int: ...


PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def chosen(rng: np.random.Generator, shape: SparseShape) -> np.ndarray:
    """(16, K / 4, 2): which two of four neighbours A holds; of tf32, which half."""
    pairs = [PAIRS[0], PAIRS[5]] if shape.a == "tf32" else PAIRS
    groups = shape.k // 2 if shape.a == "tf32" else shape.k // 4
    return np.array(pairs)[rng.integers(0, len(pairs), (16, groups))]


def words_of(which: np.ndarray, shape: SparseShape, rng: np.random.Generator) -> np.ndarray:
    """The metadata by lane; lanes that the selector does not name hold anything."""
    rows = [sum(int(v) << 2 * i for i, v in enumerate(row.ravel())) for row in which]
    out, bits = rng.integers(0, 2**32, 32, dtype=np.uint32).astype(object), 2 * which[0].size
    for r, value in enumerate(rows):
        for unit in range(bits // (32 if shape.k >= 32 and shape.a in ("s8", "u8", "e4m3") else 16)):
            if shape.a in ("s8", "u8", "e4m3"):
                out[4 * (r % 8) + 2 * shape.selector + 2 * unit + r // 8] = value >> 32 * unit & 0xFFFFFFFF
                continue
            lane = 4 * (r % 8) + shape.selector * (bits // 16) + unit
            if r < 8:
                out[lane] = 0
            out[lane] |= (value >> 16 * unit & 0xFFFF) << 16 * (r // 8)
    return out.astype(np.uint32)


def dense(compressed: np.ndarray, which: np.ndarray, shape: SparseShape) -> np.ndarray:
    full = np.zeros((len(compressed), shape.k), compressed.dtype)
    for r, g in np.ndindex(which.shape[:2]):
        if shape.a == "tf32":
            full[r, 2 * g + which[r, g, 0] // 2] = compressed[r, g]
        else:
            full[r, 4 * g + which[r, g]] = compressed[r, 2 * g : 2 * g + 2]
    return full
